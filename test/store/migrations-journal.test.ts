import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { keyId, publicKeyBytes, slotId } from '../../src/custody/ids.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { KeyRegistry } from '../../src/store/key-registry.ts';
import {
  type MigrationKey,
  type MigrationStep,
  MigrationsJournal,
  migrationSteps,
} from '../../src/store/migrations-journal.ts';
import { Store } from '../../src/store/store.ts';

let folder: string;
let store: Store;
let journal: MigrationsJournal;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keyslot-journal-'));
  store = new Store(join(folder, 'keyslot.db'));
  journal = new MigrationsJournal(store);
});

afterEach(() => {
  store[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

function reopen(): void {
  store[Symbol.dispose]();
  store = new Store(join(folder, 'keyslot.db'));
  journal = new MigrationsJournal(store);
}

const at = new Date('2026-01-02T03:04:05.678Z');
const publicKey = (of = 7) => publicKeyBytes(new Uint8Array(32).fill(of));
const begin = (keys: readonly string[], from = 'main', to = 'spare') =>
  journal.begin({
    from: slotId(from),
    to: slotId(to),
    by: 'operator',
    at,
    keys: keys.map(key => ({ key: keyId(key), publicKey: publicKey(), custodyBefore: 'memory' as const })),
  });
const only = (id: string): MigrationKey => {
  const [key] = journal.keys(id);
  if (!key) throw new TypeError('The migration has no key.');
  return key;
};

function code(work: () => unknown): string {
  try {
    work();
    return 'none';
  } catch (thrown) {
    if (isKeyslotError(thrown)) return thrown.code;
    throw thrown;
  }
}

describe('the journal of migrations', () => {
  it('keeps what was begun, over a restart', () => {
    const migration = begin(['b', 'a']);
    reopen();
    expect(journal.get(migration.id)).toEqual(migration);
    expect(journal.all()).toEqual([migration]);
    expect(journal.keys(migration.id).map(({ key }) => key)).toEqual(['a', 'b']);
    expect(journal.keys(migration.id, 'a').map(({ key }) => key)).toEqual(['b']);
    expect(only(migration.id)).toEqual({
      migration: migration.id,
      key: 'a',
      publicKey: publicKey(),
      step: 'planned',
      custodyBefore: 'memory',
      times: { planned: at.toISOString() },
    });
    expect(journal.get('m-0000000000')).toBeUndefined();
  });

  it('lists the latest migration first', () => {
    const ids = ['a', 'b', 'c'].map(key => begin([key]).id);
    expect(journal.all().map(({ id }) => id)).toEqual(ids.toReversed());
  });

  it('lets one migration move a key at a time, and writes nothing of the second', () => {
    const first = begin(['a', 'b']);
    expect(code(() => begin(['c', 'b']))).toBe('MIGRATION_RUNNING');
    expect(journal.all()).toEqual([first]);
    expect(journal.unsettledOf(keyId('c'))).toBeUndefined();
    expect(journal.unsettledOf(keyId('a'))).toBe(first.id);
    journal.reached(only(first.id), 'switched', at);
    expect(code(() => begin(['a']))).toBe('none');
  });

  it('remembers steps, times and proofs, and forgets a failure that was overcome', () => {
    const { id } = begin(['a']);
    const error = { code: 'TOKEN_ERROR', detail: 'It failed.' };
    journal.stopped(only(id), error);
    expect([only(id).error, only(id).step, journal.failed(id)]).toEqual([error, 'planned', 1]);
    const proof = { slot: 'spare', at: 'now', challenge: 'AA==', challengeSha256: 'ff', signature: 'AA==' };
    const later = new Date(at.getTime() + 1_000);
    journal.reached(only(id), 'proven', later, { proof, custodyAfter: 'hsm-native' });
    reopen();
    expect(only(id)).toMatchObject({ step: 'proven', proof, custodyAfter: 'hsm-native' });
    expect(only(id).times).toEqual({ planned: at.toISOString(), proven: later.toISOString() });
    expect([only(id).error, journal.failed(id)]).toEqual([undefined, 0]);
    journal.verified(only(id), later, { ...proof, slot: 'main' });
    expect(only(id)).toMatchObject({ step: 'proven', proof: { slot: 'main' } });
    expect(only(id).times.verified).toBe(later.toISOString());
  });

  it('knows in which slot a copy may be, at every step', () => {
    const { id } = begin(['a']);
    const places: Record<MigrationStep, readonly string[]> = {
      planned: ['spare'],
      imported: ['spare'],
      proven: ['spare'],
      switched: ['main'],
      kept: ['main'],
      destroyed: [],
      'rolled-back': ['spare'],
      cleared: [],
    };
    for (const step of migrationSteps) {
      journal.reached(only(id), step, at);
      const found = ['main', 'spare', 'third'].filter(slot => journal.copiesIn(slotId(slot)).has('a'));
      expect(found, step).toEqual(places[step]);
    }
  });

  it('counts what stands where, whatever the steps', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...migrationSteps), { maxLength: 12 }), steps => {
        const { id } = begin(steps.map((_, of) => `k${of}`));
        for (const [of, key] of journal.keys(id).entries()) journal.reached(key, steps[of] ?? 'planned', at);
        const expected = migrationSteps.map(step => [step, steps.filter(each => each === step).length]);
        expect(journal.counts(id)).toEqual(Object.fromEntries(expected));
        for (const key of journal.keys(id)) journal.reached(key, 'cleared', at);
      }),
      { numRuns: 20 },
    );
  });
});

