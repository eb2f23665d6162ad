import { isKeyslotError } from '../foundation/errors.ts';
import {
  fieldsOfFile,
  isFields,
  type JsonFields,
  malformed,
  refuseOtherThan,
  textField,
  textOfFile,
} from './json-fields.ts';
import { parseSealedText, type SealedText, type SealedTextForm } from './sealed-text.ts';
import { type ShareId, shareIds } from './shamir.ts';

/**
 * The key files of the agentic-wallet program, read as far as that goes without a secret. All of them refuse
 * with KEY_FILE_MALFORMED what is not JSON in UTF-8, oversize, or of another shape. Fields that the program does
 * not know it ignores, and so do these, but around the sealed texts only: a sealed text has exactly its own.
 */
export type PageSuffix = '.json' | '.hsm.json' | '.kms.json' | '.mpc.json';

export interface HsmEnvelope {
  readonly slotId: string;
  readonly wrappedSecret: SealedText;
}

export interface KmsEnvelope {
  readonly keyId: string;
  readonly wrappedDataKey: SealedText;
  readonly encryptedSecret: SealedText;
}

/** The sealed shares 1, 2 and 3; `undefined` stands for one that is missing or damaged beyond reading. */
export type MpcEnvelope = readonly [SealedText | undefined, SealedText | undefined, SealedText | undefined];

/**
 * Which of the two forms a file has. One that has sealed texts of both counts as `documented`, the weaker, and
 * so does its protection. KEY_FILE_MALFORMED, for `.mpc.json` also when no share can be read.
 */
export function formOfFile(suffix: PageSuffix, file: Uint8Array, what = 'The key file'): SealedTextForm {
  const forms = sealedTextsOf(suffix, file, what).map(sealed => sealed.form);
  if (forms.length === 0) throw malformed(what, 'has no share that can be read');
  return forms.includes('documented') ? 'documented' : 'deployed';
}

export const readEncryptedFile = (file: Uint8Array, what: string): SealedText =>
  parseSealedText(textOfFile(file, what), what);

export function readHsmFile(file: Uint8Array, what: string): HsmEnvelope {
  const fields = envelopeOf(file, what);
  return {
    slotId: textField(fields, 'slotId', what),
    wrappedSecret: sealedField(fields, 'wrappedSecret', what),
  };
}

export function readKmsFile(file: Uint8Array, what: string): KmsEnvelope {
  const fields = envelopeOf(file, what);
  return {
    keyId: textField(fields, 'keyId', what),
    wrappedDataKey: sealedField(fields, 'wrappedDataKey', what),
    encryptedSecret: sealedField(fields, 'encryptedSecret', what),
  };
}

/** A share that is missing, damaged or under a damaged number costs that share only, not the file. */
export function readMpcFile(file: Uint8Array, what: string): MpcEnvelope {
  const fields = envelopeOf(file, what);
  refuseOtherThan(2, fields, 'threshold', what);
  const shares: unknown = fields.shares;
  if (!Array.isArray(shares) || shares.length > shareIds.length) {
    throw malformed(what, 'has no list of up to three shares');
  }
  const read = shareReader(shares, what);
  return [read(1), read(2), read(3)];
}

function sealedTextsOf(suffix: PageSuffix, file: Uint8Array, what: string): readonly SealedText[] {
  switch (suffix) {
    case '.json':
      return [readEncryptedFile(file, what)];
    case '.hsm.json':
      return [readHsmFile(file, what).wrappedSecret];
    case '.kms.json': {
      const { wrappedDataKey, encryptedSecret } = readKmsFile(file, what);
      return [wrappedDataKey, encryptedSecret];
    }
    case '.mpc.json':
      return readMpcFile(file, what).filter(share => share !== undefined);
  }
}

/** What the three files with an envelope have in common. */
function envelopeOf(file: Uint8Array, what: string): JsonFields {
  const fields = fieldsOfFile(file, what);
  refuseOtherThan(1, fields, 'v', what);
  textField(fields, 'createdAt', what);
  return fields;
}

const sealedField = (fields: JsonFields, name: string, what: string): SealedText =>
  parseSealedText(textField(fields, name, what), `${what}, in its field ${name},`);

/**
 * Shares go by their numbers. When the numbers are not all there once, one of them is damaged; the program
 * writes the shares in order, so then a share counts only where its number is that of its place.
 */
function shareReader(shares: readonly unknown[], what: string): (id: ShareId) => SealedText | undefined {
  const numbers = shares.map(share => (isFields(share) ? share.id : undefined));
  const whole = numbers.every(number => shareIds.some(id => id === number));
  const byNumber = whole && new Set(numbers).size === numbers.length;
  return id => {
    const share = shares[byNumber ? numbers.indexOf(id) : id - 1];
    if (!isFields(share) || share.id !== id || typeof share.wrapped !== 'string') return undefined;
    return readShare(share.wrapped, `${what}, in its share ${id},`);
  };
}

function readShare(text: string, what: string): SealedText | undefined {
  try {
    return parseSealedText(text, what);
  } catch (error) {
    if (isKeyslotError(error) && error.code === 'KEY_FILE_MALFORMED') return undefined;
    throw error;
  }
}
