import { open, rename } from 'node:fs/promises';

/** A small file that is there whole, with the old content or the new one, whatever ends the process. */
export async function replaceFile(path: string, content: string): Promise<void> {
  const beside = `${path}.new`;
  {
    await using file = await open(beside, 'w', 0o600);
    await file.writeFile(content);
    await file.datasync();
  }
  await rename(beside, path);
}
