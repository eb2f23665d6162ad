import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import type { ImageConfig } from './buildah.ts';
import { type Output, outcome, run } from './run.ts';

/**
 * A container of an image, run by an OCI runtime as a service of compose.yaml says: its user, capabilities, limits,
 * read-only root, volume, secrets and temporary file systems, under the default seccomp profile of container engines.
 * Its network has a loopback and nothing else.
 */
export class Container {
  readonly #state: string;
  readonly #id: string;
  readonly #child: ChildProcess;
  readonly #exited: Promise<number | null>;

  private constructor(state: string, id: string, child: ChildProcess) {
    this.#state = state;
    this.#id = id;
    this.#child = child;
    this.#exited = once(child, 'exit').then(([status]) => status as number | null);
  }

  static start(setup: Setup): Container {
    const bundle = join(setup.work, setup.service);
    const state = join(setup.work, 'runc');
    mkdirSync(bundle, { recursive: true });
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(specification(setup), null, 2));
    const log = openSync(join(setup.work, `${setup.service}.log`), 'a');
    const id = `keyslot-${process.pid}-${setup.service}`;
    const child = spawn('runc', ['--root', state, 'run', '--bundle', bundle, id], {
      stdio: ['ignore', log, log],
    });
    return new Container(state, id, child);
  }

  /** Runs a program of the image beside the appliance, with the same rights. */
  exec(command: readonly string[], bound_s = 30): Promise<Output> {
    const runc = ['runc', '--root', this.#state, 'exec', '--cwd', '/opt/keyslot', this.#id];
    return outcome([...runc, ...command], { bound_s });
  }

  /** Of its first process, as this machine counts. */
  async pid(): Promise<number> {
    const state = await run(['runc', '--root', this.#state, 'state', this.#id]);
    return (JSON.parse(state) as { pid: number }).pid;
  }

  /** The exit status, or nothing when it is still running after `bound_s`. */
  ended(bound_s: number): Promise<number | null | undefined> {
    const late = new Promise<undefined>(done => setTimeout(() => done(undefined), bound_s * 1000).unref());
    return Promise.race([this.#exited, late]);
  }

  async signal(name: string): Promise<void> {
    await run(['runc', '--root', this.#state, 'kill', this.#id, name]);
  }

  /** Whatever happens, nothing of it goes on running. */
  async remove(): Promise<void> {
    await outcome(['runc', '--root', this.#state, 'delete', '--force', this.#id]);
    this.#child.kill('SIGKILL');
  }
}

export interface Setup {
  readonly work: string;
  readonly root: string;
  readonly image: ImageConfig;
  readonly compose: string;
  readonly service: string;
  /** Where the data volume is on this machine. */
  readonly data: string;
  readonly secrets: string;
}

/** As much of a service as is translated. Anything else in it fails the test of compose.yaml. */
interface Service {
  readonly user: string;
  readonly read_only: boolean;
  readonly cap_drop: readonly string[];
  readonly security_opt: readonly string[];
  readonly tmpfs: readonly string[];
  readonly volumes: readonly string[];
  readonly secrets: readonly string[];
  readonly pids_limit: number;
  readonly mem_limit: string;
  readonly ulimits: Readonly<Record<string, number>>;
  readonly entrypoint?: readonly string[];
  readonly command?: readonly string[];
}

/** OCI runtime specification 1.0, config.md. */
function specification({ root, image, compose, service: name, data, secrets }: Setup) {
  const service = serviceOf(compose, name);
  const [uid, gid] = service.user.split(':').map(Number);
  const keepsAll = !service.cap_drop.includes('ALL');
  if (keepsAll) throw new Error('compose.yaml keeps capabilities');
  const limits = Object.entries(service.ulimits);
  return {
    ociVersion: '1.0.2',
    process: {
      user: { uid, gid },
      args: [...(service.entrypoint ?? image.Entrypoint), ...(service.command ?? image.Cmd)],
      env: image.Env,
      cwd: image.WorkingDir,
      capabilities: { bounding: [], effective: [], inheritable: [], permitted: [], ambient: [] },
      noNewPrivileges: service.security_opt.includes('no-new-privileges:true'),
      rlimits: limits.map(([limit, value]) => {
        const most = Math.min(value, limit === 'nofile' ? openFiles_max() : value);
        return { type: `RLIMIT_${limit.toUpperCase()}`, soft: most, hard: most };
      }),
    },
    root: { path: root, readonly: service.read_only },
    hostname: 'keyslot',
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      {
        destination: '/dev',
        type: 'tmpfs',
        source: 'tmpfs',
        options: ['nosuid', 'noexec', 'mode=755', 'size=64k'],
      },
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
      ...service.tmpfs.map(each => {
        const [destination = '', options = ''] = each.split(':');
        return { destination, type: 'tmpfs', source: 'tmpfs', options: options.split(',') };
      }),
      ...service.volumes.map(each => bind(data, each.split(':')[1] ?? '', 'rw')),
      ...service.secrets.map(each => bind(join(secrets, each), `/run/secrets/${each}`, 'ro')),
    ],
    linux: {
      namespaces: ['pid', 'mount', 'ipc', 'uts', 'network'].map(type => ({ type })),
      resources: {
        pids: { limit: service.pids_limit },
        memory: { limit: Number.parseInt(service.mem_limit, 10) * 2 ** 30 },
      },
      seccomp: seccomp(),
      maskedPaths: ['/proc/kcore', '/proc/keys', '/proc/timer_list', '/sys/firmware'],
      readonlyPaths: ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
    },
  };
}

/** What this process may give away; raising it takes a capability that not every root has. */
function openFiles_max(): number {
  const limits = readFileSync('/proc/self/limits', 'utf8');
  const hard = /^Max open files +\d+ +(\d+)/m.exec(limits)?.[1];
  return hard === undefined ? Number.POSITIVE_INFINITY : Number(hard);
}

const serviceOf = (compose: string, name: string): Service =>
  (parse(readFileSync(compose, 'utf8'), { merge: true }) as { services: Record<string, Service> }).services[
    name
  ] as Service;

const bind = (source: string, destination: string, how: 'rw' | 'ro') => ({
  destination,
  type: 'bind',
  source,
  options: ['bind', how, 'nosuid', 'nodev', 'noexec'],
});

/** The engines' own default profile, as Debian ships it, for a process without capabilities on this machine. */
function seccomp() {
  const profile = JSON.parse(readFileSync('/usr/share/containers/seccomp.json', 'utf8')) as Profile;
  const arch = process.arch === 'arm64' ? 'arm64' : 'amd64';
  return {
    defaultAction: profile.defaultAction,
    defaultErrnoRet: profile.defaultErrnoRet,
    architectures: [process.arch === 'arm64' ? 'SCMP_ARCH_AARCH64' : 'SCMP_ARCH_X86_64'],
    syscalls: profile.syscalls
      .filter(
        ({ includes }) =>
          !includes.caps?.length && (!includes.arches?.length || includes.arches.includes(arch)),
      )
      .map(({ names, action, args, errnoRet }) => ({
        names,
        action,
        args,
        ...(errnoRet === undefined ? {} : { errnoRet }),
      })),
  };
}

interface Profile {
  readonly defaultAction: string;
  readonly defaultErrnoRet: number;
  readonly syscalls: readonly {
    readonly names: readonly string[];
    readonly action: string;
    readonly args: readonly unknown[];
    readonly errnoRet?: number;
    readonly includes: { readonly caps?: readonly string[]; readonly arches?: readonly string[] };
  }[];
}
