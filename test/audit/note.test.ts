import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type Checkpoint,
  checkpointText,
  keyHashOf,
  NoteError,
  noteHash,
  noteOf,
  parseNote,
  verifyNote,
  zeroHash,
} from '../../src/audit/note.ts';
import { createVerifier } from '../../src/foundation/ed25519.ts';
import { auditSigner } from './lab.ts';

const checkpoint: Checkpoint = {
  origin: 'keyslot/test',
  size: 3,
  root: Buffer.alloc(32, 7),
  chain: 'ab'.repeat(32),
  time: '2026-01-02T03:04:05.678Z',
  previous: zeroHash,
};
const text = checkpointText(checkpoint);
const signer = auditSigner();
const signed = async (key = signer, name = checkpoint.origin): Promise<string> =>
  noteOf(text, { name, publicKey: key.publicKey, signature: await key.sign(Buffer.from(text)) });

describe('a checkpoint', () => {
  it('is a note as the standard writes it', async () => {
    const note = await signed();
    expect(note.split('\n')).toEqual([
      'keyslot/test',
      '3',
      checkpoint.root.toString('base64'),
      `chain ${checkpoint.chain}`,
      `time ${checkpoint.time}`,
      `previous ${zeroHash}`,
      '',
      expect.stringMatching(/^— keyslot\/test [A-Za-z0-9+/]{91}=$/),
      '',
    ]);
    expect(parseNote(note).checkpoint).toEqual(checkpoint);
    expect(noteHash(note)).toMatch(/^[0-9a-f]{64}$/);
  });

  it('is signed as the reference implementation of signed notes signs its own example', () => {
    const [name = '', hash = '', encoded = ''] =
      'PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW'.split('+');
    const example =
      "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    const line =
      'x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=';
    const publicKey = Buffer.from(encoded, 'base64').subarray(1);
    const signature = Buffer.from(line, 'base64').subarray(4);
    expect(keyHashOf(name, publicKey).toString('hex')).toBe(hash);
    expect(noteOf(example, { name, publicKey, signature })).toBe(`${example}\n— ${name} ${line}\n`);
    expect(createVerifier(publicKey).verifyNow(Buffer.from(example), signature)).toBe(true);
  });

  it('is valid under the key that signed it, and says what it is under others', async () => {
    const other = auditSigner();
    const verdict = (note: string, key = signer) => verifyNote(parseNote(note), key.publicKey);
    expect(verdict(await signed())).toBe('valid');
    expect(verdict(await signed(), other)).toBe('other-key');
    expect(verdict(await signed(signer, 'somebody'))).toBe('other-key');
    expect(verdict(noteOf(text))).toBe('unsigned');
    expect(verdict((await signed()).replace('\n3\n', '\n4\n'))).toBe('forged');
    const cosigned = `${await signed()}${(await signed(other, 'witness.example/w')).split('\n').at(-2)}\n`;
    expect(verdict(cosigned)).toBe('valid');
    expect(verdict(cosigned, other)).toBe('other-key');
  });

  it('is read in one form only', async () => {
    const note = await signed();
    const bent: readonly string[] = [
      '',
      text,
      note.slice(0, -1),
      note.replace('\n3\n', '\n03\n'),
      note.replace('\n3\n', '\n-3\n'),
      note.replace('\n3\n', '\n99999999999999999\n'),
      note.replace('chain ', 'Chain '),
      note.replace('keyslot/', 'other/'),
      note.replace('time ', 'x 1\ntime '),
      note.replace(/^previous .*\n/m, ''),
      note.replace('— ', '- '),
      note.replace(/\S+\n$/, 'AAAA\n'),
      note.replaceAll('\n', '\r\n'),
    ];
    for (const each of bent) expect(() => parseNote(each)).toThrow(NoteError);
  });

  it('is not the same after any one letter was changed', async () => {
    const note = await signed();
    fc.assert(
      fc.property(fc.nat({ max: note.length - 1 }), fc.integer({ min: 32, max: 126 }), (at, code) => {
        const letter = String.fromCharCode(code);
        if (note[at] === letter) return;
        const bent = `${note.slice(0, at)}${letter}${note.slice(at + 1)}`;
        const verdict = (): string => {
          try {
            return verifyNote(parseNote(bent), signer.publicKey);
          } catch (error) {
            if (error instanceof NoteError) return 'malformed';
            throw error;
          }
        };
        expect(verdict()).not.toBe('valid');
      }),
      { numRuns: 300 },
    );
  });
});
