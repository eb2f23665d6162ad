import type { Engine } from '../../custody/engine.ts';
import type { SlotId } from '../../custody/ids.ts';
import type { Log } from '../../foundation/log.ts';
import { Pkcs11Engine } from './engine.ts';
import type { Patience } from './recovery.ts';
import type { Pkcs11Settings } from './settings.ts';

export {
  type ExamineOptions,
  examineToken,
  type TokenExamination,
  type Verdict,
} from './examine.ts';
export { fittingProfiles, inspectModule, type ModuleReport } from './inspect.ts';
export { refuseForeignModule } from './module-file.ts';
export { type Profile, profileForm, profileNames, readProfile } from './profile.ts';
export { provisionToken } from './provision.ts';
export { ordinaryPatience, type Patience } from './recovery.ts';
export { type Pkcs11Settings, pkcs11Settings } from './settings.ts';

/**
 * Keys of a PKCS#11 token. In mode native they are generated there, sign there and never leave it; in mode
 * wrapped a key of the token seals their seeds, which sign in process memory.
 */
export const createPkcs11Engine = (
  slot: SlotId,
  settings: Pkcs11Settings,
  log: Log,
  patience?: Patience,
): Engine => new Pkcs11Engine(slot, settings, log, patience);
