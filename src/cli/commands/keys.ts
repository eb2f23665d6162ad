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
    .action(generate);
  shared(keys.command('import').description('take an existing Solana key into a slot').argument('<key>'))
    .requiredOption('--slot <slot>', 'the slot that will hold it')
    .requiredOption(
      '--file <file>',
      'a Solana key file, base58 of 64 bytes, or a 32-byte seed; - for standard input',
    )
    .action(importKey);
  shared(
    keys.command('adopt').description('take in a key that a slot or its KMS holds already').argument('<key>'),
  )
    .requiredOption('--slot <slot>', 'the slot that holds it')
    .option(
      '--reference <reference>',
      'a KMS key by id, ARN or alias; default: the key of this id in the slot',
    )
    .action(adopt);
  shared(keys.command('list').description('every key'))
    .option('--slot <slot>', 'only the keys of this slot')
    .action(list);
  shared(keys.command('show').description('one key in full').argument('<key>')).action(show);
}

async function generate(id: string, options: SharedOptions & { slot: string }): Promise<void> {
  printKey(
    await new Connection(configOf(options)).post<KeyView>('/v1/keys', { id, slot: options.slot }),
    options,
  );
}

async function importKey(id: string, options: SharedOptions & { slot: string; file: string }): Promise<void> {
  const body = { slot: options.slot, ...materialOf(fileText(options.file)) };
  const path = `/v1/keys/${encodeURIComponent(id)}/import`;
  printKey(await new Connection(configOf(options)).post<KeyView>(path, body), options);
}

async function adopt(id: string, options: SharedOptions & { slot: string; reference?: string }) {
  const { slot, reference } = options;
  const path = `/v1/keys/${encodeURIComponent(id)}/adopt`;
  const body = { slot, ...(reference === undefined ? {} : { reference }) };
  printKey(await new Connection(configOf(options)).post<KeyView>(path, body), options);
}

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
  printKey(
    await new Connection(configOf(options)).get<KeyView>(`/v1/keys/${encodeURIComponent(id)}`),
    options,
  );
}

function printKey(key: KeyView, options: SharedOptions): void {
  if (options.json) {
    printJson(key);
    return;
  }
  const { attributes, ...plain } = key;
  print(listing({ ...plain, ...attributes }));
}
