import { closeSync, fsyncSync, openSync, rmSync, writeSync } from 'node:fs';
import type { Command } from 'commander';
import { decodeBase58 } from '../../foundation/base58.ts';
import { encodeBase64 } from '../../foundation/base64.ts';
import { KeyslotError } from '../../foundation/errors.ts';
import type { KeyView } from '../../wire/views.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { listing, print, printJson, table } from '../output.ts';
import { fileText } from '../secret-input.ts';

export function addKeys(program: Command, shared: (command: Command) => Command): void {
  const keys = program.command('keys').description('the keys and where they live');
  shared(keys.command('generate').description('make a key inside a slot').argument('<key>'))
    .requiredOption('--slot <slot>', 'the slot that will hold it')
    .option('--tag <tag>', 'a tag; may be repeated', several)
    .action(generate);
  shared(keys.command('import').description('take an existing Solana key into a slot').argument('<key>'))
    .requiredOption('--slot <slot>', 'the slot that will hold it')
    .requiredOption(
      '--file <file>',
      'a Solana key file, base58 of 64 bytes, or a 32-byte seed; - for standard input',
    )
    .option('--tag <tag>', 'a tag; may be repeated', several)
    .action(importKey);
  shared(
    keys.command('adopt').description('take in a key that a slot or its KMS holds already').argument('<key>'),
  )
    .requiredOption('--slot <slot>', 'the slot that holds it')
    .option(
      '--reference <reference>',
      'a KMS key by id, ARN or alias; default: the key of this id in the slot',
    )
    .option('--tag <tag>', 'a tag; may be repeated', several)
    .action(adopt);
  shared(keys.command('tag').description('give a key its tags anew; policies and grants go by them'))
    .argument('<key>')
    .argument('[tags...]', 'all that it shall have; none to take them away')
    .action(tag);
  shared(keys.command('disable').description('stop a key from signing').argument('<key>')).action(
    act('disable'),
  );
  shared(keys.command('enable').description('let a key sign again').argument('<key>')).action(act('enable'));
  shared(keys.command('export').description('write a key into a Solana key file').argument('<key>'))
    .requiredOption('--output <file>', 'a file that does not exist yet')
    .requiredOption('--approval <id>', 'the approval of others')
    .action(exportKey);
  shared(keys.command('destroy').description('remove a key from its slot for good').argument('<key>'))
    .requiredOption('--approval <id>', 'the approval of others')
    .action(destroy);
  shared(keys.command('list').description('every key'))
    .option('--slot <slot>', 'only the keys of this slot')
    .action(list);
  shared(keys.command('show').description('one key in full').argument('<key>')).action(show);
}

type SlotOptions = SharedOptions & { slot: string; tag?: string[] };

const several = (value: string, values: string[] = []): string[] => [...values, value];

async function generate(id: string, { slot, tag: tags, ...options }: SlotOptions): Promise<void> {
  const body = { id, slot, tags };
  printKey(await new Connection(configOf(options)).post<KeyView>('/v1/keys', body), options);
}

async function importKey(
  id: string,
  { slot, file, tag: tags, ...options }: SlotOptions & { file: string },
): Promise<void> {
  const body = { slot, tags, ...materialOf(fileText(file)) };
  printKey(await new Connection(configOf(options)).post<KeyView>(`${pathOf(id)}/import`, body), options);
}

async function adopt(
  id: string,
  { slot, reference, tag: tags, ...options }: SlotOptions & { reference?: string },
): Promise<void> {
  const body = { slot, reference, tags };
  printKey(await new Connection(configOf(options)).post<KeyView>(`${pathOf(id)}/adopt`, body), options);
}

async function tag(id: string, tags: readonly string[], options: SharedOptions): Promise<void> {
  printKey(await new Connection(configOf(options)).put<KeyView>(`${pathOf(id)}/tags`, { tags }), options);
}

const act =
  (verb: 'disable' | 'enable') =>
  async (id: string, options: SharedOptions): Promise<void> => {
    printKey(await new Connection(configOf(options)).post<KeyView>(`${pathOf(id)}/${verb}`, {}), options);
  };

