// The suite itself, run as a process, and what it found: by revision, scenario and check the worst status that it gave.

import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { HERE, meanwhile } from './processes.mjs';

const SUITE = join(HERE, 'node_modules/@modelcontextprotocol/conformance/dist/index.js');

/** From the best to the worst. INFO is only told, not judged. */
const STATUSES = ['SUCCESS', 'SKIPPED', 'WARNING', 'FAILURE'];

/** How much of a message of the suite is kept. */
const MESSAGE_KEPT = 300;

/** What a revision requires of a server, and its extensions; or only those of these scenarios. */
export async function serverSuite(url, requirements, dir, scenarios) {
  const out = mkdtempSync(join(dir, 'server-'));
  const whole = scenarios === undefined;
  let said = '';
  for (const scenario of scenarios ?? [undefined]) {
    const which = whole ? ['--requirements', requirements] : ['--scenario', scenario, '--spec-version', requirements];
    said += await suite(['server', '--url', url, ...which, '-o', out]);
  }
  const results = collected(out, 'server-');
  if (whole && Object.keys(results).length === 0) throw new Error(`the suite found nothing:\n${said}`);
  return results;
}

/** The scenarios that test a client, one after the other, with the gateway as the client. */
export async function clientSuite(scenarios, requirements, dir, verbose) {
  const results = {};
  const command = `${process.execPath} ${join(HERE, 'client.mjs')}`;
  for (const scenario of scenarios) {
    const out = mkdtempSync(join(dir, 'client-'));
    const env = { MEANWHILE_BIN: meanwhile(), MEANWHILE_STATE_DIR: join(out, 'state') };
    const args = ['client', '--command', command, '--scenario', scenario, '--spec-version', requirements, '-o', out];
    const said = await suite(args, env);
    if (verbose) process.stderr.write(said);
    // The folder is named by the scenario, which may have a slash in it.
    Object.assign(results, { [scenario]: Object.values(collected(out, ''))[0] ?? { 'no-results': failure(said) } });
  }
  return results;
}

function failure(message) {
  return { status: 'FAILURE', times: 1, message: message.slice(-MESSAGE_KEPT) };
}

/** Runs the suite to its end. Whether anything failed is in what it writes, so its exit code is not asked for. */
function suite(args, env = {}) {
  const child = spawn(process.execPath, [SUITE, ...args], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => (said += text));
  }
  return new Promise((fulfil, reject) => {
    child.once('error', reject);
    child.once('close', () => fulfil(said));
  });
}

/** Everything below the folder: one file of checks for each scenario, in a folder named by it and the time. */
function collected(folder, prefix) {
  const results = {};
  for (const entry of readdirSync(folder, { recursive: true })) {
    const named = /^(.*)-\d{4}-\d\d-\d\dT[\d-]+Z\/checks\.json$/.exec(entry);
    if (!named) continue;
    const scenario = named[1].startsWith(prefix) ? named[1].slice(prefix.length) : named[1];
    results[scenario] = worst(JSON.parse(readFileSync(join(folder, entry), 'utf8')));
  }
  return results;
}

/** A check may be made several times in a scenario. */
function worst(checks) {
  const found = {};
  for (const { id, status, errorMessage } of checks) {
    if (!STATUSES.includes(status)) continue;
    const before = found[id];
    if (before && STATUSES.indexOf(before.status) >= STATUSES.indexOf(status)) {
      before.times += 1;
      continue;
    }
    const message = errorMessage === undefined ? {} : { message: errorMessage.slice(0, MESSAGE_KEPT) };
    found[id] = { status, times: (before?.times ?? 0) + 1, ...message };
  }
  return found;
}
