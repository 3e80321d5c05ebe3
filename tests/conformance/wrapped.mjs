// A client of `meanwhile wrap --url URL`, over stdio, in either era; as small as can be.

import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const CLIENT = { name: 'conformance-client', version: '1.0.0' };
const CAPABILITIES = { elicitation: {}, sampling: {}, roots: {} };
const MODERN = '2026-07-28';
const LEGACY = '2025-11-25';

/** The document that the suite takes for the client's own, where an authorization server takes one. */
const CLIENT_DOCUMENT = 'https://conformance-test.local/client-metadata.json';

/** The gateway's own tools, which no scenario knows. */
const OUR_TOOLS = ['poll_result', 'list_jobs', 'control_job', 'read_result', 'answer_job'];

/** The tools of the server behind the gateway. */
export function ours(tools) {
  return tools.filter(({ name }) => !OUR_TOOLS.includes(name));
}

export class Wrapped {
  static children = new Set();
  #child;
  #logIn;
  #modern;
  #exited;
  #waiting = new Map();
  #lastId = 0;

  /** A session with the gateway; in the legacy era it is initialized. */
  static async start(url, modern, logIn) {
    const client = new Wrapped([process.env.MEANWHILE_BIN, 'wrap', '--no-linger', '--url', url], modern, logIn);
    if (modern) {
      await client.request('server/discover');
    } else {
      await client.request('initialize', { protocolVersion: LEGACY, capabilities: CAPABILITIES, clientInfo: CLIENT });
      client.#send({ jsonrpc: '2.0', method: 'notifications/initialized' });
    }
    return client;
  }

  /**
   * As `start`, once the gateway has a token; and when it says that another login is needed, there is one, once. `context` may
   * name a client that is registered.
   */
  static async afterLogin(url, modern, context) {
    await logIn(url, context);
    return Wrapped.start(url, modern, () => logIn(url, context));
  }

  constructor([command, ...args], modern, logIn) {
    this.#modern = modern;
    this.#logIn = logIn;
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    Wrapped.children.add(this.#child);
    this.#exited = new Promise((over) => this.#child.once('exit', over));
    this.#child.stdin.on('error', () => {});
    createInterface({ input: this.#child.stdout })
      .on('line', (line) => this.#receive(JSON.parse(line)))
      .on('close', () => {
        for (const { reject } of this.#waiting.values()) reject(new Error('the gateway is gone'));
      });
  }

  static killAll() {
    for (const child of Wrapped.children) child.kill('SIGKILL');
  }

  async tools() {
    return (await this.request('tools/list')).tools;
  }

  /** Calls a tool until it has answered, be it by its handle. An error of the server is none of ours. */
  async call(name, args) {
    let answer = await this.attempt('tools/call', { name, arguments: args });
    for (;;) {
      const { handle, status } = answer?.structuredContent ?? {};
      if (handle === undefined || !['working', 'input_required'].includes(status)) return answer;
      answer = await this.attempt('tools/call', { name: 'poll_result', arguments: { handle, wait_ms: 5000 } });
    }
  }

  /** A request that may be answered with an error. */
  attempt(method, params) {
    return this.request(method, params).catch((error) => {
      console.error(`${method}: ${error.message}`);
      return undefined;
    });
  }

  async request(method, params = {}) {
    try {
      return await this.#ask(method, params);
    } catch (error) {
      const logIn = this.#logIn;
      if (!logIn || !error.message.includes('run: meanwhile login')) throw error;
      this.#logIn = undefined;
      await logIn();
      return this.request(method, params);
    }
  }

  #ask(method, params) {
    const id = ++this.#lastId;
    const meta = {
      'io.modelcontextprotocol/protocolVersion': MODERN,
      'io.modelcontextprotocol/clientInfo': CLIENT,
      'io.modelcontextprotocol/clientCapabilities': CAPABILITIES,
    };
    this.#send({ jsonrpc: '2.0', id, method, params: this.#modern ? { ...params, _meta: meta } : params });
    return new Promise((fulfil, reject) => this.#waiting.set(id, { fulfil, reject }));
  }

  async end() {
    this.#child.stdin.end();
    await this.#exited;
  }

  #send(message) {
    this.#child.stdin.write(`${JSON.stringify(message)}\n`);
  }

  #receive(message) {
    if (message.method !== undefined) {
      if (message.id !== undefined) this.#send({ jsonrpc: '2.0', id: message.id, ...answer(message) });
      return;
    }
    const waiting = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    if (message.error) waiting?.reject(new Error(`${message.error.code} ${message.error.message}`));
    else waiting?.fulfil(message.result);
  }
}

/** Runs `meanwhile login`; whatever page it sends the user to is opened here. */
async function logIn(url, { client_id: id, client_secret: secret }) {
  const args = ['login', '--url', url, '--no-browser', '--client-metadata-url', CLIENT_DOCUMENT];
  if (id) args.push('--client-id', id);
  if (secret) args.push('--client-secret-file', secretFile(secret));
  const login = spawn(process.env.MEANWHILE_BIN, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  Wrapped.children.add(login);
  for (const stream of [login.stdout, login.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      process.stderr.write(`${line}\n`);
      const page = /https?:\S+[?&]response_type=\S+/.exec(line)?.[0];
      // The authorization server answers with a redirection to the gateway, which is followed.
      if (page) fetch(page).catch((error) => console.error(error.message));
    });
  }
  await new Promise((over) => login.once('exit', over));
}

function secretFile(secret) {
  mkdirSync(process.env.MEANWHILE_STATE_DIR, { recursive: true });
  const file = join(process.env.MEANWHILE_STATE_DIR, 'client-secret');
  writeFileSync(file, secret, { mode: 0o600 });
  return file;
}

/** What a user who takes every default would say. */
function answer({ method, params }) {
  switch (method) {
    case 'elicitation/create': {
      const fields = Object.entries(params.requestedSchema?.properties ?? {});
      const content = Object.fromEntries(fields.map(([name, field]) => [name, field.default ?? 'x']));
      return { result: { action: 'accept', content } };
    }
    case 'sampling/createMessage':
      return { result: { role: 'assistant', model: 'none', content: { type: 'text', text: 'An answer.' } } };
    case 'roots/list':
      return { result: { roots: [] } };
    case 'ping':
      return { result: {} };
    default:
      return { error: { code: -32601, message: 'Method not found' } };
  }
}