describe('moving a key', () => {
  const info = { id: keyId('a'), publicKey: publicKey(), custody: 'memory', exportable: true } as const;
  const rows = () => store.all('SELECT slot, custody, exportable, attributes FROM keys');
  const attributes = {
    token: true,
    private: true,
    sensitive: true,
    extractable: false,
    always_sensitive: false,
    never_extractable: false,
    local: false,
  };

  function registered(): KeyRegistry {
    const registry = new KeyRegistry(store);
    registry.begin(info.id, slotId('main'), 'generated', at);
    registry.complete(info);
    return registry;
  }

  it('changes slot, custody and attributes, in the registry and in the file, and nothing else', () => {
    const registry = registered();
    const before = registry.get(info.id);
    const there = { ...info, custody: 'hsm-native', exportable: false, attributes } as const;
    registry.move(there, slotId('spare'), () => undefined);
    expect(registry.get(info.id)).toEqual({
      ...before,
      slot: 'spare',
      custody: 'hsm-native',
      exportable: false,
      attributes,
    });
    expect(new KeyRegistry(store).get(info.id)).toEqual(registry.get(info.id));
    registry.move(info, slotId('main'), () => undefined);
    expect(registry.get(info.id)).toEqual(before);
    expect(new KeyRegistry(store).get(info.id)).toEqual(before);
  });

  it('happens together with the journal, or not at all', () => {
    const registry = registered();
    const before = rows();
    const { id } = begin(['a']);
    const broken = () => {
      journal.reached(only(id), 'switched', at);
      throw new TypeError('The work broke.');
    };
    expect(() => registry.move(info, slotId('spare'), broken)).toThrow('The work broke.');
    expect([rows(), registry.get(info.id)?.slot, only(id).step]).toEqual([before, 'main', 'planned']);
    registry.move(info, slotId('spare'), () => journal.reached(only(id), 'switched', at));
    expect([registry.get(info.id)?.slot, only(id).step]).toEqual(['spare', 'switched']);
  });

  it('takes an active key and its own public key', () => {
    const registry = registered();
    registry.begin(keyId('pending'), slotId('main'), 'generated', at);
    const move = (moved: Parameters<KeyRegistry['move']>[0]) => () =>
      registry.move(moved, slotId('spare'), () => undefined);
    expect(move({ ...info, publicKey: publicKey(8) })).toThrow(RangeError);
    expect(move({ ...info, id: keyId('pending') })).toThrow(RangeError);
    expect(move({ ...info, id: keyId('never-made') })).toThrow(RangeError);
    expect(registry.get(info.id)?.slot).toBe('main');
  });
});
