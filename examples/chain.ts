import {
  AccountRole,
  type Address,
  address,
  type Blockhash,
  getTransactionDecoder,
  type Instruction,
  lamports,
  type ReadonlyUint8Array,
} from '@solana/kit';
import { FailedTransactionMetadata, LiteSVM } from 'litesvm';

/** A Solana in this process, where a program would ask an RPC node. */
export class Chain {
  readonly #runtime = new LiteSVM();

  /** The latest block, as `getLatestBlockhash` answers it. */
  get latest(): { blockhash: Blockhash; lastValidBlockHeight: bigint } {
    return { blockhash: this.#runtime.latestBlockhash(), lastValidBlockHeight: 150n };
  }

  airdrop(to: string): void {
    this.#runtime.airdrop(address(to), lamports(1_000_000_000n));
  }

  /** In SOL. */
  balance(of: string): number {
    return Number(this.#runtime.getBalance(address(of)) ?? 0n) / 1_000_000_000;
  }

  /** Executes a wire transaction, or throws what the runtime has against it. */
  send(wire: ReadonlyUint8Array): void {
    const outcome = this.#runtime.sendTransaction(getTransactionDecoder().decode(wire));
    if (outcome instanceof FailedTransactionMetadata) throw new Error(`Not executed: ${outcome.toString()}`);
  }
}

/** What `getTransferSolInstruction` of @solana-program/system makes. */
export function transfer(from: Address, to: Address, amount_lamports: bigint): Instruction {
  const data = new DataView(new ArrayBuffer(12));
  data.setUint32(0, 2, true); // SystemInstruction::Transfer
  data.setBigUint64(4, amount_lamports, true);
  return {
    programAddress: address('11111111111111111111111111111111'),
    accounts: [
      { address: from, role: AccountRole.WRITABLE_SIGNER },
      { address: to, role: AccountRole.WRITABLE },
    ],
    data: new Uint8Array(data.buffer),
  };
}
