import type { SlotId } from '../custody/ids.ts';
import type { GroupState } from '../wire/groups.ts';
import { type GroupSetting, type GroupsWorld, SlotGroup } from './slot-group.ts';

/**
 * Slots that hold the same keys. A key is registered in one of them, its home, which its grants and policies go by;
 * whichever member has a copy that has proved itself signs with it. A slot is in one group at most.
 */
export class SlotGroups {
  readonly #groups: readonly SlotGroup[];
  readonly #bySlot: ReadonlyMap<SlotId, SlotGroup>;

  /** CONFIG_INVALID: slots of a group whose keys are not in the same custody. */
  constructor(settings: readonly GroupSetting[], world: GroupsWorld) {
    this.#groups = settings.map(setting => new SlotGroup(setting, world));
    this.#bySlot = new Map(this.#groups.flatMap(group => group.members.map(({ slot }) => [slot, group])));
  }

  of(slot: SlotId): SlotGroup | undefined {
    return this.#bySlot.get(slot);
  }

  all(): readonly SlotGroup[] {
    return this.#groups;
  }

  /** For whoever judges whether the appliance is ready: a group that is degraded still signs. */
  health(): readonly GroupHealth[] {
    return this.#groups.map(group => {
      const enough = group.enough();
      const members = group.members.map(member => ({ slot: member.slot, ok: enough.includes(member) }));
      return { id: group.id, state: group.state, members };
    });
  }
}

export interface GroupHealth {
  readonly id: string;
  readonly state: GroupState;
  /** `ok`: it signs and holds every key of the group; where none does, those that sign and together hold every key. */
  readonly members: readonly { readonly slot: SlotId; readonly ok: boolean }[];
}

/** The other slots of the group of each slot that is in one. */
export const matesOf = (settings: readonly GroupSetting[]): ReadonlyMap<SlotId, readonly SlotId[]> =>
  new Map(
    settings.flatMap(({ members }) =>
      members.map(
        ({ slot }) => [slot, members.map(each => each.slot).filter(each => each !== slot)] as const,
      ),
    ),
  );
