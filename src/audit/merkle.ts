import { hash } from 'node:crypto';

/**
 * The Merkle tree of RFC 6962 §2.1 over the lines of the log. Every hash that a root or a proof is made of is
 * that of a perfect subtree, so a proof is told by whoever can name the node at (level, index): a tree in
 * memory, or one that is put together from the segments of a log.
 */
export interface MerkleNodes {
  /** The hash of leaves [index × 2^level, (index + 1) × 2^level), all of which are there. */
  node(level: number, index: number): Buffer;
}

export const hash_bytes = 32;

/** The root of a tree without leaves. */
export const emptyRoot: Buffer = hash('sha256', '', 'buffer');

/** SHA-256(0x00 ‖ line): the line without its line feed. */
export function leafHash(line: string | Uint8Array): Buffer {
  const bytes = typeof line === 'string' ? Buffer.from(line, 'utf8') : line;
  const prefixed = Buffer.allocUnsafe(bytes.length + 1);
  prefixed[0] = 0x00;
  prefixed.set(bytes, 1);
  return hash('sha256', prefixed, 'buffer');
}

const pair = Buffer.alloc(1 + 2 * hash_bytes);
pair[0] = 0x01;

/** SHA-256(0x01 ‖ left ‖ right) */
export function nodeHash(left: Uint8Array, right: Uint8Array): Buffer {
  pair.set(left, 1);
  pair.set(right, 1 + hash_bytes);
  return hash('sha256', pair, 'buffer');
}

/** A tree that keeps every complete node: 64 bytes a leaf. Appending costs one hash on average. */
export class MerkleTree implements MerkleNodes {
  /** One buffer of hashes a level, the leaves first. */
  readonly #levels: Buffer[] = [];
  #size = 0;

  get size(): number {
    return this.#size;
  }

  append(leaf: Uint8Array): void {
    let index = this.#size;
    this.#size += 1;
    let level = 0;
    let node = leaf;
    this.#put(0, index, node);
    // Whenever a right child comes, its parent is complete.
    for (; index % 2 === 1; index = (index - 1) / 2) {
      node = nodeHash(this.node(level, index - 1), node);
      level += 1;
      this.#put(level, (index - 1) / 2, node);
    }
  }

  node(level: number, index: number): Buffer {
    const hashes = this.#levels[level];
    const at = index * hash_bytes;
    if (index < 0 || !hashes || (index + 1) * 2 ** level > this.#size || at + hash_bytes > hashes.length) {
      throw new RangeError(`There is no node ${index} at level ${level} of a tree of ${this.#size} leaves.`);
    }
    return hashes.subarray(at, at + hash_bytes);
  }

  root(): Buffer {
    return treeRoot(this, this.#size);
  }

  #put(level: number, index: number, node: Uint8Array): void {
    const at = index * hash_bytes;
    let hashes = this.#levels[level] ?? Buffer.allocUnsafe(8 * hash_bytes);
    if (at + hash_bytes > hashes.length) {
      const larger = Buffer.allocUnsafe(hashes.length * 2);
      larger.set(hashes);
      hashes = larger;
    }
    hashes.set(node, at);
    this.#levels[level] = hashes;
  }
}

