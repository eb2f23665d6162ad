import { expect, it } from 'vitest';
import { encodeBase58 } from '../../src/foundation/base58.ts';
import { type PastRequest, replay } from '../../src/policy/replay.ts';
import { address, compiled, factsOf, subject, transfer } from './lab.ts';

const alice = address('alice');
const minute_ms = 60_000;

const past = (seq: number, lamports: bigint | undefined, was: 'allow' | 'deny', to = alice): PastRequest => ({
  seq,
  was,
  subject: { ...subject, at: new Date(subject.at.getTime() + seq * minute_ms) },
  facts: lamports === undefined ? undefined : factsOf([transfer(to, lamports)]),
});

const candidate = (appliesTo: unknown = 'all') =>
  compiled({
    appliesTo,
    transactions: {
      programs: [{ program: 'system' }],
      destinations: [encodeBase58(alice)],
      caps: { windows: [{ window: '10m', lamports: 20_000 }] },
    },
  });

it('tells which requests of the past a candidate would have answered otherwise, and why', () => {
  const requests = [
    past(1, 10n, 'allow'),
    past(2, 10n, 'allow', address('mallory')),
    past(3, 10n, 'deny'),
    past(4, undefined, 'allow'),
  ];
  expect(replay(requests, [candidate()])).toMatchObject({
    judged: 3,
    unreadable: 1,
    changes: [
      { seq: 2, was: 'allow', now: 'deny', violations: [{ rule: 'p/destinations', instruction: 0 }] },
      { seq: 3, was: 'deny', now: 'allow', violations: [] },
    ],
  });
});

it('counts limits as they would have been at the time', () => {
  // Each moves 5,001 lamports with its fee: three fit, and after the window there is room again.
  const requests = [1, 2, 3, 4, 20].map(seq => past(seq, 1n, 'allow'));
  expect(replay(requests, [candidate()]).changes.map(({ seq }) => seq)).toEqual([4]);
});

it('leaves out what the candidates do not apply to', () => {
  expect(replay([past(1, 10n, 'deny')], [candidate({ keys: ['another'] })])).toEqual({
    judged: 0,
    unreadable: 0,
    changes: [],
  });
});
