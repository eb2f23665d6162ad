import { readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, relative, resolve } from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';

/**
 * The rules of the house, as a test that says why. Rooms are folders of `src/`; a room imports only rooms of a
 * lower rank, so that whoever reads one never has to read what stands above it.
 */

const root = resolve(import.meta.dirname, '..');
const src = join(root, 'src');

const engines = [
  'engines/pkcs11',
  'engines/encrypted-file',
  'engines/hsm-sim',
  'engines/kms',
  'engines/mpc',
  'engines/memory',
];

const belowAppliance = [
  'foundation',
  'custody',
  'wire',
  'solana',
  'sealing',
  ...engines,
  'policy',
  'audit',
  'store',
  'custodian',
  'gateway',
];

/** What each room may import besides itself and node:*. The order is the order of the ranks. */
const rooms: Readonly<Record<string, readonly string[]>> = {
  foundation: [],
  custody: ['foundation'],
  wire: ['foundation'],
  solana: ['foundation'],
  sealing: ['foundation', 'custody'],
  ...Object.fromEntries(engines.map(engine => [engine, ['foundation', 'custody', 'sealing']])),
  policy: ['foundation', 'custody', 'solana'],
  audit: ['foundation', 'custody'],
  store: ['foundation', 'custody'],
  custodian: ['foundation', 'custody', 'wire', 'solana', 'policy', 'audit', 'store'],
  gateway: ['foundation', 'wire'],
  appliance: belowAppliance,
  cli: [...belowAppliance, 'appliance'],
  // Runs where there is no Node: what it imports from wire is types (see below).
  client: ['foundation', 'wire'],
  // The library's public face: custody without the appliance.
  'index.ts': ['foundation', 'custody', ...engines],
};

/** Each third-party package lives in one room, so that replacing it is a change in one place. */
const packageRooms: Readonly<Record<string, readonly string[]>> = {
  pkcs11js: ['engines/pkcs11'],
  'graphene-pk11': ['engines/pkcs11'],
  '@aws-sdk/client-kms': ['engines/kms'],
  '@aws-sdk/client-cloudhsm-v2': ['engines/pkcs11'],
  express: ['gateway'],
  jose: ['custodian'],
  // The one exception: settings of an engine are parsed where they are used, and become one JSON Schema.
  zod: [
    'wire',
    'appliance',
    'sealing/settings.ts',
    'policy/document.ts',
    'engines/pkcs11/settings.ts',
    'engines/pkcs11/profile.ts',
    'engines/encrypted-file/settings.ts',
    'engines/hsm-sim/settings.ts',
    'engines/kms/settings.ts',
    'engines/mpc/settings.ts',
    'engines/memory/settings.ts',
  ],
  yaml: ['appliance'],
  pino: ['appliance'],
  '@opentelemetry/api': ['appliance'],
  '@opentelemetry/sdk-trace': ['appliance'],
  '@opentelemetry/resources': ['appliance'],
  '@opentelemetry/exporter-trace-otlp-http': ['appliance'],
  '@peculiar/x509': ['appliance'],
  'reflect-metadata': ['appliance'],
  '@solana/web3.js': ['custody/key-provider.ts', 'client/web3-wallet.ts'],
  undici: ['client/node.ts'],
  commander: ['cli'],
  'age-encryption': ['appliance'],
  'modern-tar': ['appliance'],
};

interface Import {
  readonly file: string;
  readonly specifier: string;
}

const files = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter(name => name.endsWith('.ts'))
  .sort();

const imports: readonly Import[] = files.flatMap(file =>
  ts
    .preProcessFile(readFileSync(join(src, file), 'utf8'), true, true)
    .importedFiles.map(({ fileName }) => ({ file, specifier: fileName })),
);

/** The room of a file of `src/`, or of the file that a relative import leads to. */
function roomOf(file: string): string {
  const parts = file.split('/');
  return parts[0] === 'engines' ? parts.slice(0, 2).join('/') : (parts[0] ?? '');
}

const targetOf = ({ file, specifier }: Import): string =>
  relative(src, resolve(src, dirname(file), specifier));

const isRelative = ({ specifier }: Import): boolean => specifier.startsWith('.');
const isNode = ({ specifier }: Import): boolean =>
  specifier.startsWith('node:') || builtinModules.includes(specifier);

