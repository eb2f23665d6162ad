import type { OperationName, Reply, Request } from '../wire/custodian.ts';
import type { Noted } from './call-notes.ts';
import type { Identity } from './identities.ts';

/** How an operation is performed for an identity that is known and has the role. */
export type Operation<N extends OperationName> = (
  request: Request<N>,
  call: Noted,
  identity: Identity,
) => Promise<Reply<N>>;

/** The part of all operations that one file performs. */
export type Operations<N extends OperationName> = { readonly [Name in N]: Operation<Name> };
