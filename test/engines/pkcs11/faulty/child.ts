import { CKU_USER } from '../../../../src/engines/pkcs11/constants.ts';
import { CkrError } from '../../../../src/engines/pkcs11/cryptoki.ts';
import { Pkcs11Module } from '../../../../src/engines/pkcs11/module.ts';

/**
 * Another process that loads the module: finds the token with this label, spends one wrong PIN on it, and prints
 * the flags that it saw and what the token answered.
 */
const [path = '', label = ''] = process.argv.slice(2);
const module = Pkcs11Module.open(path);
const token = module.tokens().find(each => each.label === label);
if (!token) throw new Error('There is no such token.');
const session = module.cryptoki.openSession(token.slotHandle, 0x6);
console.log(JSON.stringify({ flags: token.flags, ckr: answer() }));
module.close();

function answer(): number {
  try {
    module.cryptoki.login(session, CKU_USER, 'not-the-pin');
    return 0;
  } catch (thrown) {
    if (thrown instanceof CkrError) return thrown.ckr;
    throw thrown;
  }
}
