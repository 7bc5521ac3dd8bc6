"""The nodes of a soak test: two daemons that share their topics through a Redis, which may fail."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.soak.ledger import Faults
from tests.soak.publishers import Control
from tests.soak.samples import Keys
from tests.soak.wire import get
from tests.support.daemon_process import DaemonProcess
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).parents[2]

# Idempotency keys are kept for five minutes, and would grow for as long: they are left out of the
# count. What is known of a topic is kept for ten minutes longer than its history. All keys expire
# but the one about the server, and those of schedules, which are deleted when they are done.
_COUNT_KEYS = """
local cursor, counted, histories, lasting, schedules = '0', 0, 0, 0, 0
repeat
    local page = redis.call('SCAN', cursor, 'MATCH', 'pushd:*', 'COUNT', 1000)
    cursor = page[1]
    for _, key in ipairs(page[2]) do
        if string.find(key, 'pushd:schedule', 1, true) == 1 then
            schedules = schedules + 1
        elseif not string.find(key, '}:key:', 1, true) then
            counted = counted + 1
            if string.find(key, '}:history', 1, true) then histories = histories + 1 end
            if redis.call('PTTL', key) == -1 then lasting = lasting + 1 end
        end
    end
until cursor == '0'
return {counted, histories, lasting, schedules}
"""

# What is logged as an error although nothing is wrong.
_EXPECTED = {"not_reloaded"}

_PUBLIC = r"(?<!port )listening on http://127\.0\.0\.1:(\d+)"
_CONTROL = r"control port listening on http://127\.0\.0\.1:(\d+)"


class Node:
    """A daemon, and its configuration file.

    :param settings: lines of its configuration file.
    :param limit: how many connections it allows; each reload allows one more.
    """

    def __init__(
        self, name: str, folder: Path, settings: Sequence[str], limit: int, args: Sequence[str]
    ) -> None:
        self.name = name
        self._file = folder / f"{name}.toml"
        self._settings = settings
        self._limit = limit
        self._write("info")
        self.daemon = DaemonProcess(
            ["--config", str(self._file), "--control", "tcp:0:interface=127.0.0.1", *args],
            directory=ROOT,
            # The pushd of this checkout, wherever another one is installed.
            environment={"PYTHONPATH": str(ROOT)},
        )

    @property
    def port(self) -> int:
        """The public port."""
        return int(self.daemon.wait_for(_PUBLIC)[1])

    @property
    def control_port(self) -> int:
        """The control port."""
        return int(self.daemon.wait_for(_CONTROL)[1])

    async def read_metrics(self) -> dict[str, float]:
        """Return the sum of each metric over all of its labels, and over those of a transport.

        Raises ``OSError``.
        """
        control = Control(self.control_port)
        try:
            _, body = await control.ask(get("/metrics"))
        finally:
            control.close()
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                for name in (sample.name, f"{sample.name} {sample.labels.get('transport')}"):
                    sums[name] = sums.get(name, 0) + sample.value
        return sums

    async def reload(self, patience: float) -> bool:
        """Change an option and reload; return whether it has come into force in time."""
        self._limit += 1
        self._write("warn")
        self._hang_up()
        deadline = asyncio.get_running_loop().time() + patience
        while asyncio.get_running_loop().time() < deadline:
            if (await self.read_metrics())["pushd_connections_limit"] == self._limit:
                return True
            await asyncio.sleep(0.1)
        return False

    async def reload_mistake(self, patience: float) -> bool:
        """Reload a file with a mistake; return whether it was refused in time."""
        before = len(self._events("not_reloaded"))
        self._file.write_text("max-connections = true\n")
        self._hang_up()
        deadline = asyncio.get_running_loop().time() + patience
        while len(self._events("not_reloaded")) == before:
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.1)
        return (await self.read_metrics())["pushd_connections_limit"] == self._limit

    def find_errors(self) -> Iterator[str]:
        """Yield the lines of the log that tell of something that must not happen."""
        for line in self.daemon.log:
            if not line.startswith("{"):
                yield line
                continue
            entry = json.loads(line)
            if entry["level"] in ("error", "critical") and entry["event"] not in _EXPECTED:
                yield f"{entry['message']} {entry.get('traceback', '')}"

    def _events(self, event: str) -> list[str]:
        return [line for line in self.daemon.log if f'"event": "{event}"' in line]

    def _hang_up(self) -> None:
        os.kill(self.daemon.pid, signal.SIGHUP)

    def _write(self, level: str) -> None:
        lines = [*self._settings, f"max-connections = {self._limit}", f'log-level = "{level}"']
        self._file.write_text("\n".join([*lines, ""]))


class Redis:
    """A Redis that writes an append-only file, and so forgets nothing when it is killed."""

    def __init__(self) -> None:
        self._server = RedisServer(["--appendonly", "yes", "--appendfsync", "everysec"])
        #: Whether it is down, or suspended.
        self.is_away = False

    @property
    def url(self) -> str:
        """The value for ``--broker``."""
        return self._server.url

    @contextmanager
    def running(self) -> Iterator[Redis]:
        """Run it."""
        with self._server:
            yield self

    async def fail(self, seconds: float) -> None:
        """Kill it, and start it again some seconds later."""
        self.is_away = True
        self._server.kill()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._server.start)
        self.is_away = False

    async def forget(self, seconds: float) -> None:
        """Do the same, and delete its data meanwhile."""
        self.is_away = True
        self._server.kill()
        shutil.rmtree(self._server.directory / "appendonlydir")
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._server.start)
        self.is_away = False

    async def hang(self, seconds: float) -> None:
        """Suspend it for some seconds."""
        self.is_away = True
        self._server.pause()
        await asyncio.sleep(seconds)
        self._server.resume()
        self.is_away = False

    def count_keys(self) -> Keys:
        """Count its keys, by what they are."""
        return Keys(*self._server.ask("EVAL", _COUNT_KEYS, 0))

    def memory(self) -> int:
        """Return the memory that it uses, in bytes."""
        info: bytes = self._server.ask("INFO", "memory")
        return int(info.partition(b"used_memory:")[2].split(b"\r\n")[0])


def report_errors(nodes: Sequence[Node], faults: Faults) -> None:
    """Add a fault for each line of the logs that tells of one."""
    for node in nodes:
        for line in node.find_errors():
            faults.add(f"{node.name} has logged: {line}")


def start_nodes(
    stack: ExitStack, redis: Redis, folder: Path, limit: int, args: Sequence[str]
) -> list[Node]:
    """Start two nodes for so many connections, which are stopped with the stack."""
    settings = [f'broker = "{redis.url}"', 'log-format = "json"']
    nodes = [Node(f"node {number}", folder, settings, limit, args) for number in (1, 2)]
    for node in nodes:
        stack.enter_context(node.daemon)
    return nodes
