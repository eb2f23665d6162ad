import type { KeyId } from '../custody/ids.ts';
import { KeyslotError } from '../foundation/errors.ts';
import { appliesTo, type CompiledPolicy, compilePolicy } from '../policy/compile.ts';
import { parsePolicy } from '../policy/document.ts';
import { permissive } from '../policy/permissive.ts';
import type { Subject } from '../policy/verdict.ts';
import type { KeyRecord } from '../store/key-registry.ts';
import type { StoredPolicies, StoredPolicy } from '../store/policies.ts';
import type { PolicyView } from '../wire/policies.ts';

/**
 * The policies in force, compiled once and looked up per key. A change holds from the next request on. Whatever
 * is kept in the store was checked before it came there, and is checked again when it is read: a document that
 * this Keyslot does not understand stops the start, since leaving it out could allow what it forbids.
 */
export class PolicyBook {
  readonly #rows: StoredPolicies;
  readonly #refusePermissive: boolean;
  #policies = new Map<string, Kept>();
  readonly #ofKey = new Map<
    KeyId,
    { readonly record: KeyRecord; readonly policies: readonly CompiledPolicy[] }
  >();

  private constructor(rows: StoredPolicies, refusePermissive: boolean) {
    this.#rows = rows;
    this.#refusePermissive = refusePermissive;
  }

  /**
   * Takes the documents of the configuration into the store, as new versions where they changed, and gives up
   * those that the configuration does not have any more. POLICY_INVALID, naming the document.
   */
  static async open(rows: StoredPolicies, options: PolicyOptions): Promise<PolicyBook> {
    const book = new PolicyBook(rows, options.refusePermissive);
    for (const row of await book.#stored(options)) book.#keep(row);
    return book;
  }

  /**
   * Takes other documents of the configuration into the store; they are in force once the returned function is
   * called. What was put in place through the API meanwhile stays. POLICY_INVALID, STORE_FAILED.
   */
  async replacing(options: Pick<PolicyOptions, 'configured' | 'now'>): Promise<() => void> {
    const rows = await this.#stored(options);
    const next = new Map(rows.filter(isConfigured).map(row => [row.name, this.#compiled(row)]));
    return () => {
      const others = [...this.#policies].filter(([, { view }]) => !isConfigured(view));
      this.#policies = new Map([...others, ...next]);
      this.#ofKey.clear();
    };
  }

  async #stored({ configured, now }: Pick<PolicyOptions, 'configured' | 'now'>) {
    const documents = new Map(configured.map(document => [this.#checked(document).name, document]));
    if (documents.size < configured.length) {
      throw new KeyslotError('POLICY_INVALID', 'Two policies of the configuration have the same name.');
    }
    return this.#rows.putConfigured(documents, now());
  }

  /** The policies that a key is under. The same list until a policy or the key's record changes. */
  of(record: KeyRecord): readonly CompiledPolicy[] {
    const known = this.#ofKey.get(record.id);
    if (known?.record === record) return known.policies;
    const compiled = [...this.#policies.values()].map(kept => kept.compiled);
    const policies = compiled.filter(policy => appliesTo(policy, keyOf(record)));
    this.#ofKey.set(record.id, { record, policies });
    return policies;
  }

  all(): readonly PolicyView[] {
    return [...this.#policies.values()].map(kept => kept.view);
  }

  /** POLICY_UNKNOWN. */
  async show(name: string, version?: number): Promise<PolicyView> {
    const current = this.#policies.get(name)?.view;
    if (current && (version === undefined || version === current.version)) return current;
    const row = version === undefined ? undefined : await this.#rows.get(name, version);
    if (!row) throw unknownPolicy(name);
    return viewOf(row);
  }

  /** POLICY_INVALID, POLICY_MANAGED, POLICY_CHANGED. */
  async put(change: PolicyChange): Promise<PolicyView> {
    const { name, document, expected, by, at } = change;
    if (this.#checked(document).name !== name) {
      throw new KeyslotError('POLICY_INVALID', `The document does not have the name ${name.slice(0, 80)}.`);
    }
    this.#refuseManaged(name);
    this.#keep(await this.#rows.put({ name, source: 'api', document: { ...document }, at, by, expected }));
    return this.show(name);
  }

  /** POLICY_UNKNOWN, POLICY_MANAGED. */
  async remove(name: string, at: Date): Promise<PolicyView> {
    const kept = this.#policies.get(name);
    if (!kept) throw unknownPolicy(name);
    this.#refuseManaged(name);
    await this.#rows.remove(name, at);
    this.#policies.delete(name);
    this.#ofKey.clear();
    return kept.view;
  }

  /** POLICY_INVALID, also for what production does not allow. */
  candidate(document: unknown): CompiledPolicy {
    return compilePolicy(parsePolicy(document), 0);
  }

  #checked(document: unknown) {
    const parsed = parsePolicy(document);
    if (this.#refusePermissive && permissive(parsed)) {
      throw new KeyslotError(
        'POLICY_INVALID',
        `The policy ${parsed.name} lets everything through, which the production profile does not allow.`,
      );
    }
    compilePolicy(parsed, 0);
    return parsed;
  }

  #keep(row: StoredPolicy): void {
    this.#policies.set(row.name, this.#compiled(row));
    this.#ofKey.clear();
  }

  #compiled(row: StoredPolicy): Kept {
    return { compiled: compilePolicy(this.#checked(row.document), row.version), view: viewOf(row) };
  }

  #refuseManaged(name: string): void {
    const kept = this.#policies.get(name);
    if (!kept || !isConfigured(kept.view)) return;
    throw new KeyslotError('POLICY_MANAGED', `The policy ${name} is kept in a file of the configuration.`);
  }
}

export interface PolicyOptions {
  /** The documents of the configuration. */
  readonly configured: readonly Readonly<Record<string, unknown>>[];
  /** Whether a policy that lets everything through is refused. */
  readonly refusePermissive: boolean;
  readonly now: () => Date;
}

interface PolicyChange {
  readonly name: string;
  readonly document: Readonly<Record<string, unknown>>;
  readonly expected?: number | undefined;
  readonly by: string;
  readonly at: Date;
}

interface Kept {
  readonly compiled: CompiledPolicy;
  readonly view: PolicyView;
}

/** A key as the scope of a policy sees it. */
const keyOf = ({ id, slot, tags, publicKey, custody }: KeyRecord): Subject['key'] => ({
  id,
  slot,
  tags,
  publicKey: publicKey ?? new Uint8Array(),
  custody: custody ?? 'memory',
});

const viewOf = ({ name, version, source, document, createdAt, createdBy }: StoredPolicy): PolicyView => ({
  name,
  version,
  source,
  permissive: permissive(parsePolicy(document)),
  document: { ...document },
  createdAt,
  createdBy,
});

const isConfigured = ({ source }: Pick<PolicyView, 'source'>): boolean => source === 'configuration';

const unknownPolicy = (name: string) =>
  new KeyslotError('POLICY_UNKNOWN', `There is no policy ${name.slice(0, 80)}.`);
