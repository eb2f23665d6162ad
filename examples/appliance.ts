import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createKeyslotClient } from 'keyslot/client';
import { mtlsFetch } from 'keyslot/client/node';
import { parse, stringify } from 'yaml';
import { createAuthority } from '../src/appliance/certificates.ts';
import { auditLabel, findSoftHsm, prepareDevelopmentHome, secretFile } from '../src/appliance/development.ts';
import { createToken } from '../src/appliance/tokens.ts';

/**
 * What an example finds in place: an appliance of its own over a SoftHSM token in a temporary folder, the key
 * `treasury` in it with a policy, and an identity that may sign there and do nothing else. An application has none of this
 * file: its operator did it.
 */
export interface Appliance extends AsyncDisposable {
  readonly url: string;
  /** The Solana address of the key `treasury`. */
  readonly address: string;
  /** What the operator hands to the application. The token is another credential for the same rights. */
  readonly files: {
    readonly ca: string;
    readonly certificate: string;
    readonly key: string;
    readonly token: string;
  };
}

/** Stopped and removed when it is disposed of, and when the example is interrupted. */
export async function startAppliance(options: { vaultTransit?: boolean } = {}): Promise<Appliance> {
  const made = new AsyncDisposableStack();
  let ended: Promise<void> | undefined;
  const end = (): Promise<void> => {
    ended ??= made.disposeAsync();
    return ended;
  };
  for (const [signal, number] of Object.entries({ SIGHUP: 1, SIGINT: 2, SIGTERM: 15 })) {
    // Not `once`: a terminal and whoever started this may both send it, and the second would kill.
    process.on(signal, () => void end().finally(() => process.exit(128 + number)));
  }
  try {
    const folder = mkdtempSync(join(tmpdir(), 'keyslot-example-'));
    made.defer(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }));
    const home = join(folder, 'home');
    await prepare(home, options.vaultTransit ?? false);
    const url = await serve(home, made);
    const file = (name: string) => join(home, name);
    return {
      url,
      address: await treasury(url, file),
      files: {
        ca: file('tls/ca.crt'),
        certificate: file('tls/payments.crt'),
        key: file('tls/payments.key'),
        token: file('secrets/payments.token'),
      },
      [Symbol.asyncDispose]: end,
    };
  } catch (error) {
    await end();
    throw error;
  }
}

/** The development home of `scripts/start`, and the application among its identities. */
async function prepare(home: string, vaultTransit: boolean): Promise<void> {
  await writeCertificates(join(home, 'tls'));
  const module = findSoftHsm();
  const tokenLabel = 'keyslot';
  const files = await prepareDevelopmentHome({ home, module, tokenLabel, port: 0, opsPort: 0 });
  using soPin = secretFile(files.soPin);
  using userPin = secretFile(files.userPin);
  using auditPin = secretFile(files.auditPin);
  const environment = { SOFTHSM2_CONF: files.softhsmConf };
  await createToken({ module, label: tokenLabel, soPin, userPin }, environment);
  await createToken({ module, label: auditLabel(tokenLabel), soPin, userPin: auditPin }, environment);

  writeFileSync(join(home, 'policies', 'treasury.yaml'), stringify(treasuryPolicy), { mode: 0o600 });
  writeFileSync(join(home, 'secrets', 'payments.token'), randomBytes(32).toString('hex'), { mode: 0o600 });
  const yaml = join(home, 'keyslot.yaml');
  const config = parse(readFileSync(yaml, 'utf8')) as { identities: object[]; facade?: object };
  const least = { roles: ['signer'], slots: ['main'] };
  config.identities.push(
    { name: 'payments', ...least, certificate: { file: 'tls/payments.crt' } },
    { name: 'payments-token', ...least, token: { file: 'secrets/payments.token' } },
  );
  config.facade = { vaultTransit };
  writeFileSync(yaml, stringify(config));
}

/** What the key may sign: transfers of SOL to whomever, in small amounts; the fee is its own. */
const treasuryPolicy = {
  name: 'treasury',
  appliesTo: { keys: ['treasury'] },
  transactions: {
    programs: [{ program: 'system', instructions: ['transfer'] }],
    destinations: 'any',
    caps: {
      perTransaction: { lamports: 50_000_000 },
      windows: [{ window: '24h', lamports: 1_000_000_000 }],
    },
  },
};

/** Those that prepareDevelopmentHome would make, and one for the application. */
async function writeCertificates(folder: string): Promise<void> {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const ca = await createAuthority('Keyslot example CA');
  const server = await ca.issueServer(['localhost', '127.0.0.1', '::1']);
  const developer = await ca.issueClient('developer');
  const payments = await ca.issueClient('payments');
  for (const [name, { certificate, key }] of Object.entries({ ca, server, developer, payments })) {
    writeFileSync(join(folder, `${name}.crt`), `${certificate}\n`);
    writeFileSync(join(folder, `${name}.key`), `${key}\n`, { mode: 0o600 });
  }
  writeFileSync(join(folder, 'complete'), '');
}

/** `keyslot serve` as anybody would run it, on ports that are free. */
async function serve(home: string, made: AsyncDisposableStack): Promise<string> {
  if (made.disposed) throw new Error('Interrupted.');
  const log = openSync(join(home, 'keyslot.log'), 'a', 0o600);
  const command = ['serve', '--home', home, '--port', '0', '--ops-port', '0', '--json'];
  const child = spawn(join(root, 'bin', 'keyslot'), command, { stdio: ['ignore', 'pipe', log] });
  made.defer(() => stop(child));
  closeSync(log);
  const said = await firstLine(child);
  const { url } = JSON.parse(said || '{}') as { url?: string };
  if (!url) throw new Error(`The appliance did not start: ${said}`);
  return url;
}

/** What it says first: where it listens, or why it does not. */
function firstLine(child: ChildProcess): Promise<string> {
  const { promise, resolve: done, reject } = Promise.withResolvers<string>();
  let said = '';
  child.stdout?.on('data', chunk => {
    said += String(chunk);
    if (said.includes('\n')) done(said);
  });
  child.on('error', reject);
  child.on('exit', () => done(said));
  return promise;
}

const root = resolve(import.meta.dirname, '..');

/** What is in flight is answered and the token is logged out of; one that hangs is killed. */
async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise(done => child.once('exit', done));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), stop_ms);
  await exited;
  clearTimeout(timer);
}

const stop_ms = 15_000;

/** Makes the key, as the operator that the application is not. */
async function treasury(url: string, file: (name: string) => string): Promise<string> {
  const [ca, certificate, key] = ['ca.crt', 'developer.crt', 'developer.key'].map(name =>
    readFileSync(file(`tls/${name}`)),
  ) as [Buffer, Buffer, Buffer];
  await using fetch = mtlsFetch({ ca, certificate, key });
  const operator = createKeyslotClient({ url, fetch });
  return (await operator.keys.generate('treasury', 'main')).publicKey;
}
