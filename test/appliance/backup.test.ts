import {
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
import { dirname, join } from 'node:path';
import { Decrypter, Encrypter, generateX25519Identity, identityToRecipient } from 'age-encryption';
import fc from 'fast-check';
import { packTar, type TarEntry, unpackTar } from 'modern-tar';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { stringify } from 'yaml';
import { writeBackup } from '../../src/appliance/backup.ts';
import { isRecipient } from '../../src/appliance/backup-archive.ts';
import type { BackupOptions } from '../../src/appliance/backup-draft.ts';
import type { BackupManifest } from '../../src/appliance/backup-manifest.ts';
import { type Config, keyFolderOf, readConfig } from '../../src/appliance/config.ts';
import { drillConfig, isProven } from '../../src/appliance/drill.ts';
import type { SlotDrill } from '../../src/appliance/drill-process.ts';
import { inspectBackup, readIdentities, restoreBackup } from '../../src/appliance/restore.ts';
import { openAuditLog } from '../../src/audit/open.ts';
import { verifyAuditLog } from '../../src/audit/verify.ts';
import { folderFiles } from '../../src/audit/verify-files.ts';
import { keyId, publicKeyBytes, slotId } from '../../src/custody/ids.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { CounterRows } from '../../src/store/counters.ts';
import { KeyRegistry } from '../../src/store/key-registry.ts';
import { countedRecords, registeredKeys } from '../../src/store/snapshot.ts';
import { Store } from '../../src/store/store.ts';

const folder = mkdtempSync(join(tmpdir(), 'keyslot-backup-'));
const home = join(folder, 'home');
const keys = join(folder, 'keys-elsewhere');
const secrets = ['secrets/user.pin', 'state/api-tokens.key', 'tls/server.key', 'tls/both.pem'];
let config: Config;
let store: Store;
let identity: string;
let recipient: string;
afterAll(() => {
  store?.[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

/** A state folder as a running appliance has it: an open store, keys of two slots, one folder outside. */
beforeAll(async () => {
  identity = await generateX25519Identity();
  recipient = await identityToRecipient(identity);
  const files: Record<string, string> = {
    'keyslot.yaml': stringify({
      profile: 'development',
      tls: { certificate: 'tls/server.crt', key: 'tls/server.key', clientCa: 'tls/both.pem' },
      slots: [
        { id: 'inside', engine: 'encrypted-file', pin: { file: 'secrets/user.pin' } },
        { id: 'outside', engine: 'encrypted-file', pin: { env: 'A_PIN' }, settings: { folder: keys } },
      ],
      identities: [{ name: 'ops', roles: ['operator'], certificate: { spki: 'ab'.repeat(32) } }],
      apiTokens: { enabled: true },
    }),
    'policies/all.yaml': 'name: all\n',
    'tls/server.crt': 'a certificate\n',
    'keys/inside/treasury.keyslot': 'sealed, inside\n',
    'keys/inside/superseded/treasury.old': 'sealed, before\n',
    'keys/inside/.keyslot-writing-00': 'half a file\n',
    ...Object.fromEntries(secrets.map(name => [name, `-----BEGIN PRIVATE KEY-----\nneedle ${name}\n`])),
  };
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(home, name)), { recursive: true, mode: 0o700 });
    writeFileSync(join(home, name), text, { mode: 0o600 });
  }
  symlinkSync('../tls/server.crt', join(home, 'policies', 'linked.yaml'));
  symlinkSync('../../secrets/user.pin', join(home, 'keys', 'inside', 'linked.keyslot'));
  mkdirSync(keys, { mode: 0o700 });
  writeFileSync(join(keys, 'vault.keyslot'), 'sealed, outside\n', { mode: 0o600 });
  config = readConfig(home);
  store = new Store(join(home, 'state', 'keyslot.db'));
  const registry = new KeyRegistry(store);
  for (const [id, slot, byte] of [
    ['treasury', 'inside', 1],
    ['vault', 'outside', 2],
  ] as const) {
    registry.begin(keyId(id), slotId(slot), 'generated', new Date(0));
    const publicKey = publicKeyBytes(Buffer.alloc(32, byte));
    registry.complete({ id: keyId(id), publicKey, custody: 'encrypted-file', exportable: true });
  }
});

let made = 0;
function backup(options: Partial<BackupOptions> = {}) {
  made += 1;
  const output = join(folder, 'out', `${made}.age`);
  mkdirSync(dirname(output), { recursive: true });
  return { output, done: writeBackup(config, { output, recipients: [recipient], version: '1', ...options }) };
}

async function backedUp(options: Partial<BackupOptions> = {}): Promise<string> {
  const { output, done } = backup(options);
  await done;
  return output;
}

const into = (): string => join(folder, `restored-${readdirSync(folder).length}`);

async function restored(archive: string, options: { into?: string; identity?: string } = {}) {
  using identities = Secret.fromText(options.identity ?? identity);
  const target = options.into ?? into();
  return { home: target, ...(await restoreBackup({ archive, identities, into: target })) };
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'done';
  } catch (thrown) {
    return isKeyslotError(thrown) ? thrown.code : String(thrown);
  }
}

