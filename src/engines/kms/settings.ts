import { z } from 'zod';
import { envelopeSetting, folderSetting, unwrapCacheSetting } from '../../sealing/settings.ts';

/** What is not said here comes from the usual places of AWS: AWS_* variables, profiles, roles. */
const reachingAws = {
  folder: folderSetting,
  region: z
    .string()
    .regex(/^[a-z]{2,}(-[a-z]+)+-\d+$/, 'must be an AWS region, such as eu-central-1')
    .optional()
    .describe('AWS region; without it AWS_REGION or the profile decides.'),
  endpoint: z
    .string()
    .refine(isSafeEndpoint, 'must be an https URL; http is taken for loopback addresses only')
    .optional()
    .describe('Endpoint of KMS, such as a VPC endpoint.'),
  useFipsEndpoint: z.boolean().optional().describe('Whether the FIPS 140-3 endpoint of the region is used.'),
  timeout_ms: z
    .int()
    .min(100)
    .max(60_000)
    .default(5_000)
    .describe('One call of KMS with all its attempts; waiting for one of the connections does not count.'),
  maxAttempts: z
    .int()
    .min(1)
    .max(10)
    .default(3)
    .describe('How often one call is tried when KMS throttles or fails; making a key is tried once.'),
};

const twoEndpoints = 'endpoint and useFipsEndpoint exclude each other: name the FIPS endpoint itself';

/** What one `slots:` entry with `engine: kms` says. Secrets are not here. */
export const kmsSettings = z.discriminatedUnion('mode', [
  z.strictObject({
    mode: z
      .literal('simulated')
      .describe('The documented simulation of a KMS: envelopes under a master secret. Not AWS.'),
    folder: folderSetting,
    keyId: z
      .string()
      .min(1)
      .max(2_048)
      .default('wallet-engine-kms-key')
      .describe('Name of the simulated KMS key.'),
    envelope: envelopeSetting,
    unwrapCache_ms: unwrapCacheSetting,
  }),
  z
    .strictObject({
      mode: z
        .literal('aws-envelope')
        .describe('Seeds in files, each sealed under a data key that AWS KMS gives out and opens.'),
      keyId: z
        .string()
        .min(1)
        .max(2_048)
        .describe('Id, ARN or alias of a symmetric KMS key. An alias that moves leaves older files closed.'),
      ...reachingAws,
      unwrapCache_ms: unwrapCacheSetting,
    })
    .refine(hasOneEndpoint, twoEndpoints),
  z
    .strictObject({
      mode: z.literal('aws-native').describe('The private key is made in AWS KMS and never leaves it.'),
      ...reachingAws,
      deletionWindow_days: z
        .int()
        .min(7)
        .max(30)
        .default(30)
        .describe('How long a destroyed KMS key can be brought back.'),
    })
    .refine(hasOneEndpoint, twoEndpoints),
]);

export type KmsSettings = z.infer<typeof kmsSettings>;
export type SimulatedKmsSettings = Extract<KmsSettings, { mode: 'simulated' }>;
export type EnvelopeKmsSettings = Extract<KmsSettings, { mode: 'aws-envelope' }>;
export type NativeKmsSettings = Extract<KmsSettings, { mode: 'aws-native' }>;
export type AwsKmsSettings = EnvelopeKmsSettings | NativeKmsSettings;

function hasOneEndpoint(settings: { endpoint?: string | undefined; useFipsEndpoint?: boolean | undefined }) {
  return settings.endpoint === undefined || settings.useFipsEndpoint !== true;
}

/** Replies carry data keys in the clear, so nothing but TLS leaves the machine. */
function isSafeEndpoint(text: string): boolean {
  const url = URL.parse(text);
  if (url === null || url.username !== '' || url.password !== '') return false;
  const loopback = url.hostname === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(url.hostname);
  return (
    url.protocol === 'https:' || (url.protocol === 'http:' && (loopback || url.hostname === 'localhost'))
  );
}
