export { createMemoryEngine } from './engine.ts';
export { type MemorySettings, memorySettings } from './settings.ts';
