"""Completion of ``pushdctl`` in bash, zsh and fish: scripts that are made from its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Option(NamedTuple):
    """An option as the scripts need it."""

    #: With its dashes.
    name: str
    #: Its description, on one line.
    help: str
    #: The placeholder for its value; empty if it takes none.
    value: str = ""
    #: The only values that it may have, if these are few.
    words: tuple[str, ...] = ()


class Command(NamedTuple):
    """A command as the scripts need it."""

    help: str
    options: Sequence[Option]


# Options whose value is the name of a file or of a directory.
_PATHS = frozenset({"--key", "--token-key", "--centrifuge-secret", "--api-key", "--web", "--state"})


def write_bash(commands: Mapping[str, Command], common: Sequence[Option]) -> str:
    """Write a script for bash 4 or newer.

    :param common: options that may stand before the command.
    """
    options = [*common, *(one for command in commands.values() for one in command.options)]
    paths, choices, others = _sort_by_value(options)
    names = {"": [*commands, *(one.name for one in common)]}
    names |= {name: [one.name for one in command.options] for name, command in commands.items()}
    lines = [
        "_pushdctl() {",
        "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}",
        "    local command= words= index",
        "    COMPREPLY=()",
        "    for ((index = 1; index < COMP_CWORD; index++)); do",
        "        case ${COMP_WORDS[index]} in",
        f"            {'|'.join(commands)}) command=${{COMP_WORDS[index]}}; break ;;",
        "        esac",
        "    done",
        "    case $previous in",
        f"        {'|'.join(paths)}) compopt -o filenames",
        '            mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;',
        f"        {'|'.join(others)}) return ;;",
        *(f'        {name}) words="{" ".join(words)}" ;;' for name, words in choices.items()),
        "        *)",
        "            case $command in",
        *(f'                "{name}") words="{" ".join(all)}" ;;' for name, all in names.items()),
        "            esac",
        "            [[ -z $command || $current == -* ]] || return ;;",
        "    esac",
        '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")',
        "}",
        "complete -F _pushdctl pushdctl",
    ]
    return "\n".join(lines)


def write_zsh(commands: Mapping[str, Command], common: Sequence[Option]) -> str:
    """Write a script for zsh, which may also be a file named ``_pushdctl`` in ``$fpath``."""
    lines = [
        "#compdef pushdctl",
        "_pushdctl() {",
        "    local curcontext=$curcontext state line",
        "    local -a commands",
        "    _arguments -C \\",
        *(f"        {_zsh_option(one)} \\" for one in common),
        "        '1:command:->command' '*::argument:->argument'",
        "    case $state in",
        "        command)",
        "            commands=(",
        *(
            f"                {_quote(f'{name}:{_escape(one.help)}')}"
            for name, one in commands.items()
        ),
        "            )",
        "            _describe command commands ;;",
        "        argument)",
        "            case $words[1] in",
    ]
    for name, command in commands.items():
        lines += [
            f"                {name}) _arguments \\",
            *(f"                    {_zsh_option(one)} \\" for one in command.options),
            "                    '*:argument:' ;;",
        ]
    lines += [
        "            esac ;;",
        "    esac",
        "}",
        # A file in $fpath is the body of the function, and is read when that is first called.
        "if [[ $funcstack[1] == _pushdctl ]]; then",
        '    _pushdctl "$@"',
        "else",
        "    compdef _pushdctl pushdctl",
        "fi",
    ]
    return "\n".join(lines)


def write_fish(commands: Mapping[str, Command], common: Sequence[Option]) -> str:
    """Write a script for fish, such as a file in ``~/.config/fish/completions``."""
    first = "complete -c pushdctl -n __fish_use_subcommand"
    lines = ["complete -c pushdctl -f"]
    lines += [f"{first} -a {name} -d {_quote_fish(one.help)}" for name, one in commands.items()]
    lines += [f"{first} {_fish_option(option)}" for option in common]
    for name, command in commands.items():
        later = f"complete -c pushdctl -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{later} {_fish_option(option)}" for option in command.options]
    return "\n".join(lines)


#: What writes the script of each shell.
SHELLS: Mapping[str, Callable[[Mapping[str, Command], Sequence[Option]], str]] = {
    "bash": write_bash,
    "zsh": write_zsh,
    "fish": write_fish,
}


def _sort_by_value(
    options: Sequence[Option],
) -> tuple[list[str], dict[str, tuple[str, ...]], list[str]]:
    """Return the options that take a path, those that take one of some words, and all others."""
    taking = {one.name: one.words for one in options if one.value}
    choices = {name: words for name, words in taking.items() if words}
    paths = [name for name in taking if name in _PATHS]
    return paths, choices, [name for name in taking if name not in (*choices, *paths)]


def _zsh_option(option: Option) -> str:
    """Write an option as a specification of ``_arguments``."""
    text = f"{option.name}[{_escape(option.help)}]"
    if option.value:
        action = "_files" if option.name in _PATHS else ""
        if option.words:
            action = f"({' '.join(option.words)})"
        text += f":{_escape(option.value)}:{action}"
    return _quote(text)


def _fish_option(option: Option) -> str:
    """Write an option as arguments of ``complete``."""
    text = f"-l {option.name.removeprefix('--')} -d {_quote_fish(option.help)}"
    if not option.value:
        return text
    if option.name in _PATHS:
        return f"{text} -r -F"
    return f"{text} -x" + (f" -a {_quote_fish(' '.join(option.words))}" if option.words else "")


def _escape(text: str) -> str:
    """Escape what separates the parts of a specification in zsh."""
    return "".join(f"\\{one}" if one in "[]:\\" else one for one in text)


def _quote(text: str) -> str:
    """Quote a text for zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _quote_fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
