export { createEncryptedFileEngine } from './engine.ts';
export { type EncryptedFileSettings, encryptedFileSettings } from './settings.ts';
