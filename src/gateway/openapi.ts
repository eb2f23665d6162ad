import { readFileSync } from 'node:fs';
import type { Express } from 'express';
import { KeyslotError } from '../foundation/errors.ts';

/**
 * `GET /v1/openapi.json`: what the API is, for whoever can reach it. It says nothing of who asks, or of this
 * appliance. Made when it is first asked for, so that a gateway starts without it, and written out once.
 */
export function withOpenApi(app: Express): Express {
  const route = app.route('/v1/openapi.json');
  route.get(async (_request, response) => {
    text ??= written();
    const body = await text;
    response.writeHead(200, {
      'Content-Type': 'application/json',
      'Content-Length': body.byteLength,
      'Cache-Control': 'no-store',
    });
    response.end(body);
  });
  route.all((_request, response) => {
    response.setHeader('Allow', 'GET');
    throw new KeyslotError('METHOD_NOT_ALLOWED', 'This route takes GET.');
  });
  return app;
}

let text: Promise<Buffer> | undefined;

async function written(): Promise<Buffer> {
  const { openApiDocument } = await import('../wire/api/document.ts');
  const packageFile = new URL('../../package.json', import.meta.url);
  const { version } = JSON.parse(readFileSync(packageFile, 'utf8')) as { version: string };
  return Buffer.from(JSON.stringify(openApiDocument(version)));
}
