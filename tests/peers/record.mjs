// Stands between a client and its server and keeps every line that the server is sent:
// node record.mjs FILE COMMAND ARGS…
//
// A line is in the file before the server sees it, so whoever has the server's answer finds its request there.

import { spawn } from 'node:child_process';
import { appendFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

const [file, command, ...args] = process.argv.slice(2);
const server = spawn(command, args, { stdio: ['pipe', 'inherit', 'inherit'] });

createInterface({ input: process.stdin })
  .on('line', (line) => {
    appendFileSync(file, `${line}\n`);
    server.stdin.write(`${line}\n`);
  })
  .on('close', () => server.stdin.end());

// A server that has gone can no longer read; its exit says so below.
server.stdin.on('error', () => {});
server.on('error', (error) => {
  console.error(`record: ${command} did not start: ${error.message}`);
  process.exit(127);
});
server.on('exit', (code) => process.exit(code ?? 1));
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) {
  process.on(signal, () => server.kill(signal));
}
