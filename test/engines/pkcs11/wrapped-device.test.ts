import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as graphene from 'graphene-pk11';
import type { AesGCM, Mechanism, PKCS11 } from 'pkcs11js';
import { afterAll, expect, it } from 'vitest';
import { keyId, slotId } from '../../../src/custody/ids.ts';
import {
  CKF_OS_LOCKING_OK,
  CKF_RW_SESSION,
  CKF_SERIAL_SESSION,
  CKU_USER,
} from '../../../src/engines/pkcs11/constants.ts';
import { Cryptoki } from '../../../src/engines/pkcs11/cryptoki.ts';
import { Device } from '../../../src/engines/pkcs11/device.ts';
import { pkcs11Settings } from '../../../src/engines/pkcs11/index.ts';
import { TokenLogin } from '../../../src/engines/pkcs11/login.ts';
import { Pkcs11Module } from '../../../src/engines/pkcs11/module.ts';
import { ordinaryPatience } from '../../../src/engines/pkcs11/recovery.ts';
import { TokenAccess } from '../../../src/engines/pkcs11/token-access.ts';
import { WrappedSession } from '../../../src/engines/pkcs11/wrapped-session.ts';
import { createVerifier } from '../../../src/foundation/ed25519.ts';
import { silentLog } from '../../../src/foundation/log.ts';
import { Secret } from '../../../src/foundation/secret.ts';
import { KeyFolder } from '../../../src/sealing/key-folder.ts';
import { softToken } from './soft-token.ts';

/** Devices that behave as SoftHSM does not: SoftHSM with some of its functions bent, beyond the vendor's seam. */
const token = softToken({ label: 'device' });
const root = mkdtempSync(join(tmpdir(), 'keyslot-device-'));
const module = graphene.Module.load(token.module);
module.initialize({ flags: CKF_OS_LOCKING_OK });
const real: PKCS11 = module.lib;
afterAll(() => {
  module.finalize();
  token.remove();
  rmSync(root, { recursive: true, force: true });
});

type Bent = Partial<Pick<PKCS11, 'C_EncryptInit' | 'C_EncryptAsync' | 'C_DecryptInit' | 'C_DecryptAsync'>>;

async function openBent(
  bent: Bent,
  settings: Record<string, unknown> = {},
  folder = mkdtempSync(join(root, 'keys-')),
): Promise<WrappedSession> {
  const lib = new Proxy(real, {
    get(target, name) {
      const own: unknown = Reflect.get(bent, name) ?? Reflect.get(target, name);
      return typeof own === 'function' ? own.bind(target) : own;
    },
  });
  const cryptoki = new Cryptoki(lib);
  const parsed = pkcs11Settings.parse({
    module: token.module,
    tokenLabel: token.label,
    mode: 'wrapped',
    ...settings,
  });
  const id = slotId('main');
  const device = Device.of(id, parsed);
  const module = Pkcs11Module.open(token.module);
  const access = new TokenAccess({ id, settings: parsed, device, module, log: silentLog });
  const view = access.token();
  const anchor = cryptoki.openSession(view.slotHandle, CKF_SERIAL_SESSION | CKF_RW_SESSION);
  cryptoki.login(anchor, CKU_USER, token.pinText);
  const login = new TokenLogin({
    slot: id,
    module,
    cryptoki,
    device,
    access,
    patience: { ...ordinaryPatience, outage_ms: 200 },
    log: silentLog,
    token: view,
    anchor,
    pin: token.pin(),
    whenClosed: () => undefined,
  });
  try {
    return await WrappedSession.open(login, await KeyFolder.open(folder), parsed, silentLog);
  } catch (error) {
    await login.close();
    throw error;
  }
}

const gcmOf = (mechanism: Mechanism) => mechanism.parameter as AesGCM;

it('takes the IV from a device that makes its own while it encrypts, as AWS CloudHSM does', async () => {
  const folder = mkdtempSync(join(root, 'device-'));
  const given: Buffer[] = [];
  const awaited = new Map<string, { asked: Buffer | undefined; made: Buffer }>();
  await using session = await openBent(
    {
      C_EncryptInit: (handle, mechanism, key) => {
        const { iv, ivBits, ...rest } = gcmOf(mechanism);
        expect({ ivBits, zeroed: iv?.every(byte => byte === 0) }).toEqual({ ivBits: 0, zeroed: true });
        const made = randomBytes(12);
        given.push(made);
        awaited.set(handle.toString('hex'), { asked: iv, made });
        const parameter: AesGCM = { ...rest, iv: made, ivBits: 96 };
        real.C_EncryptInit(handle, { ...mechanism, parameter }, key);
      },
      C_EncryptAsync: async (handle: Buffer, input: Buffer, output: Buffer) => {
        const sealed = await real.C_EncryptAsync(handle, input, output);
        const call = awaited.get(handle.toString('hex'));
        if (call?.asked) call.made.copy(call.asked);
        return sealed;
      },
    },
    { gcmIv: 'device' },
    folder,
  );
  const info = await session.generate(keyId('made'));
  const signer = await session.signer(info.id);
  const signature = await signer.sign(Buffer.from('x'));
  expect(await createVerifier(info.publicKey).verify(Buffer.from('x'), signature)).toBe(true);
  expect(given).toHaveLength(2); // the probe, and the key
  const file = JSON.parse(readFileSync(join(folder, 'made.keyslot.json'), 'utf8'));
  expect(file.iv).toBe(given[1]?.toString('base64'));
});

