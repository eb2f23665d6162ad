import { STATUS_CODES } from 'node:http';
import { errorTable } from '../../foundation/errors.ts';
import { componentRef, componentSchemas, components, inlineSchema, type JsonSchema } from './components.ts';
import {
  groups,
  type HttpOperation,
  type Listener,
  type Parameter,
  statusOf,
  type Tag,
} from './http-operation.ts';
import { httpApi } from './table.ts';

/**
 * The HTTP API as an OpenAPI 3.1 document: served at /v1/openapi.json, and docs/openapi.json of the repository.
 * Answers say every code that an operation may fail with, status by status.
 */
export function openApiDocument(version: string): OpenApiDocument {
  return {
    openapi: '3.1.0',
    info: {
      title: 'Keyslot',
      version,
      summary: 'The signing appliance that stands in front of an HSM.',
      description:
        'Bytes are standard base64 with padding; signatures and public keys are answered in base58 and base64. Unknown fields are refused. The parts of other programs (`wallets`, `vault`) are served where the configuration turns them on; Vault’s under the mount that is configured.',
    },
    servers: [servers.api],
    tags: Object.entries(tags).map(([name, description]) => ({ name, description })),
    security: identified,
    paths: pathsOf(httpApi),
    components: {
      schemas: componentSchemas(),
      parameters: {
        ...Object.fromEntries(httpApi.flatMap(each => each.parameters).map(parameterOf)),
        ...headerParameters,
      },
      headers,
      responses: sharedResponses(),
      securitySchemes,
    },
  };
}

export interface OpenApiDocument {
  readonly openapi: string;
  readonly info: Readonly<Record<string, unknown>>;
  readonly servers: readonly Server[];
  readonly tags: readonly { readonly name: string; readonly description: string }[];
  readonly security: readonly Security[];
  readonly paths: Readonly<Record<string, OpenApiPath>>;
  readonly components: {
    readonly schemas: Readonly<Record<string, JsonSchema>>;
    readonly parameters: Readonly<Record<string, object>>;
    readonly headers: Readonly<Record<string, object>>;
    readonly responses: Readonly<Record<string, OpenApiResponse>>;
    readonly securitySchemes: Readonly<Record<string, object>>;
  };
}

/** A path that is not, or not only, on the listener of callers says where it is. */
export type OpenApiPath = { readonly servers?: readonly Server[] } & Readonly<
  Partial<Record<HttpOperation['method'], OpenApiOperation>>
>;

interface Server {
  readonly url: string;
  readonly description: string;
}

export interface OpenApiOperation {
  readonly operationId: string;
  readonly tags: readonly string[];
  readonly summary: string;
  readonly description?: string;
  readonly security?: readonly Security[];
  readonly parameters?: readonly Ref[];
  readonly requestBody?: { readonly required: boolean; readonly content: Content };
  readonly responses: Readonly<Record<string, OpenApiResponse | Ref>>;
}

export interface OpenApiResponse {
  readonly description: string;
  readonly headers?: Readonly<Record<string, Ref>>;
  readonly content: Content;
}

type Content = Readonly<Record<string, { readonly schema: JsonSchema; readonly example?: unknown }>>;
type Security = Readonly<Record<string, readonly string[]>>;
interface Ref {
  readonly $ref: string;
}

const servers: Readonly<Record<Listener, Server>> = {
  api: { url: 'https://127.0.0.1:8443', description: 'The listener of callers, as `listen` has it.' },
  ops: {
    url: 'https://127.0.0.1:9443',
    description:
      'The ops listener, as `ops` has it: for whoever operates the appliance, without credentials.',
  },
};

const tags: Readonly<Record<Tag, string>> = {
  signing: 'Signatures, and their check.',
  keys: 'Where keys come from, what is said of them, and where they end.',
  slots: 'Places that hold keys behind a PIN, and the PIN sessions on them.',
  migrations: 'Keys that move from slot to slot.',
  policies: 'What decides over signatures besides who asks: policies, freezes, approvals.',
  audit: 'The tamper-evident log, and the proofs that nobody changed it.',
  identities: 'Who may ask, and the tokens of programs.',
  service: 'What is answered to whoever asks.',
  wallets: 'The routes of the agentic-wallet program’s wallet engine, where they are turned on.',
  vault: 'The calls of Vault’s transit engine, where they are turned on.',
};

