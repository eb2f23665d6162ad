export { createMpcEngine } from './engine.ts';
export { joinNodeSecrets, splitNodeSecrets } from './node-secrets.ts';
export { type MpcSettings, mpcSettings } from './settings.ts';
