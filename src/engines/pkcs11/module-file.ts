import { createHash } from 'node:crypto';
import { lstatSync, readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { KeyslotError } from '../../foundation/errors.ts';
import type { Pkcs11Settings } from './settings.ts';

/**
 * What is looked at of a PKCS#11 library before it is loaded, because loading it runs its code beside the keys.
 */

/**
 * Refuses a library whose SHA-256 is not the one that is pinned; without a pin, none. Reads the whole file, at the
 * start alone. It does not see what the library loads itself, nor a change between reading and loading: that takes
 * somebody who may write the file, whom `refuseForeignModule` refuses. MODULE_UNTRUSTED, MODULE_UNUSABLE.
 */
export function refuseOtherModule({ module, moduleSha256 }: ModulePin): void {
  if (moduleSha256 === undefined) return;
  const found = createHash('sha256').update(onDisk(module, readFileSync)).digest('hex');
  if (found === moduleSha256) return;
  throw new KeyslotError('MODULE_UNTRUSTED', `${module} has the SHA-256 ${found}, moduleSha256 is another.`);
}

/**
 * Refuses a library that anybody but root can replace: the file, every link on the way to it, and every folder of that
 * way must be root's and writable for nobody else. MODULE_UNTRUSTED names what is not so; MODULE_UNUSABLE when there
 * is no such file.
 */
export function refuseForeignModule(path: string): void {
  const real = onDisk(path, realpathSync); // also says when the links run in a circle
  if (!statSync(real).isFile()) throw new KeyslotError('MODULE_UNTRUSTED', `${real} is not a file.`);
  for (const step of way(path)) {
    const { uid, mode } = lstatSync(step);
    if (uid !== rootUid) throw foreign(path, `${step} belongs to user ${uid} and not to root`);
    if (!isLink(step) && (mode & othersWrite) !== 0) {
      throw foreign(path, `${step} can be written by others than root`);
    }
  }
}

/** Everything that the kernel looks up for a path: from `/` to the file, through every link. */
function way(path: string): ReadonlySet<string> {
  const steps = new Set(['/']);
  const ahead = path.split('/').toReversed();
  let at = '/';
  for (let name = ahead.pop(); name !== undefined; name = ahead.pop()) {
    const next = join(at, name); // '', '.' and '..' mean what they mean to the kernel: `at` has no links in it
    steps.add(next);
    if (isLink(next)) {
      const target = readlinkSync(next);
      ahead.push(...target.split('/').toReversed());
      if (isAbsolute(target)) at = '/';
    } else at = next;
  }
  return steps;
}

const isLink = (path: string): boolean => lstatSync(path).isSymbolicLink();

type ModulePin = Pick<Pkcs11Settings, 'module' | 'moduleSha256'>;

const rootUid = 0;
const othersWrite = 0o022;

function onDisk<T>(path: string, read: (path: string) => T): T {
  try {
    return read(path);
  } catch (cause) {
    throw new KeyslotError('MODULE_UNUSABLE', `The PKCS#11 module ${path} cannot be read.`, { cause });
  }
}

const foreign = (path: string, reason: string) =>
  new KeyslotError(
    'MODULE_UNTRUSTED',
    `${path}: ${reason}, and whoever can replace a library is in the custodian.`,
  );
