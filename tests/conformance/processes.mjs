// The processes that the suite talks to: each on a free port of the loopback, started here and ended by its id.

import { spawn } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = resolve(HERE, '../..');

/** How long a process may take to listen, and to end, in milliseconds. */
const PATIENCE = 20_000;

/** The binary under test. */
export function meanwhile() {
  return binary('MEANWHILE_BIN', 'meanwhile', 'cargo build');
}

function fixtureBinary() {
  return binary('FIXTURE_BIN', 'examples/conformance-upstream', 'cargo build --examples');
}

function binary(variable, name, mend) {
  const target = resolve(ROOT, process.env.CARGO_TARGET_DIR ?? 'target');
  const found = resolve(process.env[variable] ?? join(target, 'debug', name));
  if (!existsSync(found)) throw new Error(`${found} is not there: run \`${mend}\`, or set ${variable}`);
  return found;
}

/**
 * How the gateway is to treat the tools that the suite takes for tasks: at once, or as soon as they have asked what they ask first.
 * What the fixture makes of them itself is another matter.
 */
const TOOLS = {
  failing_job: 'task',
  protocol_error_job: 'task',
  confirm_delete: 'task',
  multi_input: 'task',
  test_tool_with_task: 'inline-budget=50ms',
};

/** The fixture over HTTP. */
export function fixture(tasks, verbose) {
  return listening([fixtureBinary(), '--transport', 'http', '--port', '0', '--tasks', tasks], { verbose });
}

/** The gateway with the fixture behind it: at `url` if there is one, else as a process of the gateway's own. */
export async function gateway({ tasks, url, dir, verbose }) {
  const upstream = url
    ? { type: 'http', url }
    : { command: fixtureBinary(), args: ['--transport', 'stdio', '--tasks', tasks] };
  const config = join(dir, 'config.json');
  writeFileSync(config, JSON.stringify({ mcpServers: { fixture: { ...upstream, tools: TOOLS } } }));
  const env = { MEANWHILE_STATE_DIR: join(dir, 'state') };
  const command = [meanwhile(), 'serve', '--config', config, '--listen', '127.0.0.1:0'];
  const server = await listening(command, { env, verbose });
  return { ...server, url: new URL('/mcp/fixture', server.url).href };
}

/** Starts a server, and waits until it says on stderr where it listens. */
export function listening([command, ...args], { env = {}, verbose = false } = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, ...env } });
  const exited = new Promise((over) => child.once('exit', over));
  let said = '';
  return new Promise((fulfil, reject) => {
    const patience = setTimeout(() => fail('did not listen in time'), PATIENCE);
    const fail = (why) => {
      clearTimeout(patience);
      child.kill('SIGKILL');
      reject(new Error(`${command} ${args.join(' ')}: ${why}\n${said}`));
    };
    child.once('error', (error) => fail(error.message));
    child.once('exit', () => fail('ended at once'));
    child.stderr.setEncoding('utf8').on('data', (text) => {
      if (verbose) process.stderr.write(text);
      said += text;
      // A line may come in pieces.
      const url = /listening on (http:\S+)\s/.exec(said)?.[1];
      if (!url) return;
      // From here on only `verbose` is interested.
      said = '';
      clearTimeout(patience);
      fulfil({ url, end: (signal) => end(child, exited, signal) });
    });
  });
}

async function end(child, exited, signal = 'SIGTERM') {
  child.kill(signal);
  const patience = setTimeout(() => child.kill('SIGKILL'), PATIENCE);
  await exited;
  clearTimeout(patience);
}
