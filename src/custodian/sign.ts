import type { Signature } from '../custody/ids.ts';
import { KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { spliceSignature, type TransactionView } from '../solana/transaction.ts';
import type { ReceiptView } from '../wire/audit.ts';
import { type Decoded, decode, type Order } from './decode.ts';
import type { Recorded } from './recovered-requests.ts';
import type { Asking, Desk } from './signing-desk.ts';
import type { BoundSigner, Made } from './slot-keeper.ts';
import type { StageClock } from './stages.ts';

/**
 * The signing pipeline behind the door: the caller is known and may use the key. Decode → policy → durable intent →
 * sign → verify → durable result → release. Nothing is signed that was not recorded, and nothing leaves that was
 * not verified and recorded. The signed bytes are always a slice of what was sent, never serialised again.
 */
export async function signOne(order: Order, asking: Asking, desk: Desk): Promise<Signed> {
  const clock = asking.clock?.();
  if (!clock) return pipeline(order, asking, desk, undefined);
  try {
    const signed = await pipeline(order, asking, desk, clock);
    clock.ended('ok');
    return signed;
  } catch (thrown) {
    clock.ended(toKeyslotError(thrown).code);
    throw thrown;
  }
}

async function pipeline(order: Order, asking: Asking, desk: Desk, clock: StageClock | undefined) {
  const decoded = await desk.refusing(asking, undefined, async () => read(order, asking));
  clock?.rest();
  const made = await desk.once(decoded, asking, async () => {
    clock?.enter('policy');
    const verdict = await desk.refusing(asking, decoded, () => desk.decide(decoded, asking));
    clock?.enter('intent');
    const intent = await desk.intend(decoded, asking, verdict);
    try {
      const made = await signed(decoded, asking, clock);
      clock?.enter('result');
      return await desk.release(intent, made);
    } catch (thrown) {
      const error = toKeyslotError(thrown);
      clock?.failed(error.code);
      clock?.enter('result');
      throw await desk.giveUp(intent, error);
    }
  });
  return release(decoded, made);
}

/**
 * Signs many, a result an item, in order. A batch works on a few items at a time, so that its hundredth item
 * does not stand in the queue before somebody else's first.
 */
export async function signMany(
  orders: readonly Order[],
  asking: Asking,
  desk: Desk,
): Promise<readonly (Signed | KeyslotError)[]> {
  const results: (Signed | KeyslotError)[] = new Array(orders.length);
  let next = 0;
  const lane = async () => {
    for (let at = next++; at < orders.length; at = next++) {
      const order = orders[at];
      if (order) results[at] = await signOne(order, { ...asking, item: at }, desk).catch(toKeyslotError);
    }
  };
  await Promise.all(Array.from({ length: Math.min(lanes, orders.length) }, lane));
  return results;
}

const lanes = 8;

export type Signed =
  | {
      readonly kind: 'bytes' | 'offchain' | 'raw-transaction';
      readonly signature: Signature;
      readonly receipt: ReceiptView;
    }
  | {
      readonly kind: 'transaction';
      readonly version: TransactionView['version'];
      readonly signature: Signature;
      readonly signedTransaction: Uint8Array;
      readonly receipt: ReceiptView;
    };

/** What the bytes are, and that the caller has a grant for signing such. */
function read(order: Order, { key: { signer }, raw, refuse }: Asking): Decoded {
  const decoded = decode(order, signer.key, raw);
  refuse(grantFor[decoded.kind]);
  return decoded;
}

const grantFor = {
  transaction: 'sign-transaction',
  offchain: 'sign-message',
  bytes: 'sign-message',
  'raw-transaction': 'raw',
} as const;

async function signed(
  { message, kind }: Decoded,
  { key, call, refuseMeanwhile }: Asking,
  clock: StageClock | undefined,
): Promise<Made> {
  refuseMeanwhile(grantFor[kind]);
  inFlight += 1;
  try {
    clock?.enter('sign');
    const made = await key.sign(message, call.signal);
    clock?.signedBy(made.slot);
    await refuseUnverified(key, message, made);
    return made;
  } finally {
    inFlight -= 1;
  }
}

let inFlight = 0;

/**
 * SIGNATURE_WITHHELD: a token that answers wrongly may be faulty, or may be leaking its key (RFC 8032 §8.2).
 * The only signature in flight is checked on the spot, because waking a thread for it takes as long as the
 * check; as soon as there are others, none of them may hold up the event loop.
 */
async function refuseUnverified(key: BoundSigner, message: Uint8Array, made: Made): Promise<void> {
  const { verifier, signer } = key;
  const { signature, slot, checked } = made;
  const alone = inFlight === 1;
  const verified = alone ? verifier.verifyNow(message, signature) : await verifier.verify(message, signature);
  checked?.(verified);
  if (verified) return;
  const detail = `The signature that slot ${slot} made with ${signer.key.id} does not verify.`;
  throw new KeyslotError('SIGNATURE_WITHHELD', detail);
}

function release(decoded: Decoded, recorded: Recorded): Signed {
  const signature = recorded.signature as Signature;
  const receipt: ReceiptView = { ...recorded.receipt, proof: `/v1/audit/${recorded.receipt.seq}/proof` };
  if (decoded.kind !== 'transaction') return { kind: decoded.kind, signature, receipt };
  const { view, place } = decoded;
  const signedTransaction = spliceSignature(view, place, signature);
  return { kind: 'transaction', version: view.version, signature, signedTransaction, receipt };
}
