import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { Home, privateFolder, runningAppliance } from '../../src/appliance/home.ts';

const folder = mkdtempSync(join(tmpdir(), 'keyslot-home-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let path: string;
let count = 0;
beforeEach(() => {
  count += 1;
  path = join(folder, `home-${count}`);
  mkdirSync(path);
});

const inUse = expect.objectContaining({ code: 'HOME_IN_USE' });
const invalid = expect.objectContaining({ code: 'HOME_INVALID' });

describe('a state folder', () => {
  it('is taken by one at a time, and free when that one lets go', () => {
    const first = new Home(path);
    expect(() => new Home(path)).toThrow(inUse);
    first[Symbol.dispose]();
    using second = new Home(path);
    expect(second.storeFile).toBe(join(path, 'state', 'keyslot.db'));
  });

  it('is taken across processes, and free the moment its process is killed', async () => {
    const module = new URL('../../src/appliance/home.ts', import.meta.url).href;
    const script = `import(${JSON.stringify(module)}).then(({ Home }) => {
      globalThis.held = new Home(${JSON.stringify(path)});
      process.stdout.write('taken');
      setInterval(() => undefined, 1000);
    });`;
    const holder = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'ignore'] });
    const exited = once(holder, 'exit');
    await once(holder.stdout, 'data');
    expect(() => new Home(path)).toThrow(inUse);
    holder.kill('SIGKILL');
    await exited;
    using home = new Home(path);
    expect(home.path).toBe(path);
  });

  it('says where its appliance listens while one runs', () => {
    const running = { url: 'https://127.0.0.1:1', opsUrl: 'https://127.0.0.1:2', pid: 3 };
    expect(runningAppliance(path)).toBeUndefined();
    const home = new Home(path);
    home.announce(running);
    expect(runningAppliance(path)).toEqual(running);
    expect(statSync(join(path, 'state', 'running.json')).mode & 0o777).toBe(0o600);
    home[Symbol.dispose]();
    expect(runningAppliance(path)).toBeUndefined();
  });

  it('loses the socket that a killed appliance left, and nothing else', () => {
    mkdirSync(join(path, 'run'));
    writeFileSync(join(path, 'run', 'custodian.sock'), '');
    writeFileSync(join(path, 'keyslot.yaml'), 'kept');
    using home = new Home(path);
    expect(existsSync(home.socketFile)).toBe(false);
    expect(readFileSync(join(path, 'keyslot.yaml'), 'utf8')).toBe('kept');
  });

  it('that is deep keeps its socket in a temporary folder, which goes with it', () => {
    const deep = join(path, 'd'.repeat(100));
    mkdirSync(deep);
    const home = new Home(deep);
    const { socketFile } = home;
    expect(Buffer.byteLength(socketFile)).toBeLessThanOrEqual(107);
    expect(statSync(join(socketFile, '..')).mode & 0o777).toBe(0o700);
    home[Symbol.dispose]();
    expect(existsSync(join(socketFile, '..'))).toBe(false);
  });

  it('that is a file, or cannot be written, is refused by name', () => {
    const file = join(path, 'file');
    writeFileSync(file, '');
    expect(() => new Home(file)).toThrow(invalid);
    expect(() => new Home('/dev/null/keyslot')).toThrow(invalid);
  });
});

describe('a private folder', () => {
  it('is made for its owner alone, and one that is looser is made so', () => {
    const made = privateFolder(join(path, 'a', 'b'));
    expect(statSync(made).mode & 0o777).toBe(0o700);
    chmodSync(made, 0o755);
    privateFolder(made);
    expect(statSync(made).mode & 0o777).toBe(0o700);
  });
});
