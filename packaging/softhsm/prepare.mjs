import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { auditLabel, findSoftHsm, localAccess, prepareLocalAccess } from './dist/appliance/development.js';
import { privateFolder } from './dist/appliance/home.js';
import { createToken } from './dist/appliance/tokens.js';
import { Secret } from './dist/foundation/secret.js';

/**
 * Fills an empty data volume for a trial: two SoftHSM tokens under the PINs of /run/secrets, certificates of a CA of
 * its own, a production configuration, a policy for the key "demo". Whatever is there already is kept. It is in the
 * image with SoftHSM and in no other; what a real token wants is prepared by who has it.
 */

const home = process.env.KEYSLOT_HOME ?? '/var/lib/keyslot';
const secrets = process.env.KEYSLOT_SECRETS ?? '/run/secrets';
const tokenLabel = 'keyslot';

const pinFile = name => join(secrets, name);
const secretOf = path => Secret.fromText(readFileSync(path, 'utf8').trim());

for (const folder of ['', 'softhsm', 'softhsm/tokens', 'policies']) privateFolder(join(home, folder));
await prepareLocalAccess(home);
rmSync(join(home, 'secrets'), { recursive: true }); // a bearer token, which production does not take

const conf = join(home, 'softhsm', 'softhsm2.conf');
keepOrWrite(
  conf,
  `directories.tokendir = ${join(home, 'softhsm', 'tokens')}\nobjectstore.backend = file\nlog.level = ERROR\n`,
);
const module = findSoftHsm();
const slots = [
  { id: 'main', label: tokenLabel, pin: pinFile('user.pin') },
  { id: 'audit', label: auditLabel(tokenLabel), pin: pinFile('audit.pin') },
];

// Nobody keeps the security officer's PIN: it would set the user's PIN anew, and a trial does not need that.
using soPin = Secret.fromText(randomBytes(16).toString('hex'));
for (const { label, pin } of slots) {
  using userPin = secretOf(pin);
  await createToken({ module, label, soPin, userPin }, { SOFTHSM2_CONF: conf });
}

keepOrWrite(
  join(home, 'policies', 'demo.yaml'),
  stringify({ name: 'demo', appliesTo: { keys: ['demo'] }, messages: { bytes: 'any' } }),
);
keepOrWrite(
  join(home, 'keyslot.yaml'),
  stringify({
    profile: 'production',
    listen: { host: process.env.KEYSLOT_LISTEN ?? '0.0.0.0', port: 8443 },
    tls: localAccess.tls,
    slots: slots.map(({ id, label, pin }) => ({
      id,
      engine: 'pkcs11',
      pin: { file: pin },
      settings: { module, tokenLabel: label, environment: { SOFTHSM2_CONF: conf } },
    })),
    audit: { slot: 'audit' },
    identities: localAccess.identities.filter(identity => 'certificate' in identity),
    command: localAccess.command,
  }),
);
console.log(`Keyslot: ${home} is prepared for a trial with SoftHSM.`);

function keepOrWrite(path, content) {
  if (!existsSync(path)) writeFileSync(path, content, { mode: 0o600, flag: 'wx' });
}
