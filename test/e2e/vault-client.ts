import { readFileSync } from 'node:fs';
import { VaultSigner } from '@solana/keychain-vault';
import { getTransactionDecoder } from '@solana/kit';

/**
 * The client that Solana programs use with Vault, in a process of its own: it trusts the CA that
 * NODE_EXTRA_CA_CERTS names, which Node reads at its start. The job comes on standard input, since it holds a
 * token; what came of it goes to standard output.
 */
export interface Job {
  readonly vaultAddr: string;
  readonly vaultToken: string;
  readonly keyName: string;
  readonly publicKey: string;
  /** In base64: wire transactions, and messages. */
  readonly transactions: readonly string[];
  readonly messages: readonly string[];
}

/** Signatures in base64, in the order of the job; or what the client threw. */
export interface Done {
  readonly available: boolean;
  readonly transactions?: readonly string[];
  readonly messages?: readonly string[];
  readonly failure?: string;
}

if (process.argv[1] === import.meta.filename) {
  const { transactions, messages, ...config } = JSON.parse(readFileSync(0, 'utf8')) as Job;
  process.stdout.write(JSON.stringify(await work(new VaultSigner(config), transactions, messages)));
}

async function work(
  signer: VaultSigner,
  transactions: readonly string[],
  messages: readonly string[],
): Promise<Done> {
  const available = await signer.isAvailable();
  try {
    const wires = transactions.map(text => getTransactionDecoder().decode(Buffer.from(text, 'base64')));
    const contents = messages.map(text => ({ content: Buffer.from(text, 'base64'), signatures: {} }));
    // Its types are those of an earlier @solana/kit.
    const ofTransactions = await signer.signTransactions(wires as never);
    const ofMessages = await signer.signMessages(contents as never);
    const own = (dictionaries: readonly object[]) =>
      dictionaries.map(each => {
        const bytes = (each as Record<string, Uint8Array>)[signer.address] ?? new Uint8Array();
        return Buffer.from(bytes).toString('base64');
      });
    return { available, transactions: own(ofTransactions), messages: own(ofMessages) };
  } catch (error) {
    return { available, failure: String((error as { context?: { message?: string } }).context?.message) };
  }
}
