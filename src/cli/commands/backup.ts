import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { writeBackup } from '../../appliance/backup.ts';
import { isRecipient } from '../../appliance/backup-archive.ts';
import { ByteBar } from '../byte-bar.ts';
import { CalledOff } from '../called-off.ts';
import { configOf, type SharedOptions } from '../connection.ts';
import { listing, misused, print, printJson } from '../output.ts';

interface Options extends SharedOptions {
  readonly to?: readonly string[];
  readonly recipientsFile?: string;
  readonly output?: string;
}

export function addBackup(program: Command, shared: (command: Command) => Command): void {
  const several = (value: string, values: string[] = []) => [...values, value];
  shared(program.command('backup'))
    .description('write an encrypted backup of the state folder; the appliance may be running')
    .option('--to <recipient>', 'a public key of age (age1…) that opens it; may be repeated', several)
    .option('--recipients-file <file>', 'public keys, one a line')
    .option('--output <file>', 'a file that does not exist yet (default: keyslot-<node>-<time>.age)')
    .action((options: Options, command: Command) => backup(options, command, program.version() ?? ''));
}

async function backup(options: Options, command: Command, version: string): Promise<void> {
  const recipients = recipientsOf(options, command);
  const config = configOf(options);
  const output = resolve(options.output ?? join('.', defaultName(config.audit.node)));
  using calledOff = new CalledOff();
  using bar = new ByteBar('backing up');
  const made = await writeBackup(config, {
    output,
    recipients,
    version,
    signal: calledOff.signal,
    progress: (done, of) => bar.show(done, of),
  });
  bar[Symbol.dispose]();
  const { manifest, bytes, sha256 } = made;
  const { audit, keys, files, separately } = manifest;
  if (options.json) return printJson({ output, bytes, sha256, recipients, manifest });
  print(
    listing({
      backup: output,
      bytes,
      sha256,
      recipients: recipients.length,
      files: files.length,
      keys: keys.length,
      'audit records': audit?.size ?? 0,
    }),
  );
  print('\nNot in it, and needed after a restore:');
  for (const { setting, what } of separately) print(`  ${setting}: ${what}`);
}

/** Never what was given: somebody may have given the other half. */
function recipientsOf({ to = [], recipientsFile }: Options, command: Command): readonly string[] {
  const listed = recipientsFile === undefined ? [] : linesOf(recipientsFile, command);
  const recipients = [...new Set([...to, ...listed])];
  const wrong = recipients.findIndex(each => !isRecipient(each));
  if (wrong >= 0) {
    return command.error(`error: recipient ${wrong + 1} is no public key of age (age1…)`, {
      exitCode: misused,
    });
  }
  if (recipients.length > 0) return recipients;
  return command.error('error: name who can open the backup: --to or --recipients-file', {
    exitCode: misused,
  });
}

function linesOf(path: string, command: Command): readonly string[] {
  try {
    const lines = readFileSync(path, 'utf8').split('\n');
    return lines.map(line => line.trim()).filter(line => line !== '' && !line.startsWith('#'));
  } catch (cause) {
    const reason = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unknown';
    return command.error(`error: ${path} cannot be read (${reason})`, { exitCode: misused });
  }
}

const defaultName = (node: string): string =>
  `keyslot-${node}-${new Date().toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}Z.age`;
