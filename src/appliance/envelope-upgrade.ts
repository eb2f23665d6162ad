import { existsSync, lstatSync } from 'node:fs';
import { rmdir } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { isId, type KeyId, type PublicKeyBytes, publicKeyBytes, slotId } from '../custody/ids.ts';
import { publicKeyFromSeed } from '../foundation/ed25519.ts';
import { isKeyslotError, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import { KeyFolder } from '../sealing/key-folder.ts';
import type { KeyForm } from '../sealing/key-form.ts';
import { headerFile, KeyslotForm, keyslotSuffix } from '../sealing/keyslot-form.ts';
import { unlockPageOrOwn } from '../sealing/page-or-own.ts';

import { Home } from './home.ts';
import {
  backendOfEngine,
  engineOfBackend,
  envelopeNamed,
  type FileBackend,
  fileBackend,
  fileBackends,
  type PageCustody,
  pageCustody,
  suffixOf,
} from './page-custody.ts';
import { given } from './page-secrets.ts';

/**
 * Key files of the agentic-wallet program rewritten in Keyslot's own form, and back. Every step is one that may
 * be the last: a key is at all times in a whole file of one form at least, and running it again goes on from
 * whatever is there.
 *
 * Forward, key by key: the own file is made and opened again, then the old file is moved to `superseded/`.
 * Back: the old file is moved back, or made anew for a key that never had one, and opened; then the own file is
 * removed, and at last the header.
 */
export interface EnvelopeChange {
  readonly folder: string;
  readonly backend: FileBackend | undefined;
  readonly slot: string | undefined;
  /** The keys whose files were changed, in the order of their ids. */
  readonly changed: readonly string[];
  readonly problems: readonly { readonly walletId: string; readonly problem: string }[];
  /** Keys that had no turn, because it was stopped. */
  readonly left: number;
}

export interface ChangeOptions {
  readonly path: string;
  /** Otherwise the one whose files are there, or WALLET_SIGNER_BACKEND. */
  readonly backend?: string | undefined;
  /** The slot that the files are bound to: otherwise that of the header, or the name of the backend. */
  readonly slot?: string | undefined;
  /** Asked before every key. */
  stop(): boolean;
  progress(done: number, of: number): void;
}

/**
 * KEY_FILE_UNSAFE for a folder or a file that others can read: then nothing is changed. PIN_REFUSED when the
 * secrets are not those of the files, NODE_SECRET_MISSING, CONFIG_INVALID for a missing secret or when it is not
 * clear which backend is meant, KEY_FILE_FOREIGN for another slot's folder, HOME_IN_USE while an appliance runs
 * on it. What fails for one key is a problem of that key.
 */
export async function upgradeEnvelopes(options: ChangeOptions): Promise<EnvelopeChange> {
  return await changing(options, async room => {
    const { folder, custody, place } = room;
    const ids = await idsWith(folder, suffixOf[room.backend]);
    if (ids.length === 0) return await walk(options, ids, async () => undefined);
    await refuseWrongNodes(room, ids);
    const { page, lock } = custody;
    using forms = await unlockPageOrOwn({ folder, place, page, lock, envelope: 'keyslot' });
    const own = forms.writes;
    const superseded = await KeyFolder.open(join(folder.path, supersededFolder));
    return await walk(options, ids, id => supersede(id, { folder, superseded, page, own }));
  });
}

/** The way back. Fails as `upgradeEnvelopes` does. */
export async function revertEnvelopes(options: ChangeOptions): Promise<EnvelopeChange> {
  return await changing(options, async ({ folder, custody, place, backend }) => {
    const { page, lock } = custody;
    const superseded = await KeyFolder.open(join(folder.path, supersededFolder));
    const ids = await idsWith(folder, keyslotSuffix);
    let result: Walked = { changed: [], problems: [], left: 0 };
    if (ids.length > 0) {
      using own = await KeyslotForm.unlock(folder, place, lock);
      result = await walk(options, ids, id => restore(id, { folder, superseded, page, own }));
    }
    const rest = await idsWith(superseded, suffixOf[backend]);
    const problems = [...result.problems, ...rest.map(walletId => ({ walletId, problem: orphaned }))];
    if ((await idsWith(folder, keyslotSuffix)).length === 0) await folder.remove(headerFile);
    if (rest.length === 0) await removeEmpty(superseded.path);
    return { ...result, problems };
  });
}

const supersededFolder = 'superseded';

const orphaned =
  'its file in superseded/ stays there: the key was destroyed since, or its file was lost. Bring it back by hand.';

interface Room {
  readonly folder: KeyFolder;
  readonly backend: FileBackend;
  readonly place: { readonly engine: string; readonly slot: string };
  readonly custody: PageCustody;
}

type Walked = Pick<EnvelopeChange, 'changed' | 'problems' | 'left'>;

async function changing(
  { path: asked, backend: named, slot }: ChangeOptions,
  work: (room: Room) => Promise<Walked>,
): Promise<EnvelopeChange> {
  const path = resolve(asked);
  if (!existsSync(path) || !lstatSync(path).isDirectory()) {
    throw new KeyslotError('HOME_INVALID', `${path} is not a folder.`);
  }
  using _alone = appliancesAround(path);
  const folder = await openSafe(path);
  await refuseLooseFiles(folder);
  const stated = await KeyslotForm.placeIn(folder);
  const backend = await backendIn(folder, named, stated?.engine);
  if (backend === undefined) {
    return { folder: path, backend, slot: stated?.slot, changed: [], problems: [], left: 0 };
  }
  const place = { engine: engineOfBackend[backend], slot: slotId(slot ?? stated?.slot ?? backend) };
  using custody = await pageCustody(backend, () => undefined);
  return { folder: path, backend, slot: place.slot, ...(await work({ folder, backend, place, custody })) };
}

/** The state folders that this may be the key folder of, taken for the time of the change. HOME_IN_USE. */
function appliancesAround(path: string): Disposable {
  using held = new DisposableStack();
  for (const home of [path, dirname(path), dirname(dirname(path))]) {
    if (existsSync(join(home, 'state', 'appliance.lock'))) held.use(new Home(home));
  }
  return held.move();
}

async function openSafe(path: string): Promise<KeyFolder> {
  try {
    return await KeyFolder.open(path);
  } catch (thrown) {
    throw withRemedy(thrown, path);
  }
}

async function refuseLooseFiles(folder: KeyFolder): Promise<void> {
  for (const name of await folder.list()) {
    if (!envelopeNamed(name)) continue;
    try {
      await folder.read(name);
    } catch (thrown) {
      if (isKeyslotError(thrown) && thrown.code === 'KEY_FILE_MALFORMED') continue; // has its turn later
      throw withRemedy(thrown, folder.path);
    }
  }
}

function withRemedy(thrown: unknown, path: string): unknown {
  if (!isKeyslotError(thrown) || thrown.code !== 'KEY_FILE_UNSAFE') return thrown;
  const remedy = `Nothing was changed; "chmod 700 ${path}; chmod 600 ${path}/*.json" mends it, if nobody else had access.`;
  return new KeyslotError('KEY_FILE_UNSAFE', `${thrown.message} ${remedy}`, { cause: thrown });
}

/** Nothing when there are no key files at all. CONFIG_INVALID when several could be meant. */
async function backendIn(
  folder: KeyFolder,
  named: string | undefined,
  engine: string | undefined,
): Promise<FileBackend | undefined> {
  if (named !== undefined) return fileBackend(named, '--backend');
  const ofHeader = engine === undefined ? undefined : backendOfEngine(engine);
  if (ofHeader) return ofHeader;
  const kinds = new Set((await folder.list()).map(name => envelopeNamed(name)?.kind));
  const present = fileBackends.filter(backend => kinds.has(backend));
  if (present.length <= 1) return present[0];
  const set = present.find(backend => backend === given('WALLET_SIGNER_BACKEND'));
  if (set) return set;
  const text = `Files of several backends are there (${present.join(', ')}): name one with --backend.`;
  throw new KeyslotError('CONFIG_INVALID', text);
}

async function idsWith(folder: KeyFolder, suffix: string): Promise<readonly KeyId[]> {
  const ids = (await folder.list())
    .filter(name => name.endsWith(suffix))
    .map(name => name.slice(0, -suffix.length));
  return ids.filter(isId).toSorted() as KeyId[];
}

/** Shares of new files would be sealed under a wrong secret that nobody noticed: two of three open every file. */
async function refuseWrongNodes({ folder, custody, place }: Room, ids: readonly KeyId[]): Promise<void> {
  const { lock, openShares, page } = custody;
  if (lock.secrets.includes(undefined)) {
    throw new KeyslotError(
      'NODE_SECRET_MISSING',
      `Slot ${place.slot} is upgraded with all three node secrets.`,
    );
  }
  if (!openShares || (await folder.has(headerFile))) return;
  const right = new Set<number>();
  for (const id of ids) {
    const file = await folder.read(`${id}${page.suffix}`);
    for (const [at, opens] of (file ? await statesOf(file, openShares) : []).entries()) {
      if (opens) right.add(at + 1);
    }
    if (right.size === lock.secrets.length) return;
  }
  const wrong = [1, 2, 3].filter(node => !right.has(node));
  throw new KeyslotError('PIN_REFUSED', `Node secret ${wrong.join(', ')} opens its share in no file.`);
}

async function statesOf(
  file: Uint8Array,
  openShares: NonNullable<PageCustody['openShares']>,
): Promise<readonly boolean[]> {
  try {
    return await openShares(file);
  } catch (thrown) {
    if (isKeyslotError(thrown) && thrown.code === 'KEY_FILE_MALFORMED') return [];
    throw thrown;
  }
}

async function walk(
  { stop, progress }: ChangeOptions,
  ids: readonly KeyId[],
  change: (id: KeyId) => Promise<void>,
): Promise<Walked> {
  const changed: string[] = [];
  const problems: { walletId: string; problem: string }[] = [];
  progress(0, ids.length);
  for (const [at, id] of ids.entries()) {
    if (stop()) return { changed, problems, left: ids.length - at };
    try {
      await change(id);
      changed.push(id);
    } catch (thrown) {
      const { code, message } = toKeyslotError(thrown);
      if (!ofOneKey.has(code)) throw thrown;
      problems.push({ walletId: id, problem: `${code}: ${message}` });
    }
    progress(at + 1, ids.length);
  }
  return { changed, problems, left: 0 };
}

/** Whatever else fails will fail for the next key too. */
const ofOneKey: ReadonlySet<string> = new Set([
  'KEY_FILE_MALFORMED',
  'KEY_FILE_TAMPERED',
  'KEY_FILE_FOREIGN',
  'KEY_MISMATCH',
  'KEY_EXISTS',
  'KEY_UNVERIFIED',
  'SHARES_INSUFFICIENT',
  'NODE_SECRET_MISSING',
]);

interface Move {
  readonly folder: KeyFolder;
  readonly superseded: KeyFolder;
  readonly page: KeyForm;
  readonly own: KeyForm;
}

async function supersede(id: KeyId, { folder, superseded, page, own }: Move): Promise<void> {
  const old = `${id}${page.suffix}`;
  await refuseOtherCopy(superseded, folder, old);
  using seed = await opened(folder, id, page);
  await ensure(folder, id, own, seed);
  await folder.move(old, old, superseded);
}

async function restore(id: KeyId, { folder, superseded, page, own }: Move): Promise<void> {
  const old = `${id}${page.suffix}`;
  using seed = await opened(folder, id, own);
  if (!(await folder.has(old)) && (await superseded.has(old))) {
    await refuseOtherKey(superseded, id, page, seed);
    await superseded.move(old, old, folder);
  }
  await ensure(folder, id, page, seed);
  await folder.remove(`${id}${own.suffix}`);
}

/** A file of this form holds this key when this resolves: the one that is there, or a new one. */
async function ensure(folder: KeyFolder, id: KeyId, form: KeyForm, seed: Secret): Promise<void> {
  const name = `${id}${form.suffix}`;
  if (await folder.has(name)) return await refuseOtherKey(folder, id, form, seed);
  await folder.create(name, await form.seal(id, publicKeyOf(seed), seed));
  try {
    await refuseOtherKey(folder, id, form, seed);
  } catch (cause) {
    await folder.remove(name); // the other file is untouched
    throw new KeyslotError('KEY_UNVERIFIED', `The new file of ${id} does not read back.`, { cause });
  }
}

/** KEY_MISMATCH when the file holds another key than this seed. */
async function refuseOtherKey(folder: KeyFolder, id: KeyId, form: KeyForm, seed: Secret): Promise<void> {
  using found = await opened(folder, id, form);
  if (found.equals(seed)) return;
  const file = join(basename(folder.path), `${id}${form.suffix}`);
  throw new KeyslotError('KEY_MISMATCH', `${file} holds another key than the other file of ${id}.`);
}

/** KEY_EXISTS when a file of this name, but with another content, was superseded before. */
async function refuseOtherCopy(superseded: KeyFolder, folder: KeyFolder, name: string): Promise<void> {
  const before = await superseded.read(name);
  const now = await folder.read(name);
  if (!before || !now || before.equals(now)) return;
  throw new KeyslotError('KEY_EXISTS', `${supersededFolder}/${name} is there already and is another file.`);
}

async function opened(folder: KeyFolder, id: KeyId, form: KeyForm): Promise<Secret> {
  const name = `${id}${form.suffix}`;
  const file = await folder.read(name);
  if (!file) throw new KeyslotError('KEY_FILE_MALFORMED', `${name} has gone meanwhile.`);
  const sealed = form.read(id, file);
  const seed = await sealed.unseal();
  if (!sealed.publicKey || Buffer.compare(sealed.publicKey, publicKeyOf(seed)) === 0) return seed;
  seed[Symbol.dispose]();
  throw new KeyslotError('KEY_FILE_FOREIGN', `${name} states another public key than it holds.`);
}

const publicKeyOf = (seed: Secret): PublicKeyBytes => publicKeyBytes(seed.use(publicKeyFromSeed));

async function removeEmpty(path: string): Promise<void> {
  try {
    await rmdir(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOTEMPTY') throw error; // whatever else it holds is not ours
  }
}