/** The file is made before the key is asked for: the approval is used up then, and the key must have a place. */
async function exportKey(
  id: string,
  { output, approval, ...options }: SharedOptions & { output: string; approval: string },
): Promise<void> {
  const connection = new Connection(configOf(options));
  using file = claimKeyFile(output);
  const answer = await connection.post<KeyView & { secretKey: number[] }>(
    `${pathOf(id)}/export`,
    {},
    { approval },
  );
  const { secretKey, ...key } = answer;
  file.write(`${JSON.stringify(secretKey)}\n`);
  secretKey.fill(0);
  if (options.json) printJson({ ...key, output });
  else print(`${id} (${key.publicKey}) was written to ${output}. It is a copy: the slot still has the key.`);
}

async function destroy(
  id: string,
  { approval, ...options }: SharedOptions & { approval: string },
): Promise<void> {
  const path = `${pathOf(id)}/destroy`;
  printKey(await new Connection(configOf(options)).post<KeyView>(path, {}, { approval }), options);
}

/** A new file, mode 0600, that goes away again when nothing was written. KEY_FILE_UNWRITABLE. */
function claimKeyFile(path: string): { write(text: string): void } & Disposable {
  const guarded = <T>(work: () => T): T => {
    try {
      return work();
    } catch (cause) {
      throw new KeyslotError('KEY_FILE_UNWRITABLE', `${path} cannot be written, or exists.`, { cause });
    }
  };
  const file = guarded(() => openSync(path, 'wx', 0o600));
  let written = false;
  return {
    write: text =>
      guarded(() => {
        writeSync(file, text);
        fsyncSync(file);
        written = true;
      }),
    [Symbol.dispose]: () => {
      closeSync(file);
      if (!written) rmSync(path, { force: true });
    },
  };
}

const pathOf = (id: string): string => `/v1/keys/${encodeURIComponent(id)}`;

/** The forms in which Solana tools write a key. KEY_MATERIAL_INVALID, without repeating what was read. */
function materialOf(text: string): { secretKey: unknown } | { seed: string } {
  const trimmed = text.trim();
  if (trimmed.startsWith('[')) return { secretKey: keyFileArray(trimmed) };
  if (/^[0-9a-f]{64}$/i.test(trimmed)) return { seed: encodeBase64(Buffer.from(trimmed, 'hex')) };
  const base58 = decodeBase58(trimmed);
  if (base58?.length === 64) return { secretKey: trimmed };
  if (base58?.length === 32) return { seed: encodeBase64(base58) };
  return { seed: trimmed };
}

function keyFileArray(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The parser's message would quote the key.
    throw new KeyslotError('KEY_MATERIAL_INVALID', 'The key file is not a JSON array of numbers.');
  }
}

async function list(options: SharedOptions & { slot?: string }): Promise<void> {
  const connection = new Connection(configOf(options));
  const keys: KeyView[] = [];
  let cursor: string | undefined;
  do {
    const query = new URLSearchParams({
      limit: '500',
      ...(options.slot ? { slot: options.slot } : {}),
      ...(cursor ? { cursor } : {}),
    });
    const page = await connection.get<{ keys: KeyView[]; next?: string }>(`/v1/keys?${query}`);
    keys.push(...page.keys);
    cursor = page.next;
  } while (cursor);
  if (options.json) return printJson({ keys });
  const rows = keys.map(key => [key.id, key.slot, key.publicKey, key.custody, key.state]);
  print(table(['KEY', 'SLOT', 'ADDRESS', 'CUSTODY', 'STATE'], rows));
}

async function show(id: string, options: SharedOptions): Promise<void> {
  printKey(await new Connection(configOf(options)).get<KeyView>(pathOf(id)), options);
}

function printKey(key: KeyView, options: SharedOptions): void {
  if (options.json) {
    printJson(key);
    return;
  }
  const { attributes, tags, ...plain } = key;
  print(listing({ ...plain, tags: tags.join(', ') || '-', ...attributes }));
}
