// The client under test, as the suite starts it: `node client.mjs URL`. The gateway in front of that URL is what is
// tested; this script only makes it do what the scenario named by MCP_CONFORMANCE_SCENARIO is about.

import { ours, Wrapped } from './wrapped.mjs';

const url = process.argv.at(-1);
const scenario = process.env.MCP_CONFORMANCE_SCENARIO;
const modern = process.env.MCP_CONFORMANCE_PROTOCOL_VERSION >= '2026-07-28';
const context = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT ?? '{}');

/** Unless a scenario has a part of its own, every tool is called once. */
const PARTS = {
  'http-standard-headers': everythingOnce,
  'http-custom-headers': (client) => callAll(client, context.toolCalls),
  'json-schema-2020-12-preservation': echoSchema,
  'json-schema-ref-no-deref': (client) => client.tools(),
  'sep-2322-client-request-state': answerRounds,
};

/** The suite cannot end this process, so it ends itself, before the suite's own patience of 30 seconds does. */
const PATIENCE = 20_000;
setTimeout(() => {
  console.error(`${scenario} was not over in ${PATIENCE} ms`);
  Wrapped.killAll();
  process.exit(1);
}, PATIENCE).unref();

const client = scenario.startsWith('auth/') ? await Wrapped.afterLogin(url, modern, context) : await Wrapped.start(url, modern);
try {
  await (PARTS[scenario] ?? toolsOnce)(client);
} finally {
  await client.end();
}

async function toolsOnce(client) {
  const tools = await client.tools();
  await callAll(client, tools.map((tool) => ({ name: tool.name, arguments: filled(tool.inputSchema) })));
}

async function everythingOnce(client) {
  await toolsOnce(client);
  const { resources } = await client.request('resources/list');
  for (const { uri } of resources) await client.attempt('resources/read', { uri });
  const { prompts } = await client.request('prompts/list');
  for (const { name } of prompts) await client.attempt('prompts/get', { name });
}

/** Values that a schema takes, as far as the suite's go. */
function filled(schema) {
  const example = { number: 2, integer: 3, string: 'x', boolean: true, object: {}, array: [], null: null };
  const properties = Object.entries(schema.properties ?? {});
  return Object.fromEntries(properties.map(([name, { type }]) => [name, example[type] ?? 'x']));
}

async function callAll(client, calls) {
  // Tools are only known to the gateway once they were listed.
  await client.tools();
  for (const call of calls) await client.call(call.name, call.arguments);
}

async function echoSchema(client) {
  const tools = await client.tools();
  const focal = tools.find((tool) => tool.name === 'json_schema_2020_12_tool');
  await client.call('json_schema_echo', { schema: focal.inputSchema });
}

/** Calls each tool, something else between two rounds, and each again with what it asked for. */
async function answerRounds(client) {
  const tools = ours(await client.tools());
  for (const { name } of tools) {
    const first = await client.attempt('tools/call', { name, arguments: {} });
    if (first?.resultType !== 'input_required') continue;
    await client.attempt('tools/call', { name: 'test_mrtr_unrelated', arguments: {} });
    const answers = Object.keys(first.inputRequests).map((key) => [key, { action: 'accept', content: { confirmed: true } }]);
    const state = first.requestState === undefined ? {} : { requestState: first.requestState };
    const again = { name, arguments: {}, inputResponses: Object.fromEntries(answers), ...state };
    await client.attempt('tools/call', again);
  }
}
