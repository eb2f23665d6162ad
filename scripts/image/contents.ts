import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { ImageConfig } from './buildah.ts';

/** What is wrong with an image, as far as its files and its configuration show it; nothing when it is as it should be. */
export function faultsOf(root: string, config: ImageConfig, secrets: readonly string[]): readonly string[] {
  const files = everyFile(root);
  return [
    ...files.filter(isUnwanted).map(path => `${path} is in the image: nothing but what runs belongs there`),
    ...files.filter(path => (modeOf(root, path) & 0o6000) !== 0).map(path => `${path} raises rights`),
    ...files
      .filter(path => !isLink(root, path) && path !== '/tmp' && (modeOf(root, path) & 0o002) !== 0)
      .map(path => `${path} can be written by everybody`),
    ...files.filter(path => isOthers(root, path)).map(path => `${path} belongs to the user that runs`),
    ...files.filter(path => dangles(root, path)).map(path => `${path} is a link to nothing`),
    ...files.filter(path => holds(root, path, secrets)).map(path => `${path} holds a secret of the build`),
    ...secrets
      .filter(secret => JSON.stringify(config).includes(secret))
      .map(() => 'its configuration holds a secret of the build'),
    ...(/^[1-9]\d*:[1-9]\d*$/.test(config.User) ? [] : [`it runs as ${config.User || 'root'}`]),
    ...(Object.keys(config.Volumes).length === 1 ? [] : ['it has not exactly one volume']),
    ...(config.Healthcheck.Test[0] === 'CMD' ? [] : ['its health check needs a shell']),
  ];
}

/** Packages in an image that the lock file does not have in production. */
export function strayPackages(root: string, production: readonly string[]): readonly string[] {
  const places = everyFile(join(root, app))
    .map(path => /^\/(.*node_modules\/(?:@[^/]+\/)?[^/@]+)\/package\.json$/.exec(path)?.[1])
    .filter(place => place !== undefined);
  return places
    .filter(place => !production.includes(place))
    .map(place => `${place} is no package of production`);
}

const app = 'opt/keyslot';

/** Size and number of what is in it. */
export function sizeOf(root: string): { readonly files: number; readonly bytes: number } {
  const sizes = everyFile(root).map(path => lstatSync(join(root, path)).size);
  return { files: sizes.length, bytes: sizes.reduce((sum, size) => sum + size, 0) };
}

const everyFile = (root: string): readonly string[] =>
  readdirSync(root, { recursive: true, encoding: 'utf8' }).map(path => `/${path}`);

/** Shells, compilers, package managers, interpreters, and what only raises rights. */
const unwanted =
  /^(sh|bash|dash|zsh|busybox|env|find|xargs|apt.*|dpkg.*|npm|npx|corepack|node-gyp|gcc.*|g\+\+.*|c\+\+.*|cc|cpp|ld|as|make|python.*|perl.*|su|sudo|mount|umount|passwd|curl|wget|tsc|biome|vitest)$/;
const isUnwanted = (path: string): boolean =>
  (/\/s?bin\//.test(path) && unwanted.test(basename(path))) ||
  /^\/(build|root|home)\//.test(path) ||
  /\/node_modules\/(typescript|vitest|litesvm.*|@biomejs|fast-check|\.bin)$/.test(path);

const modeOf = (root: string, path: string): number => lstatSync(join(root, path)).mode;
const isLink = (root: string, path: string): boolean => lstatSync(join(root, path)).isSymbolicLink();

/** The data volume is the one place that the user owns. */
const isOthers = (root: string, path: string): boolean =>
  lstatSync(join(root, path)).uid !== 0 && !`${path}/`.startsWith('/var/lib/keyslot/');

function dangles(root: string, path: string): boolean {
  if (!isLink(root, path)) return false;
  const target = readlinkSync(join(root, path));
  const at = target.startsWith('/') ? join(root, target) : join(root, path, '..', target);
  return lstatSync(at, { throwIfNoEntry: false }) === undefined;
}

function holds(root: string, path: string, secrets: readonly string[]): boolean {
  if (!lstatSync(join(root, path)).isFile()) return false;
  const bytes = readFileSync(join(root, path));
  return secrets.some(secret => bytes.includes(secret));
}
