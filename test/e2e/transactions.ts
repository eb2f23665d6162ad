import { createPrivateKey, generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto';
import {
  AccountRole,
  type Address,
  address,
  appendTransactionMessageInstructions,
  type Blockhash,
  blockhash,
  compileTransaction,
  createTransactionMessage,
  getTransactionDecoder,
  getTransactionEncoder,
  lamports,
  setTransactionMessageConfig,
  setTransactionMessageFeePayer,
  setTransactionMessageLifetimeUsingBlockhash,
} from '@solana/kit';
import { FailedTransactionMetadata, LiteSVM } from 'litesvm';
import { decodeBase58, encodeBase58 } from '../../src/foundation/base58.ts';
import { createVerifier } from '../../src/foundation/ed25519.ts';

/** Transfers for a key of the appliance and for signers whose keys the test has, and a Solana to run them. */

export type Version = 'legacy' | 'v0' | 'v1';
export const versions: readonly Version[] = ['legacy', 'v0', 'v1'];

/** Somebody who signs outside the appliance. */
export interface Other {
  readonly address: string;
  readonly seed: Buffer;
  sign(message: Uint8Array): Buffer;
}

export function other(): Other {
  const { privateKey } = generateKeyPairSync('ed25519');
  return otherOf(privateKey);
}

function otherOf(privateKey: KeyObject): Other {
  const { d = '', x = '' } = privateKey.export({ format: 'jwk' });
  return {
    address: encodeBase58(Buffer.from(x, 'base64url')),
    seed: Buffer.from(d, 'base64url'),
    sign: message => sign(null, message, privateKey),
  };
}

export const otherFromSeed = (seed: Buffer): Other =>
  otherOf(
    createPrivateKey({
      key: Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed]),
      format: 'der',
      type: 'pkcs8',
    }),
  );

/** An unsigned wire transaction in which each signer, the fee payer first, sends 1,000,000 lamports to `to`. */
export function transfers(
  version: Version,
  signers: readonly string[],
  to: string = other().address,
  recent: Blockhash = blockhash(other().address),
): Buffer {
  const [payer = ''] = signers;
  const empty = createTransactionMessage({
    version: ({ legacy: 'legacy', v0: 0, v1: 1 } as const)[version] as 0,
  });
  const paid = setTransactionMessageFeePayer(address(payer), empty);
  const timed = setTransactionMessageLifetimeUsingBlockhash(
    { blockhash: recent, lastValidBlockHeight: 10n },
    paid,
  );
  const instructions = signers.map(signer => transfer(address(signer), address(to)));
  // A v1 transaction that sets no limits has none of anything.
  const limited =
    version === 'v1'
      ? setTransactionMessageConfig(
          { computeUnitLimit: 20_000, loadedAccountsDataSizeLimit: 100_000 },
          timed as never,
        )
      : timed;
  const message = appendTransactionMessageInstructions(instructions, limited as typeof timed);
  return Buffer.from(getTransactionEncoder().encode(compileTransaction(message)));
}

const transfer_lamports = 1_000_000n;

function transfer(from: Address, to: Address) {
  const data = Buffer.alloc(12);
  data.writeUInt32LE(2, 0); // SystemInstruction::Transfer
  data.writeBigUInt64LE(transfer_lamports, 4);
  return {
    programAddress: address('11111111111111111111111111111111'),
    accounts: [
      { address: from, role: AccountRole.WRITABLE_SIGNER },
      { address: to, role: AccountRole.WRITABLE },
    ],
    data: new Uint8Array(data),
  };
}

/** The message of a wire transaction and the signatures in it, by address, as kit reads them. */
export function readWire(wire: Uint8Array): {
  message: Uint8Array;
  signatures: Record<string, Uint8Array | null>;
} {
  const { messageBytes, signatures } = getTransactionDecoder().decode(wire);
  return {
    message: Uint8Array.from(messageBytes),
    signatures: { ...signatures } as Record<string, Uint8Array | null>,
  };
}

export function signedBy(wire: Uint8Array, signer: Other): Buffer {
  const transaction = getTransactionDecoder().decode(wire);
  const signature = signer.sign(Uint8Array.from(transaction.messageBytes));
  const signatures = { ...transaction.signatures, [signer.address]: new Uint8Array(signature) };
  return Buffer.from(getTransactionEncoder().encode({ ...transaction, signatures } as typeof transaction));
}

/** Whether a base58 signature is one of this address over these bytes. */
export async function isSignature(publicKey: string, message: Uint8Array, signature = ''): Promise<boolean> {
  const key = decodeBase58(publicKey);
  const bytes = decodeBase58(signature);
  if (!key || bytes?.length !== 64) return false;
  const x = Buffer.from(key).toString('base64url');
  const openssl = verify(null, message, { key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' }, bytes);
  return openssl && (await createVerifier(key).verify(message, bytes));
}

/** Whether a Solana runtime executes the transaction and the money arrives. */
export class Chain {
  readonly #runtime = new LiteSVM();

  get blockhash(): Blockhash {
    return this.#runtime.latestBlockhash();
  }

  fund(addresses: readonly string[]): void {
    for (const each of addresses) this.#runtime.airdrop(address(each), lamports(1_000_000_000n));
  }

  executes(wire: Uint8Array, to: string): boolean {
    const outcome = this.#runtime.sendTransaction(getTransactionDecoder().decode(wire));
    return (
      !(outcome instanceof FailedTransactionMetadata) && (this.#runtime.getBalance(address(to)) ?? 0n) > 0n
    );
  }
}
