import { beforeAll, describe, expect, it } from 'vitest';
import { licensePage, productionLicenses, unacceptable } from '../../scripts/supply-chain/licenses.ts';
import {
  type Lock,
  lockFaults,
  type Manifest,
  manifestFaults,
  productionPlaces,
  readLock,
  readManifest,
  scriptFaults,
  wantingScripts,
} from '../../scripts/supply-chain/lock.ts';
import { productionSbom, type Sbom, sbomFaults } from '../../scripts/supply-chain/sbom.ts';
import { root, textOf } from './files.ts';

const lock = readLock(root);
const manifest = readManifest(root);

/** The lock file with one package more, or another one in its place. */
const withPackage = (path: string, changes: object): Lock => ({
  ...lock,
  packages: { ...lock.packages, [path]: { ...lock.packages['node_modules/zod'], ...changes } },
});

/** The same, and package.json asks for it. */
function withRuntimePackage(name: string, changes: object): Lock {
  const more = withPackage(`node_modules/${name}`, { version: '1.0.0', ...changes });
  const own = more.packages[''];
  const dependencies = { ...own?.dependencies, [name]: '1.0.0' };
  return { ...more, packages: { ...more.packages, '': { ...own, dependencies } } };
}

describe('the lock file', () => {
  it('names versions and hashes, and no address', () => {
    expect(lockFaults(lock)).toEqual([]);
  });

  it.each([
    ['an address of another registry', { resolved: 'https://elsewhere.example/zod.tgz' }],
    ['a git repository', { resolved: 'git+ssh://git@elsewhere.example/zod.git#0a1b2c' }],
    ['a folder', { link: true }],
    ['no hash', { integrity: undefined }],
    ['a weak hash', { integrity: 'sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=' }],
    ['no version', { version: undefined }],
    ['a branch for a version', { version: 'github:elsewhere/zod' }],
    ['no hash and the excuse of being optional', { integrity: undefined, optional: true, os: ['win32'] }],
  ])('with %s is refused', (_, changes) => {
    expect(lockFaults(withPackage('node_modules/zod', changes))).toHaveLength(1);
  });

  it('locks every direct dependency to the one version that package.json asks for', () => {
    expect(manifestFaults(manifest)).toEqual([]);
    const { dependencies, devDependencies, optionalDependencies } = manifest;
    for (const [name, version] of Object.entries({
      ...dependencies,
      ...devDependencies,
      ...optionalDependencies,
    })) {
      expect(lock.packages[`node_modules/${name}`]?.version, name).toBe(version);
    }
  });

  it.each([
    '^4.6.7',
    'latest',
    '*',
    'github:elsewhere/zod',
    'file:../zod',
    'npm:other@4.6.7',
    'https://elsewhere.example/zod.tgz',
  ])('takes no direct dependency that is asked for as %s', version => {
    expect(manifestFaults({ ...manifest, dependencies: { zod: version } })).toHaveLength(1);
  });
});

describe('production', () => {
  const places = productionPlaces(lock);

  it('is what package.json asks for and what that asks for, each found where Node finds it', () => {
    const direct = Object.keys({ ...manifest.dependencies, ...manifest.optionalDependencies });
    expect(places).toEqual(expect.arrayContaining(direct.map(name => `node_modules/${name}`)));
    const marked = Object.keys(lock.packages).filter(path => path !== '' && !lock.packages[path]?.dev);
    expect(places.filter(place => !marked.includes(place))).toEqual([]);
  });

  it('has nothing of development in it, not even what its optional peers are tested with', () => {
    const names = Object.keys(manifest.devDependencies ?? {});
    expect(names.filter(name => places.includes(`node_modules/${name}`))).toEqual([]);
  });
});

