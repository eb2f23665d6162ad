import { z } from 'zod';
import { health, keyView, sessionView, slotView } from './views.ts';

/**
 * The boundary between the process that parses the network and the process that holds the keys.
 *
 * `Custodian` has two bindings: a direct call in one process, and the unix socket. Nothing above knows which.
 * An operation is a small JSON input, a list of byte strings beside it (messages, PINs, seeds: never inside
 * the JSON), and the same for its answer. Failures are KeyslotErrors.
 */
export interface Custodian {
  call<N extends OperationName>(name: N, request: Request<N>, call: Call): Promise<Reply<N>>;
}

/** Who asks, as far as the gateway could establish it; what that allows is decided by the custodian. */
export interface Call {
  readonly requestId: string;
  readonly credential?: Credential | undefined;
  /** SHA-256 of the token of a PIN session, in hexadecimal. The token itself stays in the gateway. */
  readonly session?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

const digest = z.string().regex(/^[0-9a-f]{64}$/);

/** SHA-256, in hexadecimal: of the certificate's SubjectPublicKeyInfo, or of the bearer token. */
export const credential = z.union([
  z.strictObject({ certificate: digest }),
  z.strictObject({ token: digest }),
]);
export type Credential = z.infer<typeof credential>;

export interface Request<N extends OperationName> {
  readonly input: z.infer<(typeof operations)[N]['input']>;
  readonly bytes?: readonly Uint8Array[];
}

export interface Reply<N extends OperationName> {
  readonly output: z.infer<(typeof operations)[N]['output']>;
  readonly bytes?: readonly Uint8Array[];
}

const nothing = z.strictObject({});
// Ids are checked where they are used, so that a wrong one answers with its own code.
const id = z.string();
const signedMessage = z.object({ kind: z.enum(['bytes', 'offchain']) });
const signedTransaction = z.object({ version: z.enum(['legacy', 'v0', 'v1']) });
const signedBy = z.object({ publicKey: z.string(), custody: z.string() });

const operation = <I extends z.ZodType, O extends z.ZodType>(
  input: I,
  output: O,
  options: { repeatable: boolean },
) => ({ input, output, ...options });

const repeatable = { repeatable: true };
const once = { repeatable: false };

/**
 * Every operation. `repeatable` ones may be sent again when the custodian was lost before it answered:
 * reading changes nothing, and an Ed25519 signature of the same bytes is the same signature.
 */
export const operations = {
  'list-slots': operation(nothing, z.object({ slots: z.array(slotView) }), repeatable),
  'show-slot': operation(z.strictObject({ slot: id }), slotView, repeatable),
  /** bytes: the PIN, or none to read the configured source. */
  'open-slot': operation(z.strictObject({ slot: id }), slotView, once),
  'lock-slot': operation(z.strictObject({ slot: id }), slotView, once),
  'clear-latch': operation(z.strictObject({ slot: id }), slotView, once),
  /** bytes: the PIN. Answer bytes: the session token, as text. */
  'open-session': operation(z.strictObject({ slot: id }), sessionView, once),
  'close-session': operation(nothing, nothing, once),
  'list-keys': operation(
    z.strictObject({ slot: id.optional(), cursor: z.string().max(200).optional(), limit: z.int() }),
    z.object({ keys: z.array(keyView), next: z.string().optional() }),
    repeatable,
  ),
  'show-key': operation(z.strictObject({ key: id }), keyView, repeatable),
  'generate-key': operation(z.strictObject({ key: id, slot: id }), keyView, once),
  /** bytes: the 32-byte seed. */
  'import-key': operation(z.strictObject({ key: id, slot: id }), keyView, once),
  /** bytes: the message. Answer bytes: the signature. */
  'sign-message': operation(z.strictObject({ key: id }), signedBy.extend(signedMessage.shape), repeatable),
  /** bytes: the wire transaction. Answer bytes: the signature, the signed wire transaction. */
  'sign-transaction': operation(
    z.strictObject({ key: id }),
    signedBy.extend(signedTransaction.shape),
    repeatable,
  ),
  /**
   * bytes: one byte string an item. Answer: a result an item, in the same order; the bytes of the signed ones
   * follow one another, a signature for a message, a signature and a wire transaction for a transaction.
   */
  'sign-batch': operation(
    z.strictObject({ key: id, items: z.array(z.enum(['message', 'transaction'])) }),
    signedBy.extend({
      results: z.array(
        z.union([signedMessage, signedTransaction, z.object({ code: z.string(), detail: z.string() })]),
      ),
    }),
    repeatable,
  ),
  /** bytes: the message, the signature. */
  verify: operation(z.strictObject({ key: id }), z.object({ valid: z.boolean() }), repeatable),
  health: operation(nothing, health, repeatable),
} as const;

export type OperationName = keyof typeof operations;

export const isOperation = (name: string): name is OperationName => Object.hasOwn(operations, name);
