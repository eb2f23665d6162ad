/** A row of the threat table: what somebody tries, and the tests that show that it fails. */
export interface Threat {
  /** As the table has them. */
  readonly row: number | string;
  readonly attacker: string;
  readonly tries: string;
  /** As it is built. */
  readonly defence: string;
  readonly proof: readonly Proof[];
}

export interface Proof {
  /** Below `test/`. */
  readonly file: string;
  /** As it stands in the source: where a test has parameters, with their places. */
  readonly test: string;
}

/** Tests of one file. */
export const of = (file: string, ...tests: readonly string[]): readonly Proof[] =>
  tests.map(test => ({ file, test }));

export const threats: readonly Threat[] = [
  {
    row: 1,
    attacker: 'whoever has the disk, or a backup of it',
    tries: 'to read keys',
    defence:
      'Keys of an HSM or KMS are not there. Sealed files are AEAD under a key that is derived from the PIN (scrypt), wrapped by the token, or in shares of which one says nothing; the store has digests, no PINs.',
    proof: [
      ...of('engines/file-engine-suite.ts', 'shows none of them anywhere (%s)'),
      ...of(
        'engines/mpc/mpc.test.ts',
        'do not open with two wrong secrets, or with one wrong and one missing',
      ),
    ],
  },
  {
    row: 8,
    attacker: 'whoever is on the network',
    tries: 'to pose as a client or as the appliance',
    defence:
      'TLS (1.2 or 1.3) with client certificates that are known by their public key, or by a name that a named CA gave; nothing listens for plain HTTP.',
    proof: of(
      'e2e/identities.test.ts',
      'is known by its public key',
      'is known by a name in it, if the right one of the trusted CAs gave it',
      'cannot pass off one name as another by what it holds',
      'gets no answer, because nothing listens for plain HTTP',
    ),
  },
  {
    row: 9,
    attacker: 'an API client without the right',
    tries: 'to use the key of somebody else',
    defence:
      'Roles, grants and policies each say no where they do not say yes; what nobody granted looks as if it did not exist.',
    proof: [
      ...of(
        'custodian/permissions.test.ts',
        'says of %s who is let in, whatever the state of the slot',
        'do not exist for %s, whatever the state of the slot',
        'for what %s takes is enough, and all the others are not',
      ),
    ],
  },
  {
    row: 10,
    attacker: 'whoever captured a request',
    tries: 'to replay it',
    defence:
      'An `Idempotency-Key` (the client sends one with every signature) or request id names a request; its repeat gets the same bytes, and nothing is signed, recorded or charged twice.',
    proof: of(
      'security/replay.test.ts',
      'a thousand times is signed, recorded and charged once, and answered with the same bytes',
      'a hundred times at once is signed once',
      'by whoever waited for a restart gets the bytes of before',
      'is good for one request: another body, key or operation is IDEMPOTENCY_CONFLICT, after a restart too',
      'is its identity’s own: another one asks for a signature of its own',
    ),
  },
  {
    row: 11,
    attacker: 'whoever guesses PINs',
    tries: 'to find the PIN, or to lock the token',
    defence:
      'A caller’s PIN is compared in memory, rate limited and locked out per identity. The token hears a PIN when its slot opens, after its flags were read, once; a refused one latches the slot over restarts.',
    proof: [
      ...of(
        'security/pins.test.ts',
        'for an open slot cost the token no attempt, however slowly they come',
        'in a row are answered once, then slowed down: the right one among them does not get in',
        'for a locked slot, by several people, %s, cost the token one attempt at the most',
        'over ten starts cost the token one attempt at the most',
        'for sessions of a locked slot are no attempts at all',
      ),
      ...of(
        'custodian/soft-hsm.test.ts',
        'loses no attempt to a hundred wrong PINs of callers and operators, and the slot still signs',
      ),
    ],
  },
  {
    row: 12,
    attacker: 'whoever reads logs and answers',
    tries: 'to find secrets in them',
    defence:
      'Secrets travel as `Secret`, which prints as `[secret]`; answers carry texts of the error table alone; the operations listener is another port and shows no keys.',
    proof: [
      ...of(
        'security/canaries.test.ts',
        'none of them is found in anything that the appliance said, logged or stored',
      ),
      ...of('foundation/secret.test.ts', 'says [secret] and nothing else of itself %s'),
      ...of(
        'gateway/request-log.test.ts',
        'names neither the path nor the query of a request, nor a key that there is not',
        'names the rules that refused, and no text of the error',
      ),
      ...of('gateway/ops.test.ts', 'names no key, nobody, no address and no request'),
    ],
  },
  {
    row: 13,
    attacker: 'crafted input',
    tries: 'to crash by malformed transactions',
    defence:
      'Lengths are capped before anything is parsed; the parsers never throw anything but errors of the table; every wait has a bound.',
    proof: [
      ...of(
        'solana/transaction-refusals.test.ts',
        'never ends in anything but an error of the table with a 4xx status',
      ),
      ...of(
        'e2e/bad-input.test.ts',
        '${malformed_count} malformed transactions and ${nasties_count} malformed requests: no 5xx, no growth',
      ),
    ],
  },
  {
    row: 14,
    attacker: 'crafted input',
    tries: 'to have a transaction signed as a message',
    defence:
      'What any validator could read as a transaction, as its message or as it travels, is signed as a transaction or not at all; the right to sign it raw takes a grant and a policy.',
    proof: [
      ...of(
        'security/transaction-as-message.test.ts',
        'is never signed, by no route that takes messages',
        'of a grant is not enough where the policy does not say raw',
        'of a policy is not enough without the grant, and neither is meant unless it is said',
      ),
      ...of(
        'gateway/vault-transit.test.ts',
        'is never a signature of what sign-message calls a transaction, unless sign-transaction signs it too',
      ),
    ],
  },
  {
    row: 15,
    attacker: 'crafted input',
    tries: 'to pollute prototypes, to smuggle requests, to exhaust the listener',
    defence:
      '`--disable-proto=throw`, closed schemas, caps on bodies, headers, connections and time, one reading of where a body ends; a full house makes room by those who only stand in it.',
    proof: [
      ...of('wire/http.test.ts', 'cannot pass a field in by its prototype'),
      ...of('wire/frames.test.ts', 'leaves the prototype of a head alone'),
      ...of(
        'e2e/bad-input.test.ts',
        'two ideas of where a body ends are refused, and nothing behind them is answered',
        'many slow half requests do not keep others from being served',
      ),
      ...of(
        'e2e/hostile.test.ts',
        'a thousand slow and half-open connections and floods of all sorts get what they are promised, and everybody else signatures',
      ),
      ...of(
        'gateway/listener.test.ts',
        'of connections without a request has at most half of it for them, the latest ones',
        'of requests that are being answered answers them all, and whoever comes has to wait',
      ),
    ],
  },
  {
    row: 16,
    attacker: 'whoever names paths',
    tries: 'to get out of the folder of keys',
    defence:
      'Ids are words of an alphabet without dots and slashes; key files are opened without following links, and refused when others can write or read them.',
    proof: [
      ...of(
        'security/paths.test.ts',
        'an id that is a path names no key and no slot, in no operation, and nothing appears in the folder',
      ),
      ...of(
        'sealing/key-folder.test.ts',
        'is refused with mode %s, and not mended',
        'is refused behind a symbolic link, also one that leads nowhere',
        'is refused: %s; the other keys go on working',
      ),
    ],
  },
  {
    row: 17,
    attacker: 'an insider who writes files',
    tries: 'to swap or roll back key files',
    defence:
      'A sealed file is bound to its key id and public key; the registry knows the public key of every id, and every signature is verified against it.',
    proof: [
      ...of(
        'engines/file-engine-suite.ts',
        'swapped files sign nothing (%s)',
        'an older key under the same id signs nothing (%s)',
      ),
      ...of(
        'custodian/slot-keeper.test.ts',
        'report another key under a known id, and nothing is signed with it',
      ),
    ],
  },
  {
    row: 18,
    attacker: 'an insider who operates',
    tries: 'to take out or destroy a key alone',
    defence:
      'Exports are off by default and need another person’s approval, as does destruction; the role that operates does not approve.',
    proof: of(
      'security/dual-control.test.ts',
      'gets nothing without an approval, with one that does not exist, or with an own one',
      'gets nothing at all where the configuration does not let keys leave, which is the default',
      'gets nothing with the approval of one of two, however often that one approves',
      'lets exactly what was approved be done, once, and the log names who approved',
      'is good for no other key, operation or person',
      'is taken by one of a hundred calls at once',
      'does not count of whoever approved something else than they read',
      'is over when somebody rejects it, also after both have approved',
      'loses the vote of an approver who was removed meanwhile',
    ),
  },
  {
    row: 19,
    attacker: 'an insider who writes the log',
    tries: 'to edit, delete, reorder or cut off what it says',
    defence:
      'A hash chain and a Merkle tree, checkpoints signed by a key in the HSM, witnesses elsewhere; the store remembers how far the log was.',
    proof: [
      ...of(
        'audit/verify.test.ts',
        'a byte of a segment',
        'a field, with chain, headers and roots made again, which takes no key',
        'a line, a block of lines, or a segment is deleted',
        'lines or segments change places',
        'the end is cut off, and the checkpoints are left',
        'everything is put back to an earlier state, which only the witness can tell',
        'two machines went on from one snapshot, and their lines are joined',
      ),
      ...of(
        'security/audit-tampering.test.ts',
        'a log of ${signatures} signatures is in order, from the files and the public key alone',
        'and is not with any byte changed, wherever in whichever file',
        'and is not when its last signature is cut off together with the checkpoints over it',
      ),
      ...of('custodian/ledger-audit.test.ts', 'refuses a log that was put back to what it was before'),
    ],
  },
  {
    row: 20,
    attacker: 'a disk that is full, broken or hangs',
    tries: 'to have something signed that is not recorded',
    defence:
      'The intent is on disk before the token is called, the result before the signature leaves; without both there is 503.',
    proof: [
      ...of(
        'security/durable-intent.test.ts',
        'on a full disk, at every write: 503, and it goes on by itself when there is room',
        'when it fails for good ($operation: $how), at every operation: nothing is done until the next start',
        'is no charge where nothing was signed',
        'is the charge where a signature was made, although nobody got it',
      ),
      ...of('audit/writer.test.ts', 'never has an fsync repeated as if the first had not failed'),
    ],
  },
  {
    row: 21,
    attacker: 'a faulty HSM or library',
    tries: 'to sign with another key, or to answer with a wrong signature',
    defence:
      'Every signature is verified against the public key that was asked for before it leaves. After an outage the keys are found again by their public key and prove themselves before anybody signs.',
    proof: [
      ...of('custodian/sign.test.ts', 'whose signatures are wrong (%s) has them withheld'),
      ...of(
        'engines/pkcs11/recovery.test.ts',
        '2,000 times while every class fails with a probability of 1 to 3 percent',
        'holds another key when it comes back: nothing is signed with it',
      ),
    ],
  },
  {
    row: 22,
    attacker: 'whoever injects faults while a signature is made',
    tries: 'to get two signatures with one nonce',
    defence:
      'A faulty signature does not verify and is withheld, so nobody has the second one; it is logged, and a slot of a group is kept out.',
    proof: of('custodian/sign.test.ts', 'whose signatures are wrong (%s) has them withheld'),
  },
  {
    row: 23,
    attacker: 'whoever writes libraries or the configuration',
    tries: 'to have another PKCS#11 module loaded',
    defence:
      'An absolute path to a file that root alone can replace, or one that is allowed by name; with `moduleSha256` only these very bytes.',
    proof: of(
      'engines/pkcs11/module-file.test.ts',
      'refuses a library with one changed bit, before it is loaded',
      'is not below a folder that everybody can write, such as that of temporary files',
      'makes no engine of a library that is not root’s alone',
    ),
  },
  {
    row: 24,
    attacker: 'whoever publishes packages',
    tries: 'to run code at an installation, or to come in under a similar name',
    defence:
      'Few direct dependencies, each with its reason; exact versions and hashes; install scripts are off but for one that is listed; a bill of materials.',
    proof: of(
      'packaging/supply-chain.test.ts',
      'that nobody has listed are refused, in a new package and in a new version of one that may',
      'names versions and hashes, and no address',
      'each have their reason in docs/dependencies.md, those of development too',
    ),
  },
  {
    row: 25,
    attacker: 'another user of the same host',
    tries: 'to read memory, core files or secrets of the processes, or to have a debugger opened',
    defence:
      'A user of its own, folders and sockets of its owner alone; no core files; no debugger by a signal; in the image and the unit Node’s file is execute-only, so that no process of the same user may attach either.',
    proof: [
      ...of(
        'e2e/api.test.ts',
        'reads neither memory nor environment of a process as another user, and traces none',
        'opens no debugger with SIGUSR1, in none of the three processes',
      ),
      ...of(
        'e2e/cli.test.ts',
        'are in nothing that was printed or logged, in no argument and in no environment',
      ),
      ...of(
        'packaging/core-dumps.test.ts',
        'keeps memory out of core files, of this process and of those that start from it',
        'runs the command with no room for a core file and with the filter set, whatever its shell allows',
      ),
      ...of('appliance/home.test.ts', 'is made for its owner alone, and one that is looser is made so'),
      ...of('custodian/server.test.ts', 'can be opened by its owner alone'),
      ...of(
        'packaging/image.test.ts',
        'starts Node without core files, code from strings, prototype tricks, and a signal that opens a debugger',
      ),
      ...of(
        'packaging/systemd.test.ts',
        'allows what services do, less what reaches into the kernel or into other processes',
      ),
    ],
  },
  {
    row: 26,
    attacker: 'whoever reads the memory of the custodian',
    tries: 'to find PINs and seeds of slots that are not in use',
    defence:
      'A `Secret` lies outside the heap that V8 moves, and is zero-filled when it is done with; a seed is unsealed for one signature. What is left over below, of an HSM’s PIN most of all, is under “not protected”.',
    proof: [
      ...of(
        'security/memory.test.ts',
        'a slot that is locked leaves neither its PIN nor a seed in the memory of its process',
      ),
      ...of(
        'foundation/secret.test.ts',
        'are zero-filled when it is disposed',
        'are zero-filled at the end of a using block, also when it throws',
      ),
      ...of('sealing/sealed-session.test.ts', 'lives for one signature when nothing may be kept'),
      ...of(
        'engines/pkcs11/wrapped-device.test.ts',
        'leaves no seed in the buffers that the token was lent, neither after success nor after an abort',
      ),
      ...of('custodian/pin-guard.test.ts', 'has the PIN that it sent wiped behind it'),
    ],
  },
  {
    row: 27,
    attacker: 'whoever measures time',
    tries: 'to guess a secret byte by byte',
    defence: 'Secrets are compared by digests of equal length in constant time.',
    proof: of(
      'security/timing.test.ts',
      'a comparison that ends at the first difference is found out',
      'how much of a PIN is right cannot be told from how long it takes to refuse it',
      'nor how much of the secret that the processes of a boot know each other by',
      'nor how much of the digest of an API token',
    ),
  },
  {
    row: 28,
    attacker: 'a mistake in the configuration',
    tries: 'to pass keys in software off as an HSM',
    defence:
      'The production profile, which is the default, refuses software engines that are not named; every key, slot, health check and record carries its custody label.',
    proof: of(
      'security/profiles.test.ts',
      'is refused by the production profile, which is the default, unless it is named',
      'is called what it is, whatever the profile',
    ),
  },
  {
    row: 29,
    attacker: 'whoever sets the clock',
    tries: 'to revive what has expired, or to empty a limit',
    defence: 'Windows, sessions, approvals and tokens go by a clock that only runs forward.',
    proof: [
      ...of(
        'security/clock-steps.test.ts',
        'empties no limit, and fills none for longer than its window',
        'opens and closes no office',
        'revives no API token and no JWT, and ends none',
        'revives no session and ends none',
        'shortens no wait behind a wrong PIN',
        'forgets no request that was signed, so that its replay stays a replay',
        'back by a day, empties no limit',
      ),
      ...of(
        'security/dual-control.test.ts',
        'is over after fifteen minutes, and no clock that is set revives it',
      ),
    ],
  },
  {
    row: 30,
    attacker: 'whoever copies or puts back a virtual machine',
    tries: 'to have two appliances write, or to undo what was counted, revoked and recorded',
    defence:
      'A state folder is held by one appliance, its log by one writer; the store knows how far the log was, and a witness how far both were. Nothing random is used twice that matters: Ed25519 needs no random nonce, and sessions end with their process.',
    proof: [
      ...of(
        'appliance/home.test.ts',
        'is taken by one at a time, and free when that one lets go',
        'is taken across processes, and free the moment its process is killed',
      ),
      ...of('audit/writer.test.ts', 'has one writer'),
      ...of(
        'custodian/ledger.test.ts',
        'refuses a log that is shorter than what was counted',
        'refuses another log in its place, longer or not',
      ),
      ...of(
        'audit/witnesses.test.ts',
        'refuses the start of a log that was put back with its checkpoints, or forked',
        'stops a log when another one writes under its name',
      ),
      ...of('audit/verify.test.ts', 'two machines went on from one snapshot, and their lines are joined'),
      ...of('custodian/caller-sessions.test.ts', 'does not survive a restart'),
    ],
  },
  {
    row: 'gateway',
    attacker: 'whoever has taken over the gateway',
    tries: 'to get at keys, files or other programs of the host',
    defence:
      'It runs under Node’s permission model: it reads its own code, and has no key, no PIN of a token and no addon. The socket of the custodian gives answers, not keys.',
    proof: [
      ...of('e2e/api.test.ts', 'reads no secret, writes nothing, starts nothing and loads no addon'),
      ...of(
        'custodian/server.test.ts',
        'survives whatever bytes come, before the greeting and behind it',
        'passes failures on with their code and their Retry-After, and never the text from below',
      ),
    ],
  },
  {
    row: 'swap',
    attacker: 'a caller in the same process',
    tries: 'to show the policy one transaction and have another signed',
    defence:
      'The bytes of a request are copied when they arrive; what was judged is what is signed and recorded.',
    proof: of(
      'security/swapped.test.ts',
      'a buffer that is changed at any moment behind the call never gets another transaction signed',
      'what stands in the log is what was signed, although the buffer says something else by then',
      'a policy that flips under the desk lets nothing through that it forbids once it is in force',
      '%s comes in time for the request that waits',
    ),
  },
  {
    row: 'evasion',
    attacker: 'whoever builds transactions',
    tries: 'to get funds past a policy that looks at a part of them only',
    defence:
      'Every instruction is decoded and held against every rule; what cannot be read is refused wherever anything is limited.',
    proof: [
      ...of(
        'security/evasion.test.ts',
        'is refused with the rule, alone and in a batch, recorded, and neither signed nor charged',
        'behind all these tricks all that was not spent is left, and not a lamport more',
      ),
      ...of(
        'policy/never-more-than-caps.test.ts',
        'what a policy lets through never moves more than its caps, by an independent count',
      ),
    ],
  },
  {
    row: 'freeze',
    attacker: 'whoever goes on while others want to stop',
    tries: 'to sign although it is frozen, or to lift a freeze',
    defence: 'Freezes are asked before the verdict and again before the token; lifting takes an admin.',
    proof: of(
      'security/freeze.test.ts',
      'stops signing at once, in every form, and survives a restart',
      'gives out no signature of before, to no repeat',
      'is lifted by an admin alone',
      'by a file holds until an admin lifts it: taking the file away does not',
      'a freeze in the middle of a batch stops all that was not handed to the device yet',
    ),
  },
];
