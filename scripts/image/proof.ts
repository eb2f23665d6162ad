import { randomBytes } from 'node:crypto';
import { chownSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { decodeBase58 } from '../../src/foundation/base58.ts';
import { createVerifier } from '../../src/foundation/ed25519.ts';
import type { ImageConfig } from './buildah.ts';
import { Container, type Setup } from './container.ts';

/** What is asked of an image that runs. Each function throws with what was not so. */

/** Makes the volume and the PINs as docs/ops/packaging.md says, and has the image fill the volume. */
export async function prepareVolume(setup: Omit<Setup, 'service'>): Promise<void> {
  for (const folder of [setup.data, setup.secrets]) {
    mkdirSync(folder, { mode: 0o700 });
    chownSync(folder, user, user);
  }
  for (const name of ['user.pin', 'audit.pin']) {
    const file = join(setup.secrets, name);
    writeFileSync(file, `${randomBytes(12).toString('hex')}\n`, { mode: 0o400 });
    chownSync(file, user, user);
  }
  const container = Container.start({ ...setup, service: 'prepare' });
  try {
    const status = await container.ended(60);
    if (status !== 0) throw new Error(`prepare ended with status ${status}`);
  } finally {
    await container.remove();
  }
}

/** That it becomes healthy and ready, has no rights to spare, and mends itself as a first process must. */
export async function provedSoundness(container: Container, image: ImageConfig) {
  const [, ...healthCheck] = image.Healthcheck.Test;
  await eventually('the health check of the image', 60, async () => succeeds(container, healthCheck));
  const ready = [...healthCheck.slice(0, -1), '/readyz'];
  await eventually('/readyz', 60, async () => succeeds(container, ready));

  const first = await container.pid();
  const processes = processesBelow(first);
  if (processes.length < 4) throw new Error(`there are ${processes.length} processes, not 4`);
  for (const pid of processes) refuseRights(pid);
  for (const pid of processes.filter(each => each !== first)) refuseLooks(pid);
  await refuseWrites(container);
  await collectsOrphans(container, first);
  await survivesKill(container, first, ready);
  return {
    uid: user,
    readOnlyRoot: true,
    capabilities: 0,
    noNewPrivileges: true,
    seccomp: true,
    cores: false,
  };
}

/** Makes a key and has a message signed, by the image's own command; checks the signature here. */
export async function proved(container: Container) {
  const message = `signed through the image ${randomBytes(8).toString('hex')}`;
  const key = await command<{ publicKey: string; custody: string }>(container, [
    'keys',
    'generate',
    'demo',
    '--slot',
    'main',
  ]);
  const { signature } = await command<{ signature: string }>(container, [
    'sign',
    'demo',
    '--message',
    message,
  ]);
  const publicKey = decodeBase58(key.publicKey) ?? new Uint8Array();
  const verified = await createVerifier(publicKey).verify(
    Buffer.from(message),
    decodeBase58(signature) ?? new Uint8Array(),
  );
  if (!verified) throw new Error('the signature does not verify');
  return { address: key.publicKey, custody: key.custody, signature, verified };
}

const user = 65_532;

async function command<T>(container: Container, args: readonly string[]): Promise<T> {
  const { status, stdout, stderr } = await container.exec([node, main, ...args, '--json']);
  if (status === 0) return JSON.parse(stdout) as T;
  throw new Error(`keyslot ${args[0]}: ${stdout}${stderr}`);
}

const node = '/opt/keyslot/bin/node';
const main = '/opt/keyslot/dist/cli/main.js';

const succeeds = async (container: Container, program: readonly string[]): Promise<boolean> =>
  (await container.exec(program)).status === 0;

async function eventually(what: string, bound_s: number, holds: () => Promise<boolean>): Promise<void> {
  const until = performance.now() + bound_s * 1000;
  while (!(await holds())) {
    if (performance.now() > until) throw new Error(`${what}: not within ${bound_s} s`);
    await new Promise(done => setTimeout(done, 200));
  }
}

function processesBelow(first: number): readonly number[] {
  const all = readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .map(Number);
  const below = (pid: number): readonly number[] => [
    pid,
    ...all.filter(each => parentOf(each) === pid).flatMap(below),
  ];
  return below(first);
}

const parentOf = (pid: number): number => Number(field(pid, 'PPid'));

/** A line of /proc/PID/status; empty when the process is gone. */
function field(pid: number, name: string): string {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(status)?.[1] ?? '';
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return '';
    throw error;
  }
}

function refuseRights(pid: number): void {
  const expected = {
    Uid: `${user}\t${user}\t${user}\t${user}`,
    Gid: `${user}\t${user}\t${user}\t${user}`,
    Groups: '',
    NoNewPrivs: '1',
    Seccomp: '2',
    ...Object.fromEntries(
      ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'].map(name => [name, '0'.repeat(16)]),
    ),
  };
  for (const [name, value] of Object.entries(expected)) {
    const found = field(pid, name).trim();
    if (found !== value) throw new Error(`process ${pid}: ${name} is ${found}, not ${value}`);
  }
}

/** No core file, and nothing for another process of the same user to read: what is not dumpable is root's in /proc. */
function refuseLooks(pid: number): void {
  const limits = readFileSync(`/proc/${pid}/limits`, 'utf8');
  if (!/^Max core file size +0 +0 /m.test(limits)) throw new Error(`process ${pid} may leave a core file`);
  if (statSync(`/proc/${pid}/environ`).uid !== 0) throw new Error(`process ${pid} is dumpable`);
}

async function refuseWrites(container: Container): Promise<void> {
  for (const path of ['/file', '/opt/keyslot/dist/file', '/etc/file', '/run/file', '/run/secrets/user.pin']) {
    const script = `try { fs.writeFileSync('${path}', ''); process.exit(1) } catch (error) { console.log(error.code) }`;
    const { status, stdout } = await container.exec([node, '--eval', script]);
    if (status !== 0) throw new Error(`${path} could be written`);
    if (!['EROFS', 'EACCES'].includes(stdout.trim())) throw new Error(`${path}: ${stdout}`);
  }
}

/** A process whose parent has gone becomes the first one's, which must take note of its end. */
async function collectsOrphans(container: Container, first: number): Promise<void> {
  const orphan = `setTimeout(() => undefined, 1000)`;
  const script = `require('node:child_process').spawn(process.execPath, ['--eval', ${JSON.stringify(orphan)}], { detached: true, stdio: 'ignore' }).unref()`;
  const before = processesBelow(first).length;
  const { status, stderr } = await container.exec([node, '--eval', script]);
  if (status !== 0) throw new Error(`the orphan was not made: ${stderr}`);
  if (processesBelow(first).length <= before) throw new Error('the orphan is not below the first process');
  await eventually('the orphan is collected', 10, async () => processesBelow(first).length === before);
}

/** The custodian is killed and comes back. */
async function survivesKill(container: Container, first: number, ready: readonly string[]): Promise<void> {
  const custodian = processesBelow(first).find(pid =>
    readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('custodian-process'),
  );
  if (custodian === undefined) throw new Error('there is no custodian');
  process.kill(custodian, 'SIGKILL');
  await eventually('the custodian is gone', 10, async () => field(custodian, 'State') === '');
  await eventually('/readyz after the custodian was killed', 30, async () => succeeds(container, ready));
}
