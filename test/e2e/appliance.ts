import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { IncomingHttpHeaders } from 'node:http';
import { Agent, request } from 'node:https';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import { expect } from 'vitest';
import { parse, stringify } from 'yaml';
import { type Authority, createAuthority, type Issued } from '../../src/appliance/certificates.ts';
import {
  auditLabel,
  findSoftHsm,
  prepareDevelopmentHome,
  secretFile,
} from '../../src/appliance/development.ts';
import { createToken } from '../../src/appliance/tokens.ts';
import type { ErrorCode } from '../../src/foundation/errors.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import type { ReceiptView } from '../../src/wire/audit.ts';
import type { KeyView, SlotView } from '../../src/wire/views.ts';

/** A real appliance for a test: a state folder of its own, `bin/keyslot serve` as a process, and HTTPS to it. */

export const root = resolve(import.meta.dirname, '..', '..');
export const keyslot = join(root, 'bin', 'keyslot');
export const tokenLabel = 'keyslot';

/** For processes that are started without our environment: where compiled code is, which saves half of a short one. */
const { NODE_COMPILE_CACHE } = process.env;
export const compiled: Record<string, string> = NODE_COMPILE_CACHE ? { NODE_COMPILE_CACHE } : {};

/** What a test changes in `keyslot.yaml`; loose, because some tests make it wrong. */
export interface YamlConfig {
  [setting: string]: unknown;
  slots: { [setting: string]: unknown; pin: unknown; settings?: Record<string, unknown> }[];
  identities: { [setting: string]: unknown; name: string }[];
}

export interface Home {
  readonly path: string;
  /** Where the standard error of every process of this home goes. */
  readonly log: string;
  readonly module: string;
  /** The development CA, to issue more certificates with. */
  readonly authority: Authority;
  secret(name: 'user.pin' | 'so.pin' | 'audit.pin' | 'developer.token'): string;
  configure(change: (config: YamlConfig) => void): void;
  /** The policies of the configuration from the next start on, and no others. */
  setPolicies(...documents: readonly { readonly name: string; readonly [rule: string]: unknown }[]): void;
  /** Another token in the token directory. */
  addToken(label: string): Promise<void>;
  /** Writes a client certificate into the home and lists it as an identity. */
  addIdentity(name: string, roles: readonly string[], slots: '*' | readonly string[]): Promise<Issued>;
  remove(): void;
}

/**
 * A development home with a token, as `scripts/start` makes it, with a CA whose key the test knows, and a policy that
 * lets every key sign everything. Its audit log is not signed, unless the test wants the audit slot and its token.
 */
