// What the peer tests share: finding the binary, the servers, and a box per test in which clients live and die.

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  watch,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { ProgressNotificationSchema, ResultSchema } from '@modelcontextprotocol/sdk/types.js';

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = resolve(HERE, '../..');

/** Every wait of a test ends here, far beyond what a healthy one takes. Milliseconds. */
const PATIENCE = 30_000;
/** How much of what the processes write to stderr is shown when a test fails. */
const STDERR_SHOWN = 8_000;

export const HANDLE = /^job_[a-z2-7]{26}$/;
export const OUR_TOOLS = ['poll_result', 'list_jobs', 'control_job', 'read_result', 'answer_job'];

/** The binary under test: `MEANWHILE_BIN`, or what cargo built last. */
export function meanwhile() {
  const named = process.env.MEANWHILE_BIN;
  const builds = ['debug', 'release'].map((profile) => join(ROOT, 'target', profile, 'meanwhile'));
  const found = named ? resolve(named) : builds.find(existsSync);
  if (!found || !existsSync(found)) {
    const where = named ?? builds.join(' or ');
    throw new Error(`no meanwhile binary at ${where}: run \`cargo build\`, or set MEANWHILE_BIN`);
  }
  return found;
}

function published(name, ...args) {
  const script = join(HERE, 'node_modules/@modelcontextprotocol', name, 'dist/index.js');
  if (!existsSync(script)) throw new Error(`${name} is not installed: run tests/peers/install`);
  return [process.execPath, script, ...args];
}

/** The reference server with a bit of everything. It ignores `marks`; they make its process recognisable. */
export const everything = (...marks) => published('server-everything', 'stdio', ...marks);

/** The reference file server, limited to one directory. */
export const filesystem = (directory) => published('server-filesystem', directory);

/**
 * A test body `async (box) => …` as node:test wants it. The box and all that lives in it are gone when the test ends,
 * however it ends; when it fails, what the processes wrote to stderr is part of the failure.
 */
export function boxed(body) {
  return async (t) => {
    const box = new Box();
    t.after(() => box.close());
    try {
      await body(box);
    } catch (error) {
      for (const line of box.stderr.slice(-STDERR_SHOWN).split('\n')) t.diagnostic(`stderr: ${line}`);
      throw error;
    }
  };
}

/** A directory of its own with a state directory and a workspace, and the sessions opened in it. */
class Box {
  stderr = '';
  #sessions = [];

  constructor() {
    // Servers compare real paths, and a temporary directory is a symbolic link on some systems.
    this.dir = realpathSync(mkdtempSync(join(tmpdir(), 'meanwhile-peers-')));
    this.state = join(this.dir, 'state');
    this.workspace = join(this.dir, 'workspace');
    mkdirSync(this.workspace);
  }

  /** A client of the server itself. */
  bare(server, client) {
    return this.#open(server, client);
  }

  /** A client of the server behind `meanwhile wrap OPTIONS…`. */
  wrapped(server, { options = [], ...client } = {}) {
    return this.#open([meanwhile(), 'wrap', ...options, '--', ...server], client);
  }

  /** The server behind a recorder, and the record of what reaches it. */
  recorded(server) {
    const file = join(this.dir, `record-${this.#sessions.length}`);
    writeFileSync(file, '');
    const record = new Record(file);
    return [[process.execPath, join(HERE, 'record.mjs'), file, ...server], record];
  }

