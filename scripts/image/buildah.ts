import { join } from 'node:path';
import { type Options, outcome, run } from './run.ts';

/** buildah with a storage of its own, so that nothing of this machine's images is touched and all of it can go. */
export class Buildah {
  readonly #storage: readonly string[];
  readonly #options: Options;

  constructor(work: string, options: Options) {
    this.#storage = ['--root', join(work, 'storage'), '--runroot', join(work, 'run')];
    this.#options = options;
  }

  /** Makes an image of one tar file. */
  async import(tar: string, name: string): Promise<void> {
    const container = await this.#run(['from', 'scratch']);
    await this.#run(['add', '--quiet', container, tar, '/'], 300);
    await this.#run(['commit', '--quiet', '--format', 'docker', container, name], 300);
    await this.#run(['rm', container]);
  }

  /** Every instruction of the Dockerfile up to a stage, each RUN in a chroot of its own. */
  async build(options: {
    context: string;
    target: string;
    name: string;
    arguments: Readonly<Record<string, string>>;
    secrets: Readonly<Record<string, string>>;
  }): Promise<void> {
    const { context, target, name } = options;
    await this.#run(
      [
        'build',
        '--isolation=chroot',
        '--format=docker', // the OCI format has no HEALTHCHECK
        '--layers',
        ...Object.entries(options.arguments).map(([key, value]) => `--build-arg=${key}=${value}`),
        ...Object.entries(options.secrets).map(([id, file]) => `--secret=id=${id},src=${file}`),
        `--target=${target}`,
        `--tag=${name}`,
        context,
      ],
      1_800,
    );
  }

  async imageConfig(name: string): Promise<ImageConfig> {
    const { Docker } = JSON.parse(await this.#run(['inspect', '--type=image', name])) as {
      Docker: { config: ImageConfig };
    };
    return Docker.config;
  }

  /** Where the files of an image are, to be looked at and run from, until `close`. */
  async mount(name: string): Promise<string> {
    const container = await this.#run(['from', '--pull-never', name]);
    return this.#run(['mount', container]);
  }

  /** Takes down what is mounted, as far as anything is; the files go with the folder that they are in. */
  async close(): Promise<void> {
    for (const command of [
      ['umount', '--all'],
      ['rm', '--all'],
      ['rmi', '--all', '--force'],
    ]) {
      await outcome(['buildah', ...this.#storage, ...command], { ...this.#options, bound_s: 120 });
    }
  }

  #run(command: readonly string[], bound_s = 60): Promise<string> {
    return run(['buildah', ...this.#storage, ...command], { ...this.#options, bound_s });
  }
}

/** What an image says of how it is run. */
export interface ImageConfig {
  readonly User: string;
  readonly Env: readonly string[];
  readonly Entrypoint: readonly string[];
  readonly Cmd: readonly string[];
  readonly WorkingDir: string;
  readonly StopSignal: string;
  readonly Volumes: Readonly<Record<string, unknown>>;
  readonly Labels: Readonly<Record<string, string>>;
  readonly Healthcheck: { readonly Test: readonly string[] };
}
