export { createMemoryEngine } from './engine.ts';
export { memorySettings } from './settings.ts';
