"""A client that measures how long a daemon makes others wait, in a process of its own.

In a thread of the test, or by the wall clock, it would measure how busy the machine is. Therefore
the latency of an echo is the CPU time that the daemon uses between the message and its echo.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from select import select
from types import TracebackType
from typing import NamedTuple

from tests.live.process_status import ProcessStatus
from tests.live.raw_client import TIMEOUT, RawClient, frame
from tests.support.frame_heads import PING, PONG, TEXT

_ROOT = Path(__file__).parents[2]

# Seconds between an echo and the next message.
_PAUSE = 0.02


class Echo(NamedTuple):
    """CPU seconds that the daemon used while one message waited for its echo."""

    #: From the arrival of the message until the view received it. Never too high: if the probe
    #: itself is slow, the value is lower.
    waited: float
    #: From before the message was sent until its echo was read. This includes everything, and
    #: is too high if the probe did not get to run in between.
    took: float


class LatencyProbe:
    """Sends messages to a daemon, about 50 a second, until ``finish``.

    :param timeout: seconds after which an echo, except the first, counts as missing.
    """

    def __init__(self, url: str, pid: int, *, timeout: float = TIMEOUT) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, url, str(pid), str(timeout)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> LatencyProbe:
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            self._kill()
            raise AssertionError("the probe was not served even before the attack")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kill()

    def finish(self) -> list[Echo]:
        """Wait for the last echo, end the process, and return all echoes."""
        output, _ = self.process.communicate(timeout=2 * TIMEOUT)
        assert self.process.returncode == 0, "the probe was not served"
        return [Echo(*echo) for echo in json.loads(output)]

    def _kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def _measure(url: str, pid: int, timeout: float) -> None:
    """Print a line after the first echo; at the end of standard input, print all echoes as JSON."""
    status, echoes = ProcessStatus(pid), list[Echo]()
    with RawClient(url).upgrade("/clock/") as connection:
        while not select([sys.stdin], [], [], _PAUSE if echoes else 0)[0]:
            before = status.cpu
            connection.send(frame(TEXT, b"?"))
            sent = status.cpu
            served = _read_time(connection)
            echoes.append(Echo(max(0.0, served - sent), status.cpu - before))
            if len(echoes) == 1:
                sys.stdout.write("started\n")
                sys.stdout.flush()
                connection.socket.settimeout(timeout)
    json.dump(echoes, sys.stdout)


def _read_time(connection: RawClient) -> float:
    """Read the CPU time of the daemon from an echo."""
    while (answer := connection.read_frame()) is not None and answer.opcode == PING:
        connection.send(frame(PONG, answer.payload))
    assert answer is not None, "the connection broke off"
    assert answer.opcode == TEXT, answer
    return float(answer.payload)


if __name__ == "__main__":
    _measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
