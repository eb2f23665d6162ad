import { randomInt } from 'node:crypto';

/** Between half of the time and all of it, so that many who failed together do not come back together. */
export const jittered = (bound_ms: number): number => bound_ms * (0.5 + randomInt(1000) / 2000);
