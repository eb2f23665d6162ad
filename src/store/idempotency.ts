import type { Row, Store } from './store.ts';

/** Replies that a repeat of their request gets again, until they expire. */
export class IdempotencyRows {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** Nothing when it has expired. */
  async get(id: Uint8Array, at_ms: number): Promise<IdempotencyRow | undefined> {
    const [row] = this.#store.all('SELECT * FROM idempotency WHERE id = ? AND expires_ms > ?', id, at_ms);
    return row && rowOf(row);
  }

  /** All or none of them, in place of what stood there under the same ids. */
  async put(rows: readonly IdempotencyRow[]): Promise<void> {
    this.#store.transaction(() => {
      for (const row of rows) this.#write(row);
    });
  }

  /** Removes what has expired, at most so many; how many it were. */
  async expire(at_ms: number, max: number): Promise<number> {
    return this.#store.change(
      'DELETE FROM idempotency WHERE id IN (SELECT id FROM idempotency WHERE expires_ms <= ? LIMIT ?)',
      at_ms,
      max,
    );
  }

  #write(row: IdempotencyRow): void {
    this.#store.run(
      `INSERT OR REPLACE INTO idempotency (id, digest, output, bytes, created_ms, expires_ms)
       VALUES (?, ?, ?, ?, ?, ?)`,
      row.id,
      row.digest,
      JSON.stringify(row.output),
      joined(row.bytes),
      row.created_ms,
      row.expires_ms,
    );
  }
}

export interface IdempotencyRow {
  readonly id: Uint8Array;
  /** Of the request: a repeat has the same. */
  readonly digest: Uint8Array;
  /** JSON. */
  readonly output: unknown;
  readonly bytes: readonly Uint8Array[];
  readonly created_ms: number;
  readonly expires_ms: number;
}

const rowOf = (row: Row): IdempotencyRow => ({
  id: blobOf(row.id),
  digest: blobOf(row.digest),
  output: JSON.parse(String(row.output)) as unknown,
  bytes: parted(blobOf(row.bytes)),
  created_ms: Number(row.created_ms),
  expires_ms: Number(row.expires_ms),
});

const blobOf = (value: unknown): Uint8Array => (value instanceof Uint8Array ? value : new Uint8Array());

/** { u32 length, little endian · bytes }* */
function joined(parts: readonly Uint8Array[]): Buffer {
  return Buffer.concat(
    parts.flatMap(part => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(part.length);
      return [length, part];
    }),
  );
}

function parted(joinedBytes: Uint8Array): readonly Uint8Array[] {
  const bytes = Buffer.from(joinedBytes);
  const parts: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = at + 4 + bytes.readUInt32LE(at);
    parts.push(bytes.subarray(at + 4, end));
    at = end;
  }
  return parts;
}
