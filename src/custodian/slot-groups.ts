import type { SlotId } from '../custody/ids.ts';
import type { GroupState } from '../wire/groups.ts';
import { type GroupSetting, type GroupsWorld, SlotGroup } from './slot-group.ts';
import type { SlotKeeper } from './slot-keeper.ts';

/**
 * Slots that hold the same keys. A key is registered in one of them, its home, which its grants and policies go by;
 * whichever member has a copy that has proved itself signs with it. A slot is in one group at most.
 */
export class SlotGroups {
  readonly #world: GroupsWorld;
  #groups: readonly SlotGroup[] = [];
  #bySlot: ReadonlyMap<SlotId, SlotGroup> = new Map();

  /** CONFIG_INVALID: slots of a group whose keys are not in the same custody. */
  constructor(settings: readonly GroupSetting[], world: GroupsWorld) {
    this.#world = world;
    this.replacing(settings, world.keepers).take();
  }

  /**
   * What it takes to have these groups of these slots from now on: nothing happens before `take` is called. A group
   * that is as it was goes on with what it knows. CONFIG_INVALID.
   */
  replacing(settings: readonly GroupSetting[], keepers: ReadonlyMap<SlotId, SlotKeeper>): Replacement {
    const made: SlotGroup[] = [];
    const dispose = () => {
      for (const group of made) group[Symbol.dispose]();
    };
    try {
      const next = settings.map(setting => {
        const same = this.#groups.find(group => group.isOf(setting, keepers));
        if (same) return same;
        const group = new SlotGroup(setting, { ...this.#world, keepers });
        made.push(group);
        return group;
      });
      return { take: () => this.#take(next), [Symbol.dispose]: dispose };
    } catch (error) {
      dispose();
      throw error;
    }
  }

  #take(next: readonly SlotGroup[]): void {
    const before = this.#groups;
    this.#groups = next;
    this.#bySlot = new Map(next.flatMap(group => group.members.map(({ slot }) => [slot, group])));
    for (const group of before) if (!next.includes(group)) group[Symbol.dispose]();
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

/** Either taken or disposed. */
export interface Replacement extends Disposable {
  take(): void;
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