  async #open([command, ...args], client = {}) {
    const transport = new StdioClientTransport({
      command,
      args,
      cwd: this.workspace,
      env: { MEANWHILE_STATE_DIR: this.state },
      stderr: 'pipe',
    });
    transport.stderr.setEncoding('utf8').on('data', (text) => (this.stderr += text));
    const session = new Session(client);
    this.#sessions.push(session);
    await session.client.connect(transport, { timeout: PATIENCE });
    return session;
  }

  async close() {
    await Promise.all(this.#sessions.map((session) => session.close()));
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** One client connected to one server. */
class Session {
  /** Every notification of the server, in order. */
  notifications = [];
  #woken = new Set();

  /** `capabilities` as the client declares them; `answers` by method to what the server may ask of it. */
  constructor({ capabilities = {}, answers = [] } = {}) {
    this.client = new Client({ name: 'meanwhile-peer-tests', version: '1.0.0' }, { capabilities });
    this.asked = [];
    for (const [schema, answer] of answers) {
      this.client.setRequestHandler(schema, (request) => {
        this.asked.push({ method: request.method, params: request.params });
        return answer(request);
      });
    }
    const hear = async ({ method, params }) => {
      this.notifications.push({ method, params });
      for (const wake of this.#woken) wake();
    };
    this.client.fallbackNotificationHandler = hear;
    // The SDK's own handler (`onprogress`) drops a report that comes in one piece with the answer.
    this.client.setNotificationHandler(ProgressNotificationSchema, hear);
  }

  /** Any request, and its result with every field in it: the schemas of the SDK's own methods drop unknown ones. */
  request(method, params, options) {
    return this.client.request({ method, params }, ResultSchema, options);
  }

  call(name, args = {}, options) {
    return this.request('tools/call', { name, arguments: args }, options);
  }

  /** Calls a tool that is expected to answer with a handle, and returns the handle. */
  async start(name, args, options) {
    const answer = await this.call(name, args, options);
    const handle = answer.structuredContent?.handle;
    if (!HANDLE.test(handle)) throw new Error(`${name} gave no handle: ${JSON.stringify(answer).slice(0, 500)}`);
    return handle;
  }

  /** Polls until the job has ended, and returns the last answer; `seen` gets those before it. */
  async collect(handle, { wait_ms = 2500, timeout = PATIENCE, seen = () => {} } = {}) {
    for (const end = Date.now() + PATIENCE; Date.now() < end; ) {
      const answer = await this.call('poll_result', { handle, wait_ms }, { timeout });
      if (!isPending(answer, handle)) return answer;
      seen(answer);
    }
    throw new Error(`${handle} did not end within ${PATIENCE} ms`);
  }

  /** The first notification, past or to come, that `wanted` accepts. */
  notified(wanted) {
    return awaited(
      () => this.notifications.find(wanted),
      (wake) => {
        this.#woken.add(wake);
        return () => this.#woken.delete(wake);
      },
      `no such notification among ${JSON.stringify(this.notifications)}`,
    );
  }

  close() {
    return this.client.close();
  }
}

/** What a recorder has kept. */
class Record {
  #file;

  constructor(file) {
    this.#file = file;
  }

  messages() {
    const lines = readFileSync(this.#file, 'utf8').split('\n');
    // The last piece is empty, or a line that is still being written.
    return lines.slice(0, -1).map((line) => JSON.parse(line));
  }

  /** The first message, past or to come, that `wanted` accepts. */
  reached(wanted) {
    return awaited(
      () => this.messages().find(wanted),
      (wake) => {
        const watcher = watch(this.#file, wake);
        return () => watcher.close();
      },
      'no such message reached the server',
    );
  }

  /** The first call of that tool. */
  called(tool) {
    return this.reached((message) => message.method === 'tools/call' && message.params.name === tool);
  }

  /** The cancellation of the request of that id. */
  cancelled(id) {
    return this.reached(
      (message) => message.method === 'notifications/cancelled' && message.params.requestId === id,
    );
  }
}

/** What `look` finds, looked for again whenever the source that `listen` listens to wakes us. */
function awaited(look, listen, complaint) {
  return new Promise((fulfil, reject) => {
    const tried = () => {
      try {
        const found = look();
        if (found !== undefined) settle(fulfil, found);
      } catch (error) {
        settle(reject, error);
      }
    };
    const settle = (how, what) => {
      clearTimeout(patience);
      unlisten();
      how(what);
    };
    const patience = setTimeout(() => {
      unlisten();
      reject(new Error(complaint));
    }, PATIENCE);
    const unlisten = listen(tried);
    // After listening, so that nothing falls in between.
    tried();
  });
}

/** Whether the answer of a poll says that the job goes on. A result of a tool has no handle of ours in it. */
export function isPending(answer, handle) {
  const { handle: named, status } = answer.structuredContent ?? {};
  return named === handle && ['working', 'input_required'].includes(status);
}

/** The servers (not the wrappers) whose command line carries the mark. Linux only. */
export function processesMarked(mark) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      const command = commandLine(pid);
      return command[0] === process.execPath && command.includes(mark);
    });
}

/** Kills a process for good, and waits until its parent has seen it go. */
export async function killed(pid) {
  process.kill(pid, 'SIGKILL');
  // The exit of a process that is not our child cannot be awaited from Node, only looked for.
  for (const end = Date.now() + PATIENCE; Date.now() < end; await sleep(10)) {
    if (commandLine(pid).length === 0) return;
  }
  throw new Error(`process ${pid} outlived SIGKILL`);
}

/** Empty for a process that is gone, and for one that is dead but not yet reaped. */
function commandLine(pid) {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').filter(Boolean);
  } catch {
    return [];
  }
}
