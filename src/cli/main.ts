import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command, CommanderError } from 'commander';
import { homeFromEnvironment } from '../appliance/environment.ts';
import { pageHome } from '../appliance/page-environment.ts';
import { addApprovals } from './commands/approvals.ts';
import { addAudit } from './commands/audit.ts';
import { addDoctor } from './commands/doctor.ts';
import { addEnvelopes } from './commands/envelopes.ts';
import { addFreeze } from './commands/freeze.ts';
import { addIdentities } from './commands/identities.ts';
import { addKeys } from './commands/keys.ts';
import { addMigrate } from './commands/migrate.ts';
import { addPolicy } from './commands/policy.ts';
import { addServe } from './commands/serve.ts';
import { addSign } from './commands/sign.ts';
import { addSlots } from './commands/slots.ts';
import { addTokens } from './commands/tokens.ts';
import { fail, misused } from './output.ts';

/** `keyslot`: argv to the appliance or its client. Exit status: 0 done, 1 refused or failed, 2 misused. */

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };

/** A checkout keeps its state beside the code; anything else says where it is. */
function defaultHome(): string | undefined {
  const named = homeFromEnvironment();
  if (named) return resolve(named);
  const beside = pageHome();
  if (beside) return beside;
  return existsSync(join(root, 'scripts', 'start')) ? join(root, 'var') : undefined;
}

const program = new Command('keyslot')
  .description('The signing appliance that stands in front of an HSM.')
  .version(version)
  .showHelpAfterError('(run keyslot --help for what it can do)')
  .exitOverride();

const shared = (command: Command): Command =>
  command
    .option('--home <dir>', 'the state folder (default: $KEYSLOT_HOME, or var/ in a checkout)', defaultHome())
    .option('--json', 'print JSON instead of tables')
    .exitOverride();

addServe(program, shared);
addSlots(program, shared);
addKeys(program, shared);
addSign(program, shared);
addMigrate(program, shared);
addPolicy(program, shared);
addFreeze(program, shared);
addApprovals(program, shared);
addAudit(program, shared);
addIdentities(program, shared);
addTokens(program, shared);
addDoctor(program, shared);
addEnvelopes(program);

try {
  await program.parseAsync();
} catch (thrown) {
  if (thrown instanceof CommanderError) process.exitCode = thrown.exitCode === 0 ? 0 : misused;
  else fail(thrown, process.argv.includes('--json'));
}
