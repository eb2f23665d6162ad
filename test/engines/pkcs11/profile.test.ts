import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { generates, imports } from '../../../src/custody/engine.ts';
import { keyId, slotId } from '../../../src/custody/ids.ts';
import {
  CKA_CLASS,
  CKA_DECRYPT,
  CKA_ENCRYPT,
  CKA_EXTRACTABLE,
  CKA_ID,
  CKA_LABEL,
  CKA_PRIVATE,
  CKA_SENSITIVE,
  CKA_SIGN,
  CKA_TOKEN,
  CKA_UNWRAP,
  CKA_VERIFY,
  CKA_WRAP,
  CKF_SERIAL_SESSION,
  CKM_EC_EDWARDS_KEY_PAIR_GEN,
  CKO_PUBLIC_KEY,
} from '../../../src/engines/pkcs11/constants.ts';
import { CkrError, template } from '../../../src/engines/pkcs11/cryptoki.ts';
import { Device } from '../../../src/engines/pkcs11/device.ts';
import {
  createPkcs11Engine,
  inspectModule,
  pkcs11Settings,
  profileForm,
  profileNames,
  readProfile,
} from '../../../src/engines/pkcs11/index.ts';
import { Pkcs11Module } from '../../../src/engines/pkcs11/module.ts';
import { createVerifier } from '../../../src/foundation/ed25519.ts';
import { silentLog } from '../../../src/foundation/log.ts';
import { Secret } from '../../../src/foundation/secret.ts';
import { softToken } from './soft-token.ts';

const root = resolve(import.meta.dirname, '../../..');
const folder = mkdtempSync(join(tmpdir(), 'keyslot-profile-'));
const token = softToken({ label: 'profiled' });
afterAll(() => {
  token.remove();
  rmSync(folder, { recursive: true, force: true });
});

const slot = slotId('main');
const settingsOf = (settings: Record<string, unknown>) =>
  pkcs11Settings.parse({ module: token.module, tokenLabel: token.label, ...settings });
const deviceOf = (settings: Record<string, unknown> = {}) => Device.of(slot, settingsOf(settings));
const generic = JSON.parse(readFileSync(join(root, 'hsm-config/generic.json'), 'utf8'));

/** The path of a profile of one's own: generic with these differences. */
function ownProfile(name: string, differences: Record<string, unknown>): string {
  const path = join(folder, `${name}.json`);
  writeFileSync(path, JSON.stringify({ ...generic, ...differences }));
  return path;
}

describe('the profiles that come with Keyslot', () => {
  it('are the files of hsm-config, and part of the package', () => {
    const files = readdirSync(join(root, 'hsm-config')).filter(name => name !== 'schema.json');
    expect(files.sort()).toEqual(profileNames.map(name => `${name}.json`).sort());
    expect(JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).files).toContain('hsm-config');
  });

  it.each(profileNames)('%s is a profile, and says whether it was ever tried', name => {
    expect(readProfile(name).testedOnHardware !== false).toBe(['softhsm2', 'kryoptic'].includes(name));
  });

  it('are data: no decision of the engine knows a vendor', () => {
    const source = join(root, 'src/engines/pkcs11');
    const decisions = readdirSync(source)
      .flatMap(file => readFileSync(join(source, file), 'utf8').split('\n'))
      .filter(line => /\bif \(|\bcase |[=!]==|\? /.test(line) && !/^\s*(\/\/|\*)/.test(line));
    expect(decisions.length).toBeGreaterThan(100);
    expect(decisions.filter(line => /cloud|yubi|luna|nshield|nethsm|kryoptic|softhsm/i.test(line))).toEqual(
      [],
    );
  });
});

describe('a slot that names no profile', () => {
  it('gives its token the templates that all known ones take, and tries the OID first', () => {
    const device = deviceOf();
    expect(device).toMatchObject({ sessions: 8, sessionMode: 'read-only', gcmIv: 'random' });
    expect(device.names('key', () => true)).toEqual([
      [CKA_ID, Buffer.from('key')],
      [CKA_LABEL, Buffer.from('key')],
    ]);
    expect(new Map(device.publicAttributes)).toEqual(new Map([CKA_TOKEN, CKA_VERIFY].map(is(true))));
    expect(new Map(device.privateAttributes)).toEqual(
      new Map([
        ...[CKA_TOKEN, CKA_PRIVATE, CKA_SENSITIVE, CKA_SIGN].map(is(true)),
        is(false)(CKA_EXTRACTABLE),
      ]),
    );
    expect(new Map(device.wrappingAttributes)).toEqual(
      new Map([
        ...[CKA_TOKEN, CKA_PRIVATE, CKA_SENSITIVE, CKA_ENCRYPT, CKA_DECRYPT].map(is(true)),
        ...[CKA_EXTRACTABLE, CKA_WRAP, CKA_UNWRAP, CKA_SIGN, CKA_VERIFY].map(is(false)),
      ]),
    );
    expect(device.generations[0]).toEqual({
      mechanism: CKM_EC_EDWARDS_KEY_PAIR_GEN,
      params: Buffer.from('06032b6570', 'hex'),
    });
  });
});

