import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command, CommanderError } from 'commander';
import { keepMemoryOutOfCores } from '../appliance/core-dumps.ts';
import { environmentVariable, homeFromEnvironment } from '../appliance/environment.ts';
import { fail, misused } from './output.ts';

/** `keyslot`: argv to the appliance or its client. Exit status: 0 done, 1 refused or failed, 2 misused. */

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };

// Loaded with all that a configuration needs, so for those only who have no keyslot.yaml.
const pageHome = environmentVariable('WALLET_SIGNER_BACKEND')
  ? (await import('../appliance/page-environment.ts')).pageHome()
  : undefined;

/** A checkout keeps its state beside the code; anything else says where it is. */
function defaultHome(): string | undefined {
  const named = homeFromEnvironment();
  if (named) return resolve(named);
  if (pageHome) return pageHome;
  return existsSync(join(root, 'scripts', 'start')) ? join(root, 'var') : undefined;
}

// PINs pass through commands, and the processes of the appliance start from here.
keepMemoryOutOfCores();

const program = new Command('keyslot')
  .description('The signing appliance that stands in front of an HSM.')
  .version(version)
  .showHelpAfterError('(run keyslot --help for what it can do)')
  .exitOverride();

const shared = (command: Command): Command =>
  command
    .option('--home <dir>', 'the state folder (default: $KEYSLOT_HOME, or var/ in a checkout)', defaultHome())
    .option('--as <identity>', 'call as this identity of keyslot.yaml, by the certificate that it names')
    .option('--json', 'print JSON instead of tables')
    .exitOverride();

/**
 * Where each command is. Only the one that is named is loaded, because loading all of them takes longer than most of
 * them do; whoever asks for help, or for what does not exist, gets all.
 */
const commands: Readonly<Record<string, () => Promise<unknown>>> = {
  init: async () => (await import('./commands/init.ts')).addInit(program, shared),
  status: async () => (await import('./commands/status.ts')).addStatus(program, shared),
  completion: async () => (await import('./commands/completion.ts')).addCompletion(program, shared, all),
  serve: async () => (await import('./commands/serve.ts')).addServe(program, shared),
  reload: async () => (await import('./commands/reload.ts')).addReload(program, shared),
  slots: async () => (await import('./commands/slots.ts')).addSlots(program, shared),
  groups: async () => (await import('./commands/groups.ts')).addGroups(program, shared),
  keys: async () => (await import('./commands/keys.ts')).addKeys(program, shared),
  'sign verify': async () => (await import('./commands/sign.ts')).addSign(program, shared),
  migrate: async () => (await import('./commands/migrate.ts')).addMigrate(program, shared),
  policy: async () => (await import('./commands/policy.ts')).addPolicy(program, shared),
  'freeze thaw': async () => (await import('./commands/freeze.ts')).addFreeze(program, shared),
  approvals: async () => (await import('./commands/approvals.ts')).addApprovals(program, shared),
  audit: async () => (await import('./commands/audit.ts')).addAudit(program, shared),
  'whoami identities': async () => (await import('./commands/identities.ts')).addIdentities(program, shared),
  tokens: async () => (await import('./commands/tokens.ts')).addTokens(program, shared),
  doctor: async () => (await import('./commands/doctor.ts')).addDoctor(program, shared),
  envelopes: async () => (await import('./commands/envelopes.ts')).addEnvelopes(program),
  backup: async () => (await import('./commands/backup.ts')).addBackup(program, shared),
  restore: async () => (await import('./commands/restore.ts')).addRestore(program),
};
const [, , asked = ''] = process.argv;

/** Whatever is not loaded because it was named. */
async function all(): Promise<void> {
  for (const [names, add] of Object.entries(commands)) if (!names.split(' ').includes(asked)) await add();
}

const named = Object.entries(commands).filter(([names]) => names.split(' ').includes(asked));
if (named.length === 0 && !['--version', '-V'].includes(asked)) await all();
for (const [, add] of named) await add();

try {
  await program.parseAsync();
} catch (thrown) {
  if (thrown instanceof CommanderError) process.exitCode = thrown.exitCode === 0 ? 0 : misused;
  else fail(thrown, process.argv.includes('--json'));
}