describe('scripts of packages', () => {
  const wanting = wantingScripts(root, lock);

  it('are listed, and one alone is run: the compilation of pkcs11js', () => {
    expect(scriptFaults(manifest, wanting)).toEqual([]);
    const allowed = Object.entries(manifest.allowScripts ?? {}).filter(([, may]) => may);
    expect(allowed).toEqual([[`pkcs11js@${manifest.dependencies?.pkcs11js}`, true]]);
  });

  it('are found in the lock file and in what is installed: a binding.gyp is one that npm does not call one', () => {
    expect(lock.packages['node_modules/pkcs11js']?.hasInstallScript).toBeUndefined();
    expect(wanting).toContain(`pkcs11js@${manifest.dependencies?.pkcs11js}`);
    const more = withPackage('node_modules/new-one', { version: '1.0.0', hasInstallScript: true });
    expect(wantingScripts(root, more)).toContain('new-one@1.0.0');
  });

  it('that nobody has listed are refused, in a new package and in a new version of one that may', () => {
    expect(scriptFaults(manifest, [...wanting, 'new-one@1.0.0'])).toHaveLength(1);
    const renewed = wanting.map(each => (each.startsWith('pkcs11js@') ? 'pkcs11js@99.0.0' : each));
    expect(scriptFaults(manifest, renewed)).toHaveLength(1);
  });

  it('are allowed for a version, not for whatever comes under the name', () => {
    const loose: Manifest = { ...manifest, allowScripts: { ...manifest.allowScripts, pkcs11js: true } };
    expect(scriptFaults(loose, wanting)).toHaveLength(1);
  });

  it('that are no more are not allowed any more', () => {
    expect(
      scriptFaults({ ...manifest, allowScripts: { ...manifest.allowScripts, gone: false } }, wanting),
    ).toHaveLength(1);
  });

  it('are off in every place that installs packages', () => {
    for (const file of ['scripts/setup', 'Dockerfile', 'docs/ops/packaging.md', 'docs/ops/supply-chain.md']) {
      const installing = textOf(file).match(/npm (ci|install|i) --.*/g) ?? [];
      expect(installing.length, file).toBeGreaterThan(0);
      expect(installing.filter(command => !command.includes('--ignore-scripts'))).toEqual([]);
    }
  });
});

describe('direct dependencies', () => {
  it('each have their reason in docs/dependencies.md, those of development too', () => {
    const page = textOf('docs/dependencies.md');
    const { dependencies, devDependencies, optionalDependencies, peerDependencies } = manifest;
    const names = Object.keys({
      ...dependencies,
      ...devDependencies,
      ...optionalDependencies,
      ...peerDependencies,
    });
    expect(names.filter(name => !page.includes(`\`${name}\``))).toEqual([]);
  });
});

describe('the licences of what runs', () => {
  const licenses = productionLicenses(lock);

  it('ask for nothing but their notice', () => {
    expect(licenses.length).toBeGreaterThan(Object.keys(manifest.dependencies ?? {}).length);
    expect(unacceptable(licenses)).toEqual([]);
  });

  it.each(['GPL-3.0-only', 'AGPL-3.0', 'UNLICENSED', undefined])('may not be %s', license => {
    const more = productionLicenses(withRuntimePackage('new-one', { license }));
    expect(unacceptable(more)).toHaveLength(1);
  });

  it('are listed package by package', () => {
    const page = licensePage(licenses);
    for (const { name, version } of licenses) expect(page).toContain(`| ${name} | ${version} |`);
  });
});

describe('the SBOM', () => {
  let sbom: Sbom;
  beforeAll(async () => {
    sbom = await productionSbom(root);
  });

  it('is CycloneDX and describes this package', () => {
    expect(sbom).toMatchObject({ bomFormat: 'CycloneDX', metadata: { component: { name: 'keyslot' } } });
  });

  it('has every package of production with its hash, and no other', () => {
    expect(sbomFaults(sbom, lock)).toEqual([]);
    expect(sbom.components.every(({ purl }) => purl.startsWith('pkg:npm/'))).toBe(true);
  });

  it('does not pass with a package missing or one too many', () => {
    expect(sbomFaults({ ...sbom, components: sbom.components.slice(1) }, lock)).toHaveLength(1);
    expect(sbomFaults(sbom, withRuntimePackage('new-one', {}))).toHaveLength(1);
  });
});
