// Behind the gateway every client works with every server, whatever era each of them is of, whatever it knows of tasks,
// and over whichever transport either is reached.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import {
  conformanceUpstream,
  EVERYTHING,
  fastmcp,
  legacyTasksUpstream,
  meta,
  said,
  Stage,
  streamed,
  SUBSCRIPTION,
  tooOld,
} from './eras.mjs';
import { HANDLE } from './harness.mjs';

const options = { timeout: 120_000, skip: tooOld };
const TERMINAL = ['completed', 'failed', 'cancelled'];

for (const transport of ['HTTP', 'stdio']) {
  describe(`every client with every server, behind the gateway over ${transport}`, { concurrency: 4 }, () => {
    /** Every kind of upstream with a tool that takes about that many seconds, and how the gateway reaches it. */
    const UPSTREAMS = [
      ['plain, legacy, stdio', () => stdio(EVERYTHING), slowEverything],
      ['plain, legacy, HTTP', async (stage) => ({ type: 'http', url: await stage.url('bare', EVERYTHING) }), slowEverything],
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
        const client = await stage.legacy(await stage.behind(transport, await upstream(stage)));
        let answer = await client.ask('tools/call', call);
        const { handle } = answer.structuredContent ?? {};
        assert.match(handle, HANDLE);
        answer = await polled(client, handle);
        assert.match(said(answer), expected);
      });

      test(`a legacy client that knows tasks: ${kind}`, options, async (t) => {
        const stage = new Stage(t);
        const client = await stage.legacy(await stage.behind(transport, await upstream(stage)));
        await client.listTools();
        const run = await streamed(client, call.name, call.arguments);
        assert.match(run.taskId, HANDLE);
        assert.match(said(run.result), expected);
      });

      test(`a modern client that knows no tasks: ${kind}`, options, async (t) => {
        const stage = new Stage(t);
        const { dispatch } = stage.raw(await stage.behind(transport, await upstream(stage)));
        const answer = await dispatch({ method: 'tools/call', params: { ...call, _meta: withoutTasks() } });
        const { handle } = answer.result.structuredContent ?? {};
        assert.match(handle, HANDLE);
        const poll = { name: 'poll_result', arguments: { handle, wait_ms: 20_000 } };
        const { result } = await dispatch({ method: 'tools/call', params: { ...poll, _meta: withoutTasks() } });
        assert.match(said(result), expected);
      });

      test(`a modern client that knows tasks: ${kind}`, options, async (t) => {
        const stage = new Stage(t);
        const session = await (await stage.modern(await stage.behind(transport, await upstream(stage)))).tasks();
        const execution = await session.callTool(call.name, call.arguments);
        const { outcome } = await execution.settle();
        assert.equal(outcome.status, 'completed');
        assert.match(said(outcome.result), expected);
      });

      test(`every change of a task is pushed: ${kind}`, options, async (t) => {
        const stage = new Stage(t);
        const { dispatch, listen } = stage.raw(await stage.behind(transport, await upstream(stage)));
        const { result: task } = await dispatch({ method: 'tools/call', params: { ...call, _meta: meta() } });
        assert.equal(task.resultType, 'task');
        const unknown = 'job_aaaaaaaaaaaaaaaaaaaaaaaaaa';
        const stream = listen({ taskIds: [task.taskId, unknown] });
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
        const { result: got } = await dispatch({ method: 'tasks/get', params: { taskId: task.taskId, _meta: meta() } });
        assert.equal(last.status, 'completed');
        assert.deepEqual(last.result, got.result);
        assert.match(said(got.result), expected);
      });
    }

    test('server-everything asks a client that knows nothing of tasks', options, async (t) => {
      const stage = new Stage(t);
      const client = await stage.legacy(await stage.behind(transport, stdio(EVERYTHING)));
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
}

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
