import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { auditKeyName } from '../audit/audit-key.ts';
import { verifyAuditLog } from '../audit/verify.ts';
import { folderFiles } from '../audit/verify-files.ts';
import type { AuditFinding } from '../audit/verify-findings.ts';
import { decodeBase58 } from '../foundation/base58.ts';
import { publicKey_bytes } from '../foundation/ed25519.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { archiveName } from './backup-contents.ts';
import type { BackupManifest } from './backup-manifest.ts';
import { Child, entryOf } from './child.ts';
import { asksAws, type Config, moduleEnvironment, type SecretSource, secretVariables } from './config.ts';
import type { DrillAnswer, DrillBoot, SlotDrill } from './drill-process.ts';
import { awsVariables, childEnvironment } from './environment.ts';
import { configOfHome } from './page-environment.ts';
import { policyDocuments } from './policy-files.ts';
import { type ReadOptions, restoreBackup } from './restore.ts';

/**
 * Restores a backup into a folder of its own, which is removed again, verifies its audit log, starts the custodian on
 * it, and opens the slots whose secrets and tokens are in reach. Nobody is served, witnesses hear nothing, and tokens
 * are only looked at; a slot that opens hears its PIN once. As `restoreBackup`; CONFIG_INVALID, POLICY_INVALID.
 */
export async function drillBackup(options: DrillOptions): Promise<DrillReport> {
  const scratch = await mkdtemp(join(options.scratch ?? tmpdir(), 'keyslot-drill-'));
  try {
    const home = join(scratch, 'home');
    const { manifest } = await restoreBackup({ ...options, into: home });
    const config = drillConfig(configOfHome(home), manifest, options.secrets);
    const audit = await verifiedAudit(config, manifest);
    const answer = await inDrillProcess(config, options);
    return { manifest, audit, ...answer };
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

export interface DrillOptions extends ReadOptions {
  /** Where the scratch folder is made; default: where temporary files are. */
  readonly scratch?: string | undefined;
  /** The state folder whose secrets are used: what the configuration refers to below it, and the tokens there. */
  readonly secrets?: string | undefined;
  /** Hears what is done next. */
  readonly told?: ((step: string) => void) | undefined;
}

export interface DrillReport extends DrillAnswer {
  readonly manifest: BackupManifest;
  readonly audit: { readonly ok: boolean; readonly records: number; readonly finding?: AuditFinding };
}

/** Whether the slot is as it has to be after a restore; one whose keys are in no backup is. */
export const isProven = ({ outcome, keys, canary }: SlotDrill): boolean =>
  outcome === 'not-kept' ||
  (outcome === 'opened' && canary !== 'failed' && keys?.missing.length === 0 && keys.different.length === 0);

/**
 * The restored configuration with every folder where the restore has put it, so that nothing of the appliance that was
 * backed up is touched, and with secrets and `${home}` of modules where they are kept.
 */
export function drillConfig(restored: Config, manifest: BackupManifest, secrets?: string): Config {
  const config = structuredClone(restored) as Config;
  const placed = (path: string) =>
    join(config.home, archiveName(manifest.home, resolve(manifest.home, path)));
  const kept = (source: SecretSource) => {
    if ('file' in source) source.file = resolve(secrets ?? config.home, source.file);
  };
  for (const slot of config.slots) {
    const { pin, settings } = slot;
    if ('folder' in settings && settings.folder !== undefined) settings.folder = placed(settings.folder);
    if (slot.engine === 'hsm-sim') kept(slot.moduleSecret);
    if (slot.engine === 'pkcs11') {
      for (const [name, value] of Object.entries(slot.settings.environment)) {
        slot.settings.environment[name] = value.replaceAll('${home}', resolve(secrets ?? config.home));
      }
    }
    if (pin === 'none' || 'attended' in pin) continue;
    for (const source of 'nodes' in pin ? pin.nodes : [pin]) kept(source);
  }
  config.policies.folder = placed(config.policies.folder);
  config.audit.folder = placed(config.audit.folder);
  config.audit.witnesses = [];
  delete config.audit.slot; // a copy of the log gets no checkpoints from the audit key
  delete config.compat.adopt;
  config.identities = [];
  config.jwtIssuers = [];
  config.groups = [];
  return config;
}

async function verifiedAudit(config: Config, manifest: BackupManifest): Promise<DrillReport['audit']> {
  const { folder } = config.audit;
  if (!manifest.audit) return { ok: true, records: 0 };
  const publicKeys = await folderKeys(join(folder, auditKeyName));
  const { ok, checked, finding } = await verifyAuditLog({ files: folderFiles(folder), publicKeys });
  return {
    ok: ok && checked.size === manifest.audit.size,
    records: checked.size,
    ...(finding ? { finding } : {}),
  };
}

/** The audit keys as the log itself names them: a drill proves that it is whole, not who has signed it. */
async function folderKeys(path: string): Promise<readonly Uint8Array[]> {
  try {
    const keys = JSON.parse(await readFile(path, 'utf8')) as readonly { publicKey?: unknown }[];
    return keys.flatMap(({ publicKey }) => {
      const bytes = typeof publicKey === 'string' ? decodeBase58(publicKey) : undefined;
      return bytes?.length === publicKey_bytes ? [bytes] : [];
    });
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

async function inDrillProcess(config: Config, { told, signal }: DrillOptions): Promise<DrillAnswer> {
  let step = 'its start';
  const boot: DrillBoot = { config, policies: policyDocuments(config) };
  const child = new Child({
    entry: entryOf('drill-process'),
    flags: ['--disable-proto=throw', '--disallow-code-generation-from-strings', '--disable-sigusr1'],
    environment: childEnvironment(moduleEnvironment(config), [
      ...secretVariables(config),
      ...(asksAws(config) ? awsVariables() : []),
    ]),
    boot,
    told: text => {
      step = text;
      timer.refresh();
      told?.(text);
    },
  });
  const timer = setTimeout(() => {
    child.kill(new KeyslotError('DEADLINE_EXCEEDED', `The drill did not come back from ${step}.`));
  }, step_ms);
  const callOff = () => child.kill(new KeyslotError('REQUEST_ABORTED', 'The drill was called off.'));
  signal?.addEventListener('abort', callOff, { once: true });
  if (signal?.aborted) callOff();
  try {
    return await child.ready<DrillAnswer>();
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', callOff);
    await child.stop(stop_ms);
  }
}

/** A slot with many sealed files takes its time. */
const step_ms = 300_000;
const stop_ms = 5_000;
