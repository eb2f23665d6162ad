import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { stagesOf, textOf, unitOf } from './files.ts';

const unit = unitOf(textOf('packaging/systemd/keyslot.service'));
const service = unit.Service ?? {};
/** A setting that stands there once. */
const only = (name: string): string => {
  const values = service[name] ?? [];
  expect(values, name).toHaveLength(1);
  return values[0] ?? '';
};

describe('keyslot.service', () => {
  it.each([
    ['NoNewPrivileges', 'yes'],
    ['CapabilityBoundingSet', ''],
    ['AmbientCapabilities', ''],
    ['RestrictSUIDSGID', 'yes'],
    ['LockPersonality', 'yes'],
    ['KeyringMode', 'private'],
    ['ProtectSystem', 'strict'],
    ['ProtectHome', 'yes'],
    ['PrivateTmp', 'yes'],
    ['PrivateMounts', 'yes'],
    ['NoExecPaths', '/'],
    ['RemoveIPC', 'yes'],
    ['PrivateDevices', 'yes'],
    ['DevicePolicy', 'closed'],
    ['ProtectKernelTunables', 'yes'],
    ['ProtectKernelModules', 'yes'],
    ['ProtectKernelLogs', 'yes'],
    ['ProtectControlGroups', 'yes'],
    ['ProtectClock', 'yes'],
    ['ProtectHostname', 'yes'],
    ['ProtectProc', 'invisible'],
    ['ProcSubset', 'pid'],
    ['PrivateUsers', 'yes'],
    ['RestrictNamespaces', 'yes'],
    ['RestrictRealtime', 'yes'],
    ['RestrictAddressFamilies', 'AF_INET AF_INET6 AF_UNIX AF_NETLINK'],
    ['SystemCallArchitectures', 'native'],
    ['LimitCORE', '0'],
    ['MemorySwapMax', '0'],
    ['UMask', '0077'],
  ])('has %s=%s', (name, value) => {
    expect(only(name)).toBe(value);
  });

  it('allows what services do, less what reaches into the kernel or into other processes', () => {
    const [allowed, denied = ''] = service.SystemCallFilter ?? [];
    expect(allowed).toBe('@system-service');
    expect(denied.startsWith('~')).toBe(true);
    const words = denied.slice(1).split(' ');
    expect(words).toEqual(
      expect.arrayContaining([
        '@privileged',
        '@resources',
        '@debug',
        '@mount',
        '@module',
        'ptrace',
        'process_vm_readv',
      ]),
    );
  });

  it('leaves V8 its compiler: memory that is written and executed is not denied', () => {
    expect(only('MemoryDenyWriteExecute')).toBe('no');
  });

  it('runs as a user of its own, who owns the state folder and nothing else that it can write', () => {
    expect(only('User')).toBe('keyslot');
    expect(only('StateDirectory')).toBe('keyslot');
    expect(only('StateDirectoryMode')).toBe('0700');
    expect(service.ReadWritePaths).toBeUndefined();
    expect(textOf('packaging/systemd/keyslot.sysusers')).toMatch(/^u keyslot - .* \/usr\/sbin\/nologin$/m);
  });

  it('starts what the image starts, with the same flags', () => {
    const [program, ...args] = only('ExecStart').split(' ');
    const inImage = stagesOf(textOf('Dockerfile'))
      .flatMap(stage => stage.instructions)
      .find(each => each.name === 'ENTRYPOINT');
    const words: readonly string[] = JSON.parse(inImage?.value ?? '[]');
    const node = words.indexOf('/opt/keyslot/bin/node');
    const moved = (path: string) => path.replace('/opt/keyslot', '/usr/lib/keyslot');
    expect(program).toBe(moved(words[node] ?? ''));
    expect(args).toEqual([...words.slice(node + 1).map(moved), 'serve', '--home', '/var/lib/keyslot']);
  });

  it('gets PINs as credentials of systemd, from a folder that is root’s alone, and none by its environment', () => {
    const credentials = service.LoadCredential ?? [];
    expect(credentials).toEqual([
      'main.pin:/etc/keyslot/credentials/main.pin',
      'audit.pin:/etc/keyslot/credentials/audit.pin',
    ]);
    expect(textOf('packaging/systemd/keyslot.tmpfiles')).toMatch(
      /^d \/etc\/keyslot\/credentials 0700 root root /m,
    );
    expect(service.Environment).toEqual(['NODE_ENV=production']);
    expect(service.EnvironmentFile).toBeUndefined();
    expect(only('UnsetEnvironment').split(' ')).toEqual(
      expect.arrayContaining(['NODE_OPTIONS', 'LD_PRELOAD', 'LD_LIBRARY_PATH']),
    );
  });

  it('grants more time to stop than the processes take, and restarts what fails but not what was stopped', () => {
    expect(only('TimeoutStopSec')).toBe('15s');
    expect(only('KillSignal')).toBe('SIGTERM');
    expect(only('Restart')).toBe('on-failure');
    expect(
      (parse(textOf('compose.yaml'), { merge: true }) as Compose).services.keyslot.stop_grace_period,
    ).toBe('15s');
  });

  it('is enabled for the ordinary state of a machine', () => {
    expect(unit.Install?.WantedBy).toEqual(['multi-user.target']);
  });
});

interface Compose {
  readonly services: { readonly keyslot: { readonly stop_grace_period: string } };
}
