import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { adoptionSource } from '../../src/appliance/adoption.ts';
import type { AdoptionSource } from '../../src/custodian/adoption.ts';
import { keyId } from '../../src/custody/ids.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import type { Log } from '../../src/foundation/log.ts';
import { createdAtOf, deployed, FieldFolder } from './field-folder.ts';

const vectors = deployed('encrypted-file');
const [first, second, third] = vectors.map(({ walletId }) => keyId(walletId));
const labelled = vectors.map((vector, at) => ({ ...vector, label: `label ${at}` }));

let field: FieldFolder;
let home: string;
let folder: string;
let said: { readonly level: 'warn' | 'error'; readonly fields: Readonly<Record<string, unknown>> }[];

beforeEach(() => {
  field = new FieldFolder();
  home = mkdtempSync(join(tmpdir(), 'keyslot-adopt-test-'));
  folder = join(home, 'keys', 'files');
  said = [];
});

afterEach(() => {
  field[Symbol.dispose]();
  rmSync(home, { recursive: true, force: true });
});

const log: Log = {
  info: () => undefined,
  warn: fields => said.push({ level: 'warn', fields }),
  error: fields => said.push({ level: 'error', fields }),
};

const source = (suffix = '.json'): Promise<AdoptionSource> =>
  adoptionSource({ from: field.path, suffix, folder, log });

const refusal = async (attempt: Promise<unknown>): Promise<string> => {
  try {
    await attempt;
    return 'none';
  } catch (thrown) {
    if (isKeyslotError(thrown)) return thrown.code;
    throw thrown;
  }
};

/** A row whose wallet has no file: the log says it. */
const rowOf = (at: number) => ({
  walletId: `row-${String(at).padStart(4, '0')}`,
  publicKey: 'x'.repeat(1000),
});

const byId = (one: { id: string }, other: { id: string }) => (one.id < other.id ? -1 : 1);

