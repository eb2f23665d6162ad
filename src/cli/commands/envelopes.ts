import type { Command } from 'commander';
import { type InspectedEnvelope, inspectEnvelopes } from '../../appliance/envelope-inspection.ts';
import { type EnvelopeChange, revertEnvelopes, upgradeEnvelopes } from '../../appliance/envelope-upgrade.ts';
import { listing, print, printJson, refused, table } from '../output.ts';
import { Interruption, ProgressBar } from './migration-progress.ts';

interface Options {
  readonly json?: boolean;
}

export function addEnvelopes(program: Command): void {
  const envelopes = program
    .command('envelopes')
    .description('key files of the agentic-wallet program; the secrets come from the environment');
  const json = (command: Command) =>
    command.option('--json', 'print JSON instead of tables').argument('<dir>', 'a folder of key files');
  json(envelopes.command('inspect').description('open every key file and say what it is; changes nothing'))
    .exitOverride()
    .action(inspect);
  json(
    envelopes.command('upgrade').description("rewrite key files in Keyslot's own form; stop its appliance"),
  )
    .option('--backend <backend>', 'encrypted-file, kms, hsm or mpc, where several have files')
    .option('--slot <slot>', 'the slot that the files are for (default: the name of the backend)')
    .option('--revert', 'the way back: the old files return, keys made since are rewritten')
    .exitOverride()
    .action(upgrade);
}

/** Status 0 when the folder could be read: a file with a problem is an answer. */
async function inspect(dir: string, options: Options): Promise<void> {
  const { folder, envelopes, loose } = await withBar('inspecting', bar => inspectEnvelopes(dir, bar));
  if (loose > 0) {
    console.error(`keyslot: ${loose} key files in ${folder} can be read or changed by others (chmod 600).`);
  }
  if (options.json) return printJson(envelopes);
  if (envelopes.length === 0) console.error(`keyslot: there are no key files in ${folder}.`);
  else print(table(['WALLET', 'BACKEND', 'FORM', 'PUBLIC KEY'], envelopes.map(rowOf)));
}

const rowOf = ({ walletId, backend, form, publicKey, problem }: InspectedEnvelope): readonly string[] => [
  walletId,
  backend ?? '?',
  form ?? '?',
  [publicKey, problem && `problem: ${problem}`].filter(Boolean).join('; '),
];

/** Status 1 when a key was left as it was. */
async function upgrade(
  dir: string,
  options: Options & { backend?: string; slot?: string; revert?: boolean },
): Promise<void> {
  const { backend, slot, revert = false } = options;
  using interruption = new Interruption();
  const stop = () => interruption.asked;
  const change = await withBar(revert ? 'reverting' : 'upgrading', progress =>
    (revert ? revertEnvelopes : upgradeEnvelopes)({ path: dir, backend, slot, stop, progress }),
  );
  if (change.problems.length > 0 || change.left > 0) process.exitCode = refused;
  if (options.json) printJson(change);
  else printChange(change, revert);
}

function printChange(change: EnvelopeChange, revert: boolean): void {
  const { folder, backend, slot, changed, problems, left } = change;
  const done = revert ? 'reverted' : 'upgraded';
  print(listing({ folder, backend, slot, [done]: changed.length, left: left || undefined }));
  for (const { walletId, problem } of problems) print(`problem: ${walletId}: ${problem}`);
  if (left > 0) print('Run the command again to go on.');
}

/** On a terminal the bar is on standard error, beside whatever the command prints. */
async function withBar<T>(
  label: string,
  work: (progress: (done: number, of: number) => void) => Promise<T>,
): Promise<T> {
  using bar = new ProgressBar(label, true);
  return await work((done, of) => bar.show(done, of));
}
