"""Running a daemon that is attacked, and measuring what the attack costs it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic, sleep

from tests.live.latency_probe import Echo, LatencyProbe
from tests.live.process_status import ProcessStatus
from tests.live.raw_client import TIMEOUT, RawClient
from tests.support.daemon_process import DaemonProcess

HERE = Path(__file__).parent
VIEWS = ("--views", "attack_views:views")

# For attacks that --max-rate would otherwise end too early.
UNLIMITED = ("--max-rate", "10000000")

MIB = 1 << 20

# CPU seconds that the daemon may use for others while a message waits (see Echo): at the median,
# and at the most. The median of fewer echoes than ENOUGH_ECHOES says nothing.
TYPICAL_LIMIT = 0.05
WORST_LIMIT = 1.0
ENOUGH_ECHOES = 20

_log = logging.getLogger(__name__)


@dataclass
class AttackCost:
    """The cost of an attack."""

    #: Growth of the memory at its peak, in bytes.
    memory: int = 0
    #: CPU seconds.
    cpu: float = 0
    #: Growth of the number of open descriptors, after the attack.
    descriptors: int = 0
    #: Echoes to another client during the attack.
    echoes: list[Echo] = field(default_factory=list)

    @property
    def typical(self) -> float:
        """The median of what an echo took, in CPU seconds of the daemon."""
        return median(echo.took for echo in self.echoes)

    @property
    def worst(self) -> float:
        """The most that the daemon did for others while a message waited, in CPU seconds."""
        return max(echo.waited for echo in self.echoes)

    def __str__(self) -> str:
        return (
            f"{self.memory / MIB:+.1f} MiB, {self.cpu:.2f} s of CPU, "
            f"{self.descriptors:+d} descriptors, {len(self.echoes)} echoes: "
            f"typical {self.typical * 1e3:.1f} ms of CPU, worst {self.worst * 1e3:.1f} ms"
        )

    def assert_limited(self, *, memory: int = 8 * MIB, cpu: float = 3.0) -> None:
        """Check that the attack was cheap, and that other clients were served during it."""
        assert self.memory <= memory, str(self)
        assert self.cpu <= cpu, str(self)
        assert self.descriptors <= 0, str(self)
        assert len(self.echoes) < ENOUGH_ECHOES or self.typical <= TYPICAL_LIMIT, str(self)
        assert self.worst <= WORST_LIMIT, str(self)


@contextmanager
def measured(daemon: DaemonProcess) -> Iterator[AttackCost]:
    """Measure the cost of an attack on a daemon, which also serves another client meanwhile.

    After the attack the daemon gets time to close what it has opened.
    """
    status, cost = ProcessStatus(daemon.pid), AttackCost()
    descriptors = wait_until_idle(status)
    with LatencyProbe(url_of(daemon), daemon.pid) as probe:
        status.reset_peak()
        memory, cpu, start = status.memory, status.cpu, monotonic()
        yield cost
        seconds = monotonic() - start
        cost.cpu = status.cpu - cpu
        cost.memory = status.peak - memory
        cost.echoes = probe.finish()
    deadline = monotonic() + TIMEOUT
    while status.descriptors > descriptors and monotonic() < deadline:
        sleep(0.05)
    cost.descriptors = status.descriptors - descriptors
    name = os.environ.get("PYTEST_CURRENT_TEST", "?").rpartition("::")[2]
    _log.info("%s: %s, in %.1f s", name, cost, seconds)


def wait_until_idle(status: ProcessStatus) -> int:
    """Wait until the connections of earlier attacks are closed; return the open descriptors."""
    last = status.descriptors
    for _ in range(40):
        sleep(0.1)
        if (now := status.descriptors) == last:
            break
        last = now
    return last


def url_of(daemon: DaemonProcess) -> str:
    """Return the URL of a daemon's first public port."""
    return daemon.wait_for(r"listening on (https?://\S+)")[1]


def control_url_of(daemon: DaemonProcess) -> str:
    """Return the URL of a daemon's control port."""
    return daemon.wait_for(r"control port listening on (http://\S+)")[1]


def seconds_of(daemon: DaemonProcess, client: RawClient, path: str, code: int) -> float:
    """Return the duration of a WebSocket from the daemon's log; check its close code."""
    return float(daemon.wait_for(rf":{client.port} {path} closed {code} after (\S+) s")[1])


def assert_cut(daemon: DaemonProcess, client: RawClient, path: str, code: int) -> None:
    """Check that the daemon closed with this code, and dropped the connection 5 s later.

    If it had not, the ping that the client does not answer would end the connection after 35 s.
    """
    assert 4.9 < seconds_of(daemon, client, path, code) < 30


def assert_never_read(daemon: DaemonProcess, client: RawClient, path: str) -> None:
    """Check that a client that took nothing was dropped 5 s after our Close with 1013.

    The Close cannot have arrived, so the connection ended with 1006.
    """
    reason = r"by us: client reads too slowly \(1013\), \d+ bytes were not taken"
    line = daemon.wait_for(rf":{client.port} {path} closed 1006 after (\S+) s {reason}")
    assert 4.9 < float(line[1]) < 30


@contextmanager
def run_daemon(*args: str, directory: Path = HERE) -> Iterator[DaemonProcess]:
    """Run a daemon with the attacked views; check that it logs no error and stops in order."""
    with DaemonProcess([*VIEWS, *args], directory=directory) as daemon:
        yield daemon
    log = "\n".join(daemon.log)
    # After a clean stop, twistd ends itself by the signal it received.
    assert daemon.stop() == 0, log
    assert "Traceback" not in log, log
    assert "Unhandled" not in log, log
