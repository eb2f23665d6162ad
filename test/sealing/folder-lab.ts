import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { KeyInfo, Session } from '../../src/custody/engine.ts';
import { type KeyId, keyId, publicKeyBytes, slotId } from '../../src/custody/ids.ts';
import { createVerifier, publicKeyFromSeed } from '../../src/foundation/ed25519.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';
import { type Log, type LogFields, silentLog } from '../../src/foundation/log.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { KeyFolder } from '../../src/sealing/key-folder.ts';
import type { KeyForm } from '../../src/sealing/key-form.ts';
import { encryptedFileForm } from '../../src/sealing/page-forms.ts';
import { SealedSession, type SealedSessionSetting } from '../../src/sealing/sealed-session.ts';

/** A folder of its own below the temporary folder of the system, removed when it is disposed. */
export class TemporaryFolder implements Disposable {
  readonly root = mkdtempSync(join(tmpdir(), 'keyslot-folder-'));
  /** Where the keys go. Not there yet. */
  readonly keys = join(this.root, 'keys');

  path(name: string): string {
    return join(this.keys, name);
  }

  names(): string[] {
    return readdirSync(this.keys).toSorted();
  }

  /** How many files there are with a hidden name. */
  hidden(): number {
    if (!existsSync(this.keys)) return 0;
    return this.names().filter(name => name.startsWith('.')).length;
  }

  read(name: string): Buffer {
    return readFileSync(this.path(name));
  }

  /** Writes over what is there, as nobody should. */
  write(name: string, content: string | Uint8Array): void {
    writeFileSync(this.path(name), content, { mode: 0o600 });
  }

  /** Every byte of every file, below the root too. */
  contents(): Buffer {
    const entries = readdirSync(this.root, { recursive: true, withFileTypes: true });
    const files = entries.filter(entry => entry.isFile());
    return Buffer.concat(files.map(file => readFileSync(join(file.parentPath, file.name))));
  }

  [Symbol.dispose](): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

/** A log that keeps what it is told. */
export class HeardLog implements Log {
  readonly heard: { readonly level: string; readonly fields: LogFields; readonly text: string }[] = [];

  info(fields: LogFields, text: string): void {
    this.heard.push({ level: 'info', fields, text });
  }

  warn(fields: LogFields, text: string): void {
    this.heard.push({ level: 'warn', fields, text });
  }

  error(fields: LogFields, text: string): void {
    this.heard.push({ level: 'error', fields, text });
  }

  /** What was said of damaged files: the code for each key. */
  get damaged(): Record<string, unknown> {
    const said = this.heard.filter(({ fields }) => 'code' in fields);
    return Object.fromEntries(said.map(({ fields }) => [fields.key, fields.code]));
  }
}

/** The form of the agentic-wallet program that costs no key derivation. */
export function quickForm(words = 'the secret of the slot'): KeyForm & Disposable {
  using secret = Secret.fromText(words);
  return encryptedFileForm({ secret, writes: 'documented' });
}

/** A session over a folder, without the slot around it. */
export async function sessionOver(
  path: string,
  setting: Partial<SealedSessionSetting> & { readonly writes: KeyForm },
): Promise<SealedSession> {
  return new SealedSession({
    slot: slotId('main'),
    folder: await KeyFolder.open(path),
    forms: [setting.writes],
    custody: 'encrypted-file',
    unwrapCache_ms: 0,
    log: silentLog,
    closed: () => undefined,
    ...setting,
  });
}

/** What an abandoned opening or call is refused with; `'none'` when it was not. */
export async function refusal(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'none';
  } catch (error) {
    if (isKeyslotError(error)) return error.code;
    throw error; // an error without a code is a defect: show it whole
  }
}

export async function listed(session: Session): Promise<string[]> {
  const ids: string[] = [];
  for await (const info of session.keys()) ids.push(info.id);
  return ids.toSorted();
}

export async function expectSigns(session: Session, info: KeyInfo): Promise<void> {
  const message = Buffer.from(`signed with ${info.id}`);
  const signed = await (await session.signer(info.id)).sign(message);
  expect(await createVerifier(info.publicKey).verify(message, signed)).toBe(true);
}

/** A damaged key is left out, answers with its code, and all others go on working. */
export async function expectOnlyDamaged(
  session: Session,
  damaged: KeyId,
  codes: string | readonly string[],
  others: readonly KeyInfo[],
): Promise<void> {
  expect([codes].flat()).toContain(await refusal(session.signer(damaged)));
  const ids = await listed(session);
  for (const info of others) {
    expect(ids).toContain(info.id);
    await expectSigns(session, info);
  }
}

export const id = (text: string): KeyId => keyId(text);

export const publicKeyOf = (seed: Secret) => publicKeyBytes(seed.use(publicKeyFromSeed));

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
