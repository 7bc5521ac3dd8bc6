"""The latency probe: it measures what the daemon does for others, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from signal import SIGCONT, SIGSTOP

import pytest

from tests.live.attacked_daemon import (
    ENOUGH_ECHOES,
    TYPICAL_LIMIT,
    WORST_LIMIT,
    AttackCost,
    measured,
    run_daemon,
    url_of,
)
from tests.live.latency_probe import LatencyProbe
from tests.live.raw_client import TIMEOUT, RawClient, request
from tests.support.daemon_process import DaemonProcess


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """Run a daemon."""
    with run_daemon() as daemon:
        yield daemon


def test_blocked(daemon: DaemonProcess) -> None:
    """A daemon that blocks on one request exceeds the worst limit."""
    with measured(daemon) as cost, RawClient(url_of(daemon)) as client:
        for _ in range(3):
            assert client.request("/busy/").body == b"done"
    assert cost.worst > WORST_LIMIT
    with pytest.raises(AssertionError, match="worst"):
        cost.assert_limited(cpu=9)


def test_slow(daemon: DaemonProcess) -> None:
    """A daemon for which each echo is expensive exceeds the typical limit."""
    with LatencyProbe(url_of(daemon), daemon.pid) as probe:
        echoes = probe.finish() * ENOUGH_ECHOES
    cost = AttackCost(echoes=[echo._replace(took=2 * TYPICAL_LIMIT) for echo in echoes])
    with pytest.raises(AssertionError, match="typical"):
        cost.assert_limited()


def test_hanging(daemon: DaemonProcess) -> None:
    """A daemon that does nothing at all is noticed."""
    with LatencyProbe(url_of(daemon), daemon.pid, timeout=1) as probe:
        os.kill(daemon.pid, SIGSTOP)
        try:
            assert probe.process.wait(TIMEOUT) != 0
        finally:
            os.kill(daemon.pid, SIGCONT)
        with pytest.raises(AssertionError, match="was not served"):
            probe.finish()


def test_paused(daemon: DaemonProcess) -> None:
    """What the daemon does while the probe itself is stopped does not count."""
    with (
        LatencyProbe(url_of(daemon), daemon.pid) as probe,
        RawClient(url_of(daemon)) as client,
    ):
        for _ in range(3):
            os.kill(probe.process.pid, SIGSTOP)
            client.send(request("x", "/hits/") * 4000)
            for _ in range(4000):
                assert client.read_answer().status == 200
            os.kill(probe.process.pid, SIGCONT)
        echoes = probe.finish()
    assert AttackCost(echoes=echoes).worst <= WORST_LIMIT
