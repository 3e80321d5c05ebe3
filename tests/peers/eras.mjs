// What the tests of both eras and of native tasks share: servers over HTTP, and clients that know tasks.
//
// A test takes its seat either at the server itself or behind the gateway, and expects the same.

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { Client as LegacyClient } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  CallToolResultSchema,
  ElicitRequestSchema,
  ResultSchema,
  TaskStatusNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';

import { listening } from '../conformance/processes.mjs';
import { everything, meanwhile } from './harness.mjs';
import { Lines } from './lines.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = resolve(HERE, '../..');
const INFO = { name: 'meanwhile-peer-tests', version: '1.0.0' };
/** Milliseconds: a server in Python may take long to start where much else runs. */
const PATIENCE = 60_000;

export const TASKS = 'io.modelcontextprotocol/tasks';
export const SUBSCRIPTION = 'io.modelcontextprotocol/subscriptionId';
export const SEATS = ['bare', 'served'];

const [major, minor] = process.versions.node.split('.').map(Number);
/** Why the tests of the newest peers are skipped, or false. */
export const tooOld =
  (major < 22 || (major === 22 && minor < 19)) &&
  'needs Node.js 22.19: tests/peers/run finds one that tests/conformance/install has brought';

/** One of our own upstreams, as a command over stdio. */
export function fixture(name, ...args) {
  const target = resolve(ROOT, process.env.CARGO_TARGET_DIR ?? 'target');
  const binary = join(target, 'debug/examples', name);
  if (!existsSync(binary)) throw new Error(`${binary} is not there: run \`cargo build --examples\``);
  return [binary, ...args];
}

export const conformanceUpstream = (tasks) => fixture('conformance-upstream', '--tasks', tasks);
export const legacyTasksUpstream = () => fixture('legacy-tasks-upstream');

/** A modern server with tasks, of another house. */
export function fastmcp() {
  const python = join(HERE, 'python/.venv/bin/python');
  if (!existsSync(python)) throw new Error('fastmcp is not installed: run tests/peers/python/install');
  return [python, join(HERE, 'python/tasks_server.py')];
}

/** Everything that a test starts, and that ends with it. */
export class Stage {
  #ends = [];

