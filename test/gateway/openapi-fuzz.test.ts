import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  exampleDocument,
  exampleMessage,
  exampleSeed,
  exampleSignature,
  exampleTransaction,
} from '../../src/wire/api/examples.ts';
import { pinText } from '../custodian/device.ts';
import { type Documented, documented, resolved, type Schema, undocumented } from './api-document.ts';
import { type Answered, OpenHouse, type Sent, send } from './open-house.ts';

/**
 * Requests as the document's schemas have them, nearly so, and not at all: whatever comes, the answer is one that the
 * document knows, and never that something broke. `npm run fuzz` asks more of a longer while.
 */

let house: OpenHouse;
let url: string;

beforeAll(async () => {
  house = await OpenHouse.open();
  url = await house.serve();
  await asAlice('POST', '/v1/keys/treasury/import', { slot: 'main', seed: exampleSeed });
  const wallet = `/v1/keys/${walletId}/import`;
  await asAlice('POST', wallet, { slot: 'main', seed: Buffer.alloc(32, 9).toString('base64') });
  await asAlice('POST', '/v1/keys', { id: 'spent', slot: 'main' });
  await asAlice('POST', '/v1/keys', { id: 'moves', slot: 'main' });
  await asAlice('POST', '/v1/identities', { name: 'payments', roles: ['signer'] });
  there.TokenId = [await made('/v1/tokens', { identity: 'payments' })];
  there.MigrationId = [await made('/v1/migrations', { from: 'main', to: 'spare', keys: ['moves'] })];
  const destroying = { operation: 'destroy-key', input: { key: 'spent' }, reason: 'a test' };
  there.ApprovalId = [await made('/v1/approvals', destroying)];
});

afterAll(() => house[Symbol.asyncDispose]());

const asAlice = (method: string, path: string, body?: unknown): Promise<Answered> =>
  send(url, { method, path, who: 'alice', body });

const made = async (path: string, body: unknown): Promise<string> => {
  const { status, json, text } = await asAlice('POST', path, body);
  if (status !== 201) throw new Error(`${path}: ${text}`);
  return (json as { id: string }).id;
};

const walletId = '3f0a9a4e-5d0c-4d4a-9d7c-0b7f5f1c2a11';

/** What is there, by the names of fields and of parameters: most requests are about something that exists. */
const there: Record<string, unknown[]> = {
  KeyId: ['treasury', 'treasury', 'spent', 'found', 'fresh'],
  VaultKey: ['treasury'],
  WalletId: [walletId],
  SlotId: ['main', 'spare'],
  PolicyName: ['base', 'treasury-policy'],
  PolicyVersion: [1],
  IdentityName: ['payments', 'alice'],
  RecordSeq: [0, 1],
  OfSlot: ['main'],
  slot: ['main', 'spare'],
  from: ['main'],
  to: ['spare'],
  key: ['treasury'],
  keys: [['treasury']],
  target: ['spare', 'spent'],
  operation: ['destroy-key', 'export-key'],
  identity: ['payments'],
  pin: [pinText],
  freeze: ['key/iced'],
  role_id: ['role-of-robot'],
  secret_id: ['secret-id-of-robot'],
  signature: [exampleSignature, `vault:v1:${exampleSignature}`],
  document: [exampleDocument],
  seed: [exampleSeed],
  input: [exampleMessage, { key: 'treasury' }],
};

const mostly = (name: string, otherwise: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> => {
  const values = there[name];
  if (!values) return otherwise;
  return fc.oneof({ weight: 8, arbitrary: fc.constantFrom(...values) }, { weight: 1, arbitrary: otherwise });
};

/** Texts that mean something to some field or other. */
const meaningful = [
  ...[
    'treasury',
    'main',
    'spare',
    'audit',
    'found',
    'payments',
    'base',
    'iced',
    'appliance',
    'key/iced',
    walletId,
  ],
  ...[
    'alice',
    'destroy-key',
    'export-key',
    'admin',
    '*',
    'none',
    pinText,
    'role-of-robot',
    'secret-id-of-robot',
  ],
  ...[exampleMessage, exampleTransaction, exampleSignature, exampleSeed, `vault:v1:${exampleSignature}`],
];

const anyText = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...meaningful) },
  { weight: 2, arbitrary: fc.string({ unit: 'binary', maxLength: 40 }) },
  {
    weight: 1,
    arbitrary: fc.uint8Array({ maxLength: 200 }).map(bytes => Buffer.from(bytes).toString('base64')),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      '',
      '__proto__',
      'constructor',
      '\u0000',
      '..',
      '%',
      'a'.repeat(300),
      '1e999',
      'null',
    ),
  },
);

