import { monitorEventLoopDelay, performance } from 'node:perf_hooks';
import { reading } from './meters.ts';
import type { Series } from './metrics.ts';

/** The numbers of the process that it is made in; how late its event loop is, is measured from then on. */
export class ProcessReadings implements Disposable {
  readonly #process: string;
  readonly #delay = monitorEventLoopDelay({ resolution: resolution_ms });
  #utilization = performance.eventLoopUtilization();

  constructor(process: string) {
    this.#process = process;
    this.#delay.enable();
  }

  /** What is said of lateness and use begins anew with each reading. */
  read(): Series[] {
    const labels = { process: this.#process };
    const { user, system } = process.cpuUsage();
    const { rss, heapUsed, external } = process.memoryUsage();
    const before = this.#utilization;
    this.#utilization = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(this.#utilization, before);
    const lag = (percentile: string, at_ns: number) =>
      reading('nodejs_eventloop_lag_seconds', lateness_s(at_ns), { ...labels, percentile });
    const lags = [lag('50', this.#delay.percentile(50)), lag('99', this.#delay.percentile(99))];
    const longest = lag('100', this.#delay.max);
    this.#delay.reset();
    return [
      reading('process_cpu_seconds_total', (user + system) / 1e6, labels),
      reading('process_start_time_seconds', performance.timeOrigin / 1_000, labels),
      reading('process_resident_memory_bytes', rss, labels),
      reading('nodejs_heap_size_used_bytes', heapUsed, labels),
      reading('nodejs_external_memory_bytes', external, labels),
      reading('nodejs_eventloop_utilization_ratio', utilization, labels),
      ...lags,
      longest,
    ];
  }

  [Symbol.dispose](): void {
    this.#delay.disable();
  }
}

/** The timer that measures ticks this often, which is no lateness. */
const resolution_ms = 20;

/** Nothing has been measured yet, or less than one tick: not late. */
const lateness_s = (at_ns: number): number =>
  Number.isFinite(at_ns) ? Math.max(0, at_ns / 1e9 - resolution_ms / 1_000) : 0;
