import { isId, type KeyId } from '../custody/ids.ts';
import { isKeyslotError, KeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import type { KeyFolder } from './key-folder.ts';
import type { KeyForm } from './key-form.ts';
import { type Dealing, KeyslotForm, type Place } from './keyslot-form.ts';

/** What new key files are: Keyslot's own form, or the one that the agentic-wallet program reads. */
export type Envelope = 'keyslot' | 'agentic-wallet';

/** The forms of an open slot. Disposing wipes the secrets that they hold. */
export interface UnlockedForms extends Disposable {
  readonly forms: readonly KeyForm[];
  readonly writes: KeyForm;
  /** Which of several secrets are wrong, by their places; the slot opened without them. */
  readonly wrongSecrets: readonly number[];
}

/**
 * Opens a folder that may hold files of the agentic-wallet program, of Keyslot, or of both. The secrets are
 * right when they open the header, or, in a folder without one, when they open any of the program's files.
 * Takes over the page's form. PIN_REFUSED, SLOT_PIN_REQUIRED, and the failures of `KeyslotForm.unlock`.
 */
export async function unlockPageOrOwn(
  options: {
    folder: KeyFolder;
    place: Place;
    page: KeyForm & Disposable;
    lock: { secrets: readonly (Secret | undefined)[]; needed: number; dealing?: Dealing };
    envelope: Envelope;
  },
  signal?: AbortSignal,
): Promise<UnlockedForms> {
  const { folder, place, page, lock, envelope } = options;
  using held = new DisposableStack();
  held.use(page);
  if (lock.secrets.some(secret => secret?.length === 0)) {
    throw new KeyslotError('SLOT_PIN_REQUIRED', `Slot ${place.slot} needs a secret that is not empty.`);
  }
  const hasOwn = await KeyslotForm.isIn(folder);
  if (!hasOwn) await refuseWrongForAll(folder, page, place, signal);
  // A header takes all secrets. Without it the program's keys still sign, and its form says what sealing lacks.
  const mayMakeHeader = envelope === 'keyslot' && !lock.secrets.includes(undefined);
  const forms: KeyForm[] = [page];
  let wrongSecrets: readonly number[] = [];
  if (hasOwn || mayMakeHeader) {
    const own = held.use(await KeyslotForm.unlock(folder, place, lock, signal));
    forms.unshift(own);
    wrongSecrets = own.wrongSecrets;
  }
  const kept = held.move();
  const writes = envelope === 'keyslot' ? (forms[0] ?? page) : page;
  return { forms, writes, wrongSecrets, [Symbol.dispose]: () => kept.dispose() };
}

/** PIN_REFUSED when there are files of the page's form and the secret opens none of those that are looked at. */
async function refuseWrongForAll(
  folder: KeyFolder,
  page: KeyForm,
  { slot }: Place,
  signal: AbortSignal | undefined,
): Promise<void> {
  let refused = 0;
  for (const name of await folder.list()) {
    const id = name.slice(0, -page.suffix.length) as KeyId;
    if (!name.endsWith(page.suffix) || !isId(id)) continue;
    const witness = await opens(folder, name, id, page, signal);
    if (witness === true) return;
    if (witness === false) refused += 1;
    if (refused === looked_max) break;
  }
  if (refused > 0) {
    throw new KeyslotError(
      'PIN_REFUSED',
      `None of ${refused} key files of slot ${slot} opens with the secret.`,
    );
  }
}

/** Each costs the derivation of a key, so a wrong secret is not tried on thousands. */
const looked_max = 24;

/** False for a file that was sealed with another secret; a file that is broken otherwise is no witness. */
async function opens(
  folder: KeyFolder,
  name: string,
  id: KeyId,
  page: KeyForm,
  signal: AbortSignal | undefined,
): Promise<boolean | undefined> {
  try {
    const content = await folder.read(name);
    if (!content) return undefined;
    using _seed = await page.read(id, content).unseal(signal);
    return true;
  } catch (thrown) {
    if (isKeyslotError(thrown) && witnessed.has(thrown.code)) return false;
    if (isKeyslotError(thrown) && damaged.has(thrown.code)) return undefined;
    throw thrown;
  }
}

const witnessed: ReadonlySet<string> = new Set(['KEY_FILE_TAMPERED', 'SHARES_INSUFFICIENT']);
const damaged: ReadonlySet<string> = new Set(['KEY_FILE_MALFORMED', 'KEY_FILE_FOREIGN', 'KEY_FILE_UNSAFE']);