const securitySchemes = {
  certificate: { type: 'mutualTLS', description: 'A client certificate of the configured CA.' },
  bearer: {
    type: 'http',
    scheme: 'bearer',
    description: 'A token of the configuration, an API token or a JWT, where these are configured.',
  },
  pinSession: {
    type: 'apiKey',
    in: 'header',
    name: 'Keyslot-Session',
    description:
      'The token of a PIN session, beside the credential, where the `access` of the slot asks for one.',
  },
  vaultToken: {
    type: 'apiKey',
    in: 'header',
    name: 'X-Vault-Token',
    description: 'A token, as Vault’s clients send it.',
  },
} as const;

const identified: readonly Security[] = [{ certificate: [] }, { bearer: [] }];

function securityOf({ door, session }: HttpOperation): readonly Security[] {
  if (door === 'anybody') return [];
  const doors = door === 'vault' ? [{ vaultToken: [] }, ...identified] : identified;
  return session ? [...doors, ...doors.map(each => ({ ...each, pinSession: [] }))] : doors;
}

function pathsOf(operations: readonly HttpOperation[]): OpenApiDocument['paths'] {
  const byPath = Map.groupBy(operations, each => each.path);
  return Object.fromEntries(
    [...byPath].map(([path, ofPath]) => [
      path,
      {
        ...serversOf(ofPath),
        ...Object.fromEntries(ofPath.map(each => [each.method, operationOf(each)])),
      },
    ]),
  );
}

/** What is said of one operation of a path holds for all of them. */
const serversOf = ([{ listeners } = {}]: readonly Partial<HttpOperation>[]): Pick<OpenApiPath, 'servers'> =>
  listeners ? { servers: listeners.map(each => servers[each]) } : {};

function operationOf(operation: HttpOperation): OpenApiOperation {
  const { id, tag, summary, description, body, bodyOptional, example } = operation;
  const security = securityOf(operation);
  const parameters = [
    ...operation.parameters.map(({ component }) => parameterRef(component)),
    ...headersOf(operation).map(parameterRef),
  ];
  return {
    operationId: id,
    tags: [tag],
    summary,
    ...(description === undefined ? {} : { description }),
    ...(security === identified ? {} : { security }),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(body
      ? {
          requestBody: {
            required: !bodyOptional,
            content: json(componentRef(body), example.body),
          },
        }
      : {}),
    responses: responsesOf(operation),
  };
}

const parameterRef = (component: string): Ref => ({ $ref: `#/components/parameters/${component}` });

const parameterOf = ({ component, schema, ...said }: Parameter): [string, object] => [
  component,
  { ...said, schema: inlineSchema(schema) },
];

function headersOf({ door, effect, method }: HttpOperation): readonly (keyof typeof headerParameters)[] {
  if (door === 'anybody' && effect === 'read') return [];
  if (method === 'get') return ['RequestId'];
  return [
    'RequestId',
    ...(effect === 'read' ? [] : (['IdempotencyKey'] as const)),
    ...(effect === 'change' ? (['KeyslotApproval'] as const) : []),
  ];
}

const headerParameters = {
  RequestId: {
    name: 'X-Request-Id',
    in: 'header',
    required: false,
    description:
      'Your own name for the request, also as `Request-Id`: 1 to 100 of `A-Z a-z 0-9 . _ : -`. Another one is passed over, and the request gets one of ours.',
    schema: { type: 'string' },
  },
  IdempotencyKey: {
    name: 'Idempotency-Key',
    in: 'header',
    required: false,
    description:
      'Under one key of one identity a thing is done once; a repeat within a day gets the first answer.',
    schema: { type: 'string', pattern: '^[ -~]{1,255}$' },
  },
  KeyslotApproval: {
    name: 'Keyslot-Approval',
    in: 'header',
    required: false,
    description: 'The id of an approval, for what takes one. It is used up by the call.',
    schema: { type: 'string', pattern: '^[A-Za-z0-9-]{1,100}$' },
  },
} as const;

const headers = {
  RequestId: { description: 'What the request is called in the logs.', schema: { type: 'string' } },
  RetryAfter: {
    description: 'In how many seconds a repeat may succeed.',
    schema: { type: 'integer', minimum: 0 },
  },
  WwwAuthenticate: { description: 'How to say who asks.', schema: { type: 'string', const: 'Bearer' } },
} as const;

const headerRef = (name: keyof typeof headers): Ref => ({ $ref: `#/components/headers/${name}` });

