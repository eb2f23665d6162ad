import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type Lock, type Manifest, packageName, productionPlaces, readLock } from './lock.ts';

/** As much of a CycloneDX document as is held against the lock file. */
export interface Sbom {
  readonly bomFormat: string;
  readonly specVersion: string;
  readonly metadata: { readonly component: { readonly name: string; readonly version: string } };
  readonly components: readonly {
    readonly name: string;
    readonly group?: string;
    readonly version: string;
    readonly purl: string;
    readonly hashes?: readonly { readonly alg: string; readonly content: string }[];
  }[];
}

/**
 * What `npm sbom` says of the production packages of a checkout. Needs npm 10.2 or newer, and no network. It is asked
 * about a lock file that has nothing else, because with `--omit dev` it also leaves out packages of production that
 * development uses too.
 */
export async function productionSbom(root: string): Promise<Sbom> {
  const scratch = mkdtempSync(join(tmpdir(), 'keyslot-sbom-'));
  const folder = join(scratch, 'keyslot'); // npm calls the document what the folder is called
  try {
    mkdirSync(folder);
    const { devDependencies: _, ...manifest } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest));
    writeFileSync(join(folder, 'package-lock.json'), JSON.stringify(productionLock(readLock(root))));
    const args = ['sbom', '--sbom-format=cyclonedx', '--package-lock-only', '--loglevel=error'];
    const { stdout } = await promisify(execFile)('npm', args, { cwd: folder, maxBuffer: 64 * 2 ** 20 });
    return JSON.parse(stdout) as Sbom;
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

function productionLock(lock: Lock): Lock {
  const { devDependencies: _, ...root } = lock.packages[''] as Manifest;
  const packages = productionPlaces(lock).map(place => [place, lock.packages[place]]);
  return { ...lock, packages: { '': root, ...Object.fromEntries(packages) } };
}

/** Production packages that a document leaves out, and what it has besides them. */
export function sbomFaults({ components }: Sbom, lock: Lock): readonly string[] {
  const expected = new Set(
    productionPlaces(lock).map(place => `${packageName(place)}@${lock.packages[place]?.version}`),
  );
  const found = new Set(components.map(each => `${fullName(each)}@${each.version}`));
  return [
    ...[...expected].filter(each => !found.has(each)).map(each => `${each} is not in the SBOM`),
    ...[...found]
      .filter(each => !expected.has(each))
      .map(each => `${each} is in the SBOM and not in production`),
    ...components
      .filter(each => !each.hashes?.some(({ alg }) => alg === 'SHA-512'))
      .map(each => `${fullName(each)} has no SHA-512 in the SBOM`),
  ];
}

const fullName = ({ name, group }: Sbom['components'][number]): string =>
  group && !name.startsWith('@') ? `${group}/${name}` : name;
