import type { Log } from '../foundation/log.ts';
import type { HealthCheck } from '../wire/views.ts';
import { type Config, inHome } from './config.ts';
import { type Preflight, PreflightHealth, type PreflightOptions } from './preflight.ts';

/**
 * The preflight of the CloudHSM cluster, asked now and then for as long as the appliance runs: `tell` gets what
 * /readyz shows of it, at once and whenever it has changed. Addresses of HSMs go to the log and not into health,
 * which asks nobody who they are.
 */
export class ClusterHealth implements Disposable {
  readonly #health: PreflightHealth;
  readonly #log: Log;
  #tell: (check: HealthCheck) => void;
  readonly #timer: NodeJS.Timeout;
  #told: Preflight | undefined;

  /** Nothing for a configuration that names no cluster. */
  static of(config: Config, log: Log, tell: (check: HealthCheck) => void): ClusterHealth | undefined {
    const { cloudhsm, slots } = config;
    const slot = slots.find(each => each.id === cloudhsm?.slot);
    if (!cloudhsm || slot?.engine !== 'pkcs11') return undefined;
    const { every_s, slot: _slot, ...asked } = cloudhsm;
    const libraryConfig = asked.libraryConfig && inHome(config, asked.libraryConfig);
    return new ClusterHealth({ ...asked, libraryConfig, mode: slot.settings.mode }, every_s, log, tell);
  }

  private constructor(
    options: PreflightOptions,
    every_s: number,
    log: Log,
    tell: (check: HealthCheck) => void,
  ) {
    this.#health = new PreflightHealth(options, log, every_s * 1000);
    this.#log = log;
    this.#tell = tell;
    this.#timer = setInterval(() => this.#look(), look_ms).unref();
    this.#look();
  }

  /** No more is told. */
  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#tell = () => undefined;
  }

  async #look(): Promise<void> {
    this.#say(this.#health.current());
    await this.#health.settled();
    this.#say(this.#health.current());
  }

  #say(found: Preflight): void {
    if (found === this.#told) return;
    if (found.checks.length > 0 && found.outcome !== this.#told?.outcome) this.#logChange(found);
    this.#told = found;
    this.#tell(checkOf(found));
  }

  #logChange({ cluster, outcome, checks }: Preflight): void {
    const level = outcome === 'ok' ? 'info' : 'warn';
    const reasons = checks.filter(check => check.outcome !== 'ok');
    this.#log[level]({ cluster, outcome, checks: reasons }, 'the preflight of CloudHSM');
  }
}

/** Only what was found to be wrong is not ok: what could not be asked is unknown, and no fault of the cluster. */
const checkOf = ({ outcome, asked_at, checks }: Preflight): HealthCheck => ({
  id: 'cloudhsm',
  ok: outcome !== 'fail',
  state: outcome,
  preflight: Object.fromEntries(checks.map(each => [each.name, each.outcome])),
  ...(checks.length > 0 ? { askedAt: asked_at } : {}),
});

// How soon a new answer is seen; AWS is asked as often as the configuration says.
const look_ms = 15_000;
