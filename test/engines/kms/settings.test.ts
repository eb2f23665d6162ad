import { describe, expect, it } from 'vitest';
import { kmsSettings } from '../../../src/engines/kms/index.ts';

const takes = (settings: unknown) => kmsSettings.safeParse(settings).success;

describe('the settings of a kms slot', () => {
  it('fill in what is not said', () => {
    expect(kmsSettings.parse({ mode: 'simulated' })).toEqual({
      mode: 'simulated',
      keyId: 'wallet-engine-kms-key',
      envelope: 'keyslot',
      unwrapCache_ms: 0,
    });
    expect(kmsSettings.parse({ mode: 'aws-envelope', keyId: 'alias/wallets' })).toEqual({
      mode: 'aws-envelope',
      keyId: 'alias/wallets',
      timeout_ms: 5_000,
      maxAttempts: 3,
      unwrapCache_ms: 0,
    });
    expect(kmsSettings.parse({ mode: 'aws-native' })).toEqual({
      mode: 'aws-native',
      timeout_ms: 5_000,
      maxAttempts: 3,
      deletionWindow_days: 30,
    });
  });

  it.each([
    {},
    { mode: 'native' },
    { mode: 'aws-envelope' },
    { mode: 'aws-native', keyId: 'alias/x' },
    { mode: 'aws-native', accessKeyId: 'AKIA', secretAccessKey: 'no secret belongs here' },
    { mode: 'aws-native', deletionWindow_days: 6 },
    { mode: 'aws-native', deletionWindow_days: 31 },
    { mode: 'aws-native', region: 'eu-central-1.evil.example/' },
    { mode: 'aws-native', maxAttempts: 0 },
    { mode: 'simulated', unwrapCache_ms: 3_600_001 },
    { mode: 'simulated', envelope: 'other' },
  ])('refuse %j', settings => {
    expect(takes(settings)).toBe(false);
  });

  it.each([
    ['https://vpce-1.kms.eu-central-1.vpce.amazonaws.com', true],
    ['http://127.0.0.1:4566', true],
    ['http://localhost:4566', true],
    ['http://[::1]:4566', true],
    ['http://kms.internal', false],
    ['http://127.0.0.1.evil.example', false],
    ['https://user:password@kms.internal', false],
    ['ftp://127.0.0.1', false],
    ['kms.internal', false],
  ])('take the endpoint %s: %s', (endpoint, good) => {
    expect(takes({ mode: 'aws-native', endpoint })).toBe(good);
  });

  it('take the FIPS endpoint or an endpoint of their own, not both', () => {
    const endpoint = 'https://kms.internal';
    for (const more of [{ mode: 'aws-native' }, { mode: 'aws-envelope', keyId: 'alias/x' }]) {
      expect(takes({ ...more, useFipsEndpoint: true })).toBe(true);
      expect(takes({ ...more, useFipsEndpoint: false, endpoint })).toBe(true);
      expect(takes({ ...more, useFipsEndpoint: true, endpoint })).toBe(false);
    }
  });
});
