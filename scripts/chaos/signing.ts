import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { isKeyslotClientError, type KeyslotClient } from '../../src/client/index.ts';
import { decodeBase58 } from '../../src/foundation/base58.ts';
import { unsignedTransfers } from '../bench/transfers.ts';
import { transferMessage_at } from '../bench/work.ts';
import { type House, key as ordinaryKey } from './house.ts';

/** One request, and what came of it. */
export interface Signing {
  readonly idempotencyKey: string;
  /** The bytes that the signature is over. */
  readonly message: Buffer;
  readonly outcome: Signed | Failed;
}

/** A 200: the appliance has promised this signature. */
export interface Signed {
  readonly signature: Buffer;
  /** Where it stands in the audit log. */
  readonly seq: number;
  readonly hash: string;
  readonly at_ms: number;
}

export interface Failed {
  readonly code: string;
  /** Whether the appliance said so, or nobody answered. */
  readonly answered: boolean;
}

/** Asks the appliance for signatures through the client library, transfers and messages in turn, and checks them. */
export class Signer {
  readonly #client: KeyslotClient;
  readonly #publicKey: KeyObject;
  readonly #transfers: readonly Buffer[];
  readonly #ending: AbortSignal;
  readonly #key: string;
  readonly #known = new Map<string, Buffer>();
  #wrong = 0;

  constructor(
    client: KeyslotClient,
    { appliance, ending }: House,
    { key = ordinaryKey, publicKey = appliance.publicKey } = {},
  ) {
    this.#key = key;
    this.#client = client;
    this.#publicKey = ed25519(publicKey);
    this.#ending = ending;
    this.#transfers = unsignedTransfers(publicKey, transfers);
  }

  /**
   * Signatures that were released and do not verify, stand in another transaction than the one that was sent, or
   * differ from another one over the same bytes.
   */
  get wrong(): number {
    return this.#wrong;
  }

  /** So many, a few at a time. `beside` is told of each that has ended. */
  async sign(
    name: string,
    count: number,
    lanes: number,
    beside: (done: number) => void = () => undefined,
  ): Promise<readonly Signing[]> {
    const made: Signing[] = new Array(count);
    let begun = 0;
    let done = 0;
    const lane = async () => {
      for (let at = begun++; at < count && !this.#ending.aborted; at = begun++) {
        made[at] = await this.one(`${name}-${at}`, at);
        done += 1;
        beside(done);
      }
    };
    await Promise.all(Array.from({ length: lanes }, lane));
    this.#ending.throwIfAborted();
    return made;
  }

  /** Every second one is a transfer; these come again, so that it shows whether the same bytes are signed the same. */
  async one(idempotencyKey: string, at: number): Promise<Signing> {
    const transfer = at % 2 === 0 ? this.#transfers[(at / 2) % transfers] : undefined;
    const message = transfer?.subarray(transferMessage_at) ?? Buffer.from(`payment ${idempotencyKey}`);
    const asked = { idempotencyKey, signal: this.#ending };
    try {
      const reply = transfer
        ? await this.#client.signTransaction(this.#key, transfer, asked)
        : await this.#client.signMessage(this.#key, message, asked);
      const signature = Buffer.from(reply.signature);
      if (!this.#isRight(message, signature, transfer, reply)) this.#wrong += 1;
      const { seq, hash } = reply.receipt;
      return { idempotencyKey, message, outcome: { signature, seq, hash, at_ms: performance.now() } };
    } catch (thrown) {
      if (!isKeyslotClientError(thrown)) throw thrown;
      const { code, status } = thrown;
      return { idempotencyKey, message, outcome: { code, answered: status !== undefined } };
    }
  }

  #isRight(message: Buffer, signature: Buffer, transfer: Buffer | undefined, reply: object): boolean {
    const name = message.toString('latin1');
    const known = this.#known.get(name);
    if (transfer && !known) this.#known.set(name, signature);
    if (known && !known.equals(signature)) return false;
    if (transfer) {
      const whole = Buffer.from(transfer);
      whole.set(signature, 1);
      if (!('signedTransaction' in reply) || !isSame(whole, reply.signedTransaction)) return false;
    }
    return verify(null, message, this.#publicKey, signature);
  }
}

const transfers = 500;

const isSame = (some: Buffer, others: unknown): boolean =>
  others instanceof Uint8Array && some.equals(others);

export const isSigned = (outcome: Signed | Failed): outcome is Signed => 'signature' in outcome;

export const signedOf = (signings: readonly Signing[]): (Signing & { readonly outcome: Signed })[] =>
  signings.filter((each): each is Signing & { readonly outcome: Signed } => isSigned(each.outcome));

/** How often each code was the end of a request. */
export function failuresOf(signings: readonly Signing[]): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const { outcome } of signings) {
    if (!isSigned(outcome)) counts[outcome.code] = (counts[outcome.code] ?? 0) + 1;
  }
  return counts;
}

/** Node's own Ed25519, and none of Keyslot's code: the key as RFC 8410 writes it. */
function ed25519(publicKey: string): KeyObject {
  const prefix = Buffer.from('302a300506032b6570032100', 'hex');
  const der = Buffer.concat([prefix, decodeBase58(publicKey) ?? Buffer.of()]);
  return createPublicKey({ key: der, format: 'der', type: 'spki' });
}
