"""Measure many topics on one connection: ``python -m bench.many_topics``.

Three shapes with pushd alone, each of which gets every publication once for each subscription: one
connection with a thousand topics; a thousand connections with one topic each; and a hundred
connections with the same thousand topics. The load generator is in Python, in this process: only
the daemon is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from websockets import Subprotocol
from websockets.asyncio.client import ClientConnection, connect

from bench.catalogue import PUSHD
from bench.rival import Start
from bench.server import Server
from bench.table import format_number, make_table

# Publications of each topic before and during the measurement.
_WARM, _TIMES = 2, 10

_DATA = "x" * 128


@dataclass(frozen=True)
class Shape:
    """Connections, each with its topics."""

    title: str
    connections: Sequence[Sequence[str]]

    @property
    def subscriptions(self) -> int:
        """How many subscriptions there are in all."""
        return sum(map(len, self.connections))


def shapes(topics: int, connections: int) -> list[Shape]:
    """Return what is measured."""
    names = [f"bench/{number}" for number in range(topics)]
    return [
        Shape(f"1 connection, {topics:,} topics", [names]),
        Shape(f"{topics:,} connections, 1 topic each", [[name] for name in names]),
        Shape(f"{connections:,} connections, {topics:,} topics each", [names] * connections),
    ]


async def measure(shape: Shape, server: Server, control: Path) -> list[str]:
    """Return the row of a shape: µs per subscription and per delivery, KiB per subscription."""
    memory, began = server.memory(), server.cpu()
    clients = await asyncio.gather(*(_open(server.port, topics) for topics in shape.connections))
    subscribed = server.cpu() - began
    memory = server.memory() - memory
    names = sorted({topic for topics in shape.connections for topic in topics})
    spent = 0.0
    for time in range(_WARM + _TIMES):
        began = server.cpu()
        await asyncio.gather(
            _publish(control, names),
            *(
                _receive(client, len(topics))
                for client, topics in zip(clients, shape.connections, strict=True)
            ),
        )
        if time >= _WARM:
            spent += server.cpu() - began
    await asyncio.gather(*(client.close() for client in clients))
    return [
        shape.title,
        f"{shape.subscriptions:,}",
        format_number(subscribed / shape.subscriptions),
        format_number(spent / _TIMES / shape.subscriptions),
        format_number(memory / shape.subscriptions),
    ]


async def _open(port: int, topics: Sequence[str]) -> ClientConnection:
    """Open a connection, and subscribe to its topics."""
    client = await connect(
        f"ws://127.0.0.1:{port}/topics",
        subprotocols=[Subprotocol("pushd.v1")],
        proxy=None,
        ping_interval=None,
        max_queue=None,
        open_timeout=60,
        compression=None,
    )
    for topic in topics:
        await client.send(json.dumps({"subscribe": topic}))
    for _ in topics:
        assert "subscribed" in json.loads(await client.recv())
    return client


async def _receive(client: ClientConnection, count: int) -> None:
    for _ in range(count):
        await client.recv(decode=False)


async def _publish(control: Path, topics: Sequence[str]) -> None:
    """Publish to all topics in one batch."""
    publications = [{"topic": topic, "data": _DATA} for topic in topics]
    body = json.dumps({"publications": publications})
    reader, writer = await asyncio.open_unix_connection(str(control), limit=1 << 20)
    head = f"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n{body}".encode())
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:500]
    writer.close()


def _start(folder: Path) -> Start:
    start = PUSHD.start(folder)
    command = [*start.command, "--max-topics", "100000"]
    command[command.index("--control") + 1] = f"unix:{folder}/control"
    return replace(start, command=command, control=None)


async def _main(topics: int, connections: int) -> None:
    rows = [["", "subscriptions", "µs to subscribe", "µs per delivery", "KiB per subscription"]]
    for shape in shapes(topics, connections):
        with TemporaryDirectory() as name:
            folder = Path(name)
            with Server(replace(PUSHD, start=_start), folder) as server:
                rows.append(await measure(shape, server, folder / "control"))
    sys.stdout.write(f"{make_table(rows)}\n")


if __name__ == "__main__":
    asyncio.run(_main(*map(int, sys.argv[1:] or ("1000", "100"))))
