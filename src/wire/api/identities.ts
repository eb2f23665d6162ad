import { operations } from '../custodian.ts';
import { apiTokenView, identityBodies, identityView } from '../identities.ts';
import { exampleSpki } from './examples.ts';
import { type HttpOperation, native } from './http-operation.ts';
import { parameters } from './parameters.ts';
import { issuedToken } from './replies.ts';

export const identityOperations: readonly HttpOperation[] = [
  native({
    id: 'who-am-i',
    method: 'get',
    path: '/v1/whoami',
    tag: 'identities',
    summary: 'Says who the caller is',
    anyRole: true,
    reply: identityView,
  }),
  native({
    id: 'list-identities',
    method: 'get',
    path: '/v1/identities',
    tag: 'identities',
    summary: 'Lists the identities',
    reply: operations['list-identities'].output,
  }),
  native({
    id: 'create-identity',
    method: 'post',
    path: '/v1/identities',
    tag: 'identities',
    summary: 'Makes an identity',
    description: 'Without `recognisedBy` it is known by API tokens alone.',
    body: identityBodies.createIdentity,
    status: 201,
    reply: identityView,
    codes: ['IDENTITY_EXISTS', 'IDENTITY_INVALID'],
    example: {
      body: {
        name: 'payments',
        roles: ['signer'],
        grants: [{ keys: ['treasury'], operations: ['sign-transaction'] }],
        recognisedBy: { spki: exampleSpki },
      },
    },
  }),
  native({
    id: 'delete-identity',
    method: 'delete',
    path: '/v1/identities/{name}',
    tag: 'identities',
    summary: 'Removes an identity with its tokens and sessions',
    parameters: [parameters.identity],
    reply: identityView,
    codes: ['IDENTITY_UNKNOWN', 'IDENTITY_MANAGED'],
  }),
  native({
    id: 'list-tokens',
    method: 'get',
    path: '/v1/tokens',
    tag: 'identities',
    summary: 'Lists API tokens, never the tokens themselves',
    parameters: [parameters.ofIdentity],
    reply: operations['list-tokens'].output,
  }),
  native({
    id: 'issue-token',
    method: 'post',
    path: '/v1/tokens',
    tag: 'identities',
    summary: 'Issues an API token, which is shown once',
    body: identityBodies.issueToken,
    status: 201,
    reply: issuedToken,
    codes: ['IDENTITY_UNKNOWN', 'IDENTITY_INVALID', 'API_TOKENS_DISABLED'],
    example: { body: { identity: 'payments', label: 'the payments service', expiresIn_s: 3600 } },
  }),
  native({
    id: 'revoke-token',
    method: 'delete',
    path: '/v1/tokens/{id}',
    tag: 'identities',
    summary: 'Revokes an API token',
    parameters: [parameters.token],
    reply: apiTokenView,
    codes: ['API_TOKEN_UNKNOWN'],
  }),
];
