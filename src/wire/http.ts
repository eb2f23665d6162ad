import { z } from 'zod';
import { decodeBase58 } from '../foundation/base58.ts';
import { decodeBase64 } from '../foundation/base64.ts';
import { publicKeyFromSeed, seed_bytes, signature_bytes } from '../foundation/ed25519.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import { Secret } from '../foundation/secret.ts';
import { freezeScope } from './policies.ts';

/** The request bodies of the HTTP API, and their parsers: unknown fields are refused, every failure has its code. */

const base64 = z.string().meta({ contentEncoding: 'base64' });
const keys = z.array(z.string()).min(1).optional();
/** Checked one by one where they are used. */
const someTags = z.array(z.string()).max(32);
const tags = someTags.optional();
const reason = z.string().min(1).max(500);
const document = z.record(z.string(), z.unknown());
const migrationBatch = {
  keys,
  after: z.string().max(63).optional(),
  max: z.int().min(1).max(limits.batch_items_max).optional(),
};

export const bodies = {
  openSlot: z.strictObject({ pin: z.string().min(1).max(limits.pin_bytes_max).optional() }),
  openSession: z.strictObject({ pin: z.string().min(1).max(limits.pin_bytes_max) }),
  generateKey: z.strictObject({ id: z.string(), slot: z.string(), tags }),
  importKey: z.strictObject({
    slot: z.string(),
    /** 32 bytes in base64. */
    seed: z.string().optional(),
    /** The 64 bytes of a Solana key file: its array of numbers, or base58. */
    secretKey: z.union([z.string(), z.array(z.int().min(0).max(255))]).optional(),
    tags,
  }),
  /** `reference`: a KMS key by id, ARN or alias. */
  adoptKey: z.strictObject({ slot: z.string(), reference: z.string().min(1).max(2_048).optional(), tags }),
  tagKey: z.strictObject({ tags: someTags }),
  /** `raw`: the bytes may be a transaction's. */
  signMessage: z.strictObject({ message: base64, raw: z.boolean().optional() }),
  signTransaction: z.strictObject({ transaction: base64 }),
  signBatch: z.strictObject({
    // How many there may be is checked where they are counted, with a code of its own.
    items: z
      .array(z.union([z.strictObject({ message: base64 }), z.strictObject({ transaction: base64 })]))
      .meta({ minItems: 1, maxItems: limits.batch_items_max }),
  }),
  verify: z.strictObject({ message: base64, signature: z.string() }),
  migrationRoute: z.strictObject({ from: z.string(), to: z.string(), keys }),
  migrationBatch: z.strictObject(migrationBatch),
  /** What cannot be undone is said twice. */
  destroyCopies: z.strictObject({ ...migrationBatch, confirm: z.literal(true) }),
  /** `expected`: the version that the change was made from; 0 for a policy that must not exist yet. */
  putPolicy: z.strictObject({ document, expected: z.int().min(0).optional() }),
  /** Exactly one of `transaction` and `message`; `document` is a candidate in place of the key's policies. */
  evaluatePolicy: z.strictObject({
    key: z.string(),
    transaction: base64.optional(),
    message: base64.optional(),
    document: document.optional(),
  }),
  freeze: z.strictObject({ scope: freezeScope, target: z.string().optional(), reason }),
  thaw: z.strictObject({ freeze: z.string().max(200), reason }),
  requestApproval: z.strictObject({ operation: z.string().max(40), input: document, reason }),
  /** What the approver read, so that nobody approves what was swapped under their eyes. */
  decideApproval: z.strictObject({
    digest: z.string().regex(/^[0-9a-f]{64}$/, 'must be SHA-256 in hexadecimal'),
  }),
  pruneAudit: z.strictObject({ below: z.int().min(1) }),
  nothing: z.strictObject({}),
  /** Begins to drain, or ends it with `false`. */
  drain: z.strictObject({ drain: z.boolean().optional() }),
} as const;

/** BODY_INVALID or FIELD_UNKNOWN, naming the field. */
export function parseBody<S extends z.ZodType>(schema: S, body: unknown): z.infer<S> {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const issue = unknownField(result.error.issues) ?? result.error.issues[0];
  const where = issue?.path.length ? `Field ${issue.path.join('.')}` : 'The body';
  if (issue?.code === 'unrecognized_keys') {
    const names = issue.keys.slice(0, 5).map(name => JSON.stringify(name.slice(0, 80)));
    throw new KeyslotError('FIELD_UNKNOWN', `${where} has the unknown field ${names.join(', ')}.`);
  }
  throw new KeyslotError('BODY_INVALID', `${where} is not valid: ${issue?.message ?? 'wrong shape'}.`);
}

/** An unknown field inside a union hides behind the failures of the other members. */
function unknownField(issues: readonly z.core.$ZodIssue[]): z.core.$ZodIssue | undefined {
  for (const issue of issues) {
    if (issue.code === 'unrecognized_keys') return issue;
    const inner = issue.code === 'invalid_union' ? unknownField(issue.errors.flat()) : undefined;
    if (inner) return { ...inner, path: [...issue.path, ...inner.path] };
  }
  return undefined;
}

/** BASE64_INVALID, naming the field. */
export function base64Field(name: string, text: string): Buffer {
  const bytes = decodeBase64(text);
  if (bytes) return bytes;
  throw new KeyslotError('BASE64_INVALID', `Field ${name} is not standard base64 with padding.`);
}

/** 64 bytes as base58 or base64; the two cannot be confused, because 64 bytes in base64 end in "==". */
export function signatureField(text: string): Uint8Array {
  const bytes = text.endsWith('=') ? decodeBase64(text) : decodeBase58(text);
  if (bytes?.length === signature_bytes) return bytes;
  throw new KeyslotError('SIGNATURE_ENCODING_INVALID', 'Field signature does not hold 64 bytes.');
}

/** The seed of an import body, whichever of its forms was used. KEY_MATERIAL_INVALID; never repeats the material. */
export function seedOf(body: z.infer<typeof bodies.importKey>): Secret {
  if ((body.seed === undefined) === (body.secretKey === undefined)) {
    throw new KeyslotError('BODY_INVALID', 'Exactly one of seed and secretKey must be given.');
  }
  return body.seed === undefined ? seedOfSecretKey(body.secretKey ?? '') : seedOfText(body.seed);
}

function seedOfText(text: string): Secret {
  const bytes = decodeBase64(text);
  if (bytes?.length === seed_bytes) return Secret.fromBytes(bytes, { wipe: true });
  throw new KeyslotError('KEY_MATERIAL_INVALID', 'Field seed is not base64 of 32 bytes.');
}

/** A 64-byte Solana secret key carries its public key: one that does not match its seed is not used. */
function seedOfSecretKey(key: string | readonly number[]): Secret {
  const bytes = typeof key === 'string' ? decodeBase58(key) : Uint8Array.from(key);
  if (bytes?.length !== seed_bytes * 2) {
    throw new KeyslotError('KEY_MATERIAL_INVALID', 'Field secretKey does not hold 64 bytes.');
  }
  const seed = Secret.fromBytes(bytes.subarray(0, seed_bytes));
  const matches = Buffer.compare(seed.use(publicKeyFromSeed), bytes.subarray(seed_bytes)) === 0;
  bytes.fill(0);
  if (matches) return seed;
  seed[Symbol.dispose]();
  throw new KeyslotError('KEY_MATERIAL_INVALID', 'The public half of secretKey does not belong to its seed.');
}
