import { Secret } from '../foundation/secret.ts';
import type { CallerSessions } from './caller-sessions.ts';
import type { Door } from './door.ts';
import type { Operations } from './operation.ts';

/** Slots, and the PIN sessions of callers on them. */
export function slotOperations(
  door: Door,
  sessions: CallerSessions,
): Operations<
  | 'list-slots'
  | 'list-groups'
  | 'show-slot'
  | 'open-slot'
  | 'lock-slot'
  | 'clear-latch'
  | 'try-slot'
  | 'open-session'
  | 'close-session'
> {
  return {
    'list-slots': async (_request, _call, identity) => {
      const visible = [...door.keepers.values()].filter(keeper => door.maySee(identity, keeper));
      return { output: { slots: visible.map(keeper => keeper.view()) } };
    },
    'list-groups': async (_request, _call, identity) => {
      const views = door.groups.all().map(group => group.view(keeper => door.maySee(identity, keeper)));
      return { output: { groups: views.filter(({ members }) => members.length > 0) } };
    },
    'show-slot': async ({ input }, _call, identity) => ({
      output: door.visibleSlot(input.slot, identity).view(),
    }),
    'open-slot': async ({ input, bytes }, _call, identity) => {
      const keeper = door.managedSlot(input.slot, identity, 'manage');
      using pin = bytes?.[0] && Secret.fromBytes(bytes[0], { wipe: true });
      await keeper.open(pin, identity.name);
      return { output: keeper.view() };
    },
    'lock-slot': async ({ input }, _call, identity) => {
      const keeper = door.managedSlot(input.slot, identity, 'manage');
      try {
        await keeper.lock();
      } finally {
        sessions.closeAllOf(keeper.id); // behind the lock: before it, somebody could still come in
      }
      return { output: keeper.view() };
    },
    'clear-latch': async ({ input }, _call, identity) => {
      const keeper = door.managedSlot(input.slot, identity, 'manage');
      keeper.clearLatch();
      return { output: keeper.view() };
    },
    'try-slot': async ({ input }, _call, identity) => ({
      output: await door.managedSlot(input.slot, identity, 'manage').try(),
    }),
    'open-session': async ({ input, bytes }, _call, identity) => {
      const keeper = door.visibleSlot(input.slot, identity);
      using pin = Secret.fromBytes(bytes?.[0] ?? new Uint8Array(), { wipe: true });
      keeper.comparePin(pin, identity.name);
      const { token, view } = sessions.open(identity, keeper.id);
      return { output: view, bytes: [token] };
    },
    'close-session': async (_request, call, identity) => {
      sessions.close(call.session, identity);
      return { output: {} };
    },
  };
}
