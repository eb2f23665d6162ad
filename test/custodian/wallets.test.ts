import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Adoptable, AdoptionSource } from '../../src/custodian/adoption.ts';
import { imports } from '../../src/custody/engine.ts';
import { keyId } from '../../src/custody/ids.ts';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { publicKeyFromSeed } from '../../src/foundation/ed25519.ts';
import { KeyslotError } from '../../src/foundation/errors.ts';
import { limits } from '../../src/foundation/limits.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { encodeFrame } from '../../src/wire/frames.ts';
import { Device, pinText } from './device.ts';
import { Lab, refusal, text } from './lab.ts';

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

let device: Device;
let lab: Lab;

beforeEach(async () => {
  device = await Device.make();
  lab = await Lab.open({ slot: device.slot });
});

afterEach(async () => {
  await lab[Symbol.asyncDispose]();
  await device[Symbol.asyncDispose]();
});

const create = async (label?: string) =>
  (await lab.ask('both', 'create-wallet', label === undefined ? {} : { label })).output;
const list = async (input: { publicKey?: string; cursor?: string } = {}) =>
  (await lab.ask('both', 'list-wallets', input)).output;
const reopened = async () => {
  await lab.restart();
  await lab.custodian.openUnattended();
};

describe('a wallet', () => {
  it('is a key of the configured slot under a new UUID, with its label', async () => {
    const wallet = await create('savings');
    expect(wallet.id).toMatch(uuid);
    expect(wallet).toMatchObject({ custody: 'memory', status: 'active', label: 'savings' });
    const { output: key } = await lab.ask('both', 'show-key', { key: wallet.id });
    expect(key).toMatchObject({ slot: 'main', publicKey: wallet.publicKey, origin: 'generated' });
    expect((await lab.ask('both', 'show-wallet', { key: wallet.id })).output).toEqual(wallet);
    const signed = await lab.ask('both', 'sign-message', { key: wallet.id }, { bytes: [text('hello')] });
    expect(signed.output.publicKey).toBe(wallet.publicKey);
  });

  it('keeps its label over a restart, and one without a label has none', async () => {
    const wallets = [await create('one'), await create()];
    await reopened();
    expect((await list()).wallets.toSorted(byLabel)).toEqual(wallets.toSorted(byLabel));
    expect(wallets[1]).not.toHaveProperty('label');
  });

  it('is any key whose id is a UUID, and no other', async () => {
    const id = '0b3ab5f4-5e0e-4b9c-8f3b-0d5d6a0e9f11';
    for (const key of [id, `${id}-2`, 'savings']) {
      await lab.ask('operator', 'generate-key', { key, slot: 'main' });
    }
    expect((await list()).wallets.map(wallet => wallet.id)).toEqual([id]);
  });
});

describe('listing wallets', () => {
  it('gives the oldest first, finds one by its address, and goes on behind a cursor', async () => {
    const made = [];
    for (let count = 0; count < 5; count += 1) {
      made.push(await create(`number ${count}`));
      lab.clock.advance(1000);
    }
    expect((await list()).wallets).toEqual(made);
    expect((await list({ publicKey: made[3]?.publicKey ?? '' })).wallets).toEqual([made[3]]);
    expect((await list({ publicKey: 'nobody' })).wallets).toEqual([]);
    expect((await list({ cursor: made[2]?.id ?? '' })).wallets).toEqual(made.slice(3));
    expect(await refusal(list({ cursor: 'nothing' }))).toBe('QUERY_INVALID');
  });

  it('fits a frame even when every label is as long in JSON as a label can be', () => {
    const longest = {
      id: '00000000-0000-4000-8000-000000000001',
      publicKey: 'x'.repeat(44),
      custody: 'shamir-envelope',
      status: 'disabled',
      createdAt: new Date().toISOString(),
      label: '\u0000'.repeat(128),
    };
    const page = {
      wallets: Array.from({ length: limits.wallets_items_max }, () => longest),
      next: longest.id,
    };
    const frame = encodeFrame({ id: 1, kind: 'reply', head: page, bytes: [] });
    expect(frame.length).toBeLessThan(limits.frame_bytes_max);
  });

  it('shows an identity the slots of its grants alone', async () => {
    await using spare = await Device.make('spare');
    await lab.restart(
      { slot: spare.slot, source: () => pinText },
      { slot: device.slot, source: () => pinText },
    );
    await lab.custodian.openUnattended();
    const { id } = await create('in spare');
    expect((await list()).wallets.map(wallet => wallet.id)).toEqual([id]);
    expect((await lab.ask('mainOnly', 'list-wallets', {})).output.wallets).toEqual([]);
    expect(await refusal(lab.ask('mainOnly', 'show-wallet', { key: id }))).toBe('KEY_UNKNOWN');
    expect(await refusal(lab.ask('mainOnly', 'create-wallet', {}))).toBe('SLOT_UNKNOWN');
  });
});

