import { createPublicKey, verify } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import pkcs11js from 'pkcs11js';
import { decodeBase58 } from '../../src/foundation/base58.ts';

/**
 * One core's share of the raw limit: a bare loop around C_SignInit and C_Sign on a session of its own, with
 * nothing in it that a signing service would add. The main thread has initialised the module and logged in,
 * which holds for the whole process.
 */

export interface RawWorkerData {
  readonly module: string;
  readonly slot: Uint8Array;
  readonly key: string;
  readonly publicKey: string;
  readonly message: Uint8Array;
}

export interface RawRate {
  readonly done: number;
  readonly perSecond: number;
}

export type RawOrder = { readonly seconds: number; readonly verify: boolean } | 'finish';

const { module, slot, key, publicKey, message } = workerData as RawWorkerData;
const bytes = Buffer.from(message);
const lib = new pkcs11js.PKCS11();
lib.load(module);
const session = lib.C_OpenSession(Buffer.from(slot), pkcs11js.CKF_SERIAL_SESSION);
const handle = privateKey();
const mechanism = { mechanism: 0x1057 }; // CKM_EDDSA, PKCS#11 v3.1 §6.3.16
const signature = Buffer.alloc(64);
const verifier = createPublicKey({
  key: Buffer.concat([
    Buffer.from('302a300506032b6570032100', 'hex'),
    decodeBase58(publicKey) ?? Buffer.of(),
  ]),
  format: 'der',
  type: 'spki',
});

parentPort?.on('message', (order: RawOrder) => {
  if (order === 'finish') {
    lib.C_CloseSession(session);
    parentPort?.close();
  } else parentPort?.postMessage(rateOf(order.seconds * 1_000, order.verify ? signAndVerify : sign));
});

function rateOf(duration_ms: number, work: () => void): RawRate {
  const from_ms = performance.now();
  let elapsed_ms = 0;
  let done = 0;
  for (; elapsed_ms < duration_ms; elapsed_ms = performance.now() - from_ms) {
    for (let at = 0; at < clockEvery; at += 1) work();
    done += clockEvery;
  }
  return { done, perSecond: (done * 1_000) / elapsed_ms };
}

const clockEvery = 16;

function sign(): void {
  lib.C_SignInit(session, mechanism, handle);
  lib.C_Sign(session, bytes, signature);
}

function signAndVerify(): void {
  sign();
  if (!verify(null, bytes, verifier, signature))
    throw new Error('The token made a signature that does not verify.');
}

function privateKey(): Buffer {
  lib.C_FindObjectsInit(session, [
    { type: pkcs11js.CKA_CLASS, value: pkcs11js.CKO_PRIVATE_KEY },
    { type: pkcs11js.CKA_ID, value: Buffer.from(key) },
  ]);
  const [found] = lib.C_FindObjects(session, 1);
  lib.C_FindObjectsFinal(session);
  if (!found) throw new Error(`The token holds no key ${key}.`);
  return Buffer.from(found);
}
