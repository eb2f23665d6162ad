import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { ImageConfig } from '../../scripts/image/buildah.ts';
import { faultsOf, sizeOf, strayPackages } from '../../scripts/image/contents.ts';

/** A root as an image has it, made by hand; belongs to whoever runs the test, where it matters. */
let root: string;

const config: ImageConfig = {
  User: '65532:65532',
  Env: [],
  Entrypoint: ['/opt/keyslot/bin/node'],
  Cmd: ['serve'],
  WorkingDir: '/opt/keyslot',
  StopSignal: 'SIGTERM',
  Volumes: { '/var/lib/keyslot': {} },
  Labels: {},
  Healthcheck: { Test: ['CMD', '/opt/keyslot/bin/node'] },
};

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'keyslot-root-'));
  put('/opt/keyslot/bin/node', 'the runtime', 0o711);
  put('/opt/keyslot/node_modules/zod/package.json', '{}');
  mkdirSync(join(root, 'tmp'), { mode: 0o1777 });
});

afterEach(() => rmSync(root, { recursive: true }));

function put(path: string, content: string, mode = 0o644): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), content);
  chmodSync(join(root, path), mode);
}

/** Owners aside: who is not root cannot make files of root's. */
const faults = (changes: Partial<ImageConfig> = {}, secrets: readonly string[] = []) =>
  faultsOf(root, { ...config, ...changes }, secrets).filter(fault => !fault.includes('belongs to'));

it('finds nothing wrong with what runs alone', () => {
  expect(faults()).toEqual([]);
  expect(sizeOf(root).files).toBeGreaterThan(2);
});

it.each([
  '/usr/bin/sh',
  '/bin/bash',
  '/usr/bin/apt-get',
  '/usr/bin/g++',
  '/usr/bin/npm',
  '/usr/bin/python3.11',
  '/sbin/su',
])('finds %s, which the image has no use for', path => {
  put(path, '');
  expect(faults()).toHaveLength(1);
});

it('finds packages of development, and whatever the lock file does not have in production', () => {
  put('/opt/keyslot/node_modules/typescript/package.json', '{}');
  expect(faults()).toHaveLength(1);
  put('/opt/keyslot/node_modules/@scope/one/node_modules/two/package.json', '{}');
  expect(strayPackages(root, ['node_modules/zod'])).toHaveLength(2);
  expect(
    strayPackages(root, [
      'node_modules/zod',
      'node_modules/typescript',
      'node_modules/@scope/one/node_modules/two',
    ]),
  ).toEqual([]);
});

it('finds files that raise rights, that everybody can write, and links to nothing', () => {
  put('/usr/bin/tool', '', 0o4755);
  put('/etc/open', '', 0o666);
  symlinkSync('/nowhere', join(root, 'dangling'));
  expect(faults()).toHaveLength(3);
});

it('finds files that belong to the user that runs, outside its volume', () => {
  if (process.getuid?.() === 0) chownSync(join(root, 'opt/keyslot/bin/node'), 65_532, 65_532);
  expect(faultsOf(root, config, []).some(fault => fault.includes('bin/node belongs to'))).toBe(true);
});

it('finds a secret of the build, in a file and in the configuration', () => {
  put('/opt/keyslot/left', 'before canary-1 after');
  expect(faults({ Env: ['TOKEN=canary-1'] }, ['canary-1'])).toHaveLength(2);
  expect(faults({}, ['canary-2'])).toEqual([]);
});

it('finds a configuration that runs as root, has another number of volumes, or asks its health of a shell', () => {
  for (const User of ['', 'root', '0', '0:0', 'keyslot']) expect(faults({ User }), User).toHaveLength(1);
  expect(faults({ Volumes: {} })).toHaveLength(1);
  expect(faults({ Healthcheck: { Test: ['CMD-SHELL', 'node'] } })).toHaveLength(1);
});
