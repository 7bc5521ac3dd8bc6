"""How many connections the limit of open files allows."""

from __future__ import annotations

import resource
import subprocess
import sys

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.service.process import allow_connections
from tests.peer import said

INFINITY = resource.RLIM_INFINITY


class AllowConnectionsTests(SynchronousTestCase):
    """Limits of a made-up kernel."""

    def limit(self, soft: int, hard: int) -> None:
        """Set the limits, and note what they are changed to."""
        self.limits = (soft, hard)
        self.patch(resource, "getrlimit", lambda kind: self.limits)
        self.patch(resource, "setrlimit", self.set_limits)

    def set_limits(self, kind: int, limits: tuple[int, int]) -> None:
        """Do as the kernel does."""
        self.assertEqual(kind, resource.RLIMIT_NOFILE)
        self.assertEqual(limits[1], self.limits[1], "the hard limit must not be changed")
        self.limits = limits

    def test_enough(self) -> None:
        """Where there is room enough all are allowed, and nothing is changed."""
        self.limit(20_000, 50_000)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (20_000, 50_000))

    def test_raised(self) -> None:
        """The soft limit is raised as far as needed, with some for other than connections."""
        self.limit(1024, 1 << 20)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (10_192, 1 << 20))
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (10_192, 1 << 20))

    def test_hard_limit(self) -> None:
        """It is raised to the hard limit at most, and what that leaves is allowed."""
        self.limit(1024, 4096)
        self.assertEqual(allow_connections(10_000), 4096 - 192)
        self.assertEqual(self.limits, (4096, 4096))

    def test_hard_limit_infinite(self) -> None:
        """A hard limit that is none does not bound it."""
        self.limit(1024, INFINITY)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (10_192, INFINITY))

    def test_infinite(self) -> None:
        """Where there is no limit at all there is nothing to do."""
        self.limit(INFINITY, INFINITY)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (INFINITY, INFINITY))

    def test_tiny(self) -> None:
        """However little there is, one connection is allowed."""
        self.limit(64, 64)
        self.assertEqual(allow_connections(10_000), 1)

    def test_logged(self) -> None:
        """It is logged how many, and why where they are fewer than asked for."""
        self.limit(1000, 1000)
        with capturedLogs() as events:
            allow_connections(10)
            allow_connections(10_000)
        self.assertEqual(
            said(events),
            [
                "10 connections at most",
                "808 connections at most, not 10000: the limit of open files allows no more",
            ],
        )
        self.assertEqual([event["log_level"].name for event in events], ["info", "warn"])


class RealLimitTests(SynchronousTestCase):
    def test_real(self) -> None:
        """The kernel takes what is asked of it; in another process, as there is no way back."""
        script = (
            "import resource\n"
            "from pushd.service.process import allow_connections\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))\n"
            "for wanted in (10, 100, 300, 10000):\n"
            "    print(allow_connections(wanted), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
        )
        self.assertEqual(
            done.stdout.splitlines(),
            ["10 256 512", "100 292 512", "300 492 512", "320 512 512"],
        )