describe('what the other program left behind', () => {
  it('is read from its database with what is only in the WAL, and nothing of it is changed', async () => {
    field.database(labelled);
    const before = field.listing();
    expect(before.some(line => line.startsWith('wallet-engine.sqlite-wal '))).toBe(true);
    const { wallets, place } = await source();
    for (const { id } of wallets) await place(id);
    expect(field.listing()).toEqual(before);
    expect(wallets.toSorted(byId)).toEqual(
      labelled
        .map(({ walletId, publicKey, label }, at) => ({
          id: walletId,
          publicKey,
          label,
          createdAt: new Date(createdAtOf(at)),
        }))
        .toSorted(byId),
    );
  });

  it('is read as of one moment while the other program writes and checkpoints', async () => {
    field.database([]);
    let written = 0;
    let writing = true;
    const writer = (async () => {
      for (; written < 300; written += 10) {
        field.write(Array.from({ length: 10 }, (_, at) => rowOf(written + at)));
        await nextTurn();
      }
      writing = false;
    })();
    let moments = 0;
    while (writing) {
      said = [];
      const before = written;
      await source();
      const seen = said.flatMap(({ fields }) => ('key' in fields ? [String(fields.key)] : []));
      expect(seen.length).toBeGreaterThanOrEqual(before);
      expect(seen.toSorted()).toEqual(Array.from(seen, (_, at) => rowOf(at).walletId));
      moments += 1;
    }
    await writer;
    expect(moments).toBeGreaterThan(0);
  });

  it('is read from tables without the newer columns, and from wallets.json when there is no table', async () => {
    field.database(labelled, 'older');
    const { wallets } = await source();
    expect(wallets.map(({ label }) => label).toSorted()).toEqual(['label 0', 'label 1', 'label 2']);
    using older = new FieldFolder();
    older.olderStore(labelled);
    const left = await adoptionSource({ from: older.path, suffix: '.json', folder, log });
    expect(left.wallets.toSorted(byId)).toEqual(wallets.toSorted(byId));
  });

  it('without any table is dated by the envelope, or by the file', async () => {
    for (const { walletId } of vectors) {
      utimesSync(field.fileOf(`${walletId}.json`), new Date(), new Date('2023-01-02T03:04:05Z'));
    }
    const files = await source();
    expect(files.wallets).toHaveLength(vectors.length);
    for (const wallet of files.wallets) {
      expect(wallet).toEqual({ id: wallet.id, createdAt: new Date('2023-01-02T03:04:05Z') });
    }
    const kms = await source('.kms.json');
    expect(kms.wallets.map(({ id }) => id)).toEqual(
      deployed('kms')
        .map(({ walletId }) => walletId)
        .toSorted(),
    );
    for (const { id, createdAt } of kms.wallets) {
      const file = JSON.parse(readFileSync(field.fileOf(`${id}.kms.json`), 'utf8')) as { createdAt: string };
      expect(createdAt).toEqual(new Date(file.createdAt));
    }
  });

  it('of another backend is left where it is, and a row without a file is said', async () => {
    field.database([...labelled, ...deployed('mpc')]);
    const { wallets } = await source();
    expect(wallets.map(({ id }) => id)).toEqual([first, second, third].toSorted());
    const missing = said.filter(({ fields }) => 'key' in fields).map(({ fields }) => fields.key);
    expect(missing.toSorted()).toEqual(
      deployed('mpc')
        .map(({ walletId }) => walletId)
        .toSorted(),
    );
  });

  it('is refused when the folder or its database cannot be read', async () => {
    expect(await refusal(adoptionSource({ from: join(home, 'nowhere'), suffix: '.json', folder, log }))).toBe(
      'CONFIG_INVALID',
    );
    writeFileSync(join(field.path, 'wallet-engine.sqlite'), 'this is no database, and never was one');
    expect(await refusal(source())).toBe('CONFIG_INVALID');
    expect(existsSync(folder)).toBe(false);
  });

  it('is said once to be readable by others', async () => {
    await source();
    expect(said.filter(({ fields }) => fields.files === vectors.length)).toHaveLength(1);
  });
});

describe('placing', () => {
  it('copies byte for byte into files that only their owner reads, once', async () => {
    const { place } = await source();
    const name = `${first}.json`;
    await place(keyId(String(first)));
    expect(readFileSync(join(folder, name))).toEqual(readFileSync(field.fileOf(name)));
    expect(statSync(join(folder, name)).mode & 0o777).toBe(0o600);
    expect(statSync(folder).mode & 0o777).toBe(0o700);
    const { ino } = statSync(join(folder, name));
    await place(keyId(String(first)));
    expect(statSync(join(folder, name)).ino).toBe(ino);
    expect(readdirSync(folder)).toEqual([name]);
  });

  it('follows no link, takes no name that is not a key id, and refuses what is too large', async () => {
    const [target, large] = [field.fileOf(`${first}.json`), field.fileOf(`${second}.json`)];
    renameSync(target, field.fileOf('elsewhere'));
    symlinkSync('elsewhere', target);
    truncateSync(large, 70_000);
    writeFileSync(field.fileOf('Not-A-Wallet.json'), '{}');
    const { wallets } = await source();
    expect(wallets.map(({ id }) => id)).toEqual([third]);
    const files = said.filter(({ level }) => level === 'error').map(({ fields }) => fields.file);
    expect(files.toSorted()).toEqual([target, large, field.fileOf('Not-A-Wallet.json')].toSorted());
  });

  it('notices a file that became a link in between', async () => {
    const { place } = await source();
    const target = field.fileOf(`${first}.json`);
    renameSync(target, field.fileOf('elsewhere'));
    symlinkSync('elsewhere', target);
    expect(await refusal(place(keyId(String(first))))).toBe('KEY_FILE_UNSAFE');
    expect(readdirSync(folder)).toEqual([]);
  });
});
