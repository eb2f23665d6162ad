import { spawn } from 'node:child_process';
import { openSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Readable } from 'node:stream';
import { parseArgs } from 'node:util';
import { readConfig } from '../src/appliance/config.ts';
import { auditLabel, findSoftHsm, prepareDevelopmentHome, secretFile } from '../src/appliance/development.ts';
import { homeFromEnvironment } from '../src/appliance/environment.ts';
import { Home } from '../src/appliance/home.ts';
import { createToken } from '../src/appliance/tokens.ts';
import { Connection } from '../src/cli/connection.ts';
import { isErrorCode, isKeyslotError, KeyslotError, toKeyslotError } from '../src/foundation/errors.ts';
import type { KeyView, SlotView } from '../src/wire/views.ts';
import { proveTransfer } from './prove-transfer.ts';

/**
 * The main job, shown: prepares a development state folder, starts the appliance, has a transfer signed inside
 * the token over HTTPS, executes it in a Solana runtime, and goes on serving (or stops, with --once).
 */

const root = resolve(import.meta.dirname, '..');
const tokenLabel = 'keyslot';
const key = 'demo';

interface Flags {
  readonly once: boolean;
  readonly port: number;
  readonly home: string;
}

async function main(flags: Flags): Promise<void> {
  {
    // Two starts at once would make two tokens of one name: the second is told that the first is here.
    using _taken = new Home(flags.home);
    await prepare(flags);
  }
  await using appliance = await serve(flags);
  const connection = new Connection(readConfig(flags.home));
  const proof = await prove(connection);
  if (flags.once) {
    await appliance[Symbol.asyncDispose]();
    console.log(JSON.stringify(proof));
    return;
  }
  using token = secretFile(join(flags.home, 'secrets', 'developer.token'));
  const { home } = flags;
  console.log(token.useText(text => greeting(proof, { url: appliance.url, home, token: text })));
  await appliance.ended;
}

/** Makes what is missing: folder, PINs, certificates, configuration, token. Keeps what is there. */
async function prepare({ home, port }: Flags): Promise<void> {
  const module = findSoftHsm();
  const files = await prepareDevelopmentHome({ home, module, tokenLabel, port, opsPort: port + 1000 });
  using soPin = secretFile(files.soPin);
  const tokens = { [tokenLabel]: files.userPin, [auditLabel(tokenLabel)]: files.auditPin };
  for (const [label, pinFile] of Object.entries(tokens)) {
    using userPin = secretFile(pinFile);
    const made = await createToken({ module, label, soPin, userPin }, { SOFTHSM2_CONF: files.softhsmConf });
    if (made) console.log(`Made the SoftHSM token "${label}" in ${home}.`);
  }
}

interface Appliance extends AsyncDisposable {
  readonly url: string;
  /** Resolves when the appliance has ended; rejects when it did so by itself. */
  readonly ended: Promise<void>;
}

/** `keyslot serve` as anybody would run it, with its log in a file. */
async function serve({ home, port }: Flags): Promise<Appliance> {
  const logFile = join(home, 'keyslot.log');
  const command = ['serve', '--home', home, '--port', String(port), '--json'];
  const child = spawn(join(root, 'bin', 'keyslot'), command, {
    stdio: ['ignore', 'pipe', openSync(logFile, 'a', 0o600)],
  });
  let stopping = false;
  const stop = () => {
    stopping = true;
    child.kill('SIGTERM');
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop);
  const exited = new Promise<number | null>(done => child.on('exit', done));
  const { url } = await announced(child.stdout, exited, logFile);
  const ended = exited.then(status => {
    if (status === 0 && stopping) return;
    throw new KeyslotError('INTERNAL', `The appliance ended with status ${status}; its log is ${logFile}.`);
  });
  ended.catch(() => undefined); // told to whoever waits for it
  return {
    url,
    ended,
    [Symbol.asyncDispose]: async () => {
      if (!stopping) stop();
      await ended;
    },
  };
}