const below = (path: string): string[] =>
  readdirSync(path, { recursive: true, encoding: 'utf8' })
    .filter(name => !name.endsWith('.part'))
    .sort();

describe('a backup', () => {
  it('holds what the appliance needs and no secret, and is restored as it was', async () => {
    const archive = await backedUp();
    const { home: there, manifest, outside } = await restored(archive);
    const names = manifest.files.map(({ name }) => name).sort();
    expect(names).toEqual(
      [
        'keys/inside/superseded/treasury.old',
        'keys/inside/treasury.keyslot',
        'keyslot.yaml',
        join('outside', keys, 'vault.keyslot'),
        'policies/all.yaml',
        'policies/linked.yaml',
        'state/keyslot.db',
        'tls/server.crt',
      ].sort(),
    );
    expect(outside).toEqual([join('outside', keys, 'vault.keyslot')]);
    for (const name of names.filter(each => !each.endsWith('.db') && !each.startsWith('outside'))) {
      expect(readFileSync(join(there, name)), name).toEqual(readFileSync(join(home, name)));
    }
    expect(registeredKeys(join(there, 'state/keyslot.db'))).toEqual(
      registeredKeys(join(home, 'state/keyslot.db')),
    );
    const age = new Decrypter();
    age.addIdentity(identity);
    const plain = Buffer.from(await age.decrypt(readFileSync(archive)));
    expect(plain.includes('sealed, inside')).toBe(true);
    expect(plain.includes('needle')).toBe(false);
  });

  it('names what has to be brought: secrets by their place, certificates with a key in them', async () => {
    const { manifest } = await restored(await backedUp());
    const settings = manifest.separately.map(({ setting }) => setting);
    expect(settings).toEqual(
      expect.arrayContaining([
        'tls.key',
        'tls.clientCa',
        'slots.inside.pin',
        'slots.outside.pin',
        'apiTokens',
      ]),
    );
    expect(manifest.keys.map(({ id, publicKey }) => [id, publicKey?.length])).toEqual([
      ['treasury', expect.any(Number)],
      ['vault', expect.any(Number)],
    ]);
  });

  it('opens for each of its recipients, and for nobody else', async () => {
    const [second, stranger] = [await generateX25519Identity(), await generateX25519Identity()];
    const archive = await backedUp({ recipients: [recipient, await identityToRecipient(second)] });
    await restored(archive, { identity: `# second\n${second}\n` });
    expect(await codeOf(restored(archive, { identity: stranger }))).toBe('BACKUP_UNREADABLE');
    expect(await codeOf(restored(archive, { identity: 'AGE-SECRET-KEY-NONE' }))).toBe('BACKUP_UNREADABLE');
    expect([recipient, identity, 'age1', ''].map(isRecipient)).toEqual([true, false, false, false]);
  });

  it('of a log that grows has no less of it than the store has counted, and is in order', async () => {
    const log = await openAuditLog({
      folder: join(home, 'state', 'audit'),
      node: config.audit.node,
      segment_records: 16,
      checkpoint: { every_ms: 5, records: 8 },
      witnesses: [],
      log: silentLog,
    });
    const counters = new CounterRows(store);
    let writing = true;
    const written = (async () => {
      for (let from = 0; writing; ) {
        const { seq, hash } = await log.append({ type: 'event', operation: 'test' });
        const to = { next: seq + 1, hash: Buffer.from(hash, 'hex') };
        await counters.settle(config.audit.node, { from, to, changes: [] });
        from = to.next;
      }
    })();
    onTestFinished(async () => {
      writing = false;
      await written;
      await log[Symbol.asyncDispose]();
    });
    for (let round = 0; round < 3; round += 1) {
      const { manifest, home: there } = await restored(await backedUp());
      const state = join(there, 'state');
      const { audit } = manifest;
      expect(audit?.counted).toBe(countedRecords(join(state, 'keyslot.db'), config.audit.node));
      expect(audit?.size).toBeGreaterThanOrEqual(audit?.counted ?? Number.NaN);
      const verdict = await verifyAuditLog({ files: folderFiles(join(state, 'audit')), publicKeys: [] });
      expect(verdict).toMatchObject({ ok: true, checked: { size: audit?.size } });
      await using again = await openAuditLog({
        folder: join(state, 'audit'),
        node: config.audit.node,
        checkpoint: { every_ms: 1000, records: 1000 },
        witnesses: [],
        log: silentLog,
      });
      expect(again.status().size).toBe((audit?.size ?? 0) + 1);
    }
  });

  it('is refused when a key is moved while it is copied, since its file may be in neither place', async () => {
    const move = (slot: string) => store.run('UPDATE keys SET slot = ? WHERE id = ?', slot, 'treasury');
    const { output, done } = backup({ progress: () => move('outside') });
    expect(await codeOf(done)).toBe('BACKUP_FAILED');
    expect(existsSync(output)).toBe(false);
    move('inside');
  });

  it('leaves nothing behind when it is called off or cannot be written, and replaces no file', async () => {
    const controller = new AbortController();
    const called = backup({ signal: controller.signal, progress: () => controller.abort() });
    expect(await codeOf(called.done)).toBe('REQUEST_ABORTED');
    const nowhere = backup({ output: join(folder, 'no', 'folder.age') });
    expect(await codeOf(nowhere.done)).toBe('BACKUP_FAILED');
    const archive = await backedUp();
    const before = readFileSync(archive);
    expect(await codeOf(backup({ output: archive }).done)).toBe('BACKUP_FAILED');
    expect(readFileSync(archive)).toEqual(before);
    expect(existsSync(called.output)).toBe(false);
    expect(readdirSync(dirname(archive)).filter(name => name.endsWith('.part'))).toEqual([]);
    expect(readdirSync(join(home, 'state')).filter(name => name.startsWith('.backup'))).toEqual([]);
  });
});