const anyBytes = fc.oneof(
  fc.constantFrom(exampleMessage, exampleTransaction),
  fc.uint8Array({ minLength: 1, maxLength: 200 }).map(bytes => Buffer.from(bytes).toString('base64')),
  // What begins as a transaction does, and then goes another way.
  fc.tuple(fc.nat({ max: 214 }), fc.uint8Array({ minLength: 1, maxLength: 8 })).map(([at, bytes]) => {
    const wire = Buffer.from(exampleTransaction, 'base64');
    wire.set(bytes.subarray(0, wire.length - at), at);
    return wire.toString('base64');
  }),
);

/** A value as a schema of the document has it. */
function valuesOf(schema: Schema): fc.Arbitrary<unknown> {
  if ('$ref' in schema) return valuesOf(resolved<Schema>(schema as { $ref: string }));
  if ('const' in schema) return fc.constant(schema.const);
  if (Array.isArray(schema.enum)) return fc.constantFrom(...(schema.enum as unknown[]));
  if (Array.isArray(schema.anyOf)) return fc.oneof(...(schema.anyOf as Schema[]).map(valuesOf));
  switch (schema.type) {
    case 'string':
      return textOf(schema);
    case 'integer':
    case 'number':
      return fc.integer({
        min: Number(schema.minimum ?? -9),
        max: Math.min(Number(schema.maximum ?? 1_000), 1_000_000),
      });
    case 'boolean':
      return fc.boolean();
    case 'null':
      return fc.constant(null);
    case 'array':
      return fc.array(valuesOf((schema.items ?? {}) as Schema), {
        minLength: Number(schema.minItems ?? 0),
        maxLength: Math.max(Number(schema.minItems ?? 0), 3),
      });
    case 'object':
      return objectOf(schema);
    default:
      return fc.jsonValue({ maxDepth: 2 });
  }
}

function textOf({ pattern, contentEncoding, minLength = 0, maxLength }: Schema): fc.Arbitrary<string> {
  if (contentEncoding === 'base64') return anyBytes;
  if (typeof pattern === 'string') return fc.stringMatching(new RegExp(pattern));
  const long = anyText.map(text =>
    text.length < Number(minLength) ? text.padEnd(Number(minLength), 'a') : text,
  );
  return maxLength === undefined ? long : long.map(text => text.slice(0, Number(maxLength)));
}

function objectOf({ properties = {}, required = [], additionalProperties }: Schema): fc.Arbitrary<unknown> {
  const fields = Object.entries(properties as Record<string, Schema>).map(([name, schema]) => [
    name,
    mostly(name, valuesOf(schema)),
  ]);
  if (fields.length === 0 && additionalProperties !== false) {
    return fc.oneof(
      fc.constant({ key: 'treasury' }),
      fc.dictionary(anyText, fc.jsonValue({ maxDepth: 2 }), { maxKeys: 3 }),
    );
  }
  const whole = fc.record(Object.fromEntries(fields) as Record<string, fc.Arbitrary<unknown>>, {
    noNullPrototype: true,
  });
  // Most of what may be left out is: of fields that exclude one another, one should be alone now and then.
  const left = fc.array(fc.nat({ max: 3 }), { minLength: fields.length, maxLength: fields.length });
  return fc.tuple(whole, left).map(([value, lots]) => {
    const kept = Object.entries(value).filter(
      ([name], at) => (required as string[]).includes(name) || lots[at] === 0,
    );
    return Object.fromEntries(kept);
  });
}

/** One thing about it is otherwise. */
const nearly = (valid: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> =>
  fc
    .tuple(valid, fc.nat(), fc.oneof(fc.jsonValue({ maxDepth: 1 }), anyText), anyText)
    .map(([value, at, other, name]) => {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) return other;
      const names = Object.keys(value);
      const chosen = names[at % (names.length + 1)];
      if (chosen === undefined) return { ...value, [name]: other };
      const { [chosen]: _changed, ...rest } = value as Record<string, unknown>;
      return at % 2 === 0 ? rest : { ...rest, [chosen]: other };
    });

const garbage = fc.oneof(
  fc.string({ unit: 'binary', minLength: 1, maxLength: 100 }),
  fc.json(),
  fc.constantFrom(
    '{',
    '[]',
    'null',
    '"',
    '{"a":1}{"b":2}',
    `${'['.repeat(2_000)}${']'.repeat(2_000)}`,
    '{"__proto__":{"x":1}}',
  ),
);

// What may stand in a header; anything else never leaves a client.
const headerText = fc.string({
  unit: fc.constantFrom(...' !"%\'()*,-./0:;<=>?@AZ[]_`az{|}~\t\x80\xff'),
  maxLength: 120,
});

