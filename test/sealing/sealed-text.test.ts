import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Secret } from '../../src/foundation/secret.ts';
import {
  openSealedText,
  parseSealedText,
  type SealedTextForm,
  sealText,
} from '../../src/sealing/sealed-text.ts';
import {
  fromBase64Text,
  fromNumbersText,
  toBase64Text,
  toNumbersText,
} from '../../src/sealing/secret-text.ts';
import { oldOpen, oldSeal } from './old-program.ts';

const forms: readonly SealedTextForm[] = ['documented', 'deployed'];
const textOf = (secret: Secret) => secret.useText(text => text);
const malformed = expect.objectContaining({ code: 'KEY_FILE_MALFORMED' });
const tampered = expect.objectContaining({ code: 'KEY_FILE_TAMPERED' });
const aborted = expect.objectContaining({ code: 'REQUEST_ABORTED' });

async function opened(sealed: string, secret: string, signal?: AbortSignal): Promise<string> {
  using key = Secret.fromText(secret);
  using plain = await openSealedText(parseSealedText(sealed, 'The text'), key, signal);
  return textOf(plain);
}

async function sealed(text: string, secret: string, form: SealedTextForm): Promise<string> {
  using plain = Secret.fromText(text);
  using key = Secret.fromText(secret);
  return await sealText(plain, key, form);
}

const parsing = (text: string) => () => parseSealedText(text, 'The text');
const fieldsOf = (text: string) => JSON.parse(text) as Record<string, unknown>;

describe.each(forms)('a sealed text of the %s form', form => {
  it('opens to what was sealed, here and by an independent program, both ways', async () => {
    for (const text of ['', 'a', 'grün und größer', 'x'.repeat(1_000)]) {
      const ours = await sealed(text, 'a secret: ü', form);
      expect(parseSealedText(ours, 'The text').form).toBe(form);
      expect(oldOpen(ours, 'a secret: ü')).toBe(text);
      expect(await opened(ours, 'a secret: ü')).toBe(text);
      expect(await opened(oldSeal(text, 'a secret: ü', form), 'a secret: ü')).toBe(text);
    }
  });

  it('has the fields of its form in their order', async () => {
    const names = {
      documented: ['iv', 'encrypted', 'authTag'],
      deployed: ['v', 'salt', 'iv', 'tag', 'data'],
    };
    expect(Object.keys(fieldsOf(await sealed('text', 'secret', form)))).toEqual(names[form]);
  });

  it('never has the same IV, salt or content twice', async () => {
    const [one, two] = [fieldsOf(await sealed('t', 's', form)), fieldsOf(await sealed('t', 's', form))];
    for (const name of Object.keys(one).filter(each => each !== 'v')) expect(one[name]).not.toBe(two[name]);
  });

  it('does not open with another secret', async () => {
    const text = oldSeal('text', 'secret', form);
    for (const other of ['', 'Secret', 'secret ', 'secre'])
      await expect(opened(text, other)).rejects.toEqual(tampered);
  });

  it('names what did not open, and nothing of its secret', async () => {
    const error = await opened(oldSeal('plain words', 'secret words', form), 'other words').catch(String);
    expect(error).toContain('The text');
    expect(error).not.toContain('words');
  });

  it('is malformed when any field is missing, of another type, or of another length', () => {
    const whole = fieldsOf(oldSeal('text', 'secret', form));
    for (const name of Object.keys(whole)) {
      const { [name]: _, ...rest } = whole;
      for (const text of [rest, ...[null, 2, [], {}, 'x'].map(value => ({ ...rest, [name]: value }))]) {
        expect(parsing(JSON.stringify(text)), JSON.stringify(text)).toThrow(malformed);
      }
    }
    const sized = Object.keys(whole).filter(name => !['v', 'data', 'encrypted'].includes(name));
    for (const name of sized) {
      for (const length of [0, 8, 11, 13, 15, 17, 32]) {
        const other = { ...whole, [name]: randomBytes(length).toString('base64') };
        expect(parsing(JSON.stringify(other)), `${name} of ${length}`).toThrow(malformed);
      }
    }
  });

  it('is malformed with a field that is not known, also one of the other form', () => {
    const whole = fieldsOf(oldSeal('text', 'secret', form));
    for (const name of ['x', 'salt', 'authTag', '__proto__'].filter(
      each => !(each in whole) || each === '__proto__',
    )) {
      const text = `${JSON.stringify(whole).slice(0, -1)},${JSON.stringify(name)}:"AAAAAAAAAAAAAAAAAAAAAA=="}`;
      expect(parsing(text), name).toThrow(malformed);
    }
  });

  it('is malformed when its base64 is loose', () => {
    const whole = fieldsOf(oldSeal('text!', 'secret', form));
    for (const name of Object.keys(whole).filter(each => each !== 'v')) {
      const text = String(whole[name]);
      for (const loose of [
        `${text}\n`,
        ` ${text}`,
        text.replace(/=+$/, ''),
        `${text}=`,
        `-${text.slice(1)}`,
        '%%%%',
      ]) {
        if (loose !== text)
          expect(parsing(JSON.stringify({ ...whole, [name]: loose })), name).toThrow(malformed);
      }
    }
  });

  it('does not open when it was truncated at any byte', () => {
    const text = oldSeal('text', 'secret', form);
    for (let length = 0; length < text.length; length += 1)
      expect(parsing(text.slice(0, length))).toThrow(malformed);
  });

  it('is left with REQUEST_ABORTED when its caller has gone', async () => {
    const signal = AbortSignal.abort();
    await expect(opened(oldSeal('text', 'secret', form), 'secret', signal)).rejects.toEqual(aborted);
    using plain = Secret.fromText('text');
    await expect(sealText(plain, plain, form, signal)).rejects.toEqual(aborted);
  });

  it('leaves the secrets of its caller as they were', async () => {
    using plain = Secret.fromText('text');
    using secret = Secret.fromText('secret');
    const text = await sealText(plain, secret, form);
    using again = await openSealedText(parseSealedText(text, 'The text'), secret);
    expect([textOf(plain), textOf(secret), textOf(again)]).toEqual(['text', 'secret', 'text']);
  });
});

