"""The limit of open files, and the memory of the process."""

from __future__ import annotations

import resource
import subprocess
import sys

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.service.process.resources import allow_connections, resident_bytes
from tests.support.folder import make_folder
from tests.support.peer import said

INFINITY = resource.RLIM_INFINITY


class AllowConnectionsTests(SynchronousTestCase):
    """With a fake of the kernel's limits."""

    def limit(self, soft: int, hard: int) -> None:
        """Set the limits that the fake has."""
        self.limits = (soft, hard)
        self.patch(resource, "getrlimit", lambda kind: self.limits)
        self.patch(resource, "setrlimit", self.set_limits)

    def set_limits(self, kind: int, limits: tuple[int, int]) -> None:
        """Set the limits, as the kernel does."""
        self.assertEqual(kind, resource.RLIMIT_NOFILE)
        self.assertEqual(limits[1], self.limits[1], "the hard limit must not be changed")
        self.limits = limits

    def test_enough(self) -> None:
        """If the limit is high enough, it is not changed."""
        self.limit(20_000, 50_000)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (20_000, 50_000))

    def test_raised(self) -> None:
        """The soft limit is raised as far as needed, with a reserve for other descriptors."""
        self.limit(1024, 1 << 20)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (10_192, 1 << 20))
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (10_192, 1 << 20))

    def test_hard_limit(self) -> None:
        """The soft limit is raised to the hard limit at most, which then limits the connections."""
        self.limit(1024, 4096)
        self.assertEqual(allow_connections(10_000), 4096 - 192)
        self.assertEqual(self.limits, (4096, 4096))

    def test_hard_limit_infinite(self) -> None:
        """An infinite hard limit does not limit the connections."""
        self.limit(1024, INFINITY)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (10_192, INFINITY))

    def test_infinite(self) -> None:
        """An infinite soft limit is not changed."""
        self.limit(INFINITY, INFINITY)
        self.assertEqual(allow_connections(10_000), 10_000)
        self.assertEqual(self.limits, (INFINITY, INFINITY))

    def test_tiny(self) -> None:
        """At least one connection is allowed, however low the limit."""
        self.limit(64, 64)
        self.assertEqual(allow_connections(10_000), 1)

    def test_logged(self) -> None:
        """The limit is logged; if it is lower than wanted, a warning names the remedy."""
        self.limit(1000, 1000)
        with capturedLogs() as events:
            allow_connections(10)
            allow_connections(10_000)
        self.assertEqual(
            said(events),
            [
                "connection limit is 10",
                "connection limit is 808, not 10000: raise the limit of open files "
                "(LimitNOFILE=, ulimit -n)",
            ],
        )
        self.assertEqual([event["log_level"].name for event in events], ["info", "warn"])


class ResidentTests(SynchronousTestCase):
    """The memory of the process."""

    def test_linux(self) -> None:
        """The kernel's number of pages, in bytes."""
        file = make_folder(self) / "statm"
        file.write_text("91234 5120 2048 1 0 9000 0\n")
        self.assertEqual(resident_bytes(file), 5120 * resource.getpagesize())
        self.assertGreater(resident_bytes(), 1 << 20)

    def test_elsewhere(self) -> None:
        """It is not known on other systems."""
        self.assertEqual(resident_bytes(make_folder(self) / "statm"), 0)


class RealLimitTests(SynchronousTestCase):
    def test_real(self) -> None:
        """The limits are those of a real process, one of its own because it cannot undo them."""
        script = (
            "import resource\n"
            "from pushd.service.process.resources import allow_connections\n"
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
