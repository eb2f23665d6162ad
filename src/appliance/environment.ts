/** The only reader of `process.env`. */

/** Where the state folder is, unless the command line says otherwise. */
export const homeFromEnvironment = (): string | undefined => process.env.KEYSLOT_HOME || undefined;

/** A secret that the configuration refers to by name, or nothing when it is not set. */
export const environmentVariable = (name: string): string | undefined => process.env[name];

/** Names of the variables that AWS's own tools read: region, endpoint, credentials, profile, role. */
export const awsVariables = (): readonly string[] =>
  Object.keys(process.env).filter(name => name.startsWith('AWS_'));

/** Where systemd puts the credentials of the unit (LoadCredential=). */
export const credentialsFolder = (): string | undefined => process.env.CREDENTIALS_DIRECTORY;

/**
 * The environment of a child process: only what a program needs to run, and what is named here. Nothing that
 * happens to be exported in the operator's shell reaches a process that holds keys.
 */
export function childEnvironment(
  more: Readonly<Record<string, string>>,
  passedOn: readonly string[] = [],
): Record<string, string> {
  const names = ['PATH', 'HOME', 'LANG', 'LC_ALL', 'TZ', 'TMPDIR', 'CREDENTIALS_DIRECTORY', ...passedOn];
  const inherited = names.flatMap(name => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  return { ...Object.fromEntries(inherited), ...more };
}
