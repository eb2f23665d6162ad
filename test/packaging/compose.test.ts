import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { stagesOf, textOf } from './files.ts';

interface Service {
  readonly [setting: string]: unknown;
  readonly environment?: unknown;
  readonly ports?: readonly string[];
  readonly volumes: readonly string[];
}

interface Compose {
  readonly services: Readonly<Record<string, Service>>;
  readonly volumes: Readonly<Record<string, unknown>>;
  readonly secrets: Readonly<Record<string, { readonly file: string }>>;
}

const compose = parse(textOf('compose.yaml'), { merge: true }) as Compose;
const services = Object.entries(compose.services);

describe.each(services)('the service %s of compose.yaml', (_, service) => {
  it('has no capability, no way to get one, and no root', () => {
    expect(service).toMatchObject({
      user: '65532:65532',
      cap_drop: ['ALL'],
      security_opt: ['no-new-privileges:true'],
    });
    for (const setting of ['privileged', 'cap_add', 'devices', 'pid', 'ipc', 'userns_mode', 'network_mode']) {
      expect(service[setting] ?? 'none', setting).toBe('none');
    }
  });

  it('writes to its one volume and to a small temporary folder where nothing can be run', () => {
    expect(service.read_only).toBe(true);
    expect(service.volumes).toEqual(['data:/var/lib/keyslot']);
    expect(service.tmpfs).toEqual(['/tmp:rw,noexec,nosuid,nodev,size=16m,mode=1777']);
  });

  it('has limits, of memory without swap among them, and leaves no core file', () => {
    expect(service).toMatchObject({ pids_limit: 256, ulimits: { core: 0 } });
    expect(service.mem_limit).toBe(service.memswap_limit);
  });

  it('gets its PINs as files and nothing through its environment', () => {
    expect(service.environment).toBeUndefined();
    expect(service.secrets).toEqual(['user.pin', 'audit.pin']);
  });
});

describe('compose.yaml', () => {
  it('shows the API to this machine alone, and the health of the appliance to nobody outside', () => {
    expect(compose.services.keyslot?.ports).toEqual(['127.0.0.1:8443:8443']);
    expect(compose.services.prepare?.ports).toBeUndefined();
  });

  it('builds a stage that there is, with a base that somebody has to name', () => {
    const build = compose.services.prepare?.build as { target: string; args: { BASE_IMAGE: string } };
    expect(stagesOf(textOf('Dockerfile')).map(stage => stage.name)).toContain(build.target);
    expect(build.args.BASE_IMAGE).toMatch(/^\$\{BASE_IMAGE:\?/);
  });

  it('reads secrets from a folder that neither git nor the build sees', () => {
    for (const { file } of Object.values(compose.secrets)) expect(file).toMatch(/^\.\/var\//);
    expect(textOf('.gitignore').split('\n')).toContain('var/');
    expect(textOf('.dockerignore')).not.toContain('!var');
  });

  it('gives the appliance longer to stop than it takes', () => {
    expect(compose.services.keyslot?.stop_grace_period).toBe('15s');
  });
});
