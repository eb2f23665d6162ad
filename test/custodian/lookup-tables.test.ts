import type { ServerResponse } from 'node:http';
import { AddressLookupTableProgram, SystemProgram } from '@solana/web3.js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LookupTables } from '../../src/custodian/lookup-tables.ts';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { silentLog } from '../../src/foundation/log.ts';
import { parseTransaction } from '../../src/solana/transaction.ts';
import { RpcNode } from '../gateway/rpc-node.ts';
import { plainV0, wireBytes } from '../solana/compiled.ts';

const address = (seed: number): Uint8Array => new Uint8Array(32).fill(seed);

/** One lookup of two places of one table. */
const view = (places: readonly number[] = [0, 1], tables = [address(5)]) =>
  parseTransaction(
    wireBytes({
      ...plainV0,
      instructions: [{ programIndex: 3, accounts: [0], data: Uint8Array.of(7) }],
      lookups: tables.map(table => ({ table, writable: places, readonly: [] })),
    }),
  );

/** The account of a table as a node gives it: 56 bytes of header, then addresses. */
function tableAccount(count: number, owner = AddressLookupTableProgram.programId.toBase58()) {
  const header = new Uint8Array(56);
  header[0] = 1;
  const data = Buffer.concat([header, ...Array.from({ length: count }, (_, at) => address(100 + at))]);
  return { owner, lamports: 1, executable: false, data: [data.toString('base64'), 'base64'] };
}

const answering = (value: unknown) => (response: ServerResponse) => {
  response.setHeader('Content-Type', 'application/json');
  response.end(JSON.stringify({ jsonrpc: '2.0', id: 1, result: { context: { slot: 1 }, value } }));
};

const unlisted = () => undefined;
let node: RpcNode;
beforeEach(async () => {
  node = await RpcNode.start();
});
afterEach(() => node[Symbol.asyncDispose]());

describe('a lookup table', () => {
  it('is read from the node once, as the cluster has finalised it', async () => {
    const tables = new LookupTables(node.url, silentLog);
    node.instead = answering(tableAccount(3));
    for (let time = 0; time < 2; time += 1) {
      const [known] = await tables.resolve(view(), unlisted);
      expect(known).toMatchObject({ resolved: 'rpc' });
      const addresses = known?.addresses.map(each => Uint8Array.from(each));
      expect(addresses).toEqual([address(100), address(101), address(102)]);
    }
    const options = { encoding: 'base64', commitment: 'finalized' };
    expect(node.asked).toEqual([{ method: 'getAccountInfo', params: [encodeBase58(address(5)), options] }]);
  });

  it('that has grown since is read again', async () => {
    const tables = new LookupTables(node.url, silentLog);
    node.instead = answering(tableAccount(2));
    await tables.resolve(view([1]), unlisted);
    node.instead = answering(tableAccount(8));
    const [known] = await tables.resolve(view([7]), unlisted);
    expect(known?.addresses).toHaveLength(8);
    expect(node.asked).toHaveLength(2);
  });

  it('that the policy lists is not asked for', async () => {
    const tables = new LookupTables(node.url, silentLog);
    const [known] = await tables.resolve(view([0, 1]), () => [address(1), address(2)]);
    expect(known).toEqual({ addresses: [address(1), address(2)], resolved: 'listed' });
    expect(node.asked).toEqual([]);
  });

  it('is read again after a failure: nothing is remembered of one', async () => {
    const tables = new LookupTables(node.url, silentLog);
    node.instead = response => response.destroy();
    expect(await tables.resolve(view(), unlisted)).toEqual([undefined]);
    node.instead = answering(tableAccount(2));
    expect((await tables.resolve(view(), unlisted))[0]?.resolved).toBe('rpc');
  });
});

describe('a table stays unknown', () => {
  const wrong: Readonly<Record<string, (response: ServerResponse) => void>> = {
    'that does not exist': answering(null),
    'whose account is of another program': answering(tableAccount(2, SystemProgram.programId.toBase58())),
    'that is too short for what is loaded': answering(tableAccount(1)),
    'whose node answers with a failure': response => response.writeHead(500).end('{}'),
    'whose node answers with no JSON': response => response.end('<html>'),
    'whose node sends elsewhere': response => response.writeHead(302, { Location: node.url }).end(),
    'whose node answers without end': response => {
      response.write('{"x":"');
      response.end('y'.repeat(200_000));
    },
    'whose data is cut off': answering({ ...tableAccount(2), data: ['AQAAAA==', 'base64'] }),
  };

  it.each(Object.entries(wrong))('%s', async (_name, instead) => {
    node.instead = instead;
    expect(await new LookupTables(node.url, silentLog).resolve(view(), unlisted)).toEqual([undefined]);
  });

  it('when no node is configured', async () => {
    expect(await new LookupTables(undefined, silentLog).resolve(view(), unlisted)).toEqual([undefined]);
  });

  it('when its caller has gone, and nobody waits for the node', async () => {
    node.instead = () => undefined; // never answers
    const asking = new LookupTables(node.url, silentLog).resolve(view(), unlisted, AbortSignal.abort());
    expect(await asking).toEqual([undefined]);
  });
});
