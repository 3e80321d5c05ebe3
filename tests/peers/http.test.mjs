// Clients of both eras over streamable HTTP and stdio: the Inspector, and the official clients of either era.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { conformanceUpstream, EVERYTHING, said, SEATS, Stage, tooOld } from './eras.mjs';

const options = { timeout: 120_000, skip: tooOld };
const ERAS = ['legacy', 'auto', 'modern'];

/** The Inspector prints a result either bare or with what led to it. */
const result = (printed) => printed.result ?? printed;

for (const seat of SEATS) {
  describe(`the Inspector, ${seat}`, { concurrency: 2 }, () => {
    for (const era of ERAS) {
      test(`calls a tool of a server of both eras over HTTP, era ${era}`, options, async (t) => {
        const stage = new Stage(t);
        const url = await stage.url(seat, conformanceUpstream('extension'));
        const call = ['--method', 'tools/call', '--tool-name', 'greet', '--tool-arg', 'name=you'];
        const answer = await stage.inspect(url, '--protocol-era', era, ...call);
        assert.equal(said(result(answer)), 'Hello, you!');
        const { tools } = result(await stage.inspect(url, '--protocol-era', era, '--method', 'tools/list'));
        assert.ok(tools.some(({ name }) => name === 'slow_compute'));
      });

      test(`calls a tool of a server of both eras over stdio, era ${era}`, options, async (t) => {
        const stage = new Stage(t);
        const command = stage.command(seat, conformanceUpstream('extension'));
        const call = ['--method', 'tools/call', '--tool-name', 'greet', '--tool-arg', 'name=you'];
        // What begins with a dash is the server's as long as the Inspector's own come first.
        const answer = await stage.inspect(['--protocol-era', era, ...call, '--transport', 'stdio', '--', ...command]);
        assert.equal(said(result(answer)), 'Hello, you!');
      });
    }

    test('has a tool that only runs as a task run to its end', options, async (t) => {
      const stage = new Stage(t);
      const url = await stage.url(seat, conformanceUpstream('extension'));
      const answer = await stage.inspect(url, '--protocol-era', 'modern', '--method', 'tools/call', '--tool-name', 'failing_job');
      assert.equal(result(answer).isError, true);
      assert.match(said(result(answer)), /failed, as it always does/);
    });

    for (const era of ['legacy', 'auto']) {
      test(`calls a legacy server over HTTP, era ${era}`, options, async (t) => {
        const stage = new Stage(t);
        const url = await stage.url(seat, EVERYTHING);
        const call = ['--method', 'tools/call', '--tool-name', 'echo', '--tool-arg', 'message=hello'];
        const answer = await stage.inspect(url, '--protocol-era', era, ...call);
        assert.equal(said(result(answer)), 'Echo: hello');
      });
    }
  });

  describe(`the official clients over HTTP, ${seat}`, { concurrency: 2 }, () => {
    test('the one of the legacy era lists, calls, reads and is told of progress', options, async (t) => {
      const stage = new Stage(t);
      const client = await stage.legacy(await stage.url(seat, conformanceUpstream('none')));
      assert.equal(said(await client.ask('tools/call', { name: 'greet', arguments: { name: 'you' } })), 'Hello, you!');
      const seen = [];
      const onprogress = ({ progress }) => seen.push(progress);
      await client.ask('tools/call', { name: 'test_tool_with_progress', arguments: {} }, { onprogress });
      assert.deepEqual(seen, [0, 50, 100]);
      const { contents } = await client.ask('resources/read', { uri: 'test://static-text' });
      assert.match(contents[0].text, /static resource/);
    });

    test('the one of the legacy era is asked while its call is open', options, async (t) => {
      const stage = new Stage(t);
      const answer = { action: 'accept', content: { confirm: true } };
      const client = await stage.legacy(await stage.url(seat, conformanceUpstream('none')), { answer });
      const call = { name: 'confirm_delete', arguments: { filename: 'a.txt' } };
      assert.equal(said(await client.ask('tools/call', call)), 'a.txt: confirmed = true');
      assert.equal(client.seen.asked[0].message, 'Delete a.txt?');
    });

    for (const mode of ['legacy', 'auto', { pin: '2026-07-28' }]) {
      test(`the one of both eras, mode ${JSON.stringify(mode)}`, options, async (t) => {
        const stage = new Stage(t);
        const { client } = await stage.modern(await stage.url(seat, conformanceUpstream('extension')), { mode });
        assert.equal(client.getProtocolEra(), mode === 'legacy' ? 'legacy' : 'modern');
        const answer = await client.callTool({ name: 'greet', arguments: { name: 'you' } });
        assert.equal(said(answer), 'Hello, you!');
      });
    }

    test('the one of both eras finds out that a server is of the legacy era', options, async (t) => {
      const stage = new Stage(t);
      const { client } = await stage.modern(await stage.url(seat, EVERYTHING));
      // The gateway speaks both, whatever is behind it.
      assert.equal(client.getProtocolEra(), seat === 'bare' ? 'legacy' : 'modern');
      const answer = await client.callTool({ name: 'echo', arguments: { message: 'hello' } });
      assert.equal(said(answer), 'Echo: hello');
    });
  });
}

describe('a gateway that is killed and started again under a session', () => {
  const command = conformanceUpstream('none');
  const upstream = { command: command[0], args: command.slice(1) };
  const seats = {
    'the official client of the legacy era': (stage, url) => stage.legacy(url),
    'the official client of both eras': async (stage, url) => {
      const { client } = await stage.modern(url, { mode: 'legacy' });
      return { ask: (_, call) => client.callTool(call) };
    },
  };
  for (const [name, connect] of Object.entries(seats)) {
    test(`is not noticed by ${name}`, options, async (t) => {
      const stage = new Stage(t);
      const { url, restart } = await stage.mortal(upstream, '--inline-budget', '30ms');
      const client = await connect(stage, url);
      const slow = { name: 'slow_compute', arguments: { seconds: 1, label: 'before' } };
      const { structuredContent } = await client.ask('tools/call', slow);
      const poll = { name: 'poll_result', arguments: { handle: structuredContent.handle } };
      const before = said(await client.ask('tools/call', poll));
      await restart();
      assert.equal(said(await client.ask('tools/call', poll)), before);
      assert.equal(said(await client.ask('tools/call', { name: 'greet', arguments: { name: 'you' } })), 'Hello, you!');
    });
  }
});

test('a session whose requests go to two gateways in turns is one session', options, async (t) => {
  const stage = new Stage(t);
  const command = conformanceUpstream('none');
  const upstream = { command: command[0], args: command.slice(1) };
  const gateways = [];
  for (let count = 0; count < 2; count += 1) gateways.push(await stage.served(upstream, '--inline-budget', '30ms'));
  let turn = 0;
  const turns = (_, init) => fetch(gateways[(turn += 1) % 2], init);
  const client = await stage.legacy(gateways[0], { fetch: turns });
  const calls = [1, 2, 3, 4].map(() => client.ask('tools/call', { name: 'greet', arguments: { name: 'you' } }));
  for (const answer of await Promise.all(calls)) assert.equal(said(answer), 'Hello, you!');
  const slow = { name: 'slow_compute', arguments: { seconds: 1, label: 'slow' } };
  const { structuredContent } = await client.ask('tools/call', slow);
  const poll = { name: 'poll_result', arguments: { handle: structuredContent.handle } };
  const answers = [await client.ask('tools/call', poll), await client.ask('tools/call', poll)].map(said);
  assert.equal(answers[0], answers[1]);
});
