// What is wrong with results: alone, or compared with those of the bare fixture.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { HERE } from './processes.mjs';

/** Columns of a table that are cut. */
const MESSAGE_SHOWN = 110;

/** Every check, with where it belongs. */
function* each(results) {
  for (const [requirements, scenarios] of Object.entries(results)) {
    for (const [scenario, checks] of Object.entries(scenarios)) {
      for (const [check, found] of Object.entries(checks)) yield { requirements, scenario, check, ...found };
    }
  }
}

/** Checks that did not pass. One that was skipped is no failure. `concerns` may leave some out. */
export function failures(results, concerns = () => true) {
  return [...each(results)]
    .filter(({ status }) => status === 'FAILURE' || status === 'WARNING')
    .filter(concerns)
    .map((found) => ({ ...found, bare: '' }));
}

/** Checks that pass bare and do not pass wrapped, and failures that the bare fixture does not even have. */
export function differences(bare, wrapped) {
  const lost = [...each(bare)]
    .filter(({ status }) => status === 'SUCCESS')
    .map((passed) => {
      const { requirements, scenario, check } = passed;
      const found = wrapped[requirements]?.[scenario]?.[check] ?? { status: 'absent' };
      return { requirements, scenario, check, ...found, bare: passed.status };
    })
    .filter(({ status }) => status !== 'SUCCESS');
  const added = failures(wrapped).filter(
    ({ requirements, scenario, check }) => bare[requirements]?.[scenario]?.[check] === undefined,
  );
  return [...lost, ...added.map((found) => ({ ...found, bare: 'absent' }))];
}

/** Tells what is known to be wrong, with its reason, from what is not; and what is known, but no longer wrong. */
export function expected(name, wrong, results) {
  const list = JSON.parse(readFileSync(join(HERE, 'expected.json'), 'utf8')).filter((entry) => entry.run === name);
  const same = (one, other) => ['requirements', 'scenario', 'check'].every((key) => one[key] === other[key]);
  const ran = list.filter(({ requirements, scenario }) => results[requirements]?.[scenario] !== undefined);
  const reasoned = (found) => ({ ...found, message: list.find((entry) => same(entry, found)).reason });
  return {
    surprises: wrong.filter((found) => !list.some((entry) => same(entry, found))),
    known: wrong.filter((found) => list.some((entry) => same(entry, found))).map(reasoned),
    stale: ran
      .filter((entry) => !wrong.some((found) => same(entry, found)))
      .map((entry) => ({ ...entry, bare: '', status: 'passes', message: entry.reason })),
  };
}

export function totals(results) {
  const sums = {};
  for (const [requirements, scenarios] of Object.entries(results)) {
    const checks = Object.values(scenarios).flatMap((found) => Object.values(found));
    const times = (found) => found.reduce((sum, { times }) => sum + times, 0);
    sums[requirements] = {
      scenarios: Object.keys(scenarios).length,
      checks: times(checks),
      passed: times(checks.filter(({ status }) => status === 'SUCCESS')),
    };
  }
  return sums;
}

export function table(rows) {
  const cells = rows.map(({ requirements, scenario, check, bare, status, message = '' }) => [
    requirements,
    scenario,
    check,
    bare ? `${bare} → ${status}` : status,
    message.replace(/\s+/g, ' ').slice(0, MESSAGE_SHOWN),
  ]);
  const widths = cells[0].map((_, column) => Math.max(...cells.map((row) => row[column].length)));
  return cells.map((row) => `  ${row.map((cell, column) => cell.padEnd(widths[column])).join('  ').trimEnd()}`).join('\n');
}