const is =
  (value: boolean) =>
  (type: number): readonly [number, boolean] => [type, value];

describe('a profile of one’s own', () => {
  it('is read from its absolute path', () => {
    const profile = ownProfile('five', { sessions: { count: 5, count_max: 5, mode: 'read-write' } });
    expect(deviceOf({ profile })).toMatchObject({ sessions: 5, sessionMode: 'read-write' });
  });

  it('gives way to what the slot says', () => {
    const settings = { mode: 'wrapped', sessions: 3, sessionMode: 'read-only', gcmIv: 'random' };
    expect(deviceOf({ profile: 'aws-cloudhsm', ...settings })).toMatchObject({
      sessions: 3,
      sessionMode: 'read-only',
      gcmIv: 'random',
    });
  });

  it.each([
    ['a field that does not exist', { colour: 'blue' }],
    ['an attribute that is not for it', { keyPair: { ...generic.keyPair, privateAttributes: ['WRAP'] } }],
    ['no mechanism', { keyPair: { ...generic.keyPair, mechanisms: [] } }],
    ['a pattern that is none', { pin: { form: 'x', pattern: '(', attempts_max: null } }],
    ['a message larger than any', { message_bytes_max: 16_001 }],
    ['another meaning of a refused PIN', { errors: [pinIncorrect()] }],
    ['no sources', { sources: [] }],
  ])('is refused with %s', (name, differences) => {
    const profile = ownProfile(name.replaceAll(' ', '-'), differences);
    expect(() => deviceOf({ profile })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });

  it('is refused when it is no file, or no JSON', () => {
    const profile = join(folder, 'text.json');
    for (const text of [undefined, 'not JSON']) {
      if (text !== undefined) writeFileSync(profile, text);
      expect(() => deviceOf({ profile })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
    }
  });

  it('cannot make a key exportable: of an attribute it says whether it is given, not what it is', () => {
    const attributes = (value: unknown) =>
      profileForm.safeParse({ ...generic, keyPair: { ...generic.keyPair, privateAttributes: value } })
        .success;
    expect(attributes(['EXTRACTABLE'])).toBe(true);
    expect(attributes([{ EXTRACTABLE: true }])).toBe(false);
  });
});

function pinIncorrect() {
  return { code: '0xa0', name: 'CKR_PIN_INCORRECT', class: 'transient', meaning: 'try again' };
}

describe('the settings of a slot', () => {
  it.each(['no-such-device', './mine.json', '../hsm-config/generic'])('take no profile %s', profile => {
    const settings = { module: token.module, tokenLabel: token.label, profile };
    expect(pkcs11Settings.safeParse(settings).success).toBe(false);
  });

  it.each([
    ['more sessions than the device takes', { profile: 'yubihsm2', sessions: 17 }],
    ['mode wrapped on a device without AES-GCM', { profile: 'yubihsm2', mode: 'wrapped' }],
  ])('are refused with %s', (_, settings) => {
    expect(() => createPkcs11Engine(slot, settingsOf(settings), silentLog)).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID' }),
    );
  });
});

it('what a library is told at C_Initialize, all its slots tell it', async () => {
  await using _told = createPkcs11Engine(slot, settingsOf({}), silentLog);
  const other = settingsOf({ libraryParameters: 'configdir=elsewhere' });
  expect(() => createPkcs11Engine(slot, other, silentLog)).toThrow(
    expect.objectContaining({ code: 'CONFIG_INVALID' }),
  );
});

describe('the form of a PIN', () => {
  const refused = (device: Device, text: string): boolean => {
    using pin = Secret.fromText(text);
    try {
      device.refuseMalformedPin(pin, 'The token');
      return false;
    } catch (error) {
      expect(error).toMatchObject({ code: 'PIN_REFUSED' });
      expect(text.length > 3 && String(error).includes(text)).toBe(false);
      return true;
    }
  };

  it.each([
    ['aws-cloudhsm', 'signer:password', 'no-colon'],
    ['aws-cloudhsm', 'signer:pass:word', ':no-signer'],
    ['aws-cloudhsm', `${'u'.repeat(31)}:${'p'.repeat(32)}`, `${'u'.repeat(32)}:password`],
    ['aws-cloudhsm', 'signer:12345678', 'signer:1234567'],
    ['aws-cloudhsm', 'signer:pass\nword', `signer:${'p'.repeat(33)}`],
    ['yubihsm2', '0001password', 'no-digits'],
    ['yubihsm2', 'BeeFpassword', '001password'],
    ['yubihsm2', `ffff${'p'.repeat(64)}`, `ffff${'p'.repeat(65)}`],
    ['yubihsm2', '0001pass\nword', '@0001password'],
    ['softhsm2', '1234', '123'],
  ])('%s takes %j and not %j', (profile, right, wrong) => {
    const device = deviceOf({ profile });
    expect([refused(device, right), refused(device, wrong)]).toEqual([false, true]);
  });

  it('is anything where nothing is on record', () => {
    const device = deviceOf();
    const texts = fc
      .array(fc.constantFrom('a', '0', ':', ' ', '\n', '\0', 'é', '🔑'))
      .map(parts => parts.join(''));
    fc.assert(fc.property(texts, text => !refused(device, text)));
  });

  it('is looked at before the token hears the PIN', async () => {
    await using engine = createPkcs11Engine(slot, settingsOf({ profile: 'aws-cloudhsm' }), silentLog);
    const [only] = await engine.slots();
    using pin = Secret.fromText('no-colon-in-it');
    await expect(only?.open(pin)).rejects.toMatchObject({ code: 'PIN_REFUSED' });
    // SoftHSM raises a flag after a wrong PIN.
    expect(inspectModule(token.module).tokens.find(each => each.label === token.label)?.pin).toBe('set');
  });
});

describe('a device whose key ids are numbers', () => {
  it('gives each key a number of two bytes, and finds it by its label', async () => {
    const settings = settingsOf({ profile: 'yubihsm2' });
    await using engine = createPkcs11Engine(slot, settings, silentLog);
    const [only] = await engine.slots();
    using pin = token.pin();
    await using session = await only?.open(pin);
    if (!session || !generates(session) || !imports(session)) throw new TypeError('It makes keys.');
    using seed = Secret.fromBytes(Buffer.alloc(32, 7));
    const made = [await session.generate(keyId('made')), await session.import(keyId('brought'), seed)];
    for (const key of made) {
      const signature = await (await session.signer(key.id)).sign(Buffer.from('x'));
      expect(await createVerifier(key.publicKey).verify(Buffer.from('x'), signature)).toBe(true);
    }
    const ids = publicObjects().map(object => object.id);
    expect(ids.map(id => id?.length)).toEqual([2, 2]);
    expect(new Set(ids.map(id => id?.toString('hex'))).size).toBe(2);
    expect(
      publicObjects()
        .map(object => object.label)
        .sort(),
    ).toEqual(['brought', 'made']);

    await expect(session.generate(keyId('k'.repeat(41)))).rejects.toMatchObject({ code: 'KEY_ID_INVALID' });
    expect((await session.generate(keyId('k'.repeat(40)))).id).toBe('k'.repeat(40));
    const signer = await session.signer(keyId('made'));
    await expect(signer.sign(Buffer.alloc(2_049))).rejects.toMatchObject({ code: 'MESSAGE_TOO_LARGE' });
  });

  it('never gives a number that is taken or that stands for none', () => {
    const device = deviceOf({ profile: 'yubihsm2' });
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 255 }), high => {
        const taken = (id: Buffer) => id[0] === high;
        const id = device.names('key', taken).find(([type]) => type === CKA_ID)?.[1];
        return (
          Buffer.isBuffer(id) &&
          id.length === 2 &&
          !taken(id) &&
          !['0000', 'ffff'].includes(id.toString('hex'))
        );
      }),
    );
    expect(() => device.names('key', () => true)).toThrow(
      expect.objectContaining({ code: 'TOKEN_CAPACITY' }),
    );
  });
});

