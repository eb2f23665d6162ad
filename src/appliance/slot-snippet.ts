import { stringify } from 'yaml';
import type { TokenExamination, Verdict } from '../engines/pkcs11/index.ts';
import { readProfile } from '../engines/pkcs11/profile.ts';

/** A token that was examined, as far as a slot on it is described by that. */
export interface Examined {
  readonly module: string;
  readonly libraryParameters?: string | undefined;
  readonly environment: Readonly<Record<string, string>>;
  readonly profile: string;
  readonly tokenLabel: string;
  readonly tokenSerial: string;
  /** Whether another token has the same label. */
  readonly labelRepeated: boolean;
  readonly verdict: Verdict;
  readonly pinFile?: string | undefined;
  readonly examination?: TokenExamination | undefined;
}

/** `slots:` for keyslot.yaml with one slot on the token; nothing where it is unusable. */
export function slotSnippet(examined: Examined): string | undefined {
  const { pinFile } = examined;
  const settings = slotSettings(examined);
  if (settings === undefined) return undefined;
  const pin = pinFile === undefined ? { attended: true } : { file: pinFile };
  return stringify({ slots: [{ id: 'main', engine: 'pkcs11', pin, settings }] });
}

/** What a slot on the token says of it; nothing where it is unusable. */
export function slotSettings(examined: Examined): Readonly<Record<string, unknown>> | undefined {
  const { verdict, examination, environment, profile } = examined;
  if (verdict === 'unusable') return undefined;
  const native = verdict === 'native';
  const { sessions, wrappingKey } = readProfile(profile);
  const differs = <T>(found: T | undefined, written: T | undefined) =>
    found !== undefined && found !== written;
  return {
    module: examined.module,
    profile,
    ...(examined.labelRepeated || examined.tokenLabel === ''
      ? { tokenSerial: examined.tokenSerial }
      : { tokenLabel: examined.tokenLabel }),
    mode: native ? 'native' : 'wrapped',
    ...(examination?.speed ? { sessions: examination.speed.usefulSessions } : {}),
    ...(differs(examination?.sessionMode, sessions.mode) && examination?.sessionMode === 'read-write'
      ? { sessionMode: 'read-write' }
      : {}),
    ...(!native && differs(examination?.gcmIv, wrappingKey?.gcmIv) ? { gcmIv: examination?.gcmIv } : {}),
    ...(examined.libraryParameters === undefined ? {} : { libraryParameters: examined.libraryParameters }),
    ...(Object.keys(environment).length === 0 ? {} : { environment }),
  };
}
