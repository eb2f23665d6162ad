import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KeyFolder } from '../../src/sealing/key-folder.ts';
import { expectSigns, id, listed, quickForm, refusal, sessionOver, TemporaryFolder } from './folder-lab.ts';

let at: TemporaryFolder;
let folder: KeyFolder;

beforeEach(async () => {
  at = new TemporaryFolder();
  folder = await KeyFolder.open(at.keys);
});

afterEach(() => at[Symbol.dispose]());

const modeOf = (path: string) => (lstatSync(path).mode & 0o777).toString(8);

describe('a key folder', () => {
  it('is made with its parents, for its owner alone, and so is every file', async () => {
    const deep = await KeyFolder.open(join(at.root, 'a', 'b', 'c'));
    await deep.create('file', Buffer.from('content'));
    expect(['a', 'a/b', 'a/b/c', 'a/b/c/file'].map(name => modeOf(join(at.root, name)))).toEqual([
      '700',
      '700',
      '700',
      '600',
    ]);
    expect(await deep.read('file')).toEqual(Buffer.from('content'));
  });

  it('knows nothing of a file that is not there, and removes it all the same', async () => {
    expect(await folder.read('none')).toBeUndefined();
    expect(await folder.has('none')).toBe(false);
    await folder.remove('none');
    expect(await folder.list()).toEqual([]);
  });

  it('replaces no file that is there, not even when eight are made at once', async () => {
    const contents = Array.from({ length: 8 }, () => randomBytes(2_000));
    const codes = await Promise.all(contents.map(content => refusal(folder.create('one', content))));
    expect(codes.toSorted()).toEqual([...Array(7).fill('KEY_EXISTS'), 'none']);
    expect(await folder.read('one')).toEqual(contents[codes.indexOf('none')]);
    expect(at.names()).toEqual(['one']);
  });

  it('holds exclusive creation between two that are open on one path', async () => {
    const other = await KeyFolder.open(at.keys);
    for (let round = 0; round < 20; round += 1) {
      const [mine, theirs] = [randomBytes(100), randomBytes(100)];
      const codes = await Promise.all([
        refusal(folder.create(`file-${round}`, mine)),
        refusal(other.create(`file-${round}`, theirs)),
      ]);
      expect(codes.toSorted()).toEqual(['KEY_EXISTS', 'none']);
      expect(await other.read(`file-${round}`)).toEqual(codes[0] === 'none' ? mine : theirs);
    }
    expect(at.names()).toHaveLength(20);
  });

  it('loses no file that is being made while somebody opens the folder', async () => {
    const contents = Array.from({ length: 100 }, () => randomBytes(100));
    for (const [number, content] of contents.entries()) {
      await Promise.all([folder.create(`file-${number}`, content), KeyFolder.open(at.keys)]);
    }
    expect(await Promise.all(contents.map((_, number) => folder.read(`file-${number}`)))).toEqual(contents);
  });

  it('moves a file in one step into a folder below', async () => {
    const below = await KeyFolder.open(at.path('replaced'));
    await folder.create('old', Buffer.from('content'));
    await folder.move('old', 'new', below);
    expect(await folder.has('old')).toBe(false);
    expect(await below.read('new')).toEqual(Buffer.from('content'));
  });

  it.each(['', '.', '..', '../outside', 'a/b', '/etc/passwd', 'nul\0'])(
    'takes no path for a name: %j',
    async name => {
      const attempts = [
        () => folder.read(name),
        () => folder.has(name),
        () => folder.remove(name),
        () => folder.create(name, Buffer.from('x')),
        () => folder.move(name, 'new'),
        () => folder.move('old', name),
      ];
      for (const attempt of attempts) expect(await refusal(attempt())).toBe('KEY_ID_INVALID');
      expect(await folder.list()).toEqual([]);
    },
  );

  it('is content when two move the same file at once, and not when it was never there', async () => {
    const below = await KeyFolder.open(join(at.keys, 'below'));
    await folder.create('shared', Buffer.from('content'));
    const moving = Array.from({ length: 4 }, () => folder.move('shared', 'shared', below));
    expect(await Promise.all(moving.map(refusal))).toEqual(Array(4).fill('none'));
    expect(await below.read('shared')).toEqual(Buffer.from('content'));
    expect(await refusal(folder.move('never', 'never', below))).toBe('KEY_FILE_UNWRITABLE');
  });

  it('sweeps what interrupted writes left, and nothing else', async () => {
    at.write('.keyslot-writing-0123456789abcdef', 'half a fi');
    at.write('.hidden', 'somebody’s');
    await folder.create('key', Buffer.from('content'));
    await KeyFolder.open(at.keys);
    expect(at.names()).toEqual(['.hidden', 'key']);
  });

  it('reads no file that is larger than any key file', async () => {
    at.write('large', Buffer.alloc(64 * 1024 + 1));
    expect(await refusal(folder.read('large'))).toBe('KEY_FILE_MALFORMED');
  });

  it('says so when the folder has gone', async () => {
    rmSync(at.keys, { recursive: true });
    expect(await refusal(folder.list())).toBe('KEY_FILE_UNSAFE');
    expect(await refusal(folder.create('key', Buffer.from('content')))).toBe('KEY_FILE_UNWRITABLE');
  });

  it('cannot be made below a file', async () => {
    await folder.create('file', Buffer.from('content'));
    expect(await refusal(KeyFolder.open(at.path('file/below')))).toBe('KEY_FILE_UNWRITABLE');
    expect(await refusal(KeyFolder.open(at.path('file')))).toBe('KEY_FILE_UNSAFE');
  });
});

