/**
 * The error table: every failure Keyslot can answer with, once.
 *
 * A code is API and is for ever: clients branch on it, `docs/errors.md` is generated from this table and a
 * test holds the two equal. `status` is the HTTP status, `retryable` says whether the same request may
 * succeed later without anybody changing it, `remedy` says what to do and is sent to callers.
 */

export interface ErrorEntry {
  readonly status: number;
  readonly title: string;
  readonly retryable: boolean;
  readonly remedy: string;
}

const refused = (status: number, title: string, remedy: string) =>
  ({ status, title, retryable: false, remedy }) as const;
const passing = (status: number, title: string, remedy: string) =>
  ({ status, title, retryable: true, remedy }) as const;

export const errorTable = {
  // What the caller sent.
  BODY_NOT_JSON: refused(400, 'The body is not JSON', 'Send one JSON object, encoded in UTF-8.'),
  BODY_INVALID: refused(400, 'The body does not have the expected shape', 'Correct the named field.'),
  FIELD_UNKNOWN: refused(400, 'The body has an unknown field', 'Remove the named field.'),
  QUERY_INVALID: refused(400, 'A query parameter is not valid', 'Correct the named parameter.'),
  BASE64_INVALID: refused(
    400,
    'A field is not standard base64',
    'Encode the bytes as RFC 4648 base64 with padding, without line breaks.',
  ),
  SIGNATURE_ENCODING_INVALID: refused(
    400,
    'The signature is neither base58 nor base64 of 64 bytes',
    'Send the 64 bytes of the signature as base58 or as standard base64.',
  ),
  KEY_ID_INVALID: refused(
    400,
    'The key id is not valid',
    'Use 1 to 63 characters of a-z, 0-9 and "-", starting with a letter or a digit.',
  ),
  SLOT_ID_INVALID: refused(
    400,
    'The slot id is not valid',
    'Use 1 to 63 characters of a-z, 0-9 and "-", starting with a letter or a digit.',
  ),
  KEY_MATERIAL_INVALID: refused(
    400,
    'The key material is not a Solana key',
    'Send a 32-byte seed, or a 64-byte secret key whose last 32 bytes are the public key of its first 32.',
  ),
  MESSAGE_EMPTY: refused(
    400,
    'The message is empty',
    'Send at least one byte; tokens refuse empty messages.',
  ),
  MESSAGE_TOO_LARGE: refused(
    413,
    'The message is too large',
    'Send at most the number of bytes that is named.',
  ),
  MESSAGE_IS_TRANSACTION: refused(
    422,
    'The message is a Solana transaction message',
    'Send the wire transaction to sign-transaction: a transaction is never signed as a message.',
  ),
  OFFCHAIN_MESSAGE_INVALID: refused(
    422,
    'The off-chain message envelope is malformed',
    'Build the envelope with a Solana library: version 0 or 1, a signer list, a non-empty body.',
  ),
  TRANSACTION_TRUNCATED: refused(422, 'The transaction ends too early', 'Send the whole wire transaction.'),
  TRANSACTION_TRAILING_BYTES: refused(
    422,
    'The transaction is followed by other bytes',
    'Send the wire transaction and nothing behind it.',
  ),
  TRANSACTION_MALFORMED: refused(
    422,
    'The transaction cannot be decoded',
    'Serialise the transaction with a Solana library and send its base64.',
  ),
  TRANSACTION_TOO_LARGE: refused(
    422,
    'The transaction is larger than the network accepts',
    'Keep legacy and v0 transactions within 1,232 bytes and v1 transactions within 4,096.',
  ),
  TRANSACTION_VERSION_UNSUPPORTED: refused(
    422,
    'The transaction version is not supported',
    'Use a legacy, v0 or v1 transaction.',
  ),
  TRANSACTION_SIGNERS_INVALID: refused(
    422,
    'The number of signers is not possible',
    'A transaction has at least one signer, and as many signature places as its header requires.',
  ),
  COMPACT_U16_INVALID: refused(
    422,
    'A compact-u16 length overflows or is not minimal',
    'Serialise the transaction with a Solana library.',
  ),
  KEY_NOT_A_SIGNER: refused(
    422,
    'The key is not among the required signers',
    'Use a key whose address the transaction or the off-chain message requires.',
  ),
  WALLET_ID_INVALID: refused(
    400,
    'The wallet id is not a UUID',
    'Use the id that making the wallet answered with.',
  ),
  AUTOFUND_UNSUPPORTED: refused(
    400,
    'Wallets are not funded',
    'Make the wallet without autoFund and send it lamports from a wallet of yours.',
  ),
  BODY_TOO_LARGE: refused(413, 'The body is too large', 'Send at most the number of bytes that is named.'),
  BATCH_TOO_LARGE: refused(400, 'The batch has too many items', 'Send at most 100 items in one batch.'),
  CONTENT_TYPE_UNSUPPORTED: refused(415, 'The content type is not supported', 'Send application/json.'),
  ROUTE_UNKNOWN: refused(404, 'There is no such route', 'See docs/api.md for the routes.'),
  METHOD_NOT_ALLOWED: refused(405, 'The route does not take this method', 'Use a method named in Allow.'),

  // Who the caller is, and what it may do.
  CREDENTIAL_MISSING: refused(
    401,
    'No credential was presented',
    'Present a client certificate of the configured CA, or a bearer token where the profile allows it.',
  ),
  CREDENTIAL_EXPIRED: refused(401, 'The credential has expired', 'Present a current one.'),
  JWKS_UNAVAILABLE: passing(
    503,
    'The keys of the token issuer cannot be read',
    'Check the JWKS file or URL of the issuer; until then its tokens cannot be checked.',
  ),
  IDENTITY_INVALID: refused(422, 'The identity is not valid', 'Correct the field that is named.'),
  IDENTITY_UNKNOWN: refused(404, 'There is no such identity', 'List them with keyslot identities list.'),
  IDENTITY_EXISTS: refused(409, 'There is an identity of this name or credential', 'Choose another.'),
  IDENTITY_MANAGED: refused(
    409,
    'The identity is kept in the configuration',
    'Change the configuration, and reload or restart the appliance.',
  ),
  API_TOKEN_UNKNOWN: refused(404, 'There is no such API token', 'List them with keyslot tokens list.'),
  API_TOKENS_DISABLED: refused(
    409,
    'API tokens are not allowed',
    'Set apiTokens.enabled in the configuration, or use a client certificate.',
  ),
  CREDENTIAL_UNKNOWN: refused(
    401,
    'The credential belongs to no identity',
    'Ask the operator to list the certificate or token under identities: in keyslot.yaml.',
  ),
  PERMISSION_DENIED: refused(
    403,
    'The identity may not do this',
    'Ask the operator for the role or the slot grant that is named.',
  ),
  SESSION_REQUIRED: refused(
    401,
    'The slot asks for a PIN session',
    'Open one with POST /v1/slots/{slot}/sessions and send its token in Keyslot-Session.',
  ),
  SESSION_EXPIRED: refused(401, 'The session has expired or ended', 'Open a new session.'),
  SESSION_FOREIGN: refused(
    403,
    'The session belongs to another identity or slot',
    'Use the session that this identity opened for this slot.',
  ),
  PIN_INCORRECT: refused(
    401,
    'The PIN is not the one that opened the slot',
    'Check the PIN. It was compared in memory; the token has lost no attempt.',
  ),
  PIN_RATE_LIMITED: passing(429, 'Too many PINs in a short time', 'Wait for the time in Retry-After.'),
  IDENTITY_LOCKED_OUT: passing(
    429,
    'The identity is locked out after wrong PINs',
    'Wait for the time in Retry-After. Other identities and the token are not affected.',
  ),

  // Keys and slots.
  KEY_DISABLED: refused(409, 'The key is disabled', 'An admin enables it again: keyslot keys enable.'),
  KEY_UNKNOWN: refused(404, 'There is no such key', 'List the keys with GET /v1/keys.'),
  KEY_MISSING: refused(
    503,
    'The token no longer holds a registered key',
    'Find out who changed the token, or bring it back; then open the slot again.',
  ),
  KEY_EXISTS: refused(409, 'A key with this id exists', 'Choose another id; an id is one address for life.'),
  KEY_AMBIGUOUS: refused(
    409,
    'The token holds several keys under this id',
    'Remove the duplicate object with the vendor tool, then run keyslot doctor.',
  ),
  KEY_NOT_EXPORTABLE: refused(409, 'The key cannot leave its custody', 'Ask for a signer instead.'),
  KEY_MISMATCH: refused(
    409,
    'The token holds another public key than the registry',
    'Do not sign. Find out who changed the token; the registry is never repaired silently.',
  ),
  KEY_UNVERIFIED: refused(
    503,
    'The new key did not prove itself',
    'The key was removed again. Run keyslot doctor and look at the log of the appliance.',
  ),
  POWER_MISSING: refused(
    409,
    'This custody cannot do that',
    'Use a slot whose engine has the power that is named.',
  ),
  SLOT_UNKNOWN: refused(404, 'There is no such slot', 'List the slots with GET /v1/slots.'),
  SLOT_LOCKED: refused(
    423,
    'The slot is locked',
    'An operator opens it with POST /v1/slots/{slot}/open or keyslot slots open.',
  ),
  SLOT_LATCHED: refused(
    423,
    'The slot is latched because its token refused the PIN',
    'Correct the PIN source, or have an operator clear the latch; the refused PIN is not tried again.',
  ),
  SLOT_FAILED: passing(
    503,
    'The slot has failed',
    'See the reason in GET /v1/slots. It opens by itself when its device is back; an operator may open it, too.',
  ),
  SLOT_BUSY: passing(503, 'The slot has too many waiting requests', 'Retry after the time in Retry-After.'),
  SLOT_HAS_NO_PIN: refused(
    400,
    'The slot has no PIN',
    'Send no PIN: the slot opens with the credentials of the custodian.',
  ),
  SLOT_PIN_REQUIRED: refused(400, 'The slot is attended and needs its PIN', 'Send {"pin": "…"}.'),

  // Moving keys from slot to slot.
  MIGRATION_UNKNOWN: refused(
    404,
    'There is no such migration',
    'List the migrations with GET /v1/migrations or keyslot migrate status.',
  ),
  MIGRATION_IMPOSSIBLE: refused(
    409,
    'The keys cannot be moved between these slots',
    'Nothing was started. See the reasons with keyslot migrate plan and remove what is named.',
  ),
  MIGRATION_RUNNING: passing(
    409,
    'A migration is at work on this',
    'Wait for the end of what is running, or finish or roll back the migration that is named.',
  ),
  MIGRATION_STATE: refused(
    409,
    'The migration is not in a state that allows this',
    'See what was done with keyslot migrate status and the id of the migration.',
  ),
  MIGRATION_UNPROVEN: refused(
    503,
    'The key did not prove itself in its slot',
    'Nothing was switched and nothing was destroyed. Examine the slot that is named, then run again or roll back.',
  ),

  // The token below.
  PIN_REFUSED: refused(
    423,
    'The token refused the PIN',
    'The slot is latched and the PIN is not tried again. Check the PIN and the remaining attempts with the vendor tool.',
  ),
  PIN_LAST_TRY: refused(
    423,
    'The token has one PIN attempt left',
    'Keyslot does not spend the last try. Log in once with the vendor tool to reset the counter.',
  ),
  PIN_LOCKED: refused(423, 'The token has locked its PIN', 'Have the security officer reset the PIN.'),
  TOKEN_UNSUITABLE: refused(
    503,
    'The token cannot do what its slot is configured for',
    'Run keyslot doctor: it names the missing capability and what to change.',
  ),
  TOKEN_UNAVAILABLE: passing(
    503,
    'The token or its device is not reachable',
    'Check the device, its network and power; run keyslot doctor.',
  ),
  TOKEN_CAPACITY: passing(
    503,
    'The token has no room left',
    'Free sessions or storage on the device (a YubiHSM with a full audit log answers this too).',
  ),
  TOKEN_ERROR: passing(
    503,
    'The token answered with an error',
    'Retry once; if it stays, the log has the CKR code and keyslot doctor examines the module.',
  ),
  SIGNATURE_WITHHELD: refused(
    503,
    'The token produced a signature that does not verify',
    'Nothing was released. Stop using the token and examine it: it may be faulty or hold another key.',
  ),
  KEY_FILE_MALFORMED: refused(
    503,
    'A key file is not in a form that Keyslot reads',
    'The file is truncated or was written by something else. Restore it from a backup; other keys are not affected.',
  ),
  KEY_FILE_TAMPERED: refused(
    503,
    'A key file does not open with the secret of its slot',
    'The file was changed, or sealed with another secret. Restore it from a backup; other keys are not affected.',
  ),
  KEY_FILE_FOREIGN: refused(
    503,
    'A key file belongs to another key or slot',
    'Somebody moved or swapped files. Put the right file back; other keys are not affected.',
  ),
  KEY_FILE_UNSAFE: refused(
    503,
    'A key file or its folder can be read or replaced by others',
    'Make the files mode 0600 in a folder of mode 0700, owned by the user that runs Keyslot, without symbolic links.',
  ),
  KEY_FILE_UNWRITABLE: passing(
    503,
    'A key file cannot be written',
    'Check disk space and permissions of the key folder. Nothing was acknowledged that is not on the disk.',
  ),
  SHARES_INSUFFICIENT: refused(
    503,
    'Fewer than two shares of a key could be opened',
    'Bring back the node secrets or the shares that are named; any two of the three are enough.',
  ),
  NODE_SECRET_MISSING: refused(
    409,
    'A node secret is missing',
    'Signing needs two of the three node secrets; making or importing a key needs all three.',
  ),
  KMS_THROTTLED: passing(503, 'KMS is throttling', 'Retry later; ask AWS for a higher request quota.'),
  KMS_UNAVAILABLE: passing(
    503,
    'KMS cannot be reached or failed',
    'Check network, endpoint and region, and the AWS status; then retry.',
  ),
  KMS_DENIED: refused(
    503,
    'KMS refused the credentials or the permission',
    'Check the credentials of the custodian and the key policy: the action that is named must be allowed.',
  ),
  KMS_KEY_UNUSABLE: refused(
    503,
    'The KMS key is disabled or pending deletion',
    'Enable the KMS key, or cancel its deletion.',
  ),
  KMS_KEY_UNKNOWN: refused(503, 'There is no such KMS key', 'Check the key id, alias, region and account.'),
  KMS_KEY_UNSUITABLE: refused(
    503,
    'The KMS key is of another kind',
    'Signing inside KMS takes KeySpec ECC_NIST_EDWARDS25519 and KeyUsage SIGN_VERIFY; envelopes take SYMMETRIC_DEFAULT.',
  ),
  KMS_REPLY_WRONG: refused(
    503,
    'KMS answered for another key',
    'Nothing was released. Check the endpoint: the reply names another key than was asked for.',
  ),
  SLOT_OPEN: refused(
    409,
    'The slot is open already',
    'Lock the slot first; two slots must not name one token.',
  ),
  SESSION_CLOSED: refused(409, 'The slot session was closed', 'Open the slot again.'),

  // The appliance itself.
  REQUEST_ABORTED: passing(503, 'The request was aborted', 'Send it again.'),
  DEADLINE_EXCEEDED: passing(
    504,
    'The request did not finish in time',
    'Signing is deterministic: it is safe to send the same request again.',
  ),
  CUSTODIAN_UNAVAILABLE: passing(
    503,
    'The custodian is not running',
    'It is being restarted; retry after the time in Retry-After.',
  ),
  SHUTTING_DOWN: passing(503, 'The appliance is stopping', 'Send the request to another appliance or later.'),
  STORE_FAILED: passing(
    503,
    'The durable state cannot be written',
    'Check disk space and permissions of the state folder.',
  ),
  STORE_NEWER: refused(
    503,
    'The durable state was written by a newer Keyslot',
    'Start the newer version; it is never downgraded.',
  ),
  INTERNAL: refused(
    500,
    'Something broke inside Keyslot',
    'Report it with the requestId; the log has the cause.',
  ),

  // The Solana RPC node, for the balances of wallets.
  RPC_NOT_CONFIGURED: refused(501, 'No Solana RPC node is configured', 'Set solanaRpcUrl in keyslot.yaml.'),
  RPC_FAILED: passing(503, 'The Solana RPC node did not answer', 'Retry; if it stays, check solanaRpcUrl.'),

  // What policy, freezes and approvals say; every refusal of theirs is in the audit log.
  POLICY_DENIED: refused(
    403,
    'The policy does not allow this',
    'Read the violations; keyslot policy explain shows every rule. Change the request, or have the policy changed.',
  ),
  POLICY_INVALID: refused(422, 'The policy document is not valid', 'Correct the field that is named.'),
  POLICY_UNKNOWN: refused(404, 'There is no such policy', 'List the policies with keyslot policy list.'),
  POLICY_MANAGED: refused(
    409,
    'The policy is kept in a file of the configuration',
    'Change the file, and reload or restart the appliance.',
  ),
  POLICY_CHANGED: refused(
    409,
    'The policy was changed meanwhile',
    'Read the newest version, and send the change with its number.',
  ),
  FROZEN: refused(
    423,
    'Signing is frozen',
    'Find out who froze it and why; an admin lifts the freeze with keyslot thaw.',
  ),
  FREEZE_UNKNOWN: refused(404, 'There is no such freeze', 'List them with keyslot freeze list.'),
  APPROVAL_REQUIRED: refused(
    403,
    'The operation needs approvals',
    'Request them at /v1/approvals, have others approve, and repeat the call with Keyslot-Approval.',
  ),
  APPROVAL_UNKNOWN: refused(404, 'There is no such approval', 'It may have expired: request another.'),
  APPROVAL_UNUSABLE: refused(
    403,
    'The approval does not allow this call',
    'An approval is for one request exactly, once, before it expires, and by people other than the requester.',
  ),
  EXPORT_DISABLED: refused(
    403,
    'Keys are not exported',
    'Set exports.enabled in the configuration; it takes approvals all the same.',
  ),

  // The audit log. Nothing is signed that it could not record.
  AUDIT_UNAVAILABLE: passing(
    503,
    'The audit log cannot be written',
    'Make room on its disk; nothing was signed, and the log goes on by itself.',
  ),
  AUDIT_FAILED: refused(
    503,
    'The audit log has failed',
    'Check its disk and restart the appliance; nothing is signed until then.',
  ),
  AUDIT_TAMPERED: refused(
    503,
    'The audit log is not as it was written',
    'Keep the folder as evidence, run keyslot audit verify, and compare with a witness.',
  ),
  AUDIT_PRUNED: refused(404, 'The record was pruned', 'Look for it in the archive.'),
  AUDIT_RECORD_UNKNOWN: refused(404, 'The audit log has no such record', 'Ask for a record below its size.'),
  AUDIT_UNWITNESSED: refused(
    409,
    'No witness has seen these records',
    'Prune below a witnessed checkpoint: keyslot audit status shows it.',
  ),

  // Repeated requests.
  IDEMPOTENCY_KEY_INVALID: refused(
    400,
    'The Idempotency-Key is not valid',
    'Send 1 to 255 printable ASCII characters, a new key for each request.',
  ),
  IDEMPOTENCY_CONFLICT: refused(
    409,
    'The Idempotency-Key was used for another request',
    'Send a new key with a new request, and the same key only with the same request.',
  ),

  // Refused at start; those with 503 may also meet an operator who opens a slot.
  RELOAD_BUSY: refused(
    409,
    'The configuration is being read already',
    'Wait for it; keyslot reload --last shows what came of it.',
  ),
  RELOAD_NEEDS_RESTART: refused(
    409,
    'A setting that was changed takes a restart',
    'Restart the appliance, or take the named changes back; nothing was changed.',
  ),
  RELOAD_REFUSED: refused(
    422,
    'The configuration was not taken',
    'Correct what is named and reload again; everything goes on as before.',
  ),
  CERTIFICATE_EXPIRED: refused(
    500,
    'A certificate of the appliance is not valid now',
    'Put a new certificate in its place, or correct the clock of the machine.',
  ),
  CONFIG_INVALID: refused(500, 'The configuration is not valid', 'Correct the setting that is named.'),
  HOME_INVALID: refused(500, 'The state folder cannot be used', 'Check the folder, its owner and its mode.'),
  HOME_IN_USE: refused(500, 'Another appliance uses this state folder', 'Stop it, or use another --home.'),
  PORT_IN_USE: refused(500, 'The port cannot be used', 'Stop the other program or choose another --port.'),
  SECRET_UNREADABLE: refused(
    503,
    'A secret cannot be read',
    'Make the file readable for the user that runs Keyslot and nobody else (mode 0600 or 0400).',
  ),
  MODULE_UNTRUSTED: refused(
    500,
    'The PKCS#11 module may have been replaced',
    'Give the library and the folders above it to root alone, or name it in allowModules; correct moduleSha256 after an update.',
  ),
  MODULE_UNUSABLE: refused(
    503,
    'The PKCS#11 module cannot be loaded',
    'Set the absolute path of the vendor library; for SoftHSM install softhsm2.',
  ),
  TOKEN_NOT_FOUND: refused(
    503,
    'No token matches',
    'Set tokenLabel or tokenSerial to one of the tokens that are named; keyslot doctor lists them.',
  ),
  TOKEN_AMBIGUOUS: refused(503, 'Several tokens match', 'Set tokenSerial: labels need not be unique.'),
  APPLIANCE_UNREACHABLE: passing(
    503,
    'The appliance cannot be reached',
    'Start it with keyslot serve, or name its state folder with --home.',
  ),

  // Backups.
  BACKUP_FAILED: passing(
    503,
    'The backup could not be written or restored',
    'Correct what is named and repeat the command: nothing was left half made.',
  ),
  BACKUP_INVALID: refused(
    422,
    'The file is not a backup that can be restored',
    'Use another copy of it, or another backup: this one is damaged or was not made by Keyslot.',
  ),
  BACKUP_UNREADABLE: refused(
    422,
    'The backup does not open with this identity',
    'Name the identity file of one of the recipients that the backup was made for.',
  ),
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof errorTable;

export interface ErrorOptions {
  /** What went wrong below, for the log only: it is never sent to a caller. */
  readonly cause?: unknown;
  /** When the same request may be worth repeating. */
  readonly retryAfter_s?: number;
  /** The rules that refused, each with its reason. */
  readonly violations?: readonly Violation[];
}

/** A rule of a policy that refused a request, as `policy/rule`, and why. */
export interface Violation {
  readonly rule: string;
  readonly reason: string;
}

/**
 * A failure with a code of the table. The message says what happened and names the things involved; it is
 * sent to callers, so it never holds a secret or a text from below (that is what `cause` is for).
 */
export class KeyslotError extends Error {
  readonly code: ErrorCode;
  readonly retryAfter_s: number | undefined;
  readonly violations: readonly Violation[] | undefined;

  constructor(code: ErrorCode, detail: string, options: ErrorOptions = {}) {
    super(detail, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'KeyslotError';
    this.code = code;
    this.retryAfter_s = options.retryAfter_s;
    this.violations = options.violations;
  }

  get entry(): ErrorEntry {
    return errorTable[this.code];
  }
}

export const isKeyslotError = (error: unknown): error is KeyslotError => error instanceof KeyslotError;

export const isErrorCode = (code: string): code is ErrorCode => Object.hasOwn(errorTable, code);

/** Whatever was thrown, as an error of the table: what is not one yet becomes INTERNAL with its cause kept. */
export function toKeyslotError(thrown: unknown): KeyslotError {
  if (isKeyslotError(thrown)) return thrown;
  return new KeyslotError('INTERNAL', 'An unexpected error stopped this request.', { cause: thrown });
}
