import type { Weekday } from './document.ts';

export interface Hours {
  readonly days: readonly Weekday[];
  readonly from: string;
  readonly to: string;
  readonly zone: string;
}

/**
 * Hours of the week on the clocks of a place. Hours that end before they begin go on past midnight and belong to
 * the day on which they began. When clocks are put back an hour happens twice, and counts twice.
 */
export class OfficeHours {
  readonly #days: ReadonlySet<number>;
  readonly #from_min: number;
  readonly #to_min: number;
  readonly #clock: Intl.DateTimeFormat;
  #seen: { minute: number; open: boolean } | undefined;

  constructor(hours: Hours) {
    this.#days = new Set(hours.days.map(day => weekdays.indexOf(day)));
    this.#from_min = minutes(hours.from);
    this.#to_min = minutes(hours.to);
    this.#clock = new Intl.DateTimeFormat('en-US', {
      timeZone: hours.zone,
      weekday: 'short',
      hour: '2-digit',
      minute: '2-digit',
      hourCycle: 'h23',
    });
  }

  /** Asks Intl once a minute, because it takes longer than all other rules together. */
  includes(at: Date): boolean {
    const minute = Math.floor(at.getTime() / 60_000);
    if (this.#seen?.minute !== minute) this.#seen = { minute, open: this.#isOpen(at) };
    return this.#seen.open;
  }

  #isOpen(at: Date): boolean {
    const parts = new Map(this.#clock.formatToParts(at).map(part => [part.type, part.value]));
    const day = weekdays.indexOf(parts.get('weekday')?.toLowerCase() ?? '');
    const now_min = Number(parts.get('hour')) * 60 + Number(parts.get('minute'));
    const began = this.#days.has(day) && now_min >= this.#from_min;
    if (this.#from_min < this.#to_min) return began && now_min < this.#to_min;
    const beganYesterday = this.#days.has((day + 6) % 7) && now_min < this.#to_min;
    return began || beganYesterday;
  }
}

const weekdays: readonly string[] = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] satisfies Weekday[];

const minutes = (time: string): number => Number(time.slice(0, 2)) * 60 + Number(time.slice(3));
