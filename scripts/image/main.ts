import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { productionPlaces, readLock } from '../supply-chain/lock.ts';
import { debianBase } from './base.ts';
import { Buildah } from './buildah.ts';
import { Container } from './container.ts';
import { faultsOf, sizeOf, strayPackages } from './contents.ts';
import { prepareVolume, proved, provedSoundness } from './proof.ts';
import { endRunning, outcome, run } from './run.ts';

/**
 * scripts/build-image: base, stages, contents, start, signature, stop. Progress goes to standard error, with `--json`
 * one line of figures to standard output at the end. The status is 0 only when a signature was verified.
 */

const root = resolve(import.meta.dirname, '..', '..');

interface Flags {
  readonly json: boolean;
  /** Leaves the storage of images and the data volume where they are, for looking at. */
  readonly keep: boolean;
  readonly cache: string;
  /** The checkout that is built. */
  readonly context: string;
}

async function main(flags: Flags) {
  const began = performance.now();
  const work = mkdtempSync(join(tmpdir(), 'keyslot-image-'));
  const log = join(work, 'log');
  const said = (text: string) => {
    writeFileSync(log, text, { flag: 'a' });
    for (const [, instruction = ''] of text.matchAll(/^\[.*\] STEP (.*)$/gm))
      note(`    ${instruction.slice(0, 100)}`);
  };
  const buildah = new Buildah(work, { said });
  try {
    const tar = await step('base: Debian, from the mirror of apt', () =>
      debianBase(flags.cache, work, { said }),
    );
    await step('base: imported', () => buildah.import(tar, base));
    // A value that the build is given and must not keep.
    const canary = randomBytes(24).toString('hex');
    writeFileSync(join(work, 'npmrc'), `; ${canary}\n`, { mode: 0o600 });
    const secrets = { npmrc: join(work, 'npmrc'), ...networkCa() };
    for (const target of ['keyslot', 'softhsm'] as const) {
      await step(`built: ${target}`, async () =>
        buildah.build({
          context: flags.context,
          target,
          name: `localhost/keyslot:${target}`,
          arguments: { BASE_IMAGE: base, ...(await versionOf(flags.context)) },
          secrets,
        }),
      );
    }
    const figures: Record<string, unknown> = {};
    for (const target of ['keyslot', 'softhsm'] as const) {
      const name = `localhost/keyslot:${target}`;
      const files = await buildah.mount(name);
      const faults = [
        ...faultsOf(files, await buildah.imageConfig(name), [canary]),
        ...strayPackages(files, productionPlaces(readLock(flags.context))),
      ];
      if (faults.length > 0) throw new Error(`The image ${target}:\n${faults.slice(0, 20).join('\n')}`);
      const { bytes } = sizeOf(files);
      note(
        `looked into ${target}: ${Math.round(bytes / 2 ** 20)} MiB, no shell, no compiler, no npm, no secret`,
      );
      figures[`${target}_bytes`] = bytes;
    }
    const image = 'localhost/keyslot:softhsm';
    const setup = {
      work,
      root: await buildah.mount(image),
      image: await buildah.imageConfig(image),
      compose: join(flags.context, 'compose.yaml'),
      data: join(work, 'data'),
      secrets: join(work, 'secrets'),
    };
    await step('volume: prepared by the service "prepare"', () => prepareVolume(setup));
    const container = Container.start({ ...setup, service: 'keyslot' });
    try {
      Object.assign(figures, await step('started', () => provedSoundness(container, setup.image)));
      Object.assign(figures, await step('signed', () => proved(container)));
      await step('stopped by SIGTERM', async () => {
        await container.signal(setup.image.StopSignal);
        const status = await container.ended(15);
        if (status !== 0) throw new Error(`SIGTERM: it ended with status ${status}`);
      });
      return { ...figures, stoppedCleanly: true, seconds: Math.round((performance.now() - began) / 1000) };
    } finally {
      await container.remove();
    }
  } catch (thrown) {
    for (const name of ['prepare.log', 'keyslot.log']) {
      if (existsSync(join(work, name))) note(readFileSync(join(work, name), 'utf8').slice(-3_000));
    }
    throw thrown;
  } finally {
    if (flags.keep) note(`kept: ${work}`);
    else {
      await buildah.close();
      rmSync(work, { recursive: true, force: true });
    }
  }
}

const base = 'localhost/keyslot-debian:local';

/** What this machine trusts, where its network answers in the name of the registry. */
function networkCa(): Readonly<Record<string, string>> {
  const file = '/etc/ssl/certs/ca-certificates.crt';
  return existsSync(file) ? { ca: file } : {};
}

async function versionOf(context: string): Promise<Readonly<Record<string, string>>> {
  const { version } = JSON.parse(readFileSync(join(context, 'package.json'), 'utf8')) as { version: string };
  const revision = await outcome(['git', '-C', context, 'rev-parse', 'HEAD']);
  return { VERSION: version, REVISION: revision.status === 0 ? revision.stdout.trim() : 'unknown' };
}

async function step<T>(name: string, work: () => Promise<T>): Promise<T> {
  const began = performance.now();
  note(`… ${name}`);
  const result = await work();
  note(`✓ ${name} (${Math.round((performance.now() - began) / 1000)} s)`);
  return result;
}

const note = (text: string): void => console.error(`build-image: ${text}`);

const { values } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
    cache: { type: 'string' },
    context: { type: 'string' },
  },
});
const flags: Flags = {
  json: values.json,
  keep: values.keep,
  cache: resolve(values.cache ?? join(homedir(), '.cache', 'keyslot-image')),
  context: resolve(values.context ?? root),
};

// A terminal sends these to everything that runs; either way, what was made is removed before the end.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, endRunning);

try {
  await run(['buildah', '--version']);
  mkdirSync(flags.cache, { recursive: true });
  const figures = await main(flags);
  console.log(
    'A message was signed through the built image as user 65532 on a read-only root; the signature verified.',
  );
  if (flags.json) console.log(JSON.stringify(figures));
} catch (thrown) {
  console.error(`build-image: ${thrown instanceof Error ? thrown.message : String(thrown)}`);
  process.exitCode = 1;
}
