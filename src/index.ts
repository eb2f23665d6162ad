/**
 * Keyslot as a library: every custody behind one contract, in this process. An engine has slots, a slot opens
 * with a PIN into a session, a session has keys and gives out signers.
 *
 * What runs here is custody alone. Authority, verification before release and the registry of keys belong to
 * the appliance (`keyslot serve`): whoever embeds an engine has them to do.
 */

export {
  type Adopts,
  adopts,
  type CustodyLabel,
  type Destroys,
  destroys,
  type Engine,
  type EngineName,
  type Exports,
  exports,
  type Generates,
  generates,
  type Imports,
  imports,
  type KeyInfo,
  type Session,
  type Signer,
  type Slot,
  type SlotDescription,
} from './custody/engine.ts';
export {
  type KeyId,
  keyId,
  type PublicKeyBytes,
  type Signature,
  type SlotId,
  slotId,
} from './custody/ids.ts';
export { createKeyProvider, type KeyProvider } from './custody/key-provider.ts';
export { type KeyProvenance, provenanceOf } from './custody/provenance.ts';
export { createEncryptedFileEngine, encryptedFileSettings } from './engines/encrypted-file/index.ts';
export { createHsmSimEngine, hsmSimSettings } from './engines/hsm-sim/index.ts';
export { createKmsEngine, kmsSettings } from './engines/kms/index.ts';
export { createMemoryEngine, memorySettings } from './engines/memory/index.ts';
export { createMpcEngine, joinNodeSecrets, mpcSettings } from './engines/mpc/index.ts';
export { createPkcs11Engine, pkcs11Settings } from './engines/pkcs11/index.ts';
export { type ErrorCode, errorTable, isKeyslotError, KeyslotError } from './foundation/errors.ts';
export { type Log, silentLog } from './foundation/log.ts';
export { Secret } from './foundation/secret.ts';
