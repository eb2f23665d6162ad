import { accessSync, constants as fsConstants } from 'node:fs';
import * as graphene from 'graphene-pk11';
import type { Handle } from 'pkcs11js';
import { KeyslotError } from '../../foundation/errors.ts';
import { tokenError } from './ckr.ts';
import { CKF_OS_LOCKING_OK } from './constants.ts';
import { Cryptoki, ckrError } from './cryptoki.ts';

/**
 * A PKCS#11 library in this process. It is loaded once per path, shared by all slots that name it, initialised
 * for several threads (v3.1 §5.4: CKF_OS_LOCKING_OK, because signatures run on the libuv pool), and finalised
 * when its last user has gone. It is never unloaded: dlclose under a running vendor thread is a crash.
 */
export class Pkcs11Module {
  readonly path: string;
  readonly cryptoki: Cryptoki;
  readonly #module: graphene.Module;
  readonly #parameters: string | undefined;
  #users = 0;
  #initialized = false;
  /** Serial numbers of tokens that a session of this process is logged in to. */
  readonly tokensInUse = new Set<string>();
  /** Calls into the module that have not come back in time, for as long as they have not. */
  readonly hung = new Set<object>();
  readonly #tenants = new Set<Tenant>();
  #renewal: Promise<boolean> | undefined;
  #renewed_ms = Number.NEGATIVE_INFINITY;

  private constructor(path: string, module: graphene.Module, parameters: string | undefined) {
    this.path = path;
    this.#parameters = parameters;
    this.#module = module;
    this.cryptoki = new Cryptoki(module.lib);
  }

  /**
   * Loads the library, and leaves it to the first question to initialise it. MODULE_UNUSABLE names the path.
   * `parameters` is what some libraries want to hear at C_Initialize; all slots of a library say the same.
   */
  static open(path: string, parameters?: string): Pkcs11Module {
    const module = loaded.get(path) ?? Pkcs11Module.#load(path, parameters);
    if (module.#parameters !== parameters) {
      throw new KeyslotError('CONFIG_INVALID', `Slots of ${path} differ in libraryParameters.`);
    }
    module.#users += 1;
    return module;
  }

  /** C_Finalize when this was the last user. Nothing may be running in the module then. */
  close(): void {
    this.#users -= 1;
    if (this.#users === 0 && this.hung.size === 0) this.#finalize();
  }

  get library(): { description: string; manufacturer: string; version: string; cryptoki: string } {
    this.#initialize();
    const { libraryDescription, manufacturerID, libraryVersion, cryptokiVersion } = this.#module;
    return {
      description: libraryDescription.trim(),
      manufacturer: manufacturerID.trim(),
      version: `${libraryVersion.major}.${libraryVersion.minor}`,
      cryptoki: `${cryptokiVersion.major}.${cryptokiVersion.minor}`,
    };
  }

  /** Every slot that has a token in it, asked anew. MODULE_UNUSABLE, TOKEN_UNAVAILABLE. */
  tokens(): readonly TokenView[] {
    this.#initialize();
    try {
      const slots = this.#module.getSlots(true);
      return Array.from({ length: slots.length }, (_, at) => tokenView(slots.items(at)));
    } catch (thrown) {
      throw tokenError(ckrError(thrown), this.path); // graphene calls the addon past our seam
    }
  }

  /**
   * C_Finalize and C_Initialize: a module that has lost a device often does not look at it again before. False,
   * and nothing done, while anybody is logged in, or when a call has never come back: finalising under a
   * running call crashes the process.
   */
  refresh(): boolean {
    if (this.tokensInUse.size > 0 || this.hung.size > 0) return false;
    this.#finalize();
    this.#initialize();
    return true;
  }

  /** Has a login told when the module is initialised anew, until the returned function is called. */
  enter(tenant: Tenant): () => void {
    this.#tenants.add(tenant);
    return () => this.#tenants.delete(tenant);
  }

  /** Whether another login of this module works, so that initialising it anew would disturb somebody. */
  disturbs(asking: Tenant): boolean {
    return [...this.#tenants].some(tenant => tenant !== asking && tenant.serving);
  }

  /** Since `renew` has done its work for the last time. */
  get sinceRenewal_ms(): number {
    return performance.now() - this.#renewed_ms;
  }

  /**
   * C_Finalize and C_Initialize under the logins of this module, of which none keeps a handle: nobody is lent a
   * session, and what is running comes back first. False, and nothing done, when a call does not within
   * `bound_ms`. Who asks meanwhile shares the outcome.
   */
  renew(bound_ms: number): Promise<boolean> {
    this.#renewal ??= this.#renew(bound_ms).finally(() => {
      this.#renewal = undefined;
    });
    return this.#renewal;
  }

