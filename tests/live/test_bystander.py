"""What a bystander tells of a daemon: what others cost it, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from signal import SIGCONT, SIGSTOP

import pytest

from tests.daemon_process import DaemonProcess
from tests.live.attacker import PATIENCE, Attacker, request
from tests.live.bystander import Bystander
from tests.live.victim import AT_WORST, ENOUGH, USUALLY, Damage, running, url_of, watched


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """Run a daemon."""
    with running() as daemon:
        yield daemon


def test_blocked(daemon: DaemonProcess) -> None:
    """A daemon that works for one while another waits is found out."""
    with watched(daemon) as damage, Attacker(url_of(daemon)) as attacker:
        for _ in range(3):
            assert attacker.request("/busy/").body == b"done"
    assert damage.at_worst > AT_WORST
    with pytest.raises(AssertionError, match="at worst"):
        damage.assert_bounded(cpu=9)


def test_slow(daemon: DaemonProcess) -> None:
    """So is one for which each echo is a lot of work."""
    with Bystander(url_of(daemon), daemon.pid) as bystander:
        echoes = bystander.leave() * ENOUGH
    damage = Damage(echoes=[echo._replace(took=2 * USUALLY) for echo in echoes])
    with pytest.raises(AssertionError, match="usually"):
        damage.assert_bounded()


def test_hanging(daemon: DaemonProcess) -> None:
    """So is one that does nothing at all."""
    with Bystander(url_of(daemon), daemon.pid, patience=1) as bystander:
        os.kill(daemon.pid, SIGSTOP)
        try:
            assert bystander.process.wait(PATIENCE) != 0
        finally:
            os.kill(daemon.pid, SIGCONT)
        with pytest.raises(AssertionError, match="was not served"):
            bystander.leave()


def test_paused(daemon: DaemonProcess) -> None:
    """What the daemon does for others while the bystander itself sleeps is held against nobody."""
    with (
        Bystander(url_of(daemon), daemon.pid) as bystander,
        Attacker(url_of(daemon)) as attacker,
    ):
        for _ in range(3):
            os.kill(bystander.process.pid, SIGSTOP)
            attacker.send(request("x", "/hits/") * 4000)
            for _ in range(4000):
                assert attacker.read_answer().status == 200
            os.kill(bystander.process.pid, SIGCONT)
        echoes = bystander.leave()
    assert Damage(echoes=echoes).at_worst <= AT_WORST
