import { execFile } from 'node:child_process';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { softHsmModule } from '../soft-token.ts';
import { type Personality, personalities, type Quirks } from './personalities.ts';
import { FaultyState, type PinCount, rules_max } from './state.ts';

/**
 * A PKCS#11 module that misbehaves on demand: SoftHSM, or any other, behind softhsm/faulty/faulty.c.
 *
 * Whatever is set holds from the next call on, in every process that loads the module with `environment`, also
 * while calls run or hang and after such a process has died. Rules are met in the order in which they were
 * injected. One process can have one of these at a time, because the module reads its environment at
 * C_Initialize; `make` sets it for this one.
 */
export class Faulty implements Disposable {
  readonly modulePath: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly #folder: string;
  readonly #state: FaultyState;
  readonly #rules = new Map<number, string>();
  readonly #absences = new Map<string, string>();
  readonly #masked = new Set<number>();
  #events: readonly string[] = [];
  #eventCount = 0;
  #ruleCount = 0;
  #quirks: Quirks = {};

  /** Compiles the module when its source has changed. Several personalities add up; `quirks` go on top of them. */
  static async make(
    options: { inner?: string; personality?: Personality | readonly Personality[]; quirks?: Quirks } = {},
  ): Promise<Faulty> {
    const { stdout } = await promisify(execFile)(build);
    const faulty = new Faulty(stdout.trim(), options.inner ?? softHsmModule());
    faulty.become(options.personality ?? [], options.quirks);
    Object.assign(process.env, faulty.environment);
    return faulty;
  }