  async #renew(bound_ms: number): Promise<boolean> {
    if (this.hung.size > 0) return false;
    const tenants = [...this.#tenants];
    const goOn = tenants.map(tenant => tenant.suspend());
    try {
      await Promise.all(tenants.map(tenant => tenant.settled(bound_ms)));
      // Asked again, now that nothing else has its turn: a login that climbs itself may have begun something.
      const still = [...this.#tenants].every(tenant => tenants.includes(tenant) && tenant.idle);
      if (!still || this.hung.size > 0 || this.#users === 0) return false;
      this.#renewed_ms = performance.now();
      for (const tenant of tenants) tenant.voided();
      this.#finalize();
      this.#initialize();
      return true;
    } finally {
      for (const resume of goOn) resume();
    }
  }

  static #load(path: string, parameters: string | undefined): Pkcs11Module {
    try {
      accessSync(path, fsConstants.R_OK);
      const module = new Pkcs11Module(path, graphene.Module.load(path), parameters);
      loaded.set(path, module);
      return module;
    } catch (cause) {
      throw new KeyslotError('MODULE_UNUSABLE', `The PKCS#11 module ${path} cannot be loaded.`, { cause });
    }
  }

  #initialize(): void {
    if (this.#initialized) return;
    try {
      this.#module.initialize(this.#arguments());
    } catch (cause) {
      throw new KeyslotError('MODULE_UNUSABLE', `The PKCS#11 module ${this.path} cannot be initialised.`, {
        cause,
      });
    }
    this.#initialized = true;
  }

  /** The addon drops the last character of libraryParameters: that is a space which nobody misses. */
  #arguments(): { flags: number; libraryParameters?: string } {
    const parameters = this.#parameters;
    return {
      flags: CKF_OS_LOCKING_OK,
      ...(parameters === undefined ? {} : { libraryParameters: `${parameters} ` }),
    };
  }

  #finalize(): void {
    if (!this.#initialized) return;
    this.#initialized = false;
    try {
      this.#module.finalize();
    } catch (thrown) {
      throw tokenError(ckrError(thrown), this.path);
    }
  }
}

/** A login in the eyes of its module. */
export interface Tenant {
  readonly serving: boolean;
  /** Nothing of it is running in the module. */
  readonly idle: boolean;
  /** Lends no session any more until the returned function is called. */
  suspend(): () => void;
  settled(bound_ms: number): Promise<boolean>;
  /** From here on no handle of it means anything; it has to log in again. */
  voided(): void;
}

// For the life of the process: a module that is collected would be unloaded under its own threads.
const loaded = new Map<string, Pkcs11Module>();

/** A token as its module describes it (CK_TOKEN_INFO, v3.1 §3.2), without the padding. */
export interface TokenView {
  readonly slotHandle: Handle;
  readonly label: string;
  readonly serial: string;
  readonly model: string;
  readonly manufacturer: string;
  readonly firmware: string;
  readonly flags: number;
  readonly pinLength_min: number;
  readonly pinLength_max: number;
  readonly sessions_max: number;
  mechanisms(): readonly MechanismView[];
}

export interface MechanismView {
  readonly type: number;
  readonly name: string;
}

function tokenView(slot: graphene.Slot): TokenView {
  const token = slot.getToken();
  return {
    slotHandle: Buffer.from(slot.handle),
    label: token.label.trim(),
    serial: token.serialNumber.trim(),
    model: token.model.trim(),
    manufacturer: token.manufacturerID.trim(),
    firmware: `${token.firmwareVersion.major}.${token.firmwareVersion.minor}`,
    flags: token.flags,
    pinLength_min: token.minPinLen,
    pinLength_max: token.maxPinLen,
    sessions_max: token.maxSessionCount,
    mechanisms: () => {
      const list = slot.getMechanisms();
      return Array.from({ length: list.length }, (_, at) => {
        const mechanism = list.items(at);
        return { type: mechanism.type, name: mechanism.name };
      });
    },
  };
}
