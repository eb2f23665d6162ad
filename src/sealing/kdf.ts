import { scrypt } from 'node:crypto';
import { KeyslotError } from '../foundation/errors.ts';
import { Secret } from '../foundation/secret.ts';

/** scrypt (RFC 7914). Memory is 128·N·r bytes: 16 MiB for N = 2^14, 128 MiB for N = 2^17, both with r = 8. */
export interface ScryptCost {
  readonly N: number;
  readonly r: number;
  readonly p: number;
}

/**
 * A 32-byte key of a secret. Runs on the libuv pool, at most two at a time in the whole process, so that the
 * threads that sign are never all taken; the others wait in order. SLOT_BUSY when too many wait,
 * REQUEST_ABORTED while waiting (a derivation that has started is finished and dropped).
 */
export async function scryptKey(
  secret: Secret,
  salt: Uint8Array,
  cost: ScryptCost,
  signal?: AbortSignal,
): Promise<Secret> {
  const password = secret.copy(); // whoever waits must not depend on the caller's secret staying alive
  try {
    await turn(signal);
    try {
      return await derive(password, salt, cost);
    } finally {
      next();
    }
  } finally {
    password[Symbol.dispose]();
  }
}

const atOnce = 2;
const waiting_max = 1_024;
let running = 0;
const queue: { admit(): void }[] = [];

function turn(signal: AbortSignal | undefined): Promise<void> {
  if (signal?.aborted) return Promise.reject(aborted());
  if (running < atOnce) {
    running += 1;
    return Promise.resolve();
  }
  if (queue.length >= waiting_max) {
    const busy = `${waiting_max} key derivations are waiting already.`;
    return Promise.reject(new KeyslotError('SLOT_BUSY', busy, { retryAfter_s: 1 }));
  }
  return new Promise((resolve, reject) => {
    const place = {
      admit: () => {
        signal?.removeEventListener('abort', leave);
        resolve();
      },
    };
    const leave = () => {
      queue.splice(queue.indexOf(place), 1);
      reject(aborted());
    };
    signal?.addEventListener('abort', leave, { once: true });
    queue.push(place);
  });
}

/** Hands the turn to the next in line, or gives it back. */
function next(): void {
  const place = queue.shift();
  if (place) place.admit();
  else running -= 1;
}

function derive(secret: Secret, salt: Uint8Array, { N, r, p }: ScryptCost): Promise<Secret> {
  const maxmem = 128 * N * r + 32 * 1024 * 1024;
  return new Promise((resolve, reject) => {
    secret.use(bytes =>
      scrypt(bytes, salt, 32, { N, r, p, maxmem }, (error, key) => {
        if (error) reject(error);
        else resolve(Secret.fromBytes(key, { wipe: true }));
      }),
    );
  });
}

const aborted = () => new KeyslotError('REQUEST_ABORTED', 'A key derivation was aborted by its caller.');
