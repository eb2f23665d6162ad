import { randomBytes, randomFillSync } from 'node:crypto';
import type { Handle } from 'pkcs11js';
import { type Bench, type Operation, UnverifiedError } from './bench.ts';
import { CKA_VALUE_LEN, CKM_AES_GCM, CKM_AES_KEY_GEN } from './constants.ts';
import { CkrError, gcmIv_bytes, gcmTag_bytes, template, UnsealError } from './cryptoki.ts';
import type { GcmIvPolicy } from './settings.ts';
import { placed } from './throw-away.ts';

export interface WrappedTrial {
  readonly gcmIv: GcmIvPolicy;
  readonly open: Operation;
}

/** AES-GCM with a key that is thrown away, and the IV of either side. */
export async function tryWrapped(bench: Bench): Promise<WrappedTrial | undefined> {
  if (!bench.offers(CKM_AES_GCM)) {
    bench.reasons.push('AES-GCM absent: the token does not list CKM_AES_GCM, so there is no mode wrapped.');
    return undefined;
  }
  if (!bench.device.profile.wrappingKey) {
    bench.reasons.push(`Profile ${bench.profile} has no mode wrapped, so AES-GCM was not tried.`);
    return undefined;
  }
  const key = wrappingKey(bench);
  if (!key) return undefined;
  const policies: readonly GcmIvPolicy[] =
    bench.device.gcmIv === 'random' ? ['random', 'device'] : ['device', 'random'];
  for (const gcmIv of policies) {
    bench.step(`C_Encrypt: AES-GCM, IV: ${gcmIv}`);
    const opened = await sealing(bench, key, gcmIv);
    if (opened) return { gcmIv, open: opened };
  }
  return undefined;
}

function wrappingKey(bench: Bench): Handle | undefined {
  for (const object of ['session', 'token'] as const) {
    bench.step(`C_GenerateKey: AES, ${object} object`);
    try {
      return bench.cryptoki.generateKey(
        bench.session,
        CKM_AES_KEY_GEN,
        template(
          ...bench.keys.names(),
          [CKA_VALUE_LEN, 32],
          ...placed(bench.device.wrappingAttributes, object === 'token'),
        ),
      );
    } catch (thrown) {
      if (!(thrown instanceof CkrError)) throw thrown;
      if (object === 'token') bench.reasons.push(`No AES key could be made: ${thrown.message}.`);
    }
  }
  return undefined;
}

/** What opens the sealed bytes again; nothing when that way of sealing does not work. */
async function sealing(bench: Bench, key: Handle, policy: GcmIvPolicy): Promise<Operation | undefined> {
  const plain = randomBytes(32);
  const aad = Buffer.from('keyslot-doctor');
  const ivBits = policy === 'random' ? 8 * gcmIv_bytes : 0;
  const iv = Buffer.alloc(gcmIv_bytes);
  if (policy === 'random') randomFillSync(iv);
  let sealed: Buffer = Buffer.alloc(0);
  const seal: Operation = {
    once: own => bench.cryptoki.encrypt(own, { iv, ivBits, aad }, key, Buffer.from(plain)),
    check: async answer => {
      const whole = answer.length === plain.length + gcmTag_bytes && iv.some(byte => byte !== 0);
      if (!whole) throw new UnverifiedError();
      sealed = answer;
    },
  };
  const open: Operation = {
    once: own => bench.cryptoki.decrypt(own, { iv: Buffer.from(iv), ivBits, aad }, key, sealed),
    check: async opened => {
      if (!opened.equals(plain)) throw new UnverifiedError();
    },
  };
  const refuseOther: Operation = {
    once: async own => {
      const other = { iv: Buffer.from(iv), ivBits, aad: Buffer.from('keyslot-other') };
      try {
        return await bench.cryptoki.decrypt(own, other, key, sealed);
      } catch (thrown) {
        if (thrown instanceof UnsealError) return Buffer.alloc(0);
        throw thrown;
      }
    },
    check: async opened => {
      if (opened.length > 0) throw new UnverifiedError();
    },
  };
  const what = `AES-GCM with an IV of the ${policy === 'random' ? 'host' : 'device'}`;
  const works =
    (await bench.works(`${what}: sealing`, seal)) &&
    (await bench.works(`${what}: opening`, open)) &&
    (await bench.works(`${what}: refusing other data`, refuseOther));
  return works ? open : undefined;
}
