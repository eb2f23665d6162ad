import type { Command } from 'commander';
import type { SlotView, TrialView } from '../../wire/views.ts';
import { Connection, configOf, type SharedOptions } from '../connection.ts';
import { listing, print, printJson, refused, table } from '../output.ts';
import { readPin } from '../secret-input.ts';

export function addSlots(program: Command, shared: (command: Command) => Command): void {
  const slots = program.command('slots').description('the places that hold keys');
  shared(slots.command('list').description('every slot and its state')).action(list);
  shared(slots.command('show').description('one slot in full').argument('<slot>')).action(show);
  shared(slots.command('open').description('open a slot with its PIN').argument('<slot>'))
    .option('--pin-file <file>', 'read the PIN from a file instead of asking for it')
    .option('--configured', 'use the PIN source of the configuration')
    .action(open);
  shared(slots.command('lock').description('end the login of a slot').argument('<slot>')).action(act('lock'));
  shared(slots.command('clear-latch').description('allow a PIN that the token refused to be tried again'))
    .argument('<slot>')
    .action(act('clear-latch'));
  shared(slots.command('try').description('have the canary of a slot sign now').argument('<slot>')).action(
    trial,
  );
}

async function list(options: SharedOptions): Promise<void> {
  const answer = await new Connection(configOf(options)).get<{ slots: SlotView[] }>('/v1/slots');
  if (options.json) {
    printJson(answer);
    return;
  }
  const rows = answer.slots.map(slot => [
    slot.id,
    slot.state,
    slot.custody,
    slot.access,
    reason(slot) || slot.summary,
  ]);
  print(table(['SLOT', 'STATE', 'CUSTODY', 'ACCESS', 'WHAT'], rows));
}

async function show(id: string, options: SharedOptions): Promise<void> {
  printSlot(
    await new Connection(configOf(options)).get<SlotView>(`/v1/slots/${encodeURIComponent(id)}`),
    options,
  );
}

async function open(
  id: string,
  options: SharedOptions & { pinFile?: string; configured?: boolean },
): Promise<void> {
  const connection = new Connection(configOf(options));
  const path = `/v1/slots/${encodeURIComponent(id)}/open`;
  if (options.configured) {
    printSlot(await connection.post<SlotView>(path, {}), options);
    return;
  }
  using pin = await readPin(options.pinFile, `PIN of slot ${id}: `);
  printSlot(await pin.useText(text => connection.post<SlotView>(path, { pin: text })), options);
}

const act =
  (verb: string) =>
  async (id: string, options: SharedOptions): Promise<void> => {
    const path = `/v1/slots/${encodeURIComponent(id)}/${verb}`;
    printSlot(await new Connection(configOf(options)).post<SlotView>(path, {}), options);
  };

/** A slot that does not sign is an answer, and is told to a script by the exit status. */
async function trial(id: string, options: SharedOptions): Promise<void> {
  const path = `/v1/slots/${encodeURIComponent(id)}/try`;
  const answer = await new Connection(configOf(options)).post<TrialView>(path, {});
  if (!answer.ok) process.exitCode = refused;
  if (options.json) {
    printJson(answer);
    return;
  }
  const { ok, took_ms, at, error } = answer;
  const failure = error ? `${error.code}: ${error.detail}` : undefined;
  print(listing({ slot: id, signs: ok, took: `${took_ms} ms`, at, error: failure }));
}

function printSlot(slot: SlotView, options: SharedOptions): void {
  if (options.json) {
    printJson(slot);
    return;
  }
  const { id, state, engine, custody, access, attended, summary, details } = slot;
  print(
    listing({
      id,
      state,
      reason: reason(slot) || undefined,
      engine,
      custody,
      access,
      attended,
      summary,
      ...details,
    }),
  );
  for (const { key, problem } of slot.findings) print(`finding: key ${key} is ${findingText[problem]}`);
}

const findingText = {
  missing: 'registered but not in the slot',
  damaged: 'registered, and its file or object in the slot cannot be used',
  unknown: 'in the slot but not registered',
  mismatch: 'in the slot with another public key than the registered one',
  'kept-copy': 'a copy that a migration kept',
} as const;

const reason = (slot: SlotView): string => (slot.reason ? `${slot.reason.code}: ${slot.reason.detail}` : '');
