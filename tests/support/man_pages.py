"""The manual pages in deploy/man. Run as a command, it updates them."""

from __future__ import annotations

import re
from argparse import Action
from collections.abc import Iterable, Iterator
from pathlib import Path

from pushd.client.arguments import Parser, make_parser
from pushd.options.command_line import Options
from pushd.options.option import Option, by_group
from pushd.options.settings import OPTIONS

FOLDER = Path(__file__).parents[2] / "deploy/man"

_MADE = '.\\" Made by "make options" from the options in pushd/options and pushd/client.\n'

# What stands between the options and the end of pushd(8): paths of the Debian package.
_FILES = (
    ("/etc/pushd/pushd.toml", "The configuration file of the service, with every option."),
    (
        "/etc/pushd/environment",
        "Variables of the service, one per line, such as secrets. Only root needs to read it.",
    ),
    ("/usr/local/lib/pushd", "Your own modules, such as views; the service is started here."),
    ("/var/lib/pushd", "The topics, which so outlive a restart: see --state."),
    ("/usr/lib/pushd", "The program, in a Python environment of its own."),
)

_SIGNALS = (
    (
        "SIGTERM, SIGINT",
        "Close all connections within --drain seconds, and stop. A second one closes them at once.",
    ),
    (
        "SIGHUP",
        "Read the configuration file, keys and certificates again. No connection is closed.",
    ),
)


def make_daemon_page() -> str:
    """Make pushd(8)."""
    options = Options({})
    lines = [
        *_head("PUSHD", 8, "pushd", "push daemon: WebSocket, Server-Sent Events and long polling"),
        ".SH SYNOPSIS",
        ".B twistd \\-n pushd",
        ".RI [ options ]",
        ".SH DESCRIPTION",
        *paragraph(options.longdesc),
        ".PP",
        *paragraph(
            "It is started by systemd as pushd.service, whose ports pushd.socket opens. By hand, "
            "start it with /usr/lib/pushd/bin/twistd -n --pidfile= pushd."
        ),
        ".PP",
        *paragraph(
            "Each option can be given on the command line, in the environment, as "
            "PUSHD_THREADS=8, or in the file named by --config, as threads = 8. The command line "
            "takes precedence over the environment, and that over the file. A SIZE is a number of "
            "bytes, or has a unit: 10MB (10,000,000) or 64KiB (65,536). Times are in seconds."
        ),
        ".SH OPTIONS",
    ]
    for group, members in by_group(OPTIONS):
        lines += [f".SS {_escape(group)}"]
        for option in members:
            lines += _entry(f"--{option.name}", option.metavar, _describe(option))
    lines += [".SS Configuration and help"]
    lines += _entry("--config", "FILE", options.docs["config"])
    for name in ("check", "print-config", "version", "help"):
        lines += _entry(f"--{name}", "", options.docs[name])
    lines += [".SH SIGNALS"]
    for name, text in _SIGNALS:
        lines += _entry(name, "", text)
    lines += [".SH FILES"]
    for name, text in _FILES:
        lines += [".TP", f".I {_escape(name)}", *paragraph(text)]
    lines += [
        ".SH EXIT STATUS",
        *paragraph("0 after a stop in order; 1 after one line for each mistake in the options."),
        ".SH SEE ALSO",
        ".BR pushdctl (1),",
        ".BR systemctl (1),",
        ".BR systemd.socket (5)",
    ]
    return _MADE + "".join(f"{line}\n" for line in lines)


