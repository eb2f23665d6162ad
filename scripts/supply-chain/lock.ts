import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The rules of package-lock.json and of what is installed, as lists of what breaks them. */

export interface LockedPackage {
  readonly version?: string;
  readonly resolved?: string;
  readonly integrity?: string;
  readonly license?: string;
  readonly link?: boolean;
  readonly dev?: boolean;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly optional?: boolean;
  readonly os?: readonly string[];
  readonly hasInstallScript?: boolean;
}

export interface Lock {
  readonly lockfileVersion: number;
  readonly packages: Readonly<Record<string, LockedPackage>>;
}

/** As much of a package.json as says what an installation does. */
export interface Manifest {
  readonly scripts?: Readonly<Record<string, string>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly allowScripts?: Readonly<Record<string, boolean>>;
}

/** Every package comes from a registry, by version and hash, and not from an address that the lock file names. */
export function lockFaults({ lockfileVersion, packages }: Lock): readonly string[] {
  const locked = Object.entries(packages).filter(([path]) => path !== '');
  return [
    ...(lockfileVersion === 3 ? [] : [`lockfileVersion is ${lockfileVersion}, not 3`]),
    ...locked.flatMap(([path, each]) => [
      ...(/(^|\/)node_modules\/(@[a-z0-9._-]+\/)?[a-z0-9._-]+$/i.test(path)
        ? []
        : [`${path} is not a package`]),
      ...(each.link ? [`${path} is a link`] : []),
      ...(each.resolved === undefined ? [] : [`${path} names where it comes from: ${each.resolved}`]),
      ...(/^\d+\.\d+\.\d+(-[0-9a-z.-]+)?(\+[0-9a-z.-]+)?$/i.test(each.version ?? '')
        ? []
        : [`${path} has the version ${each.version}`]),
      ...(hasHash(each) || isElsewhere(each) ? [] : [`${path} has no SHA-512`]),
    ]),
  ];
}

/** Direct dependencies are exact versions of the registry: no ranges, tags, addresses, folders or other names. */
export function manifestFaults(manifest: Manifest): readonly string[] {
  const { dependencies, devDependencies, optionalDependencies } = manifest;
  return Object.entries({ ...dependencies, ...devDependencies, ...optionalDependencies })
    .filter(([, version]) => !/^\d+\.\d+\.\d+$/.test(version))
    .map(([name, version]) => `${name} is asked for as ${version}, not as one version`);
}

/**
 * Whoever wants to run something at installation is in `allowScripts`, with yes or no. What the lock file does not
 * say, because a registry need not tell it, is read in the package itself: scripts, or a binding.gyp, which npm
 * compiles without a script.
 */
export function scriptFaults(manifest: Manifest, wanting: readonly string[]): readonly string[] {
  const listed = Object.entries(manifest.allowScripts ?? {});
  const names = listed.map(([entry]) => nameOf(entry));
  return [
    ...wanting
      .filter(each => !listed.some(([entry]) => entry === each || entry === nameOf(each)))
      .map(each => `${each} wants to run at installation and is not in allowScripts`),
    ...listed
      .filter(([entry, allowed]) => allowed && nameOf(entry) === entry)
      .map(([entry]) => `${entry} may run whatever version it is: name the one that was reviewed`),
    ...names
      .filter(name => !wanting.some(each => nameOf(each) === name))
      .map(name => `${name} is in allowScripts and wants to run nothing`),
  ];
}

/** Packages that want to run something at installation, as name@version: by the lock file, and by what is installed. */
export function wantingScripts(root: string, { packages }: Lock): readonly string[] {
  const locked = Object.entries(packages).filter(([path]) => path !== '');
  const wanting = locked.filter(
    ([path, each]) => each.hasInstallScript === true || runsAtInstallation(join(root, path)),
  );
  return [...new Set(wanting.map(([path, { version }]) => `${packageName(path)}@${version}`))].sort();
}

/**
 * Places of the packages that run in production: what package.json asks for, what that asks for, and so on, found as
 * Node finds them. Not by the lock file's own marks, from which npm forgets packages that it moved.
 */
export function productionPlaces({ packages }: Lock): readonly string[] {
  const found = new Set<string>();
  const ahead = [''];
  for (let place = ahead.pop(); place !== undefined; place = ahead.pop()) {
    const { dependencies, optionalDependencies, peerDependencies } = packages[place] ?? {};
    for (const name of Object.keys({
      ...dependencies,
      ...optionalDependencies,
      ...(place && peerDependencies),
    })) {
      const next = lookedUp(packages, place, name);
      if (next === undefined || found.has(next)) continue; // absent: optional, or for another platform
      found.add(next);
      ahead.push(next);
    }
  }
  return [...found].sort();
}

function lookedUp(packages: Lock['packages'], from: string, name: string): string | undefined {
  for (let folder = from; ; folder = folder.slice(0, Math.max(0, folder.lastIndexOf('/node_modules/')))) {
    const place = `${folder && `${folder}/`}node_modules/${name}`;
    if (place in packages) return place;
    if (folder === '') return undefined;
  }
}

export const packageName = (path: string): string => path.slice(path.lastIndexOf('node_modules/') + 13);

export const readLock = (root: string): Lock =>
  JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as Lock;

export const readManifest = (root: string): Manifest =>
  JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest;

const hasHash = ({ integrity }: LockedPackage): boolean =>
  /^sha512-[A-Za-z0-9+/]{86}==$/.test(integrity ?? '');

/** Built for another platform, and for development alone: nothing that is installed here or runs in production. */
const isElsewhere = ({ dev, optional, os }: LockedPackage): boolean =>
  dev === true && optional === true && os !== undefined;

const nameOf = (entry: string): string => {
  const at = entry.lastIndexOf('@');
  return at > 0 ? entry.slice(0, at) : entry;
};

function runsAtInstallation(folder: string): boolean {
  const manifest = contentOf(join(folder, 'package.json'));
  if (manifest === undefined) return false;
  const { scripts = {} } = JSON.parse(manifest) as Manifest;
  const named = ['preinstall', 'install', 'postinstall'].some(name => name in scripts);
  return named || contentOf(join(folder, 'binding.gyp')) !== undefined;
}

function contentOf(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
