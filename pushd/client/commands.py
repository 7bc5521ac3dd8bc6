"""The commands of ``pushd``, and how they print tables and JSON."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TextIO

from pushd.client.client import Began, Client, Connect, Message
from pushd.errors import UsageError


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


def publish(given: Namespace, world: World) -> None:
    """Publish what is given, or what comes through a pipe."""
    data = world.stdin.read() if given.data is None else os.fsencode(given.data)
    text: str | None = None
    if not given.binary:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise UsageError("the data is not UTF-8: bytes go with --binary") from None
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
        print_json([said], world.stdout)
    elif "schedule" in said:
        print(f"{said['schedule']} (schedule, {said['count']} to come)", file=world.stdout)
    else:
        print(f"{said['id']} (heard by {said['subscribers']})", file=world.stdout)


def tail(given: Namespace, world: World) -> None:
    """Print what is published, until Ctrl-C."""
    first = True
    for heard in _client(given, world, given.url).follow(given.topic, given.after):
        if isinstance(heard, Message):
            _print_message(heard, given.json, world)
        elif isinstance(heard, Began):
            lost = not heard.recovered and not (first and given.after is None)
            note = ", but publications before it are lost" if lost else ""
            print(f"pushd: listening since {heard.id}{note}", file=world.stderr)
            first = False
        else:
            print(f"pushd: {heard.reason}; again in {heard.seconds:.1f} s", file=world.stderr)


def topics(given: Namespace, world: World) -> None:
    """Print the topics."""
    said = _client(given, world, given.control).topics()
    rows = []
    for one in said["topics"]:
        counts = one["subscribers"].items()
        shown = ", ".join(f"{count} {transport}" for transport, count in counts) or "nobody"
        rows.append([one["topic"], one["id"] or "-", str(one["history"]), shown])
    _show(given, world, ["TOPIC", "LAST ID", "KEPT", "LISTENING"], rows, said["topics"])
    if said["more"]:
        print("pushd: there are more topics than these", file=world.stderr)


def connections(given: Namespace, world: World) -> None:
    """Print who is here."""
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


def close(given: Namespace, world: World) -> None:
    """Close a connection."""
    _client(given, world, given.control).close(given.id, code=given.code, reason=given.reason)


def token(given: Namespace, world: World) -> None:
    """Print a token."""
    # What talks to a daemon alone does not wait until all of cryptography is loaded.
    from pushd.access.keys import read_signing_key
    from pushd.access.tokens import check_pattern, make_token

    if not 0 < given.ttl <= 1e9:
        raise UsageError(f"--ttl {given.ttl:g}: a number of seconds above 0")
    claims: dict[str, Any] = {} if given.sub is None else {"sub": given.sub}
    claims["exp"] = int(world.now() + given.ttl)
    for right in ("subscribe", "publish"):
        for pattern in getattr(given, right):
            try:
                check_pattern(pattern)
            except ValueError as error:
                raise UsageError(f"--{right} {pattern}: {error}") from None
        claims[right] = getattr(given, right)
    print(make_token(read_signing_key(given.key), claims), file=world.stdout)


def check(given: Namespace, world: World) -> None:
    """Print the options that would be in force."""
    # Nor until all of the daemon is.
    from pushd.options.command_line import Options
    from pushd.options.sources import write_values
    from pushd.options.table import OPTIONS

    options = Options(world.environ)
    try:
        options.parseOptions(given.rest)
    except SystemExit as error:
        if error.code:
            raise UsageError(str(error.code).removeprefix("pushd: ")) from None
        return
    print(write_values(OPTIONS, options.given), file=world.stdout)


def _client(given: Namespace, world: World, url: str) -> Client:
    token = getattr(given, "token", None)
    return Client(url, token=token, connect=world.connect, pause=world.pause)


def _print_message(message: Message, as_json: bool, world: World) -> None:
    if isinstance(message.data, bytes):
        encoded = b64encode(message.data).decode()
        said, shown = {"id": message.id, "base64": encoded}, f"base64:{encoded}"
    else:
        said, shown = {"id": message.id, "data": message.data}, printable(message.data)
    if as_json:
        print_json([said], world.stdout)
    else:
        print(f"{message.id}\t{shown}", file=world.stdout)
    world.stdout.flush()


def _traffic(connection: Mapping[str, Any], way: str) -> str:
    return f"{connection[f'messages_{way}']}/{connection[f'bytes_{way}']}B"


def _show(
    given: Namespace,
    world: World,
    head: list[str],
    rows: list[list[str]],
    values: Iterable[object],
) -> None:
    if given.json:
        print_json(values, world.stdout)
    else:
        print_table(head, rows, world.stdout)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], file: TextIO) -> None:
    """Print rows below a head, each column as wide as its widest cell."""
    table = [list(head), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip(), file=file)


def print_json(values: Iterable[object], file: TextIO) -> None:
    """Print values, each on a line."""
    for value in values:
        print(json.dumps(value, ensure_ascii=False), file=file)


def printable(text: str) -> str:
    """The text on one line, and without what a terminal would take for a command."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
