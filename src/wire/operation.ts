import { z } from 'zod';

/** What every table of operations is made of. */
export const operation = <I extends z.ZodType, O extends z.ZodType>(
  input: I,
  output: O,
  options: { repeatable: boolean },
) => ({ input, output, ...options });

/** May be sent again when the custodian was lost before it answered. */
export const repeatable = { repeatable: true };
export const once = { repeatable: false };

export const nothing = z.strictObject({});
// Ids are checked where they are used, so that a wrong one answers with its own code.
export const id = z.string();
