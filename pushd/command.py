"""The command for people: publish, listen, look who is here, make a token."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn, TextIO

from pushd import __version__
from pushd.client import Began, Client, Connect, Message, PushdError, Unreachable

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
  pushdctl tail news --after k3JpQ0r8TzLm:41  all since the one that you have, then what comes
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


@dataclass(frozen=True, kw_only=True)
class World:
    """What a command has to do with: the clock on the wall, its surroundings, and the network."""

    now: Callable[[], float]
    environ: Mapping[str, str]
    stdin: BinaryIO
    stdout: TextIO
    stderr: TextIO
    connect: Connect
    pause: Callable[[float], object]


class _Mistake(Exception):
    """What can't be done as it was asked for, in one line."""


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


def run(arguments: Sequence[str], world: World) -> int:
    """Do what a command line says.

    Returns the exit code: 0, or 1 after one line that says what went wrong; 130 for Ctrl-C. Raises
    BrokenPipeError when nobody reads what it prints.
    """
    parser = _make_parser(world.environ)
    given, rest = parser.parse_known_args(arguments)
    if given.action is None:
        parser.print_help(world.stderr)
        return 1
    if given.action is _check:
        given.rest = rest
    elif rest:
        parser.error(f"{rest[0]} is not understood")
    try:
        given.action(given, world)
        world.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except (PushdError, _Mistake, ValueError) as error:
        hint = ""
        if isinstance(error, Unreachable):
            name = "url" if given.action is _tail else "control"
            variable = {"url": "PUSHD_URL", "control": "PUSHD_CONTROL_URL"}[name]
            hint = f"; is the daemon running? --{name} or {variable} says where"
        print(f"pushd: {error}{hint}", file=world.stderr)
        return 1
    return 0


def _make_parser(environ: Mapping[str, str]) -> ArgumentParser:
    parser = _Parser(
        prog="pushdctl", description="Talk to a pushd that is running.", epilog=_EXAMPLES
    )
    parser.add_argument("--version", action="version", version=f"pushd {__version__}")
    parser.set_defaults(action=None)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")

    def add(
        name: str, action: Callable[[Namespace, World], None], help: str, epilog: str = ""
    ) -> ArgumentParser:
        command = commands.add_parser(name, help=help, description=help, epilog=epilog)
        command.set_defaults(action=action)
        return command

    def add_control(command: ArgumentParser) -> None:
        command.add_argument(
            "--control",
            metavar="URL",
            # PUSHD_CONTROL is the daemon's: where it listens, in other words than a URL's.
            default=environ.get("PUSHD_CONTROL_URL", _CONTROL),
            help="where the control door is (PUSHD_CONTROL_URL; default: %(default)s)",
        )

    def add_token(command: ArgumentParser) -> None:
        command.add_argument(
            "--token",
            default=environ.get("PUSHD_TOKEN"),
            help="the token to show (better in PUSHD_TOKEN: others see a command line)",
        )

    def add_json(command: ArgumentParser) -> None:
        command.add_argument("--json", action="store_true", help="say it in JSON")

    command = add("publish", _publish, "Publish to a topic.", _PUBLISH)
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
    add_control(command)
    add_token(command)
    add_json(command)

    command = add("tail", _tail, "Listen to a topic, through every break.", _TAIL)
    command.add_argument("topic", metavar="TOPIC")
    command.add_argument("--after", metavar="ID", help="begin behind this id")
    command.add_argument(
        "--url",
        default=environ.get("PUSHD_URL", _PUBLIC),
        help="where the public door is (PUSHD_URL; default: %(default)s)",
    )
    add_token(command)
    add_json(command)

    command = add("topics", _topics, "List the topics.")
    add_control(command)
    add_json(command)

    command = add("connections", _connections, "List who is here.", _CONNECTIONS)
    add_control(command)
    add_json(command)

    command = add("close", _close, "Close a connection.", _CLOSE)
    command.add_argument("id", metavar="ID", type=int, help="as connections lists it")
    command.add_argument("--code", type=int, help="the close code (default: 1008)")
    command.add_argument("--reason", help="the reason that the client is told")
    add_control(command)

    command = add("token", _token, "Make a token, for trying.", _TOKEN)
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

    add("check", _check, "Check options of the daemon, and say what would be in force.", _CHECK)
    return parser


def _client(given: Namespace, world: World, url: str) -> Client:
    token = getattr(given, "token", None)
    return Client(url, token=token, connect=world.connect, pause=world.pause)


