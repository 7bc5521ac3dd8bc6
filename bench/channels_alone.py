"""What a group of Channels costs without a server: the same application, with functions as clients.

A server can only add to this. Run it as ``python -m bench.channels_alone``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from importlib import import_module
from statistics import mean
from typing import Any

from bench.rivals.channels_application import application

# As in A5.
_SUBSCRIBERS = 1_000
_PUBLICATIONS = 20
_SIZE = 128


class _Client:
    """A WebSocket as the application sees it."""

    def __init__(self, path: str, received: Callable[[], None]) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.messages.put_nowait({"type": "websocket.connect"})
        self.accepted = asyncio.Event()
        self._received = received
        scope = {"type": "websocket", "path": path, "headers": [], "query_string": b""}
        self.task = asyncio.create_task(application(scope, self.messages.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.accept":
            self.accepted.set()
        elif message["type"] == "websocket.send":
            self._received()


async def _measure() -> list[float]:
    """Return the CPU time per delivery of each publication, in microseconds."""
    count, arrived = 0, asyncio.Event()

    def received() -> None:
        nonlocal count
        count += 1
        if not count % _SUBSCRIBERS:
            arrived.set()

    subscribers = [_Client("/subscribe/", received) for _ in range(_SUBSCRIBERS)]
    publisher = _Client("/publish/", received)
    for client in (*subscribers, publisher):
        await client.accepted.wait()
    costs = []
    for _ in range(_PUBLICATIONS):
        arrived.clear()
        began = time.process_time()
        publisher.messages.put_nowait({"type": "websocket.receive", "text": "x" * _SIZE})
        await arrived.wait()
        costs.append((time.process_time() - began) / _SUBSCRIBERS * 1e6)
    for client in (*subscribers, publisher):
        client.task.cancel()
    return costs


def main() -> None:
    """Measure on uvloop, as the servers run, and print the mean."""
    # Not one of pushd's own requirements.
    loops = import_module("uvloop")
    with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
        costs = runner.run(_measure())
    sys.stdout.write(f"Channels alone: {mean(costs):.0f} µs per delivery\n")


if __name__ == "__main__":
    main()
