import type { Argument, Command, Option } from 'commander';

/**
 * Scripts that complete the words of a command in a shell, made from the commands themselves, so that they are as new
 * as those. Ids of keys and slots are asked of the appliance when they are wanted.
 */

export const shells = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof shells)[number];

/** What may follow: words of a list, or what only the machine or the appliance knows. */
type Kind = 'none' | 'files' | 'keys' | 'slots' | { readonly words: readonly string[] };

interface Node {
  /** The words up to here, without the name of the program. */
  readonly path: string;
  readonly description: string;
  readonly commands: readonly string[];
  readonly options: readonly {
    readonly flags: readonly string[];
    readonly value: Kind | undefined;
    readonly description: string;
  }[];
  readonly arguments: readonly Kind[];
  readonly variadic: boolean;
}

export function completionScript(shell: Shell, program: Command): string {
  const nodes = nodesOf(program, []);
  const name = program.name();
  const script = { bash: bashScript, zsh: zshScript, fish: fishScript }[shell];
  return `# Completion of ${name} in ${shell}, made by: ${name} completion ${shell}\n${script(name, nodes)}`;
}

function nodesOf(command: Command, path: readonly string[]): readonly Node[] {
  const inside = command.commands.filter(each => each.name() !== 'help');
  const given = command.registeredArguments;
  const node: Node = {
    path: path.join(' '),
    description: command.description(),
    commands: inside.map(each => each.name()),
    options: command.createHelp().visibleOptions(command).map(optionOf),
    arguments: given.map(argumentKind),
    variadic: given.at(-1)?.variadic === true,
  };
  return [node, ...inside.flatMap(each => nodesOf(each, [...path, each.name()]))];
}

function optionOf(option: Option): Node['options'][number] {
  const { short, long, required, optional, argChoices, flags, description } = option;
  const valueName = /[<[]([^>\]]+)[>\]]/.exec(flags)?.[1] ?? '';
  const names = [short, long].filter(each => each !== undefined);
  // A public key has an option of the same name, and no list.
  const value = argChoices ? { words: argChoices } : kindOf(valueName === 'id' ? option.name() : valueName);
  return { flags: names, value: required || optional ? value : undefined, description };
}

const argumentKind = (argument: Argument): Kind =>
  argument.argChoices ? { words: argument.argChoices } : kindOf(argument.name());

function kindOf(name: string): Kind {
  if (name === 'file' || name === 'dir' || name === 'path' || name === 'folder') return 'files';
  if (name === 'key') return 'keys';
  return name === 'slot' ? 'slots' : 'none';
}

const kindText = (kind: Kind): string => (typeof kind === 'string' ? kind : kind.words.join(' '));

/** Two functions that bash and zsh read alike: what may follow a command, and what may follow an option of it. */
function tables(name: string, nodes: readonly Node[]): string {
  const afterCommand = nodes.map(({ path, commands, options, arguments: kinds, variadic }) => {
    const flags = options.flatMap(each => each.flags);
    const places = kinds.map(kind => (typeof kind === 'string' ? kind : kind.words.join(',')));
    const rest = variadic ? ` ${places.at(-1)}*` : '';
    return `    ${quoted(path)}) commands=${quoted(commands.join(' '))} options=${quoted(flags.join(' '))} places=${quoted(places.join(' ') + rest)} ;;`;
  });
  const afterOption = nodes.flatMap(({ path, options }) =>
    options.flatMap(({ flags, value }) =>
      value === undefined
        ? []
        : flags.map(flag => `    ${quoted(`${path} ${flag}`)}) value=${quoted(kindText(value))} ;;`),
    ),
  );
  return [
    `_${name}_node() {`,
    `  commands='' options='' places=''`,
    '  case "$1" in',
    ...afterCommand,
    '  esac',
    '}',
    `_${name}_value() {`,
    `  value=''`,
    '  case "$1 $2" in',
    ...afterOption,
    '    *) return 1 ;;',
    '  esac',
    '}',
    '',
  ].join('\n');
}

/** Which command is being typed, word by word; the same in both shells but for where the words are. */
const walk = (name: string, first: string, end: string, word: string): string => `
  _${name}_node ''
  for ((i = ${first}; i < ${end}; i++)); do
    word=${word}
    if [[ $word == '=' ]]; then continue; fi
    if [[ -n $option ]]; then
      if [[ $option == --home ]]; then home=$word; fi
      if [[ $option == --as ]]; then as=$word; fi
      option=''
    elif [[ $word == -* ]]; then
      if _${name}_value "$at" "$word"; then option=$word; fi
    elif [[ " $commands " == *" $word "* ]]; then
      at="\${at:+$at }$word"
      count=0
      _${name}_node "$at"
    else
      count=$((count + 1))
    fi
  done
  if [[ -n $option ]]; then
    kind=$value
  elif [[ $cur == -* ]]; then
    kind=$options
  elif [[ -n $commands ]]; then
    kind=$commands
  fi`;