it('blames the device and no file when the device fails while it decrypts', async () => {
  let failing = false;
  await using session = await openBent({
    C_DecryptAsync: async (handle: Buffer, input: Buffer, output: Buffer) => {
      if (failing) throw new Error('CKR_GENERAL_ERROR:5');
      return await real.C_DecryptAsync(handle, input, output);
    },
  });
  await session.generate(keyId('fine'));
  const signer = await session.signer(keyId('fine'));
  failing = true;
  await expect(signer.sign(Buffer.from('x'))).rejects.toMatchObject({ code: 'TOKEN_UNAVAILABLE' });
  failing = false;
  const back = Promise.withResolvers<void>();
  session.onHealth(({ state }) => state === 'serving' && back.resolve());
  await back.promise;
  expect(await signer.sign(Buffer.from('x'))).toHaveLength(64);
});

it.each([0x40, 0x41, 0x42])('takes the answer %i of C_Decrypt for a changed file', async ckr => {
  let failing = false;
  await using session = await openBent({
    C_DecryptAsync: async (handle: Buffer, input: Buffer, output: Buffer) => {
      if (failing) throw new Error(`CKR_VENDOR_DEFINED:${ckr}`);
      return await real.C_DecryptAsync(handle, input, output);
    },
  });
  await session.generate(keyId('fine'));
  const signer = await session.signer(keyId('fine'));
  failing = true;
  await expect(signer.sign(Buffer.from('x'))).rejects.toMatchObject({ code: 'KEY_FILE_TAMPERED' });
});

it('refuses a device that cannot open what it sealed, and ends the login', async () => {
  const bent: Bent = {
    C_DecryptInit: () => {
      throw new Error('CKR_KEY_FUNCTION_NOT_PERMITTED:104');
    },
  };
  await expect(openBent(bent)).rejects.toMatchObject({ code: 'TOKEN_UNSUITABLE' });
  await (await openBent({}))[Symbol.asyncDispose]();
});

it('leaves no seed in the buffers that the token was lent, neither after success nor after an abort', async () => {
  const lent: Buffer[] = [];
  const begun = Promise.withResolvers<void>();
  const goOn = Promise.withResolvers<void>();
  let held = false;
  await using session = await openBent({
    C_EncryptAsync: (handle: Buffer, input: Buffer, output: Buffer) => {
      lent.push(input);
      return real.C_EncryptAsync(handle, input, output);
    },
    C_DecryptAsync: async (handle: Buffer, input: Buffer, output: Buffer) => {
      const opened = await real.C_DecryptAsync(handle, input, output);
      lent.push(output);
      if (!held) return opened;
      begun.resolve();
      await goOn.promise;
      return opened;
    },
  });
  using seed = Secret.fromBytes(known);
  await session.import(keyId('known'), seed);
  const signer = await session.signer(keyId('known'));
  held = true;
  const controller = new AbortController();
  const signing = signer.sign(Buffer.from('x'), controller.signal);
  await begun.promise;
  expect(lent.some(buffer => buffer.includes(known))).toBe(true); // the search finds things
  controller.abort();
  await expect(signing).rejects.toMatchObject({ code: 'REQUEST_ABORTED' });
  goOn.resolve();
  await session[Symbol.asyncDispose]();
  expect(lent.length).toBeGreaterThanOrEqual(5);
  for (const buffer of lent) expect(buffer.every(byte => byte === 0)).toBe(true);
});

const known = randomBytes(32);

it('ends although a call never comes back: whoever waits is told', async () => {
  let hanging = false;
  const begun = Promise.withResolvers<void>();
  const session = await openBent({
    C_DecryptAsync: (handle: Buffer, input: Buffer, output: Buffer) => {
      if (!hanging) return real.C_DecryptAsync(handle, input, output);
      begun.resolve();
      return new Promise<Buffer>(() => undefined);
    },
  });
  await session.generate(keyId('stuck'));
  const signer = await session.signer(keyId('stuck'));
  hanging = true;
  const signing = signer.sign(Buffer.from('x'));
  const refused = expect(signing).rejects.toMatchObject({ code: 'TOKEN_UNAVAILABLE' });
  await begun.promise;
  await session[Symbol.asyncDispose]();
  await refused;
});