/** The line that says where the appliance listens, or the failure that it ended with instead. */
async function announced(
  output: Readable | null,
  exited: Promise<unknown>,
  logFile: string,
): Promise<{ url: string }> {
  let text = '';
  const { promise, resolve: found } = Promise.withResolvers<{ url: string }>();
  output?.on('data', chunk => {
    text += String(chunk);
    if (text.startsWith('{"url"') && text.includes('\n')) found(JSON.parse(text));
  });
  const answer = await Promise.race([promise, exited.then(() => undefined)]);
  if (answer) return answer;
  const { error } = JSON.parse(text || '{}') as { error?: { code: string; detail: string } };
  if (error && isErrorCode(error.code)) throw new KeyslotError(error.code, error.detail);
  throw new KeyslotError('INTERNAL', `The appliance did not start; its log is ${logFile}.`);
}

/** Generates the key when it is not there, has a transfer signed by it, and executes the transfer. */
async function prove(connection: Connection) {
  const shown = await keyShown(connection);
  const slot = await connection.get<SlotView>(`/v1/slots/${shown.slot}`);
  const { signature, executed, verified } = await proveTransfer(shown.publicKey, async transaction =>
    connection.post(`/v1/keys/${key}/sign-transaction`, { transaction }),
  );
  return {
    address: shown.publicKey,
    signature,
    custody: shown.custody,
    module: String(slot.details.module),
    tokenLabel: String(slot.details.tokenLabel),
    verified,
    executed,
  };
}

async function keyShown(connection: Connection): Promise<KeyView> {
  try {
    return await connection.get<KeyView>(`/v1/keys/${key}`);
  } catch (thrown) {
    if (!isKeyslotError(thrown) || thrown.code !== 'KEY_UNKNOWN') throw thrown;
    return connection.post<KeyView>('/v1/keys', { id: key, slot: 'main' });
  }
}

/** Shown on the terminal of whoever started it, the development token included; nothing of it is logged. */
function greeting(
  proof: Awaited<ReturnType<typeof prove>>,
  { url, home, token }: { url: string; home: string; token: string },
): string {
  const message = Buffer.from('hello from keyslot').toString('base64');
  const file = (name: string) => shellWord(join(home, name));
  return `
A transfer was signed inside the token "${proof.tokenLabel}" (${proof.module})
and executed by a Solana runtime.

  address    ${proof.address}
  signature  ${proof.signature}
  custody    ${proof.custody}

Keyslot goes on serving ${url}. Try it from another terminal:

  curl --cacert ${file('tls/ca.crt')} --cert ${file('tls/developer.crt')} --key ${file('tls/developer.key')} \\
    -H 'Content-Type: application/json' -d '{"message":"${message}"}' \\
    ${url}/v1/keys/${key}/sign-message

Or with the bearer token of the development profile, which is in ${home}/secrets/developer.token:

  curl --cacert ${file('tls/ca.crt')} -H 'Authorization: Bearer ${token}' ${url}/v1/slots

Ctrl-C stops it.`;
}

/** A path as a shell reads it back in one piece. */
const shellWord = (path: string): string =>
  /^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`;

function parsedFlags(): Flags {
  const { values } = parseArgs({
    options: { once: { type: 'boolean' }, port: { type: 'string' }, home: { type: 'string' } },
  });
  const port = Number(values.port ?? 8443);
  if (!Number.isInteger(port) || port < 1 || port > 64_535)
    throw new TypeError('--port takes a number from 1 to 64535.');
  const home = resolve(values.home ?? homeFromEnvironment() ?? join(root, 'var'));
  return { once: values.once ?? false, port, home };
}

let flags: Flags;
try {
  flags = parsedFlags();
} catch (thrown) {
  console.error(`keyslot: ${(thrown as Error).message}`);
  console.error('usage: scripts/start [--once] [--port PORT] [--home DIR]');
  process.exit(2);
}
try {
  await main(flags);
} catch (thrown) {
  const error = toKeyslotError(thrown);
  console.error(`keyslot: ${error.code}: ${error.message} ${error.entry.remedy}`);
  if (error.code === 'INTERNAL') console.error(error.cause);
  process.exitCode = 1;
}
