import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import {
  type ClientRequest,
  createServer,
  Agent as HttpAgent,
  type RequestListener,
  request,
  type Server,
} from 'node:http';
import { type AddressInfo, createServer as createSocketServer, type Server as SocketServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Role } from '../../src/custodian/grants.ts';
import type { Identity } from '../../src/custodian/identities.ts';
import type { Configuration } from '../../src/custodian/reload.ts';
import type { SlotSetting } from '../../src/custodian/slot-keeper.ts';
import { generates, type Slot } from '../../src/custody/engine.ts';
import { keyId, slotId } from '../../src/custody/ids.ts';
import { createMemoryEngine } from '../../src/engines/memory/index.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { Drain, withDrain } from '../../src/gateway/drain.ts';
import { createOps, withHealth } from '../../src/gateway/ops.ts';
import { createApi } from '../../src/gateway/routes.ts';
import { withVaultTransit } from '../../src/gateway/vault-transit.ts';
import { withWallets } from '../../src/gateway/wallets.ts';
import { everythingAllowed } from '../../src/policy/permissive.ts';
import type { Custodian } from '../../src/wire/custodian.ts';
import { encodeFrame, FrameReader } from '../../src/wire/frames.ts';
import { grantOperations, roles } from '../../src/wire/identities.ts';
import { pinText } from '../custodian/device.ts';
import { Lab, robot, sha256 } from '../custodian/lab.ts';
import { RpcNode } from './rpc-node.ts';

/** Whom the open house knows, by bearer tokens. */
const everyRole: readonly Role[] = roles;
const people = {
  /** May do everything. */
  alice: everyRole,
  /** Is somebody else than alice. */
  bob: everyRole,
  /** Presents wrong PINs. */
  clumsy: ['operator', 'signer'],
  roleless: [],
  /** Has a role and is granted nothing. */
  ungranted: ['signer'],
} as const satisfies Record<string, readonly Role[]>;
export type Person = keyof typeof people;

export const tokenOf = (who: Person): string => `bearer-token-of-${who}`;

/**
 * Every route there is, over plain HTTP on 127.0.0.1, before a real custodian with three slots in memory: `main`,
 * `spare`, and `audit` for the audit key. Beside it the same routes before custodians that are not well.
 */
export class OpenHouse implements AsyncDisposable {
  readonly lab: Lab;
  readonly node: RpcNode;
  readonly folder: string;
  readonly #files: Files;
  readonly #opened: AsyncDisposableStack;

  private constructor(
    parts: { lab: Lab; node: RpcNode; folder: string; files: Files },
    opened: AsyncDisposableStack,
  ) {
    this.lab = parts.lab;
    this.node = parts.node;
    this.folder = parts.folder;
    this.#files = parts.files;
    this.#opened = opened;
  }

  static async open(): Promise<OpenHouse> {
    await using opened = new AsyncDisposableStack();
    const folder = mkdtempSync(join(tmpdir(), 'keyslot-open-house-'));
    opened.defer(() => rmSync(folder, { recursive: true, force: true }));
    const node = opened.use(await RpcNode.start());
    const freezeFile = join(folder, 'freeze');
    writeFileSync(freezeFile, 'key/iced\n');
    const slots: Slot[] = [];
    for (const id of ['main', 'spare', 'audit']) {
      const engine = opened.use(createMemoryEngine(slotId(id)));
      slots.push(...(await engine.slots()));
    }
    await withUnknownKey(slots[0]);
    const files: Files = { broken: false };
    const lab = await Lab.with(
      {
        identities: [...Object.keys(people).map(name => identityOf(name as Person)), robotIdentity],
        audit: {
          key: { slot: slotId('audit'), id: 'audit' },
          witnesses: [{ file: join(folder, 'witness.jsonl') }],
          segment_records: 8,
        },
        policies: { documents: [everythingAllowed('base', 'all')], freezeFile },
        approvals: new Map([
          ['export-key', 1],
          ['destroy-key', 1],
        ]),
        apiTokens: { key: Secret.fromBytes(new Uint8Array(32).fill(7)), max_s: 90 * 86_400 },
        exports: true,
        source: async () => sameAs(files),
        slots: slots.map(slotSetting),
      },
      ...slots.map(slot => ({ slot, source: () => pinText })),
    );
    opened.use(lab);
    const [failure] = await lab.custodian.openUnattended();
    if (failure) throw failure;
    return new OpenHouse({ lab, node, folder, files }, opened.move());
  }

  /** Whether the files of the configuration say something wrong when they are read again. */
  set brokenFiles(broken: boolean) {
    this.#files.broken = broken;
  }

  /** The routes before whichever custodian, at a URL. */
  async serve(
    custodian: Custodian = this.lab.custodian,
    { rpcUrl, namespace }: { rpcUrl?: string; namespace?: string } = { rpcUrl: this.node.url },
  ): Promise<string> {
    return this.#listen(everyRoute(custodian, { rpcUrl, namespace }));
  }

  /** The routes of the ops listener before whichever custodian, at a URL. */
  serveOps(custodian: Custodian = this.lab.custodian): Promise<string> {
    return this.#listen(createOps(custodian, silentLog));
  }