describe('a restore', () => {
  it('leaves a folder alone that has something in it, and takes an empty one', async () => {
    const archive = await backedUp();
    const [empty, full] = [join(folder, 'empty'), join(folder, 'full')];
    for (const path of [empty, full]) mkdirSync(path);
    writeFileSync(join(full, 'mine'), '');
    await restored(archive, { into: empty });
    expect(await codeOf(restored(archive, { into: full }))).toBe('HOME_INVALID');
    expect(below(full)).toEqual(['mine']);
  });

  it('that is called off leaves nothing', async () => {
    using identities = Secret.fromText(identity);
    const controller = new AbortController();
    const target = join(folder, 'called-off');
    const progress = () => controller.abort();
    const archive = await backedUp();
    const work = restoreBackup({ archive, identities, into: target, signal: controller.signal, progress });
    expect(await codeOf(work)).toBe('REQUEST_ABORTED');
    expect(readdirSync(folder).filter(name => name.startsWith('called-off'))).toEqual([]);
  });

  it('refuses a backup of which one bit was changed or the end is missing', async () => {
    const good = readFileSync(await backedUp());
    using identities = Secret.fromText(identity);
    const path = join(folder, 'damaged.age');
    const inspected = (bytes: Uint8Array) => {
      writeFileSync(path, bytes);
      return codeOf(inspectBackup({ archive: path, identities }));
    };
    expect(await inspected(good)).toBe('done');
    await fc.assert(
      fc.asyncProperty(fc.nat(good.length - 1), fc.nat(7), fc.boolean(), async (at, bit, cut) => {
        const bad = cut ? good.subarray(0, at) : Buffer.from(good);
        if (!cut) bad[at] = (bad[at] ?? 0) ^ (1 << bit);
        // In the stanza of the recipient the key that opens the file is gone; everywhere else it is damage.
        expect(['BACKUP_INVALID', 'BACKUP_UNREADABLE']).toContain(await inspected(bad));
      }),
      { numRuns: 40 },
    );
  });

  it('writes nothing of an archive that leads elsewhere, lies about itself, or is not one', async () => {
    const entries = await entriesOf(await backedUp());
    const manifest = entries.at(-1);
    const others = entries.slice(0, -1);
    if (!manifest) throw new Error('A backup has a manifest.');
    const said = JSON.parse(Buffer.from(manifest.body as Uint8Array).toString()) as BackupManifest;
    const saying = (changes: object): TarEntry =>
      plainFile('manifest.json', JSON.stringify({ ...said, ...changes }));
    const evil = (name: string, header: object = {}): TarEntry => {
      const entry = plainFile(name, 'evil');
      return { ...entry, header: { ...entry.header, ...header } };
    };
    const link = { size: 0, type: 'symlink', linkname: '/etc' } as const;
    const hostile: readonly (readonly [string, readonly TarEntry[]])[] = [
      ['a way out', [evil('../outside'), ...entries]],
      ['a way out behind a folder', [evil('keys/../../outside'), ...entries]],
      ['an absolute name', [evil('/tmp/keyslot-evil'), ...entries]],
      ['a symbolic link', [{ header: { name: 'tls/link', ...link } }, ...entries]],
      ['a folder', [{ header: { name: 'folder/', size: 0, type: 'directory' } }, ...entries]],
      ['the same file twice', [...others.slice(0, 1), ...entries]],
      ['a file that is also a folder', [evil('keyslot.yaml'), evil('keyslot.yaml/evil')]],
      ['a file that nobody named', [...others, evil('secrets/user.pin'), manifest]],
      ['a file in place of another', [evil('keyslot.yaml'), ...others.slice(1), manifest]],
      ['one file less', [...others.slice(1), manifest]],
      ['no manifest', others],
      ['something behind its manifest', [...others, manifest, evil('late')]],
      ['a manifest of another version', [...others, saying({ 'keyslot-backup': 2 })]],
      ['a manifest with more to say', [...others, saying({ more: true })]],
      ['nothing', []],
    ];
    const huge = join(folder, 'huge.age');
    writeFileSync(huge, await sealed(withSize(await packTar([evil('huge')]), 2 ** 32)));
    expect(await codeOf(restored(huge)), 'a file of 4 GiB in less than one').toBe('BACKUP_INVALID');
    expect(await codeOf(restored(await encrypted(entries)))).toBe('done');
    for (const [what, archived] of hostile) {
      const target = into();
      expect(await codeOf(restored(await encrypted(archived), { into: target })), what).toBe(
        'BACKUP_INVALID',
      );
      expect(existsSync(target), what).toBe(false);
    }
    expect(existsSync('/tmp/keyslot-evil')).toBe(false);
    expect(existsSync(join(folder, 'outside'))).toBe(false);
    expect(readdirSync(folder).filter(name => name.endsWith('.part'))).toEqual([]);
  });

  it('takes its identities from a file that nobody else can read', async () => {
    const path = join(folder, 'identity');
    writeFileSync(path, identity, { mode: 0o600 });
    using identities = await readIdentities(path);
    expect(identities.useText(text => text === identity)).toBe(true);
    const loose = join(folder, 'loose-identity');
    writeFileSync(loose, identity, { mode: 0o644 });
    expect(await codeOf(readIdentities(loose))).toBe('SECRET_UNREADABLE');
    expect(await codeOf(readIdentities(join(folder, 'none')))).toBe('SECRET_UNREADABLE');
  });
});

