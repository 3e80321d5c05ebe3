// Published servers behind `meanwhile wrap`, driven by the official TypeScript SDK: what a client gets is what it gets
// from the bare server, and what would have timed out is collected by its handle.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
} from '@modelcontextprotocol/sdk/types.js';

import { boxed, everything, filesystem, HANDLE, isPending, killed, OUR_TOOLS, processesMarked } from './harness.mjs';

/** What a client survives in these tests, in milliseconds. Many real ones are not much more patient. */
const CLIENT_TIMEOUT = { timeout: 3000 };
const SLOW_TOOL = 'trigger-long-running-operation';

/** The same client on the bare server and on the wrapped one. */
async function both(box, server, { options, client } = {}) {
  return Promise.all([box.bare(server, client), box.wrapped(server, { options, ...client })]);
}

/** Asks both the same, and expects the same answer; `mask` takes out what differs from one second to the next. */
async function assertSame([bare, wrapped], method, params, mask = (answer) => answer) {
  const [expected, actual] = await Promise.all([bare.request(method, params), wrapped.request(method, params)]);
  assert.deepEqual(mask(actual), mask(expected), `${method} ${JSON.stringify(params)}`);
  return expected;
}

/** Asks both the same, and expects the same error from both. */
async function assertSameError([bare, wrapped], method, params) {
  const refused = async (session) => {
    const error = await session.request(method, params).then(
      (result) => assert.fail(`${method} was answered: ${JSON.stringify(result)}`),
      (error) => error,
    );
    return { code: error.code, message: error.message, data: error.data };
  };
  const [expected, actual] = await Promise.all([refused(bare), refused(wrapped)]);
  assert.deepEqual(actual, expected);
  assert.equal(typeof expected.code, 'number');
}

/** The dynamic resources say when they were made. */
const withoutTime = (answer) =>
  JSON.parse(
    JSON.stringify(answer, (key, value) => {
      if (key === 'blob') value = Buffer.from(value, 'base64').toString();
      return typeof value === 'string' ? value.replace(/ created at .*$/s, ' created at …') : value;
    }),
  );

/** Where processes can be looked for. */
const linux = { timeout: 60_000, skip: !existsSync('/proc/self/cmdline') };

const slow = (seconds) => ({ duration: seconds, steps: 5 });

