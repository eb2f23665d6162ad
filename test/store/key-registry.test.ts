import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { KeyInfo } from '../../src/custody/engine.ts';
import { keyId, publicKeyBytes, slotId } from '../../src/custody/ids.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { KeyRegistry } from '../../src/store/key-registry.ts';
import { Store } from '../../src/store/store.ts';

const main = slotId('main');
const spare = slotId('spare');
const at = new Date('2026-01-02T03:04:05.678Z');
const everywhere = () => true;

let folder: string;
let store: Store;
let registry: KeyRegistry;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keyslot-registry-'));
  store = new Store(join(folder, 'keyslot.db'));
  registry = new KeyRegistry(store);
});

afterEach(() => {
  store[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

/** What another process would find. */
function reopened(): KeyRegistry {
  store[Symbol.dispose]();
  store = new Store(join(folder, 'keyslot.db'));
  registry = new KeyRegistry(store);
  return registry;
}

const infoOf = (id: string, byte = 1): KeyInfo => ({
  id: keyId(id),
  publicKey: publicKeyBytes(new Uint8Array(32).fill(byte)),
  custody: 'memory',
  exportable: true,
});

function add(id: string, slot = main): void {
  registry.begin(keyId(id), slot, 'generated', at);
  registry.complete(infoOf(id));
}

function code(work: () => unknown): string {
  try {
    work();
    return 'none';
  } catch (thrown) {
    if (isKeyslotError(thrown)) return thrown.code;
    throw thrown;
  }
}

describe('the key registry', () => {
  it('keeps a key with everything that was said of it', () => {
    const attributes = {
      token: true,
      private: true,
      sensitive: true,
      extractable: false,
      always_sensitive: false,
      never_extractable: true,
      local: false,
    };
    registry.begin(keyId('wallet'), main, 'imported', at);
    const completed = registry.complete({ ...infoOf('wallet', 7), custody: 'hsm-native', attributes });
    const expected = {
      id: 'wallet',
      slot: 'main',
      origin: 'imported',
      state: 'active',
      createdAt: at.toISOString(),
      custody: 'hsm-native',
      exportable: true,
      attributes,
    };
    for (const record of [completed, registry.get(keyId('wallet')), reopened().get(keyId('wallet'))]) {
      expect(record).toMatchObject(expected);
      expect(Buffer.from(record?.publicKey ?? [])).toEqual(Buffer.alloc(32, 7));
    }
  });

  it('keeps a key that was begun as pending, through a restart', () => {
    registry.begin(keyId('wallet'), main, 'generated', at);
    for (const found of [registry, reopened()]) {
      expect(found.get(keyId('wallet'))).toMatchObject({ state: 'pending', slot: 'main' });
      expect(found.get(keyId('wallet'))?.publicKey).toBeUndefined();
      expect(found.ofSlot(main)).toHaveLength(1);
      expect(found.page({ which: everywhere, limit: 10 })).toEqual([]);
    }
    registry.complete(infoOf('wallet'));
    expect(reopened().get(keyId('wallet'))?.state).toBe('active');
  });

  it('gives an id away once, pending or not, in whatever slot', () => {
    registry.begin(keyId('wallet'), main, 'generated', at);
    expect(code(() => registry.begin(keyId('wallet'), spare, 'imported', at))).toBe('KEY_EXISTS');
    registry.complete(infoOf('wallet'));
    expect(code(() => registry.begin(keyId('wallet'), main, 'generated', at))).toBe('KEY_EXISTS');
    expect(code(() => reopened().begin(keyId('wallet'), main, 'generated', at))).toBe('KEY_EXISTS');
    expect(registry.get(keyId('wallet'))).toMatchObject({ slot: 'main', origin: 'generated' });
  });

  it('frees the id of a key that was not made', () => {
    registry.begin(keyId('wallet'), main, 'generated', at);
    registry.abandon(keyId('wallet'));
    expect(registry.get(keyId('wallet'))).toBeUndefined();
    expect(reopened().get(keyId('wallet'))).toBeUndefined();
    add('wallet', spare);
    expect(registry.get(keyId('wallet'))?.slot).toBe('spare');
  });

  it('never abandons a key that exists, neither in memory nor in the file', () => {
    add('wallet');
    registry.abandon(keyId('wallet'));
    expect(registry.get(keyId('wallet'))?.state).toBe('active');
    expect(reopened().get(keyId('wallet'))?.state).toBe('active');
    registry.abandon(keyId('nothing'));
  });

  it('completes only what was begun', () => {
    expect(() => registry.complete(infoOf('wallet'))).toThrow(RangeError);
    expect(reopened().get(keyId('wallet'))).toBeUndefined();
  });

  it('remembers nothing that the file refused', () => {
    store[Symbol.dispose]();
    expect(code(() => registry.begin(keyId('wallet'), main, 'generated', at))).toBe('STORE_FAILED');
    expect(registry.get(keyId('wallet'))).toBeUndefined();
    expect(reopened().get(keyId('wallet'))).toBeUndefined();
    registry.begin(keyId('wallet'), main, 'generated', at);
    store[Symbol.dispose]();
    expect(code(() => registry.complete(infoOf('wallet')))).toBe('STORE_FAILED');
    expect(registry.get(keyId('wallet'))?.state).toBe('pending');
    expect(reopened().get(keyId('wallet'))?.state).toBe('pending');
  });

  it('gives every key of the slots asked for exactly once, page by page, in order', () => {
    const ids = fc.uniqueArray(fc.stringMatching(/^[a-z0-9][a-z0-9-]{0,5}$/), {
      minLength: 1,
      maxLength: 40,
    });
    const taken = new Set<string>();
    fc.assert(
      fc.property(ids, fc.integer({ min: 1, max: 12 }), (wanted, limit) => {
        for (const id of wanted) {
          if (!taken.has(id)) add(id, id.length % 2 === 0 ? main : spare);
          taken.add(id);
        }
        const seen: string[] = [];
        for (let after: string | undefined; ; ) {
          const page = registry.page({ which: record => record.slot === main, after, limit });
          seen.push(...page.map(record => record.id));
          if (page.length < limit) break;
          after = page.at(-1)?.id;
        }
        expect(seen).toEqual([...taken].filter(id => id.length % 2 === 0).toSorted());
      }),
      { numRuns: 15 },
    );
  });

  it('gives the pages that remain when keys come and go in between', () => {
    for (const id of ['b', 'd', 'f']) add(id);
    const first = registry.page({ which: everywhere, limit: 2 }).map(record => record.id);
    expect(first).toEqual(['b', 'd']);
    add('a');
    add('e');
    const rest = registry.page({ which: everywhere, after: 'd', limit: 10 }).map(record => record.id);
    expect(rest).toEqual(['e', 'f']);
  });

  it('keeps the tags that a key was begun with, until it is given others', () => {
    registry.begin(keyId('wallet'), main, 'generated', at, ['treasury', 'hot']);
    registry.complete(infoOf('wallet'));
    add('plain');
    expect(reopened().get(keyId('wallet'))?.tags).toEqual(['treasury', 'hot']);
    expect(registry.get(keyId('plain'))?.tags).toEqual([]);
    expect(registry.setTags(keyId('wallet'), ['cold']).tags).toEqual(['cold']);
    expect(registry.get(keyId('wallet'))?.tags).toEqual(['cold']);
    registry.setTags(keyId('plain'), []);
    expect(reopened().get(keyId('wallet'))).toMatchObject({ tags: ['cold'], state: 'active' });
    expect(code(() => registry.setTags(keyId('nothing'), ['x']))).toBe('KEY_UNKNOWN');
  });

  it('disables a key and enables it again, over restarts', () => {
    add('wallet');
    expect(registry.setState(keyId('wallet'), 'disabled').state).toBe('disabled');
    expect(reopened().get(keyId('wallet'))?.state).toBe('disabled');
    expect(registry.setState(keyId('wallet'), 'active').state).toBe('active');
    expect(reopened().get(keyId('wallet'))?.state).toBe('active');
  });

  it('never takes a destroyed key back, and never gives its id away again', () => {
    add('wallet');
    registry.setState(keyId('wallet'), 'destroyed');
    for (const found of [registry, reopened()]) {
      expect(found.get(keyId('wallet'))?.state).toBe('destroyed');
      expect(Buffer.from(found.get(keyId('wallet'))?.publicKey ?? [])).toEqual(Buffer.alloc(32, 1));
      expect(code(() => found.setState(keyId('wallet'), 'active'))).toBe('KEY_UNKNOWN');
      expect(code(() => found.setState(keyId('wallet'), 'disabled'))).toBe('KEY_UNKNOWN');
      expect(code(() => found.setTags(keyId('wallet'), ['x']))).toBe('KEY_UNKNOWN');
      expect(code(() => found.begin(keyId('wallet'), main, 'generated', at))).toBe('KEY_EXISTS');
    }
    expect(reopened().get(keyId('wallet'))?.state).toBe('destroyed');
  });

  it('changes the state of no key that was never completed', () => {
    registry.begin(keyId('wallet'), main, 'generated', at);
    expect(code(() => registry.setState(keyId('wallet'), 'active'))).toBe('KEY_UNKNOWN');
    expect(code(() => registry.setState(keyId('nothing'), 'active'))).toBe('KEY_UNKNOWN');
    expect(reopened().get(keyId('wallet'))?.state).toBe('pending');
  });
});
