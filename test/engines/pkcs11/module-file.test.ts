import { createHash } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { catalogue } from '../../../src/appliance/catalogue.ts';
import { checkedConfig, checksModule } from '../../../src/appliance/config.ts';
import { slotId } from '../../../src/custody/ids.ts';
import { createPkcs11Engine, pkcs11Settings } from '../../../src/engines/pkcs11/index.ts';
import { refuseForeignModule, refuseOtherModule } from '../../../src/engines/pkcs11/module-file.ts';
import { type ErrorCode, isKeyslotError } from '../../../src/foundation/errors.ts';
import { silentLog } from '../../../src/foundation/log.ts';
import { softHsmModule } from './soft-token.ts';

/** A file of root's in folders of root's exists wherever there is a system; files of others are made here. */
const real = softHsmModule();
let folder: string;

beforeAll(() => {
  // As root not below /tmp, which everybody can write, nor in a checkout, which may belong to anybody.
  folder = mkdtempSync(join(process.getuid?.() === 0 ? '/var/lib' : tmpdir(), 'keyslot-module-file-'));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('the pinned SHA-256', () => {
  const digest = createHash('sha256').update(readFileSync(real)).digest('hex');

  it('lets through the library that has it, and is not asked for where none is pinned', () => {
    expect(codeOf(() => refuseOtherModule({ module: real, moduleSha256: digest }))).toBe('accepted');
    expect(codeOf(() => refuseOtherModule({ module: '/nowhere/lib.so', moduleSha256: undefined }))).toBe(
      'accepted',
    );
  });

  it('refuses a library with one changed bit, before it is loaded', () => {
    const changed = readFileSync(real);
    const last = changed.length - 1;
    changed.writeUInt8(changed.readUInt8(last) ^ 1, last);
    const module = join(folder, 'changed.so');
    writeFileSync(module, changed);
    const settings = pkcs11Settings.parse({ module, moduleSha256: digest, tokenLabel: 'any' });
    expect(codeOf(() => createPkcs11Engine(slotId('main'), settings, silentLog))).toBe('MODULE_UNTRUSTED');
    expect(readFileSync('/proc/self/maps', 'utf8')).not.toContain(module);
  });

  it('does not become an exception from the rule that there must be such a file', () => {
    const missing = { module: join(folder, 'missing.so'), moduleSha256: digest };
    expect(codeOf(() => refuseOtherModule(missing))).toBe('MODULE_UNUSABLE');
  });

  it('is 64 digits of lower case hexadecimal and nothing else', () => {
    const accepted = (moduleSha256: string) =>
      pkcs11Settings.safeParse({ module: real, tokenLabel: 'any', moduleSha256 }).success;
    expect([digest, digest.toUpperCase(), digest.slice(1), `sha256:${digest}`].map(accepted)).toEqual([
      true,
      false,
      false,
      false,
    ]);
  });
});

describe('a library that is root’s alone', () => {
  it('is one of the system', () => {
    expect(codeOf(() => refuseForeignModule(real))).toBe('accepted');
  });

  it('is a file: a folder, a device, and what is not there are refused', () => {
    expect(codeOf(() => refuseForeignModule('/usr/lib'))).toBe('MODULE_UNTRUSTED');
    expect(codeOf(() => refuseForeignModule('/dev/null'))).toBe('MODULE_UNTRUSTED');
    expect(codeOf(() => refuseForeignModule('/usr/lib/there-is-none.so'))).toBe('MODULE_UNUSABLE');
  });

  it('is not below a folder that everybody can write, such as that of temporary files', () => {
    const place = mkdtempSync('/tmp/keyslot-module-');
    copyFileSync(real, join(place, 'lib.so'));
    expect(codeOf(() => refuseForeignModule(join(place, 'lib.so')))).toBe('MODULE_UNTRUSTED');
    rmSync(place, { recursive: true });
  });

  it('is not reached by a link that somebody else could turn round', () => {
    const place = mkdtempSync('/tmp/keyslot-module-');
    symlinkSync(real, join(place, 'direct.so'));
    symlinkSync('/usr', join(place, 'usr'));
    expect(codeOf(() => refuseForeignModule(join(place, 'direct.so')))).toBe('MODULE_UNTRUSTED');
    expect(codeOf(() => refuseForeignModule(join(place, real)))).toBe('MODULE_UNTRUSTED');
    rmSync(place, { recursive: true });
  });

  it('is not looked for round a circle of links', () => {
    symlinkSync('one', join(folder, 'two'));
    symlinkSync('two', join(folder, 'one'));
    expect(codeOf(() => refuseForeignModule(join(folder, 'one')))).toBe('MODULE_UNUSABLE');
  });
});

// Who is not root cannot give files away, and has none of root's to spoil: there these say the same of own files.
describe('a library', () => {
  const root = process.getuid?.() === 0;
  let library: string;
  let inner: string;

  beforeEach(() => {
    inner = mkdtempSync(join(folder, 'inner-'));
    library = join(inner, 'lib.so');
    copyFileSync(real, library);
    chmodSync(library, 0o644);
    chmodSync(inner, 0o755);
  });

  it('is taken when root alone can replace it, and belongs to nobody else', () => {
    expect(codeOf(() => refuseForeignModule(library))).toBe(root ? 'accepted' : 'MODULE_UNTRUSTED');
  });

  const spoiled: Readonly<Record<string, () => void>> = {
    'that its group can write': () => chmodSync(library, 0o664),
    'that everybody can write': () => chmodSync(library, 0o646),
    'in a folder that its group can write': () => chmodSync(inner, 0o775),
    'in a folder that everybody can write, sticky or not': () => chmodSync(inner, 0o1777),
    'of another user': () => root && chownSync(library, 65_534, 0),
    'in a folder of another user': () => root && chownSync(inner, 65_534, 0),
    'behind a link in a folder of another user': () => {
      mkdirSync(join(inner, 'theirs'));
      symlinkSync(real, join(inner, 'theirs', 'hop.so'));
      if (root) chownSync(join(inner, 'theirs'), 65_534, 0);
      library = join(inner, 'link.so');
      symlinkSync(join('theirs', 'hop.so'), library);
    },
  };

  it.each(Object.keys(spoiled))('%s is refused', how => {
    spoiled[how]?.();
    expect(codeOf(() => refuseForeignModule(library))).toBe('MODULE_UNTRUSTED');
  });
});

describe('the production profile', () => {
  const config = (more: object) => {
    const settings = {
      tls: { certificate: 'a', key: 'b', clientCa: 'c' },
      slots: [
        {
          id: 'main',
          engine: 'pkcs11',
          pin: { attended: true },
          settings: { module: '/dev/null', tokenLabel: 'any' },
        },
      ],
      identities: [{ name: 'one', roles: ['signer'], certificate: { spki: 'ab'.repeat(32) } }],
      audit: { unsigned: true },
    };
    return checkedConfig({ ...settings, ...more }, '/nowhere', 'test');
  };

  it('asks it of every library that allowModules does not name, and the development profile of none', () => {
    expect(checksModule(config({}), '/opt/lib.so')).toBe(true);
    expect(checksModule(config({ allowModules: ['/opt/lib.so'] }), '/opt/lib.so')).toBe(false);
    expect(checksModule(config({ allowModules: ['/opt/lib.so'] }), '/opt/other.so')).toBe(true);
    expect(checksModule(config({ profile: 'development' }), '/opt/lib.so')).toBe(false);
  });

  it('takes absolute paths alone', () => {
    expect(codeOf(() => config({ allowModules: ['lib.so'] }))).toBe('CONFIG_INVALID');
  });

  it('makes no engine of a library that is not root’s alone', async () => {
    const place = config({});
    const [slot] = place.slots;
    if (slot?.engine !== 'pkcs11') throw new Error('the slot above is one');
    const made = catalogue.pkcs11(slotId('main'), slot, { config: place, folder: folder, log: silentLog });
    await expect(made).rejects.toMatchObject({ code: 'MODULE_UNTRUSTED' });
  });
});

function codeOf(work: () => unknown): ErrorCode | 'accepted' {
  try {
    work();
    return 'accepted';
  } catch (thrown) {
    if (isKeyslotError(thrown)) return thrown.code;
    throw thrown;
  }
}