/** The root of a growing tree in the space of its peaks: for reading logs that are larger than the memory. */
export class MerkleFrontier {
  /** Perfect subtrees from left to right, each with its number of leaves. */
  readonly #peaks: { leaves: number; hash: Buffer }[] = [];
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** A leaf, or the root of a perfect subtree of so many leaves that fits behind what is there. */
  append(hash: Uint8Array, leaves = 1): void {
    if (this.#size % leaves !== 0) throw new RangeError('A subtree stands at a multiple of its own size.');
    let peak: { leaves: number; hash: Buffer } = { leaves, hash: Buffer.from(hash) };
    let last = this.#peaks.at(-1);
    while (last && last.leaves === peak.leaves) {
      this.#peaks.pop();
      peak = { leaves: peak.leaves * 2, hash: nodeHash(last.hash, peak.hash) };
      last = this.#peaks.at(-1);
    }
    this.#peaks.push(peak);
    this.#size += leaves;
  }

  root(): Buffer {
    const hashes = this.#peaks.map(peak => peak.hash);
    return hashes.length === 0 ? emptyRoot : hashes.reduceRight((right, left) => nodeHash(left, right));
  }
}

/** The root of the first `size` leaves. */
export const treeRoot = (nodes: MerkleNodes, size: number): Buffer =>
  size === 0 ? emptyRoot : rangeRoot(nodes, 0, size);

/** RFC 6962 §2.1.1: the hashes from the leaf up. */
export function inclusionPath(nodes: MerkleNodes, index: number, size: number): Buffer[] {
  if (index < 0 || index >= size) throw new RangeError(`Leaf ${index} is not in a tree of ${size}.`);
  const path: Buffer[] = [];
  let from = 0;
  let to = size;
  while (to - from > 1) {
    const middle = from + splitOf(to - from);
    if (index < middle) {
      path.push(rangeRoot(nodes, middle, to));
      to = middle;
    } else {
      path.push(rangeRoot(nodes, from, middle));
      from = middle;
    }
  }
  return path.reverse();
}

/** RFC 6962 §2.1.2: that the tree of `from` leaves is the beginning of the tree of `to`. */
export function consistencyPath(nodes: MerkleNodes, from: number, to: number): Buffer[] {
  if (from < 0 || from > to) throw new RangeError(`A tree of ${from} does not begin a tree of ${to}.`);
  if (from === 0 || from === to) return [];
  const path: Buffer[] = [];
  let start = 0;
  let end = to;
  while (from !== end) {
    const middle = start + splitOf(end - start);
    if (from <= middle) {
      path.push(rangeRoot(nodes, middle, end));
      end = middle;
    } else {
      path.push(rangeRoot(nodes, start, middle));
      start = middle;
    }
  }
  // The old tree's own part is left out where it is the whole old tree: the verifier has its root.
  if (start > 0) path.push(rangeRoot(nodes, start, end));
  return path.reverse();
}

/** Whether the path leads from the leaf to the root (RFC 9162 §2.1.3.2). Never throws on what it is given. */
export function verifyInclusion(claim: {
  readonly leaf: Uint8Array;
  readonly index: number;
  readonly size: number;
  readonly path: readonly Uint8Array[];
  readonly root: Uint8Array;
}): boolean {
  const { leaf, index, size, path, root } = claim;
  if (!isSize(index) || !isSize(size) || index >= size || ![leaf, root, ...path].every(isHash)) return false;
  let node: Buffer = Buffer.from(leaf);
  let at = index;
  let last = size - 1;
  for (const sibling of path) {
    if (last === 0) return false;
    if (at % 2 === 1 || at === last) {
      node = nodeHash(sibling, node);
      while (at % 2 === 0 && at !== 0) [at, last] = [half(at), half(last)];
    } else {
      node = nodeHash(node, sibling);
    }
    [at, last] = [half(at), half(last)];
  }
  return last === 0 && node.equals(root);
}

/** Whether the older tree is the beginning of the newer (RFC 9162 §2.1.4.2). Never throws on what it is given. */
export function verifyConsistency(claim: {
  readonly from: number;
  readonly to: number;
  readonly fromRoot: Uint8Array;
  readonly toRoot: Uint8Array;
  readonly path: readonly Uint8Array[];
}): boolean {
  const { from, to, fromRoot, toRoot, path } = claim;
  if (!isSize(from) || !isSize(to) || from > to || ![fromRoot, toRoot, ...path].every(isHash)) return false;
  if (from === to) return path.length === 0 && Buffer.from(fromRoot).equals(toRoot);
  if (from === 0) return path.length === 0 && emptyRoot.equals(fromRoot);
  let at = from - 1;
  let last = to - 1;
  while (at % 2 === 1) [at, last] = [half(at), half(last)];
  const rest = at === 0 ? [fromRoot, ...path] : path; // an old tree of 2^n leaves is itself the first node
  const first = rest[0];
  if (!first) return false;
  let older: Buffer = Buffer.from(first);
  let newer: Buffer = Buffer.from(first);
  for (const node of rest.slice(1)) {
    if (last === 0) return false;
    if (at % 2 === 1 || at === last) {
      older = nodeHash(node, older);
      newer = nodeHash(node, newer);
      while (at % 2 === 0 && at !== 0) [at, last] = [half(at), half(last)];
    } else {
      newer = nodeHash(newer, node);
    }
    [at, last] = [half(at), half(last)];
  }
  return last === 0 && older.equals(fromRoot) && newer.equals(toRoot);
}

/** The hash of leaves [from, to), where `from` is a multiple of the largest power of two in the range. */
function rangeRoot(nodes: MerkleNodes, from: number, to: number): Buffer {
  const leaves = to - from;
  const split = splitOf(leaves);
  if (split * 2 === leaves || leaves === 1) return nodes.node(Math.log2(leaves), from / leaves);
  return nodeHash(rangeRoot(nodes, from, from + split), rangeRoot(nodes, from + split, to));
}

/** The largest power of two below the number. */
function splitOf(leaves: number): number {
  let split = 1;
  while (split * 2 < leaves) split *= 2;
  return split;
}

// Not shifts: those end at 32 bits.
const half = (value: number): number => Math.floor(value / 2);
const isSize = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;
const isHash = (value: Uint8Array): boolean => value.length === hash_bytes;