/** As anybody sees them without a login. */
function publicObjects() {
  const module = Pkcs11Module.open(token.module);
  const view = module.tokens().find(each => each.label === token.label);
  if (!view) throw new Error('The token has gone.');
  const { cryptoki } = module;
  const session = cryptoki.openSession(view.slotHandle, CKF_SERIAL_SESSION);
  try {
    return cryptoki.findObjects(session, template([CKA_CLASS, CKO_PUBLIC_KEY])).map(object => ({
      id: cryptoki.attribute(session, object, CKA_ID),
      label: cryptoki.attribute(session, object, CKA_LABEL)?.toString(),
    }));
  } finally {
    cryptoki.closeSession(session);
    module.close();
  }
}

describe('the errors of a device', () => {
  it('have the class and the meaning that are on record for it, and the usual ones elsewhere', () => {
    const full = new CkrError(0x31, 'CKR_DEVICE_MEMORY');
    expect(deviceOf({ profile: 'yubihsm2' }).error(full, 'Signing')).toMatchObject({
      code: 'TOKEN_CAPACITY',
      message: expect.stringContaining('audit log'),
    });
    const errors = [{ code: '0x5', name: 'CKR_GENERAL_ERROR', class: 'session', meaning: 'it dozed off' }];
    const device = deviceOf({ profile: ownProfile('dozing', { errors }) });
    expect([device.ckrClass(0x05), deviceOf().ckrClass(0x05)]).toEqual(['session', 'device']);
    expect(device.ckrClass(0x60)).toBe('stale-handle');
  });
});