export async function prepareHome(
  options: { path?: string; token?: boolean; audit?: boolean } = {},
): Promise<Home> {
  const folder = mkdtempSync(join(tmpdir(), 'keyslot-e2e-'));
  const path = options.path ? join(folder, options.path) : join(folder, 'home');
  const authority = await writeCertificates(join(path, 'tls'));
  const module = findSoftHsm();
  const files = await prepareDevelopmentHome({ home: path, module, tokenLabel, port: 0, opsPort: 0 });
  const addToken = async (label: string, pin = files.userPin) => {
    using soPin = secretFile(files.soPin);
    using userPin = secretFile(pin);
    await createToken({ module, label, soPin, userPin }, { SOFTHSM2_CONF: files.softhsmConf, ...compiled });
  };
  if (options.token !== false) await addToken(tokenLabel);
  const yaml = join(path, 'keyslot.yaml');
  const configure: Home['configure'] = change => {
    const config = parse(readFileSync(yaml, 'utf8')) as YamlConfig;
    change(config);
    writeFileSync(yaml, stringify(config), { mode: 0o600 });
  };
  const policies = join(path, 'policies');
  const setPolicies: Home['setPolicies'] = (...documents) => {
    for (const file of readdirSync(policies)) rmSync(join(policies, file));
    for (const document of documents) {
      writeFileSync(join(policies, `${document.name}.yaml`), stringify(document), { mode: 0o600 });
    }
  };
  setPolicies(everythingAllowed('everything', 'all'));
  if (options.audit) await addToken(auditLabel(tokenLabel), files.auditPin);
  else configure(withoutAuditSlot);
  return {
    path,
    log: join(folder, 'log'),
    module,
    authority,
    secret: name => readFileSync(join(path, 'secrets', name), 'utf8').trim(),
    configure,
    setPolicies,
    addToken,
    addIdentity: async (name, roles, slots) => {
      const issued = await authority.issueClient(name);
      writeFileSync(join(path, 'tls', `${name}.crt`), issued.certificate);
      configure(config => {
        config.identities.push({ name, roles, slots, certificate: { file: `tls/${name}.crt` } });
      });
      return issued;
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

function withoutAuditSlot(config: YamlConfig): void {
  config.slots = config.slots.filter(slot => slot.id !== 'audit');
  delete config.audit;
}

/** What prepareDevelopmentHome would write, but with the CA in our hands. */
async function writeCertificates(folder: string): Promise<Authority> {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const authority = await createAuthority('Keyslot test CA');
  const server = await authority.issueServer(['localhost', '127.0.0.1', '::1']);
  const developer = await authority.issueClient('developer');
  for (const [name, { certificate, key }] of Object.entries({ ca: authority, server, developer })) {
    writeFileSync(join(folder, `${name}.crt`), `${certificate}\n`);
    writeFileSync(join(folder, `${name}.key`), `${key}\n`, { mode: 0o600 });
  }
  writeFileSync(join(folder, 'complete'), '');
  return authority;
}

export interface Exit {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface Appliance extends AsyncDisposable {
  readonly url: string;
  readonly opsUrl: string;
  readonly pid: number;
  readonly exited: Promise<Exit>;
  /** Asks for the pid of a process of the appliance; waits for one that is being restarted. */
  child(name: 'custodian' | 'gateway', other?: number): Promise<number>;
  client(who?: Credential): Client;
  stop(): Promise<Exit>;
}

export type Credential = Issued | { readonly token: string } | 'developer' | 'nobody';

/** Starts `keyslot serve` and waits for its line; fails with what it printed when it ends instead. */
export async function serve(
  home: Pick<Home, 'path' | 'log'>,
  options: { args?: readonly string[]; environment?: Record<string, string> } = {},
): Promise<Appliance> {
  const { args = ['--home', home.path, '--port', '0', '--ops-port', '0', '--json'], environment = {} } =
    options;
  const child = spawn(keyslot, ['serve', ...args], {
    stdio: ['ignore', 'pipe', openSync(home.log, 'a', 0o600)],
    env: { ...process.env, ...environment },
  });
  live.add(child);
  const exited = exitOf(child);
  let output = '';
  const announced = new Promise<string>(done => {
    child.stdout?.on('data', chunk => {
      output += String(chunk);
      if (output.includes('\n')) done(output);
    });
  });
  const first = await Promise.race([announced, exited.then(() => output)]);
  const said = (first ? JSON.parse(first) : {}) as {
    url?: string;
    opsUrl?: string;
    error?: { code: string };
  };
  if (!said.url || !said.opsUrl) {
    const { status } = await exited;
    throw new StartRefused(said.error?.code ?? '', status, output);
  }
  const { url, opsUrl } = said as { url: string; opsUrl: string };
  const pid = child.pid ?? 0;
  const stop = async () => {
    child.kill('SIGTERM');
    return exited;
  };
  return {
    url,
    opsUrl,
    pid,
    exited,
    child: (name, other) => childOf(pid, name, other),
    client: (who = 'developer') => new Client(url, tlsOf(home, who), headersOf(who)),
    stop,
    [Symbol.asyncDispose]: async () => {
      await stop();
    },
  };
}

export class StartRefused extends Error {
  readonly code: string;
  readonly status: number | null;
  readonly output: string;

  constructor(code: string, status: number | null, output: string) {
    super(`keyslot serve ended with ${status}: ${output}`);
    this.code = code;
    this.status = status;
    this.output = output;
  }
}

/** The code that `keyslot serve` refuses to start with. */
export async function refusal(started: Promise<Appliance>): Promise<string> {
  try {
    await (await started).stop();
  } catch (thrown) {
    if (thrown instanceof StartRefused && thrown.status === 1) return thrown.code;
    throw thrown;
  }
  return 'started';
}

/** What a test that failed has not stopped; the children of an appliance end with it. */
const live = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of live) child.kill('SIGKILL');
});

const exitOf = (child: ChildProcess): Promise<Exit> =>
  new Promise(done => child.on('exit', (status, signal) => done({ status, signal })));

export interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command to its end. */
export async function run(
  command: string,
  args: readonly string[],
  options: { environment?: Record<string, string | undefined>; cwd?: string; input?: string } = {},
): Promise<Ran> {
  const child = spawn(command, args, {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, ...options.environment },
    ...(options.cwd ? { cwd: options.cwd } : {}),
  });
  const texts = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].on('data', chunk => {
      texts[name] += String(chunk);
    });
  }
  child.stdin.on('error', () => undefined); // it may end without reading
  child.stdin.end(options.input ?? '');
  const closed = new Promise<number | null>(done => child.on('close', done));
  const status = await closed;
  return { status, ...texts };
}

