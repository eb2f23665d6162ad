import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { checkedConfig } from '../../src/appliance/config.ts';

/** What a reader copies from docs/clients.md works. */

const root = resolve(import.meta.dirname, '..', '..');
const page = readFileSync(join(root, 'docs', 'clients.md'), 'utf8');

const blocks = (language: string): readonly string[] =>
  [...page.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\`$`, 'gms'))].map(([, text = '']) => text);

/** What the compiler says of modules that stand, for it alone, beside this file. */
function complaints(modules: Readonly<Record<string, string>>): readonly string[] {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  const host = ts.createCompilerHost(options);
  const ours = new Map(
    Object.entries(modules).map(([name, text]) => [join(import.meta.dirname, name), text]),
  );
  const { fileExists, readFile, getSourceFile } = host;
  host.fileExists = path => ours.has(path) || fileExists(path);
  host.readFile = path => ours.get(path) ?? readFile(path);
  host.getSourceFile = (path, how, ...more) => {
    const text = ours.get(path);
    return text === undefined ? getSourceFile(path, how, ...more) : ts.createSourceFile(path, text, how);
  };
  const program = ts.createProgram([...ours.keys()], options, host);
  const found = [...ours.keys()].flatMap(path => {
    const source = program.getSourceFile(path);
    return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)];
  });
  return found.map(
    each => `${each.file?.fileName}: ${ts.flattenDiagnosticMessageText(each.messageText, '\n')}`,
  );
}

describe('docs/clients.md', () => {
  it('has code that the compiler accepts, and that imports the package as a program does', () => {
    const [client = '', ...others] = blocks('ts');
    expect(client).toContain('// keyslot.ts');
    expect(others).toHaveLength(5);
    const modules = Object.fromEntries(others.map((text, at) => [`block-${at}.ts`, text]));
    expect(complaints({ 'keyslot.ts': client, ...modules })).toEqual([]);
    const wrong = client.replace('url:', 'address:');
    expect(complaints({ 'keyslot.ts': wrong })).toHaveLength(1);
  });

  it('has configurations that the appliance accepts in production', () => {
    const base = {
      tls: { certificate: 'tls/server.crt', key: 'tls/server.key', clientCa: 'tls/ca.crt' },
      audit: { unsigned: true },
      slots: [
        {
          id: 'main',
          engine: 'pkcs11',
          pin: { file: 'secrets/user.pin' },
          access: 'identity',
          settings: { module: '/opt/vendor/lib/libvendor_pkcs11.so', tokenLabel: 'main' },
        },
      ],
    };
    const configs = blocks('yaml').map(text =>
      checkedConfig({ ...base, ...parse(text) }, '/home', 'the page'),
    );
    expect(configs.map(({ profile, identities }) => ({ profile, number: identities.length }))).toEqual([
      { profile: 'production', number: 2 },
      { profile: 'production', number: 2 },
    ]);
  });

  it('has the lines of the script that runs as an example', () => {
    const [shown = ''] = blocks('sh');
    expect(shown).toContain('curl');
    expect(readFileSync(join(root, 'examples', 'curl', 'sign-transaction.sh'), 'utf8')).toContain(shown);
  });

  it('links to headings and files that are there', () => {
    const headings = [...page.matchAll(/^## (.*)$/gm)].map(([, title = '']) =>
      title
        .toLowerCase()
        .replace(/[^a-z0-9 -]/g, '')
        .replaceAll(' ', '-'),
    );
    const links = [...page.matchAll(/\]\(([^)]+)\)/g)].map(([, target = '']) => target);
    expect(links.length).toBeGreaterThan(8);
    for (const link of links) {
      if (link.startsWith('#')) expect(headings).toContain(link.slice(1));
      else expect(readFileSync(join(root, 'docs', link), 'utf8')).not.toBe('');
    }
  });
});
