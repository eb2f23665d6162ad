import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Argument, Command, Option } from 'commander';
import { afterAll, describe, expect, it } from 'vitest';
import { completionScript, shells } from '../../src/cli/completion-scripts.ts';
import { keyslot, run } from '../e2e/appliance.ts';

const folder = mkdtempSync(join(tmpdir(), 'keyslot-completion-'));
writeFileSync(join(folder, 'a file.yaml'), '');

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A program with everything that a script has to know about, whose ids come from a command that says them. */
function program(): Command {
  const made = new Command('prog').version('1');
  const group = made.command('things').description("the things, each with its keys' names");
  group
    .command('make')
    .argument('<key>')
    .argument('[rest...]')
    .option('--slot <slot>', 'where')
    .option('--file <file>', 'from where')
    .option('--label <text>', 'how')
    .option('-q, --quiet', 'say nothing')
    .option('--home <dir>', 'whose')
    .addOption(new Option('--form <form>').choices(['round', 'square']));
  group.command('list');
  made.command('print').addArgument(new Argument('<shell>').choices(['bash', 'zsh']));
  return made;
}

/** What a real bash offers behind each of these lines. */
async function offered(script: string, lines: readonly (readonly string[])[]): Promise<string[][]> {
  const file = join(folder, 'script.bash');
  const ids = join(folder, 'prog');
  writeFileSync(ids, '#!/bin/sh\necho "$2" one two "$4"\n', { mode: 0o700 });
  writeFileSync(file, script);
  const tries = lines.map(words => `try ${words.map(word => `'${word}'`).join(' ')}`);
  const text = `set -u; source '${file}'
try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); complete -p "$(basename "$1")" > /dev/null && _prog; (IFS='|'; echo "\${COMPREPLY[*]}"); }
${tries.join('\n')}`;
  const environment = { PATH: `${folder}:${process.env.PATH}` };
  const { status, stdout, stderr } = await run('bash', ['--norc', '-c', text], { cwd: folder, environment });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return stdout
    .split('\n')
    .slice(0, -1)
    .map(line => line.split('|').filter(Boolean));
}

describe('completion in bash', () => {
  it('offers commands, options, fixed choices, files, and ids that it asks for', async () => {
    const cases: readonly (readonly [readonly string[], readonly string[]])[] = [
      [[''], ['things', 'print']],
      [['th'], ['things']],
      [
        ['things', ''],
        ['make', 'list'],
      ],
      [
        ['things', 'make', 'x', '--f'],
        ['--file', '--form'],
      ],
      [
        ['things', 'make', 'x', '-'],
        ['--slot', '--file', '--label', '-q', '--quiet', '--home', '--form', '-h', '--help'],
      ],
      [
        ['things', 'make', '--form', ''],
        ['round', 'square'],
      ],
      [['things', 'make', '--form', '=', 's'], ['square']],
      [['things', 'make', '--file', 'a'], ['a file.yaml']],
      [['things', 'make', '--label', ''], []],
      [
        ['things', 'make', '-q', ''],
        ['keys', 'one', 'two'],
      ],
      [
        ['things', 'make', '--home', 'here', '--slot', ''],
        ['slots', 'one', 'two', 'here'],
      ],
      [['things', 'make', 'x', ''], []],
      [['print', 'z'], ['zsh']],
      [
        ['nothing', ''],
        ['things', 'print'],
      ],
    ];
    const lines = cases.map(([words]) => ['prog', ...words]);
    expect(await offered(completionScript('bash', program()), lines)).toEqual(
      cases.map(([, words]) => words),
    );
  });
});

describe('every shell', () => {
  it.each(shells)('is told every command and option: %s', shell => {
    const script = completionScript(shell, program());
    for (const word of ['things', 'make', 'list', 'print', 'round', 'slots']) expect(script).toMatch(word);
    for (const option of ['slot', 'file', 'label', 'quiet', 'form'])
      expect(script).toMatch(new RegExp(`-l? ?-?${option}`));
  });
});

describe('keyslot completion', () => {
  it('prints a script of all commands, although a command loads itself alone', async () => {
    const [{ stdout: script }, { stdout: help }] = await Promise.all([
      run(keyslot, ['completion', 'bash']),
      run(keyslot, ['--help']),
    ]);
    const commands = [...help.slice(help.indexOf('Commands:')).matchAll(/^ {2}([a-z-]+)/gm)].map(
      ([, name]) => name,
    );
    expect(commands.length).toBeGreaterThan(15);
    const [, listed = ''] = /^ {4}''\) commands='([^']*)'/m.exec(script) ?? [];
    expect(listed.split(' ').sort()).toEqual(commands.filter(name => name !== 'help').sort());
    expect(script).toMatch(/^ {4}'init --hsm'\) value='softhsm2 /m);
  });

  it('is silent about ids where no appliance runs, or none is', async () => {
    for (const home of [folder, join(folder, 'none')]) {
      const { stdout, stderr } = await run(keyslot, ['completion', 'keys', '--home', home]);
      expect({ stdout, stderr }).toEqual({ stdout: '', stderr: '' });
    }
  });
});
