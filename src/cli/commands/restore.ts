import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { BackupManifest } from '../../appliance/backup-manifest.ts';
import { type DrillReport, drillBackup, isProven } from '../../appliance/drill.ts';
import { inspectBackup, type ReadOptions, readIdentities, restoreBackup } from '../../appliance/restore.ts';
import { ByteBar } from '../byte-bar.ts';
import { CalledOff } from '../called-off.ts';
import { listing, misused, print, printJson, refused, table } from '../output.ts';
import { ProgressLine } from '../progress-line.ts';

interface Options {
  readonly identity: string;
  readonly into?: string;
  readonly dryRun?: boolean;
  readonly drill?: boolean;
  readonly secrets?: string;
  readonly scratch?: string;
  readonly slot?: readonly string[];
  readonly json?: boolean;
}

export function addRestore(program: Command): void {
  const several = (value: string, values: string[] = []) => [...values, value];
  program
    .command('restore')
    .description('check a backup, restore it into a new state folder, or drill that')
    .argument('<backup>', 'the file that keyslot backup wrote')
    .requiredOption('--identity <file>', 'the identity file of age that opens it, mode 0600')
    .option('--dry-run', 'check every file, say what would be written and what has to be brought')
    .option('--into <dir>', 'the new state folder: one that is not there yet, or is empty')
    .option('--drill', 'restore into a scratch folder, start on it, open its slots, remove it again')
    .option('--secrets <home>', 'with --drill: the state folder whose PIN files and tokens are used')
    .option('--scratch <dir>', 'with --drill: where the scratch folder is made (default: $TMPDIR)')
    .option('--slot <id>', 'with --drill: a slot that must open; may be repeated (default: all)', several)
    .option('--json', 'print JSON instead of tables')
    .exitOverride()
    .action(restore);
}

async function restore(archive: string, options: Options, command: Command): Promise<void> {
  const { into, dryRun, drill, json } = options;
  if ([into, dryRun, drill].filter(each => each !== undefined).length !== 1) {
    command.error('error: give one of --dry-run, --into and --drill', { exitCode: misused });
  }
  const stray = drillOnly.find(name => options[name] !== undefined);
  if (!drill && stray) command.error(`error: --${stray} needs --drill`, { exitCode: misused });
  using identities = await readIdentities(options.identity);
  using calledOff = new CalledOff();
  using bar = new ByteBar(dryRun ? 'checking' : 'restoring');
  const read: ReadOptions = {
    archive,
    identities,
    signal: calledOff.signal,
    progress: (done, of) => bar.show(done, of),
  };
  if (drill) {
    using line = new ProgressLine();
    const told = (step: string) => {
      bar[Symbol.dispose]();
      line.show(step);
    };
    const report = await drillBackup({ ...read, ...folders(options), told });
    line[Symbol.dispose]();
    return concludeDrill(report, options, command);
  }
  const restored = into === undefined ? await inspectBackup(read) : await restoreBackup({ ...read, into });
  bar[Symbol.dispose]();
  const { manifest, sha256, outside } = restored;
  if (json)
    return printJson({ ...(into === undefined ? {} : { home: resolve(into) }), sha256, outside, manifest });
  print(
    listing({
      ...(into === undefined ? { 'would write': `${manifest.files.length} files` } : { home: resolve(into) }),
      sha256,
      ...summary(manifest),
    }),
  );
  if (dryRun) print(`\n${filesTable(manifest)}\n\n${keysTable(manifest)}`);
  sayWhatIsMissing(manifest, outside);
}

const drillOnly = ['secrets', 'scratch', 'slot'] as const;

const folders = ({ secrets, scratch }: Options) => ({
  secrets: secrets === undefined ? undefined : resolve(secrets),
  scratch: scratch === undefined ? undefined : resolve(scratch),
});

const summary = ({ version, node, created, home, keys, files, audit }: BackupManifest) => ({
  'made of': `${home}, node ${node}`,
  'made at': created,
  'made by': `keyslot ${version}`,
  keys: keys.length,
  files: files.length,
  'audit records': audit ? `${audit.size} (head ${audit.head})` : 0,
});

const filesTable = ({ files }: BackupManifest): string =>
  table(
    ['BYTES', 'SHA-256', 'FILE'],
    files.map(({ name, bytes, sha256 }) => [String(bytes), sha256, name]),
  );

const keysTable = ({ keys }: BackupManifest): string =>
  table(
    ['KEY', 'SLOT', 'STATE', 'CUSTODY', 'PUBLIC KEY'],
    keys.map(({ id, slot, state, custody, publicKey }) => [id, slot, state, custody ?? '', publicKey ?? '']),
  );

function sayWhatIsMissing({ separately, created }: BackupManifest, outside: readonly string[]): void {
  print('\nTo be brought separately:');
  for (const { setting, what } of separately) print(`  ${setting}: ${what}`);
  if (outside.length > 0) {
    print(`\nFrom outside the old state folder; move them, or correct the settings that name them:`);
    for (const name of outside.slice(0, shown_max)) print(`  ${name}`);
    if (outside.length > shown_max) print(`  and ${outside.length - shown_max} more`);
  }
  print(
    `\nLimits and repeated requests are counted up to ${created}: what was signed since then is not counted.` +
      '\nNever run it beside the appliance it was made of: each would count for itself.',
  );
}

/** Status 1 when something is not proven that had to be. */
function concludeDrill(report: DrillReport, { slot: wanted, json }: Options, command: Command): void {
  const { manifest, audit, start, slots } = report;
  const unknown = wanted?.find(id => !slots.some(({ slot }) => slot === id));
  if (unknown !== undefined) command.error(`error: the backup has no slot ${unknown}`, { exitCode: misused });
  const needed = slots.filter(({ slot }) => wanted === undefined || wanted.includes(slot));
  const passed = audit.ok && start.ok && needed.every(isProven) && slots.every(isUnharmed);
  if (!passed) process.exitCode = refused;
  if (json) {
    const { separately, created, node, version } = manifest;
    printJson({ passed, created, node, version, audit, start, slots, separately });
    return;
  }
  print(
    listing({
      ...summary(manifest),
      'audit log': audit.ok
        ? `in order, ${audit.records} records`
        : `NOT IN ORDER: ${audit.finding?.class ?? 'it ends elsewhere'}`,
      start: start.ok ? 'the custodian starts on it' : `${start.code}: ${start.detail}`,
    }),
  );
  print(`\n${table(['SLOT', 'ENGINE', 'OUTCOME', 'KEYS', 'CANARY', 'WHY'], slots.map(rowOf))}`);
  print(passed ? '\nThe drill passed.' : '\nTHE DRILL FAILED.');
}

/** A slot that need not open may be shut, but not open without its keys. */
const isUnharmed = (slot: DrillReport['slots'][number]): boolean =>
  slot.outcome !== 'opened' || isProven(slot);

function rowOf({ slot, engine, outcome, keys, canary, code, detail }: DrillReport['slots'][number]) {
  const found = keys && `${keys.proven} of ${keys.registered}`;
  const lacking = [
    ...(keys?.missing ?? []).map(key => `${key} is missing`),
    ...(keys?.different ?? []).map(key => `${key} is another key`),
  ];
  const why = [code && `${code}: ${detail}`, !code && detail, ...lacking].filter(Boolean).join('; ');
  return [slot, engine, outcome, found ?? '', canary ?? '', why];
}

const shown_max = 20;
