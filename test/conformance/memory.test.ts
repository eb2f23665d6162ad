import { createMemoryEngine, memorySettings } from '../../src/engines/memory/index.ts';
import { Secret } from '../../src/foundation/secret.ts';
import { describeEngine, type EngineUnderTest } from './engine-suite.ts';

describeEngine('memory', {
  engineName: 'memory',
  custody: 'memory',
  powers: { generate: true, import: true, export: true, destroy: true },
  persistent: false,
  start: async () => start(),
});

function start(): EngineUnderTest {
  const settings = memorySettings.parse({ slot: 'scratch' });
  const engine = createMemoryEngine(settings);
  return {
    engine,
    slot: settings.slot,
    pin: () => Secret.fromText('correct horse'),
    wrongPin: () => Secret.fromText('correct house'),
    restart: async () => {
      await engine[Symbol.asyncDispose]();
      return start();
    },
    [Symbol.asyncDispose]: () => engine[Symbol.asyncDispose](),
  };
}