describe('the rooms', () => {
  it('hold every file of src: a file without a room has no place in the order', () => {
    expect(files.filter(file => !(roomOf(file) in rooms))).toEqual([]);
  });

  it('import only rooms of a lower rank', () => {
    const breaches = imports.filter(isRelative).filter(each => {
      const from = roomOf(each.file);
      const to = roomOf(targetOf(each));
      return from !== to && !rooms[from]?.includes(to);
    });
    expect(
      breaches.map(each => `${each.file} imports ${each.specifier}`),
      'a room imports only rooms below it; move the code down, or hand it in from above',
    ).toEqual([]);
  });

  it('leave zod out of the client, which takes only types of wire', () => {
    const taken = files
      .filter(file => roomOf(file) === 'client')
      .filter(file =>
        /import (?!type )[^;]*? from '\.\.\/wire\//.test(readFileSync(join(src, file), 'utf8')),
      );
    expect(taken, 'a browser would have to load the whole parser for it').toEqual([]);
  });

  it('never import in a circle', () => {
    const edges = Map.groupBy(imports.filter(isRelative), each => each.file);
    const state = new Map<string, 'open' | 'done'>();
    const circles: string[] = [];
    const visit = (file: string, path: readonly string[]): void => {
      if (state.get(file) === 'done') return;
      if (state.get(file) === 'open') {
        circles.push([...path.slice(path.indexOf(file)), file].join(' → '));
        return;
      }
      state.set(file, 'open');
      for (const each of edges.get(file) ?? []) visit(targetOf(each), [...path, file]);
      state.set(file, 'done');
    };
    for (const file of files) visit(file, []);
    expect(circles).toEqual([]);
  });

  it('write relative imports with their .ts ending, which is how Node finds them', () => {
    expect(imports.filter(isRelative).filter(each => !each.specifier.endsWith('.ts'))).toEqual([]);
  });

  it('contain no file that nothing uses', () => {
    const used = new Set(imports.filter(isRelative).map(targetOf));
    // Entries of processes, and what only scripts and tests start from.
    const entries = new Set([
      'index.ts',
      'client/index.ts',
      'client/node.ts',
      'client/web3-wallet.ts',
      'cli/main.ts',
      'appliance/custodian-process.ts',
      'appliance/gateway-process.ts',
      'appliance/token-process.ts',
      'appliance/drill-process.ts',
      'appliance/development.ts',
    ]);
    expect(files.filter(file => !used.has(file) && !entries.has(file))).toEqual([]);
  });
});

describe('third-party packages', () => {
  it('are imported in their one room', () => {
    const foreign = imports.filter(each => !isRelative(each) && !isNode(each));
    const breaches = foreign.filter(({ file, specifier }) => {
      const name = specifier
        .split('/')
        .slice(0, specifier.startsWith('@') ? 2 : 1)
        .join('/');
      const allowed = packageRooms[name] ?? [];
      return !allowed.includes(roomOf(file)) && !allowed.includes(file);
    });
    expect(
      breaches.map(({ file, specifier }) => `${file} imports ${specifier}`),
      'one package, one room: ask the room that owns it, or give the package a room here',
    ).toEqual([]);
  });

  it('are declared, used, and have their reason in docs/dependencies.md', () => {
    const { dependencies, peerDependencies } = JSON.parse(
      readFileSync(join(root, 'package.json'), 'utf8'),
    ) as Record<'dependencies' | 'peerDependencies', Record<string, string>>;
    const names = Object.keys({ ...dependencies, ...peerDependencies });
    expect(names.sort()).toEqual(Object.keys(packageRooms).sort());
    const reasons = readFileSync(join(root, 'docs', 'dependencies.md'), 'utf8');
    for (const name of names) expect(reasons, name).toContain(`\`${name}\``);
  });
});

describe('the source', () => {
  const texts = files.map(file => [file, readFileSync(join(src, file), 'utf8')] as const);
  const offenders = (pattern: RegExp, except: readonly string[] = []) =>
    texts.filter(([file, text]) => pattern.test(text) && !except.includes(file)).map(([file]) => file);

  it('reads the environment in one place, so that what configures Keyslot can be read in one place', () => {
    expect(offenders(/process\.env\b/, ['appliance/environment.ts'])).toEqual([]);
  });

  it('has no bare catch that swallows what it does not know', () => {
    expect(offenders(/catch\s*(\([^)]*\)\s*)?\{\s*\}/)).toEqual([]);
  });

  it('takes no randomness that can be guessed', () => {
    expect(offenders(/Math\.random/)).toEqual([]);
  });

  it('silences no type checker', () => {
    expect(offenders(/@ts-(ignore|nocheck|expect-error)|\bas any\b|:\s*any\b/)).toEqual([]);
  });

  it('runs no synchronous key derivation, which would stop every other request', () => {
    expect(offenders(/scryptSync|pbkdf2Sync/)).toEqual([]);
  });

  it('gives every engine folder the same front door and the same file names', () => {
    const names = ['index.ts', 'settings.ts', 'engine.ts', 'slot.ts'];
    for (const engine of readdirSync(join(src, 'engines'))) {
      expect(readdirSync(join(src, 'engines', engine)), engine).toEqual(expect.arrayContaining(names));
    }
  });
});