  private constructor(modulePath: string, inner: string) {
    this.modulePath = modulePath;
    this.#folder = mkdtempSync(join(tmpdir(), 'keyslot-faulty-'));
    this.environment = { KEYSLOT_FAULTY_MODULE: inner, KEYSLOT_FAULTY_DIR: this.#folder };
    this.#state = new FaultyState(join(this.#folder, 'state'));
    this.#write();
  }

  /** From now on the module does this wherever the rule says, until it is withdrawn. */
  inject(fault: Fault): Injected {
    const id = this.#ruleCount;
    if (id >= rules_max) throw new RangeError(`${rules_max} rules are all that a state can count.`);
    this.#ruleCount += 1;
    this.#rules.set(id, ruleLine(id, fault));
    this.#write();
    const withdraw = () => {
      this.#rules.delete(id);
      this.#write();
    };
    return { count: () => this.#state.rule(id), withdraw, [Symbol.dispose]: withdraw };
  }

  /** Every session ends and with them the login: CKR_SESSION_HANDLE_INVALID. */
  loseSessions(token?: string): void {
    this.#happen('lose-sessions', token);
  }

  /** The token forgets the login, and the handles of private objects with it: CKR_USER_NOT_LOGGED_IN. */
  loseLogin(token?: string): void {
    this.#happen('lose-login', token);
  }

  /** Every handle of an object is stale until it is found again: CKR_OBJECT_HANDLE_INVALID, CKR_KEY_HANDLE_INVALID. */
  staleObjects(): void {
    this.#happen('stale-objects', undefined);
  }

  /** Everything is answered with this until C_Finalize, such as CKR_DEVICE_ERROR or CKR_CRYPTOKI_NOT_INITIALIZED. */
  deviceGone(code: number): void {
    this.#happen('device-gone', undefined, `code=${code}`);
  }

  /**
   * The token is not in its slot until `returnToken`. With `untilInitialize` a process that saw it does not see it
   * again before C_Finalize and C_Initialize. `code` answers calls on open sessions, default CKR_DEVICE_REMOVED.
   */
  removeToken(options: { token?: string; code?: number; untilInitialize?: boolean } = {}): void {
    const { token, code, untilInitialize } = options;
    this.#absences.set(
      token ?? '',
      ['absent', code === undefined ? '' : `code=${code}`, tokenWord(token)].filter(Boolean).join(' '),
    );
    this.#happen(untilInitialize ? 'missing' : 'lose-sessions', token);
  }

  returnToken(token?: string): void {
    this.#absences.delete(token ?? '');
    this.#write();
  }

  /** These mechanisms are neither listed nor taken: CKR_MECHANISM_INVALID. */
  mask(...mechanisms: readonly number[]): void {
    for (const mechanism of mechanisms) this.#masked.add(mechanism);
    this.#write();
  }

  unmask(...mechanisms: readonly number[]): void {
    for (const mechanism of mechanisms) this.#masked.delete(mechanism);
    this.#write();
  }

  /** Another device from now on: what an earlier personality brought is gone. */
  become(personality: Personality | readonly Personality[], quirks: Quirks = {}): void {
    const named = [personality].flat().map(name => personalities[name]);
    this.#masked.clear();
    for (const mechanism of named.flatMap(({ masked }) => masked)) this.#masked.add(mechanism);
    this.#quirks = Object.assign({}, ...named.map(each => each.quirks), quirks);
    this.#write();
  }

  /** Changes some quirks and leaves the others. */
  bend(quirks: Quirks): void {
    this.#quirks = { ...this.#quirks, ...quirks };
    this.#write();
  }

  /** A device without faults and without a personality; what it has counted stays counted. */
  heal(): void {
    this.#rules.clear();
    this.#absences.clear();
    this.become([]);
  }

  /** Of all processes since `make`. */
  counts(): FaultyCounts {
    return {
      calls: this.#state.calls(),
      hangs: this.#state.read('hangs'),
      logEntries: this.#state.read('logEntries'),
      objects: this.#state.read('objects'),
      inside_max: this.#state.read('inside_max'),
    };
  }

  pin(token: string): PinCount {
    return this.#state.pin(token);
  }

  /** As a security officer does: the PIN may be tried again. */
  unlockPin(token: string): void {
    this.#state.forgetFailures(token);
  }

  drainLog(): void {
    this.#state.write('logEntries', 0);
  }

  /** Begins to measure anew how many calls are in the module at the same time. */
  forgetInside(): void {
    this.#state.write('inside_max', 0);
  }

  /** Lets go of what hangs, and removes the files; a process that has the module loaded goes on with it healed. */
  [Symbol.dispose](): void {
    this.heal();
    this.#state[Symbol.dispose]();
    for (const [name, value] of Object.entries(this.environment)) {
      if (process.env[name] === value) delete process.env[name];
    }
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #happen(effect: string, token: string | undefined, more = ''): void {
    this.#eventCount += 1;
    const line = ['event', this.#eventCount, effect, more, tokenWord(token)].filter(Boolean).join(' ');
    this.#events = [...this.#events.slice(1 - events_max), line];
    this.#write();
  }

  /** The file is replaced as a whole, and then the number that every process looks at before each call. */
  #write(): void {
    const lines = [
      ...Object.entries(this.#quirks).map(([name, value]) => `quirk ${name} ${Number(value)}`),
      ...[...this.#masked].map(mechanism => `mask ${mechanism}`),
      ...this.#absences.values(),
      ...this.#events,
      ...this.#rules.values(),
    ];
    const path = join(this.#folder, 'control');
    writeFileSync(`${path}.new`, `${lines.join('\n')}\n`);
    renameSync(`${path}.new`, path);
    this.#state.write('generation', this.#state.read('generation') + 1);
  }
}

/** `*` is every function there is. */
export type FunctionName = `C_${string}` | '*';

/** What happens. `after` is when the wrapped module has done the work, and its answer is lost. */
export type Effect =
  | { readonly effect: 'answer'; readonly code: number; readonly when?: 'before' | 'after' }
  /** One answer a call; 0 lets it through. */
  | { readonly effect: 'answer'; readonly script: readonly number[]; readonly when?: 'before' | 'after' }
  | { readonly effect: 'latency'; readonly ms: number }
  /** Until the rule is withdrawn; then `code`, or the call goes on. */
  | { readonly effect: 'hang'; readonly code?: number }
  | { readonly effect: 'crash'; readonly when?: 'before' | 'after' }
  | { readonly effect: 'device-gone'; readonly code: number }
  | {
      readonly effect:
        | 'corrupt'
        | 'foreign-message'
        | 'wrong-key'
        | 'lose-sessions'
        | 'lose-login'
        | 'stale-objects';
    };

export type Fault = Effect & {
  /** `wrong-key` wants C_SignInit, `corrupt` and `foreign-message` want C_Sign. */
  readonly on: FunctionName | readonly FunctionName[];
  /** Only calls on the token with this label. */
  readonly token?: string;
  /** Of the calls that match: leave out the first ones, then only so many. */
  readonly skip?: number;
  readonly times?: number;
  /** Each of them with this probability, the same ones for the same seed. */
  readonly probability?: number;
  readonly seed?: number;
};

export interface Injected extends Disposable {
  /** How many calls met the rule, and on how many it had its effect. */
  count(): { met: number; fired: number };
  withdraw(): void;
}

export interface FaultyCounts {
  readonly calls: Readonly<Record<string, number>>;
  /** Calls that began to hang. */
  readonly hangs: number;
  readonly logEntries: number;
  readonly objects: number;
  /** The most calls that were in the module of one process at the same time. */
  readonly inside_max: number;
}

const build = resolve(import.meta.dirname, '../../../../softhsm/faulty/build');
const events_max = 64;

function ruleLine(id: number, fault: Fault): string {
  const { effect, on, token, ...words } = fault;
  const rest = Object.entries(words).map(([name, value]) => `${shortNames[name] ?? name}=${value}`);
  return ['rule', id, [on].flat().join(','), effect, ...rest, tokenWord(token)]
    .filter(part => part !== '')
    .join(' ');
}

const shortNames: Readonly<Record<string, string>> = { probability: 'p' };

function tokenWord(token: string | undefined): string {
  if (token === undefined) return '';
  if (/\s/.test(token)) throw new RangeError('Steering takes labels without spaces.');
  return `token=${token}`;
}
