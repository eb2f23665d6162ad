import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createAuthority } from '../../src/appliance/certificates.ts';
import { root, stagesOf, textOf } from './files.ts';

/** What can be said of the image without building it; scripts/build-image builds it and has it sign. */

const stages = stagesOf(textOf('Dockerfile'));
const stage = (name: string) => {
  const found = stages.find(each => each.name === name);
  if (!found) throw new Error(`there is no stage ${name}`);
  return found;
};
const values = (name: string, instruction: string) =>
  stage(name)
    .instructions.filter(each => each.name === instruction)
    .map(each => each.value);

describe('the Dockerfile', () => {
  it('starts from one base that its digest pins, and that nobody can pull before somebody has named it', () => {
    const [before, ...rest] = stages;
    expect(before?.instructions).toEqual([
      { name: 'ARG', value: `BASE_IMAGE=debian:bookworm-slim@sha256:${'0'.repeat(64)}` },
    ]);
    const own = new Set(rest.map(each => each.name));
    expect(rest.map(each => each.from).filter(from => !own.has(from))).toEqual([
      '${BASE_IMAGE}',
      '${BASE_IMAGE}',
      'scratch',
    ]);
  });

  it('ships what it copies into an empty root, and runs nothing there that could bring a compiler along', () => {
    for (const name of ['runtime', 'softhsm', 'keyslot']) expect(values(name, 'RUN')).toEqual([]);
    expect(stages.at(-1)).toEqual({ name: 'keyslot', from: 'runtime', instructions: [] });
    expect(values('runtime', 'COPY').filter(each => each.includes('--from='))).toEqual([
      '--from=system /rootfs /',
      '--from=build /rootfs /',
      '--chown=65532:65532 --from=system /state /var/lib/keyslot',
    ]);
  });

  it('runs as a user by number, with one volume, and with exec forms alone, because there is no shell', () => {
    expect(values('runtime', 'USER')).toEqual(['65532:65532']);
    expect(values('runtime', 'VOLUME')).toEqual(['/var/lib/keyslot']);
    expect(values('runtime', 'STOPSIGNAL')).toEqual(['SIGTERM']);
    for (const instruction of ['ENTRYPOINT', 'CMD']) {
      const [value = ''] = values('runtime', instruction);
      expect(Array.isArray(JSON.parse(value)), instruction).toBe(true);
    }
    const [health = ''] = values('runtime', 'HEALTHCHECK');
    expect(JSON.parse(health.slice(health.indexOf('CMD ') + 4))).toEqual([
      '/opt/keyslot/bin/node',
      '/opt/keyslot/healthcheck.mjs',
      '/healthz',
    ]);
  });

  it('starts Node without core files, code from strings, prototype tricks, and a signal that opens a debugger', () => {
    const [entry = ''] = values('runtime', 'ENTRYPOINT');
    const words: readonly string[] = JSON.parse(entry);
    expect(words).toEqual(
      expect.arrayContaining([
        '--core=0:0',
        '--disable-proto=throw',
        '--disallow-code-generation-from-strings',
        '--disable-sigusr1',
      ]),
    );
  });

  it('fetches nothing by itself and keeps no secret: what a build needs to know is mounted for one instruction', () => {
    const all = stages.flatMap(each => each.instructions);
    expect(all.filter(each => each.name === 'ADD')).toEqual([]);
    expect(all.filter(each => each.name === 'RUN' && /curl|wget|https?:/.test(each.value))).toEqual([]);
    const named = all.filter(each => ['ARG', 'ENV'].includes(each.name)).map(each => each.value);
    expect(named.filter(value => /pin|secret|token|password|key=/i.test(value))).toEqual([]);
    const installing = values('build', 'RUN').filter(each => each.includes('npm ci'));
    expect(installing).toHaveLength(1);
    expect(installing[0]).toContain('--mount=type=secret,id=npmrc');
    expect(installing[0]?.match(/npm ci/g)).toHaveLength(2);
    expect(installing[0]?.match(/npm ci --ignore-scripts/g)).toHaveLength(2);
  });

  it('sees of a checkout what it is made of, and no state folder, secret or history', () => {
    const [first, ...seen] = textOf('.dockerignore')
      .split('\n')
      .filter(line => line !== '' && !line.startsWith('#'));
    expect(first).toBe('*');
    expect(seen.map(line => line.replace(/^!/, '')).sort()).toEqual([
      '.npmrc',
      'hsm-config',
      'package-lock.json',
      'package.json',
      'packaging',
      'src',
      'tsconfig.build.json',
      'tsconfig.json',
    ]);
    expect(seen.every(line => line.startsWith('!'))).toBe(true);
  });

  it('has no registry or token in the npm settings that it copies', () => {
    expect(textOf('.npmrc')).not.toMatch(/registry=|_auth|token|password/i);
  });
});

describe('the health check of the image', () => {
  let home: string;
  let server: Server;
  let status = 200;

  beforeAll(async () => {
    home = mkdtempSync(join(tmpdir(), 'keyslot-health-'));
    mkdirSync(join(home, 'state'));
    const { certificate, key } = await (await createAuthority('health')).issueServer(['elsewhere']);
    server = createServer({ cert: certificate, key }, (request, response) => {
      response.writeHead(request.url === '/healthz' ? 200 : status).end('{}');
    });
    await new Promise<void>(done => server.listen(0, '127.0.0.1', done));
    announce((server.address() as AddressInfo).port);
  });

  afterAll(() => {
    server.close();
    rmSync(home, { recursive: true });
  });

  const announce = (port: number, host = '127.0.0.1') =>
    writeFileSync(join(home, 'state', 'running.json'), JSON.stringify({ opsUrl: `https://${host}:${port}` }));

  const check = async (...args: string[]): Promise<number> => {
    const script = join(root, 'packaging', 'image', 'healthcheck.mjs');
    const env = { KEYSLOT_HOME: home };
    return promisify(execFile)(process.execPath, [script, ...args], { env }).then(
      () => 0,
      (error: { code: number }) => error.code,
    );
  };

  it('is 0 when the appliance answers 200, 1 when it answers anything else or nothing', async () => {
    const { port } = server.address() as AddressInfo;
    expect(await check()).toBe(0);
    expect(await check('/readyz')).toBe(0);
    status = 503;
    expect(await check('/readyz')).toBe(1);
    expect(await check('/healthz')).toBe(0);
    announce(port, '0.0.0.0');
    expect(await check()).toBe(0);
    server.close();
    expect(await check()).toBe(1);
    rmSync(join(home, 'state', 'running.json'));
    expect(await check()).toBe(1);
  });
});
