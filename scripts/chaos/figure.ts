/** One number that a scenario found, and what it should be. */
export interface Figure {
  /** A field of the JSON: the scenario, what, and the unit. */
  readonly name: string;
  readonly what: string;
  readonly value: number;
  /** A figure without an aim is told, because others are read by it. */
  readonly aim?: Aim;
}

/**
 * `exact` figures hold on every machine, or Keyslot has a defect. The others are times and shares: a machine that
 * does other work misses them too.
 */
export interface Aim {
  readonly sense: 'is' | 'least' | 'most';
  readonly value: number;
  readonly exact: boolean;
}

export const exactly = (name: string, what: string, value: number, aim: number): Figure => ({
  name,
  what,
  value,
  aim: { sense: 'is', value: aim, exact: true },
});

export const atLeast = (name: string, what: string, value: number, aim: number): Figure => ({
  name,
  what,
  value,
  aim: { sense: 'least', value: aim, exact: false },
});

export const atMost = (name: string, what: string, value: number, aim: number): Figure => ({
  name,
  what,
  value,
  aim: { sense: 'most', value: aim, exact: false },
});

export const told = (name: string, what: string, value: number): Figure => ({ name, what, value });

/** What could not be measured is not met. */
export function isMet({ value, aim }: Figure): boolean {
  if (!aim) return true;
  switch (aim.sense) {
    case 'is':
      return value === aim.value;
    case 'least':
      return value >= aim.value;
    case 'most':
      return value <= aim.value;
  }
}

/** What can go wrong, made to go wrong, and what came of it. Whatever it starts goes onto the stack. */
export interface Scenario {
  readonly name: string;
  readonly what: string;
  run(chaos: Chaos): Promise<readonly Figure[]>;
}

export interface Chaos {
  /** A run of a minute or so in place of the long one. */
  readonly short: boolean;
  readonly stack: AsyncDisposableStack;
  progress(text: string): void;
  /** Something that whoever reads the figures wants to know. */
  note(text: string): void;
}
