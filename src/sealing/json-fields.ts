import { decodeBase64 } from '../foundation/base64.ts';
import { KeyslotError } from '../foundation/errors.ts';

/** The object of a JSON text, not yet believed. */
export type JsonFields = Readonly<Record<string, unknown>>;

/** No key file comes near this; what is larger is not parsed. */
export const keyFile_bytes_max = 16 * 1024;

/** The object that a key file is. `what` names the file in the error. KEY_FILE_MALFORMED. */
export function fieldsOfFile(file: Uint8Array, what: string): JsonFields {
  return fieldsOfText(textOfFile(file, what), what);
}

/** The content of a key file as text. KEY_FILE_MALFORMED when it is oversize or not UTF-8. */
export function textOfFile(file: Uint8Array, what: string): string {
  if (file.length > keyFile_bytes_max) {
    throw malformed(what, `has ${file.length} bytes; at most ${keyFile_bytes_max} are read`);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(file);
  } catch (error) {
    if (error instanceof TypeError) throw malformed(what, 'is not UTF-8 text');
    throw error;
  }
}

/** The object that a text is. KEY_FILE_MALFORMED. */
export function fieldsOfText(text: string, what: string): JsonFields {
  const value = parseJson(text, what);
  if (!isFields(value)) throw malformed(what, 'is not a JSON object');
  return value;
}

export const isFields = (value: unknown): value is JsonFields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** A field that has to be there and be text; inherited ones do not count. KEY_FILE_MALFORMED. */
export function textField(fields: JsonFields, name: string, what: string): string {
  const value = Object.hasOwn(fields, name) ? fields[name] : undefined;
  if (typeof value !== 'string') throw malformed(what, `has no text field ${name}`);
  return value;
}

/** A field that has to be exactly this number, such as the version. KEY_FILE_MALFORMED. */
export function refuseOtherThan(number: number, fields: JsonFields, name: string, what: string): void {
  if (fields[name] !== number) throw malformed(what, `has another ${name} than ${number}`);
}

export const malformed = (what: string, why: string) =>
  new KeyslotError('KEY_FILE_MALFORMED', `${what} ${why}.`);

function parseJson(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    // Not kept as the cause: its message quotes the text, and a file in the wrong place may be a bare key.
    if (error instanceof SyntaxError) throw malformed(what, 'is not JSON');
    throw error;
  }
}

/** A number, whatever it is. KEY_FILE_MALFORMED. */
export function numberField(fields: JsonFields, name: string, what: string): number {
  const value = Object.hasOwn(fields, name) ? fields[name] : undefined;
  if (typeof value !== 'number') throw malformed(what, `has no number ${name}`);
  return value;
}

/** A list of objects. KEY_FILE_MALFORMED. */
export function objectsField(fields: JsonFields, name: string, what: string): readonly JsonFields[] {
  const value = Object.hasOwn(fields, name) ? fields[name] : undefined;
  if (!Array.isArray(value) || !value.every(isFields)) throw malformed(what, `has no list ${name}`);
  return value;
}

/** Strict base64, of so many bytes if that is given. KEY_FILE_MALFORMED. */
export function bytesField(
  fields: JsonFields,
  name: string,
  length: number | undefined,
  what: string,
): Buffer {
  const bytes = decodeBase64(textField(fields, name, what));
  if (!bytes || (length !== undefined && bytes.length !== length)) {
    throw malformed(what, `has no ${length ?? ''} bytes of base64 in ${name}`);
  }
  return bytes;
}
