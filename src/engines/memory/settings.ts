import { z } from 'zod';
import { isId, slotId } from '../../custody/ids.ts';

/** What a slot in process memory needs to be told: its name, and nothing else. */
export const memorySettings = z.strictObject({
  slot: z
    .string()
    .refine(isId, 'must be 1 to 63 characters of a-z, 0-9 and "-", starting with a letter or a digit')
    .transform(slotId)
    .describe('The id of the slot; given by the appliance.'),
});

export type MemorySettings = z.output<typeof memorySettings>;