const bashScript = (name: string, nodes: readonly Node[]): string => `${tables(name, nodes)}
_${name}() {
  local commands options places value word place i count=0 at='' option='' kind=none home='' as='' IFS=$' \\t\\n'
  local cur=\${COMP_WORDS[COMP_CWORD]}
  if [[ $cur == '=' ]]; then cur=''; fi
  COMPREPLY=()
${walk(name, '1', 'COMP_CWORD', '${COMP_WORDS[i]}')}
  if [[ -z $option && -z $commands && $cur != -* ]]; then
    i=0
    for place in $places; do
      if ((i++ == count)) || [[ $place == *'*' ]]; then kind=\${place%'*'} kind=\${kind//,/ }; break; fi
    done
  fi
  case "$kind" in
    none) ;;
    files)
      IFS=$'\\n' COMPREPLY=($(compgen -f -- "$cur"))
      compopt -o filenames 2>/dev/null
      ;;
    keys | slots)
      kind=$("\${COMP_WORDS[0]}" completion "$kind" \${home:+--home "$home"} \${as:+--as "$as"} 2>/dev/null)
      COMPREPLY=($(compgen -W "$kind" -- "$cur"))
      ;;
    *) COMPREPLY=($(compgen -W "$kind" -- "$cur")) ;;
  esac
}
complete -F _${name} ${name}
`;

const zshScript = (name: string, nodes: readonly Node[]): string => `${tables(name, nodes)}
_${name}() {
  local commands options places value word place i count=0 at='' option='' kind=none home='' as=''
  local cur=\${words[CURRENT]}
${walk(name, '2', 'CURRENT', '${(Q)words[i]}')}
  if [[ -z $option && -z $commands && $cur != -* ]]; then
    i=0
    for place in \${=places}; do
      if ((i++ == count)) || [[ $place == *'*' ]]; then kind=\${\${place%'*'}//,/ }; break; fi
    done
  fi
  case "$kind" in
    none) ;;
    files) _files ;;
    keys | slots)
      compadd -- \${=$(\${(Q)words[1]} completion $kind \${home:+--home} \${home:+$home} \${as:+--as} \${as:+$as} 2>/dev/null)}
      ;;
    *) compadd -- \${=kind} ;;
  esac
}
compdef _${name} ${name}
`;

function fishScript(name: string, nodes: readonly Node[]): string {
  const lines = nodes.flatMap(node => {
    const at =
      node.path === '' ? [] : node.path.split(' ').map(word => `__fish_seen_subcommand_from ${word}`);
    const here = at.length === 0 ? '' : ` -n ${quoted(at.join('; and '))}`;
    const between = [
      ...at,
      ...(node.commands.length > 0 ? [`not __fish_seen_subcommand_from ${node.commands.join(' ')}`] : []),
    ];
    const commands = node.commands.map(word => {
      const { description = '' } = nodes.find(({ path }) => path === `${node.path} ${word}`.trim()) ?? {};
      return `complete -c ${name} -f -n ${quoted(between.join('; and '))} -a ${quoted(word)} -d ${quoted(description)}`;
    });
    const options = node.options.map(({ flags, value, description }) => {
      const names = flags.map(flag =>
        flag.startsWith('--') ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`,
      );
      return `complete -c ${name}${here} ${names.join(' ')}${value === undefined ? '' : fishValues(name, value)} -d ${quoted(description)}`;
    });
    const values = node.arguments.map(kind => `complete -c ${name}${here}${fishValues(name, kind, false)}`);
    return [...commands, ...options, ...values];
  });
  return `${lines.join('\n')}\n`;
}

/** \`-x\`: the option takes a value, and no file; \`-r\`: whichever file. */
function fishValues(name: string, kind: Kind, option = true): string {
  if (kind === 'files') return option ? ' -r' : ' -F';
  const only = option ? ' -x' : ' -f';
  if (kind === 'none') return only;
  const values =
    kind === 'keys' || kind === 'slots' ? `(${name} completion ${kind} 2>/dev/null)` : kindText(kind);
  return `${only} -a ${quoted(values)}`;
}

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
