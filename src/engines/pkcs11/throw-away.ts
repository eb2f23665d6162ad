import { randomBytes } from 'node:crypto';
import type { Handle } from 'pkcs11js';
import {
  CKA_CLASS,
  CKA_ID,
  CKA_LABEL,
  CKA_TOKEN,
  CKO_PRIVATE_KEY,
  CKO_PUBLIC_KEY,
  CKO_SECRET_KEY,
} from './constants.ts';
import { CkrError, type Cryptoki, template } from './cryptoki.ts';
import type { Attributes, Device } from './device.ts';

/**
 * Keys that an examination makes and takes away again, under a label that nobody else uses. They are session
 * objects where the device has them, so that not even a crash leaves one behind; elsewhere token objects.
 */
export class ThrowAwayKeys {
  readonly label = `${leftoverPrefix}${randomBytes(6).toString('hex')}`;
  readonly #cryptoki: Cryptoki;
  readonly #device: Device;
  readonly #session: Handle;

  /** `session` holds the login and owns the session objects: it stays open for as long as they are used. */
  constructor(cryptoki: Cryptoki, device: Device, session: Handle) {
    this.#cryptoki = cryptoki;
    this.#device = device;
    this.#session = session;
  }

  /** CKA_ID and CKA_LABEL of the next key. */
  names(): Attributes {
    return this.#device.names(this.label, id => this.#find([[CKA_ID, id]]).length > 0);
  }

  /** Every object with the label is destroyed. False when the device still shows one. */
  destroy(): boolean {
    this.#destroyAll(this.label);
    return this.#find([[CKA_LABEL, Buffer.from(this.label)]]).length === 0;
  }

  /** Labels of what earlier examinations left behind: one that was killed, or whose device went away. */
  leftovers(): readonly string[] {
    const labels = keyClasses
      .flatMap(objectClass => this.#find([[CKA_CLASS, objectClass]]))
      .map(handle => this.#cryptoki.attribute(this.#session, handle, CKA_LABEL)?.toString('latin1') ?? '')
      .filter(label => leftoverForm.test(label) && label !== this.label);
    return [...new Set(labels)];
  }

  /** Destroys what earlier examinations left behind; answers the labels that are gone now. */
  clean(labels: readonly string[]): readonly string[] {
    for (const label of labels) this.#destroyAll(label);
    return labels.filter(label => this.#find([[CKA_LABEL, Buffer.from(label)]]).length === 0);
  }

  #destroyAll(label: string): void {
    for (const handle of this.#find([[CKA_LABEL, Buffer.from(label)]])) {
      try {
        this.#cryptoki.destroyObject(this.#session, handle);
      } catch (thrown) {
        if (!(thrown instanceof CkrError)) throw thrown; // whether it is gone is looked at afterwards
      }
    }
  }

  #find(search: Attributes): readonly Handle[] {
    return this.#cryptoki.findObjects(this.#session, template(...search));
  }
}

export const leftoverPrefix = 'keyslot-doctor-';
const leftoverForm = new RegExp(`^${leftoverPrefix}[0-9a-f]{12}$`);
const keyClasses = [CKO_PRIVATE_KEY, CKO_PUBLIC_KEY, CKO_SECRET_KEY];

/** The same attributes for an object of the session, or of the token. */
export const placed = (attributes: Attributes, inToken: boolean): Attributes =>
  attributes.map(([type, value]) => [type, type === CKA_TOKEN ? inToken : value]);
