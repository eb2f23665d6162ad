import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Options, run } from './run.ts';

/**
 * The Debian base as a tar file, made with debootstrap from the mirror that apt of this machine is configured with.
 * It is what the official slim image is made of, less its name and digest; kept in the cache folder.
 */
export async function debianBase(cache: string, work: string, options: Options): Promise<string> {
  const file = join(cache, `debian-${suite}-${process.arch}.tar`);
  if (existsSync(file)) return file;
  const mirrors = await mirrorsOfApt();
  const root = join(work, 'base');
  mkdirSync(root, { recursive: true });
  await run(['debootstrap', '--variant=minbase', suite, root, mirrors.main], { ...options, bound_s: 900 });
  writeFileSync(join(root, 'etc/apt/sources.list'), sources(mirrors));
  // The packages that are unpacked in it need not survive a power cut.
  writeFileSync(join(root, 'etc/dpkg/dpkg.cfg.d/unsafe-io'), 'force-unsafe-io\n');
  rmSync(join(root, 'var/cache/apt'), { recursive: true });
  mkdirSync(join(root, 'var/cache/apt/archives/partial'), { recursive: true });
  mkdirSync(cache, { recursive: true, mode: 0o755 });
  await run(['tar', '--create', '--numeric-owner', '--file', `${file}.new`, '--directory', root, '.'], {
    ...options,
    bound_s: 120,
  });
  renameSync(`${file}.new`, file);
  rmSync(root, { recursive: true });
  return file;
}

/** As the Dockerfile names it. */
const suite = 'bookworm';

interface Mirrors {
  readonly main: string;
  readonly security: string | undefined;
}

async function mirrorsOfApt(): Promise<Mirrors> {
  const listing = await run(['apt-get', 'indextargets', '--format', '$(ORIGIN)|$(LABEL)|$(REPO_URI)']);
  const rows = listing.split('\n').map(line => line.split('|'));
  const uriOf = (wanted: string) =>
    rows.find(([origin, label]) => origin === 'Debian' && label === wanted)?.[2];
  const main = uriOf('Debian');
  if (!main) {
    throw new Error(
      'apt of this machine has no mirror of Debian: the base is made on Debian, after apt-get update',
    );
  }
  return { main, security: uriOf('Debian-Security') };
}

const sources = ({ main, security }: Mirrors): string =>
  [
    `deb ${main} ${suite} main`,
    `deb ${main} ${suite}-updates main`,
    ...(security ? [`deb ${security} ${suite}-security main`] : []),
    '',
  ].join('\n');
