import type { Engine, Slot } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import type { Log } from '../../foundation/log.ts';
import { Device } from './device.ts';
import { Pkcs11Module } from './module.ts';
import { refuseOtherModule } from './module-file.ts';
import { ordinaryPatience, type Patience } from './recovery.ts';
import type { Pkcs11Settings } from './settings.ts';
import { Pkcs11Slot } from './slot.ts';

/** The engine of one configured slot: a token behind a PKCS#11 module. */
export class Pkcs11Engine implements Engine {
  readonly name = 'pkcs11';
  readonly #module: Pkcs11Module;
  readonly #slot: Pkcs11Slot;
  #disposed = false;

  /**
   * Reads the profile and loads the module: CONFIG_INVALID, MODULE_UNTRUSTED, MODULE_UNUSABLE. The token is looked for
   * when asked.
   */
  constructor(id: SlotId, settings: Pkcs11Settings, log: Log, patience: Patience = ordinaryPatience) {
    const device = Device.of(id, settings);
    refuseOtherModule(settings);
    this.#module = Pkcs11Module.open(settings.module, settings.libraryParameters);
    const { callLimit_ms: call_ms = patience.call_ms } = settings;
    const own = { ...patience, call_ms };
    this.#slot = new Pkcs11Slot({ id, settings, device, module: this.#module, log, patience: own });
  }

  async slots(): Promise<readonly Slot[]> {
    return [this.#slot];
  }

  /**
   * Ends the session that is open and finalises the module when no other slot uses it. When a call into the
   * module hangs, it is left initialised: C_Finalize under a running call crashes the process.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    if (await this.#slot.close()) this.#module.close();
  }
}
