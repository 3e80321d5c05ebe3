// Native tasks in both dialects, with clients that we did not write; and, behind the gateway, every client with every
// server, whatever each of them knows of tasks.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { CallToolResultSchema } from '@modelcontextprotocol/sdk/types.js';

import {
  conformanceUpstream,
  dispatch,
  EVERYTHING,
  fastmcp,
  legacyTasksUpstream,
  listen,
  meta,
  SEATS,
  Stage,
  SUBSCRIPTION,
  tooOld,
} from './eras.mjs';
import { HANDLE } from './harness.mjs';

const options = { timeout: 60_000, skip: tooOld };
const TERMINAL = ['completed', 'failed', 'cancelled'];

const said = (result) => result.content?.map(({ text }) => text).join('\n');

/** A call as the SDK drives a task, and everything that came of it. */
async function streamed(client, name, args, { ttl = 60_000, ...more } = {}) {
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

/** Starts a task and leaves it alone. */
async function created(client, name, args) {
  const { task } = await client.ask('tools/call', { name, arguments: args, task: { ttl: 60_000 } });
  return task;
}

async function refused(promise) {
  return promise.then(
    (answer) => assert.fail(`it was answered: ${JSON.stringify(answer)}`),
    ({ code }) => code,
  );
}

for (const seat of SEATS) {
  const identifies = (taskId) => assert.match(taskId, seat === 'served' ? HANDLE : /./);

  describe(`tasks of 2025-11-25, ${seat}`, { concurrency: 2 }, () => {
    test('a task is created, reports progress as long as it lives, and gives its result', options, async (t) => {
      const stage = new Stage(t);
      const client = await stage.legacy(await stage.url(seat, legacyTasksUpstream()));
      await client.listTools();
      const progress = [];
      const onprogress = ({ progress: done }) => progress.push(done);
      const run = await streamed(client, 'slow', { ms: 800 }, { onprogress });
      identifies(run.taskId);
      assert.equal(said(run.result), 'it took 800 ms');
      assert.deepEqual(run.result._meta['io.modelcontextprotocol/related-task'], { taskId: run.taskId });
      assert.equal(progress.at(-1), 4);
      assert.ok(progress.length > 1, 'progress came while the task ran, not only with its end');
    });

    test('a task that needs input asks on the stream of its result', options, async (t) => {
      const stage = new Stage(t);
      const answer = { action: 'accept', content: { sure: true } };
      const client = await stage.legacy(await stage.url(seat, legacyTasksUpstream()), { answer });
      await client.listTools();
      const run = await streamed(client, 'confirm', { what: 'it' });
      assert.match(said(run.result), /^it: .*"sure":true/);
      const [question] = client.seen.asked;
      assert.equal(question.message, 'Go on with it?');
      assert.equal(question._meta['io.modelcontextprotocol/related-task'].taskId, run.taskId);
    });

    test('a tool that fails makes its task fail, and its result says so', options, async (t) => {
      const stage = new Stage(t);
      const client = await stage.legacy(await stage.url(seat, legacyTasksUpstream()));
      const { taskId } = await created(client, 'fail', {});
      const result = await client.experimental.tasks.getTaskResult(taskId, CallToolResultSchema);
      assert.equal(result.isError, true);
      assert.equal((await client.experimental.tasks.getTask(taskId)).status, 'failed');
    });

    test('an error of the protocol is the result of its task', options, async (t) => {
      const stage = new Stage(t);
      const client = await stage.legacy(await stage.url(seat, legacyTasksUpstream()));
      const { taskId } = await created(client, 'break', {});
      assert.equal(await refused(client.experimental.tasks.getTaskResult(taskId, CallToolResultSchema)), -32050);
      assert.equal((await client.experimental.tasks.getTask(taskId)).status, 'failed');
    });

    test('tasks are listed, cancelled, and not cancelled twice', options, async (t) => {
      const stage = new Stage(t);
      const client = await stage.legacy(await stage.url(seat, legacyTasksUpstream()));
      const ids = [];
      for (const ms of [60_000, 60_001, 60_002]) ids.push((await created(client, 'slow', { ms })).taskId);
      const listed = [];
      for (let cursor; ; ) {
        const page = await client.experimental.tasks.listTasks(cursor);
        listed.push(...page.tasks.map(({ taskId }) => taskId));
        cursor = page.nextCursor;
        if (cursor === undefined) break;
      }
      assert.deepEqual(listed.filter((id) => ids.includes(id)).sort(), [...ids].sort());
      assert.equal((await client.experimental.tasks.cancelTask(ids[0])).status, 'cancelled');
      assert.equal((await client.experimental.tasks.getTask(ids[0])).status, 'cancelled');
      assert.equal(await refused(client.experimental.tasks.cancelTask(ids[0])), -32602);
      for (const id of ids.slice(1)) await client.experimental.tasks.cancelTask(id);
    });

    test('what nobody knows is refused', options, async (t) => {
      const stage = new Stage(t);
      const client = await stage.legacy(await stage.url(seat, legacyTasksUpstream()));
      const unknown = 'job_aaaaaaaaaaaaaaaaaaaaaaaaaa';
      for (const ask of ['getTask', 'getTaskResult', 'cancelTask']) {
        assert.equal(await refused(client.experimental.tasks[ask](unknown)), -32602, ask);
      }
      assert.equal(await refused(client.experimental.tasks.listTasks('no cursor')), -32602);
    });

    test('server-everything researches, and asks what was meant', options, async (t) => {
      const stage = new Stage(t);
      const answer = { action: 'accept', content: { interpretation: 'snake' } };
      const client = await stage.legacy(await stage.url(seat, EVERYTHING), { answer });
      await client.listTools();
      const run = await streamed(client, 'simulate-research-query', { topic: 'python', ambiguous: true });
      identifies(run.taskId);
      assert.equal(client.seen.asked.length, 1);
      assert.match(said(run.result), /python/i);
    });
  });

  describe(`tasks of the extension, ${seat}`, { concurrency: 2 }, () => {
    const upstream = conformanceUpstream('extension');

    /** Calls a tool with the official session, and waits for the end. */
    const called = async (session, name, args) => {
      const execution = await session.callTool(name, args);
      const ids = new Set();
      for await (const { task } of execution.updates()) if (task) ids.add(task.taskId);
      const { outcome } = await execution.settle();
      assert.ok(ids.size <= 1);
      return { outcome, taskId: [...ids][0] };
    };

    test('a slow tool becomes a task and gives its result', options, async (t) => {
      const stage = new Stage(t);
      const session = await (await stage.modern(await stage.url(seat, upstream))).tasks();
      const { outcome, taskId } = await called(session, 'slow_compute', { seconds: 3, label: 'it' });
      identifies(taskId);
      assert.equal(outcome.status, 'completed');
      assert.equal(said(outcome.result), 'it took 3 seconds');
    });

    test('a tool that fails completes its task', options, async (t) => {
      const stage = new Stage(t);
      const session = await (await stage.modern(await stage.url(seat, upstream))).tasks();
      const { outcome } = await called(session, 'failing_job', {});
      assert.equal(outcome.status, 'completed');
      assert.equal(outcome.result.isError, true);
    });

    test('an error of the protocol fails its task', options, async (t) => {
      const stage = new Stage(t);
      const session = await (await stage.modern(await stage.url(seat, upstream))).tasks();
      const { outcome } = await called(session, 'protocol_error_job', {});
      assert.equal(outcome.status, 'failed');
      assert.equal(outcome.error.code, -32603);
    });

    test('a task that needs two answers gets both', options, async (t) => {
      const stage = new Stage(t);
      const asked = [];
      const onInputRequest = async ({ params }) => {
        asked.push(params.message);
        return { action: 'accept', content: { value: `answer ${asked.length}` } };
      };
      const session = await (await stage.modern(await stage.url(seat, upstream), { onInputRequest })).tasks();
      const { outcome } = await called(session, 'multi_input', {});
      assert.equal(outcome.status, 'completed');
      assert.match(said(outcome.result), /first = "answer \d", second = "answer \d"/);
      assert.deepEqual(asked.sort(), ['What is the first value?', 'What is the second value?']);
    });

    test('a task is cancelled', options, async (t) => {
      const stage = new Stage(t);
      const session = await (await stage.modern(await stage.url(seat, upstream))).tasks();
      const execution = await session.callTool('slow_compute', { seconds: 60, label: 'it' });
      const updates = execution.updates();
      await updates.next();
      await execution.cancel();
      const { outcome } = await execution.settle();
      assert.equal(outcome.status, 'cancelled');
    });
  });
}

describe('every client with every server, behind the gateway', { concurrency: 2 }, () => {
  /** Every kind of upstream with a tool that takes about that many seconds, and how the gateway reaches it. */
  const UPSTREAMS = [
    ['plain, legacy', () => stdio(EVERYTHING), slowEverything],
    ['tasks, legacy, stdio', () => stdio(legacyTasksUpstream()), slowLegacy],
    ['tasks, legacy, HTTP', async (stage) => ({ type: 'http', url: await stage.url('bare', legacyTasksUpstream()) }), slowLegacy],
    ['plain, modern, stdio', () => stdio(conformanceUpstream('none')), slowModern],
    ['plain, modern, HTTP', async (stage) => ({ type: 'http', url: await stage.url('bare', conformanceUpstream('none')) }), slowModern],
    ['tasks, modern, stdio', () => stdio(conformanceUpstream('extension')), slowModern],
    ['tasks, modern, HTTP', async (stage) => ({ type: 'http', url: await stage.url('bare', conformanceUpstream('extension')) }), slowModern],
    ['tasks, modern, fastmcp', () => stdio(fastmcp()), slowFastmcp],
  ];

  for (const [kind, upstream, slow] of UPSTREAMS) {
    const { expected, ...call } = slow(3);

    test(`a legacy client that knows no tasks: ${kind}`, options, async (t) => {
      const stage = new Stage(t);
      const client = await stage.legacy(await stage.served(await upstream(stage)));
      let answer = await client.ask('tools/call', call);
      const { handle } = answer.structuredContent ?? {};
      assert.match(handle, HANDLE);
      answer = await polled(client, handle);
      assert.match(said(answer), expected);
    });

    test(`a legacy client that knows tasks: ${kind}`, options, async (t) => {
      const stage = new Stage(t);
      const client = await stage.legacy(await stage.served(await upstream(stage)));
      await client.listTools();
      const run = await streamed(client, call.name, call.arguments);
      assert.match(run.taskId, HANDLE);
      assert.match(said(run.result), expected);
    });

    test(`a modern client that knows no tasks: ${kind}`, options, async (t) => {
      const stage = new Stage(t);
      const url = await stage.served(await upstream(stage));
      const answer = await dispatch(url, { method: 'tools/call', params: { ...call, _meta: withoutTasks() } });
      const { handle } = answer.result.structuredContent ?? {};
      assert.match(handle, HANDLE);
      const poll = { name: 'poll_result', arguments: { handle, wait_ms: 20_000 } };
      const { result } = await dispatch(url, { method: 'tools/call', params: { ...poll, _meta: withoutTasks() } });
      assert.match(said(result), expected);
    });

    test(`a modern client that knows tasks: ${kind}`, options, async (t) => {
      const stage = new Stage(t);
      const session = await (await stage.modern(await stage.served(await upstream(stage)))).tasks();
      const execution = await session.callTool(call.name, call.arguments);
      const { outcome } = await execution.settle();
      assert.equal(outcome.status, 'completed');
      assert.match(said(outcome.result), expected);
    });

    test(`every change of a task is pushed: ${kind}`, options, async (t) => {
      const stage = new Stage(t);
      const url = await stage.served(await upstream(stage));
      const { result: task } = await dispatch(url, { method: 'tools/call', params: { ...call, _meta: meta() } });
      assert.equal(task.resultType, 'task');
      const gone = new AbortController();
      t.after(() => gone.abort());
      const unknown = 'job_aaaaaaaaaaaaaaaaaaaaaaaaaa';
      const stream = listen(url, { taskIds: [task.taskId, unknown] }, gone.signal);
      const { value: first } = await stream.next();
      assert.equal(first.method, 'notifications/subscriptions/acknowledged');
      assert.deepEqual(first.params.notifications.taskIds, [task.taskId]);
      let last;
      for await (const { method, params } of stream) {
        assert.equal(method, 'notifications/tasks');
        assert.equal(params.taskId, task.taskId);
        assert.notEqual(params._meta[SUBSCRIPTION], undefined);
        last = params;
        if (TERMINAL.includes(params.status)) break;
      }
      const { result: got } = await dispatch(url, { method: 'tasks/get', params: { taskId: task.taskId, _meta: meta() } });
      assert.equal(last.status, 'completed');
      assert.deepEqual(last.result, got.result);
      assert.match(said(got.result), expected);
    });
  }

  test('server-everything asks a client that knows nothing of tasks', options, async (t) => {
    const stage = new Stage(t);
    const client = await stage.legacy(await stage.served(stdio(EVERYTHING)));
    await client.listTools();
    const research = { topic: 'python', ambiguous: true };
    const started = await client.ask('tools/call', { name: 'simulate-research-query', arguments: research });
    const { handle } = started.structuredContent;
    assert.match(handle, HANDLE);
    const asking = await polled(client, handle, ['input_required']);
    const asked = asking.structuredContent;
    assert.equal(asked.status, 'input_required');
    // The question reaches the model, whatever its client does with structured content.
    assert.match(said(asking), /could have multiple interpretations/);
    const [[key, question]] = Object.entries(asked.questions);
    assert.equal(question.method, 'elicitation/create');
    const answers = { [key]: { action: 'accept', content: { interpretation: 'snake' } } };
    const taken = await client.ask('tools/call', { name: 'answer_job', arguments: { handle, answers } });
    assert.notEqual(taken.isError, true, said(taken));
    assert.match(said(await polled(client, handle)), /python/i);
  });

  function stdio([command, ...args]) {
    return { command, args };
  }
});

function slowEverything(seconds) {
  const args = { duration: seconds, steps: 3 };
  return { name: 'trigger-long-running-operation', arguments: args, expected: /Long running operation completed/ };
}

function slowLegacy(seconds) {
  return { name: 'slow', arguments: { ms: seconds * 1000 }, expected: /^it took \d+ ms$/ };
}

function slowModern(seconds) {
  return { name: 'slow_compute', arguments: { seconds, label: 'it' }, expected: /^it took \d+ seconds$/ };
}

function slowFastmcp(seconds) {
  return { name: 'slow', arguments: { seconds }, expected: /^it took \S+ seconds$/ };
}

/** The last answer of `poll_result`: of a job that is over, or that shows one of these statuses. */
async function polled(client, handle, until = []) {
  for (;;) {
    const answer = await client.ask('tools/call', { name: 'poll_result', arguments: { handle, wait_ms: 5000 } });
    const { handle: named, status } = answer.structuredContent ?? {};
    if (named !== handle || until.includes(status) || !['working', 'input_required'].includes(status)) return answer;
  }
}

function withoutTasks() {
  return { ...meta(), 'io.modelcontextprotocol/clientCapabilities': {} };
}
