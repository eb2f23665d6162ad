import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { custodyOf } from '../../src/appliance/catalogue.ts';
import { type Config, readConfig } from '../../src/appliance/config.ts';
import { isKeyslotError } from '../../src/foundation/errors.ts';

/** What keeps keys in software is never taken for an HSM, and never used in production by mistake. */

const home = mkdtempSync(join(tmpdir(), 'keyslot-profiles-'));
afterAll(() => rmSync(home, { recursive: true, force: true }));

const env = (name: string) => ({ env: name });
const software: Readonly<Record<string, Record<string, unknown>>> = {
  memory: { engine: 'memory', pin: env('PIN') },
  'encrypted-file': { engine: 'encrypted-file', pin: env('PIN') },
  'hsm-sim': { engine: 'hsm-sim', pin: env('PIN'), moduleSecret: env('MODULE') },
  'kms-simulated': { engine: 'kms', pin: env('PIN'), settings: { mode: 'simulated', keyId: 'a-key' } },
  mpc: { engine: 'mpc', pin: { nodes: [env('ONE'), env('TWO'), env('THREE')] } },
};
const custodies: readonly string[] = [
  'memory',
  'encrypted-file',
  'simulated-hsm',
  'simulated-kms',
  'shamir-envelope',
];

function read(slot: Record<string, unknown>, more: Record<string, unknown>): Config {
  const content = {
    tls: { certificate: 'tls/server.crt', key: 'tls/server.key', clientCa: 'tls/ca.crt' },
    slots: [{ id: 'main', ...slot }],
    identities: [
      { name: 'payments', roles: ['signer'], slots: ['main'], certificate: { spki: 'ab'.repeat(32) } },
    ],
    audit: { unsigned: true },
    ...more,
  };
  writeFileSync(join(home, 'keyslot.yaml'), stringify(content));
  return readConfig(home);
}

function refusal(slot: Record<string, unknown>, more: Record<string, unknown>): string {
  try {
    read(slot, more);
  } catch (thrown) {
    if (isKeyslotError(thrown)) return `${thrown.code} ${thrown.message}`;
    throw thrown;
  }
  return 'none';
}

describe.each(Object.entries(software))('%s', (engine, slot) => {
  it('is refused by the production profile, which is the default, unless it is named', () => {
    const others = Object.keys(software).filter(other => other !== engine);
    for (const more of [{}, { profile: 'production' }, { allowSoftwareEngines: others }]) {
      expect(refusal(slot, more)).toMatch(/^CONFIG_INVALID .*allowSoftwareEngines/);
    }
    expect(refusal(slot, { allowSoftwareEngines: [engine] })).toBe('none');
    expect(refusal(slot, { profile: 'development' })).toBe('none');
  });

  it('is called what it is, whatever the profile', () => {
    for (const more of [{ profile: 'development' }, { allowSoftwareEngines: [engine] }]) {
      const [configured] = read(slot, more).slots;
      if (!configured) throw new TypeError('The slot is not there.');
      expect(custodies).toContain(custodyOf(configured));
    }
  });
});
