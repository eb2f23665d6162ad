import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { openApiDocument } from '../../src/wire/api/document.ts';
import type { HttpOperation } from '../../src/wire/api/http-operation.ts';
import { httpApi } from '../../src/wire/api/table.ts';
import type { Answered } from './open-house.ts';

/** The document as its readers have it: plain JSON, asked by operation and status. */
export const document = JSON.parse(JSON.stringify(openApiDocument('0.0.0'))) as Document;

export interface Document {
  readonly paths: Readonly<Record<string, DocumentedPath>>;
  readonly components: Readonly<Record<string, Readonly<Record<string, Readonly<Record<string, unknown>>>>>>;
}

export type DocumentedPath = { readonly servers?: readonly { readonly url: string }[] } & Readonly<
  Partial<Record<HttpOperation['method'], DocumentedOperation>>
>;

export interface DocumentedOperation {
  readonly operationId: string;
  readonly parameters?: readonly { readonly $ref: string }[];
  readonly requestBody?: { readonly required: boolean; readonly content: Content };
  readonly responses: Readonly<Record<string, Described>>;
}

export type Content = Readonly<Record<string, { readonly schema: Schema; readonly example?: unknown }>>;
export type Schema = Readonly<Record<string, unknown>>;
type Described = { readonly $ref: string } | DocumentedResponse;
interface DocumentedResponse {
  readonly content: Content;
  readonly headers?: Readonly<Record<string, { readonly $ref: string }>>;
}

/** What stands behind a reference into the document. */
export const resolved = <T>(described: { readonly $ref: string } | T): T => {
  if (typeof described !== 'object' || described === null || !('$ref' in described)) return described as T;
  const [, , kind = '', name = ''] = String(described.$ref).split('/');
  return document.components[kind]?.[name] as T;
};

export interface Documented {
  readonly operation: HttpOperation;
  readonly described: DocumentedOperation;
  /** In ascending order. */
  readonly statuses: readonly number[];
}

export const documented: readonly Documented[] = httpApi.map(operation => {
  const described = document.paths[operation.path]?.[operation.method];
  if (!described) throw new TypeError(`The document has no ${operation.id}.`);
  const statuses = Object.keys(described.responses).map(Number);
  return { operation, described, statuses };
});

// What is shown may have more fields one day; of today's, all are documented.
const closed = (schema: unknown): unknown => {
  if (Array.isArray(schema)) return schema.map(closed);
  if (typeof schema !== 'object' || schema === null) return schema;
  const inner = Object.fromEntries(Object.entries(schema).map(([name, value]) => [name, closed(value)]));
  const open = inner.type === 'object' && 'properties' in inner && !('additionalProperties' in inner);
  return open ? { ...inner, additionalProperties: false } : inner;
};

const ajv = new Ajv2020({ strict: false, validateFormats: false });
ajv.addSchema({ $id: 'urn:keyslot:api', components: { schemas: closed(document.components.schemas) } });

const absolute = (schema: unknown): Schema =>
  JSON.parse(
    JSON.stringify(closed(schema)).replaceAll('"#/components/', '"urn:keyslot:api#/components/'),
  ) as Schema;

const validators = new Map<string, ValidateFunction>();

export function validatorOf(schema: Schema): ValidateFunction {
  const text = JSON.stringify(schema);
  const known = validators.get(text) ?? ajv.compile(absolute(schema));
  validators.set(text, known);
  return known;
}

/** What of an answer is not as the document has it; nothing when all is. */
export function undocumented({ operation, described }: Documented, answered: Answered): string[] {
  const { status, headers, json, text } = answered;
  const response = described.responses[String(status)];
  if (!response) return [`${operation.id} answered ${status}: ${text.slice(0, 300)}`];
  const { content, headers: named = {} } = resolved<DocumentedResponse>(response);
  const [type = '', body] = Object.entries(content)[0] ?? [];
  const found: string[] = [];
  if (headers['content-type'] !== type) found.push(`the type ${headers['content-type']}`);
  const validate = body && validatorOf(body.schema);
  if (!validate?.(type.startsWith('text/') ? text : json))
    found.push(`${text.slice(0, 300)}: ${ajv.errorsText(validate?.errors)}`);
  for (const name of ['request-id', 'www-authenticate'])
    if (Object.keys(named).some(each => each.toLowerCase() === name) && headers[name] === undefined)
      found.push(`no header ${name}`);
  for (const name of ['retry-after', 'www-authenticate'])
    if (headers[name] !== undefined && !Object.keys(named).some(each => each.toLowerCase() === name))
      found.push(`the header ${name}`);
  return found.map(what => `${operation.id} answered ${status} with ${what}`);
}