function responsesOf(operation: HttpOperation): OpenApiOperation['responses'] {
  const { status, reply, replyType, otherStatuses = {}, example, door, effect } = operation;
  const named =
    door === 'anybody' && effect === 'read' ? {} : { headers: { 'Request-Id': headerRef('RequestId') } };
  const content = contentOf(componentRef(reply), example.reply, replyType);
  const done = { description: 'Done.', ...named, content };
  const failures = [...Map.groupBy(operation.codes, code => statusOf(operation, code))]
    .sort(([a], [b]) => a - b)
    .map(([at, codes]) => [String(at), failureOf(operation, at, codes)] as const);
  return {
    [status]: done,
    ...Object.fromEntries(
      Object.entries(otherStatuses).map(([other, description]) => [
        other,
        { ...done, description, content: contentOf(componentRef(reply), undefined, replyType) },
      ]),
    ),
    ...Object.fromEntries(failures),
  };
}

type Codes = HttpOperation['codes'];

function failureOf({ failure }: HttpOperation, status: number, codes: Codes): OpenApiResponse | Ref {
  if (failure !== 'problem') return otherFailure(failure, status, codes);
  const shared = Object.entries(sharedProblems).find(([, theirs]) => same(theirs, codes));
  return shared ? { $ref: `#/components/responses/${shared[0]}` } : problemResponse(status, codes);
}

const same = (some: Codes, others: Codes): boolean =>
  some.length === others.length && some.every(code => others.includes(code));

/** Failures that many operations have alike. */
const sharedProblems = {
  Unauthenticated: ['CREDENTIAL_MISSING', 'CREDENTIAL_UNKNOWN', 'CREDENTIAL_EXPIRED'],
  UnauthenticatedOrExpired: [
    'CREDENTIAL_MISSING',
    'CREDENTIAL_UNKNOWN',
    'CREDENTIAL_EXPIRED',
    ...groups.expiredSession,
  ],
  Forbidden: ['PERMISSION_DENIED'],
  ForbiddenOrUnapproved: [...groups.role, ...groups.approval],
  RepeatedOtherwise: groups.repeat,
  BodyTooLarge: ['BODY_TOO_LARGE'],
  OtherContentType: ['CONTENT_TYPE_UNSUPPORTED'],
  Internal: ['INTERNAL'],
  Unavailable: ['JWKS_UNAVAILABLE', ...groups.custodian.filter(code => errorTable[code].status === 503)],
  DeadlineExceeded: ['DEADLINE_EXCEEDED'],
} as const satisfies Record<string, Codes>;

const sharedResponses = (): OpenApiDocument['components']['responses'] =>
  Object.fromEntries(
    Object.entries(sharedProblems).map(([name, [first, ...rest]]) => [
      name,
      problemResponse(errorTable[first].status, [first, ...rest]),
    ]),
  );

const problemResponse = (status: number, codes: Codes): OpenApiResponse => ({
  ...failed(status, codes),
  content: {
    'application/problem+json': {
      schema: withCodes(componentRef(components.Problem), codes, { status: { const: status } }),
    },
  },
});

/** Wallets say `code` beside `error`; Vault has no codes, they stand at the end of its texts. */
function otherFailure(failure: 'wallet' | 'vault', status: number, codes: Codes): OpenApiResponse {
  const said = failed(status, codes);
  if (failure === 'vault') return { ...said, content: json(componentRef(components.VaultErrors)) };
  const schema = withCodes(componentRef(components.WalletFailure), codes);
  const notConfigured = codes.includes('RPC_NOT_CONFIGURED');
  return {
    ...said,
    content: { [notConfigured ? 'application/problem+json' : 'application/json']: { schema } },
  };
}

const withCodes = (shape: Ref, codes: Codes, more: JsonSchema = {}): JsonSchema => ({
  allOf: [shape, { properties: { ...more, code: { enum: [...codes].sort() } } }],
});

function failed(status: number, codes: Codes): Pick<OpenApiResponse, 'description' | 'headers'> {
  const [only, another] = codes;
  return {
    description: only && !another ? `${errorTable[only].title}.` : `${STATUS_CODES[status]}.`,
    headers: {
      'Request-Id': headerRef('RequestId'),
      ...(codes.some(code => errorTable[code].retryable) ? { 'Retry-After': headerRef('RetryAfter') } : {}),
      ...(status === 401 ? { 'WWW-Authenticate': headerRef('WwwAuthenticate') } : {}),
    },
  };
}

const contentOf = (schema: JsonSchema | Ref, example: unknown, type = 'application/json'): Content => ({
  [type]: { schema: { ...schema }, ...(example === undefined ? {} : { example }) },
});

const json = (schema: JsonSchema | Ref, example?: unknown): Content => contentOf(schema, example);