export const isRunning = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
};

/** Waits for something to become true; the bound is there to fail, not to measure. */
export async function eventually<T>(what: string, look: () => T | Promise<T>): Promise<NonNullable<T>> {
  for (const start = Date.now(); ; ) {
    const found = await look();
    if (found) return found;
    if (Date.now() - start > eventually_ms) throw new Error(`It never happened: ${what}`);
    await new Promise(done => setTimeout(done, 20));
  }
}

const eventually_ms = 20_000;

const childOf = (parent: number, name: string, other?: number): Promise<number> =>
  eventually(`a ${name} process`, () => childrenOf(parent).find(pid => pid !== other && runs(pid, name)));

export function childrenOf(parent: number): number[] {
  return readdirSync('/proc')
    .filter(entry => /^\d+$/.test(entry))
    .map(Number)
    .filter(pid => {
      const status = contentOf(`/proc/${pid}/status`);
      return status.includes(`\nPPid:\t${parent}\n`) && !/^State:\s+Z/m.test(status);
    });
}

/** Every live process whose command line or environment mentions the folder: what an appliance left behind. */
export const processesOf = (folder: string): number[] =>
  readdirSync('/proc')
    .filter(entry => /^\d+$/.test(entry) && Number(entry) !== process.pid)
    .filter(pid =>
      `${contentOf(`/proc/${pid}/cmdline`)}${contentOf(`/proc/${pid}/environ`)}`.includes(folder),
    )
    .map(Number);

const runs = (pid: number, name: string) => contentOf(`/proc/${pid}/cmdline`).includes(`${name}-process`);

function contentOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return ''; // the process has ended meanwhile
  }
}

/** Resident memory of a process, in MiB. */
export const residentMiB = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+) kB/m.exec(contentOf(`/proc/${pid}/status`))?.[1] ?? 0) / 1024;

/** Everything that answers hold which these tests look at. */
export interface Answer
  extends Partial<Omit<KeyView, 'state'>>,
    Partial<Omit<SlotView, 'state' | 'custody' | 'id'>> {
  readonly code?: ErrorCode;
  readonly requestId?: string;
  readonly retryable?: boolean;
  readonly state?: string;
  readonly reason?: { readonly code: string; readonly detail: string };
  readonly signature?: string;
  readonly signatureBase64?: string;
  readonly signedTransaction?: string;
  readonly version?: string;
  readonly kind?: string;
  readonly valid?: boolean;
  readonly receipt?: ReceiptView;
  readonly token?: string;
  readonly slots?: readonly SlotView[];
  readonly keys?: readonly KeyView[];
  readonly next?: string;
  readonly results?: readonly (Answer & { readonly error?: Answer })[];
  readonly ready?: boolean;
  readonly checks?: readonly { readonly id: string; readonly ok: boolean; readonly state: string }[];
  readonly status?: number | string;
}

export interface Reply {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly json: Answer;
}

