import {
  examineToken,
  inspectModule,
  type ModuleReport,
  provisionToken,
  type TokenExamination,
} from '../engines/pkcs11/index.ts';
import { Secret } from '../foundation/secret.ts';
import { runAsChild, tell } from './child.ts';

/**
 * A process of its own for looking at a PKCS#11 module or preparing a token: a module that crashes takes only
 * this process with it, and the variables that the module reads are set before it is loaded.
 */

export type TokenTask =
  | { readonly task: 'inspect'; readonly module: string; readonly libraryParameters?: string | undefined }
  | {
      readonly task: 'examine';
      readonly module: string;
      readonly libraryParameters?: string | undefined;
      readonly tokenSerial: string;
      readonly tokenLabel: string;
      readonly profile?: string | undefined;
      readonly pin: Uint8Array;
      readonly clean: boolean;
      readonly sessions_max: number;
    }
  | {
      readonly task: 'provision';
      readonly module: string;
      readonly label: string;
      readonly soPin: Uint8Array;
      readonly userPin: Uint8Array;
    };

export type TokenAnswer = ModuleReport | TokenExamination | { readonly created: boolean };

// Whoever started this calls it off, or has gone: what was made in the token is taken away, and no more is made.
const calledOff = new AbortController();
process.once('disconnect', () => calledOff.abort());
process.on('message', (message: { readonly type: string }) => {
  if (message.type === 'stop') calledOff.abort();
});

runAsChild<TokenTask, TokenAnswer>(async task => ({
  ready: await perform(task),
  stop: async () => undefined,
}));

async function perform(task: TokenTask): Promise<TokenAnswer> {
  switch (task.task) {
    case 'inspect':
      tell('C_Initialize, C_GetTokenInfo, C_GetMechanismList');
      return inspectModule(task.module, task.libraryParameters);
    case 'examine': {
      using pin = Secret.fromBytes(task.pin, { wipe: true });
      return await examineToken({ ...task, pin, signal: calledOff.signal, told: tell });
    }
    case 'provision': {
      using soPin = Secret.fromBytes(task.soPin, { wipe: true });
      using userPin = Secret.fromBytes(task.userPin, { wipe: true });
      return { created: provisionToken({ module: task.module, label: task.label, soPin, userPin }) };
    }
  }
}
