import { inspectModule, type ModuleReport, provisionToken } from '../engines/pkcs11/index.ts';
import { Secret } from '../foundation/secret.ts';
import { runAsChild } from './child.ts';

/**
 * A process of its own for looking at a PKCS#11 module or preparing a token: a module that crashes takes only
 * this process with it, and the variables that the module reads are set before it is loaded.
 */

export type TokenTask =
  | { readonly task: 'examine'; readonly module: string }
  | {
      readonly task: 'provision';
      readonly module: string;
      readonly label: string;
      readonly soPin: Uint8Array;
      readonly userPin: Uint8Array;
    };

export type TokenAnswer = ModuleReport | { readonly created: boolean };

runAsChild<TokenTask, TokenAnswer>(async task => ({ ready: perform(task), stop: async () => undefined }));

function perform(task: TokenTask): TokenAnswer {
  if (task.task === 'examine') return inspectModule(task.module);
  using soPin = Secret.fromBytes(task.soPin, { wipe: true });
  using userPin = Secret.fromBytes(task.userPin, { wipe: true });
  return { created: provisionToken({ module: task.module, label: task.label, soPin, userPin }) };
}
