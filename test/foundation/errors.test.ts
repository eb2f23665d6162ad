import { describe, expect, it } from 'vitest';
import {
  type ErrorCode,
  errorTable,
  isErrorCode,
  isKeyslotError,
  KeyslotError,
  toKeyslotError,
} from '../../src/foundation/errors.ts';

const codes = Object.keys(errorTable) as ErrorCode[];

describe('the error table', () => {
  it.each(codes)('has a whole entry for %s', code => {
    const entry = errorTable[code];
    expect(code).toMatch(/^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$/);
    expect(Number.isInteger(entry.status)).toBe(true);
    expect(entry.status).toBeGreaterThanOrEqual(400);
    expect(entry.status).toBeLessThanOrEqual(599);
    expect(typeof entry.retryable).toBe('boolean');
    expect(entry.title).toMatch(/^[A-Z].*[^.\s]$/);
    expect(entry.remedy).toMatch(/^[A-Z].*[.]$/s);
  });

  it('gives every code a title of its own', () => {
    const titles = codes.map(code => errorTable[code].title);
    expect(titles.toSorted()).toEqual([...new Set(titles)].toSorted());
  });

  it('knows its codes and no name that an object has anyway', () => {
    for (const code of codes) expect(isErrorCode(code)).toBe(true);
    for (const other of ['', 'key_unknown', 'NOT_A_CODE', 'toString', 'constructor', '__proto__']) {
      expect(isErrorCode(other)).toBe(false);
    }
  });
});

describe('an error of the table', () => {
  it('carries its code, its entry, its text and when to come again', () => {
    const error = new KeyslotError('SLOT_BUSY', 'Slot a has 4096 waiting requests.', { retryAfter_s: 2 });
    expect(error).toMatchObject({
      name: 'KeyslotError',
      code: 'SLOT_BUSY',
      message: 'Slot a has 4096 waiting requests.',
      retryAfter_s: 2,
      entry: errorTable.SLOT_BUSY,
    });
    expect(isKeyslotError(error)).toBe(true);
  });

  it('has a cause only when it was given one', () => {
    const cause = new Error('CKR_DEVICE_ERROR');
    expect(new KeyslotError('TOKEN_ERROR', 'a', { cause }).cause).toBe(cause);
    expect('cause' in new KeyslotError('TOKEN_ERROR', 'a')).toBe(false);
  });
});

describe('whatever was thrown', () => {
  it('stays what it is when it is an error of the table', () => {
    const error = new KeyslotError('KEY_UNKNOWN', 'There is no key a.');
    expect(toKeyslotError(error)).toBe(error);
  });

  it.each([
    ['an error', new TypeError('secret path /etc/pin')],
    ['a text', 'secret path /etc/pin'],
    ['a look-alike', { name: 'KeyslotError', code: 'KEY_UNKNOWN', message: 'secret path /etc/pin' }],
    ['null', null],
  ])('becomes INTERNAL with its cause kept and its text withheld: %s', (_, thrown) => {
    const error = toKeyslotError(thrown);
    expect(error.code).toBe('INTERNAL');
    expect(error.cause).toBe(thrown);
    expect(error.message).not.toContain('secret path');
  });

  it('becomes INTERNAL when it is nothing at all', () => {
    expect(toKeyslotError(undefined).code).toBe('INTERNAL');
  });
});
