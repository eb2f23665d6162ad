import type { Engine, EngineName, Slot } from './engine.ts';

/** An engine that is one slot, as the appliance configures them; disposing it disposes the slot. */
export function oneSlotEngine(name: EngineName, slot: Slot & AsyncDisposable): Engine {
  return {
    name,
    slots: async () => [slot],
    [Symbol.asyncDispose]: () => slot[Symbol.asyncDispose](),
  };
}
