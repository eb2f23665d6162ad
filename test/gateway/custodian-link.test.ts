import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { CustodianServer } from '../../src/custodian/server.ts';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { privateKeyFromSeed, publicKeyFromSeed, signMessage } from '../../src/foundation/ed25519.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { limits } from '../../src/foundation/limits.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { CustodianLink } from '../../src/gateway/custodian-link.ts';
import type { ReceiptView } from '../../src/wire/audit.ts';
import { type OperationName, operations, type Request } from '../../src/wire/custodian.ts';
import { encodeFrame, type Frame, FrameReader } from '../../src/wire/frames.ts';
import { Device, Gate, pinText } from '../custodian/device.ts';
import { askOf, Lab, type Rest, refusal, robot, text, type Who } from '../custodian/lab.ts';
import { messageBytes, plain, wireBytes } from '../solana/compiled.ts';
import { Relay } from './relay.ts';

const secretText = 'the secret of this boot';
const walletSeed = () => new Uint8Array(32).fill(1);
const opened: (AsyncDisposable | Disposable)[] = [];
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keyslot-link-'));
});

afterEach(async () => {
  vi.useRealTimers();
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(folder, { recursive: true, force: true }));
  for (const one of opened.splice(0)) stack.use(one as AsyncDisposable);
});

function keep<T extends AsyncDisposable | Disposable>(one: T): T {
  opened.push(one);
  return one;
}

interface Served {
  readonly device: Device;
  readonly lab: Lab;
  readonly server: CustodianServer;
  readonly path: string;
}

/** A custodian that serves on a socket of this name, with the key `wallet` of a known seed. */
async function serve(name: string): Promise<Served> {
  const device = keep(await Device.make());
  const lab = keep(await Lab.open({ slot: device.slot }));
  await lab.ask('operator', 'import-key', { key: 'wallet', slot: 'main' }, { bytes: [walletSeed()] });
  const path = join(folder, `${name}.sock`);
  const bootSecret = Secret.fromText(secretText);
  const server = keep(
    await CustodianServer.listen({ path, bootSecret, custodian: lab.custodian, log: silentLog }),
  );
  return { device, lab, server, path };
}

const linkTo = (path: string, secret = secretText): CustodianLink =>
  keep(new CustodianLink({ path, bootSecret: Secret.fromText(secret), log: silentLog }));

const sign = (link: CustodianLink, message = 'x', rest: Rest = {}) =>
  askOf(link, 'signer', 'sign-message', { key: 'wallet' }, { bytes: [text(message)], ...rest });
const generate = (link: CustodianLink, key: string) =>
  askOf(link, 'operator', 'generate-key', { key, slot: 'main' });
const signature = async (message: string) =>
  Buffer.from(await signMessage(privateKeyFromSeed(walletSeed()), text(message)));
const only = ({ bytes }: { bytes?: readonly Uint8Array[] }) => Buffer.from(bytes?.[0] ?? []);

