import { of, type Proof } from './threats.ts';

/** An item of the OWASP ASVS 5.0, how it is met here, and the tests that show it. */
export interface AsvsItem {
  readonly item: string;
  /** In our words; the standard has the ones that count. */
  readonly asks: string;
  readonly state: 'met' | 'partly' | 'not met';
  readonly how: string;
  readonly proof: readonly Proof[];
}

export const asvs: readonly AsvsItem[] = [
  {
    item: '2.3.5',
    asks: 'several people for what matters most',
    state: 'met',
    how: 'Export, destruction and whatever else `approvals` names takes m other people, each of whom approves the very request, once, within 15 minutes.',
    proof: of(
      'security/dual-control.test.ts',
      'gets nothing with the approval of one of two, however often that one approves',
      'lets exactly what was approved be done, once, and the log names who approved',
    ),
  },
  {
    item: '4.1.4',
    asks: 'no methods but those that are meant',
    state: 'met',
    how: 'Every path refuses every method that the API document does not have, on both listeners.',
    proof: of('gateway/openapi.test.ts', 'take no other method than they say, and say which'),
  },
  {
    item: '4.1.5',
    asks: 'signatures on messages that matter, beside TLS',
    state: 'not met',
    how: 'Requests are authenticated by TLS and tokens, not signed one by one. What is answered is a signature that the client checks itself.',
    proof: [],
  },
  {
    item: '8.3.2',
    asks: 'changes of rights that hold at once',
    state: 'met',
    how: 'Every request asks policies, identities, tokens and freezes as they are at that moment, and is asked again in front of the device. A JWT is good until it ends; removing its identity, or its key at the issuer, ends it.',
    proof: [
      ...of('custodian/policy-book.test.ts', 'hold from the next request on, and survive a restart'),
      ...of('custodian/reload.test.ts', 'and %s is not given out: %s'),
      ...of(
        'custodian/identities.test.ts',
        'end at once when they are removed, with their tokens, and the name brings nothing back',
      ),
      ...of(
        'custodian/api-tokens.test.ts',
        'ends at once when it is revoked, for good, and no other token with it',
      ),
      ...of('security/swapped.test.ts', '%s comes in time for the request that waits'),
      ...of(
        'custodian/jwt.test.ts',
        'are read again when they are old, so that a key that was withdrawn is good for nothing',
      ),
    ],
  },
  {
    item: '11.2.4',
    asks: 'constant time',
    state: 'partly',
    how: 'Secrets are compared in constant time and by digests; shares are joined without tables and branches. The signature itself takes the time of the HSM or of OpenSSL.',
    proof: of(
      'security/timing.test.ts',
      'how much of a PIN is right cannot be told from how long it takes to refuse it',
      'nor how much of the secret that the processes of a boot know each other by',
      'nor how much of the digest of an API token',
    ),
  },
  {
    item: '11.3.4',
    asks: 'no nonce or IV twice under one key',
    state: 'met',
    how: 'Each sealing has a random IV, or the device’s own, mostly under a key that is derived for that file alone; Ed25519 has no random nonce.',
    proof: [
      ...of('sealing/sealed-text.test.ts', 'never has the same IV, salt or content twice'),
      ...of('sealing/keyslot-form.test.ts', 'is another one each time the same seed is sealed'),
      ...of('engines/pkcs11/wrapped.test.ts', 'has an IV of its own each time'),
    ],
  },
  {
    item: '11.5.2',
    asks: 'random numbers that hold under load',
    state: 'partly',
    how: 'They come from OpenSSL’s generator, which the system seeds and which does not run dry, or from the HSM; nothing else is used. No test looks at their quality under load.',
    proof: of('tidy.test.ts', 'takes no randomness that can be guessed'),
  },
  {
    item: '11.7.1',
    asks: 'encrypted memory',
    state: 'not met',
    how: 'That is for the host’s hardware. With an HSM or KMS no key is in this memory.',
    proof: [],
  },
  {
    item: '11.7.2',
    asks: 'as little as possible in the clear, as short as possible',
    state: 'partly',
    how: 'Sealed keys are sealed in memory too, and unsealed for one signature; secrets are zero-filled. Copies below that (a PIN in a PKCS#11 library, a key in OpenSSL until it is collected) are not ours to wipe.',
    proof: [
      ...of(
        'security/memory.test.ts',
        'a slot that is locked leaves neither its PIN nor a seed in the memory of its process',
      ),
      ...of('sealing/sealed-session.test.ts', 'lives for one signature when nothing may be kept'),
    ],
  },
  {
    item: '12.3.5',
    asks: 'strong authentication between parts of the system',
    state: 'partly',
    how: 'Gateway and custodian are on one host: a socket of their user alone, and a random secret of this boot that neither stores. It is no public-key method.',
    proof: [
      ...of(
        'custodian/server.test.ts',
        'can be opened by its owner alone',
        'serves a peer that knows the secret of this boot',
      ),
      ...of('gateway/custodian-link.test.ts', 'is cut off and gets nothing done'),
    ],
  },
  {
    item: '13.1.2',
    asks: 'documented limits of connections, and what happens at them',
    state: 'partly',
    how: 'Documented for tokens ([profiles](hsm/profiles.md)) and tracing. Those of KMS, witnesses and issuers’ keys stand in the code alone.',
    proof: of('docs.test.ts', 'keeps the generated documents equal to the code: npm run docs writes them'),
  },
  {
    item: '13.1.3',
    asks: 'documented timeouts, releases and retries',
    state: 'partly',
    how: 'Documented for tokens and processes ([architecture](architecture.md), [health](health.md)) and for every code whether a repeat makes sense ([errors](errors.md)); not for every outside service.',
    proof: of('docs.test.ts', 'keeps the generated documents equal to the code: npm run docs writes them'),
  },
  {
    item: '13.2.6',
    asks: 'these limits kept',
    state: 'met',
    how: 'Sessions of a token, calls to KMS and calls to the custodian are bounded, wait in order, and are refused beyond that; repeats are counted and have deadlines.',
    proof: [
      ...of(
        'engines/pkcs11/pool.test.ts',
        'opens sessions only as they are needed and never more than its size',
        'refuses with SLOT_BUSY instead of growing its queue',
      ),
      ...of(
        'engines/kms/gate.test.ts',
        'lets no more through than its number, in the order in which they came',
        'answers SLOT_BUSY when too many wait, and goes on when they are through',
      ),
      ...of(
        'engines/kms/native.test.ts',
        'is tried again as often as the settings say when KMS throttles or fails',
      ),
      ...of('gateway/custodian-link.test.ts', 'takes a bounded number of calls to wait'),
    ],
  },
  {
    item: '13.3.3',
    asks: 'all cryptography in an isolated module',
    state: 'partly',
    how: 'With `hsm-native` and `kms-native` keys sign where nobody gets them, the audit key too where its slot is such a one. The other custodies, and TLS, are software of this host, and every answer says which it is.',
    proof: [
      ...of(
        'custodian/soft-hsm.test.ts',
        'that were generated never were and never will be outside it, as read back from the token',
      ),
      ...of('security/profiles.test.ts', 'is called what it is, whatever the profile'),
    ],
  },
  {
    item: '13.3.4',
    asks: 'secrets that expire and are changed',
    state: 'partly',
    how: 'API tokens, PIN sessions, JWTs and certificates end. PINs and the secrets of files end when somebody changes them.',
    proof: [
      ...of(
        'custodian/api-tokens.test.ts',
        'ends with its time, and a clock that is set back does not bring it back',
        'lives no longer than the configuration allows: IDENTITY_INVALID',
      ),
      ...of('custodian/caller-sessions.test.ts', 'ends for good, however busy it is'),
    ],
  },
  {
    item: '15.1.4',
    asks: 'risky packages named',
    state: 'met',
    how: 'Each direct dependency has its reason, and what is wrong with it, in [dependencies](dependencies.md); the one that is compiled is in [supply chain](ops/supply-chain.md).',
    proof: of(
      'packaging/supply-chain.test.ts',
      'each have their reason in docs/dependencies.md, those of development too',
    ),
  },
  {
    item: '15.1.5',
    asks: 'dangerous parts named',
    state: 'met',
    how: 'The parsers, the seam to C and the processes they are in are in [architecture](architecture.md); which room may use which package is held by a test.',
    proof: of('tidy.test.ts', 'are imported in their one room', 'import only rooms of a lower rank'),
  },
  {
    item: '15.2.4',
    asks: 'packages from where they are expected, with all of theirs',
    state: 'met',
    how: 'Exact versions and hashes of everything that is installed, and no addresses.',
    proof: of(
      'packaging/supply-chain.test.ts',
      'names versions and hashes, and no address',
      'are allowed for a version, not for whatever comes under the name',
      'has every package of production with its hash, and no other',
    ),
  },
  {
    item: '15.2.5',
    asks: 'dangerous parts fenced in',
    state: 'partly',
    how: 'What reads from the network may do nothing else. A PKCS#11 library is in the process that decides, and its crash costs that process alone; what goes into it is checked before.',
    proof: [
      ...of('e2e/api.test.ts', 'reads no secret, writes nothing, starts nothing and loads no addon'),
      ...of('e2e/survival.test.ts', 'by %s loses no signing and records none twice'),
      ...of(
        'engines/pkcs11/cryptoki.test.ts',
        'let no mechanism through that is not an unsigned integer',
        'let no handle through that does not have 8 bytes',
      ),
    ],
  },
  {
    item: '15.4.1',
    asks: 'shared objects used safely',
    state: 'met',
    how: 'JavaScript runs on one thread of each process; a session of a token has one user at a time, the state folder, the store and the log one writer.',
    proof: [
      ...of('engines/pkcs11/pool.test.ts', 'never lends one session to two at a time'),
      ...of('appliance/home.test.ts', 'is taken by one at a time, and free when that one lets go'),
      ...of('audit/writer.test.ts', 'has one writer'),
    ],
  },
  {
    item: '15.4.2',
    asks: 'no time between check and use',
    state: 'met',
    how: 'Bytes are copied when they arrive; verdict and charge are one turn; an approval is taken once; a key file is opened first and then looked at.',
    proof: [
      ...of(
        'security/swapped.test.ts',
        'a buffer that is changed at any moment behind the call never gets another transaction signed',
      ),
      ...of('security/dual-control.test.ts', 'is taken by one of a hundred calls at once'),
      ...of('security/replay.test.ts', 'a hundred times at once is signed once'),
      ...of('sealing/key-folder.test.ts', 'is refused: %s; the other keys go on working'),
    ],
  },
  {
    item: '15.4.3',
    asks: 'locks that nobody hangs in',
    state: 'met',
    how: 'Whoever waits has a deadline and leaves the queue at it; a call that does not come back costs its session, and in the end its process.',
    proof: [
      ...of('engines/pkcs11/pool.test.ts', 'lets go of who aborts while waiting, and of nobody else'),
      ...of(
        'engines/pkcs11/recovery.test.ts',
        'is answered at its deadline, and its session is used by nobody until it returns',
      ),
      ...of(
        'e2e/survival.test.ts',
        'in every session of a slot: its process stops in order and makes way for the next one',
      ),
    ],
  },
  {
    item: '15.4.4',
    asks: 'nobody starved',
    state: 'partly',
    how: 'Waiting is in order, a batch does not hold up single requests, key derivations never take all threads. A caller with rights has no share of a slot of their own: policies can give one.',
    proof: [
      ...of('engines/pkcs11/pool.test.ts', 'serves who waits in the order in which they came'),
      ...of('custodian/sign.test.ts', 'lets a single request finish before a batch of a hundred is through'),
      ...of(
        'custodian/crowd.test.ts',
        'never has anybody wait for longer than a second, and turns nobody away who would not wait',
      ),
    ],
  },
  {
    item: '16.3.2',
    asks: 'every decision on rights logged',
    state: 'partly',
    how: 'Every refusal to somebody who is known, and everything that was allowed and has an effect. Reading that was allowed is not; strangers are written down some times a second, and counted.',
    proof: [
      ...of(
        'security/evasion.test.ts',
        'is refused with the rule, alone and in a batch, recorded, and neither signed nor charged',
      ),
      ...of('gateway/ops.test.ts', 'is for operators, stands in the audit log, and can be ended'),
    ],
  },
  {
    item: '16.4.2',
    asks: 'logs that nobody can change',
    state: 'met',
    how: 'Nobody can unseen: chain, tree, signed checkpoints, witnesses. Who may read is the role `auditor`.',
    proof: [
      ...of(
        'security/audit-tampering.test.ts',
        'and is not with any byte changed, wherever in whichever file',
        'and is not when its last signature is cut off together with the checkpoints over it',
      ),
      ...of('e2e/api.test.ts', 'is for who may read the log: others get no record'),
    ],
  },
  {
    item: '16.4.3',
    asks: 'logs sent to another system',
    state: 'partly',
    how: 'Checkpoints go to witnesses, which is what shows a change. The records stay on this host until somebody exports them; the log of requests goes to whatever collects standard error.',
    proof: of(
      'audit/witnesses.test.ts',
      'gets the notes, with its headers, and their values are nowhere to be seen',
      'is remembered over a restart, and a log that has less than it saw is refused',
    ),
  },
  {
    item: '16.5.3',
    asks: 'failures that open nothing',
    state: 'met',
    how: 'What cannot be decided, recorded or verified is refused.',
    proof: [
      ...of(
        'security/durable-intent.test.ts',
        'on a full disk, at every write: 503, and it goes on by itself when there is room',
      ),
      ...of('custodian/sign.test.ts', 'whose signatures are wrong (%s) has them withheld'),
      ...of(
        'engines/pkcs11/recovery.test.ts',
        'holds another key when it comes back: nothing is signed with it',
      ),
    ],
  },
  {
    item: '16.5.4',
    asks: 'a handler of last resort',
    state: 'partly',
    how: 'Whatever fails in a request ends in a problem without its text. An error that nobody caught ends its process, with its trace on standard error, and the supervisor starts the next one.',
    proof: [
      ...of(
        'custodian/sign.test.ts',
        'that answers with something unheard of ends in INTERNAL, without its text',
      ),
      ...of(
        'gateway/request-log.test.ts',
        'are written when the process ends, also by an error that nobody caught',
      ),
      ...of('e2e/survival.test.ts', 'by %s loses no signing and records none twice'),
    ],
  },
];
