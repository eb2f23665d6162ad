import type { KeyId } from '../custody/ids.ts';
import { shamirDealing } from '../engines/mpc/dealing.ts';
import { KeyslotError } from '../foundation/errors.ts';
import type { Secret } from '../foundation/secret.ts';
import { type Dealing, keyslotSuffix } from '../sealing/keyslot-form.ts';
import { type MpcForm, mpcForm } from '../sealing/mpc-form.ts';
import type { PageSuffix } from '../sealing/page-envelopes.ts';
import {
  encryptedFileForm,
  hsmForm,
  hsmSecret,
  kmsForm,
  kmsSecret,
  type PageForm,
} from '../sealing/page-forms.ts';
import type { ShareId } from '../sealing/shamir.ts';
import { given, pageNodeSecrets, pageSecret } from './page-secrets.ts';

/** The backends of the agentic-wallet page that keep files, and the engine that stands for each. */
export const engineOfBackend = {
  'encrypted-file': 'encrypted-file',
  kms: 'kms',
  hsm: 'hsm-sim',
  mpc: 'mpc',
} as const;
export type FileBackend = keyof typeof engineOfBackend;
export const fileBackends = Object.keys(engineOfBackend) as readonly FileBackend[];

/** The backend whose files an engine of this name keeps. */
export const backendOfEngine = (engine: string): FileBackend | undefined =>
  fileBackends.find(backend => engineOfBackend[backend] === engine);

export const suffixOf: Readonly<Record<FileBackend, PageSuffix>> = {
  'encrypted-file': '.json',
  kms: '.kms.json',
  hsm: '.hsm.json',
  mpc: '.mpc.json',
};

/** Which key a file is of and what wrote it, by its name; nothing for what is no key file. */
export function envelopeNamed(name: string): { id: string; kind: FileBackend | 'keyslot' } | undefined {
  const kinds = [['keyslot', keyslotSuffix], ...Object.entries(suffixOf).toReversed()] as const;
  for (const [kind, suffix] of kinds) {
    if (name.endsWith(suffix) && name.length > suffix.length) {
      return { id: name.slice(0, -suffix.length), kind: kind as FileBackend | 'keyslot' };
    }
  }
  return undefined;
}

/** What opens and seals the files of one backend, in both forms. Disposing it wipes the secrets. */
export interface PageCustody extends Disposable {
  readonly page: PageForm;
  readonly lock: {
    readonly secrets: readonly (Secret | undefined)[];
    readonly needed: number;
    readonly dealing?: Dealing;
  };
  /** Only of mpc: which shares of a file open with the secrets of their nodes. */
  readonly openShares?: MpcForm['openShares'];
}

/**
 * Made of the secrets in the environment. CONFIG_INVALID and SECRET_UNREADABLE name the variable. Shares that do
 * not fit although their node secret is there are told to `onOddShare`.
 */
export async function pageCustody(
  backend: FileBackend,
  onOddShare: (key: KeyId, shares: readonly ShareId[]) => void,
): Promise<PageCustody> {
  using held = new DisposableStack();
  switch (backend) {
    case 'encrypted-file': {
      const secret = held.use(await pageSecret('WALLET_KEY_ENCRYPTION_SECRET'));
      const page = held.use(encryptedFileForm({ secret, writes: 'deployed' }));
      return owning(held, { page, lock: { secrets: [secret], needed: 1 } });
    }
    case 'kms': {
      using masterSecret = await pageSecret('WALLET_KMS_MASTER_SECRET');
      const keyId = given('WALLET_KMS_KEY_ID') ?? 'wallet-engine-kms-key';
      const secret = held.use(kmsSecret({ keyId, masterSecret }));
      const page = held.use(kmsForm({ keyId, masterSecret, writes: 'deployed' }));
      return owning(held, { page, lock: { secrets: [secret], needed: 1 } });
    }
    case 'hsm': {
      using pin = await pageSecret('WALLET_HSM_PIN');
      using moduleSecret = await pageSecret('WALLET_HSM_MODULE_SECRET');
      const slot = given('WALLET_HSM_SLOT') ?? 'slot-0';
      const secret = held.use(hsmSecret({ slot, moduleSecret, pin }));
      const page = held.use(hsmForm({ slot, moduleSecret, pin, writes: 'deployed' }));
      return owning(held, { page, lock: { secrets: [secret], needed: 1 } });
    }
    case 'mpc': {
      const secrets = await pageNodeSecrets();
      for (const secret of secrets) held.use(secret);
      const odd = (key: KeyId, shares: readonly ShareId[]) => {
        const news = shares.filter(id => secrets[id - 1] !== undefined);
        if (news.length > 0) onOddShare(key, news);
      };
      const page = held.use(mpcForm({ nodeSecrets: secrets, writes: 'deployed', onOddShare: odd }));
      const lock = { secrets, needed: 2, dealing: shamirDealing(odd) };
      return owning(held, { page, lock, openShares: page.openShares });
    }
  }
}

function owning(held: DisposableStack, custody: Omit<PageCustody, typeof Symbol.dispose>): PageCustody {
  const kept = held.move();
  return { ...custody, [Symbol.dispose]: () => kept.dispose() };
}

/** The backend of a name. CONFIG_INVALID. */
export function fileBackend(name: string, origin: string): FileBackend {
  const backend = fileBackends.find(each => each === name);
  if (backend) return backend;
  throw new KeyslotError('CONFIG_INVALID', `${origin} has to be one of ${fileBackends.join(', ')}.`);
}