  constructor(t) {
    this.dir = mkdtempSync(join(tmpdir(), 'meanwhile-peers-'));
    t.after(async () => {
      for (const end of this.#ends.reverse()) await end();
      rmSync(this.dir, { recursive: true, force: true, maxRetries: 5 });
    });
  }

  ends(end) {
    this.#ends.push(end);
  }

  /** The URL of a server, from this seat: its own, or that of the gateway with the server as its process. */
  async url(seat, command) {
    if (seat === 'served') return this.served({ command: command[0], args: command.slice(1) });
    if (command === EVERYTHING) return this.#everything();
    const server = await listening([...command, '--transport', 'http', '--port', '0']);
    this.ends(server.end);
    return server.url;
  }

  /** The endpoint of `meanwhile serve` for one upstream, in the form that clients' configurations have. */
  async served(upstream, ...options) {
    const { url } = await this.mortal(upstream, ...options);
    return url;
  }

  /** The same, and how it is killed and started again in the same place. */
  async mortal(upstream, ...options) {
    const config = join(this.dir, `config-${this.#ends.length}.json`);
    writeFileSync(config, JSON.stringify({ mcpServers: { upstream } }));
    const start = (where) => {
      const command = [meanwhile(), 'serve', '--config', config, '--listen', where, ...options];
      return listening(command, { env: this.#env() });
    };
    let server = await start('127.0.0.1:0');
    this.ends(() => server.end());
    const restart = async () => {
      await server.end('SIGKILL');
      server = await start(new URL(server.url).host);
    };
    return { url: new URL('/mcp/upstream', server.url).href, restart };
  }

  /** Where the gateway is for a client that reaches it over `transport`: a URL, or the command to start. */
  async behind(transport, upstream) {
    if (transport === 'HTTP') return this.served(upstream);
    const server = upstream.url ? ['--url', upstream.url] : ['--', upstream.command, ...upstream.args];
    return [meanwhile(), 'wrap', '--no-linger', ...server];
  }

  /** A modern client without an SDK, which would not know what tasks answer. */
  raw(where) {
    if (!Array.isArray(where)) {
      const gone = new AbortController();
      this.ends(() => gone.abort());
      return {
        dispatch: (request, options) => dispatch(where, request, options),
        listen: (notifications) => listen(where, notifications, gone.signal),
      };
    }
    const lines = new Lines(where, this.#env());
    this.ends(() => lines.end());
    return {
      dispatch: (request) => lines.dispatch(request),
      listen: (notifications) => lines.listen(notifications, meta()),
    };
  }

  /** The command of a server, from this seat. */
  command(seat, command) {
    return seat === 'served' ? [meanwhile(), 'wrap', '--no-linger', '--', ...command] : command;
  }

  async #everything() {
    const port = await freePort();
    const [node, script] = everything();
    const child = spawn(node, [script, 'streamableHttp'], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, PORT: String(port) },
    });
    const exited = new Promise((over) => child.once('exit', over));
    this.ends(async () => {
      child.kill('SIGKILL');
      await exited;
    });
    await new Promise((ready) => {
      let said = '';
      child.stderr.setEncoding('utf8').on('data', (text) => {
        said += text;
        if (said.includes('listening on port')) ready();
      });
    });
    return `http://127.0.0.1:${port}/mcp`;
  }

  /** The official SDK of the legacy era. `answer` is what its user says to every question; `fetch` sends its requests. */
  async legacy(where, { answer, fetch } = {}) {
    const client = new LegacyClient(INFO, { capabilities: answer ? { elicitation: { form: {} } } : {} });
    const seen = { asked: [], statuses: [] };
    if (answer) {
      client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
        seen.asked.push(params);
        return answer;
      });
    }
    client.setNotificationHandler(TaskStatusNotificationSchema, ({ params }) => seen.statuses.push(params));
    const transport = Array.isArray(where)
      ? new StdioClientTransport({ command: where[0], args: where.slice(1), env: this.#env(), stderr: 'ignore' })
      : new StreamableHTTPClientTransport(new URL(where), { fetch });
    await client.connect(transport, { timeout: PATIENCE });
    this.ends(() => client.close());
    const request = (method, params, options) => client.request({ method, params }, ResultSchema, options);
    return Object.assign(client, { seen, ask: request });
  }

  /** The official client of both eras, and the task session of `ext-tasks` on it. */
  async modern(where, { mode = 'auto', onInputRequest } = {}) {
    const { Client, StreamableHTTPClientTransport } = await import('@modelcontextprotocol/client');
    const { StdioClientTransport } = await import('@modelcontextprotocol/client/stdio');
    const capabilities = { elicitation: {}, extensions: { [TASKS]: {} } };
    const client = new Client(INFO, { capabilities, versionNegotiation: { mode } });
    const transport = Array.isArray(where)
      ? new StdioClientTransport({ command: where[0], args: where.slice(1), env: this.#env(), stderr: 'ignore' })
      : new StreamableHTTPClientTransport(new URL(where));
    await client.connect(transport);
    this.ends(() => client.close());
    return { client, tasks: () => this.#taskSession(client, where, capabilities, onInputRequest) };
  }

  async #taskSession(client, where, clientCapabilities, onInputRequest) {
    const { createTaskSessionFromClient } = await import('@modelcontextprotocol/ext-tasks/client');
    const session = createTaskSessionFromClient(client, {
      endpointId: 'peer-tests',
      rawDispatch: this.raw(where).dispatch,
      v2RequestFraming: { protocolVersion: '2026-07-28', clientInfo: INFO, clientCapabilities },
      ...(onInputRequest && { onInputRequest }),
    });
    this.ends(() => session.close());
    return session;
  }

  /** What the Inspector's command line prints for a method, parsed. */
  async inspect(target, ...args) {
    const launcher = join(HERE, 'node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js');
    const where = Array.isArray(target) ? target : ['--server-url', target, '--transport', 'http'];
    const command = [launcher, '--cli', ...where, ...args, '--format', 'json'];
    // A home of its own, for it keeps a catalogue there.
    const env = { ...process.env, ...this.#env(), HOME: this.dir };
    const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'], env });
    let [out, err] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text) => (out += text));
    child.stderr.setEncoding('utf8').on('data', (text) => (err += text));
    const code = await new Promise((over) => child.once('close', over));
    // A tool that reports a failure has an exit code of its own.
    if (!out.trim()) throw new Error(`the Inspector exited with ${code}: ${err}`);
    return JSON.parse(out);
  }

  #env() {
    return { MEANWHILE_STATE_DIR: join(this.dir, 'state') };
  }
}

/** Stands for server-everything, whose transport is no option but an argument. */
export const EVERYTHING = everything();

/** The text of a tool's answer. */
export const said = (result) => result.content?.map(({ text }) => text).join('\n');

/** A call as the SDK drives a task, and everything that came of it. */
export async function streamed(client, name, args, { ttl = 60_000, ...more } = {}) {
  const stream = client.experimental.tasks.callToolStream({ name, arguments: args }, CallToolResultSchema, {
    task: { ttl },
    ...more,
  });
  const messages = [];
  for await (const message of stream) messages.push(message);
  const { task } = messages.find(({ type }) => type === 'taskCreated') ?? {};
  const last = messages.at(-1);
  return { taskId: task?.taskId, messages, result: last.result, error: last.error };
}

let lastId = 1_000_000;

/** A modern request over HTTP, without an SDK, which would not know what tasks answer. */
async function dispatch(url, request, { signal, context } = {}) {
  const response = await post(url, { jsonrpc: '2.0', id: (lastId += 1), ...request }, { signal, headers: context?.headers });
  const text = await response.text();
  const message = text.startsWith('{') ? JSON.parse(text) : [...events(text)].at(-1);
  return message.error ? { kind: 'error', error: message.error } : { kind: 'result', result: message.result };
}

function post(url, message, { signal, headers = {} } = {}) {
  const all = new Headers({
    'Content-Type': 'application/json',
    Accept: 'application/json, text/event-stream',
    'MCP-Protocol-Version': '2026-07-28',
    'Mcp-Method': message.method,
  });
  const name = message.params?.taskId ?? message.params?.name ?? message.params?.uri;
  if (name !== undefined) all.set('Mcp-Name', name);
  for (const [key, value] of Object.entries(headers)) all.set(key, value);
  return fetch(url, { method: 'POST', headers: all, body: JSON.stringify(message), signal });
}

/** The `_meta` of a modern request of a client that knows tasks. */
export function meta() {
  return {
    'io.modelcontextprotocol/protocolVersion': '2026-07-28',
    'io.modelcontextprotocol/clientInfo': INFO,
    'io.modelcontextprotocol/clientCapabilities': { extensions: { [TASKS]: {} } },
  };
}

function* events(text) {
  for (const line of text.split('\n')) {
    if (line.startsWith('data: {')) yield JSON.parse(line.slice('data: '.length));
  }
}

/** What comes on the stream of a `subscriptions/listen`, one message after the other. */
async function* listen(url, notifications, signal) {
  const message = { jsonrpc: '2.0', id: (lastId += 1), method: 'subscriptions/listen', params: { notifications, _meta: meta() } };
  const response = await post(url, message, { signal });
  let rest = '';
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    yield* events(lines.join('\n'));
  }
}

async function freePort() {
  const server = createServer();
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  const { port } = server.address();
  await new Promise((over) => server.close(over));
  return port;
}
