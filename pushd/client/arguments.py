"""The arguments of ``pushdctl``: its commands, their options, and the text of ``--help``."""

from __future__ import annotations

from argparse import (
    Action,
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, NoReturn

from pushd import __version__
from pushd.client import commands
from pushd.client.completion import SHELLS, Command, Option
from pushd.topics.timestamp import parse_timestamp

_CONTROL = "http://127.0.0.1:8081"
_PUBLIC = "http://127.0.0.1:8080"

_EXAMPLES = """\
examples:
  pushdctl publish news 'it is noon'     publish to all subscribers of the topic news
  date | pushdctl publish news           the same, with data from a pipe
  pushdctl tail news                     print publications until Ctrl-C
  pushdctl connections                   list the open connections
  pushdctl close 17                      close one of them

  Each command has a --help of its own. --control, --url, --token and --json may also stand before
  the command. The daemon is started with: twistd -n pushd
  pushd is the same program, but bash and zsh have a builtin of that name.
"""

_PUBLISH = """\
examples:
  pushdctl publish news 'it is noon'
  pushdctl publish orders/66 '{"paid": true}' --content-type application/json --event paid
  pushdctl publish images/7 --binary < cat.png
  pushdctl publish news tick --every 0.5 --count 10
  pushdctl publish news tea --delay 3600
  pushdctl publish news 'happy new year' --at 2027-01-01T00:00:00+01:00
  pushdctl publish orders paid --idempotency-key order-66
"""

_TAIL = """\
examples:
  pushdctl tail news                      one line per publication: its id, a tab, its data
  pushdctl tail news --json | jq .data    one JSON object per line
  pushdctl tail news --after 8f2a6c01d4e79b3052:41
                                          all publications since this id, then new ones
  PUSHD_TOKEN=$(pushdctl token --key F --subscribe news) pushdctl tail news
"""

_LAST_ID = """\
examples:
  pushdctl last-id news
  pushdctl tail news --after $(pushdctl last-id news)
"""

_HEALTH = """\
examples:
  pushdctl health                         is it ready for traffic?
  pushdctl health --live                  does it answer at all?
  pushdctl health --control unix:/run/pushd/control.sock
  pushdctl health --url http://127.0.0.1:8080/about/
                                          is this page served? Works with --control none

  Exit code 0 means yes, 1 means no: as a container's HEALTHCHECK wants it.
"""

_RULES = """\
examples:
  pushdctl rules                          all rules, in the order in which they are tried
  pushdctl rules chat/7                   what the configuration file says of this topic
  pushdctl rules chat/7 --json | jq .match
"""

_PRESENCE = """\
examples:
  pushdctl presence chat/7                one line per subject, with its connections
  pushdctl presence chat/7 --json | jq .count
"""

_CONNECTIONS = """\
examples:
  pushdctl connections
  pushdctl connections --json | jq 'select(.transport == "sse") | .peer'
"""

_SCHEDULES = """\
examples:
  pushdctl schedules                      of all nodes, if they share a Redis
  pushdctl schedules --json | jq -r .due
"""

_CANCEL = """\
examples:
  pushdctl cancel $(pushdctl publish news tea --delay 3600 | cut -d ' ' -f 1)
"""

_CLOSE = """\
examples:
  pushdctl close 17                       with 1008: a page with pushd.js does not reconnect
  pushdctl close 17 --code 1001           with 1001: the page reconnects
  pushdctl close 17 --code 4000 --reason 'please log in again'
"""

_BENCH = """\
examples:
  pushdctl bench                          100 subscribers, 1000 publications
  pushdctl bench --rate 50 --subscribers 500
  pushdctl bench --json | jq .latency_ms.p99

  It adds its load to what the daemon has already, on topics of its own. Latency is the time from
  when a publication was due until pushdctl has it from the daemon.
"""

_COMPLETION = """\
examples:
  source <(pushdctl completion bash)      in ~/.bashrc
  source <(pushdctl completion zsh)       in ~/.zshrc, after compinit
  pushdctl completion fish > ~/.config/fish/completions/pushdctl.fish
"""

_REVOKE = """\
examples:
  pushdctl revoke --subject ann           end all subscriptions of ann
  pushdctl revoke --topic chat/7 --subject ann
  pushdctl revoke --topic 'chat/**'       end those of all clients to the topics of chat

  A client that is still permitted comes back: first take the permission from it.
"""

_TOKEN = """\
examples:
  openssl rand -base64 48 > key           make a secret
  twistd -n pushd --token-key key         start a daemon that verifies tokens with it
  pushdctl token --key key --sub ann --subscribe news --subscribe 'chat/*' --publish 'chat/**'

  In a pattern, * matches one segment of a topic, and ** at the end matches all the rest.
"""

_CHECK = """\
OPTION is any option of the daemon; twistd pushd --help lists them.

examples:
  pushdctl check --listen tcp:8080 --origin https://example.com
  pushdctl check --config /etc/pushd/pushd.toml
"""


# Options that several commands have, and may stand before the command: whether they take a value.
_COMMON = {"--control": True, "--url": True, "--token": True, "--json": False}


class Parser(ArgumentParser):
    """A parser whose errors are one line and exit code 1, as those of the daemon."""

    def __init__(self, **options: Any) -> None:
        #: Its options with long names.
        self.options: list[Option] = []
        #: The parsers of its commands.
        self.commands: dict[str, Parser] = {}
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **options)

    def add_argument(self, *names: Any, **options: Any) -> Action:
        """Add an argument, and remember it if it is an option."""
        return self.remember(super().add_argument(*names, **options))

    def remember(self, action: Action) -> Action:
        """Remember an option, which may have been added to a group."""
        for name in action.option_strings:
            if name.startswith("--"):
                help = " ".join((action.help or "").partition(" (")[0].split())
                value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
                words = tuple(str(one) for one in action.choices or ())
                self.options.append(Option(name, help, value, words))
        return action

    def describe_commands(self) -> dict[str, Command]:
        """Return its commands, for the completion of command lines."""
        return {
            name: Command(one.description or "", one.options) for name, one in self.commands.items()
        }

    def check_command(self, arguments: Sequence[str]) -> None:
        """Report an unknown command as an error."""
        command = next((one for one in arguments if not one.startswith("-")), None)
        if command is not None and command not in self.commands:
            self.error(suggest("unknown command", command, self.commands))

    def reorder(self, arguments: Sequence[str]) -> list[str]:
        """Move common options from before the command to behind it.

        Reports it as an error if one of them has no value, or if there is no command.
        """
        rest, moved = list(arguments), []
        while rest and rest[0].partition("=")[0] in _COMMON:
            moved.append(rest.pop(0))
            if _COMMON.get(moved[-1]):
                if not rest or rest[0].startswith("-"):
                    self.error(f"{moved[-1]}: expected one argument")
                moved.append(rest.pop(0))
        if moved and not rest:
            self.error("missing argument: COMMAND")
        return [*rest[:1], *moved, *rest[1:]]

    def error(self, message: str) -> NoReturn:
        """Print one line to standard error, and exit with 1."""
        message = message.removeprefix("argument ")
        message = message.replace("the following arguments are required", "missing argument")
        self.exit(1, f"pushd: {message} (see {self.prog} --help)\n")