describe('a sealed text', () => {
  it('never opens to anything after any one bit of it was flipped', async () => {
    const text = Buffer.from(oldSeal('some longer text', 'secret', 'documented'));
    const outcomes = new Set<string>();
    for (let bit = 0; bit < text.length * 8; bit += 1) {
      const flipped = Buffer.from(text);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      const outcome = await opened(flipped.toString('latin1'), 'secret').catch(
        (error: { code: string }) => error.code,
      );
      outcomes.add(outcome);
    }
    expect([...outcomes].sort()).toEqual(['KEY_FILE_MALFORMED', 'KEY_FILE_TAMPERED']);
  });

  it('in the deployed form does not open after a bit of its salt, IV, tag or data was flipped', async () => {
    const whole = fieldsOf(oldSeal('text', 'secret', 'deployed'));
    for (const name of ['salt', 'iv', 'tag', 'data']) {
      const bytes = Buffer.from(String(whole[name]), 'base64');
      bytes[0] = (bytes[0] ?? 0) ^ 1;
      const text = JSON.stringify({ ...whole, [name]: bytes.toString('base64') });
      await expect(opened(text, 'secret')).rejects.toEqual(tampered);
    }
  });

  it('is not taken from JSON that is no object, nor from what is no JSON; and the text is not repeated', () => {
    for (const text of ['', 'null', '1', '"x"', '[1,2,3]', '{', '[12,34,56,', 'undefined']) {
      expect(parsing(text), text).toThrow(malformed);
    }
    const leak = (() => {
      try {
        return parseSealedText('[12,34,56,', 'The text');
      } catch (error) {
        return error as Error;
      }
    })();
    expect(leak).toBeInstanceOf(Error);
    expect(leak).not.toHaveProperty('cause');
    expect(String(leak)).not.toContain('34');
  });

  it('lets the event loop run while its key is derived, and a derivation that was begun is dropped on abort', async () => {
    const controller = new AbortController();
    const order: string[] = [];
    const opening = opened(oldSeal('text', 'secret', 'deployed'), 'secret', controller.signal).finally(() =>
      order.push('settled'),
    );
    setImmediate(() => {
      order.push('turn of the loop');
      controller.abort();
    });
    await expect(opening).rejects.toEqual(aborted);
    expect(order).toEqual(['turn of the loop', 'settled']);
  });
});

describe('secret bytes as text', () => {
  const bytes = fc.uint8Array({ maxLength: 100 });
  const given = <T>(content: Uint8Array | string, use: (secret: Secret) => T): T => {
    using secret = typeof content === 'string' ? Secret.fromText(content) : Secret.fromBytes(content);
    return use(secret);
  };
  const decoded = (secret: Secret | undefined) => secret?.use(lent => Uint8Array.from(lent));

  it('are spelled as base64 and as JSON are elsewhere, and read back', () => {
    fc.assert(
      fc.property(bytes, content => {
        const base64 = given(content, secret => textOf(toBase64Text(secret)));
        const numbers = given(content, secret => textOf(toNumbersText(secret)));
        expect(base64).toBe(Buffer.from(content).toString('base64'));
        expect(numbers).toBe(JSON.stringify([...content]));
        expect(decoded(given(base64, fromBase64Text))).toEqual(content);
        expect(decoded(given(numbers, fromNumbersText))).toEqual(content);
      }),
    );
  });

  it('are not taken from any other spelling', () => {
    for (const text of [
      'A',
      'AA',
      'AAA',
      'AA=A',
      '====',
      'AB==',
      'AAB=',
      'AA==AA==',
      'A-_A',
      'AAA=\n',
      'ÄAA',
    ]) {
      expect(given(text, fromBase64Text), text).toBeUndefined();
    }
    const numbers = [
      '',
      '[',
      ']',
      '[]]',
      '1',
      '[1',
      '1]',
      '[,]',
      '[1,]',
      '[,1]',
      '[01]',
      '[256]',
      '[-1]',
      '[1.5]',
      '[1, 2]',
    ];
    for (const text of [...numbers, '[9999999999999999999999]', '{1}', '["a"]', '[1e1]']) {
      expect(given(text, fromNumbersText), text).toBeUndefined();
    }
  });

  it('are one spelling for each byte string', () => {
    const base64ish = fc.string({ unit: fc.constantFrom(...'AZaz09+/=-_ '), maxLength: 12 });
    const numberish = fc
      .string({ unit: fc.constantFrom(...'0125,,[] '), maxLength: 12 })
      .map(text => `[${text}]`);
    fc.assert(
      fc.property(base64ish, numberish, (left, right) => {
        const one = decoded(given(left, fromBase64Text));
        if (one) expect(Buffer.from(one).toString('base64')).toBe(left);
        const two = decoded(given(right, fromNumbersText));
        if (two) expect(JSON.stringify([...two])).toBe(right);
      }),
      { numRuns: 2_000 },
    );
  });
});
