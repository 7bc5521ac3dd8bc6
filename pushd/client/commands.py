"""The commands of ``pushdctl``: each makes its requests and prints the results."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from selectors import BaseSelector
from typing import Any, BinaryIO, TextIO
from uuid import uuid4

from pushd.client.client import Began, Client, Message
from pushd.client.completion import SHELLS, Command, Option
from pushd.client.http import Connect, HttpClient, split_url, unix_path
from pushd.errors import PushdError, UsageError

# What ``publish`` publishes, as the ``Content-Type`` of a request says it.
_TEXT, _JSON, _BYTES = "text/plain", "application/json", "application/octet-stream"
CONTENT_TYPES = (_TEXT, _JSON, _BYTES)

# The most seconds that a health check can wait: more is a mistake in the unit.
_LONGEST_TIMEOUT = 600.0

#: The least and the most of what ``bench`` can be given. A thousand WebSockets are nearly all files
#: that a process can open by default.
BENCH_LIMITS = {
    "subscribers": (1, 1000),
    "publications": (1, 100_000),
    "size": (16, 1 << 20),
    "rate": (1, 10_000),
}
_MAX_DELIVERIES = 5_000_000


@dataclass(frozen=True, kw_only=True)
class CommandRuntime:
    """What commands use of the process: time, environment, standard streams and network.

    ``now`` returns the seconds since 1970, and ``pause`` waits for some seconds.
    """

    now: Callable[[], float]
    environ: Mapping[str, str]
    stdin: BinaryIO
    stdout: TextIO
    stderr: TextIO
    connect: Connect
    pause: Callable[[float], object]
    #: Seconds of a clock that never goes back, and seconds for which the process used a processor.
    monotonic: Callable[[], float]
    processor: Callable[[], float]
    make_selector: Callable[[], BaseSelector]


def publish(given: Namespace, runtime: CommandRuntime) -> None:
    """Publish an argument, or standard input."""
    response = _client(given, runtime, given.control).publish(
        given.topic,
        _read_data(given, runtime),
        event=given.event,
        idempotency_key=given.idempotency_key,
        content_type=_JSON if given.content_type == _JSON else None,
        delay=given.delay,
        at=given.at,
        every=given.every,
        count=given.count,
    )
    if given.json:
        print_json([response], runtime.stdout)
    elif "schedule" in response:
        said = f"{response['schedule']} (scheduled: {response['count']})"
        print(printable(said), file=runtime.stdout)
    else:
        said = f"{response['id']} (subscribers: {response['subscribers']})"
        print(printable(said), file=runtime.stdout)


def tail(given: Namespace, runtime: CommandRuntime) -> None:
    """Print publications until Ctrl-C."""
    first = True
    for event in _client(given, runtime, given.url).follow(given.topic, given.after):
        if isinstance(event, Message):
            _print_message(event, given.json, runtime)
        elif isinstance(event, Began):
            lost = not event.recovered and not (first and given.after is None)
            note = ", but earlier publications are lost" if lost else ""
            line = f"pushd: subscribed, after id {event.id}{note}"
            print(printable(line), file=runtime.stderr)
            first = False
        else:
            line = f"pushd: {event.reason}; reconnecting in {event.seconds:.1f} s"
            print(printable(line), file=runtime.stderr)


def last_id(given: Namespace, runtime: CommandRuntime) -> None:
    """Print the last id of a topic."""
    id = _client(given, runtime, given.control).last_id(given.topic)
    if given.json:
        print_json([{"topic": given.topic, "id": id}], runtime.stdout)
    else:
        print(printable(id), file=runtime.stdout)


def health(given: Namespace, runtime: CommandRuntime) -> None:
    """Print whether the daemon is ready, or a page of it is served; raises an error if not."""
    if not 0 < given.timeout <= _LONGEST_TIMEOUT:
        limit = f"must be a number of seconds above 0, up to {_LONGEST_TIMEOUT:g}"
        raise UsageError(f"--timeout {given.timeout:g}: {limit}")
    if given.url is None:
        client = Client(given.control, timeout=given.timeout, connect=runtime.connect)
        found = client.health(live=given.live)
    else:
        _fetch_page(given.url, given.timeout, runtime.connect)
        found = {"status": "served"}
    if given.json:
        print_json([found], runtime.stdout)
    else:
        print(printable(str(found["status"])), file=runtime.stdout)


def _fetch_page(url: str, timeout: float, connect: Connect) -> None:
    """Get a page, to its end; raises Refused if its status is not 2xx."""
    origin, target = url, "/"
    if unix_path(url) is None:
        parts = split_url(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with HttpClient(origin, token=None, connect=connect).open(
        "GET", target, timeout=timeout
    ) as response:
        response.read()


def topics(given: Namespace, runtime: CommandRuntime) -> None:
    """Print the topics."""
    page = _client(given, runtime, given.control).topics()
    rows = []
    for one in page["topics"]:
        counts = one["subscribers"].items()
        shown = ", ".join(f"{count} {transport}" for transport, count in counts) or "none"
        rows.append([one["topic"], one["id"] or "-", str(one["history"]), shown])
    _show(given, runtime, ["TOPIC", "LAST ID", "KEPT", "SUBSCRIBERS"], rows, page["topics"])
    if page["more"]:
        print(f"pushd: there are more than these {len(rows)} topics", file=runtime.stderr)


def rules(given: Namespace, runtime: CommandRuntime) -> None:
    """Print the rule of a topic; without one, all rules in their order, the defaults last."""
    client = _client(given, runtime, given.control)
    if given.topic is None:
        found = client.all_rules()
        head = [name.upper() for name in found[0]]
        rows = [[_plain(value) for value in one.values()] for one in found]
        _show(given, runtime, head, rows, found)
        return
    rule = client.rules(given.topic)
    rows = [[name, _plain(value)] for name, value in rule.items()]
    _show(given, runtime, ["RULE", "VALUE"], rows, [rule])


def presence(given: Namespace, runtime: CommandRuntime) -> None:
    """Print who is present at a topic."""
    found = _client(given, runtime, given.control).presence(given.topic)
    rows = [
        [
            "-" if one["subject"] is None else one["subject"],
            " ".join(one["connections"]) or "-",
            "-" if one["info"] is None else json.dumps(one["info"], ensure_ascii=False),
        ]
        for one in found["subjects"] or ()
    ]
    _show(given, runtime, ["SUBJECT", "CONNECTIONS", "INFO"], rows, [found])
    if found["subjects"] is None:
        counts = f"{found['count']} subjects with {found['connections']} connections"
        print(f"pushd: {counts}: too many to list (--max-present)", file=runtime.stderr)


def connections(given: Namespace, runtime: CommandRuntime) -> None:
    """Print the open connections."""
    found = list(_client(given, runtime, given.control).connections())
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
    _show(given, runtime, head, rows, found)


def schedules(given: Namespace, runtime: CommandRuntime) -> None:
    """Print the scheduled publications that are not finished."""
    found = _client(given, runtime, given.control).schedules()
    rows = [
        [
            one["schedule"],
            one["topic"],
            f"{one['done']}/{one['count']}",
            f"{one['every']:g}" if one["every"] else "-",
            one["due"],
        ]
        for one in found
    ]
    _show(given, runtime, ["ID", "TOPIC", "DONE", "EVERY", "NEXT"], rows, found)


def cancel(given: Namespace, runtime: CommandRuntime) -> None:
    """Cancel a scheduled publication."""
    _client(given, runtime, given.control).cancel(given.id)


def close(given: Namespace, runtime: CommandRuntime) -> None:
    """Close a connection."""
    _client(given, runtime, given.control).close(given.id, code=given.code, reason=given.reason)


def revoke(given: Namespace, runtime: CommandRuntime) -> None:
    """End subscriptions, and print how many."""
    if given.topic is None and given.subject is None:
        raise UsageError("revoke needs --topic, --subject or both")
    ended = _client(given, runtime, given.control).revoke(topic=given.topic, subject=given.subject)
    print(ended, file=runtime.stdout)


def token(given: Namespace, runtime: CommandRuntime) -> None:
    """Print a token."""
    # Imported only for this command: cryptography takes long to load.
    from pushd.access.keys import read_signing_key
    from pushd.access.tokens import check_pattern, make_token

    if not 0 < given.ttl <= 1e9:
        raise UsageError(f"--ttl {given.ttl:g}: must be a number of seconds above 0")
    claims: dict[str, Any] = {} if given.sub is None else {"sub": given.sub}
    claims["exp"] = int(runtime.now() + given.ttl)
    for right in ("subscribe", "publish"):
        for pattern in getattr(given, right):
            try:
                check_pattern(pattern)
            except ValueError as error:
                raise UsageError(f"--{right} {pattern}: {error}") from None
        claims[right] = getattr(given, right)
    print(make_token(read_signing_key(given.key), claims), file=runtime.stdout)


def bench(given: Namespace, runtime: CommandRuntime) -> None:
    """Put a small load on the daemon, and print what was measured."""
    # Imported only for this command.
    from pushd.client.bench import PATIENCE, Bench, Load

    for name, (least, most) in BENCH_LIMITS.items():
        value = getattr(given, name)
        if value is not None and not least <= value <= most:
            raise UsageError(f"--{name} {value}: must be a number from {least} to {most}")
    if given.subscribers * given.publications > _MAX_DELIVERIES:
        rule = f"--subscribers times --publications must be {_MAX_DELIVERIES} or less"
        raise UsageError(f"{rule}; got {given.subscribers * given.publications}")
    if given.rate and given.publications / given.rate > _LONGEST_TIMEOUT:
        rule = f"--publications by --rate must be {_LONGEST_TIMEOUT:g} seconds or less"
        raise UsageError(f"{rule}; got {given.publications / given.rate:g}")
    load = Load(
        topic=given.topic or f"bench/{uuid4().hex[:12]}",
        subscribers=given.subscribers,
        publications=given.publications,
        size=given.size,
        rate=given.rate,
    )
    result = Bench(
        load,
        public=HttpClient(given.url, token=given.token, connect=runtime.connect),
        control=HttpClient(given.control, token=given.token, connect=runtime.connect),
        selector=runtime.make_selector(),
        monotonic=runtime.monotonic,
        processor=runtime.processor,
    ).run()
    if given.json:
        print_json([result.describe(load)], runtime.stdout)
    else:
        for line in result.lines(load):
            print(line, file=runtime.stdout)
    if result.lost:
        raise PushdError(f"{result.lost} deliveries did not come within {PATIENCE:g} s")


def completion(given: Namespace, runtime: CommandRuntime) -> None:
    """Print the script that completes command lines in a shell."""
    # Imported only for this command: it loads the whole daemon.
    from pushd.options.settings import OPTIONS

    commands: dict[str, Command] = given.describe()
    daemon = [Option(f"--{one.name}", one.help, one.metavar) for one in OPTIONS]
    commands["check"] = Command(commands["check"].help, [*commands["check"].options, *daemon])
    common = [one for one in commands["bench"].options if one.name in given.common]
    print(SHELLS[given.shell](commands, common), file=runtime.stdout)


def check(given: Namespace, runtime: CommandRuntime) -> None:
    """Check options of the daemon, and print the resulting configuration."""
    # Imported only for this command: it loads the whole daemon.
    from pushd.options.command_line import Options

    options = Options(runtime.environ)
    try:
        options.parseOptions(given.rest)
    except SystemExit as error:
        if error.code:
            raise UsageError(str(error.code).removeprefix("pushd: ")) from None
        return
    print(options.effective(), file=runtime.stdout)
    for line in options.warnings():
        print(f"pushd: {line}", file=runtime.stderr)


def _client(given: Namespace, runtime: CommandRuntime, url: str) -> Client:
    token = getattr(given, "token", None)
    return Client(url, token=token, connect=runtime.connect, pause=runtime.pause)


def _read_data(given: Namespace, runtime: CommandRuntime) -> str | bytes:
    """Return what is to be published: the argument, or standard input. Raises UsageError."""
    data = runtime.stdin.read() if given.data is None else os.fsencode(given.data)
    if given.binary or given.content_type == _BYTES:
        return data
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UsageError("the data must be UTF-8; use --binary for other bytes") from None
    return text if given.data is not None else text.removesuffix("\n").removesuffix("\r")


def _print_message(message: Message, as_json: bool, runtime: CommandRuntime) -> None:
    if isinstance(message.data, bytes):
        encoded = b64encode(message.data).decode()
        value, shown = {"base64": encoded}, f"base64:{encoded}"
    else:
        value, shown = {"data": message.data}, printable(message.data)
    if as_json:
        event = {} if message.event is None else {"event": message.event}
        print_json([{"id": message.id, **event, **value}], runtime.stdout)
    else:
        print(f"{printable(message.id)}\t{shown}", file=runtime.stdout)
    runtime.stdout.flush()


def _plain(value: object) -> str:
    """Return a value of JSON as a configuration file has it, without quotes; - for none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "-" if value is None else str(value)


def _traffic(connection: Mapping[str, Any], direction: str) -> str:
    return f"{connection[f'messages_{direction}']}/{connection[f'bytes_{direction}']}B"


def _show(
    given: Namespace,
    runtime: CommandRuntime,
    head: list[str],
    rows: list[list[str]],
    values: Iterable[object],
) -> None:
    if given.json:
        print_json(values, runtime.stdout)
    else:
        print_table(head, rows, runtime.stdout)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], file: TextIO) -> None:
    """Print a table with a header line, each column as wide as its widest cell."""
    table = [list(head), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip(), file=file)


def print_json(values: Iterable[object], file: TextIO) -> None:
    """Print each value as JSON on a line of its own, in which all but printable text is escaped."""
    for value in values:
        text = json.dumps(value, ensure_ascii=False)
        # JSON itself requires that of some control characters only (RFC 8259 §7).
        print("".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text), file=file)


def printable(text: str) -> str:
    """Return a text on one line, its control characters escaped so that no terminal obeys them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
