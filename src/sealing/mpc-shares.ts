import { isKeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import type { MpcEnvelope } from './page-envelopes.ts';
import { openSealedText, type SealedText, type SealedTextForm, sealText } from './sealed-text.ts';
import { secretKey_bytes } from './secret-key.ts';
import { fromBase64Text, toBase64Text } from './secret-text.ts';
import type { Share, ShareId } from './shamir.ts';

export type NodeSecrets = readonly [Secret | undefined, Secret | undefined, Secret | undefined];

/** `damaged` was seen without its secret; `shut` has a secret and does not open to a share with it. */
export type ShareState = 'open' | 'secret missing' | 'damaged' | 'shut';

export interface OpenedShares extends Disposable {
  /** One for each share that was asked for, in that order. */
  readonly states: readonly ShareState[];
  /** Those that opened; they end with this. */
  readonly shares: readonly Share[];
}

/** Opens these shares at once. A share that does not open is a state and no error. REQUEST_ABORTED, SLOT_BUSY. */
export async function openEach(
  envelope: MpcEnvelope,
  secrets: NodeSecrets,
  ids: readonly ShareId[],
  signal: AbortSignal | undefined,
): Promise<OpenedShares> {
  const results = await allSettled(
    ids.map(id => openOne(id, envelope[id - 1], secrets[id - 1], signal)),
    result => isShare(result) && result.bytes[Symbol.dispose](),
  );
  const shares = results.filter(isShare);
  return {
    states: results.map(result => (isShare(result) ? 'open' : result)),
    shares,
    [Symbol.dispose]: () => disposeAll(shares),
  };
}

/** Seals the shares at once, each under the secret of its node, and disposes them. */
export async function sealEach(
  shares: readonly Share[],
  secrets: NodeSecrets,
  form: SealedTextForm,
  signal: AbortSignal | undefined,
): Promise<readonly { id: ShareId; wrapped: string }[]> {
  try {
    return await allSettled(shares.map(share => sealOne(share, secrets[share.id - 1], form, signal)));
  } finally {
    disposeAll(shares);
  }
}

type Opened = Share | Exclude<ShareState, 'open'>;

const isShare = (opened: Opened): opened is Share => typeof opened === 'object';

async function openOne(
  id: ShareId,
  sealed: SealedText | undefined,
  secret: Secret | undefined,
  signal: AbortSignal | undefined,
): Promise<Opened> {
  if (secret === undefined) return 'secret missing';
  if (sealed === undefined) return 'damaged';
  try {
    using text = await openSealedText(sealed, secret, signal);
    const bytes = fromBase64Text(text);
    if (bytes?.length === secretKey_bytes) return { id, bytes };
    bytes?.[Symbol.dispose]();
    return 'shut';
  } catch (error) {
    if (isKeyslotError(error) && error.code === 'KEY_FILE_TAMPERED') return 'shut';
    throw error;
  }
}

async function sealOne(
  { id, bytes }: Share,
  secret: Secret | undefined,
  form: SealedTextForm,
  signal: AbortSignal | undefined,
): Promise<{ id: ShareId; wrapped: string }> {
  if (secret === undefined) throw new RangeError(`Share ${id} has no node secret to be sealed under.`);
  using text = toBase64Text(bytes);
  return { id, wrapped: await sealText(text, secret, form, signal) };
}

function disposeAll(shares: readonly Share[]): void {
  for (const share of shares) share.bytes[Symbol.dispose]();
}

/** Waits for all, also when one fails, so that nothing still works on secrets that were wiped; `drop`s the rest then. */
async function allSettled<T>(works: readonly Promise<T>[], drop: (result: T) => void = () => undefined) {
  const settled = await Promise.allSettled(works);
  const results = settled.flatMap(each => (each.status === 'fulfilled' ? [each.value] : []));
  const failed = settled.find(each => each.status === 'rejected');
  if (failed === undefined) return results;
  for (const result of results) drop(result);
  throw failed.reason;
}