describe('a folder that others can look into', () => {
  it.each(['755', '750', '701', '770'])('is refused with mode %s, and not mended', async mode => {
    chmodSync(at.keys, mode);
    expect(await refusal(KeyFolder.open(at.keys))).toBe('KEY_FILE_UNSAFE');
    expect(modeOf(at.keys)).toBe(mode);
  });

  it('is refused behind a symbolic link, also one that leads nowhere', async () => {
    const [link, dangling] = [join(at.root, 'link'), join(at.root, 'dangling')];
    symlinkSync(at.keys, link);
    symlinkSync(join(at.root, 'nowhere'), dangling);
    expect(await refusal(KeyFolder.open(link))).toBe('KEY_FILE_UNSAFE');
    expect(await refusal(KeyFolder.open(dangling))).toBe('KEY_FILE_UNSAFE');
  });

  if (process.geteuid?.() === 0)
    it('is refused when it belongs to another user', async () => {
      chownSync(at.keys, 65_534, 65_534);
      expect(await refusal(KeyFolder.open(at.keys))).toBe('KEY_FILE_UNSAFE');
    });
});

/** What may stand in the place of a key file, and must not be read. */
const disguises: Record<string, (path: string) => void> = {
  'mode 0644': path => chmodSync(path, 0o644),
  'mode 0640': path => chmodSync(path, 0o640),
  'mode 0604': path => chmodSync(path, 0o604),
  'a symbolic link to the very file': path => {
    renameSync(path, `${path}.elsewhere`);
    symlinkSync(`${path}.elsewhere`, path);
  },
  'a FIFO': path => {
    rmSync(path);
    execFileSync('mkfifo', ['-m', '600', path]);
  },
  'a folder': path => {
    rmSync(path);
    mkdirSync(path, { mode: 0o700 });
  },
};
if (process.geteuid?.() === 0) disguises['another owner'] = path => chownSync(path, 65_534, 65_534);

describe('a key file in disguise', () => {
  it.each(Object.entries(disguises))('is refused: %s; the other keys go on working', async (_, disguise) => {
    using form = quickForm();
    await using session = await sessionOver(at.keys, { writes: form });
    const kept = await session.generate(id('kept'));
    await session.generate(id('disguised'));
    disguise(at.path('disguised.json'));

    await using again = await sessionOver(at.keys, { writes: form });
    expect(await refusal(again.signer(id('disguised')))).toBe('KEY_FILE_UNSAFE');
    expect(await refusal(again.export(id('disguised')))).toBe('KEY_FILE_UNSAFE');
    expect(await refusal(again.generate(id('disguised')))).toBe('KEY_EXISTS');
    expect(await listed(again)).toEqual(['kept']);
    await expectSigns(again, kept);
  });
});

const child = join(import.meta.dirname, 'save-child.ts');

/** Runs the saving child below a limit of the shell, and gives what it printed: one word for each save. */
async function saves(limit: string, ids: readonly string[]): Promise<string[]> {
  const shell = spawn(
    'bash',
    ['-c', `${limit}; exec "$@"`, 'bash', process.execPath, child, at.keys, ...ids],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const [printed] = await Promise.all([text(shell.stdout), once(shell, 'exit')]);
  return printed.trim().split('\n');
}

describe('a disk that takes nothing more', () => {
  it('refuses the save, keeps nothing of it, and the id can be made once there is room', async () => {
    expect(await saves('true', ['first'])).toEqual(['first made']);
    expect(await saves('ulimit -f 0', ['second'])).toEqual(['second KEY_FILE_UNWRITABLE, first signs']);
    expect(at.names()).toEqual(['first.json']);
    expect(await saves('true', ['second'])).toEqual(['second made']);
    expect(at.names()).toEqual(['first.json', 'second.json']);
  });

  if (process.geteuid?.() === 0)
    it('really full, it refuses and recovers the same way', async () => {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16k,mode=700', 'tmpfs', at.keys]);
      try {
        using form = quickForm();
        await using session = await sessionOver(at.keys, { writes: form });
        const first = await session.generate(id('first'));
        writeFileSync(at.path('ballast'), Buffer.alloc(4_096), { mode: 0o600 });
        const room = [1, 2, 3].map(number => at.path(`ballast-${number}`));
        const fill = () => room.forEach(path => void writeFileSync(path, Buffer.alloc(4_096)));
        expect(fill).toThrow(/ENOSPC/);
        expect(await refusal(session.generate(id('second')))).toBe('KEY_FILE_UNWRITABLE');
        expect(at.names().filter(name => !name.startsWith('ballast'))).toEqual(['first.json']);
        await expectSigns(session, first);
        rmSync(at.path('ballast'));
        await expectSigns(session, await session.generate(id('second')));
        expect(await listed(session)).toEqual(['first', 'second']);
      } finally {
        execFileSync('umount', [at.keys]);
      }
    });

  if (process.geteuid?.() === 0)
    it('mounted for reading only, it lets the keys that are there sign', async () => {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k,mode=700', 'tmpfs', at.keys]);
      try {
        using form = quickForm();
        await using session = await sessionOver(at.keys, { writes: form });
        const first = await session.generate(id('first'));
        at.write('.keyslot-writing-0123456789abcdef', 'half a fi');
        execFileSync('mount', ['-o', 'remount,ro', at.keys]);
        await using again = await sessionOver(at.keys, { writes: form });
        await expectSigns(again, first);
        expect(await refusal(again.generate(id('second')))).toBe('KEY_FILE_UNWRITABLE');
        expect(await refusal(again.destroy(id('first')))).toBe('KEY_FILE_UNWRITABLE');
        await expectSigns(again, first);
      } finally {
        execFileSync('umount', [at.keys]);
      }
    });
});
