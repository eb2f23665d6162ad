import type { ModuleReport } from '../engines/pkcs11/index.ts';
import type { Secret } from '../foundation/secret.ts';
import { Child, entryOf } from './child.ts';
import { childEnvironment } from './environment.ts';
import type { TokenTask } from './token-process.ts';

/** What a module says of itself and its tokens, asked in a process of its own. MODULE_UNUSABLE, INTERNAL on a crash. */
export const examineModule = (module: string, environment: Record<string, string>): Promise<ModuleReport> =>
  inTokenProcess({ task: 'examine', module }, environment);

/** Initialises an empty token unless one with the label exists; says whether it did. */
export async function createToken(
  options: { module: string; label: string; soPin: Secret; userPin: Secret },
  environment: Record<string, string>,
): Promise<boolean> {
  const { module, label, soPin, userPin } = options;
  const pins = { soPin: soPin.use(copied), userPin: userPin.use(copied) };
  const answer = await inTokenProcess<{ created: boolean }>(
    { task: 'provision', module, label, ...pins },
    environment,
  );
  return answer.created;
}

async function inTokenProcess<T>(boot: TokenTask, environment: Record<string, string>): Promise<T> {
  const child = new Child({
    entry: entryOf('token-process'),
    flags: [],
    environment: childEnvironment(environment),
    boot,
  });
  const timer = setTimeout(() => child.stop(0), task_ms);
  try {
    return await child.ready<T>();
  } finally {
    clearTimeout(timer);
    await child.stop(stop_ms);
  }
}

const task_ms = 60_000;
const stop_ms = 5_000;
const copied = (bytes: Uint8Array): Uint8Array => Buffer.from(bytes);
