"""Options read again: what is told, what waits for a restart, and what changes nothing."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from pathlib import Path

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.options.command_line import Options
from pushd.options.settings import Settings
from pushd.service.live import Reloader
from tests.peer import said


class ReloadTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Have a file of options."""
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.file = self.folder / "pushd.toml"
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)

    def write(self, *lines: str) -> None:
        """Write the file anew."""
        self.file.write_text("".join(f"{line}\n" for line in lines))

    def options(self, *args: str) -> Options:
        """Read the options."""
        options = Options({})
        options.parseOptions(["--config", str(self.file), *args])
        return options


class ReloaderTests(ReloadTestCase):
    def start(self, *args: str) -> None:
        """Have options in force, and note the settings that are to come."""
        self.applied: list[Settings] = []
        self.reloader = Reloader(self.options(*args), [self.applied.append])

    def reload(self) -> list[str]:
        """Read again; give what is logged of it."""
        with capturedLogs() as events:
            self.reloader.reload()
        return [line.replace(f"{self.folder}{os.sep}", "") for line in said(events)]

    def test_nothing(self) -> None:
        """What is the same is told all the same: a file that it names may be another."""
        self.write("max-rate = 1")
        self.start()
        self.assertEqual(self.reload(), ["reloaded"])
        self.assertEqual([one.limits.max_rate for one in self.applied], [1])

    def test_changed(self) -> None:
        """What is new is told once."""
        self.write("max-rate = 1")
        self.start()
        self.write("max-rate = 2", 'origin = ["https://a.example", "https://b.example"]')
        self.assertEqual(
            self.reload(),
            [
                "reloaded: origin is https://a.example https://b.example now, not unset",
                "reloaded: max-rate is 2 now, not 1",
                "reloaded",
            ],
        )
        self.assertEqual(self.reload(), ["reloaded"])
        self.assertEqual([one.limits.max_rate for one in self.applied], [2, 2])
        self.write()
        self.assertIn("reloaded: max-rate is 1000 now, not 2", self.reload())

    def test_restart(self) -> None:
        """What needs a restart is said, each time until there was one."""
        self.write("threads = 1")
        self.start()
        self.write("threads = 2", "max-rate = 2")
        line = "reloaded, but threads needs a restart: it stays 1, not 2"
        for _ in range(2):
            self.assertIn(line, self.reload())
        self.write("threads = 1", "max-rate = 2")
        self.assertEqual(self.reload(), ["reloaded"])

    def test_same_size(self) -> None:
        """A size that is only written in another unit has not changed."""
        self.write("max-message = 1048576")
        self.start()
        self.write('max-message = "1MiB"')
        self.assertEqual(self.reload(), ["reloaded"])
        self.write('max-message = "10MB"')
        self.assertIn("reloaded: max-message is 10MB now, not 1048576", self.reload())

    def test_command_line(self) -> None:
        """The command line wins still."""
        self.write("max-rate = 1")
        self.start("--max-rate", "5")
        self.write("max-rate = 2")
        self.assertEqual(self.reload(), ["reloaded"])
        self.assertEqual(self.applied[0].limits.max_rate, 5)

    def test_broken(self) -> None:
        """A file with mistakes changes nothing; each is a line."""
        self.write("max-rate = 1")
        self.start()
        self.write("max-rate = 2", "thread = 1", 'drain = "no"')
        self.assertEqual(
            self.reload(),
            [
                "not reloaded: pushd.toml: unknown option thread: did you mean threads?",
                'not reloaded: pushd.toml: drain "no": must be a number, without quotes',
            ],
        )
        self.write("max-rate = ")
        self.assertEqual(len(self.reload()), 1)
        self.file.unlink()
        self.assertIn("No such file", self.reload()[0])
        self.assertEqual(self.applied, [])

    def test_trouble(self) -> None:
        """Who can't put a setting in force keeps nobody else from it."""
        self.write()
        self.start()
        self.reloader = Reloader(self.options(), [_fail, self.applied.append])
        self.assertEqual(self.reload()[-1], "reloaded")
        self.assertEqual(len(self.applied), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


def _fail(settings: Settings) -> None:
    raise ZeroDivisionError
