// Native tasks in both dialects, with clients that we did not write.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { CallToolResultSchema } from '@modelcontextprotocol/sdk/types.js';

import { conformanceUpstream, EVERYTHING, legacyTasksUpstream, said, SEATS, Stage, streamed, tooOld } from './eras.mjs';
import { HANDLE } from './harness.mjs';

const options = { timeout: 120_000, skip: tooOld };

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