def make_command_page() -> str:
    """Make pushdctl(1)."""
    parser = make_parser({})
    commands = _commands(parser)
    variables = {}
    lines = [
        *_head("PUSHDCTL", 1, "pushdctl", "control a running pushd"),
        ".SH SYNOPSIS",
        ".B pushdctl",
        ".I COMMAND",
        ".RI [ options ]",
        ".SH DESCRIPTION",
        *paragraph(parser.description or ""),
        ".SH COMMANDS",
    ]
    for command in commands:
        lines += [f".SS {_escape(_synopsis(command))}", *paragraph(command.description or "")]
        for action in command._actions:
            if action.dest == "help":
                continue
            text = action.help or ""
            if found := re.search(r"\bPUSHD_[A-Z_]+", text):
                variables[found[0]] = action.option_strings[0]
            lines += _entry(
                *_names(action), _sentence(text % vars(action) if "%(" in text else text)
            )
        lines += _examples(command)
    lines += [".SH ENVIRONMENT"]
    for name, option in sorted(variables.items()):
        lines += _entry(name, "", f"The value of {option} where that is not given.")
    lines += [
        ".SH EXIT STATUS",
        *paragraph("0 on success; 1 after one line that says what failed; 130 after Ctrl-C."),
        ".SH EXAMPLES",
        *_literal((parser.epilog or "").removeprefix("examples:\n")),
        ".SH SEE ALSO",
        ".BR pushd (8)",
    ]
    return _MADE + "".join(f"{line}\n" for line in lines)


#: What makes each file in the folder.
PAGES = {"pushd.8": make_daemon_page, "pushdctl.1": make_command_page}


def _head(title: str, section: int, name: str, purpose: str) -> Iterator[str]:
    # Without a date and a version, so that a page changes only when its text does.
    yield f'.TH {title} {section} "" "pushd" "pushd"'
    # As in English, a line ends between words; and commands are not broken at hyphens.
    yield from (".nh", ".ad l", ".SH NAME", f"{name} \\- {_escape(purpose)}")


def _describe(option: Option) -> str:
    default = option.show(option.default)
    return f"{option.help} Default: {default}" if default else option.help


def _commands(parser: Parser) -> list[Parser]:
    """Return the parsers of the commands, in the order of the help."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            return list(action.choices.values())
    raise AssertionError("the parser has no commands")


def _synopsis(command: Parser) -> str:
    """Return the name of a command and its arguments that are not options."""
    words = [command.prog.removeprefix("pushdctl ")]
    for action in command._actions:
        if not action.option_strings:
            metavar = str(action.metavar)
            words.append(f"[{metavar}]" if action.nargs == "?" else metavar)
    return " ".join(words)


def _names(action: Action) -> tuple[str, str]:
    """Return the name of an option, and its placeholder; or the placeholder of an argument."""
    if not action.option_strings:
        return str(action.metavar), ""
    takes_value = action.nargs != 0
    metavar = str(action.metavar or action.dest.upper()) if takes_value else ""
    return ", ".join(action.option_strings), metavar


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _examples(command: Parser) -> Iterator[str]:
    if command.epilog:
        yield from (".PP", *_literal(command.epilog))


def _entry(name: str, metavar: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_escape(name)}" if not metavar else f".BI {_quote(f'{name} ')} {_quote(metavar)}"
    yield from paragraph(text)


def paragraph(text: str) -> Iterator[str]:
    """Yield a paragraph of a page, a sentence on a line."""
    for sentence in re.split(r"(?<=[a-z)][.:;]) (?=[A-Z])", " ".join(text.split())):
        yield _guard(_escape(sentence))


def _literal(text: str) -> Iterator[str]:
    """Yield lines that are printed as they are."""
    yield from (".nf", *(_guard(_escape(line)) for line in text.strip("\n").split("\n")), ".fi")


def _quote(text: str) -> str:
    return f'"{_escape(text)}"'


def _escape(text: str) -> str:
    """Write every character as itself, so that what is copied from the page works."""
    escapes = {"\\": "\\e", "-": "\\-", "'": "\\(aq", '"': "\\(dq", "`": "\\(ga", "^": "\\(ha"}
    escapes |= {"~": "\\(ti"}
    return "".join(escapes.get(one, one) for one in text)


def _guard(line: str) -> str:
    """Keep a line from being a request of roff."""
    return f"\\&{line}" if line.startswith(".") else line


def outdated() -> Iterable[str]:
    """Return the names of pages that are not as they would be made now."""
    return [
        name
        for name, make in PAGES.items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text() != make()
    ]


if __name__ == "__main__":
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make())
