import { spawn } from 'node:child_process';
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Readable } from 'node:stream';
import { readConfig } from '../../src/appliance/config.ts';
import {
  auditLabel,
  findSoftHsm,
  prepareDevelopmentHome,
  secretFile,
} from '../../src/appliance/development.ts';
import { createToken } from '../../src/appliance/tokens.ts';
import { Connection } from '../../src/cli/connection.ts';
import type { KeyView } from '../../src/wire/views.ts';

const root = resolve(import.meta.dirname, '..', '..');
const tokenLabel = 'keyslot-bench';

/** What the benchmark signs with. */
export const benchKey = 'bench';

/** A state folder of this run alone: its own token, PINs and certificates. */
export interface BenchHome {
  readonly home: string;
  readonly module: string;
  readonly tokenLabel: string;
  readonly pinFile: string;
  readonly softhsmConf: string;
}

/** Made in the temporary folder of the system, and removed with everything in it when `stack` is disposed of. */
export async function prepareHome(stack: AsyncDisposableStack): Promise<BenchHome> {
  const home = mkdtempSync(join(tmpdir(), 'keyslot-bench-'));
  stack.defer(() => rmSync(home, { recursive: true, force: true }));
  const module = findSoftHsm();
  const files = await prepareDevelopmentHome({ home, module, tokenLabel, port: 0, opsPort: 0 });
  using soPin = secretFile(files.soPin);
  using userPin = secretFile(files.userPin);
  using auditPin = secretFile(files.auditPin);
  const environment = { SOFTHSM2_CONF: files.softhsmConf };
  await createToken({ module, label: tokenLabel, soPin, userPin }, environment);
  await createToken({ module, label: auditLabel(tokenLabel), soPin, userPin: auditPin }, environment);
  writeFileSync(join(home, 'policies', 'bench.json'), JSON.stringify(benchPolicy), { mode: 0o600 });
  return { home, module, tokenLabel, pinFile: files.userPin, softhsmConf: files.softhsmConf };
}

/** What a treasury might have: every rule that counts is asked, and nothing is refused. */
const benchPolicy = {
  name: 'bench',
  appliesTo: { keys: [benchKey] },
  times: [
    { days: ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'], from: '00:00', to: '24:00', zone: 'UTC' },
  ],
  rate: [{ max: 1_000_000_000, window: '1h', per: 'identity' }],
  transactions: {
    programs: [{ program: 'system', instructions: ['transfer'] }],
    destinations: 'any',
    caps: {
      perTransaction: { lamports: 10_000_000_000 },
      windows: [
        { id: 'hour', window: '1h', lamports: '9000000000000000000', per: 'key' },
        { id: 'day', window: '24h', lamports: '9000000000000000000', per: 'policy' },
      ],
    },
    fees: { max_lamports: 1_000_000 },
    feePayer: 'self',
  },
  messages: { bytes: 'any' },
};

/**
 * `keyslot serve` on that folder, as anybody would run it, with the key that is measured; or the same without
 * policies and audit log.
 */
export interface Appliance {
  readonly url: string;
  readonly opsUrl: string;
  readonly pid: number;
  readonly publicKey: string;
}

export async function startAppliance(
  { home }: BenchHome,
  stack: AsyncDisposableStack,
  options: { bare?: boolean } = {},
): Promise<Appliance> {
  if (stack.disposed) throw new Error('The run was interrupted.'); // nothing is started that nobody would stop
  const logFile = join(home, 'keyslot.log');
  const serve = [
    join(root, 'bin', 'keyslot'),
    'serve',
    '--home',
    home,
    '--port',
    '0',
    '--ops-port',
    '0',
    '--json',
  ];
  const bare = [process.execPath, join(import.meta.dirname, 'bare-serve.ts'), home];
  const [program = '', ...command] = options.bare ? bare : serve;
  const child = spawn(program, command, {
    stdio: ['ignore', 'pipe', openSync(logFile, 'a', 0o600)],
  });
  const exited = new Promise<void>(done => {
    child.on('exit', () => done());
    child.on('error', () => done());
  });
  stack.defer(async () => {
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), stop_ms);
    await exited;
    clearTimeout(timer);
  });
  const { url, opsUrl } = await announced(child.stdout, exited, logFile);
  const connection = new Connection(readConfig(home));
  const { publicKey } = await connection.post<KeyView>('/v1/keys', { id: benchKey, slot: 'main' });
  return { url, opsUrl, pid: child.pid ?? 0, publicKey };
}

// A little more than the appliance grants its own processes.
const stop_ms = 12_000;

/** The line that says where the appliance listens; when it ends instead, the end of its log says why. */
async function announced(
  output: Readable | null,
  exited: Promise<void>,
  logFile: string,
): Promise<Announced> {
  const { promise, resolve: found } = Promise.withResolvers<Announced>();
  let text = '';
  output?.on('data', chunk => {
    text += String(chunk);
    if (text.startsWith('{"url"') && text.includes('\n')) found(JSON.parse(text) as Announced);
  });
  const said = await Promise.race([promise, exited]);
  if (said) return said;
  throw new Error(`The appliance did not start. ${text}${readFileSync(logFile, 'utf8').slice(-2_000)}`);
}

type Announced = Pick<Appliance, 'url' | 'opsUrl'>;
