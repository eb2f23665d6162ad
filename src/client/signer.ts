import { limits } from '../foundation/limits.ts';
import type { BatchItem, KeyslotClient } from './client.ts';
import { isKeyslotClientError, KeyslotClientError } from './errors.ts';
import type {
  Address,
  ReadonlyBytes,
  SignableMessage,
  SignableTransaction,
  SignatureBytes,
  SignatureDictionary,
} from './kit-shapes.ts';
import { invalid } from './transport.ts';
import { verifierOf } from './verifier.ts';
import { unsignedWire } from './wire-form.ts';

export interface SigningConfig {
  readonly abortSignal?: AbortSignal;
}

/**
 * Kit's `TransactionPartialSigner` and `MessagePartialSigner`, and the signer of Solana Keychain, in one frozen
 * object. It never sends a transaction and never changes one.
 */
export interface KeyslotSigner<A extends string = string> {
  readonly address: Address<A>;
  /** Whether the key could sign now: it is active and its slot is open. False too when nobody answers. */
  isAvailable(): Promise<boolean>;
  signTransactions(
    transactions: readonly SignableTransaction[],
    config?: SigningConfig,
  ): Promise<readonly SignatureDictionary[]>;
  signMessages(
    messages: readonly SignableMessage[],
    config?: SigningConfig,
  ): Promise<readonly SignatureDictionary[]>;
}

/**
 * A signer of one key. What it is given goes to the appliance in one request a hundred; each signature that
 * comes back is checked here against the bytes that were given and the address, and only then handed out: all of
 * a call, or none. An item that the appliance refuses rejects the call with its code and `index`.
 *
 * Fails with KEY_UNKNOWN, CLIENT_ADDRESS_MISMATCH when the key has another address than the given one; its
 * calls with CLIENT_SIGNATURE_INVALID and whatever the appliance answers.
 *
 * @example
 * const signer = await createKeyslotSigner({ client, keyId: 'treasury' });
 * const message = setTransactionMessageFeePayerSigner(signer, createTransactionMessage({ version: 0 }));
 */
export async function createKeyslotSigner<A extends string = string>(options: {
  readonly client: Pick<KeyslotClient, 'keys' | 'slots' | 'signAll'>;
  readonly keyId: string;
  /** The address that the key must have. */
  readonly address?: A | Address<A> | undefined;
  readonly signal?: AbortSignal | undefined;
}): Promise<KeyslotSigner<A>> {
  const { client, keyId, signal } = options;
  const { publicKey } = await client.keys.show(keyId, { signal });
  if (options.address !== undefined && options.address !== publicKey) {
    throw new KeyslotClientError('CLIENT_ADDRESS_MISMATCH', `The address of ${keyId} is ${publicKey}.`);
  }
  const verify = await verifierOf(publicKey);
  if (!verify) throw invalid(`The appliance gives no address for ${keyId}.`);
  const address = publicKey as Address<A>;

  /** Each item with the bytes that its signature has to be of. */
  const signAll = async (items: readonly Item[], config: SigningConfig = {}) => {
    const signed: SignatureDictionary[] = [];
    for (const part of parts(items)) {
      const { results } = await indexedFrom(signed.length, () =>
        client.signAll(
          keyId,
          part.map(({ item }) => item),
          { signal: config.abortSignal },
        ),
      );
      const checked = part.map(async ({ message }, at) => {
        const signature = Uint8Array.from(results[at]?.signature ?? []);
        if (await verify(message, signature)) return dictionary(address, signature);
        throw new KeyslotClientError(
          'CLIENT_SIGNATURE_INVALID',
          `What came back for item ${signed.length + at} is not a signature of ${address} over it.`,
          { index: signed.length + at },
        );
      });
      signed.push(...(await Promise.all(checked)));
    }
    return Object.freeze(signed);
  };

  return Object.freeze({
    address,
    isAvailable: async () => {
      try {
        const { state, slot } = await client.keys.show(keyId);
        return state === 'active' && ['open', 'degraded'].includes((await client.slots.show(slot)).state);
      } catch (error) {
        if (isKeyslotClientError(error)) return false;
        throw error;
      }
    },
    signTransactions: async (
      transactions: readonly SignableTransaction[],
      config?: SigningConfig,
    ): Promise<readonly SignatureDictionary[]> =>
      signAll(
        transactions.map(({ messageBytes }) => {
          const message = copyOf(messageBytes);
          return { message, item: { transaction: unsignedWire(message) } };
        }),
        config,
      ),
    signMessages: async (
      messages: readonly SignableMessage[],
      config?: SigningConfig,
    ): Promise<readonly SignatureDictionary[]> =>
      signAll(
        messages.map(({ content }) => {
          const message = copyOf(content);
          return { message, item: { message } };
        }),
        config,
      ),
  });
}

interface Item {
  /** A copy: what is checked in the end is what was sent, whoever changes the original meanwhile. */
  readonly message: Uint8Array<ArrayBuffer>;
  readonly item: BatchItem;
}

const copyOf = (bytes: ReadonlyBytes): Uint8Array<ArrayBuffer> => Uint8Array.from(bytes);

/** As many items a request as the appliance takes, by their number and by their bytes. */
function* parts(items: readonly Item[]): Generator<readonly Item[]> {
  let part: Item[] = [];
  let part_bytes = 0;
  for (const each of items) {
    const bytes = 'message' in each.item ? each.item.message : each.item.transaction;
    const item_bytes = Math.ceil(bytes.length / 3) * 4 + itemJson_bytes;
    const full = part.length === limits.batch_items_max || part_bytes + item_bytes > partBody_bytes_max;
    if (full && part.length > 0) {
      yield part;
      part = [];
      part_bytes = 0;
    }
    part.push(each);
    part_bytes += item_bytes;
  }
  if (part.length > 0) yield part;
}

const itemJson_bytes = 32;
const partBody_bytes_max = limits.batchBody_bytes_max - 64;

/** An item is counted in its request; whoever called counts from the beginning. */
async function indexedFrom<T>(offset: number, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!isKeyslotClientError(error) || error.index === undefined || offset === 0) throw error;
    throw new KeyslotClientError(error.code, error.detail, { ...error, index: offset + error.index });
  }
}

const dictionary = (address: Address, signature: Uint8Array): SignatureDictionary =>
  Object.freeze({ [address]: signature as SignatureBytes });
