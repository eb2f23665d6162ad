import type { TransactionView } from '../solana/transaction.ts';
import type { AddressTableLookupView } from '../solana/transaction-view.ts';
import { keyAt, u32At } from './programs/instruction.ts';

/**
 * What is known of the lookup tables of one transaction, in its order; `undefined` where nothing is. Tables only
 * ever grow, and a closed one never comes back at its address: an address once seen at an index stays there.
 */
export type KnownTables = readonly (KnownTable | undefined)[];

export interface KnownTable {
  readonly addresses: readonly Uint8Array[];
  readonly resolved: 'rpc' | 'listed';
}

/** Where the addresses of a table can be had; `undefined` when it does not know the table. */
export type TableSource = (table: Uint8Array) => Promise<KnownTable | undefined>;

/**
 * Asks the source for each table that the transaction loads from; transactions without any are not kept waiting.
 * A table that is too short for what the transaction loads counts as unknown. Errors of the source pass through.
 */
export async function resolveTables(view: TransactionView, source: TableSource): Promise<KnownTables> {
  if (view.addressTableLookups.length === 0) return [];
  return Promise.all(
    view.addressTableLookups.map(async lookup => {
      const known = await source(lookup.tableKey);
      return known && holds(known, lookup) ? known : undefined;
    }),
  );
}

/** Whether all that the transaction loads from the table is known. */
export function holds(known: KnownTable, lookup: AddressTableLookupView): boolean {
  const isThere = (place: number): boolean => place < known.addresses.length;
  return lookup.writableIndexes.every(isThere) && lookup.readonlyIndexes.every(isThere);
}

// `LookupTableMeta` of solana-address-lookup-table-interface: a number for the state (1 is a table), three slots
// and an authority, padded to 56 bytes; then nothing but addresses, 256 at most.
const header_bytes = 56;
const isTable = 1;
const addresses_max = 256;

/** The addresses in the data of a lookup table's account, or `undefined` when it holds none. */
export function parseLookupTable(data: Uint8Array): readonly Uint8Array[] | undefined {
  const count = (data.length - header_bytes) / 32;
  if (!Number.isInteger(count) || count < 0 || count > addresses_max) return undefined;
  if (u32At(data, 0) !== isTable) return undefined;
  return Array.from({ length: count }, (_, index) => keyAt(data, header_bytes + index * 32));
}