describe('making a wallet that fails', () => {
  it('leaves no wallet and no label behind when the custody refuses', async () => {
    device.onGenerate = async () => {
      throw new KeyslotError('KEY_UNVERIFIED', 'no proof');
    };
    expect(await refusal(create('lost'))).toBe('KEY_UNVERIFIED');
    expect((await list()).wallets).toEqual([]);
    expect(lab.store.all('SELECT * FROM wallets')).toEqual([]);
  });

  it('keeps the label of a key that was made without being able to say so', async () => {
    device.onGenerate = async honest => {
      await honest();
      throw new KeyslotError('TOKEN_ERROR', 'the answer was lost');
    };
    expect(await refusal(create('found'))).toBe('TOKEN_ERROR');
    expect((await list()).wallets).toEqual([]);
    await reopened();
    expect((await list()).wallets.map(({ label }) => label)).toEqual(['found']);
  });

  it('is SLOT_LOCKED while the slot is locked, and sweeps what a crash left before the key was begun', async () => {
    await lab.ask('operator', 'lock-slot', { slot: 'main' });
    expect(await refusal(create('locked out'))).toBe('SLOT_LOCKED');
    lab.store.run(
      "INSERT INTO wallets (id, label) VALUES ('0b3ab5f4-5e0e-4b9c-8f3b-0d5d6a0e9f11', 'crashed')",
    );
    await reopened();
    expect(lab.store.all('SELECT * FROM wallets')).toEqual([]);
  });
});

describe('adopting', () => {
  const ids = [
    '00000000-0000-4000-8000-000000000001',
    '00000000-0000-4000-8000-000000000002',
    '00000000-0000-4000-8000-000000000003',
  ] as const;
  const createdAt = new Date('2024-05-06T07:08:09.000Z');
  const seedOf = (at: number) => new Uint8Array(32).fill(at + 1);
  const addressOf = (at: number) => {
    using seed = Secret.fromBytes(seedOf(at));
    return encodeBase58(seed.use(publicKeyFromSeed));
  };

  /** What the other program left; the device holds a key once it is placed. */
  const placed: string[] = [];
  function source(wallets: readonly Partial<Adoptable>[]): AdoptionSource {
    placed.length = 0;
    return {
      wallets: wallets.map((wallet, at) => ({ id: keyId(ids[at] ?? ''), createdAt, ...wallet })),
      place: async id => {
        placed.push(id);
        const at = Number(id.at(-1)) - 1;
        if (at === 2) throw new KeyslotError('KEY_FILE_UNSAFE', 'a link');
        await device.behind(async session => {
          using seed = Secret.fromBytes(seedOf(at));
          if (imports(session)) await session.import(id, seed).catch(() => undefined);
        });
      },
    };
  }

  const openWith = async (adoption: AdoptionSource) => {
    await lab.restart({ slot: device.slot, source: () => pinText, adoption });
    expect(await lab.custodian.openUnattended()).toEqual([]);
  };

  it('takes keys in under their ids, with the addresses, dates and labels that they had', async () => {
    await openWith(source([{ publicKey: addressOf(0), label: 'treasury' }, {}]));
    const seen = (await list()).wallets;
    expect(seen).toEqual([
      {
        id: ids[0],
        publicKey: addressOf(0),
        custody: 'memory',
        keyProvenance: { backend: 'memory', custody: 'local', deterministicAddressing: false },
        status: 'active',
        createdAt: createdAt.toISOString(),
        label: 'treasury',
      },
      expect.objectContaining({ id: ids[1], publicKey: addressOf(1) }),
    ]);
    const { output } = await lab.ask('both', 'show-key', { key: ids[0] });
    expect(output).toMatchObject({ origin: 'imported', slot: 'main' });
    const [slot] = (await lab.ask('both', 'list-slots', {})).output.slots;
    expect(slot).toMatchObject({ state: 'open', findings: [] });
  });

  it('is done once: a second opening places and records nothing', async () => {
    await openWith(source([{}, {}]));
    const before = (await list()).wallets;
    await openWith(source([{ label: 'another' }, {}]));
    expect(placed).toEqual([]);
    expect((await list()).wallets).toEqual(before);
  });

  it('leaves a key alone whose address is another one, and one that cannot be placed; the others work', async () => {
    await openWith(source([{ publicKey: addressOf(1) }, { publicKey: addressOf(1) }, {}]));
    expect((await list()).wallets.map(({ id }) => id)).toEqual([ids[1]]);
    const sign = lab.ask('both', 'sign-message', { key: ids[0] }, { bytes: [text('hello')] });
    expect(await refusal(sign)).toBe('KEY_UNKNOWN');
    const { output } = await lab.ask('both', 'show-slot', { slot: 'main' });
    expect(output.findings).toEqual([{ key: ids[0], problem: 'unknown' }]);
    await lab.ask('both', 'sign-message', { key: ids[1] }, { bytes: [text('hello')] });
  });

  it('goes on after a crash between the label and the record', async () => {
    lab.store.run('INSERT INTO wallets (id, label) VALUES (?, ?)', ids[0], 'treasury');
    await openWith(source([{ publicKey: addressOf(0), label: 'treasury' }]));
    expect((await list()).wallets).toMatchObject([{ id: ids[0], label: 'treasury' }]);
  });
});

const byLabel = (one: { label?: string | undefined }, other: { label?: string | undefined }) =>
  String(one.label).localeCompare(String(other.label));