describe('a drill', () => {
  it('is content with slots that open with all of their keys, and with those whose keys are in no backup', () => {
    const opened = { slot: 's', engine: 'pkcs11', outcome: 'opened', canary: 'none' } as const;
    const keys = { registered: 1, proven: 1, missing: [], different: [] };
    expect(isProven({ ...opened, keys })).toBe(true);
    expect(isProven({ ...opened, outcome: 'not-kept' })).toBe(true);
    const wanting: readonly Partial<SlotDrill>[] = [
      { keys: { ...keys, proven: 0, missing: ['treasury'] } },
      { keys: { ...keys, proven: 0, different: ['treasury'] } },
      { canary: 'failed' },
      { outcome: 'pin-missing' },
      { outcome: 'not-here' },
      { outcome: 'refused' },
    ];
    for (const each of wanting) expect(isProven({ ...opened, keys, ...each })).toBe(false);
  });

  it('touches no folder, log, witness or key of the appliance that was backed up', async () => {
    const { home: scratch, manifest } = await restored(await backedUp());
    const drilled = drillConfig(readConfig(scratch), manifest, home);
    const folders = drilled.slots.map(slot => keyFolderOf(drilled, slot));
    expect(folders).toEqual([join(scratch, 'keys', 'inside'), join(scratch, 'outside', keys)]);
    expect(folders.map(path => existsSync(path))).toEqual([true, true]);
    expect(drilled.slots[0]?.pin).toEqual({ file: join(home, 'secrets/user.pin') });
    expect(drilled.audit).toMatchObject({ folder: join(scratch, 'state/audit'), witnesses: [] });
    expect(drilled.audit.slot).toBeUndefined();
  });
});

