import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import pkcs11js from 'pkcs11js';
import { answerParent } from './helper.ts';
import type { RawOrder, RawRate, RawWorkerData } from './raw-worker.ts';

/**
 * The raw limit: what the same module, the same key and the same message give in one process with one thread a
 * core and nothing else. And the ceiling: the same with each signature verified, which is as fast as a service
 * that never releases an unverified signature could possibly be. A process of its own, because the module reads
 * its environment and keeps its login once per process.
 */

export type RawQuestion =
  | {
      readonly open: {
        readonly module: string;
        readonly tokenLabel: string;
        readonly pinFile: string;
        readonly key: string;
        readonly publicKey: string;
        readonly message_base64: string;
      };
    }
  | { readonly measure: { readonly seconds: number; readonly verify: boolean } };

/** Over all cores; nothing yet as the answer to `open`. */
export interface RawAnswer {
  readonly perSecond: number;
  /** Processor time a signature. */
  readonly cpu_us: number;
}

type Opening = Extract<RawQuestion, { open: unknown }>['open'];

const lib = new pkcs11js.PKCS11();
let workers: readonly Worker[] = [];

answerParent<RawQuestion, RawAnswer>(async question => {
  if ('open' in question) return open(question.open);
  const { seconds, verify } = question.measure;
  await everyWorker({ seconds: Math.min(warmUp_s, seconds), verify });
  return everyWorker({ seconds, verify });
}, close);

const warmUp_s = 0.2;

function open(opening: Opening): RawAnswer {
  lib.load(opening.module);
  lib.C_Initialize({ flags: pkcs11js.CKF_OS_LOCKING_OK });
  const slot = slotOf(opening.tokenLabel);
  const anchor = lib.C_OpenSession(slot, pkcs11js.CKF_SERIAL_SESSION);
  lib.C_Login(anchor, pkcs11js.CKU_USER, readFileSync(opening.pinFile, 'utf8').trim());
  const { module, key, publicKey } = opening;
  const message = Buffer.from(opening.message_base64, 'base64');
  const workerData: RawWorkerData = { module, slot, key, publicKey, message };
  workers = Array.from(
    { length: availableParallelism() },
    () => new Worker(join(import.meta.dirname, 'raw-worker.ts'), { workerData }),
  );
  return { perSecond: 0, cpu_us: 0 };
}

function slotOf(tokenLabel: string): Buffer {
  const slot = lib.C_GetSlotList(true).find(each => unpadded(lib.C_GetTokenInfo(each).label) === tokenLabel);
  if (slot) return Buffer.from(slot);
  throw new Error(`There is no token ${tokenLabel}.`);
}

// The standard pads with blanks (v3.1 §3.2); a token initialised with a short label may hold zeros.
const unpadded = (label: string): string => label.replace(/[\0 ]+$/, '');

async function everyWorker(order: RawOrder): Promise<RawAnswer> {
  const before = process.cpuUsage();
  const answers = workers.map(worker => once(worker, 'message'));
  for (const worker of workers) worker.postMessage(order);
  const rates = (await Promise.all(answers)).map(([rate]) => rate as RawRate);
  const { user, system } = process.cpuUsage(before);
  const sum = (of: (rate: RawRate) => number) => rates.reduce((total, rate) => total + of(rate), 0);
  return { perSecond: sum(rate => rate.perSecond), cpu_us: (user + system) / sum(rate => rate.done) };
}

/** The module must not be finalised under a thread that is still inside it. */
async function close(): Promise<void> {
  const ended = workers.map(worker => once(worker, 'exit'));
  for (const worker of workers) worker.postMessage('finish' satisfies RawOrder);
  await Promise.all(ended);
  if (workers.length > 0) lib.C_Finalize();
}
