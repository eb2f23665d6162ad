import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  consistencyPath,
  emptyRoot,
  inclusionPath,
  leafHash,
  MerkleFrontier,
  MerkleTree,
  nodeHash,
  treeRoot,
  verifyConsistency,
  verifyInclusion,
} from '../../src/audit/merkle.ts';

/** The inputs and roots that implementations of RFC 6962 share (Certificate Transparency's own test data). */
const inputs = [
  '',
  '00',
  '10',
  '2021',
  '3031',
  '40414243',
  '5051525354555657',
  '606162636465666768696a6b6c6d6e6f',
].map(hex => Buffer.from(hex, 'hex'));
const roots = [
  '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
  'fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125',
  'aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77',
  'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
  '4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4',
  '76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef',
  'ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c',
  '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328',
];

function treeOf(leaves: readonly Uint8Array[]): MerkleTree {
  const tree = new MerkleTree();
  for (const leaf of leaves) tree.append(leaf);
  return tree;
}

// The definitions of RFC 6962 §2.1, word for word, to hold the real thing against.
const split = (n: number): number => {
  let k = 1;
  while (k * 2 < n) k *= 2;
  return k;
};
function naiveRoot(leaves: readonly Buffer[]): Buffer {
  if (leaves.length === 0) return emptyRoot;
  if (leaves.length === 1) return leaves[0] as Buffer;
  const k = split(leaves.length);
  return nodeHash(naiveRoot(leaves.slice(0, k)), naiveRoot(leaves.slice(k)));
}
function naivePath(m: number, leaves: readonly Buffer[]): Buffer[] {
  if (leaves.length === 1) return [];
  const k = split(leaves.length);
  return m < k
    ? [...naivePath(m, leaves.slice(0, k)), naiveRoot(leaves.slice(k))]
    : [...naivePath(m - k, leaves.slice(k)), naiveRoot(leaves.slice(0, k))];
}
function naiveSubproof(m: number, leaves: readonly Buffer[], whole: boolean): Buffer[] {
  const n = leaves.length;
  if (m === n) return whole ? [] : [naiveRoot(leaves)];
  const k = split(n);
  return m <= k
    ? [...naiveSubproof(m, leaves.slice(0, k), whole), naiveRoot(leaves.slice(k))]
    : [...naiveSubproof(m - k, leaves.slice(k), false), naiveRoot(leaves.slice(0, k))];
}

const leavesOf = (count: number): Buffer[] =>
  Array.from({ length: count }, (_, at) => leafHash(`leaf ${at}`));

describe('the Merkle tree', () => {
  it('has the roots that other implementations of RFC 6962 have', () => {
    expect(emptyRoot.toString('hex')).toBe(
      'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
    );
    for (const [at, root] of roots.entries()) {
      const leaves = inputs.slice(0, at + 1).map(leafHash);
      expect(treeOf(leaves).root().toString('hex')).toBe(root);
    }
  });

  it('has root, inclusion and consistency proofs as the standard defines them, for every size up to 70', () => {
    const leaves = leavesOf(70);
    const tree = treeOf(leaves);
    const frontier = new MerkleFrontier();
    for (let size = 0; size <= 70; size += 1) {
      const part = leaves.slice(0, size);
      const root = naiveRoot(part);
      expect(treeRoot(tree, size)).toEqual(root);
      expect(frontier.root()).toEqual(root);
      frontier.append(leaves[size] ?? leafHash('one more'));
      for (let index = 0; index < size; index += 1) {
        const path = inclusionPath(tree, index, size);
        expect(path).toEqual(naivePath(index, part));
        expect(verifyInclusion({ leaf: leaves[index] as Buffer, index, size, path, root })).toBe(true);
      }
      for (let from = 1; from <= size; from += 1) {
        const path = consistencyPath(tree, from, size);
        expect(path).toEqual(naiveSubproof(from, part, true));
        const fromRoot = treeRoot(tree, from);
        expect(verifyConsistency({ from, to: size, fromRoot, toRoot: root, path })).toBe(true);
      }
    }
  });

  it('is the same when whole subtrees are put in as one', () => {
    const leaves = leavesOf(44);
    const frontier = new MerkleFrontier();
    for (let at = 0; at < 40; at += 8) frontier.append(naiveRoot(leaves.slice(at, at + 8)), 8);
    for (const leaf of leaves.slice(40)) frontier.append(leaf);
    expect(frontier.root()).toEqual(naiveRoot(leaves));
    expect(() => frontier.append(leaves[0] as Buffer, 8)).toThrow(RangeError);
  });

  it('names no node that is not complete', () => {
    const tree = treeOf(leavesOf(5));
    expect(() => tree.node(0, 5)).toThrow(RangeError);
    expect(() => tree.node(1, 2)).toThrow(RangeError);
    expect(() => tree.node(3, 0)).toThrow(RangeError);
    expect(() => inclusionPath(tree, 5, 5)).toThrow(RangeError);
    expect(() => consistencyPath(tree, 6, 5)).toThrow(RangeError);
  });
});

