import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

/** The files of the packaging, as what they say. */

export const root = resolve(import.meta.dirname, '..', '..');
export const textOf = (path: string): string => readFileSync(join(root, path), 'utf8');

export interface Instruction {
  readonly name: string;
  readonly value: string;
}

export interface Stage {
  readonly name: string;
  readonly from: string;
  readonly instructions: readonly Instruction[];
}

/** A Dockerfile as its stages; what stands before the first is the one without a name. */
export function stagesOf(dockerfile: string): readonly Stage[] {
  const lines = dockerfile
    .split('\n')
    .filter(line => !/^\s*#/.test(line))
    .join('\n')
    .replaceAll('\\\n', ' ')
    .split('\n')
    .filter(line => line.trim() !== '');
  const stages: { name: string; from: string; instructions: Instruction[] }[] = [
    { name: '', from: '', instructions: [] },
  ];
  for (const line of lines) {
    const [, name = '', value = ''] = /^(\w+)\s+(.*)$/.exec(line) ?? [];
    const [from = '', , stage = ''] = value.split(' ');
    if (name === 'FROM') stages.push({ name: stage, from, instructions: [] });
    else stages.at(-1)?.instructions.push({ name, value: value.replaceAll(/\s+/g, ' ') });
  }
  return stages;
}

/** The sections of a unit: every setting with all its values, in order. */
export function unitOf(text: string): Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> {
  const sections: Record<string, Record<string, string[]>> = {};
  let section: Record<string, string[]> = {};
  for (const line of text.split('\n').filter(each => each !== '' && !/^[#;]/.test(each))) {
    const heading = /^\[(\w+)\]$/.exec(line)?.[1];
    if (heading) {
      section = {};
      sections[heading] = section;
      continue;
    }
    const at = line.indexOf('=');
    const name = line.slice(0, at);
    section[name] = [...(section[name] ?? []), line.slice(at + 1)];
  }
  return sections;
}
