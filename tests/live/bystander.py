"""A client that minds its own business while others attack, in a process of its own.

In a thread beside an attack it would tell how busy the attacker is. So it does if it looks at the
clock on the wall: the machine may have a lot else to do. What the others' work costs it is what
the daemon has computed between its word and the answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from select import select
from types import TracebackType
from typing import NamedTuple

from tests.frame_heads import PING, PONG, TEXT
from tests.live.attacker import PATIENCE, Attacker, frame
from tests.live.vitals import Vitals

_ROOT = Path(__file__).parents[2]

# How long it thinks about its next word, in seconds.
_PAUSE = 0.02


class Echo(NamedTuple):
    """What the daemon computed, in seconds, while one word waited for its answer."""

    #: From when the word was there to when it was served. This is never too much: what the
    #: bystander does slowly itself makes it less.
    waited: float
    #: From before the word was sent to when its answer was read: this has everything in it,
    #: and more where the bystander was kept from running meanwhile.
    took: float


class Bystander:
    """Talks with a daemon, about every fiftieth of a second, until it is told to leave.

    :param patience: seconds on the clock after which no answer comes any more, but the first.
    """

    def __init__(self, url: str, pid: int, *, patience: float = PATIENCE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, url, str(pid), str(patience)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Bystander:
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            self._kill()
            raise AssertionError("the bystander was not served even before")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kill()

    def leave(self) -> list[Echo]:
        """Let it go in peace, once it has the answer to its last word; tell how it was served."""
        told, _ = self.process.communicate(timeout=2 * PATIENCE)
        assert self.process.returncode == 0, "the bystander was not served"
        return [Echo(*echo) for echo in json.loads(told)]

    def _kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def _talk(url: str, pid: int, patience: float) -> None:
    """Say when it has begun, and in the end, which is that of standard input, all echoes."""
    vitals, echoes = Vitals(pid), list[Echo]()
    with Attacker(url).upgrade("/clock/") as connection:
        while not select([sys.stdin], [], [], _PAUSE if echoes else 0)[0]:
            before = vitals.cpu
            connection.send(frame(TEXT, b"what is the time?"))
            sent = vitals.cpu
            served = _read_time(connection)
            echoes.append(Echo(max(0.0, served - sent), vitals.cpu - before))
            if len(echoes) == 1:
                sys.stdout.write("here\n")
                sys.stdout.flush()
                connection.socket.settimeout(patience)
    json.dump(echoes, sys.stdout)


def _read_time(connection: Attacker) -> float:
    """Read what the daemon has computed by its own clock."""
    while (answer := connection.read_frame()) is not None and answer.opcode == PING:
        connection.send(frame(PONG, answer.payload))
    assert answer is not None, "the connection broke off"
    assert answer.opcode == TEXT, answer
    return float(answer.payload)


if __name__ == "__main__":
    _talk(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
