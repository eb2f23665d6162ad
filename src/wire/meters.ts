import { type Labels, type MetricName, metrics, type Series } from './metrics.ts';

type NameOf<Type extends string> = {
  [N in MetricName]: (typeof metrics)[N]['type'] extends Type ? N : never;
}[MetricName];
export type CounterName = NameOf<'counter'>;
export type GaugeName = NameOf<'gauge'>;
export type HistogramName = NameOf<'histogram'>;
export type LabelsOf<N extends MetricName> = Readonly<Record<(typeof metrics)[N]['labels'][number], string>>;

/** A number that only grows. Whoever counts often keeps it: adding to it is one addition. */
export class Counter {
  value = 0;

  add(amount = 1): void {
    this.value += amount;
  }
}

/** How many observations fell below which bound. */
export class Histogram {
  readonly #bounds: readonly number[];
  readonly buckets: number[];
  sum = 0;

  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
    this.buckets = new Array(bounds.length + 1).fill(0);
  }

  observe(value: number): void {
    let at = 0;
    while (at < this.#bounds.length && value > (this.#bounds[at] ?? 0)) at += 1;
    this.buckets[at] = (this.buckets[at] ?? 0) + 1;
    this.sum += value;
  }
}

/** What a process has counted, series by series. A series is there from the first time that somebody asks for it. */
export class Meters {
  readonly #counters = new Map<string, { name: CounterName; labels: Labels; counter: Counter }>();
  readonly #histograms = new Map<string, { name: HistogramName; labels: Labels; histogram: Histogram }>();

  counter<N extends CounterName>(name: N, labels: LabelsOf<N>): Counter {
    const id = idOf(name, labels);
    const known = this.#counters.get(id);
    if (known) return known.counter;
    const counter = new Counter();
    this.#counters.set(id, { name, labels, counter });
    return counter;
  }

  histogram<N extends HistogramName>(name: N, labels: LabelsOf<N>): Histogram {
    const id = idOf(name, labels);
    const known = this.#histograms.get(id);
    if (known) return known.histogram;
    const histogram = new Histogram(metrics[name].bounds);
    this.#histograms.set(id, { name, labels, histogram });
    return histogram;
  }

  read(): Series[] {
    return [
      ...[...this.#counters.values()].map(({ name, labels, counter }) => ({
        name,
        labels,
        value: counter.value,
      })),
      ...[...this.#histograms.values()].map(({ name, labels, histogram }) => ({
        name,
        labels,
        buckets: [...histogram.buckets],
        sum: histogram.sum,
      })),
    ];
  }
}

/** What something is now, or has counted by itself. */
export const reading = <N extends CounterName | GaugeName>(
  name: N,
  value: number,
  labels: LabelsOf<N>,
): Series => ({ name, labels, value });

/** One series for each state that there is: 1 for the one that holds. */
export const stateReadings = <N extends GaugeName>(
  name: N,
  states: readonly string[],
  now: string,
  labelsOf: (state: string) => LabelsOf<N>,
): Series[] => states.map(state => reading(name, state === now ? 1 : 0, labelsOf(state)));

const idOf = (name: string, labels: Labels): string => `${name} ${Object.values(labels).join(' ')}`;
