import type { KeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import type { KeyId, PublicKeyBytes, Signature, SlotId } from './ids.ts';

/**
 * The contract: what every custody technology is to the rest of Keyslot.
 *
 * An engine has slots, a slot opens with a PIN into a session, a session has keys and gives out signers, a
 * signer signs. Everything else a custody may or may not be able to do is an optional power of its session,
 * found at run time by a guard. `test/conformance/engine-suite.ts` is this contract as an exam.
 */
export interface Engine extends AsyncDisposable {
  readonly name: EngineName;
  slots(): Promise<readonly Slot[]>;
}

/** A place that holds keys behind one PIN. */
export interface Slot {
  readonly id: SlotId;
  /** Needs no PIN. Fails with the engine's start-up errors (MODULE_UNUSABLE, TOKEN_NOT_FOUND, …). */
  describe(): Promise<SlotDescription>;
  /**
   * Hands the PIN to the custody exactly once and never repeats it. The caller still owns the PIN; only a session
   * that logs in again by itself (`Recovers`) keeps a copy, for as long as it lives. A slot has one session at a time: SLOT_OPEN. Fails with PIN_REFUSED, PIN_LAST_TRY,
   * PIN_LOCKED, TOKEN_UNAVAILABLE, REQUEST_ABORTED.
   */
  open(pin: Secret, signal?: AbortSignal): Promise<Session>;
}

/**
 * A slot that accepted its PIN. Disposing it ends the login, after what is in flight has settled; every call
 * on it or on its signers then fails with SESSION_CLOSED. Calls may run concurrently.
 */
export interface Session extends AsyncDisposable {
  readonly slot: SlotId;
  /** Every Ed25519 key of the slot that has a valid key id, in no particular order. */
  keys(): AsyncIterable<KeyInfo>;
  /** Looks the key up, once; the signer keeps what was found. KEY_UNKNOWN, KEY_AMBIGUOUS. */
  signer(key: KeyId): Promise<Signer>;
}

/** The hot path: message bytes in, 64 signature bytes out. */
export interface Signer {
  readonly key: KeyInfo;
  /**
   * Signs 1 to 16,000 bytes with pure Ed25519 (RFC 8032 §5.1). The message is copied before the call returns.
   * The signature is *not* verified here: the custodian does that before it releases one.
   * Fails with MESSAGE_EMPTY, MESSAGE_TOO_LARGE, SLOT_BUSY, REQUEST_ABORTED, SESSION_CLOSED, KEY_UNKNOWN when
   * the key has gone, and the token's errors. An abort is honoured while waiting; a signature that has started
   * is finished and dropped.
   */
  sign(message: Uint8Array, signal?: AbortSignal): Promise<Signature>;
}

export interface KeyInfo {
  readonly id: KeyId;
  readonly publicKey: PublicKeyBytes;
  readonly custody: CustodyLabel;
  readonly exportable: boolean;
  /** What the custody itself says of the private key, read back and not assumed; named as PKCS#11 names it. */
  readonly attributes?: KeyAttributes;
}

/** PKCS#11 v3.1 §4.9, Table 27, in the spelling of the standard without its prefix. */
export interface KeyAttributes {
  readonly token: boolean;
  readonly private: boolean;
  readonly sensitive: boolean;
  readonly extractable: boolean;
  readonly always_sensitive: boolean;
  readonly never_extractable: boolean;
  readonly local: boolean;
}

export interface SlotDescription {
  readonly id: SlotId;
  readonly engine: EngineName;
  readonly custody: CustodyLabel;
  /** One line that a person recognises the place by. */
  readonly summary: string;
  /** What the place says of itself: token label, model, serial, module, … Never a secret. */
  readonly details: Readonly<Record<string, string | number | boolean>>;
}

export type EngineName = 'pkcs11' | 'encrypted-file' | 'hsm-sim' | 'kms' | 'mpc' | 'memory';

export type CustodyLabel =
  | 'hsm-native'
  | 'hsm-wrapped'
  | 'kms-native'
  | 'kms-envelope'
  | 'threshold'
  | 'shamir-envelope'
  | 'simulated-hsm'
  | 'simulated-kms'
  | 'encrypted-file'
  | 'memory';

// Optional powers of a session, each one method, each with its guard.

export interface Generates {
  /** Makes the key inside the custody. KEY_EXISTS; KEY_UNVERIFIED when the new key does not prove itself. */
  generate(key: KeyId): Promise<KeyInfo>;
}

export interface Imports {
  /** Takes a 32-byte seed in. The seed still belongs to the caller. KEY_EXISTS, KEY_MATERIAL_INVALID. */
  import(key: KeyId, seed: Secret): Promise<KeyInfo>;
}

export interface Exports {
  /** The 32-byte seed. The caller owns and disposes it. KEY_UNKNOWN, KEY_NOT_EXPORTABLE. */
  export(key: KeyId): Promise<Secret>;
}

export interface Destroys {
  /** Removes the key for ever. KEY_UNKNOWN. */
  destroy(key: KeyId): Promise<void>;
}

export interface Adopts {
  /**
   * Takes a key that exists in the custody already, named in the custody's own words (for KMS: key id, ARN or
   * alias), under a key id of ours. KEY_EXISTS, and what the custody answers for a key that is not there or unfit.
   */
  adopt(key: KeyId, reference: string): Promise<KeyInfo>;
}

/** A session that finds a lost device again by itself; its signers go on working. */
export interface Recovers {
  readonly health: SessionHealth;
  /** Calls the listener at every change of `health`, in order, until the returned function is called. */
  onHealth(listener: (health: SessionHealth) => void): () => void;
  /**
   * Looks for a lost device at once instead of after the pause that is due, and waits for what comes of it. The
   * error of the outage when the device is not back; REQUEST_ABORTED.
   */
  lookNow(signal?: AbortSignal): Promise<void>;
}

/** A session whose signers share a bounded number of places, and wait for each other. */
export interface Queues {
  readonly queue: QueueState;
}

export interface QueueState {
  /** Places in which work is done at the same time. */
  readonly places: number;
  /** How long one takes of late, in milliseconds; 0 when nobody knows. */
  readonly work_ms: number;
}

/** A session that counts what goes on at its device. */
export interface Measures {
  readonly figures: SessionFigures;
}

export interface SessionFigures {
  /** Places in which work is done at the same time, and how many of them are taken. */
  readonly places_max: number;
  readonly busy: number;
  /** Who waits for a place now. */
  readonly waiting: number;
  /** Places that are taken by calls that have not come back in time, and how often that has happened. */
  readonly writtenOff: number;
  readonly writtenOffTotal: number;
  /** What the device has answered with, by the name of the code; how often it was lost, by the class of that. */
  readonly errors: ReadonlyMap<string, number>;
  readonly outages: ReadonlyMap<string, number>;
  /** Attempts to get it back. */
  readonly recovered: number;
  readonly unrecovered: number;
}

/**
 * How a session is with its device, where it finds a lost one again by itself.
 *
 * `serving`, or `recovering`: the device was lost a moment ago and calls wait for it. `lost`: calls are turned away
 * with TOKEN_UNAVAILABLE, and the attempts go on; when one succeeds the session is `serving` again, with the same
 * keys under the same public keys. `refused`: the token refuses its PIN now (PIN_REFUSED, PIN_LOCKED,
 * PIN_LAST_TRY) and is not asked again. `hung`: calls have not come back, and only a new process helps.
 */
export type SessionHealth =
  | { readonly state: 'serving'; readonly error?: undefined }
  | { readonly state: 'recovering' | 'lost' | 'refused' | 'hung'; readonly error: KeyslotError };

export const generates = (session: Session): session is Session & Generates => 'generate' in session;
export const imports = (session: Session): session is Session & Imports => 'import' in session;
export const exports = (session: Session): session is Session & Exports => 'export' in session;
export const destroys = (session: Session): session is Session & Destroys => 'destroy' in session;
export const adopts = (session: Session): session is Session & Adopts => 'adopt' in session;
export const measures = (session: Session): session is Session & Measures => 'figures' in session;
export const queues = (session: Session): session is Session & Queues => 'queue' in session;
export const recovers = (session: Session): session is Session & Recovers => 'onHealth' in session;
