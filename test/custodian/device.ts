import {
  generates,
  imports,
  type KeyInfo,
  type QueueState,
  type Recovers,
  type Session,
  type SessionHealth,
  type Signer,
  type Slot,
} from '../../src/custody/engine.ts';
import { type KeyId, type Signature, slotId } from '../../src/custody/ids.ts';
import { createMemoryEngine } from '../../src/engines/memory/index.ts';
import type { KeyslotError } from '../../src/foundation/errors.ts';
import { Secret } from '../../src/foundation/secret.ts';

/**
 * A device below the contract, which a test can break: the memory engine, whose answers pass through hooks.
 * Its keys and its PIN outlive a custodian, as those of a token do.
 */
export class Device implements AsyncDisposable {
  readonly slot: Slot;
  /** Every PIN that reached the device, in order. */
  readonly pinsHeard: string[] = [];
  /** The key ids of every signature that the device was asked for. */
  readonly asked: KeyId[] = [];
  /** The most openings that were under way at one time. */
  openingsAtOnce = 0;
  onOpen: (honest: () => Promise<Session>) => Promise<Session> = honest => honest();
  onKeys: () => Promise<void> = async () => undefined;
  onSigner: (honest: Signer) => Promise<Signer> = async honest => honest;
  onSign: (request: SignRequest) => Promise<Signature> = ({ honest }) => honest();
  onGenerate: (honest: () => Promise<KeyInfo>) => Promise<KeyInfo> = honest => honest();
  onClose: () => Promise<void> = async () => undefined;
  onLook: () => Promise<void> = async () => undefined;
  /** How busy its sessions say that they are. */
  queue: QueueState | undefined;
  powers = true;
  /** Ids of keys that it does not list. */
  hidden: ReadonlySet<string> = new Set();
  /** Whether its sessions find the lost device again by themselves; how they are is said by `say`. */
  recovers = false;
  #health: SessionHealth = { state: 'serving' };
  readonly #listeners = new Set<(health: SessionHealth) => void>();
  readonly #engine: AsyncDisposable;
  readonly #honest: Slot;
  #opening = 0;

  private constructor(engine: AsyncDisposable, honest: Slot) {
    this.#engine = engine;
    this.#honest = honest;
    this.slot = {
      id: honest.id,
      describe: () => honest.describe(),
      open: (pin, signal) => this.#open(pin, signal),
    };
  }

  static async make(id = 'main'): Promise<Device> {
    const engine = createMemoryEngine(slotId(id));
    const [slot] = await engine.slots();
    if (!slot) throw new TypeError('The memory engine has no slot.');
    const device = new Device(engine, slot);
    await device.behind(async () => undefined); // the first opening sets the PIN
    return device;
  }

  /** What the session says of the device from now on. */
  say(health: SessionHealth): void {
    this.#health = health;
    for (const listener of [...this.#listeners]) listener(health);
  }

  /** How many follow what the session says. */
  get followers(): number {
    return this.#listeners.size;
  }

  /** Something done to the device while no custodian has it open. */
  async behind(work: (session: Session) => Promise<void>): Promise<void> {
    using pin = Secret.fromText(pinText);
    await using session = await this.#honest.open(pin);
    await work(session);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#engine[Symbol.asyncDispose]();
  }

  async #open(pin: Secret, signal?: AbortSignal): Promise<Session> {
    this.pinsHeard.push(pin.useText(text => text));
    this.#opening += 1;
    this.openingsAtOnce = Math.max(this.openingsAtOnce, this.#opening);
    try {
      return this.#bent(await this.onOpen(() => this.#honest.open(pin, signal)));
    } finally {
      this.#opening -= 1;
    }
  }

  #bent(honest: Session): Session {
    const keys = () => honest.keys();
    const before = () => this.onKeys();
    const hidden = () => this.hidden;
    const plain: Session = {
      slot: honest.slot,
      async *keys() {
        await before();
        for await (const info of keys()) if (!hidden().has(info.id)) yield info;
      },
      signer: async key => this.#bentSigner(await this.onSigner(await honest.signer(key))),
      [Symbol.asyncDispose]: async () => {
        await this.onClose();
        await honest[Symbol.asyncDispose]();
      },
    };
    if (this.queue) Object.defineProperty(plain, 'queue', { get: () => this.queue });
    if (!this.powers || !generates(honest) || !imports(honest)) return plain;
    return Object.assign(this.recovers ? this.#recovering(plain) : plain, {
      generate: (key: KeyId) => this.onGenerate(() => honest.generate(key)),
      import: (key: KeyId, seed: Secret) => honest.import(key, seed),
    });
  }

  #recovering(plain: Session): Session & Recovers {
    const health = () => this.#health;
    const onHealth: Recovers['onHealth'] = listener => {
      this.#listeners.add(listener);
      return () => this.#listeners.delete(listener);
    };
    const lookNow = () => this.onLook();
    const session = Object.assign(plain, { onHealth, lookNow, health: health() });
    return Object.defineProperty(session, 'health', { get: health });
  }

  #bentSigner(honest: Signer): Signer {
    return {
      key: honest.key,
      sign: (message, signal) => {
        this.asked.push(honest.key.id);
        return this.onSign({
          key: honest.key.id,
          message,
          signal,
          honest: () => honest.sign(message, signal),
        });
      },
    };
  }
}

export interface SignRequest {
  readonly key: KeyId;
  readonly message: Uint8Array;
  readonly signal: AbortSignal | undefined;
  honest(): Promise<Signature>;
}

/** The PIN of every device here. */
export const pinText = '271828';

/** A place where something waits until the test lets it pass. */
export class Gate {
  readonly #reached = Promise.withResolvers<void>();
  readonly #opened = Promise.withResolvers<void>();

  /** Resolves when somebody stands at the gate. */
  get reached(): Promise<void> {
    return this.#reached.promise;
  }

  async pass(): Promise<void> {
    this.#reached.resolve();
    await this.#opened.promise;
  }

  open(): void {
    this.#opened.resolve();
  }
}

/** Fails with this error as often as given, then is honest again. */
export function failing<T>(error: KeyslotError, times = 1) {
  let left = times;
  return async (honest: () => Promise<T>): Promise<T> => {
    if (left === 0) return honest();
    left -= 1;
    throw error;
  };
}