describe('both bindings', () => {
  /** What was answered, or what it failed with, in a form that can be compared. */
  async function outcome(
    operation: OperationName,
    asking: Promise<{ output: unknown; bytes?: readonly Uint8Array[] }>,
  ) {
    try {
      const { output, bytes = [] } = await asking;
      return {
        output: comparable(output, measured.has(operation)),
        bytes: bytes.map(part => Buffer.from(part).toString('hex')),
      };
    } catch (thrown) {
      if (!isKeyslotError(thrown)) throw thrown;
      const { code, message, retryAfter_s, violations } = thrown;
      return { code, message, retryAfter_s, violations };
    }
  }

  /** Every custodian has an audit log of its own: two of them agree in everything but its hashes and its boot. */
  const comparable = (output: unknown, measures: boolean): unknown =>
    JSON.parse(
      JSON.stringify(output, (name, value) => {
        if (measures && (typeof value === 'number' || name === 'since')) return typeof value;
        if (name === 'receipt') return receiptOf(value);
        if (name === 'lines') return value.map(hex);
        return typeof value === 'string' && own.has(name) ? hex(value) : value;
      }),
    );
  /** The items of a batch are written down in any order. */
  const receiptOf = ({ node, seq, hash, proof }: ReceiptView) => ({
    node,
    numbered: Number.isSafeInteger(seq) && proof === `/v1/audit/${seq}/proof`,
    hash: hex(hash),
  });
  const own = new Set(['boot', 'id', 'digest']);
  /** What they answer with is measured: two custodians have the same figures with other numbers. */
  const measured: ReadonlySet<OperationName> = new Set(['metrics', 'show-health']);
  const hex = (text: string) => text.replace(/[0-9a-f]{16,}/g, 'a value of its own');

  type Ask = {
    [N in OperationName]: readonly [Who | 'nobody', N, Request<N>['input'], (() => Rest)?];
  }[OperationName];
  const bytes = (...parts: readonly Uint8Array[]) => ({ bytes: parts });

  const cold = {
    name: 'cold',
    description: 'Signs no text.',
    appliesTo: { tags: ['cold'] },
    messages: 'none',
  };

  // In this order, on both sides: what an operation answers may depend on those before it.
  const asks: readonly Ask[] = [
    ['nobody', 'health', {}],
    ['nobody', 'list-slots', {}],
    ['roleless', 'list-slots', {}],
    ['signer', 'list-slots', {}],
    ['ungranted', 'list-slots', {}],
    ['signer', 'list-groups', {}],
    ['signer', 'show-slot', { slot: 'main' }],
    ['signer', 'show-slot', { slot: 'other' }],
    ['signer', 'show-slot', { slot: '../x' }],
    ['operator', 'generate-key', { key: 'wallet', slot: 'main' }],
    ['operator', 'generate-key', { key: 'x'.repeat(300), slot: 'main' }],
    ['signer', 'generate-key', { key: 'new', slot: 'main' }],
    ['operator', 'import-key', { key: 'imported', slot: 'main' }, () => bytes(new Uint8Array(32).fill(9))],
    ['operator', 'import-key', { key: 'short', slot: 'main' }, () => bytes(new Uint8Array(31))],
    ['signer', 'show-key', { key: 'imported' }],
    ['signer', 'list-keys', { limit: 1 }],
    ['signer', 'list-keys', { limit: 1, cursor: 'imported', slot: 'main' }],
    ['signer', 'sign-message', { key: 'wallet' }, () => bytes(text('a message'))],
    ['signer', 'sign-message', { key: 'wallet' }, () => bytes(new Uint8Array())],
    ['signer', 'sign-message', { key: 'wallet' }, () => bytes(new Uint8Array(16_001).fill(120))],
    ['signer', 'sign-message', { key: 'missing' }, () => bytes(text('a message'))],
    ['operator', 'sign-message', { key: 'wallet' }, () => bytes(text('a message'))],
    ['signer', 'sign-transaction', { key: 'wallet' }, () => bytes(wireBytes(plain))],
    ['signer', 'sign-transaction', { key: 'imported' }, () => bytes(wireBytes(plain))],
    [
      'signer',
      'sign-batch',
      { key: 'wallet', items: ['message', 'transaction', 'transaction', 'message'] },
      () => bytes(text('one'), wireBytes(plain), text('no transaction'), new Uint8Array()),
    ],
    ['signer', 'sign-batch', { key: 'wallet', items: [] }, () => bytes()],
    [
      'signer',
      'sign-bytes',
      { key: 'wallet' },
      () => bytes(text('one'), messageBytes(plain), wireBytes(plain), new Uint8Array()),
    ],
    ['signer', 'sign-bytes', { key: 'missing' }, () => bytes(text('one'))],
    ['nobody', 'login', { roleId: robot.roleId }, () => bytes(text('wrong'))],
    ['nobody', 'login', { roleId: robot.roleId }, () => bytes(text(robot.secretId))],
    ['signer', 'verify', { key: 'wallet' }, () => bytes(text('a message'), new Uint8Array(64))],
    ['signer', 'open-session', { slot: 'main' }, () => bytes(text('wrong'))],
    ['signer', 'open-session', { slot: 'main' }, () => bytes(text('wrong'))],
    ['signer', 'close-session', {}],
    ['signer', 'close-session', {}, () => ({ session: 'a token of nobody' })],
    ['operator', 'lock-slot', { slot: 'main' }],
    ['signer', 'sign-message', { key: 'wallet' }, () => bytes(text('a message'))],
    ['nobody', 'health', {}],
    ['operator', 'open-slot', { slot: 'main' }, () => bytes(text('wrong'))],
    ['both', 'open-slot', { slot: 'main' }, () => bytes(text(pinText))],
    ['operator', 'clear-latch', { slot: 'main' }],
    ['operator', 'try-slot', { slot: 'main' }],
    ['signer', 'try-slot', { slot: 'main' }],
    ['operator', 'open-slot', { slot: 'main' }],
    ['signer', 'show-key', { key: 'wallet' }],
    ['operator', 'plan-migration', { from: 'main', to: 'main' }],
    ['signer', 'plan-migration', { from: 'main', to: 'main' }],
    ['operator', 'start-migration', { from: 'main', to: 'main', keys: ['wallet'] }],
    ['operator', 'list-migrations', {}],
    ['operator', 'show-migration', { migration: 'm-0000000000', limit: 10 }],
    ['operator', 'run-migration', { migration: 'm-0000000000', max: 10 }],
    ['operator', 'verify-migration', { migration: 'm-0000000000', max: 10, keys: ['wallet'] }],
    ['operator', 'rollback-migration', { migration: '../x', max: 10, after: 'a' }],
    ['operator', 'destroy-copies', { migration: '', max: 10 }],
    ['operator', 'adopt-key', { key: 'stranger', slot: 'main' }],
    ['operator', 'adopt-key', { key: 'stranger', slot: 'main', reference: 'alias/stranger' }],
    ['signer', 'create-wallet', { label: 'a label' }],
    ['signer', 'list-wallets', {}],
    ['signer', 'show-wallet', { key: 'nobody' }],
    ['auditor', 'who-am-i', {}],
    ['admin', 'create-identity', { identity: 'newcomer', shape: { roles: ['signer'], grants: [] } }],
    ['admin', 'list-identities', {}],
    ['admin', 'issue-token', { identity: 'newcomer', label: 'a label', expires_s: 60 }],
    ['admin', 'list-tokens', {}],
    ['admin', 'revoke-token', { token: 'of-nobody' }],
    ['admin', 'delete-identity', { identity: 'newcomer' }],
    ['admin', 'delete-identity', { identity: 'signer' }],
    ['admin', 'tag-key', { key: 'imported', tags: ['cold'] }],
    ['admin', 'put-policy', { policy: 'cold', document: cold, expected: 0 }],
    ['admin', 'put-policy', { policy: 'cold', document: {} }],
    ['auditor', 'list-policies', {}],
    ['auditor', 'show-policy', { policy: 'cold', version: 1 }],
    ['signer', 'sign-message', { key: 'imported' }, () => bytes(text('a message'))],
    ['signer', 'sign-bytes', { key: 'imported' }, () => bytes(text('a message'))],
    ['admin', 'evaluate-policy', { key: 'imported', kind: 'message' }, () => bytes(text('a message'))],
    ['admin', 'delete-policy', { policy: 'cold' }],
    ['operator', 'freeze', { scope: 'key', target: 'imported', reason: 'to see' }],
    ['signer', 'sign-message', { key: 'imported' }, () => bytes(text('a message'))],
    ['auditor', 'list-freezes', {}],
    ['admin', 'thaw', { freeze: 'key/imported', reason: 'seen' }],
    ['operator', 'disable-key', { key: 'imported' }],
    ['operator', 'enable-key', { key: 'imported' }],
    ['operator', 'export-key', { key: 'imported' }],
    ['operator', 'destroy-key', { key: 'imported' }],
    ['operator', 'request-approval', { operation: 'destroy-key', input: { key: 'imported' }, reason: 'old' }],
    ['approver', 'list-approvals', {}],
    ['approver', 'show-approval', { approval: 'of-nothing' }],
    ['approver', 'decide-approval', { approval: 'of-nothing', decision: 'approve', digest: 'a'.repeat(64) }],
    ['auditor', 'audit-status', {}],
    ['auditor', 'read-audit', { from: 0, limit: 5 }],
    ['auditor', 'prove-audit', { seq: 1_000_000 }],
    ['auditor', 'audit-consistency', { from: 2, to: 1 }],
    ['auditor', 'list-checkpoints', { from: 0, limit: 5 }],
    ['admin', 'prune-audit', { below: 1 }],
    ['signer', 'drain', { drain: true }],
    ['operator', 'drain', { drain: true }],
    ['operator', 'reload', {}],
    ['auditor', 'show-reload', {}],
    ['nobody', 'show-health', {}],
    ['nobody', 'metrics', {}],
  ];

  it('give the same answer to the same question, and the same failure', async () => {
    const direct = await serve('direct');
    const remote = await serve('remote');
    const link = linkTo(remote.path);
    for (const [who, operation, input, rest = () => ({})] of asks) {
      const [here, there] = [
        await outcome(operation, askOf(direct.lab.custodian, who, operation, input, rest())),
        await outcome(operation, askOf(link, who, operation, input, rest())),
      ];
      expect(there, `${who} ${operation}`).toEqual(here);
    }
    const operationsAsked = new Set(asks.map(([, operation]) => operation));
    expect([...operationsAsked].toSorted()).toEqual(Object.keys(operations).toSorted());
  });

  it('give out sessions and keys that work on either of them', async () => {
    const { lab, path } = await serve('one');
    const link = linkTo(path);
    const { output } = await generate(link, 'made');
    expect((await lab.ask('operator', 'show-key', { key: 'made' })).output).toEqual(output);
    const reply = await askOf(link, 'signer', 'open-session', { slot: 'main' }, bytes(text(pinText)));
    const session = only(reply).toString('latin1');
    expect(await refusal(lab.ask('signer', 'close-session', {}, { session }))).toBe('none');
    expect(await refusal(askOf(link, 'signer', 'close-session', {}, { session }))).toBe('SESSION_EXPIRED');
  });

  it('keep two thousand answers apart', async () => {
    const { path } = await serve('busy');
    const links = [linkTo(path), linkTo(path)] as const;
    const messages = Array.from({ length: 2_000 }, (_, at) => `message ${at} ${'.'.repeat(at % 97)}`);
    const replies = await Promise.all(
      messages.map((message, at) => sign(links[at % 2 === 0 ? 0 : 1], message)),
    );
    const expected = await Promise.all(messages.map(signature));
    expect(replies.map(only)).toEqual(expected);
  });
});

