"""The command line of the command for people: its commands, and what each takes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from pushd import __version__
from pushd.client import commands as actions

_CONTROL = "http://127.0.0.1:8081"
_PUBLIC = "http://127.0.0.1:8080"

_EXAMPLES = """\
examples:
  pushdctl publish news 'it is noon'       everybody who listens to news hears it
  date | pushdctl publish news             the same, with data from a pipe
  pushdctl tail news                       listen, until Ctrl-C
  pushdctl connections                     who is here, and since when
  pushdctl close 17                        and one of them goes

  The daemon itself is started with: twistd -n pushd
  This is installed as pushd as well, but bash and zsh have a pushd of their own.
"""

_PUBLISH = """\
examples:
  pushdctl publish news 'it is noon'
  pushdctl publish images/7 --binary < cat.png
  pushdctl publish news tick --every 0.5 --count 10
  pushdctl publish news tea --delay 3600
  pushdctl publish orders paid --idempotency-key order-66
"""

_TAIL = """\
examples:
  pushdctl tail news                       one line each: the id, a tab, the data
  pushdctl tail news --json | jq .data     one JSON object a line
  pushdctl tail news --after 8f2a6c01d4e79b3052:41  all since the one that you have, then what comes
  PUSHD_TOKEN=$(pushdctl token --key F --subscribe news) pushdctl tail news
"""

_CONNECTIONS = """\
examples:
  pushdctl connections
  pushdctl connections --json | jq 'select(.transport == "sse") | .peer'
"""

_CLOSE = """\
examples:
  pushdctl close 17                        with 1008: for good, if the page uses pushd.js
  pushdctl close 17 --code 1001            the page comes back by itself
  pushdctl close 17 --code 4000 --reason 'please log in again'
"""

_TOKEN = """\
examples:
  openssl rand -base64 48 > key            a secret for both sides
  twistd -n pushd --token-key key
  pushdctl token --key key --sub ann --subscribe news --subscribe 'chat/*' --publish 'chat/**'

  In a pattern * stands for one segment of a topic, and ** for all the rest.
"""

_CHECK = """\
examples:
  pushdctl check --listen tcp:8080 --origin https://example.com
  pushdctl check --config /etc/pushd/pushd.toml
"""


class _Formatter(RawDescriptionHelpFormatter):
    """Examples as they stand, and room enough for the longest name."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)
        # argparse forgets that the names of commands are indented.
        self._action_max_length = 15


class _Parser(ArgumentParser):
    """A parser whose mistakes are one line, and exit code 1, as the daemon's are."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"pushd: {message} (see {self.prog} --help)\n")


def make_parser(environ: Mapping[str, str]) -> ArgumentParser:
    """Make the parser. What it gives has the command's function as ``action``, or None."""
    parser = _Parser(
        prog="pushdctl", description="Talk to a pushd that is running.", epilog=_EXAMPLES
    )
    parser.add_argument("--version", action="version", version=f"pushd {__version__}")
    parser.set_defaults(action=None)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")

    def add(
        name: str,
        action: Callable[[Namespace, actions.World], None],
        help: str,
        epilog: str = "",
    ) -> ArgumentParser:
        command = commands.add_parser(name, help=help, description=help, epilog=epilog)
        command.set_defaults(action=action)
        return command

    _fill_publish(add("publish", actions.publish, "Publish to a topic.", _PUBLISH), environ)
    tail = add("tail", actions.tail, "Listen to a topic, through every break.", _TAIL)
    _fill_tail(tail, environ)
    topics = add("topics", actions.topics, "List the topics.")
    connections = add("connections", actions.connections, "List who is here.", _CONNECTIONS)
    for command in (topics, connections):
        _add_control(command, environ)
        _add_json(command)
    _fill_close(add("close", actions.close, "Close a connection.", _CLOSE), environ)
    _fill_token(add("token", actions.token, "Make a token, for trying.", _TOKEN))
    help = "Check options of the daemon, and say what would be in force."
    add("check", actions.check, help, _CHECK)
    return parser


def _fill_publish(command: ArgumentParser, environ: Mapping[str, str]) -> None:
    command.add_argument("topic", metavar="TOPIC")
    command.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="what to publish; without it, what comes from standard input, less a last line end",
    )
    command.add_argument("--binary", action="store_true", help="as bytes, just as they are")
    command.add_argument("--delay", metavar="S", type=float, help="in so many seconds")
    command.add_argument("--every", metavar="S", type=float, help="again, every so many seconds")
    command.add_argument("--count", metavar="N", type=int, help="so often, with --every")
    command.add_argument(
        "--idempotency-key", metavar="KEY", help="once, however often it is asked for"
    )
    _add_control(command, environ)
    _add_token(command, environ)
    _add_json(command)


def _fill_tail(command: ArgumentParser, environ: Mapping[str, str]) -> None:
    command.add_argument("topic", metavar="TOPIC")
    command.add_argument("--after", metavar="ID", help="begin behind this id")
    command.add_argument(
        "--url",
        default=environ.get("PUSHD_URL", _PUBLIC),
        help="where the public port is (PUSHD_URL; default: %(default)s)",
    )
    _add_token(command, environ)
    _add_json(command)


def _fill_close(command: ArgumentParser, environ: Mapping[str, str]) -> None:
    command.add_argument("id", metavar="ID", type=int, help="as connections lists it")
    command.add_argument("--code", type=int, help="the close code (default: 1008)")
    command.add_argument("--reason", help="the reason that the client is told")
    _add_control(command, environ)


def _fill_token(command: ArgumentParser) -> None:
    command.add_argument(
        "--key", metavar="FILE", required=True, help="a secret, or a private key in PEM"
    )
    command.add_argument("--sub", metavar="NAME", help="for whom it is")
    for right in ("subscribe", "publish"):
        command.add_argument(
            f"--{right}",
            metavar="PATTERN",
            action="append",
            default=[],
            help=f"topics to {right} to; may be given more than once",
        )
    command.add_argument(
        "--ttl", metavar="S", type=float, default=3600, help="for how many seconds (%(default)s)"
    )


def _add_control(command: ArgumentParser, environ: Mapping[str, str]) -> None:
    command.add_argument(
        "--control",
        metavar="URL",
        # PUSHD_CONTROL is the daemon's: where it listens, in other words than a URL's.
        default=environ.get("PUSHD_CONTROL_URL", _CONTROL),
        help="where the control port is (PUSHD_CONTROL_URL; default: %(default)s)",
    )


def _add_token(command: ArgumentParser, environ: Mapping[str, str]) -> None:
    command.add_argument(
        "--token",
        default=environ.get("PUSHD_TOKEN"),
        help="the token to show (better in PUSHD_TOKEN: others see a command line)",
    )


def _add_json(command: ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="say it in JSON")
