/** Time as the rest of the house reads it, so that tests can hold the clock. */
export interface Clock {
  /** Milliseconds that only move forward; for waits, expiry and limits. A stepped wall clock changes nothing. */
  monotonic_ms(): number;
  /** The wall clock, for records that people read. */
  utc(): Date;
}

export const systemClock: Clock = {
  monotonic_ms: () => performance.now(),
  utc: () => new Date(),
};
