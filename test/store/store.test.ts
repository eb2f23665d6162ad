import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { keyId, publicKeyBytes, slotId } from '../../src/custody/ids.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { KeyRegistry } from '../../src/store/key-registry.ts';
import { Store } from '../../src/store/store.ts';

let folder: string;
let file: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keyslot-store-'));
  file = join(folder, 'keyslot.db');
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

function code(work: () => unknown): string {
  try {
    work();
    return 'none';
  } catch (thrown) {
    if (isKeyslotError(thrown)) return thrown.code;
    throw thrown;
  }
}

function pragma(name: string): unknown {
  const database = new DatabaseSync(file);
  try {
    return database.prepare(`PRAGMA ${name}`).get()?.[name];
  } finally {
    database.close();
  }
}

/** A store of many keys, closed. */
function filled(): void {
  using store = new Store(file);
  const registry = new KeyRegistry(store);
  for (let at = 0; at < 100; at += 1) {
    const id = keyId(`key-${at}`);
    registry.begin(id, slotId('main'), 'generated', new Date(0));
    const publicKey = publicKeyBytes(new Uint8Array(32).fill(at));
    registry.complete({ id, publicKey, custody: 'memory', exportable: false });
  }
}

describe('the store', () => {
  it('is made from nothing, and its schema has a number', () => {
    new Store(file)[Symbol.dispose]();
    expect(pragma('user_version')).toBe(4);
    expect(pragma('journal_mode')).toBe('wal');
  });

  it('is made from an empty file', () => {
    writeFileSync(file, '');
    using store = new Store(file);
    expect(store.all('SELECT * FROM keys')).toEqual([]);
    expect(store.all('SELECT * FROM latches')).toEqual([]);
  });

  it('opens again as it was left, and can be closed twice', () => {
    filled();
    const store = new Store(file);
    expect(new KeyRegistry(store).ofSlot(slotId('main'))).toHaveLength(100);
    store[Symbol.dispose]();
    store[Symbol.dispose]();
    expect(code(() => store.all('SELECT 1'))).toBe('STORE_FAILED');
  });

  it('syncs every change: what was acknowledged survives a power cut', () => {
    using store = new Store(file);
    expect(store.all('PRAGMA synchronous')).toEqual([{ synchronous: 2 }]); // FULL
  });

  it('of a newer Keyslot is not touched', () => {
    filled();
    const database = new DatabaseSync(file);
    database.exec('PRAGMA user_version = 1000');
    database.close();
    expect(code(() => new Store(file))).toBe('STORE_NEWER');
    expect(pragma('user_version')).toBe(1000);
  });

  it('that is no database at all is STORE_FAILED, and is not overwritten', () => {
    const noise = Buffer.from(Uint8Array.from({ length: 8_192 }, (_, at) => (at * 89) & 0xff));
    writeFileSync(file, noise);
    expect(code(() => new Store(file))).toBe('STORE_FAILED');
    expect(statSync(file).size).toBe(noise.length);
  });

  it('whose pages were overwritten is STORE_FAILED', () => {
    filled();
    const descriptor = openSync(file, 'r+');
    for (let at = 4_096; at < statSync(file).size; at += 4_096) {
      writeSync(descriptor, Buffer.alloc(4_096, 0xa5), 0, 4_096, at);
    }
    closeSync(descriptor);
    expect(code(() => new KeyRegistry(new Store(file)))).toBe('STORE_FAILED');
  });

  it('that was cut off is STORE_FAILED', () => {
    filled();
    truncateSync(file, 4_096 + 100);
    expect(code(() => new KeyRegistry(new Store(file)))).toBe('STORE_FAILED');
  });

  it('whose place is no file is STORE_FAILED', () => {
    mkdirSync(file);
    expect(code(() => new Store(file))).toBe('STORE_FAILED');
    expect(code(() => new Store(join(folder, 'missing', 'keyslot.db')))).toBe('STORE_FAILED');
  });

  it('answers a statement that fails with STORE_FAILED, and goes on', () => {
    using store = new Store(file);
    expect(code(() => store.run("INSERT INTO keys (id) VALUES ('x')"))).toBe('STORE_FAILED');
    expect(code(() => store.all('SELECT nothing FROM nowhere'))).toBe('STORE_FAILED');
    expect(store.all('SELECT * FROM keys')).toEqual([]);
  });
});
