import type {
  Measures,
  QueueState,
  Queues,
  Recovers,
  SessionFigures,
  SessionHealth,
} from '../../custody/engine.ts';
import type { Log } from '../../foundation/log.ts';
import type { KeyFolder } from '../../sealing/key-folder.ts';
import { keyslotSuffix } from '../../sealing/keyslot-form.ts';
import { SealedSession } from '../../sealing/sealed-session.ts';
import type { TokenLogin } from './login.ts';
import { custodyOfMode, defaultWrappingKey, type Pkcs11Settings } from './settings.ts';
import { TokenSealer } from './token-sealer.ts';
import { WrappedForm } from './wrapped-form.ts';
import { WrappingKey } from './wrapping-key.ts';

/**
 * A token that is logged in and seals the keys of its slot, for tokens that cannot sign with Ed25519. The seeds
 * are sealed files outside of the token; signatures are made in process memory.
 */
export class WrappedSession extends SealedSession implements Measures, Queues, Recovers {
  readonly #login: TokenLogin;

  private constructor(setting: ConstructorParameters<typeof SealedSession>[0], login: TokenLogin) {
    super(setting);
    this.#login = login;
  }

  /** Finds or makes the wrapping key and proves it. The login stays the caller's when this fails. */
  static async open(
    login: TokenLogin,
    folder: KeyFolder,
    settings: Pkcs11Settings,
    log: Log,
  ): Promise<WrappedSession> {
    const sealedKeys = (await folder.list()).filter(name => name.endsWith(keyslotSuffix)).length;
    const key = WrappingKey.open(login, settings.wrappingKey ?? defaultWrappingKey, sealedKeys);
    const form = new WrappedForm(login.slot, await TokenSealer.open(login, key, login.device.gcmIv));
    const setting = {
      slot: login.slot,
      folder,
      forms: [form],
      writes: form,
      custody: custodyOfMode.wrapped,
      unwrapCache_ms: settings.unwrapCache_ms ?? 0,
      log,
      closed: async () => {
        await login.close();
      },
    };
    return new WrappedSession(setting, login);
  }

  get figures(): SessionFigures {
    return this.#login.figures;
  }

  get queue(): QueueState {
    return this.#login.pool.queue;
  }

  get health(): SessionHealth {
    return this.#login.recovery.health;
  }

  onHealth(listener: (health: SessionHealth) => void): () => void {
    return this.#login.recovery.onHealth(listener);
  }

  lookNow(signal?: AbortSignal): Promise<void> {
    return this.#login.recovery.lookNow(signal);
  }

  /** The end of the login has a bound, which waiting for a device that hangs has not. */
  override async [Symbol.asyncDispose](): Promise<void> {
    const ended = super[Symbol.asyncDispose](); // from here on nothing new is let in
    await Promise.all([ended, this.#login.close()]);
  }
}