describe('server-everything', { concurrency: 4 }, () => {
  test('fast tools answer as the bare server does', { timeout: 60_000 }, boxed(async (box) => {
    const sessions = await both(box, everything());
    const calls = [
      ['echo', { message: 'Grüße, 世界 👋 \u0000 "\\' }],
      ['get-sum', { a: 0.1, b: 0.2 }],
      ['get-structured-content', { location: 'New York' }],
      ['get-tiny-image', {}],
      ['get-annotated-message', { messageType: 'error', includeImage: true }],
      ['get-annotated-message', { messageType: 'debug' }],
      ['get-resource-links', { count: 5 }],
      ['gzip-file-as-resource', { name: 'a.gz', data: 'data:text/plain,hello', outputType: 'resource' }],
      ['no-such-tool', {}],
    ];
    for (const [name, args] of calls) {
      await assertSame(sessions, 'tools/call', { name, arguments: args });
    }
    for (const resourceType of ['Text', 'Blob']) {
      const call = { name: 'get-resource-reference', arguments: { resourceType, resourceId: 7 } };
      await assertSame(sessions, 'tools/call', call, withoutTime);
    }
  }));

  test('tools are listed as the server lists them, and ours are added', { timeout: 60_000 }, boxed(async (box) => {
    // The gateway can have any question answered, and tells the server so, which shows tools by it.
    const client = { capabilities: { elicitation: { form: {}, url: {} } } };
    const [bare, wrapped] = await both(box, everything(), { client });
    const inline = await box.wrapped(everything(), { options: ['--mode', 'inline'], ...client });
    const tools = async (session) => (await session.request('tools/list', {})).tools;
    const [expected, actual, shownInline] = await Promise.all([bare, wrapped, inline].map(tools));

    assert.deepEqual(actual.slice(0, expected.length).map(({ name }) => name), expected.map(({ name }) => name));
    for (const [index, { description, outputSchema, execution, ...rest }] of expected.entries()) {
      const { description: shown, execution: run, ...shownRest } = actual[index];
      assert.deepEqual(shownRest, rest);
      assert.deepEqual(run, { taskSupport: 'optional' });
      assert.ok(shown.startsWith(description) && shown.length > description.length, shown);
      assert.ok(shown.length < description.length + 200, `a short suffix: ${shown}`);
    }
    assert.ok(expected.some(({ outputSchema }) => outputSchema), 'the server has a tool with an output schema');

    const added = actual.slice(expected.length);
    assert.deepEqual(added.map(({ name }) => name).sort(), [...OUR_TOOLS].sort());
    for (const tool of added) {
      assert.ok(tool.description);
      assert.equal(tool.inputSchema.type, 'object');
    }

    // A tool that never answers with a handle is shown as it is, and is not to be called as a task.
    const asItIs = ({ execution, ...rest }) => rest;
    const theirs = shownInline.filter(({ name }) => !OUR_TOOLS.includes(name));
    assert.deepEqual(theirs, expected.map(asItIs));
    assert.ok(wrapped.client.getInstructions().startsWith(bare.client.getInstructions()));
  }));

  test('a call of 10 s is collected by a client that gives up after 3 s', { timeout: 90_000 }, boxed(async (box) => {
    const [bare, wrapped] = await both(box, everything());
    const bareResult = bare.call(SLOW_TOOL, slow(10), { timeout: 60_000 });

    const handed = await wrapped.call(SLOW_TOOL, slow(10), CLIENT_TIMEOUT);
    const { handle } = handed.structuredContent;
    assert.match(handle, HANDLE);
    assert.ok(handed.content[0].text.includes(handle), 'a model that reads only text finds the handle too');

    const echo = await wrapped.call('echo', { message: 'meanwhile' }, CLIENT_TIMEOUT);
    assert.deepEqual(echo.content, [{ type: 'text', text: 'Echo: meanwhile' }]);

    const pending = [];
    const result = await wrapped.collect(handle, { ...CLIENT_TIMEOUT, seen: (answer) => pending.push(answer) });
    assert.deepEqual(result, await bareResult);
    const progress = pending.map(({ structuredContent }) => structuredContent.progress).filter(Boolean);
    assert.ok(progress.length > 0, `no progress in ${JSON.stringify(pending)}`);
    for (const { progress: done, total } of progress) {
      assert.ok(done >= 1 && done <= 5 && total === 5, `${done} of ${total}`);
    }
  }));

  test('a client that waits inline sees the progress it asked for', { timeout: 60_000 }, boxed(async (box) => {
    const sessions = await both(box, everything(), { options: ['--inline-budget', '20s'] });
    const call = { name: SLOW_TOOL, arguments: slow(1), _meta: { progressToken: 'of the client' } };
    await assertSame(sessions, 'tools/call', call);
    for (const session of sessions) {
      const isReport = ({ method }) => method === 'notifications/progress';
      await session.notified((notification) => isReport(notification) && notification.params.progress === 5);
      assert.deepEqual(
        session.notifications.filter(isReport).map(({ params }) => params),
        [1, 2, 3, 4, 5].map((progress) => ({ progress, total: 5, progressToken: 'of the client' })),
      );
    }
  }));

  test('a handle does not break the output schema that the SDK checks', { timeout: 60_000 }, boxed(async (box) => {
    const [bare, wrapped] = await both(box, everything(), { options: ['--mode', 'handle'] });
    await wrapped.client.listTools();
    const call = { name: 'get-structured-content', arguments: { location: 'Chicago' } };
    const handed = await wrapped.client.callTool(call);
    assert.match(handed.structuredContent.handle, HANDLE);
    const result = await wrapped.collect(handed.structuredContent.handle);
    assert.deepEqual(result, await bare.request('tools/call', call));
  }));

  test('resources are passed through', { timeout: 60_000 }, boxed(async (box) => {
    const sessions = await both(box, everything());
    const { resources } = await assertSame(sessions, 'resources/list', {});
    assert.ok(resources.length > 0);
    for (const { uri } of resources) await assertSame(sessions, 'resources/read', { uri });

    const { resourceTemplates } = await assertSame(sessions, 'resources/templates/list', {});
    assert.ok(resourceTemplates.length > 0);
    for (const kind of ['text', 'blob']) {
      await assertSame(sessions, 'resources/read', { uri: `demo://resource/dynamic/${kind}/3` }, withoutTime);
    }
    await assertSameError(sessions, 'resources/read', { uri: 'demo://resource/dynamic/text/none' });

    const uri = resources[0].uri;
    for (const session of sessions) {
      await session.request('resources/subscribe', { uri });
      await session.call('toggle-subscriber-updates');
      const { params } = await session.notified(({ method }) => method === 'notifications/resources/updated');
      assert.deepEqual(params, { uri });
      await session.call('toggle-subscriber-updates');
    }
  }));

  test('prompts, completions and log levels are passed through', { timeout: 60_000 }, boxed(async (box) => {
    const sessions = await both(box, everything());
    const { prompts } = await assertSame(sessions, 'prompts/list', {});
    assert.ok(prompts.length > 0);
    await assertSame(sessions, 'prompts/get', { name: 'simple-prompt' });
    await assertSame(sessions, 'prompts/get', {
      name: 'args-prompt',
      arguments: { city: 'Zürich', state: 'ZH' },
    });
    const embedded = { name: 'resource-prompt', arguments: { resourceType: 'Blob', resourceId: '2' } };
    await assertSame(sessions, 'prompts/get', embedded, withoutTime);
    await assertSameError(sessions, 'prompts/get', { name: 'args-prompt', arguments: {} });
    await assertSameError(sessions, 'prompts/get', { name: 'no-such-prompt' });

    const { completion } = await assertSame(sessions, 'completion/complete', {
      ref: { type: 'ref/prompt', name: 'completable-prompt' },
      argument: { name: 'name', value: 'A' },
      context: { arguments: { department: 'Engineering' } },
    });
    assert.deepEqual(completion.values, ['Alice']);
    await assertSame(sessions, 'completion/complete', {
      ref: { type: 'ref/resource', uri: 'demo://resource/dynamic/text/{resourceId}' },
      argument: { name: 'resourceId', value: '12' },
    });

    await assertSame(sessions, 'logging/setLevel', { level: 'warning' });
    await assertSameError(sessions, 'logging/setLevel', { level: 'no-such-level' });
    await assertSame(sessions, 'ping', undefined);
    await assertSameError(sessions, 'no/such/method', { x: 1 });
  }));

  test('cancelling a job reaches the server', { timeout: 60_000 }, boxed(async (box) => {
    const [server, record] = box.recorded(everything());
    const wrapped = await box.wrapped(server, { options: ['--inline-budget', '200ms'] });
    const handle = await wrapped.start(SLOW_TOOL, { duration: 20, steps: 20 });

    const controlled = await wrapped.call('control_job', { handle, action: 'cancel' });
    assert.notEqual(controlled.isError, true, JSON.stringify(controlled));
    const ended = await wrapped.collect(handle);
    assert.equal(ended.structuredContent.status, 'cancelled', JSON.stringify(ended));

    const { id } = await record.called(SLOW_TOOL);
    await record.cancelled(id);
  }));

  test('a client that aborts an inline call cancels it on the server', { timeout: 60_000 }, boxed(async (box) => {
    const [server, record] = box.recorded(everything());
    const wrapped = await box.wrapped(server, { options: ['--inline-budget', '60s'] });
    const abort = new AbortController();
    const call = wrapped.call(SLOW_TOOL, { duration: 20, steps: 20 }, { signal: abort.signal });
    const aborted = assert.rejects(call, /the user thought better of it/);

    const { id } = await record.called(SLOW_TOOL);
    abort.abort(new Error('the user thought better of it'));
    await aborted;
    await record.cancelled(id);

    const { structuredContent } = await wrapped.call('list_jobs');
    assert.deepEqual(structuredContent.jobs, [], 'an inline call leaves no job behind');
  }));

  test('the server can ask the client: elicitation, sampling, roots', { timeout: 60_000 }, boxed(async (box) => {
    const roots = [{ uri: 'file:///first', name: 'First' }];
    const elicited = [
      { action: 'accept', content: { name: 'Ada', check: true, integer: 42 } },
      { action: 'decline' },
    ];
    // Each session counts for itself, so both get the same answers in the same order.
    const client = () => ({
      capabilities: { elicitation: {}, sampling: {}, roots: { listChanged: true } },
      answers: [
        [ElicitRequestSchema, ((left) => () => left.shift())([...elicited])],
        [
          CreateMessageRequestSchema,
          ({ params }) => ({
            role: 'assistant',
            model: 'a-model',
            stopReason: 'endTurn',
            content: { type: 'text', text: `heard: ${params.messages[0].content.text}` },
          }),
        ],
        [ListRootsRequestSchema, () => ({ roots })],
      ],
    });
    const sessions = await Promise.all([box.bare(everything(), client()), box.wrapped(everything(), client())]);
    const [bare, wrapped] = sessions;

    for (const expected of ['✅', '❌']) {
      const { content } = await assertSame(sessions, 'tools/call', { name: 'trigger-elicitation-request' });
      assert.ok(content[0].text.startsWith(expected), content[0].text);
    }
    const sampling = { name: 'trigger-sampling-request', arguments: { prompt: 'hello', maxTokens: 10 } };
    const sampled = await assertSame(sessions, 'tools/call', sampling);
    assert.match(sampled.content[0].text, /heard: .*hello/);
    const asked = (session, method) => session.asked.filter((request) => request.method === method);
    for (const method of ['elicitation/create', 'sampling/createMessage']) {
      assert.deepEqual(asked(wrapped, method), asked(bare, method));
    }

    await assertSame(sessions, 'tools/call', { name: 'get-roots-list' });
    roots.push({ uri: 'file:///second', name: 'Second' });
    for (const session of sessions) {
      await session.client.sendRootsListChanged();
      const updated = (data) => /^Roots updated: 2 /.test(data);
      await session.notified(({ method, params }) => method === 'notifications/message' && updated(params.data));
    }
    const listed = await assertSame(sessions, 'tools/call', { name: 'get-roots-list' });
    assert.match(listed.content[0].text, /file:\/\/\/second/);
  }));

  test('a result outlives the session that asked for it', { timeout: 60_000 }, boxed(async (box) => {
    const options = ['--mode', 'handle'];
    const first = await box.wrapped(everything(), { options });
    const uncollected = await first.start('echo', { message: 'kept' });
    const collected = await first.start(SLOW_TOOL, slow(1));
    const { structuredContent } = await first.call('poll_result', {
      handles: [uncollected, collected],
      until: 'all',
      wait_ms: 20_000,
    });
    assert.deepEqual(structuredContent.jobs.map(({ status }) => status), ['completed', 'completed']);
    const result = await first.collect(collected);
    await first.close();

    const second = await box.wrapped(everything(), { options });
    assert.deepEqual(await second.collect(collected), result);
    const echo = await second.collect(uncollected);
    assert.deepEqual(echo, { content: [{ type: 'text', text: 'Echo: kept' }] });
  }));

  test('a client that closes leaves no server behind, not even a busy one', linux, boxed(async (box) => {
    const mark = `--mark=${box.dir}`;
    const wrapped = await box.wrapped(everything(mark), { options: ['--inline-budget', '200ms'] });
    const handle = await wrapped.start(SLOW_TOOL, { duration: 20, steps: 20 });
    // The server does not stop what is cancelled, so it still has something to do when its stdin closes.
    await wrapped.call('control_job', { handle, action: 'cancel' });
    assert.equal(processesMarked(mark).length, 1);
    await wrapped.close();
    assert.deepEqual(processesMarked(mark), []);
  }));

  test('a session outlives the death of its server', linux, boxed(async (box) => {
    const mark = `--mark=${box.dir}`;
    const sampling = (request) => ({ role: 'assistant', model: 'm', content: { type: 'text', text: request.method } });
    const wrapped = await box.wrapped(everything(mark), {
      options: ['--inline-budget', '200ms'],
      capabilities: { sampling: {} },
      answers: [[CreateMessageRequestSchema, sampling]],
    });
    const before = await wrapped.request('tools/list', {});
    const handle = await wrapped.start(SLOW_TOOL, slow(2));

    const [victim, ...others] = processesMarked(mark);
    assert.ok(victim && others.length === 0, `one server process, not ${[victim, ...others]}`);
    await killed(victim);

    const echo = await wrapped.call('echo', { message: 'still here' });
    const text = echo.content[0].text;
    // Starting the server again may take longer than the budget, and then this call has a handle like any other.
    const { content } = HANDLE.test(echo.structuredContent?.handle)
      ? await wrapped.collect(echo.structuredContent.handle)
      : echo;
    assert.deepEqual(content, [{ type: 'text', text: 'Echo: still here' }], text);
    assert.ok(!processesMarked(mark).includes(victim));

    // The tool says that it is read-only, so the job whose server died under it may run again.
    const result = await wrapped.collect(handle);
    assert.match(result.content[0].text, /^Long running operation completed/);

    // The new server knows of the client what the old one knew: it lists and uses what the client can be asked for.
    assert.deepEqual(await wrapped.request('tools/list', {}), before);
    const sampled = await wrapped.call('trigger-sampling-request', { prompt: 'hello' });
    assert.match(sampled.content[0].text, /sampling\/createMessage/);
  }));
});