describe('a link whose custodian is lost', () => {
  it('repeats what may be repeated with the successor, and answers with its signature', async () => {
    const first = await serve('first');
    const second = await serve('second');
    const relay = keep(await Relay.start(join(folder, 'relay.sock'), first.path));
    const link = linkTo(relay.path);
    const gate = new Gate();
    first.device.onSign = async ({ honest }) => {
      await gate.pass();
      return honest();
    };
    const running = [sign(link, 'one'), sign(link, 'two')];
    await gate.reached;
    relay.target = second.path;
    relay.cut();
    expect(await Promise.all(running).then(all => all.map(only))).toEqual([
      await signature('one'),
      await signature('two'),
    ]);
    expect(second.device.asked).toHaveLength(2);
    gate.open();
  });

  it('says of what may not be repeated that nobody knows, and does not send it again', async () => {
    const first = await serve('first');
    const second = await serve('second');
    const relay = keep(await Relay.start(join(folder, 'relay.sock'), first.path));
    const link = linkTo(relay.path);
    const gate = new Gate();
    first.device.onGenerate = async honest => {
      await gate.pass();
      return honest();
    };
    const running = generate(link, 'new');
    await gate.reached;
    relay.target = second.path;
    relay.cut();
    await expect(running).rejects.toMatchObject({ code: 'CUSTODIAN_UNAVAILABLE', retryAfter_s: 1 });
    expect(await refusal(askOf(link, 'operator', 'show-key', { key: 'new' }))).toBe('KEY_UNKNOWN');
    gate.open();
  });

  it.each(Object.keys(operations) as OperationName[])('treats %s as its table says', async name => {
    const silent = createServer(socket => socket.on('data', () => socket.destroy()));
    const path = join(folder, 'silent.sock');
    await new Promise<void>(resolve => silent.listen(path, resolve));
    const link = linkTo(path);
    const call = link.call(name, { input: {} } as Request<typeof name>, { requestId: 'r' });
    const settled = call.then(
      () => 'answered',
      thrown => (isKeyslotError(thrown) ? thrown.code : 'broke'),
    );
    if (!operations[name].repeatable) {
      expect(await settled).toBe('CUSTODIAN_UNAVAILABLE');
    } else {
      // A second loss later it is still waiting, and ends with the link.
      await refusal(askOf(link, 'operator', 'lock-slot', { slot: 'main' }));
      await refusal(askOf(link, 'operator', 'lock-slot', { slot: 'main' }));
      link[Symbol.dispose]();
      expect(await settled).toBe('SHUTTING_DOWN');
    }
    await new Promise(resolve => silent.close(resolve));
  });

  it('waits for a custodian that has not come up yet, also with what it would not repeat', async () => {
    const link = linkTo(join(folder, 'later.sock'));
    const [waiting, making] = [sign(link, 'early'), generate(link, 'early')];
    await serve('later');
    expect(only(await waiting)).toEqual(await signature('early'));
    expect((await making).output).toMatchObject({ id: 'early', origin: 'generated' });
  });

  it('sends a seed as it was when the call was made, although its owner has wiped it since', async () => {
    const link = linkTo(join(folder, 'wiped.sock'));
    const seed = new Uint8Array(32).fill(9);
    const importing = askOf(
      link,
      'operator',
      'import-key',
      { key: 'wiped', slot: 'main' },
      { bytes: [seed] },
    );
    seed.fill(0);
    await serve('wiped');
    const expected = encodeBase58(publicKeyFromSeed(new Uint8Array(32).fill(9)));
    expect((await importing).output).toMatchObject({ publicKey: expected, origin: 'imported' });
  });

  it('is served again when a custodian that was killed is started anew over the same socket file', async () => {
    const path = join(folder, 'killed.sock');
    const link = linkTo(path);
    for (let round = 0; round < 2; round += 1) {
      const child = await startChild(path);
      expect(only(await sign(link, `round ${round}`))).toEqual(await signature(`round ${round}`));
      await kill(child);
    }
    const waiting = sign(link, 'while nobody is there');
    const last = await startChild(path);
    expect(only(await waiting)).toEqual(await signature('while nobody is there'));
    await kill(last);
  });

  it('takes a bounded number of calls to wait', async () => {
    const link = linkTo(join(folder, 'nobody.sock'));
    const waiting = Array.from({ length: limits.pendingCalls_max }, () => refusal(sign(link)));
    await expect(sign(link)).rejects.toMatchObject({ code: 'CUSTODIAN_UNAVAILABLE', retryAfter_s: 1 });
    link[Symbol.dispose]();
    expect(new Set(await Promise.all(waiting))).toEqual(new Set(['SHUTTING_DOWN']));
  });

  const folders = new WeakMap<ChildProcess, string>();

  async function startChild(path: string): Promise<ChildProcess> {
    const entry = fileURLToPath(new URL('./custodian-child.ts', import.meta.url));
    const child = spawn(process.execPath, [entry, path, secretText], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [said] = await Promise.race([
      child.stdout.take(1).toArray() as Promise<Buffer[]>,
      new Promise<never>((_, reject) =>
        child.once('exit', code => reject(new Error(`The child ended: ${code}.`))),
      ),
    ]);
    folders.set(child, String(said).trim().slice('ready '.length));
    return child;
  }

  async function kill(child: ChildProcess): Promise<void> {
    const exited = new Promise(resolve => child.once('exit', resolve));
    child.kill('SIGKILL');
    await exited;
    rmSync(folders.get(child) ?? '', { recursive: true, force: true });
  }
});

describe('a call over the link', () => {
  it('ends with DEADLINE_EXCEEDED when its caller gives up, and the custodian is told', async () => {
    const { device, path } = await serve('one');
    const link = linkTo(path);
    const started = Promise.withResolvers<void>();
    const cancelled = Promise.withResolvers<void>();
    device.onSign = async ({ signal, honest }) => {
      signal?.addEventListener('abort', () => cancelled.resolve(), { once: true });
      started.resolve();
      await cancelled.promise;
      return honest();
    };
    const caller = new AbortController();
    const running = sign(link, 'x', { signal: caller.signal });
    await started.promise;
    caller.abort();
    expect(await refusal(running)).toBe('DEADLINE_EXCEEDED');
    await cancelled.promise;
    device.onSign = ({ honest }) => honest();
    expect(only(await sign(link, 'next'))).toEqual(await signature('next'));
  });

  it('ends at once when its caller has given up before', async () => {
    const { device, path } = await serve('one');
    const link = linkTo(path);
    await sign(link);
    const gate = new Gate();
    device.onSign = async ({ honest }) => {
      await gate.pass();
      return honest();
    };
    expect(await refusal(sign(link, 'x', { signal: AbortSignal.abort() }))).toBe('DEADLINE_EXCEEDED');
    gate.open();
  });

  it('ends at its deadline when the custodian never answers, and no other call ends with it', async () => {
    vi.useFakeTimers({ toFake: ['performance', 'setInterval', 'clearInterval'] });
    const { device, path } = await serve('one');
    const link = linkTo(path);
    const gate = new Gate();
    device.onSign = async ({ message, honest }) => {
      if (message[0] === 's'.charCodeAt(0)) await gate.pass();
      return honest();
    };
    const hanging = refusal(sign(link, 'slow'));
    await gate.reached;
    vi.advanceTimersByTime(limits.request_ms - 1_000);
    const later = sign(link, 'slow too');
    vi.advanceTimersByTime(1_250);
    expect(await hanging).toBe('DEADLINE_EXCEEDED');
    gate.open();
    expect(only(await later)).toEqual(await signature('slow too'));
  });

  it('never goes unanswered when the link has ended', async () => {
    const { device, path } = await serve('one');
    const link = linkTo(path);
    const gate = new Gate();
    device.onSign = async ({ honest }) => {
      await gate.pass();
      return honest();
    };
    const running = refusal(sign(link));
    await gate.reached;
    link[Symbol.dispose]();
    expect(await running).toBe('SHUTTING_DOWN');
    expect(await refusal(sign(link))).toBe('SHUTTING_DOWN');
    gate.open();
  });

  it('is answered SHUTTING_DOWN by the last custodian when it finishes, while the earlier ones are answered', async () => {
    const { device, server, path } = await serve('one');
    const link = linkTo(path);
    link.expectNoSuccessor();
    const gate = new Gate();
    device.onSign = async ({ honest }) => {
      await gate.pass();
      return honest();
    };
    const running = sign(link, 'in flight');
    await gate.reached;
    const finished = server[Symbol.asyncDispose]();
    expect(await refusal(sign(link, 'late'))).toBe('SHUTTING_DOWN');
    gate.open();
    expect(only(await running)).toEqual(await signature('in flight'));
    await finished;
  });

  it('waits for the successor of a custodian that finishes, whatever it asks for: it was not begun', async () => {
    const first = await serve('first');
    const second = await serve('second');
    const relay = keep(await Relay.start(join(folder, 'relay.sock'), first.path));
    const link = linkTo(relay.path);
    const gate = new Gate();
    first.device.onSign = async ({ honest }) => {
      await gate.pass();
      return honest();
    };
    const running = sign(link, 'in flight');
    await gate.reached;
    relay.target = second.path;
    const finished = first.server[Symbol.asyncDispose]();
    const late = Promise.all([sign(link, 'late'), generate(link, 'new')]);
    gate.open();
    const [signed] = await late;
    expect(only(signed)).toEqual(await signature('late'));
    expect(only(await running)).toEqual(await signature('in flight'));
    await finished;
    expect(first.device.asked).toHaveLength(1);
    expect((await askOf(second.lab.custodian, 'operator', 'show-key', { key: 'new' })).output).toMatchObject({
      id: 'new',
    });
  });
});

describe('a link with the wrong secret', () => {
  it('is cut off and gets nothing done', async () => {
    const { device, path } = await serve('one');
    const link = linkTo(path, 'another secret altogether');
    expect(await refusal(generate(link, 'new'))).toBe('CUSTODIAN_UNAVAILABLE');
    const caller = new AbortController();
    const waiting = refusal(sign(link, 'x', { signal: caller.signal }));
    expect(await refusal(generate(link, 'new'))).toBe('CUSTODIAN_UNAVAILABLE');
    caller.abort();
    expect(await waiting).toBe('DEADLINE_EXCEEDED');
    expect(device.asked).toEqual([]);
  });

  it('does not outlive its end, also when it ends while it connects', async () => {
    const connections = Promise.withResolvers<void>();
    const server = createServer(socket => {
      socket.on('close', () => connections.resolve());
      socket.resume();
    });
    const path = join(folder, 'plain.sock');
    await new Promise<void>(resolve => server.listen(path, resolve));
    linkTo(path)[Symbol.dispose]();
    await connections.promise;
    await new Promise(resolve => server.close(resolve));
  });
});

describe('a custodian that breaks the protocol', () => {
  it.each<[string, (id: number) => Uint8Array]>([
    ['noise', () => Uint8Array.from({ length: 100 }, (_, at) => (at * 37 + 200) & 0xff)],
    ['a call', id => encodeFrame({ id, kind: 'call', head: {}, bytes: [] })],
    ['a failure with a code that does not exist', id => failure(id, { code: 'NO_SUCH_CODE', detail: '' })],
    ['a failure without a text', id => failure(id, { code: 'INTERNAL' })],
    ['a frame that is too long', () => Uint8Array.of(0xff, 0xff, 0xff, 0xff)],
  ])('with %s loses the connection, and no call is lost with it', async (_what, answerTo) => {
    const honest = await serve('honest');
    const rogue = createServer(socket => {
      const reader = new FrameReader();
      socket.on('error', () => undefined);
      socket.on('data', chunk => {
        for (const frame of reader.read(chunk)) {
          if (frame.kind === 'call') socket.write(answerTo(frame.id));
        }
      });
      socket.on('close', () => {
        relay.target = honest.path;
      });
    });
    const path = join(folder, 'rogue.sock');
    await new Promise<void>(resolve => rogue.listen(path, resolve));
    const relay = keep(await Relay.start(join(folder, 'relay.sock'), path));
    const link = linkTo(relay.path);
    const once = refusal(generate(link, 'new'));
    expect(only(await sign(link, 'x'))).toEqual(await signature('x'));
    expect(await once).toBe('CUSTODIAN_UNAVAILABLE');
    await new Promise(resolve => rogue.close(resolve));
  });

  it('with an answer of another shape breaks that call alone', async () => {
    const rogue = createServer(socket => {
      const reader = new FrameReader();
      socket.on('data', chunk => {
        for (const frame of reader.read(chunk)) {
          if (frame.kind === 'call')
            socket.write(encodeFrame({ ...frame, kind: 'reply', head: { valid: true } }));
        }
      });
    });
    const path = join(folder, 'odd.sock');
    await new Promise<void>(resolve => rogue.listen(path, resolve));
    const link = linkTo(path);
    expect(await refusal(sign(link))).toBe('INTERNAL');
    expect((await askOf(link, 'signer', 'verify', { key: 'wallet' })).output).toEqual({ valid: true });
    link[Symbol.dispose]();
    await nextTurn();
    await new Promise(resolve => rogue.close(resolve));
  });

  const failure = (id: number, head: unknown): Uint8Array =>
    encodeFrame({ id, kind: 'failure', head, bytes: [] } satisfies Frame);
});
