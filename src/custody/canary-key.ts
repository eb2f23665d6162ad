import { keyId } from './ids.ts';

/**
 * The id of the key with which a slot shows that it signs. It is reserved in every slot: the key is no caller's, and
 * no other key is made, taken in or moved under it.
 */
export const canaryKey = keyId('keyslot-canary');
