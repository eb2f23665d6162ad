import { encodeBase58 } from '../foundation/base58.ts';
import { decodeBase64 } from '../foundation/base64.ts';
import type { Log } from '../foundation/log.ts';
import {
  type KnownTable,
  type KnownTables,
  parseLookupTable,
  resolveTables,
  type TableSource,
} from '../policy/lookup-tables.ts';
import type { TransactionView } from '../solana/transaction.ts';

/**
 * Sees through address lookup tables: those that a policy lists, by the list; others by asking a Solana node,
 * where one is configured. What was read of a table is kept, because addresses are only ever appended to it. A
 * table that could not be read stays unresolved, which policies refuse unless they say otherwise.
 */
export class LookupTables {
  readonly #rpcUrl: string | undefined;
  readonly #log: Log;
  /** By the table's address; the oldest is forgotten first. */
  readonly #read = new Map<string, KnownTable>();

  constructor(rpcUrl: string | undefined, log: Log) {
    this.#rpcUrl = rpcUrl;
    this.#log = log;
  }

  resolve(
    view: TransactionView,
    listed: (table: Uint8Array) => readonly Uint8Array[] | undefined,
    signal?: AbortSignal,
  ): Promise<KnownTables> {
    const highest = new Map(
      view.addressTableLookups.map(({ tableKey, writableIndexes, readonlyIndexes }) => [
        encodeBase58(tableKey),
        Math.max(-1, ...writableIndexes, ...readonlyIndexes),
      ]),
    );
    const source: TableSource = async table => {
      const addresses = listed(table);
      if (addresses) return { addresses, resolved: 'listed' };
      const address = encodeBase58(table);
      const known = this.#read.get(address);
      // A table that has grown meanwhile is read again.
      if (known && known.addresses.length > (highest.get(address) ?? 0)) return known;
      return this.#ask(address, signal);
    };
    return resolveTables(view, source);
  }

  async #ask(table: string, signal: AbortSignal | undefined): Promise<KnownTable | undefined> {
    if (this.#rpcUrl === undefined) return undefined;
    const bound = AbortSignal.any([AbortSignal.timeout(rpc_ms), ...(signal ? [signal] : [])]);
    try {
      const addresses = await tableAt(this.#rpcUrl, table, bound);
      if (!addresses) return undefined;
      const known = { addresses, resolved: 'rpc' } as const;
      if (this.#read.size >= tables_max) this.#read.delete(this.#read.keys().next().value ?? '');
      this.#read.set(table, known);
      return known;
    } catch (thrown) {
      // Not told to the caller: what a policy makes of an unresolved table is the answer.
      this.#log.warn({ table, err: thrown }, 'a lookup table could not be read');
      return undefined;
    }
  }
}

/** The addresses of a table as the cluster has finalised them, or nothing when there is no such table. */
async function tableAt(
  rpcUrl: string,
  table: string,
  signal: AbortSignal,
): Promise<readonly Uint8Array[] | undefined> {
  const params = [table, { encoding: 'base64', commitment: 'finalized' }];
  const response = await fetch(rpcUrl, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'getAccountInfo', params }),
    redirect: 'error',
    signal,
  });
  if (!response.ok) throw new Error(`The node answered ${response.status}.`);
  const text = await response.text();
  if (text.length > answer_bytes_max) throw new Error('The node answered too much.');
  const { result } = JSON.parse(text) as { result?: { value?: { owner?: unknown; data?: unknown } | null } };
  const value = result?.value;
  if (value?.owner !== lookupTableProgram || !Array.isArray(value.data)) return undefined;
  const data = decodeBase64(String(value.data[0]));
  return data && parseLookupTable(data);
}

const lookupTableProgram = 'AddressLookupTab1e1111111111111111111111111';
const tables_max = 1_000;
const rpc_ms = 5_000;
const answer_bytes_max = 64 * 1024;