describe('a proof', () => {
  const leaves = leavesOf(33);
  const tree = treeOf(leaves);

  it('of inclusion holds for its leaf, place, size and root, and for no other', () => {
    const sizes = fc.integer({ min: 1, max: 33 }).chain(size =>
      fc.record({
        size: fc.constant(size),
        index: fc.integer({ min: 0, max: size - 1 }),
        other: fc.nat({ max: 40 }),
        flip: fc.nat({ max: 7 }),
      }),
    );
    fc.assert(
      fc.property(sizes, ({ size, index, other, flip }) => {
        const path = inclusionPath(tree, index, size);
        const claim = { leaf: leaves[index] as Buffer, index, size, path, root: treeRoot(tree, size) };
        expect(verifyInclusion(claim)).toBe(true);
        if (other !== index) expect(verifyInclusion({ ...claim, index: other })).toBe(false);
        expect(verifyInclusion({ ...claim, leaf: leafHash('another') })).toBe(false);
        expect(verifyInclusion({ ...claim, root: leafHash('another') })).toBe(false);
        expect(verifyInclusion({ ...claim, path: [...path, leafHash('more')] })).toBe(false);
        if (path.length === 0) return;
        expect(verifyInclusion({ ...claim, path: path.slice(1) })).toBe(false);
        const bent = path.map((node, at) => (at === flip % path.length ? leafHash(node) : node));
        expect(verifyInclusion({ ...claim, path: bent })).toBe(false);
      }),
      { numRuns: 300 },
    );
  });

  it('of consistency holds for its sizes and roots, and for no others', () => {
    const sizes = fc
      .integer({ min: 2, max: 33 })
      .chain(to =>
        fc.record({ to: fc.constant(to), from: fc.integer({ min: 1, max: to - 1 }), flip: fc.nat() }),
      );
    fc.assert(
      fc.property(sizes, ({ from, to, flip }) => {
        const path = consistencyPath(tree, from, to);
        const claim = { from, to, fromRoot: treeRoot(tree, from), toRoot: treeRoot(tree, to), path };
        expect(verifyConsistency(claim)).toBe(true);
        expect(verifyConsistency({ ...claim, fromRoot: leafHash('another') })).toBe(false);
        expect(verifyConsistency({ ...claim, toRoot: leafHash('another') })).toBe(false);
        expect(verifyConsistency({ ...claim, path: path.slice(1) })).toBe(false);
        expect(verifyConsistency({ ...claim, path: [...path, leafHash('more')] })).toBe(false);
        const bent = path.map((node, at) => (at === flip % path.length ? leafHash(node) : node));
        expect(verifyConsistency({ ...claim, path: bent })).toBe(false);
      }),
      { numRuns: 300 },
    );
  });

  it('made of nonsense is refused and breaks nothing', () => {
    const leaf = leafHash('a');
    const short = Buffer.alloc(31);
    expect(verifyInclusion({ leaf, index: -1, size: 1, path: [], root: leaf })).toBe(false);
    expect(verifyInclusion({ leaf, index: 0.5, size: 1, path: [], root: leaf })).toBe(false);
    expect(verifyInclusion({ leaf, index: 0, size: 2, path: [short], root: leaf })).toBe(false);
    expect(verifyConsistency({ from: 2, to: 1, fromRoot: leaf, toRoot: leaf, path: [] })).toBe(false);
    expect(verifyConsistency({ from: 1, to: 1, fromRoot: leaf, toRoot: leafHash('b'), path: [] })).toBe(
      false,
    );
    expect(verifyConsistency({ from: 0, to: 5, fromRoot: leaf, toRoot: leaf, path: [] })).toBe(false);
  });
});
