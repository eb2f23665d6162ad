import { isId } from '../../custody/ids.ts';
import { isKeyslotError } from '../../foundation/errors.ts';
import type { KeyFolder } from '../../sealing/key-folder.ts';
import { KeyslotForm } from '../../sealing/keyslot-form.ts';
import { type MpcForm, mpcForm } from '../../sealing/mpc-form.ts';
import type { NodeSecrets } from './node-secrets.ts';

/**
 * The place of the node secret that opens its share in none of the agentic-wallet program's files, while the
 * other two open them: as a rule it is wrong. It must not seal new shares, nor become a secret of a header. None
 * where a header knows better, where there are no such files, or where no two secrets open one.
 */
export async function unprovenSecrets(
  folder: KeyFolder,
  secrets: NodeSecrets,
  signal?: AbortSignal,
): Promise<readonly number[]> {
  const places = [0, 1, 2].filter(at => secrets[at] !== undefined);
  if (places.length < 3 || (await KeyslotForm.isIn(folder))) return []; // of two, both are needed
  using form = mpcForm({ nodeSecrets: secrets, writes: 'deployed', onOddShare: () => undefined });
  const right = new Set<number>();
  let looked = 0;
  for (const name of await folder.list()) {
    if (right.size === places.length || looked === looked_max) break;
    if (!name.endsWith(form.suffix) || !isId(name.slice(0, -form.suffix.length))) continue;
    const open = await openPlaces(folder, name, form, signal);
    if (open.length > 0) looked += 1;
    if (open.length >= 2) for (const at of open) right.add(at);
  }
  return right.size === 0 ? [] : places.filter(at => !right.has(at));
}

/** Each costs three derivations of a key. */
const looked_max = 4;

/** The places of the shares that open; none in a file that is broken otherwise. */
async function openPlaces(
  folder: KeyFolder,
  name: string,
  form: MpcForm,
  signal: AbortSignal | undefined,
): Promise<readonly number[]> {
  try {
    const content = await folder.read(name);
    const states = content ? await form.openShares(content, signal) : [];
    return states.flatMap((open, at) => (open ? [at] : []));
  } catch (thrown) {
    if (isKeyslotError(thrown) && damaged.has(thrown.code)) return [];
    throw thrown;
  }
}

const damaged: ReadonlySet<string> = new Set(['KEY_FILE_MALFORMED', 'KEY_FILE_UNSAFE']);
