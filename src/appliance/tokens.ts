import type { ModuleReport, TokenExamination } from '../engines/pkcs11/index.ts';
import { isKeyslotError, KeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import { Child, entryOf } from './child.ts';
import { childEnvironment } from './environment.ts';
import type { TokenTask } from './token-process.ts';

/**
 * What a module says of itself and its tokens, asked in a process of its own. MODULE_UNUSABLE, also when the module
 * ends that process or does not come back: then the detail says in which call.
 */
export const examineModule = (
  module: string,
  environment: Record<string, string>,
  libraryParameters?: string,
): Promise<ModuleReport> => inTokenProcess({ task: 'inspect', module, libraryParameters }, environment);

/**
 * Tries a token with a key that is thrown away again, in a process of its own; see `examineToken` of the engine.
 * MODULE_UNUSABLE as above. `signal` calls it off: REQUEST_ABORTED once the token is as it was.
 */
export function tryToken(
  options: TryOptions,
  environment: Record<string, string>,
): Promise<TokenExamination> {
  const { pin, signal, told, bound_ms, ...task } = options;
  return inTokenProcess(
    { task: 'examine', ...task, sessions_max, pin: pin.use(copied) },
    { ...environment, UV_THREADPOOL_SIZE: String(sessions_max + 2) },
    { signal, told, bound_ms },
  );
}

export interface TryOptions {
  readonly module: string;
  readonly libraryParameters?: string | undefined;
  readonly tokenLabel: string;
  readonly tokenSerial: string;
  readonly profile?: string | undefined;
  readonly pin: Secret;
  /** Whether keys are removed that earlier examinations left behind. */
  readonly clean: boolean;
  readonly signal?: AbortSignal | undefined;
  /** Hears what is done next. */
  readonly told?: ((step: string) => void) | undefined;
  /** How long one step of it may take. */
  readonly bound_ms?: number | undefined;
}

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

async function inTokenProcess<T>(
  boot: TokenTask,
  environment: Record<string, string>,
  { signal, told, bound_ms = task_ms }: Watched = {},
): Promise<T> {
  let step = 'loading it';
  let late = false;
  const child = new Child({
    entry: entryOf('token-process'),
    flags: [],
    environment: childEnvironment(environment),
    boot,
    told: text => {
      step = text;
      timer.refresh();
      told?.(text);
    },
  });
  const timer = setTimeout(() => {
    late = true;
    child.stop(0);
  }, bound_ms);
  const callOff = () => child.stop(stop_ms);
  signal?.addEventListener('abort', callOff, { once: true });
  if (signal?.aborted) callOff();
  try {
    return await child.ready<T>();
  } catch (thrown) {
    if (signal?.aborted) throw new KeyslotError('REQUEST_ABORTED', 'The examination was called off.');
    if (!isKeyslotError(thrown) || thrown.code !== 'INTERNAL') throw thrown;
    const exit = await child.exited;
    if (!late && exit === orderly) throw thrown; // a defect of ours, which it has said itself
    const how = late ? `did not come back within ${bound_ms / 1_000} s` : `ended its process (${exit})`;
    throw new KeyslotError('MODULE_UNUSABLE', `The PKCS#11 module ${boot.module} ${how}: ${step}.`, {
      cause: thrown,
    });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', callOff);
    await child.stop(stop_ms);
  }
}

type Watched = Pick<TryOptions, 'signal' | 'told' | 'bound_ms'>;

const orderly = 'exit status 0';
const task_ms = 60_000;
const stop_ms = 5_000;
/** More sessions than that are not tried. */
const sessions_max = 64;
const copied = (bytes: Uint8Array): Uint8Array => Buffer.from(bytes);
