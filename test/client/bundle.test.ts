import { join } from 'node:path';
import { runInNewContext } from 'node:vm';
import { rolldown } from 'rolldown';
import { beforeAll, describe, expect, it } from 'vitest';
import { root } from '../e2e/appliance.ts';

/** What a browser's bundle gets of `keyslot/client`. */

let code: string;
let imports: readonly string[];

beforeAll(async () => {
  const bundle = await rolldown({ input: join(root, 'src', 'client', 'index.ts'), platform: 'browser' });
  const { output } = await bundle.generate({ format: 'iife', name: 'keyslot', minify: true });
  await bundle.close();
  const chunks = output.filter(each => each.type === 'chunk');
  expect(chunks).toHaveLength(1);
  code = chunks[0]?.code ?? '';
  imports = chunks.flatMap(chunk => [
    ...chunk.imports,
    ...chunk.dynamicImports,
    ...Object.keys(chunk.modules),
  ]);
});

describe('the bundle', () => {
  it('is below 30 kB and holds no package and no part of the appliance', () => {
    expect(code.length).toBeGreaterThan(4_000);
    expect(Buffer.byteLength(code)).toBeLessThan(30_000);
    expect(code).not.toMatch(/['"`]node:|@solana\/[a-z]|\brequire\(|\bBuffer\b|\bprocess\./);
    const rooms = imports.map(path => path.replace(`${join(root, 'src')}/`, '').split('/')[0]);
    expect([...new Set(rooms)].sort()).toEqual(['client', 'foundation']);
  });

  it('works where there is nothing but fetch, WebCrypto and what the web has', async () => {
    const reply = { status: 200, headers: new Headers(), text: async () => '{"status":"ok"}' };
    const web = {
      crypto,
      URL,
      URLSearchParams,
      AbortController,
      AbortSignal,
      TextEncoder,
      Headers,
      setTimeout,
      clearTimeout,
      performance,
      atob,
      btoa,
      fetch: async () => reply,
    };
    const { createKeyslotClient } = runInNewContext(
      `${code};keyslot`,
      web,
    ) as typeof import('../../src/client/index.ts');
    const client = createKeyslotClient({
      url: 'https://keyslot.example',
      auth: { bearerToken: 'a-token-of-somebody' },
    });
    expect(await client.health.alive()).toBe(true);
  });
});