describe('server-filesystem', { concurrency: 4 }, () => {
  test('files are written, read, listed and refused as by the bare server', { timeout: 60_000 }, boxed(async (box) => {
    const sessions = await both(box, filesystem(box.workspace));
    const path = join(box.workspace, 'note.txt');
    const call = (name, args) => assertSame(sessions, 'tools/call', { name, arguments: args });

    await call('write_file', { path, content: 'first\nsecond – ✓\n' });
    assert.equal(readFileSync(path, 'utf8'), 'first\nsecond – ✓\n');
    await call('read_text_file', { path });
    await call('read_text_file', { path, tail: 1 });
    await call('list_directory', { path: box.workspace });
    await call('get_file_info', { path });

    const outside = await call('read_text_file', { path: join(box.dir, 'outside.txt') });
    assert.equal(outside.isError, true);
    assert.match(outside.content[0].text, /Access denied/);
  }));

  test('a big file is read inline word for word', { timeout: 60_000 }, boxed(async (box) => {
    const { path, text } = bigFile(box);
    const sessions = await both(box, filesystem(box.workspace));
    const call = { name: 'read_text_file', arguments: { path } };
    const { content } = await assertSame(sessions, 'tools/call', call);
    assert.ok(content[0].text === text, 'the whole file');
  }));

  test('a big file behind a handle is previewed and read in slices', { timeout: 60_000 }, boxed(async (box) => {
    const { path, text } = bigFile(box);
    const wrapped = await box.wrapped(filesystem(box.workspace), { options: ['--mode', 'handle'] });
    const handle = await wrapped.start('read_text_file', { path });

    const preview = await wrapped.collect(handle);
    assert.ok(!isPending(preview, handle) && !preview.isError);
    const shown = JSON.stringify(preview);
    assert.ok(Buffer.byteLength(shown) < 20_000, `a preview of ${Buffer.byteLength(shown)} bytes`);
    assert.match(preview.content[0].text, /read_result/);

    const limit = 30_000;
    const slices = [];
    for (let next = { handle, offset: 0, limit }; next; ) {
      const slice = await wrapped.call('read_result', next);
      assert.notEqual(slice.isError, true, JSON.stringify(slice).slice(0, 500));
      const body = slice.content[0].text;
      assert.ok(body.length > 0 && Buffer.byteLength(body) <= limit, `a slice of ${Buffer.byteLength(body)} bytes`);
      slices.push(body);
      assert.ok(slices.length <= 100, 'the slices come to an end');
      const more = slice.structuredContent.next;
      next = more && { handle, limit, ...more };
    }
    assert.ok(slices.length > 5, `${slices.length} slices`);
    assert.ok(slices.join('') === text, 'the slices make up the file');
  }));
});

/** A file of 200 KB in the workspace, with characters of one to four bytes, so that slices would cut through some. */
function bigFile(box) {
  const path = join(box.workspace, 'big.txt');
  const lines = [];
  for (let bytes = 0; bytes < 200_000; bytes += Buffer.byteLength(lines.at(-1)) + 1) {
    lines.push(`line ${lines.length}: a naïve 世界 👋 “quoted” back\\slash\ttab`);
  }
  const text = `${lines.join('\n')}\n`;
  writeFileSync(path, text);
  return { path, text };
}
