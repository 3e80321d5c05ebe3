// Runs the official conformance suite: against the fixture itself, through the gateway in front of it, or with the
// gateway as the client. What passes bare has to pass wrapped, check by check.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { scenarios } from './clients.mjs';
import { differences, expected, failures, table, totals } from './compare.mjs';
import { fixture, gateway, HERE } from './processes.mjs';
import { clientSuite, serverSuite } from './suite.mjs';

const USAGE = `Usage: tests/conformance/run MODE [OPTIONS]

  --bare      the fixture alone: every check has to pass
  --wrapped   the fixture behind \`meanwhile serve\`: every check that passes bare has to pass
  --client    \`meanwhile wrap --url\` as the client of the suite's own servers

Options:
  --tasks none|extension      how the fixture does slow tools [default: extension]
  --upstream stdio|http       how the gateway reaches the fixture [default: stdio]
  --against none|extension    the --tasks of the bare fixture that is compared with [default: extension]
  --requirements REVISION     2025-11-25 or 2026-07-28; may be given twice [default: both]
  --scenario NAME             only this one; may be given several times
  --login                     with --client: the auth/* scenarios, too
  --verbose                   what the processes write to stderr

A check that is known to fail is in expected.json, with the reason. Results are left in results/*.json.
The binaries are those in target/debug (or CARGO_TARGET_DIR); MEANWHILE_BIN and FIXTURE_BIN name others.`;

const REQUIREMENTS = ['2025-11-25', '2026-07-28'];

const { values: options } = parseArgs({
  options: {
    bare: { type: 'boolean' },
    wrapped: { type: 'boolean' },
    client: { type: 'boolean' },
    tasks: { type: 'string', default: 'extension' },
    upstream: { type: 'string', default: 'stdio' },
    against: { type: 'string', default: 'extension' },
    requirements: { type: 'string', multiple: true, default: REQUIREMENTS },
    scenario: { type: 'string', multiple: true },
    login: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
    help: { type: 'boolean' },
  },
});

const modes = ['bare', 'wrapped', 'client'].filter((mode) => options[mode]);
if (options.help || modes.length !== 1) {
  console.error(USAGE);
  process.exit(options.help ? 0 : 2);
}

const dir = mkdtempSync(join(tmpdir(), 'meanwhile-conformance-'));
try {
  process.exitCode = (await { bare, wrapped, client }[modes[0]]()) ? 0 : 1;
} finally {
  rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
}

async function bare() {
  const results = await ofFixture(options.tasks);
  keep(`bare-${options.tasks}`, results);
  // A server without tasks is not measured by what is said of them.
  const concerns = ({ scenario }) => options.tasks !== 'none' || !scenario.startsWith('tasks-');
  return judge(`bare-${options.tasks}`, results, failures(results, concerns));
}

async function wrapped() {
  const name = `wrapped-${options.upstream}-${options.tasks}`;
  const baseline = await ofFixture(options.against);
  const results = await ofGateway();
  keep(name, results);
  return judge(name, results, differences(baseline, results));
}

async function client() {
  const results = {};
  for (const requirements of options.requirements) {
    const names = scenarios(requirements, options.login).filter(isWanted);
    results[requirements] = await clientSuite(names, requirements, dir, options.verbose);
  }
  keep('client', results);
  return judge('client', results, failures(results));
}

async function ofFixture(tasks) {
  const server = await fixture(tasks, options.verbose);
  try {
    return await ofServer(server.url);
  } finally {
    await server.end();
  }
}

async function ofGateway() {
  const upstream = options.upstream === 'http' ? await fixture(options.tasks, options.verbose) : undefined;
  try {
    const server = await gateway({ tasks: options.tasks, url: upstream?.url, dir, verbose: options.verbose });
    try {
      return await ofServer(server.url);
    } finally {
      await server.end();
    }
  } finally {
    await upstream?.end();
  }
}

async function ofServer(url) {
  const results = {};
  for (const requirements of options.requirements) {
    results[requirements] = await serverSuite(url, requirements, dir, options.scenario);
  }
  return results;
}

function isWanted(scenario) {
  return !options.scenario || options.scenario.includes(scenario);
}

function keep(name, results) {
  const folder = join(HERE, 'results');
  mkdirSync(folder, { recursive: true });
  // One line for each check.
  const text = JSON.stringify(results, null, 1).replace(/\{\s*("status":[^{}]*?)\s*\}/g, (_, check) => `{ ${check.replace(/\n\s*/g, ' ')} }`);
  writeFileSync(join(folder, `${name}.json`), `${text}\n`);
}

/** Prints what is wrong, and says whether nothing is that was not expected. */
function judge(name, results, wrong) {
  const { surprises, known, stale } = expected(name, wrong, results);
  for (const [requirements, total] of Object.entries(totals(results))) {
    console.log(`${name}: ${requirements}: ${total.passed} of ${total.checks} checks of ${total.scenarios} scenarios pass`);
  }
  if (known.length > 0) console.log(`\nExpected:\n${table(known)}`);
  if (stale.length > 0) console.log(`\nExpected to fail, but they pass; take them out of expected.json:\n${table(stale)}`);
  if (surprises.length > 0) console.log(`\nWrong:\n${table(surprises)}`);
  return surprises.length + stale.length === 0;
}