class _Formatter(RawDescriptionHelpFormatter):
    """Leaves examples as they are, and has room for the longest name of an option."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)
        # argparse does not count the indentation of commands.
        self._action_max_length = 15


def suggest(mistake: str, name: str, names: Iterable[str]) -> str:
    """Return a line about a wrong name, with the name that was probably meant."""
    # The dashes do not count: they would make all options similar.
    bare = {one.lstrip("-"): one for one in names}
    near = get_close_matches(name.lstrip("-"), bare, n=1)
    return f"{mistake} {name}" + (f": did you mean {bare[near[0]]}?" if near else "")


def make_parser(environ: Mapping[str, str]) -> Parser:
    """Make the parser.

    Its result has ``action``, the function of the command, or None if there is no command, and
    ``parser``, the parser of the command.
    """
    parser = Parser(
        prog="pushdctl",
        description="Control a running pushd: publish, subscribe, list and close connections.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "--version", action="version", version=f"pushd {__version__}", help="print the version"
    )
    parser.set_defaults(action=None, parser=parser)
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands")

    def add(
        name: str,
        action: Callable[[Namespace, commands.CommandRuntime], None],
        help: str,
        epilog: str = "",
        usage: str | None = None,
    ) -> Parser:
        command = subparsers.add_parser(
            name, help=help, description=help, epilog=epilog, usage=usage
        )
        command.set_defaults(action=action, parser=command)
        parser.commands[name] = command
        return command

    publish = add("publish", commands.publish, "Publish to a topic, now or later.", _PUBLISH)
    _fill_publish(publish, environ)
    help = "Subscribe to a topic, and print its publications; reconnects when necessary."
    _fill_tail(add("tail", commands.tail, help, _TAIL), environ)
    help = "Print the id after which a subscriber of a topic misses nothing from now on."
    last_id = add("last-id", commands.last_id, help, _LAST_ID)
    _add_topic(last_id)
    help = "Say whether the daemon is ready for traffic; exits with 1 if not."
    _fill_health(add("health", commands.health, help, _HEALTH), environ)
    topics = add("topics", commands.topics, "List the topics.")
    help = "Show the rule that holds for a topic, or list all rules."
    rules = add("rules", commands.rules, help, _RULES)
    help = "name of the topic, such as news or chat/7; without it, all rules are listed"
    rules.add_argument("topic", metavar="TOPIC", nargs="?", help=help)
    help = "List who is present at a topic."
    presence = add("presence", commands.presence, help, _PRESENCE)
    _add_topic(presence)
    help = "List the open connections."
    connections = add("connections", commands.connections, help, _CONNECTIONS)
    help = "List the scheduled publications that are not finished."
    schedules = add("schedules", commands.schedules, help, _SCHEDULES)
    for command in (last_id, topics, rules, presence, connections, schedules):
        _add_control(command, environ)
        _add_json(command)
    cancel = add("cancel", commands.cancel, "Cancel a scheduled publication.", _CANCEL)
    cancel.add_argument("id", metavar="ID", help="id of the schedule: see pushdctl schedules")
    _add_control(cancel, environ)
    _fill_close(add("close", commands.close, "Close a connection.", _CLOSE), environ)
    help = "End subscriptions, of clients that are not permitted any more."
    _fill_revoke(add("revoke", commands.revoke, help, _REVOKE), environ)
    _fill_token(add("token", commands.token, "Make a token, for tests and experiments.", _TOKEN))
    help = "Put a small load on the daemon, and print how fast it delivers."
    _fill_bench(add("bench", commands.bench, help, _BENCH), environ)
    help = "Print a script that completes command lines in a shell."
    completion = add("completion", commands.completion, help, _COMPLETION)
    completion.add_argument(
        "shell", metavar="SHELL", choices=list(SHELLS), help="bash, zsh or fish"
    )
    completion.set_defaults(describe=parser.describe_commands, common=_COMMON)
    help = "Check options of the daemon, and print the resulting configuration."
    add("check", commands.check, help, _CHECK, "pushdctl check [-h] [OPTION ...]")
    return parser


def _fill_publish(command: Parser, environ: Mapping[str, str]) -> None:
    _add_topic(command)
    command.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="the data; if it is left out, standard input is read, without its last newline",
    )
    kinds = command.add_mutually_exclusive_group()
    kind = kinds.add_argument(
        "--content-type",
        metavar="TYPE",
        choices=commands.CONTENT_TYPES,
        help="what the data is: text/plain (the default), application/json, or "
        "application/octet-stream for bytes, unchanged",
    )
    binary = kinds.add_argument(
        "--binary", action="store_true", help="the same as --content-type application/octet-stream"
    )
    command.remember(kind)
    command.remember(binary)
    command.add_argument("--event", metavar="NAME", help="name of the event, for event streams")
    command.add_argument("--delay", metavar="S", type=_seconds, help="publish after S seconds")
    command.add_argument(
        "--at", metavar="TIME", type=_time, help="publish at a time, such as 2027-01-01T00:00:00Z"
    )
    command.add_argument("--every", metavar="S", type=_seconds, help="repeat every S seconds")
    command.add_argument(
        "--count", metavar="N", type=_integer, help="publish N times; requires --every"
    )
    command.add_argument(
        "--idempotency-key",
        metavar="KEY",
        help="publish only if no request with the same KEY was made in the last five minutes",
    )
    _add_control(command, environ)
    _add_token(command, environ)
    _add_json(command)


def _fill_tail(command: Parser, environ: Mapping[str, str]) -> None:
    _add_topic(command)
    command.add_argument(
        "--after", metavar="ID", help="start after the publication with this id, not with new ones"
    )
    _add_url(command, environ)
    _add_token(command, environ)
    _add_json(command)


def _fill_health(command: Parser, environ: Mapping[str, str]) -> None:
    command.add_argument(
        "--live", action="store_true", help="ask only whether it is alive, not whether it is ready"
    )
    command.add_argument(
        "--timeout",
        metavar="S",
        type=_seconds,
        default=5,
        help="seconds that each step of the request may take (default: %(default)s)",
    )
    command.add_argument("--url", help="URL of a page to get in place of asking the control port")
    _add_control(command, environ)
    _add_json(command)


def _fill_bench(command: Parser, environ: Mapping[str, str]) -> None:
    for name, default, help in (
        ("subscribers", 100, "number of WebSockets that subscribe"),
        ("publications", 1000, "number of publications that each of them gets"),
        ("size", 128, "bytes of each publication"),
        (
            "rate",
            None,
            "publications per second; by default each one is made when all subscribers "
            "have the one before it",
        ),
    ):
        least, most = commands.BENCH_LIMITS[name]
        shown = f"{least} to {most}" + ("" if default is None else "; default: %(default)s")
        command.add_argument(
            f"--{name}", metavar="N", type=_integer, default=default, help=f"{help} ({shown})"
        )
    command.add_argument(
        "--topic", help="name of the topic (default: a new one, which begins with bench/)"
    )
    _add_url(command, environ)
    _add_control(command, environ)
    _add_token(command, environ)
    _add_json(command)


def _fill_close(command: Parser, environ: Mapping[str, str]) -> None:
    command.add_argument(
        "id", metavar="ID", type=_integer, help="id of the connection: see pushdctl connections"
    )
    command.add_argument(
        "--code", metavar="N", type=_integer, help="close code of a WebSocket (default: 1008)"
    )
    command.add_argument("--reason", metavar="TEXT", help="close reason of a WebSocket")
    _add_control(command, environ)


def _fill_revoke(command: Parser, environ: Mapping[str, str]) -> None:
    command.add_argument(
        "--topic", metavar="PATTERN", help="subscriptions to this topic, or to all that match"
    )
    command.add_argument(
        "--subject",
        metavar="NAME",
        help="subscriptions of this user, as pushdctl connections has it",
    )
    _add_control(command, environ)


def _fill_token(command: Parser) -> None:
    command.add_argument(
        "--key", metavar="FILE", required=True, help="file with a secret or a PEM private key"
    )
    command.add_argument("--sub", metavar="NAME", help="subject: the user whom it is for")
    for right in ("subscribe", "publish"):
        command.add_argument(
            f"--{right}",
            metavar="PATTERN",
            action="append",
            default=[],
            help=f"pattern of topics that it allows to {right} to; may be given more than once",
        )
    command.add_argument(
        "--ttl",
        metavar="S",
        type=_seconds,
        default=3600,
        help="seconds until it expires (default: %(default)s)",
    )


def _add_topic(command: Parser) -> None:
    command.add_argument("topic", metavar="TOPIC", help="name of the topic, such as news or chat/7")


def _add_url(command: Parser, environ: Mapping[str, str]) -> None:
    command.add_argument(
        "--url",
        default=environ.get("PUSHD_URL", _PUBLIC),
        help="URL of the public port (PUSHD_URL; default: %(default)s)",
    )


def _add_control(command: Parser, environ: Mapping[str, str]) -> None:
    command.add_argument(
        "--control",
        metavar="URL",
        # Not PUSHD_CONTROL: that is an option of the daemon, and an endpoint instead of a URL.
        default=environ.get("PUSHD_CONTROL_URL", _CONTROL),
        help="URL of the control port, or unix: and the path of its socket (PUSHD_CONTROL_URL; "
        "default: %(default)s)",
    )


def _add_token(command: Parser, environ: Mapping[str, str]) -> None:
    command.add_argument(
        "--token",
        default=environ.get("PUSHD_TOKEN"),
        help="token to send; PUSHD_TOKEN is safer, as other users can see the command line",
    )


def _add_json(command: Parser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object per line")


def _integer(given: str) -> int:
    try:
        return int(given)
    except ValueError:
        raise ArgumentTypeError(f"must be a whole number; got {given!r}") from None


def _time(given: str) -> datetime:
    try:
        return datetime.fromtimestamp(parse_timestamp(given), UTC)
    except ValueError:
        line = "must be a time of RFC 3339, such as 2027-01-01T00:00:00Z"
        raise ArgumentTypeError(f"{line}; got {given!r}") from None


def _seconds(given: str) -> float:
    try:
        return float(given)
    except ValueError:
        raise ArgumentTypeError(f"must be a number of seconds; got {given!r}") from None