def _publish(given: Namespace, world: World) -> None:
    data = world.stdin.read() if given.data is None else os.fsencode(given.data)
    text: str | None = None
    if not given.binary:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise _Mistake("the data is not UTF-8: bytes go with --binary") from None
        if given.data is None:
            text = text.removesuffix("\n").removesuffix("\r")
    said = _client(given, world, given.control).publish(
        given.topic,
        data if text is None else text,
        idempotency_key=given.idempotency_key,
        delay=given.delay,
        every=given.every,
        count=given.count,
    )
    if given.json:
        print(_to_json(said), file=world.stdout)
    elif "schedule" in said:
        print(f"{said['schedule']} (schedule, {said['count']} to come)", file=world.stdout)
    else:
        print(f"{said['id']} (heard by {said['subscribers']})", file=world.stdout)


def _tail(given: Namespace, world: World) -> None:
    first = True
    for heard in _client(given, world, given.url).follow(given.topic, given.after):
        if isinstance(heard, Message):
            print(_line(heard, given.json), file=world.stdout, flush=True)
        elif isinstance(heard, Began):
            lost = not heard.recovered and not (first and given.after is None)
            note = ", but publications before it are lost" if lost else ""
            print(f"pushd: listening since {heard.id}{note}", file=world.stderr)
            first = False
        else:
            print(f"pushd: {heard.reason}; again in {heard.seconds:.1f} s", file=world.stderr)


def _line(message: Message, as_json: bool) -> str:
    if isinstance(message.data, bytes):
        encoded = b64encode(message.data).decode()
        said, shown = {"id": message.id, "base64": encoded}, f"base64:{encoded}"
    else:
        said, shown = {"id": message.id, "data": message.data}, _printable(message.data)
    return _to_json(said) if as_json else f"{message.id}\t{shown}"


def _topics(given: Namespace, world: World) -> None:
    said = _client(given, world, given.control).topics()
    rows = []
    for one in said["topics"]:
        counts = one["subscribers"].items()
        shown = ", ".join(f"{count} {transport}" for transport, count in counts) or "nobody"
        rows.append([one["topic"], one["id"] or "-", str(one["history"]), shown])
    _show(given, world, ["TOPIC", "LAST ID", "KEPT", "LISTENING"], rows, said["topics"])
    if said["more"]:
        print("pushd: there are more topics than these", file=world.stderr)


def _connections(given: Namespace, world: World) -> None:
    found = list(_client(given, world, given.control).connections())
    rows = [
        [
            str(one["id"]),
            one["transport"],
            one["peer"],
            one["since"],
            "-" if one["subject"] is None else one["subject"],
            _traffic(one, "in"),
            _traffic(one, "out"),
            one["path"],
        ]
        for one in found
    ]
    head = ["ID", "TRANSPORT", "PEER", "SINCE", "SUBJECT", "IN", "OUT", "PATH"]
    _show(given, world, head, rows, found)


def _traffic(connection: Mapping[str, Any], way: str) -> str:
    return f"{connection[f'messages_{way}']}/{connection[f'bytes_{way}']}B"


def _close(given: Namespace, world: World) -> None:
    _client(given, world, given.control).close(given.id, code=given.code, reason=given.reason)


def _token(given: Namespace, world: World) -> None:
    # What talks to a daemon alone does not wait until all of cryptography is loaded.
    from pushd.identity import check_pattern
    from pushd.keys import read_signing_key
    from pushd.tokens import make_token

    if not 0 < given.ttl <= 1e9:
        raise _Mistake(f"--ttl {given.ttl:g}: a number of seconds above 0")
    claims: dict[str, Any] = {} if given.sub is None else {"sub": given.sub}
    claims["exp"] = int(world.now() + given.ttl)
    for right in ("subscribe", "publish"):
        for pattern in getattr(given, right):
            try:
                check_pattern(pattern)
            except ValueError as error:
                raise _Mistake(f"--{right} {pattern}: {error}") from None
        claims[right] = getattr(given, right)
    print(make_token(read_signing_key(given.key), claims), file=world.stdout)


def _check(given: Namespace, world: World) -> None:
    # Nor until all of the daemon is.
    from pushd.config import write_values
    from pushd.options import OPTIONS, Options

    options = Options(world.environ)
    try:
        options.parseOptions(given.rest)
    except SystemExit as error:
        if error.code:
            raise _Mistake(str(error.code).removeprefix("pushd: ")) from None
        return
    print(write_values(OPTIONS, options.given), file=world.stdout)


def _show(
    given: Namespace,
    world: World,
    head: list[str],
    rows: list[list[str]],
    values: Iterable[object],
) -> None:
    """Print a table for people, or JSON, one object a line."""
    if given.json:
        for value in values:
            print(_to_json(value), file=world.stdout)
        return
    table = [head, *([_printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip(), file=world.stdout)


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _printable(text: str) -> str:
    """The text on one line, and without what a terminal would take for a command."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
