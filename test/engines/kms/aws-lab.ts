import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Session, Slot } from '../../../src/custody/engine.ts';
import { slotId } from '../../../src/custody/ids.ts';
import { createKmsEngine, type KmsSettings, kmsSettings } from '../../../src/engines/kms/index.ts';
import { type Log, silentLog } from '../../../src/foundation/log.ts';
import { Secret } from '../../../src/foundation/secret.ts';
import { KmsServer } from '../../aws/kms-server.ts';
import type { EngineUnderTest } from '../../conformance/engine-suite.ts';

type AwsSettings = Exclude<KmsSettings, { mode: 'simulated' }>;

/**
 * A KMS of its own, credentials in the environment, and a folder for key files, all gone at the end. The
 * environment belongs to the process: one lab at a time.
 */
export class AwsLab implements AsyncDisposable {
  readonly kms: KmsServer;
  readonly folder: string;
  /** A symmetric key. */
  readonly envelopeKey: string;
  readonly #before = { ...process.env };

  private constructor(kms: KmsServer, folder: string) {
    this.kms = kms;
    this.folder = folder;
    this.envelopeKey = kms.createKey('SYMMETRIC_DEFAULT', 'ENCRYPT_DECRYPT');
    for (const name of Object.keys(process.env)) if (name.startsWith('AWS_')) delete process.env[name];
    Object.assign(process.env, kms.environment, {
      AWS_CONFIG_FILE: join(folder, 'no-config'),
      AWS_SHARED_CREDENTIALS_FILE: join(folder, 'no-credentials'),
    });
  }

  static async start(): Promise<AwsLab> {
    return new AwsLab(await KmsServer.start(), await mkdtemp(join(tmpdir(), 'keyslot-kms-')));
  }

  settings(mode: AwsSettings['mode'], more: Partial<Record<string, unknown>> = {}): AwsSettings {
    const settings = kmsSettings.parse({
      mode,
      ...(mode === 'aws-envelope' ? { keyId: this.envelopeKey } : {}),
      ...more,
    });
    if (settings.mode === 'simulated') throw new RangeError('This lab is for AWS.');
    return settings;
  }

  engine(settings: AwsSettings, log: Log = silentLog): EngineUnderTest {
    const slot = slotId('aws');
    const folder = settings.folder ?? join(this.folder, 'keys');
    const engine = createKmsEngine(slot, { ...settings, folder }, log);
    return {
      engine,
      slot,
      pin: () => Secret.fromText(''),
      restart: async () => {
        await engine[Symbol.asyncDispose]();
        return this.engine(settings, log);
      },
      [Symbol.asyncDispose]: () => engine[Symbol.asyncDispose](),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kms[Symbol.asyncDispose]();
    await rm(this.folder, { recursive: true });
    for (const name of Object.keys(process.env)) if (!(name in this.#before)) delete process.env[name];
    Object.assign(process.env, this.#before);
  }
}

export async function slotOf(under: EngineUnderTest): Promise<Slot> {
  const [slot] = await under.engine.slots();
  if (slot === undefined) throw new Error('The engine has no slot.');
  return slot;
}

export async function opened(under: EngineUnderTest): Promise<Session> {
  using pin = under.pin();
  return await (await slotOf(under)).open(pin);
}
