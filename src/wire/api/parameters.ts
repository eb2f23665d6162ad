import { z } from 'zod';
import { limits } from '../../foundation/limits.ts';
import { exampleAddress } from './examples.ts';
import type { Parameter } from './http-operation.ts';

/** The parameters of paths and queries, by what they name. */

const idPattern = /^[a-z0-9][a-z0-9-]{0,62}$/;
const id = z.string().regex(idPattern);
const named = z.string().min(1);

const inPath = (
  component: string,
  name: string,
  schema: z.ZodType,
  example: string | number,
  description: string,
): Parameter => ({
  component,
  name,
  in: 'path',
  required: true,
  schema,
  description,
  example,
});

const inQuery = (
  component: string,
  name: string,
  schema: z.ZodType,
  example: string | number,
  description: string,
  required = false,
): Parameter => ({ component, name, in: 'query', required, schema, description, example });

const seq = z.int().min(0);

export const parameters = {
  key: inPath('KeyId', 'id', id, 'treasury', 'The id of a key.'),
  slot: inPath('SlotId', 'slot', id, 'main', 'The id of a slot.'),
  migration: inPath('MigrationId', 'id', named, 'm-5f2c1a9b3d', 'The id of a migration.'),
  policy: inPath('PolicyName', 'name', named, 'treasury-policy', 'The name of a policy.'),
  policyVersion: inPath('PolicyVersion', 'version', z.int().min(1), 1, 'A version of the policy.'),
  approval: inPath('ApprovalId', 'id', named, 'a-0123456789abcdef01', 'The id of an approval.'),
  identity: inPath('IdentityName', 'name', named, 'payments', 'The name of an identity.'),
  token: inPath(
    'TokenId',
    'id',
    named,
    '0123456789abcdef',
    'The id of an API token, which is not the token itself.',
  ),
  record: inPath('RecordSeq', 'seq', seq, 0, 'The number of a record in the audit log.'),
  wallet: inPath(
    'WalletId',
    'id',
    z.uuid(),
    '3f0a9a4e-5d0c-4d4a-9d7c-0b7f5f1c2a11',
    'The id of a wallet, which is the id of its key.',
  ),
  vaultKey: inPath('VaultKey', 'key', id, 'treasury', 'The id of a key.'),
  vaultHash: inPath(
    'VaultHash',
    'hash',
    z.literal('none'),
    'none',
    'Only `none`: nothing is hashed before it is signed.',
  ),

  cursor: inQuery('Cursor', 'cursor', z.string().max(63), 'payments', 'The `next` of the page before.'),
  limit: inQuery('Limit', 'limit', z.int().min(1).max(limits.page_items_max), 100, 'How many at most.'),
  ofSlot: inQuery('OfSlot', 'slot', id, 'main', 'Keys of this slot alone.'),
  from: inQuery('From', 'from', seq, 0, 'From this number on.'),
  oldSize: inQuery('OldSize', 'from', seq, 1, 'A size that the log had.', true),
  newSize: inQuery('NewSize', 'to', seq, 1, 'A later size of the log.', true),
  size: inQuery(
    'TreeSize',
    'size',
    z.int().min(1),
    1,
    'The size of a checkpoint that covers the record; the newest without it.',
  ),
  ofIdentity: inQuery('OfIdentity', 'identity', z.string(), 'payments', 'Tokens of this identity alone.'),
  publicKey: inQuery(
    'WalletPublicKey',
    'publicKey',
    z.string(),
    exampleAddress,
    'Wallets with this address alone.',
  ),
  walletCursor: inQuery(
    'WalletCursor',
    'cursor',
    z.string().max(63),
    '3f0a9a4e-5d0c-4d4a-9d7c-0b7f5f1c2a11',
    'The `next` of the answer before.',
  ),
  vaultAfter: inQuery('VaultAfter', 'after', z.string().max(63), 'payments', 'Names behind this one.'),
  vaultLimit: inQuery('VaultLimit', 'limit', z.int(), 100, 'How many at most; all without it.'),
} as const satisfies Record<string, Parameter>;

export const page = [parameters.cursor, parameters.limit] as const;
export const stretch = [parameters.from, parameters.limit] as const;
