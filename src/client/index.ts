/**
 * Keyslot from the outside: a typed client of the HTTP API, and a signer that Solana's libraries take as it is.
 * It needs `fetch` and WebCrypto and nothing else, so it runs in Node, in Deno and in a browser's bundle;
 * `keyslot/client/node` adds client certificates, `keyslot/client/web3` the wallet of web3.js 1.x.
 */

export {
  type BatchItem,
  type BatchResult,
  type CallOptions,
  type ChangeOptions,
  type ClientOptions,
  createKeyslotClient,
  type KeyslotClient,
  type SignedMessage,
  type SignedTransaction,
  type SignOptions,
} from './client.ts';
export { type ClientErrorCode, isKeyslotClientError, KeyslotClientError, type Violation } from './errors.ts';
export type {
  Address,
  SignableMessage,
  SignableTransaction,
  SignatureBytes,
  SignatureDictionary,
} from './kit-shapes.ts';
export type { Receipt } from './replies.ts';
export { createKeyslotSigner, type KeyslotSigner, type SigningConfig } from './signer.ts';
export type { Auth, Fetch } from './transport.ts';
