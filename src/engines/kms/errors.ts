import { type ErrorCode, isKeyslotError, KeyslotError } from '../../foundation/errors.ts';

/**
 * The one translation of what the AWS SDK throws. `what` says which action met which key, and is all that a
 * caller hears of it; the log gets a `KmsFailure` as the cause.
 */
export function kmsError(thrown: unknown, what: string): KeyslotError {
  if (isKeyslotError(thrown)) return thrown;
  const cause = new KmsFailure(thrown);
  const code = codeOf(cause);
  return new KeyslotError(code, `${what} failed: ${cause.name}.`, {
    cause,
    ...(code === 'KMS_THROTTLED' ? { retryAfter_s: 1 } : {}),
  });
}

/** What a failed call may say in the log: never the reply itself, because that may hold a data key. */
export class KmsFailure extends Error {
  readonly network: string | undefined;
  readonly status: number | undefined;
  readonly requestId: string | undefined;
  readonly attempts: number | undefined;

  constructor(thrown: unknown) {
    const { name, message, code, $metadata } = fieldsOf(thrown);
    const network = textOf(code) ?? textOf(fieldsOf(fieldsOf(thrown).cause).code);
    const named = textOf(name) ?? 'unknown';
    super(tellable.has(named) ? (textOf(message) ?? named) : `${named}${network ? ` (${network})` : ''}`);
    const metadata = fieldsOf($metadata);
    this.name = named === 'Error' && network ? network : named;
    const frames = textOf(fieldsOf(thrown).stack)?.match(/^ {4}at .*$/gm) ?? []; // where, and not what
    this.stack = [`${this.name}: ${this.message}`, ...frames].join('\n');
    this.network = network;
    this.status = numberOf(metadata.httpStatusCode);
    this.requestId = textOf(metadata.requestId);
    this.attempts = numberOf(metadata.attempts);
  }
}

/**
 * What the operations in use throw, by name: the errors that the SDK declares for them, the errors common to
 * all of AWS, and those of the SDK itself.
 */
const codes: Readonly<Record<string, ErrorCode>> = {
  ThrottlingException: 'KMS_THROTTLED',
  Throttling: 'KMS_THROTTLED',
  ThrottledException: 'KMS_THROTTLED',
  RequestThrottled: 'KMS_THROTTLED',
  RequestThrottledException: 'KMS_THROTTLED',
  RequestLimitExceeded: 'KMS_THROTTLED',
  TooManyRequestsException: 'KMS_THROTTLED',
  LimitExceededException: 'KMS_THROTTLED',

  KMSInternalException: 'KMS_UNAVAILABLE',
  DependencyTimeoutException: 'KMS_UNAVAILABLE',
  KeyUnavailableException: 'KMS_UNAVAILABLE',
  InternalFailure: 'KMS_UNAVAILABLE',
  InternalServerError: 'KMS_UNAVAILABLE',
  InternalServerException: 'KMS_UNAVAILABLE',
  ServiceUnavailable: 'KMS_UNAVAILABLE',
  ServiceUnavailableException: 'KMS_UNAVAILABLE',
  TimeoutError: 'KMS_UNAVAILABLE',
  AbortError: 'KMS_UNAVAILABLE', // a caller's own abort is answered before it comes here
  SyntaxError: 'KMS_UNAVAILABLE', // a reply that is cut off or no JSON at all
  UnknownOperationException: 'KMS_UNAVAILABLE', // something that is not KMS, or not all of it
  CloudHsmClusterInvalidConfigurationException: 'KMS_UNAVAILABLE',
  CustomKeyStoreInvalidStateException: 'KMS_UNAVAILABLE',
  CustomKeyStoreNotFoundException: 'KMS_UNAVAILABLE',
  XksKeyAlreadyInUseException: 'KMS_UNAVAILABLE',
  XksKeyInvalidConfigurationException: 'KMS_UNAVAILABLE',
  XksKeyNotFoundException: 'KMS_UNAVAILABLE',

  AccessDeniedException: 'KMS_DENIED',
  AccessDenied: 'KMS_DENIED',
  NotAuthorized: 'KMS_DENIED',
  OptInRequired: 'KMS_DENIED',
  UnrecognizedClientException: 'KMS_DENIED',
  InvalidClientTokenId: 'KMS_DENIED',
  MissingAuthenticationToken: 'KMS_DENIED',
  MissingAuthenticationTokenException: 'KMS_DENIED',
  ExpiredToken: 'KMS_DENIED',
  ExpiredTokenException: 'KMS_DENIED',
  RequestExpired: 'KMS_DENIED',
  IncompleteSignature: 'KMS_DENIED',
  IncompleteSignatureException: 'KMS_DENIED',
  InvalidSignatureException: 'KMS_DENIED',
  SignatureDoesNotMatch: 'KMS_DENIED',
  InvalidGrantTokenException: 'KMS_DENIED',
  MalformedPolicyDocumentException: 'KMS_DENIED',
  TagException: 'KMS_DENIED',
  CredentialsProviderError: 'KMS_DENIED',
  TokenProviderError: 'KMS_DENIED',
  DryRunOperationException: 'KMS_DENIED', // never asked for, so whoever answers it signed nothing

  DisabledException: 'KMS_KEY_UNUSABLE',
  KMSInvalidStateException: 'KMS_KEY_UNUSABLE',

  NotFoundException: 'KMS_KEY_UNKNOWN',
  InvalidArnException: 'KMS_KEY_UNKNOWN',

  InvalidKeyUsageException: 'KMS_KEY_UNSUITABLE',
  UnsupportedOperationException: 'KMS_KEY_UNSUITABLE',
  ValidationException: 'KMS_KEY_UNSUITABLE', // among others: a KeySpec that the region does not have

  EndpointError: 'CONFIG_INVALID', // such as a FIPS endpoint together with an endpoint of one's own

  // From Decrypt, whose key and context come from the slot and whose ciphertext comes from the file.
  InvalidCiphertextException: 'KEY_FILE_TAMPERED',
  IncorrectKeyException: 'KEY_FILE_TAMPERED',
};

/** Whose own text may go to the log. Not so those that quote the request or the reply, which hold secrets. */
const tellable: ReadonlySet<string> = new Set([
  'AccessDeniedException',
  'DisabledException',
  'KMSInvalidStateException',
  'NotFoundException',
  'InvalidArnException',
  'InvalidKeyUsageException',
  'UnsupportedOperationException',
  'ThrottlingException',
  'LimitExceededException',
  'TimeoutError',
  'EndpointError',
]);

function codeOf({ name, network, status }: KmsFailure): ErrorCode {
  const code = Object.hasOwn(codes, name) ? codes[name] : undefined;
  if (code !== undefined) return code;
  // A name that is new: the status still says on whose side it is. Without one, it came from this side.
  if (status === 429) return 'KMS_THROTTLED';
  if (status === 401 || status === 403) return 'KMS_DENIED';
  if (status !== undefined || network !== undefined) return 'KMS_UNAVAILABLE';
  return 'INTERNAL';
}

/** The names that the translation knows; a test holds them against what the SDK declares. */
export const knownNames: ReadonlySet<string> = new Set(Object.keys(codes));

type Fields = Readonly<Record<string, unknown>>;

const fieldsOf = (value: unknown): Fields =>
  typeof value === 'object' && value !== null ? (value as Fields) : {};
const textOf = (value: unknown): string | undefined =>
  typeof value === 'string' && value !== '' ? value : undefined;
const numberOf = (value: unknown): number | undefined => (typeof value === 'number' ? value : undefined);
