import type { KeyId, SlotId } from '../../custody/ids.ts';
import type { Log } from '../../foundation/log.ts';
import { mpcForm } from '../../sealing/mpc-form.ts';
import { unlockPageOrOwn } from '../../sealing/page-or-own.ts';
import { SealedSlot } from '../../sealing/sealed-slot.ts';
import type { ShareId } from '../../sealing/shamir.ts';
import { shamirDealing } from './dealing.ts';
import { type NodeSecrets, splitNodeSecrets } from './node-secrets.ts';
import type { MpcSettings } from './settings.ts';
import { unprovenSecrets } from './witnesses.ts';

export function mpcSlot(
  id: SlotId,
  settings: MpcSettings & { readonly folder: string },
  log: Log,
): SealedSlot {
  const { folder, envelope, unwrapCache_ms } = settings;
  return new SealedSlot({
    id,
    engine: 'mpc',
    custody: 'shamir-envelope',
    folder,
    summary: 'Key files of this host in three shares, any two of which open a key.',
    details: { mode: 'shamir', threshold: 2, shares: 3, envelope },
    unwrapCache_ms,
    log,
    unlock: async (files, pin, signal) => {
      using held = new DisposableStack();
      const given = splitNodeSecrets(pin);
      for (const secret of given) held.use(secret);
      const unproven = await unprovenSecrets(files, given, signal);
      const unlockWith = (secrets: NodeSecrets) => {
        const odd = oddShares(id, secrets, log);
        const page = mpcForm({ nodeSecrets: secrets, writes: 'deployed', onOddShare: odd });
        const lock = { secrets, needed: 2, dealing: shamirDealing(odd) };
        const place = { engine: 'mpc', slot: id };
        return unlockPageOrOwn({ folder: files, place, page, lock, envelope }, signal);
      };
      const secrets = without(given, unproven);
      const unlocked = await unlockWith(secrets);
      const wrong = [...unproven, ...unlocked.wrongSecrets];
      if (wrong.length > 0) {
        const nodes = wrong.map(at => at + 1);
        log.warn({ slot: id, nodes }, 'a node secret opens none of its shares; any two open the slot');
      }
      if (unlocked.wrongSecrets.length === 0) return unlocked;
      unlocked[Symbol.dispose](); // once more without the wrong one: it must not seal a share
      return await unlockWith(without(secrets, unlocked.wrongSecrets));
    },
  });
}

const without = ([first, second, third]: NodeSecrets, places: readonly number[]): NodeSecrets => [
  places.includes(0) ? undefined : first,
  places.includes(1) ? undefined : second,
  places.includes(2) ? undefined : third,
];

/** Says each odd share once an opening of the slot, and none whose node secret is known to be missing. */
function oddShares(slot: SlotId, secrets: readonly unknown[], log: Log) {
  const said = new Set<string>();
  return (key: KeyId, shares: readonly ShareId[]): void => {
    const news = shares.filter(id => secrets[id - 1] !== undefined && !said.has(`${key} ${id}`));
    for (const id of news) said.add(`${key} ${id}`);
    if (news.length > 0) log.warn({ slot, key, shares: news }, 'a share of a key is damaged or does not fit');
  };
}
