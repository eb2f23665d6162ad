import { isKeyslotError, KeyslotError, toKeyslotError } from '../foundation/errors.ts';
import { limits } from '../foundation/limits.ts';
import type { Log } from '../foundation/log.ts';
import type { KeyRecord } from '../store/key-registry.ts';
import type { OperationName } from '../wire/custodian.ts';
import { type Noted, stageClock } from './call-notes.ts';
import type { Order } from './decode.ts';
import type { Door } from './door.ts';
import type { GrantOperation } from './grants.ts';
import type { Identity } from './identities.ts';
import type { Operations } from './operation.ts';
import { type Signed, signMany, signOne } from './sign.ts';
import type { Asking, Desk } from './signing-desk.ts';
import type { BoundSigner } from './slot-keeper.ts';
import type { StageBoard } from './stages.ts';

/** Signatures: whoever got through the door gets what the desk allows. */
export function signingOperations(
  world: SigningWorld,
): Operations<'sign-message' | 'sign-transaction' | 'sign-batch' | 'sign-bytes'> {
  const { door, desk, stages, log } = world;

  /** A failure that nobody else hears of is logged, and tells the slot that its token has gone. */
  const noticed = (record: KeyRecord, error: KeyslotError): void => {
    if (error.entry.status >= 500) log.error({ key: record.id, err: error }, 'a signature was not made');
    door.noticed(record, error);
  };
  const enter = <T>(
    operation: OperationName,
    { key: id, raw = false }: { key: string; raw?: boolean | undefined },
    operations: readonly GrantOperation[],
    { call, identity }: { call: Noted; identity: Identity },
    work: (asking: Asking) => Promise<T>,
  ): Promise<T> => {
    const entry = { id, identity, call, operations };
    return door.signing(entry, (record, key) =>
      work({
        operation,
        call,
        identity,
        record,
        key,
        raw,
        refuse: kind => door.refuseKind(record, identity, kind),
        refuseMeanwhile: kind => door.refuseMeanwhile(entry, record, kind),
        clock: () => stageClock(stages, call.notes, { operation, slot: record.slot }),
      }),
    );
  };
  const one = async (asking: Asking, order: Order): Promise<Signed> => {
    try {
      return await signOne(order, asking, desk);
    } catch (thrown) {
      const error = toKeyslotError(thrown);
      noticed(asking.record, error);
      throw error;
    }
  };
  const many = async (asking: Asking, orders: readonly Order[]) => {
    const results = await signMany(orders, asking, desk);
    for (const result of results) if (isKeyslotError(result)) noticed(asking.record, result);
    return results;
  };

  return {
    'sign-message': ({ input, bytes }, call, identity) => {
      const takes = input.raw ? (['raw'] as const) : (['sign-message'] as const);
      return enter('sign-message', input, takes, { call, identity }, async asking => {
        const signed = await one(asking, order('message', bytes?.[0]));
        const output = { ...signedBy(asking.key), kind: messageKind(signed), receipt: signed.receipt };
        return { output, bytes: released(signed) };
      });
    },
    'sign-transaction': ({ input, bytes }, call, identity) =>
      enter('sign-transaction', input, ['sign-transaction'], { call, identity }, async asking => {
        const signed = await one(asking, order('transaction', bytes?.[0]));
        const output = { ...signedBy(asking.key), version: version(signed), receipt: signed.receipt };
        return { output, bytes: released(signed) };
      }),
    'sign-batch': async ({ input, bytes }, call, identity) => {
      if (input.items.length > limits.batch_items_max || input.items.length !== bytes?.length)
        throw tooLarge();
      const orders = input.items.map((kind, at) => order(kind, bytes[at]));
      return enter('sign-batch', input, either, { call, identity }, async asking => {
        const results = await many(asking, orders);
        return {
          output: { ...signedBy(asking.key), results: results.map(batchResult) },
          bytes: results.flatMap(result => (isKeyslotError(result) ? [] : released(result))),
        };
      });
    },
    'sign-bytes': async ({ input, bytes = [] }, call, identity) => {
      if (bytes.length > limits.batch_items_max) throw tooLarge();
      const orders = bytes.map(each => order('bytes', each));
      return enter('sign-bytes', input, either, { call, identity }, async asking => {
        const results = await many(asking, orders);
        return {
          output: { ...signedBy(asking.key), results: results.map(bytesResult) },
          bytes: results.flatMap(result => (isKeyslotError(result) ? [] : [result.signature])),
        };
      });
    },
  };
}

export interface SigningWorld {
  readonly door: Door;
  readonly desk: Desk;
  /** Who is told where the time of signatures goes. */
  readonly stages: StageBoard;
  readonly log: Log;
}

const either = ['sign-transaction', 'sign-message'] as const;

/** A copy: whoever sent the bytes may go on using their buffer, and what is judged is what is signed. */
const order = (kind: Order['kind'], bytes: Uint8Array = new Uint8Array()): Order => ({
  kind,
  bytes: Uint8Array.from(bytes),
});

const tooLarge = () =>
  new KeyslotError('BATCH_TOO_LARGE', `A batch has at most ${limits.batch_items_max} items.`);

const signedBy = ({ address, signer }: BoundSigner) => ({ publicKey: address, custody: signer.key.custody });

const released = (signed: Signed): Uint8Array[] =>
  signed.kind === 'transaction' ? [signed.signature, signed.signedTransaction] : [signed.signature];

function batchResult(result: Signed | KeyslotError) {
  if (isKeyslotError(result)) return failure(result);
  const { receipt } = result;
  return result.kind === 'transaction'
    ? { version: result.version, receipt }
    : { kind: result.kind, receipt };
}

const bytesResult = (result: Signed | KeyslotError) => {
  if (isKeyslotError(result)) return failure(result);
  if (result.kind === 'raw-transaction') throw new TypeError('Bytes were signed under the raw right.');
  return { kind: result.kind, receipt: result.receipt };
};

const failure = ({ code, message, violations }: KeyslotError) => ({
  code,
  detail: message,
  ...(violations ? { violations: [...violations] } : {}),
});

function messageKind(signed: Signed) {
  if (signed.kind === 'transaction') throw new TypeError('A message was signed as a transaction.');
  return signed.kind;
}

function version(signed: Signed) {
  if (signed.kind !== 'transaction') throw new TypeError('A transaction was signed as a message.');
  return signed.version;
}