const headersOf = (named: boolean): fc.Arbitrary<Record<string, string>> =>
  fc.record(
    {
      'X-Request-Id': headerText,
      'Idempotency-Key': headerText,
      'Keyslot-Approval': headerText,
      'Keyslot-Session': headerText,
      'X-Vault-Token': headerText,
      'X-Vault-Namespace': headerText,
      ...(named ? { Authorization: headerText } : {}),
      'Content-Type': fc.constantFrom(
        'application/json',
        'application/json; charset=utf-16',
        'text/html',
        '',
      ),
    },
    { requiredKeys: [], noNullPrototype: true },
  );

const few = <T>(some: fc.Arbitrary<T>, otherwise: T): fc.Arbitrary<T> =>
  fc.oneof({ weight: 9, arbitrary: fc.constant(otherwise) }, { weight: 1, arbitrary: some });

/** A segment of a path that is none of a neighbour's: of those, another call answers. */
const segment = (text: unknown): string => {
  const written = encodeURIComponent(String(text).toWellFormed());
  return written === '' || neighbours.has(written) ? 'x' : written;
};
const neighbours = new Set(documented.flatMap(({ operation }) => operation.path.split('/')));

interface NamedSchema {
  readonly name: string;
  readonly in: string;
  readonly schema: Schema;
}

function requestOf({ operation, described }: Documented): fc.Arbitrary<Sent> {
  const { method, path, parameters, door } = operation;
  const given = fc.record(
    Object.fromEntries(
      (described.parameters ?? [])
        .map(each => ({ ...resolved<NamedSchema>(each), component: each.$ref.split('/').at(-1) ?? '' }))
        .filter(each => each.in !== 'header')
        .map(({ component, name, schema }) => [name, mostly(component, fc.oneof(valuesOf(schema), anyText))]),
    ),
    {
      requiredKeys: parameters.filter(each => each.in === 'path').map(({ name }) => name),
      noNullPrototype: true,
    },
  );
  const schema = described.requestBody?.content['application/json']?.schema;
  const valid = schema && valuesOf(schema);
  const body = valid
    ? fc.oneof(
        { weight: 4, arbitrary: valid },
        { weight: 3, arbitrary: nearly(valid) },
        { weight: 1, arbitrary: garbage },
      )
    : fc.constant(undefined);
  const known = door !== 'anybody';
  return fc.tuple(given, body, few(headersOf(known), {})).map(([values, content, headers]) => {
    const inPath = path.replaceAll(/\{(\w+)\}/g, (_, name: string) => segment(values[name]));
    const inQuery = parameters
      .filter(each => each.in === 'query' && values[each.name] !== undefined)
      .map(({ name }) => `${name}=${encodeURIComponent(String(values[name]).toWellFormed())}`);
    return {
      method: method.toUpperCase(),
      path: [inPath, ...(inQuery.length > 0 ? [inQuery.join('&')] : [])].join('?'),
      ...(known && headers.Authorization === undefined ? { who: 'alice' as const } : {}),
      headers,
      ...(content === undefined ? {} : { body: content }),
    };
  });
}

/** What would keep the next request from getting anywhere is put right again. */
async function healed({ operation }: Documented, { path }: Sent, { status, json }: Answered): Promise<void> {
  house.lab.clock.advance(10 * 60_000);
  if (status >= 300) return;
  if (operation.id === 'lock-slot') await asAlice('POST', path.replace('/lock', '/open'));
  if (operation.id === 'disable-key') await asAlice('POST', path.replace('/disable', '/enable'));
  if (operation.id === 'freeze')
    await asAlice('POST', '/v1/freezes/thaw', { freeze: (json as { id: string }).id, reason: 'x' });
}

describe('whatever is sent', () => {
  // What answers to nothing that is sent is asked enough elsewhere.
  const asked = documented.filter(({ operation }) => operation.parameters.length > 0 || operation.body);
  const runs = Number(process.env.KEYSLOT_FUZZ_RUNS ?? 15);

  for (const tag of new Set(asked.map(({ operation }) => operation.tag))) {
    it(`to ${tag} is answered as the document says, and nothing breaks`, async () => {
      const those = asked.filter(({ operation }) => operation.tag === tag);
      for (const each of those) {
        await fc.assert(
          fc.asyncProperty(requestOf(each), async sent => {
            const answered = await send(url, sent);
            await healed(each, sent, answered);
            expect(undocumented(each, answered)).toEqual([]);
            expect(answered.status, answered.text).toBeLessThan(500);
          }),
          { numRuns: runs },
        );
      }
    });
  }
});