  #listen(app: RequestListener): Promise<string> {
    const server = createServer({ keepAliveTimeout: 75_000 }, app);
    this.#opened.defer(() => closed(server));
    return listening(server);
  }

  /** The path of a socket behind which every call is answered with what no operation answers. */
  async nonsense(): Promise<string> {
    const path = join(this.folder, 'nonsense.sock');
    const server = createSocketServer(socket => {
      const reader = new FrameReader();
      socket.on('data', chunk => {
        for (const { id, kind } of reader.read(chunk)) {
          if (kind !== 'call') continue;
          socket.write(encodeFrame({ id, kind: 'reply', head: { nonsense: true }, bytes: [] }));
        }
      });
      socket.on('error', () => socket.destroy());
    });
    server.listen(path);
    this.#opened.defer(() => closedSocket(server));
    return path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#opened.disposeAsync();
  }
}

export function everyRoute(
  custodian: Custodian,
  { rpcUrl, namespace }: { rpcUrl?: string | undefined; namespace?: string | undefined } = {},
) {
  return createApi(custodian, silentLog, api => {
    withWallets(api, { custodian, log: silentLog, rpcUrl });
    withVaultTransit(api, { custodian, log: silentLog, mount: 'transit', namespace });
    withDrain(api, custodian, new Drain(), silentLog);
    return withHealth(api, custodian);
  });
}

export interface Sent {
  readonly method: string;
  readonly path: string;
  readonly who?: Person | undefined;
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /** Text goes as it is, everything else as JSON. */
  readonly body?: unknown;
}

export interface Answered {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
  readonly json: unknown;
}

const agent = new HttpAgent({ keepAlive: true, maxSockets: 64 });

/** The path goes out as it is written; a body that is only announced is never sent. */
export function send(base: string, { method, path, who, headers = {}, body }: Sent): Promise<Answered> {
  const bytes = body === undefined || typeof body === 'string' ? body : JSON.stringify(body);
  const { hostname, port } = new URL(base);
  const { promise, resolve, reject } = Promise.withResolvers<Answered>();
  const outgoing: ClientRequest = request(
    {
      method,
      hostname,
      port,
      path,
      agent,
      timeout: hang_ms,
      headers: {
        ...(who === undefined ? {} : { Authorization: `Bearer ${tokenOf(who)}` }),
        ...(bytes === undefined
          ? {}
          : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(bytes) }),
        ...headers,
      },
    },
    response => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text, json: parsed(text) });
        if (announced) outgoing.destroy();
      });
    },
  );
  const announced = Number(headers['Content-Length'] ?? 0) > Buffer.byteLength(bytes ?? '');
  outgoing.on('timeout', () => outgoing.destroy(new Error(`${method} ${path} hangs`)));
  outgoing.on('error', error => reject(error));
  if (announced) outgoing.flushHeaders();
  else outgoing.end(bytes);
  return promise;
}

const hang_ms = 60_000;

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

const identityOf = (name: Person): Identity => ({
  name,
  roles: people[name],
  grants: name === 'ungranted' ? [] : [{ slots: '*', operations: [...grantOperations] }],
  source: 'configuration',
  recognisedBy: { token: sha256(tokenOf(name)) },
});

/** `main` has a canary, which signs when it is asked to. */
const slotSetting = (slot: Slot): SlotSetting => ({
  slot,
  access: 'identity',
  readPin: async () => Secret.fromText(pinText),
  ...(slot.id === 'main' ? { canary: { every_ms: 60 * 60_000 } } : {}),
});

/** A key that the registry does not know. */
async function withUnknownKey(slot: Slot | undefined): Promise<void> {
  using pin = Secret.fromText(pinText);
  await using session = await slot?.open(pin);
  if (session && generates(session)) await session.generate(keyId('found'));
}

const robotIdentity: Identity = {
  name: 'robot',
  roles: ['signer'],
  grants: [{ slots: '*', operations: '*' }],
  source: 'configuration',
  appRole: { roleId: robot.roleId, secretId: sha256(robot.secretId) },
};

async function listening(server: Server): Promise<string> {
  await new Promise<void>(done => server.listen(0, '127.0.0.1', done));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function closed(server: Server): Promise<void> {
  server.closeAllConnections();
  return new Promise(done => server.close(() => done()));
}

const closedSocket = (server: SocketServer): Promise<void> =>
  new Promise(done => {
    server.close(() => done());
  });

interface Files {
  broken: boolean;
}

/** What is read again and says what it said before. */
function sameAs({ broken }: Files): Configuration {
  if (broken) throw new KeyslotError('CONFIG_INVALID', 'keyslot.yaml: slots: Too small.');
  const none = { added: [], changed: [], removed: [] };
  return {
    diff: {
      slots: none,
      groups: none,
      identities: none,
      jwtIssuers: none,
      policies: none,
      certificates: [],
      settings: [],
    },
    slots: { all: [], added: [], adjusted: [] },
    groups: [],
    people: { identities: [] },
    policies: [],
    sessions: { idle_ms: 1_000, absolute_ms: 1_000 },
    approvals: new Map(),
    exports: false,
    keep: async () => undefined,
    retire: async () => undefined,
    [Symbol.asyncDispose]: async () => undefined,
  };
}
