import { spawn } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { InspectedEnvelope } from '../../src/appliance/envelope-inspection.ts';
import type { EnvelopeChange } from '../../src/appliance/envelope-upgrade.ts';
import { keyId, publicKeyBytes } from '../../src/custody/ids.ts';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { publicKeyFromSeed } from '../../src/foundation/ed25519.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { encryptedFileForm } from '../../src/sealing/page-forms.ts';
import { rememberingCommands } from '../sealing/remembered-scrypt.ts';
import { type Appliance, base64, keyslot, type Ran, root, run, serve } from './appliance.ts';

/** `keyslot envelopes`: key files of the agentic-wallet program looked at, and rewritten, by the command itself. */

const folder = mkdtempSync(join(tmpdir(), 'keyslot-envelopes-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Wallet {
  readonly backend: 'encrypted-file' | 'kms' | 'hsm' | 'mpc';
  readonly walletId: string;
  readonly publicKey: string;
}
type Form = 'documented' | 'deployed';

const vectors = join(root, 'test', 'vectors', 'agentic-wallet');
const expected = JSON.parse(readFileSync(join(vectors, 'expected.json'), 'utf8')) as {
  config: Record<string, string> & { mpcNodeSecrets: string[] };
} & Record<Form, Wallet[]>;
const { config } = expected;
const nodes = config.mpcNodeSecrets;

const environment: Record<string, string> = {
  WALLET_KEY_ENCRYPTION_SECRET: config.encryptionSecret ?? '',
  WALLET_KMS_MASTER_SECRET: config.kmsMasterSecret ?? '',
  WALLET_KMS_KEY_ID: config.kmsKeyId ?? '',
  WALLET_HSM_PIN: config.hsmPin ?? '',
  WALLET_HSM_MODULE_SECRET: config.hsmModuleSecret ?? '',
  WALLET_HSM_SLOT: config.hsmSlotId ?? '',
  WALLET_MPC_NODE_SECRETS: nodes.join(','),
};

type Variables = Record<string, string | undefined>;

const byWallet = (one: { walletId: string }, other: { walletId: string }) =>
  one.walletId < other.walletId ? -1 : 1;

// The same files are opened again and again: of each, what scrypt makes of it is computed by the first command only.
const remembering = rememberingCommands(folder);

async function inspected(dir: string, more: Variables = {}): Promise<InspectedEnvelope[]> {
  const ran = await run(keyslot, ['envelopes', 'inspect', dir, '--json'], {
    environment: { ...environment, ...remembering, ...more },
  });
  expect(ran.status, ran.stderr).toBe(0);
  return JSON.parse(ran.stdout);
}

const upgrade = (dir: string, flags: readonly string[] = [], more: Variables = {}): Promise<Ran> =>
  run(keyslot, ['envelopes', 'upgrade', dir, '--json', ...flags], {
    environment: { ...environment, ...remembering, ...more },
  });

async function upgraded(dir: string, flags: readonly string[] = []): Promise<EnvelopeChange> {
  const ran = await upgrade(dir, flags);
  expect(ran.status, ran.stdout).toBe(0);
  return JSON.parse(ran.stdout);
}

async function refusedUpgrade(
  dir: string,
  flags: readonly string[] = [],
  more: Variables = {},
): Promise<string> {
  const ran = await upgrade(dir, flags, more);
  expect(ran.status).toBe(1);
  return JSON.parse(ran.stdout).error.code;
}

/** A folder of its own with the key files of one form, or of one backend of it, as safe as they have to be. */
function keysOf(form: Form, backend?: Wallet['backend']): { dir: string; wallets: readonly Wallet[] } {
  const dir = mkdtempSync(join(folder, `${form}-`));
  const wallets = expected[form].filter(each => backend === undefined || each.backend === backend);
  for (const wallet of wallets) {
    cpSync(join(vectors, form, 'keys', fileOf(wallet)), join(dir, fileOf(wallet)));
    chmodSync(join(dir, fileOf(wallet)), 0o600);
  }
  return { dir, wallets: wallets.toSorted(byWallet) };
}

const suffixes = { 'encrypted-file': '.json', kms: '.kms.json', hsm: '.hsm.json', mpc: '.mpc.json' };
const fileOf = ({ walletId, backend }: Wallet): string => `${walletId}${suffixes[backend]}`;

const contents = (dir: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(dir, { withFileTypes: true })
      .filter(each => each.isFile())
      .map(({ name }) => [name, readFileSync(join(dir, name), 'utf8')]),
  );

describe('envelopes inspect', () => {
  it.each(['documented', 'deployed'] as const)('opens every vector of the %s form, in order', async form => {
    const wallets = expected[form].toSorted(byWallet);
    const rows = wallets.map(({ walletId, backend, publicKey }) => ({ walletId, backend, form, publicKey }));
    expect(await inspected(join(vectors, form, 'keys'))).toEqual(rows);
    expect(await inspected(join(vectors, form))).toEqual(rows); // the data folder keeps them in keys/
  });

  it('reads what others can read too, says so once on standard error, and changes nothing', async () => {
    const { dir } = keysOf('deployed', 'hsm');
    for (const name of readdirSync(dir)) chmodSync(join(dir, name), 0o444);
    chmodSync(dir, 0o555);
    const before = contents(dir);
    const ran = await run(keyslot, ['envelopes', 'inspect', dir], { environment });
    expect(ran.status).toBe(0);
    expect(ran.stderr.trim().split('\n')).toHaveLength(1);
    expect(ran.stdout).toContain('deployed');
    chmodSync(dir, 0o700);
    expect(contents(dir)).toEqual(before);
  });

  it('makes a missing or a wrong secret a problem of its own files', async () => {
    const rows = await inspected(join(vectors, 'deployed'), {
      WALLET_KMS_MASTER_SECRET: undefined,
      WALLET_HSM_PIN: 'wrong',
    });
    for (const row of rows) {
      if (row.backend === 'kms') expect(row.problem).toContain('WALLET_KMS_MASTER_SECRET');
      else if (row.backend === 'hsm') expect(row.problem).toContain('KEY_FILE_TAMPERED');
      else expect(row).not.toHaveProperty('problem');
      expect('publicKey' in row).toBe(!('problem' in row));
      expect(row.form).toBe('deployed');
    }
  });

  it('says what is wrong with each file and opens all others', async () => {
    const { dir, wallets } = keysOf('deployed', 'encrypted-file');
    const good = wallets[0]?.walletId ?? '';
    const text = readFileSync(join(dir, `${good}.json`), 'utf8');
    writeFileSync(join(dir, 'a-torn.json'), text.slice(0, 50));
    writeFileSync(join(dir, 'b-foreign.kms.json'), text);
    writeFileSync(
      join(dir, 'c-flipped.json'),
      text.replace(/"data":"(.)/, (_all, c) => `"data":"${c === 'A' ? 'B' : 'A'}`),
    );
    writeFileSync(join(dir, 'd-huge.mpc.json'), 'x'.repeat(100_000));
    writeFileSync(join(dir, 'Not A Key.json'), text);
    symlinkSync(`${good}.json`, join(dir, 'e-link.json'));
    mkdirSync(join(dir, 'f-folder.json'));
    writeFileSync(join(dir, 'g-own.keyslot.json'), '{}');
    writeFileSync(join(dir, 'notes.txt'), 'no key');
    const rows = new Map((await inspected(dir)).map(row => [row.walletId, row]));
    const problemOf = (id: string) => rows.get(id)?.problem?.split(':')[0];
    expect(['a-torn', 'b-foreign', 'd-huge', 'g-own'].map(problemOf)).toEqual(
      Array(4).fill('KEY_FILE_MALFORMED'),
    );
    expect(problemOf('c-flipped')).toBe('KEY_FILE_TAMPERED');
    expect(problemOf('e-link')).toBe('KEY_FILE_UNSAFE');
    expect(problemOf('Not A Key')).toBe('KEY_ID_INVALID');
    expect(rows.size).toBe(7 + wallets.length);
    for (const wallet of wallets) expect(rows.get(wallet.walletId)).toEqual({ ...wallet, form: 'deployed' });
  });

  it('opens a key of which one share is damaged, and names the share', async () => {
    const { dir, wallets } = keysOf('deployed', 'mpc');
    const [odd] = wallets;
    if (!odd) throw new Error('there are vectors');
    const file = JSON.parse(readFileSync(join(dir, fileOf(odd)), 'utf8'));
    file.shares[1].wrapped = 'damaged';
    writeFileSync(join(dir, fileOf(odd)), JSON.stringify(file));
    const rows = await inspected(dir);
    expect(rows.map(row => row.publicKey)).toEqual(wallets.map(wallet => wallet.publicKey));
    expect(rows.filter(row => row.problem)).toMatchObject([
      { walletId: odd.walletId, problem: expect.stringContaining('share 2') },
    ]);
    const two = { WALLET_MPC_NODE_SECRETS: `${nodes[0]},,${nodes[2]}` };
    expect((await inspected(dir, two)).map(row => row.problem)).toEqual(wallets.map(() => undefined));
  });

  it('answers an empty list for an empty folder, and refuses what is none', async () => {
    expect(await inspected(mkdtempSync(join(folder, 'empty-')))).toEqual([]);
    const ran = await run(keyslot, ['envelopes', 'inspect', join(folder, 'nowhere'), '--json']);
    expect(ran.status).toBe(1);
    expect(JSON.parse(ran.stdout).error.code).toBe('HOME_INVALID');
  });
});

describe('envelopes upgrade', () => {
  it.each(['encrypted-file', 'kms', 'hsm', 'mpc'] as const)(
    'of %s: every key stays, there and back',
    async backend => {
      const { dir, wallets } = keysOf('deployed', backend);
      const before = contents(dir);
      const change = await upgraded(dir);
      expect(change).toMatchObject({ backend, slot: backend, problems: [], left: 0 });
      expect(change.changed).toEqual(wallets.map(wallet => wallet.walletId));
      expect(contents(join(dir, 'superseded'))).toEqual(before);
      expect(await inspected(dir)).toEqual(wallets.map(wallet => ({ ...wallet, form: 'keyslot' })));
      expect((await upgraded(dir)).changed).toEqual([]);
      expect((await upgraded(dir, ['--revert'])).changed).toEqual(change.changed);
      expect(contents(dir)).toEqual(before);
      expect(readdirSync(dir)).toEqual(Object.keys(before));
    },
  );

  it('reads the documented form, and binds the files to the slot that is named', async () => {
    const { dir, wallets } = keysOf('documented', 'encrypted-file');
    expect(await upgraded(dir, ['--slot', 'vault'])).toMatchObject({ slot: 'vault' });
    expect((await inspected(dir)).map(row => row.publicKey)).toEqual(wallets.map(each => each.publicKey));
    expect(await refusedUpgrade(dir, ['--slot', 'other', '--revert'])).toBe('KEY_FILE_FOREIGN');
    expect(await upgraded(dir, ['--revert'])).toMatchObject({ slot: 'vault', problems: [] });
  });

  it('asks which backend is meant when several have files', async () => {
    const { dir } = keysOf('deployed');
    expect(await refusedUpgrade(dir)).toBe('CONFIG_INVALID');
    expect(await refusedUpgrade(dir, ['--backend', 'vault'])).toBe('CONFIG_INVALID');
    expect((await upgraded(dir, ['--backend', 'hsm'])).changed).toHaveLength(3);
    expect((await inspected(dir)).filter(row => row.form === 'keyslot').map(row => row.backend)).toEqual([
      'hsm',
      'hsm',
      'hsm',
    ]);
  });

  it('refuses wrong secrets, missing ones, and what others can read, and then changes nothing', async () => {
    const { dir, wallets } = keysOf('deployed', 'mpc');
    const names = readdirSync(dir);
    const secrets = (text: string) => ({ WALLET_MPC_NODE_SECRETS: text });
    expect(await refusedUpgrade(dir, [], secrets('x,y,z'))).toBe('PIN_REFUSED');
    expect(await refusedUpgrade(dir, [], secrets(`${nodes[0]},${nodes[1]},wrong`))).toBe('PIN_REFUSED');
    expect(await refusedUpgrade(dir, [], secrets(`${nodes[0]},${nodes[1]}`))).toBe('NODE_SECRET_MISSING');
    expect(await refusedUpgrade(dir, [], secrets(''))).toBe('CONFIG_INVALID');
    const [first] = wallets;
    if (!first) throw new Error('there are vectors');
    for (const path of [dir, join(dir, fileOf(first))]) {
      chmodSync(path, 0o755);
      expect(await refusedUpgrade(dir)).toBe('KEY_FILE_UNSAFE');
      chmodSync(path, path === dir ? 0o700 : 0o600);
    }
    expect(readdirSync(dir)).toEqual(names);
    expect(await refusedUpgrade(join(folder, 'nowhere'))).toBe('HOME_INVALID');
  });

  it('leaves a damaged file where it is, says so, and upgrades all others', async () => {
    const { dir, wallets } = keysOf('deployed', 'encrypted-file');
    writeFileSync(join(dir, 'a-torn.json'), '{"v":1', { mode: 0o600 });
    const ran = await upgrade(dir);
    expect(ran.status).toBe(1);
    const change = JSON.parse(ran.stdout) as EnvelopeChange;
    expect(change.changed).toEqual(wallets.map(each => each.walletId));
    expect(change.problems).toMatchObject([
      { walletId: 'a-torn', problem: expect.stringContaining('MALFORMED') },
    ]);
    expect(readdirSync(dir)).toContain('a-torn.json');
  });

  it('never takes another key for the one that is there in both forms', async () => {
    const { dir, wallets } = keysOf('deployed', 'encrypted-file');
    const [one, other] = wallets;
    if (!one || !other) throw new Error('there are vectors');
    await upgraded(dir);
    cpSync(join(dir, 'superseded', fileOf(other)), join(dir, fileOf(one)));
    const ran = await upgrade(dir);
    expect(JSON.parse(ran.stdout).problems).toMatchObject([{ walletId: one.walletId }]);
    expect((await inspected(dir)).filter(row => row.form === 'keyslot')).toHaveLength(wallets.length);
    expect(readdirSync(join(dir, 'superseded'))).toHaveLength(wallets.length);
  });
});

describe('an upgrade that is killed', () => {
  const made = new Map<string, string>();
  const dir = join(folder, 'killed');

  beforeAll(async () => {
    mkdirSync(dir, { mode: 0o700 });
    using secret = Secret.fromText(environment.WALLET_KEY_ENCRYPTION_SECRET ?? '');
    using form = encryptedFileForm({ secret, writes: 'documented' }); // its keys cost no derivation
    for (let at = 0; at < 60; at += 1) {
      const id = keyId(`wallet-${String(at).padStart(2, '0')}`);
      using seed = Secret.fromBytes(crypto.getRandomValues(new Uint8Array(32)));
      const publicKey = publicKeyBytes(seed.use(publicKeyFromSeed));
      writeFileSync(join(dir, `${id}.json`), await form.seal(id, publicKey, seed), { mode: 0o600 });
      made.set(id, encodeBase58(publicKey));
    }
  });

  /** Every key has a file in one form at least, and no file is torn. */
  function expectWhole(): void {
    const names = readdirSync(dir).filter(name => name.startsWith('wallet-'));
    expect(new Set(names.map(name => name.split('.')[0]))).toEqual(new Set(made.keys()));
    for (const name of names) expect(() => JSON.parse(readFileSync(join(dir, name), 'utf8'))).not.toThrow();
  }

  async function expectAllOpen(): Promise<void> {
    const rows = await inspected(dir);
    for (const { walletId, publicKey, problem } of rows) {
      expect({ walletId, publicKey, problem }).toEqual({ walletId, publicKey: made.get(walletId) });
    }
    expect(new Set(rows.map(row => row.walletId)).size).toBe(made.size);
  }

  /** Kills it once so many files have appeared or gone, wherever it is then. False when it was faster. */
  async function killed(flags: readonly string[], files: number): Promise<boolean> {
    const before = readdirSync(dir, { recursive: true }).length;
    const child = spawn(
      process.execPath,
      [join(root, 'src', 'cli', 'main.ts'), 'envelopes', 'upgrade', dir, ...flags],
      {
        stdio: 'ignore',
        env: { ...process.env, ...environment },
      },
    );
    const exited = new Promise<boolean>(done =>
      child.on('exit', (_status, signal) => done(signal === 'SIGKILL')),
    );
    let ended = false;
    exited.then(() => {
      ended = true;
    });
    while (!ended && Math.abs(readdirSync(dir, { recursive: true }).length - before) < files) {
      await new Promise(done => setTimeout(done, 1));
    }
    child.kill('SIGKILL');
    return await exited;
  }

  it('twelve times, there and back, loses no key, and finishes when it is run again', async () => {
    let kills = 0;
    for (const flags of [[], ['--revert']]) {
      for (let round = 0; round < 6; round += 1) {
        kills += Number(await killed(flags, 1 + (round % 4)));
        expectWhole();
      }
      await expectAllOpen();
      await upgraded(dir, flags);
      await expectAllOpen();
    }
    expect(kills).toBeGreaterThan(5);
    expect(readdirSync(dir).toSorted()).toEqual([...made.keys()].map(id => `${id}.json`));
  }, 300_000);

  it('is stopped between two keys by Ctrl-C, says how many are left, and goes on when it is run again', async () => {
    const child = spawn(
      process.execPath,
      [join(root, 'src', 'cli', 'main.ts'), 'envelopes', 'upgrade', dir, '--json'],
      {
        stdio: ['ignore', 'pipe', 'ignore'],
        env: { ...process.env, ...environment },
      },
    );
    let output = '';
    child.stdout.on('data', chunk => {
      output += String(chunk);
    });
    const closed = new Promise<number | null>(done => child.on('close', done));
    const superseded = join(dir, 'superseded');
    while (child.exitCode === null && !(existsSync(superseded) && readdirSync(superseded).length > 2)) {
      await new Promise(done => setTimeout(done, 1));
    }
    child.kill('SIGINT');
    const status = await closed;
    const change = JSON.parse(output) as EnvelopeChange;
    expect(change.changed.length).toBeGreaterThan(2);
    expect(change.changed.length + change.left).toBe(made.size);
    expect(status).toBe(change.left > 0 ? 1 : 0);
    expect((await upgraded(dir)).changed).toHaveLength(change.left);
    await expectAllOpen();
  });
});

describe('an upgraded folder', () => {
  let running: Appliance | undefined;
  afterEach(async () => {
    await running?.stop();
  });

  it('serves its keys, takes new ones, and gives all of them back to the old form', async () => {
    const home = { path: join(folder, 'home'), log: join(folder, 'log') };
    const keys = join(home.path, 'keys', 'encrypted-file');
    const own = { ...environment, WALLET_SIGNER_BACKEND: 'encrypted-file' };
    const old = { ...own, KEYSLOT_ENVELOPE: 'agentic-wallet' };
    const made = async (id: string) => {
      const answer = await running?.client().post('/v1/keys', { id, slot: 'encrypted-file' });
      expect(answer?.status, answer?.text).toBe(201);
    };
    const sign = async (...ids: readonly string[]) => {
      for (const id of ids) {
        const path = `/v1/keys/${id}/sign-message`;
        const signed = await running?.client().post(path, { message: base64('hello') });
        expect(signed?.status, signed?.text).toBe(200);
      }
    };
    running = await serve(home, { environment: old });
    await made('before');
    expect(await refusedUpgrade(keys)).toBe('HOME_IN_USE');
    await running.stop();
    expect((await upgraded(keys)).changed).toEqual(['before']);
    running = await serve(home, { environment: own });
    await made('after');
    await sign('before', 'after');
    await running.stop();
    expect(readdirSync(keys).filter(name => name.endsWith('.keyslot.json'))).toHaveLength(2);
    expect((await upgraded(keys, ['--revert'])).changed).toEqual(['after', 'before']);
    expect(readdirSync(keys).toSorted()).toEqual(['after.json', 'before.json']);
    running = await serve(home, { environment: old });
    await sign('before', 'after');
  });
});