const plainFile = (name: string, text: string): TarEntry => ({
  header: { name, size: Buffer.byteLength(text), type: 'file' },
  body: Buffer.from(text),
});

async function entriesOf(archive: string): Promise<TarEntry[]> {
  const age = new Decrypter();
  age.addIdentity(identity);
  const entries = await unpackTar(await age.decrypt(readFileSync(archive)));
  return entries.map(({ header, data }) => ({ header, ...(data ? { body: data } : {}) }));
}

async function encrypted(entries: readonly TarEntry[]): Promise<string> {
  const path = join(folder, 'made.age');
  writeFileSync(path, await sealed(await packTar(entries)));
  return path;
}

function sealed(tar: Uint8Array): Promise<Uint8Array> {
  const age = new Encrypter();
  age.addRecipient(recipient);
  return age.encrypt(tar);
}

/** The first entry says that it has so many bytes (POSIX ustar: size at 124, checksum at 148, both octal). */
function withSize(tar: Uint8Array, bytes: number): Uint8Array {
  const changed = Buffer.from(tar);
  changed.write(`${bytes.toString(8).padStart(11, '0')}\0`, 124, 'latin1');
  changed.write('        ', 148, 'latin1');
  const sum = changed.subarray(0, 512).reduce((all, byte) => all + byte, 0);
  changed.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return changed;
}
