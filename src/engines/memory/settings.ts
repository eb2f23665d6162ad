import { z } from 'zod';

/** A slot in process memory has nothing to be told beyond its id. */
export const memorySettings = z.strictObject({});
