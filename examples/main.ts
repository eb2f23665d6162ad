import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';

/**
 * Runs the examples one after the other, each as a process of its own, with a line each; all of them, or those
 * that are named. Ends with status 1 when one failed. `keyslot-source` lets them import `keyslot/client` as a
 * program does that has installed the package: here it is the source, there it is what was built of it.
 */

const examples = ['kit', 'keychain', 'web3js', 'vault-keychain', 'curl'];

const named = process.argv.slice(2);
const unknown = named.filter(name => !examples.includes(name));
if (unknown.length > 0) {
  console.error(`There is no example ${unknown.join(', ')}; there are ${examples.join(', ')}.`);
  process.exit(2);
}

let running: ChildProcess | undefined;
let interrupted = false;
for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    interrupted = true;
    running?.kill(signal); // it stops its appliance and removes its folder
  });
}

for (const name of named.length > 0 ? named : examples) {
  if (interrupted) break;
  const { status, printed } = await run(name);
  const failed = interrupted ? 'interrupted' : `failed with status ${status}`;
  console.log(`${name.padEnd(14)}  ${status === 0 ? printed : failed}`);
  if (status !== 0) process.exitCode = 1;
}
if (interrupted) process.exitCode = 130;

async function run(name: string): Promise<{ status: number | null; printed: string }> {
  const main = join(import.meta.dirname, name, 'main.ts');
  const child = spawn(process.execPath, ['--conditions=keyslot-source', main], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  running = child;
  const exited = new Promise<number | null>(done => child.on('exit', done));
  const printed = (await text(child.stdout)).trim();
  return { status: await exited, printed };
}
