import { decodeBase64 } from '../foundation/base64.ts';
import { type AuditRecord, canonicalLine, recordFields } from './record.ts';

/**
 * The record of a line, or what is wrong with the line. Strict: UTF-8, JSON, known fields of their types, and
 * the same bytes when it is written again, so that one record is one line.
 */
export function recordOfLine(line: Uint8Array): AuditRecord | string {
  const text = textOf(line);
  if (text === undefined) return 'is not UTF-8 text';
  const value = objectOf(text);
  if (value === undefined) return 'is not a JSON object';
  for (const field of Object.keys(value)) {
    if (!isRecordField(field)) return `has the unknown field ${JSON.stringify(field.slice(0, 40))}`;
    if (!checks[field](value[field])) return `has a field ${field} of the wrong form`;
  }
  for (const field of required) if (!Object.hasOwn(value, field)) return `has no field ${field}`;
  const record = value as unknown as AuditRecord;
  return canonicalLine(record) === text ? record : 'is not written in canonical form';
}

/** The seq that a line says it has, whatever else is wrong with it: to find out what was done to a log. */
export function seqOfLine(line: Uint8Array): number | undefined {
  const text = textOf(line);
  const seq = text === undefined ? undefined : objectOf(text)?.seq;
  return isPlace(seq) ? seq : undefined;
}

/** The hash that a line says the line before has. */
export function prevOfLine(line: Uint8Array): string | undefined {
  const text = textOf(line);
  const prev = text === undefined ? undefined : objectOf(text)?.prev;
  return isHash(prev) ? prev : undefined;
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export function textOf(bytes: Uint8Array): string | undefined {
  try {
    return utf8.decode(bytes);
  } catch (error) {
    if (error instanceof TypeError) return undefined;
    throw error;
  }
}

export function objectOf(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
    return value as Readonly<Record<string, unknown>>;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

type Check = (value: unknown) => boolean;

const isText: Check = value => typeof value === 'string';
const isTexts: Check = value => Array.isArray(value) && value.every(isText);
const isOneOf =
  (...words: readonly string[]): Check =>
  value =>
    typeof value === 'string' && words.includes(value);

export const isPlace = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0;
export const isHash = (value: unknown): value is string =>
  typeof value === 'string' && value.length === 64 && /^[0-9a-f]{64}$/.test(value);
const isTime: Check = value =>
  typeof value === 'string' && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$/.test(value);
const isBase64: Check = value => typeof value === 'string' && decodeBase64(value) !== undefined;
const isSignature: Check = value => typeof value === 'string' && decodeBase64(value)?.length === 64;

const isDetail: Check = value =>
  typeof value === 'object' &&
  value !== null &&
  !Array.isArray(value) &&
  Object.values(value).every(each => ['string', 'number', 'boolean'].includes(typeof each));

const isCharge: Check = value => {
  if (typeof value !== 'object' || value === null) return false;
  const { counter, window_s, amount, ...others } = value as Record<string, unknown>;
  return (
    isText(counter) &&
    isPlace(window_s) &&
    typeof amount === 'string' &&
    /^\d{1,40}$/.test(amount) &&
    Object.keys(others).length === 0
  );
};

const checks: Readonly<Record<keyof AuditRecord, Check>> = {
  v: value => value === 1,
  node: isText,
  boot: value => typeof value === 'string' && value.length > 0,
  seq: isPlace,
  utc: isTime,
  mono_ms: value => typeof value === 'number' && value >= 0,
  type: isOneOf('boot', 'intent', 'result', 'refusal', 'event'),
  requestId: isText,
  actor: isText,
  credential: isText,
  operation: isText,
  key: isText,
  publicKey: isText,
  slot: isText,
  engine: isText,
  custody: isText,
  kind: isText,
  message: isHash,
  transaction: isBase64,
  summary: isTexts,
  policies: isTexts,
  decision: isOneOf('allow', 'deny'),
  rules: isTexts,
  approvals: isTexts,
  charges: value => Array.isArray(value) && value.every(isCharge),
  intent: isPlace,
  outcome: isOneOf('ok', 'refused', 'failed', 'unknown'),
  code: isText,
  signature: isSignature,
  idempotency: isHash,
  detail: isDetail,
  prev: isHash,
};

const isRecordField = (field: string): field is keyof AuditRecord => Object.hasOwn(checks, field);

const required: readonly (keyof AuditRecord)[] = recordFields.filter(field =>
  ['v', 'node', 'boot', 'seq', 'utc', 'mono_ms', 'type', 'prev'].includes(field),
);
