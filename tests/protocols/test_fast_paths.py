"""The switch for fast paths."""

from __future__ import annotations

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.fast_paths import FastPaths, missing


class FastPathsTests(SynchronousTestCase):
    """A fast path is taken unless it is switched off or cannot work."""

    def test_allowed(self) -> None:
        """A path that lacks nothing may be taken."""
        self.assertTrue(FastPaths().allow("direct writes"))

    def test_off(self) -> None:
        """``--fast-paths off`` switches every path off, and the log says nothing of them."""
        with capturedLogs() as logs:
            self.assertFalse(FastPaths(enabled=False).allow("direct writes", ["Server.socket"]))
        self.assertEqual(logs, [])

    def test_lacking(self) -> None:
        """A path that lacks something is off, and the log names what is missing, once."""
        paths = FastPaths()
        with capturedLogs() as logs:
            self.assertFalse(paths.allow("direct writes", ["Server.socket", "Server.offset"]))
            self.assertFalse(paths.allow("direct writes", ["Server.socket"]))
            self.assertFalse(paths.allow("polling", ["reactor._poller"]))
        self.assertEqual([event["event"] for event in logs], ["fast_path_off"] * 2)
        self.assertEqual(logs[0]["lacking"], "Server.offset, Server.socket")

    def test_required(self) -> None:
        """A requirement that is missing is logged once, whether fast paths are on or off."""
        for paths in (FastPaths(), FastPaths(enabled=False)):
            with capturedLogs() as logs:
                paths.require("limits", [])
                paths.require("limits", ["Server.socket"])
                paths.require("limits", ["Server.socket"])
            self.assertEqual([event["event"] for event in logs], ["requirement_missing"])

    def test_missing(self) -> None:
        """What an object or a class does not have is named with its place."""
        self.assertEqual(missing("", ["upper", "_poller"]), ["str._poller"])
        self.assertEqual(missing(str, ["upper", "_poller"]), ["str._poller"])
