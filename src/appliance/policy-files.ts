import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse as parseYaml, YAMLParseError } from 'yaml';
import { KeyslotError } from '../foundation/errors.ts';
import { parsePolicy } from '../policy/document.ts';
import { type Config, inHome } from './config.ts';

/**
 * The policy documents of the configuration's folder, each checked as the custodian will check it. A folder that is
 * not there has none. POLICY_INVALID names the file and the field.
 */
export function policyDocuments(config: Config): readonly PolicyDocumentShape[] {
  const folder = inHome(config, config.policies.folder);
  return namesIn(folder).map(name => policyDocument(join(folder, name)));
}

/** One document, from a YAML or JSON file. POLICY_INVALID. */
export function policyDocument(path: string): PolicyDocumentShape {
  let document: unknown;
  try {
    document = parseYaml(readFileSync(path, 'utf8'));
  } catch (cause) {
    const why = cause instanceof YAMLParseError ? (cause.message.split('\n')[0] ?? '') : 'It cannot be read.';
    throw new KeyslotError('POLICY_INVALID', `${path}: ${why}`, { cause });
  }
  try {
    parsePolicy(document);
  } catch (thrown) {
    if (!(thrown instanceof KeyslotError)) throw thrown;
    throw new KeyslotError(thrown.code, `${path}: ${thrown.message}`, { cause: thrown });
  }
  return document as PolicyDocumentShape;
}

export type PolicyDocumentShape = Readonly<Record<string, unknown>>;

function namesIn(folder: string): readonly string[] {
  try {
    return readdirSync(folder)
      .filter(name => /\.(ya?ml|json)$/.test(name) && !name.startsWith('.'))
      .sort();
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw new KeyslotError('POLICY_INVALID', `${folder}: The folder cannot be read.`, { cause });
  }
}
