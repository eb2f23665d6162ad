export { createKmsEngine } from './engine.ts';
export { type KmsSettings, kmsSettings } from './settings.ts';
