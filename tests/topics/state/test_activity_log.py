"""The activity log: what it knows after the process was killed, and when it is not trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.state.activity_log import (
    SIZE,
    ActivityLog,
    find_memory,
    read_activity,
    remove_activity,
)
from tests.support.folder import make_folder


class ActivityLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a log."""
        self.folder = make_folder(self)
        self.log = ActivityLog("run", [self.folder])

    def test_missing(self) -> None:
        """The topics of publications that were noted, and not written, may have lost something."""
        for sequence, topic in enumerate("abcab", 1):
            self.log.note(sequence, topic)
        activity = read_activity("run", [self.folder], 3)
        assert activity is not None
        self.assertEqual((activity.sequence, activity.missing), (5, 2))
        self.assertEqual([activity.may_have_lost(topic) for topic in "abc"], [True, True, False])

    def test_nothing_missing(self) -> None:
        """If all was written, no topic has lost anything; nor if more was written."""
        self.log.begin_at(7)
        self.log.note(8, "a")
        for written in (8, 9):
            activity = read_activity("run", [self.folder], written)
            assert activity is not None
            self.assertEqual((activity.sequence, activity.missing), (written, 0))
            self.assertFalse(activity.may_have_lost("a"))

    def test_too_many(self) -> None:
        """If more is missing than the log knows, each topic may have lost something."""
        for sequence in range(1, SIZE + 3):
            self.log.note(sequence, "a")
        known = read_activity("run", [self.folder], 2)
        unknown = read_activity("run", [self.folder], 1)
        assert known is not None
        assert unknown is not None
        self.assertEqual([one.may_have_lost("b") for one in (known, unknown)], [False, True])

    def test_not_trusted(self) -> None:
        """The log of another run is not used; that of this one is found in any of the folders."""
        self.log.note(1, "a")
        self.assertIsNone(read_activity("other", [self.folder], 0))
        self.assertIsNone(read_activity("run", [self.folder / "missing"], 0))
        self.assertIsNotNone(read_activity("run", [Path("/missing"), self.folder], 0))

    def test_strange_files(self) -> None:
        """A file that is cut, too long, a link or a folder is not used."""
        [path] = self.folder.iterdir()
        content = path.read_bytes()
        for strange in (content[:-1], content + b"\0", b""):
            path.write_bytes(strange)
            self.assertIsNone(read_activity("run", [self.folder], 0))
        path.unlink()
        other = self.folder / "other"
        other.write_bytes(content)
        path.symlink_to(other)
        self.assertIsNone(read_activity("run", [self.folder], 0))
        path.unlink()
        path.mkdir()
        self.assertIsNone(read_activity("run", [self.folder], 0))

    def test_rights(self) -> None:
        """Only its user can read it; one of another user is not used."""
        [path] = self.folder.iterdir()
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.patch(os, "geteuid", lambda: path.stat().st_uid + 1)
        self.assertIsNone(read_activity("run", [self.folder], 0))

    def test_remove(self) -> None:
        """It is removed with its run, or by the next one; more than once does no harm."""
        self.log.remove()
        self.log.remove()
        self.assertEqual(list(self.folder.iterdir()), [])
        ActivityLog("run", [self.folder])
        remove_activity("run", [self.folder / "missing", self.folder])
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_no_folder(self) -> None:
        """Without a folder, or if its name is taken, it does not outlive the process."""
        self.assertTrue(self.log.outlives_process)
        for folders in ([], [self.folder / "missing"], [self.folder]):
            log = ActivityLog("run", folders)
            self.assertFalse(log.outlives_process)
            log.note(1, "a")
            log.remove()
        self.assertEqual(len(list(self.folder.iterdir())), 1)

    def test_full(self) -> None:
        """If the memory is full, nothing is left of the file, and the next folder is used."""
        more = make_folder(self)

        def allocate(descriptor: int, offset: int, length: int) -> None:
            if os.path.realpath(f"/proc/self/fd/{descriptor}").startswith(str(self.folder)):
                raise OSError(28, "No space left on device")
            os.ftruncate(descriptor, length)

        self.patch(os, "posix_fallocate", allocate)
        self.assertTrue(ActivityLog("next", [self.folder, more]).outlives_process)
        self.assertEqual(len(list(self.folder.iterdir())), 1)
        self.assertEqual(len(list(more.iterdir())), 1)

    def test_places(self) -> None:
        """Systemd's folder is better than the memory that all share, if both are in memory."""
        mounts, other = self.folder / "mounts", Path("/dev/shm")

        def line(folder: Path, kind: str) -> str:
            device = folder.stat().st_dev
            number = f"{os.major(device)}:{os.minor(device)}"
            return f"36 35 {number} / {folder} rw,noatime master:1 - {kind} none rw\n"

        given = {"RUNTIME_DIRECTORY": f"{self.folder}:/run/other"}
        mounts.write_text(line(self.folder, "tmpfs") + line(other, "tmpfs"))
        self.assertEqual(find_memory(given, mounts), [self.folder, other])
        self.assertEqual(find_memory({}, mounts), [other])
        mounts.write_text(line(self.folder, "ext4") + line(other, "tmpfs"))
        self.assertEqual(find_memory(given, mounts), [other])
        self.assertEqual(find_memory({"RUNTIME_DIRECTORY": "/missing"}, mounts), [other])
        self.assertEqual(find_memory(given, self.folder / "missing"), [])
