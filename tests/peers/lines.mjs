// A modern client over stdio, as small as can be: for what no SDK says or hears, such as the changes of a task.

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

const SUBSCRIPTION = 'io.modelcontextprotocol/subscriptionId';

export class Lines {
  #child;
  #exited;
  #lastId = 0;
  /** What takes the messages that belong to a request, by its id. */
  #hearing = new Map();

  constructor([command, ...args], env) {
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'ignore'], env: { ...process.env, ...env } });
    this.#exited = new Promise((over) => this.#child.once('exit', over));
    createInterface({ input: this.#child.stdout }).on('line', (line) => {
      const message = JSON.parse(line);
      const id = message.method === undefined ? message.id : message.params?._meta?.[SUBSCRIPTION];
      this.#hearing.get(id)?.(message);
    });
  }

  #send(request, hear) {
    const id = `lines-${(this.#lastId += 1)}`;
    this.#hearing.set(id, hear);
    this.#child.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', id, ...request })}\n`);
  }

  /** Asks, and returns the answer in the form that `ext-tasks` wants it. */
  async dispatch(request) {
    const { result, error } = await new Promise((over) => this.#send(request, over));
    return error ? { kind: 'error', error } : { kind: 'result', result };
  }

  /** What comes of a `subscriptions/listen`, one message after the other. */
  async *listen(notifications, _meta) {
    const heard = [];
    let wake = () => {};
    this.#send({ method: 'subscriptions/listen', params: { notifications, _meta } }, (message) => {
      heard.push(message);
      wake();
    });
    for (;;) {
      while (heard.length > 0) yield heard.shift();
      await new Promise((more) => (wake = more));
    }
  }

  async end() {
    this.#child.stdin.end();
    await this.#exited;
  }
}