/** HTTPS with connections that are kept. A body that is text or bytes is sent as it is, anything else as JSON. */
export class Client {
  readonly url: string;
  readonly tls: ConnectionOptions;
  readonly #headers: Record<string, string>;
  readonly #agent: Agent;

  constructor(url: string, tls: ConnectionOptions, headers: Record<string, string> = {}, maxSockets = 64) {
    this.url = url;
    this.tls = tls;
    this.#headers = headers;
    this.#agent = new Agent({ keepAlive: true, maxSockets });
  }

  get(path: string, headers: Record<string, string> = {}): Promise<Reply> {
    return this.send('GET', path, { headers });
  }

  post(path: string, body: unknown, headers: Record<string, string> = {}): Promise<Reply> {
    return this.send('POST', path, { body, headers });
  }

  /** Rejects when the connection ends without an answer, or when none comes: a hang is a failure. */
  send(
    method: string,
    path: string,
    options: { body?: unknown; headers?: Record<string, string>; chunked?: boolean } = {},
  ): Promise<Reply> {
    const { body, chunked = false } = options;
    const bytes = typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body);
    const headers: Record<string, string> = {
      ...(bytes === undefined ? {} : { 'Content-Type': 'application/json' }),
      ...(bytes === undefined || chunked ? {} : { 'Content-Length': String(Buffer.byteLength(bytes)) }),
      ...this.#headers,
      ...options.headers,
    };
    const { hostname, port } = new URL(this.url);
    const { promise, resolve: done, reject } = Promise.withResolvers<Reply>();
    // The path goes out as it is written: a URL object would tidy up what a test wants to be untidy.
    const outgoing = request(
      { method, hostname, port, path, headers, agent: this.#agent, timeout: hang_ms, ...this.tls },
      response => {
        const chunks: Buffer[] = [];
        response.on('data', chunk => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString();
          done({
            status: response.statusCode ?? 0,
            headers: response.headers,
            text,
            json: parsed(text),
          });
        });
      },
    );
    outgoing.on('timeout', () => outgoing.destroy(new Error(`${method} ${path} hangs`)));
    outgoing.on('error', reject);
    outgoing.end(bytes);
    return promise;
  }

  /** A TLS connection and nothing on it yet. */
  raw(options: ConnectionOptions = {}): Promise<TLSSocket> {
    const { hostname, port } = new URL(this.url);
    const { promise, resolve: done, reject } = Promise.withResolvers<TLSSocket>();
    const socket = connect({ host: hostname, port: Number(port), ...this.tls, ...options }, () =>
      done(socket),
    );
    socket.on('error', reject);
    return promise;
  }

  close(): void {
    this.#agent.destroy();
  }
}

const hang_ms = 45_000;

function parsed(text: string): Answer {
  try {
    return JSON.parse(text) as Answer;
  } catch {
    return {};
  }
}

export function tlsOf(home: Pick<Home, 'path'>, who: Credential): ConnectionOptions {
  const file = (name: string) => readFileSync(join(home.path, 'tls', name));
  const ca = file('ca.crt');
  if (who === 'nobody') return { ca };
  if (who === 'developer') return { ca, cert: file('developer.crt'), key: file('developer.key') };
  return 'token' in who ? { ca } : { ca, cert: who.certificate, key: who.key };
}

const headersOf = (who: Credential): Record<string, string> =>
  typeof who === 'object' && 'token' in who ? { Authorization: `Bearer ${who.token}` } : {};

/** A refusal as it must look: problem+json with this code, its id, and nothing that a cache could keep. */
export function expectProblem(reply: Reply, status: number, code: ErrorCode): void {
  expect({ status: reply.status, code: reply.json.code }).toEqual({ status, code });
  expect(reply.headers['content-type']).toBe('application/problem+json');
  expect(reply.headers['cache-control']).toBe('no-store');
  expect(reply.json.requestId).toBe(reply.headers['request-id']);
  expect(reply.json.status).toBe(status);
}

export const base64 = (content: string | Uint8Array): string =>
  Buffer.from(content as Uint8Array).toString('base64');
