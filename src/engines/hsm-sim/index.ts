export { createHsmSimEngine } from './engine.ts';
export { type HsmSimSettings, hsmSimSettings } from './settings.ts';
