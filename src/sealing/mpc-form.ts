import type { KeyId } from '../custody/ids.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import type { SealedKey } from './key-form.ts';
import { type NodeSecrets, openEach, type ShareState, sealEach } from './mpc-shares.ts';
import { type MpcEnvelope, readMpcFile } from './page-envelopes.ts';
import { envelope, fileOf, now, type PageForm } from './page-forms.ts';
import type { SealedTextForm } from './sealed-text.ts';
import { provesItself, secretKeyOf, seedOf } from './secret-key.ts';
import { joinShares, type Share, type ShareId, shareIds, splitSecret } from './shamir.ts';

export interface MpcFormSettings {
  /** The secrets of nodes 1, 2 and 3. Any two open a key; making one takes all three. */
  readonly nodeSecrets: NodeSecrets;
  readonly writes: SealedTextForm;
  /**
   * Hears of shares that did not open although their node secret is there, or that disagree with the other two,
   * whenever a key could be opened all the same. A node secret that is missing is no news and is not told.
   */
  onOddShare(key: KeyId, shares: readonly ShareId[]): void;
}

export interface MpcForm extends PageForm {
  /**
   * For each node, whether its share in this file opens with its node secret: a way to find out which node
   * secrets are right. False also for a secret that is missing and a share that is damaged. KEY_FILE_MALFORMED.
   */
  openShares(file: Uint8Array, signal?: AbortSignal): Promise<readonly boolean[]>;
}

/**
 * `<key id>.mpc.json`: the secret key in three shares, each sealed under the secret of its node; any two give it
 * back. Sealing fails with NODE_SECRET_MISSING unless all three secrets are there.
 */
export function mpcForm({ nodeSecrets, writes, onOddShare }: MpcFormSettings): MpcForm {
  const [first, second, third] = nodeSecrets;
  const secrets: NodeSecrets = [first?.copy(), second?.copy(), third?.copy()];
  return {
    suffix: '.mpc.json',
    read: (key, file) => new MpcKey(key, readMpcFile(file, fileOf(key)), secrets, onOddShare),
    seal: async (key, publicKey, seed, signal) => {
      const missing = shareIds.filter(id => secrets[id - 1] === undefined);
      if (missing.length > 0) throw secretsMissing(key, missing);
      using secretKey = secretKeyOf(seed, publicKey);
      const shares = await sealEach(splitSecret(secretKey), secrets, writes, signal);
      return envelope({ v: 1, threshold: 2, shares, createdAt: now() });
    },
    openShares: async (file, signal) => {
      using opened = await openEach(readMpcFile(file, 'The key file'), secrets, shareIds, signal);
      return opened.states.map(state => state === 'open');
    },
    [Symbol.dispose]: () => {
      for (const secret of secrets) secret?.[Symbol.dispose]();
    },
  };
}

/**
 * The first opening looks at all three shares. Once it is known which of them are good, later ones open two:
 * that is one key derivation less for each signature.
 */
class MpcKey implements SealedKey {
  readonly #key: KeyId;
  readonly #envelope: MpcEnvelope;
  readonly #secrets: NodeSecrets;
  readonly #onOddShare: MpcFormSettings['onOddShare'];
  #good: readonly ShareId[] = [];

  constructor(
    key: KeyId,
    sealed: MpcEnvelope,
    secrets: NodeSecrets,
    onOddShare: MpcFormSettings['onOddShare'],
  ) {
    this.#key = key;
    this.#envelope = sealed;
    this.#secrets = secrets;
    this.#onOddShare = onOddShare;
  }

  async unseal(signal?: AbortSignal): Promise<Secret> {
    return (await this.#unsealGood(signal)) ?? (await this.#unsealThoroughly(signal));
  }

  async #unsealGood(signal: AbortSignal | undefined): Promise<Secret | undefined> {
    if (this.#good.length < 2) return undefined;
    using opened = await openEach(this.#envelope, this.#secrets, this.#good.slice(0, 2), signal);
    using secretKey = agreed(opened.shares)?.secretKey;
    return secretKey && seedOf(secretKey, fileOf(this.#key));
  }

  async #unsealThoroughly(signal: AbortSignal | undefined): Promise<Secret> {
    using opened = await openEach(this.#envelope, this.#secrets, shareIds, signal);
    if (opened.shares.length < 2) throw insufficient(this.#key, opened.states);
    const found = agreed(opened.shares);
    if (found === undefined) throw disagreeing(this.#key, opened.shares);
    using secretKey = found.secretKey;
    this.#good = found.good;
    const odd = shareIds.filter(id => !found.good.includes(id) && this.#secrets[id - 1] !== undefined);
    if (odd.length > 0) this.#onOddShare(this.#key, odd);
    return seedOf(secretKey, fileOf(this.#key));
  }
}

interface Agreed {
  readonly secretKey: Secret;
  readonly good: readonly ShareId[];
}

/**
 * The secret key that pairs of shares give and that proves itself, and the shares that give it. None when no
 * pair does, or when two give different keys: which of them is meant is not ours to guess.
 */
function agreed(shares: readonly Share[]): Agreed | undefined {
  let found: Agreed | undefined;
  for (const pair of pairsOf(shares)) {
    const secretKey = joinShares(...pair);
    const ids = pair.map(share => share.id);
    if (!provesItself(secretKey)) {
      secretKey[Symbol.dispose]();
    } else if (found === undefined) {
      found = { secretKey, good: ids };
    } else {
      const same = found.secretKey.equals(secretKey);
      secretKey[Symbol.dispose]();
      if (!same) {
        found.secretKey[Symbol.dispose]();
        return undefined;
      }
      found = { ...found, good: shareIds.filter(id => found?.good.includes(id) || ids.includes(id)) };
    }
  }
  return found;
}

const pairsOf = (shares: readonly Share[]): readonly [Share, Share][] =>
  shares.flatMap((first, at) => shares.slice(at + 1).map((second): [Share, Share] => [first, second]));

const secretsMissing = (key: KeyId, nodes: readonly ShareId[]) =>
  new KeyslotError(
    'NODE_SECRET_MISSING',
    `Key ${key} cannot be sealed without node secret ${nodes.join(', ')}.`,
  );

function insufficient(key: KeyId, states: readonly ShareState[]): KeyslotError {
  const reasons = states.flatMap((state, at) => (state === 'open' ? [] : [reasonOf(state, at + 1)]));
  return new KeyslotError('SHARES_INSUFFICIENT', `Of key ${key}, ${reasons.join(', ')}.`);
}

function reasonOf(state: Exclude<ShareState, 'open'>, id: number): string {
  switch (state) {
    case 'secret missing':
      return `the secret of node ${id} is missing`;
    case 'damaged':
      return `share ${id} is missing or damaged`;
    case 'shut':
      return `share ${id} does not open with the secret of its node`;
  }
}

const disagreeing = (key: KeyId, shares: readonly Share[]) =>
  new KeyslotError(
    'KEY_FILE_TAMPERED',
    `Shares ${shares.map(share => share.id).join(', ')} of key ${key} open, but do not make up one key.`,
  );
