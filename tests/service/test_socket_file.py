"""The file of a Unix socket: when it is taken over, and when it is left alone."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import SocketInUse
from pushd.service import socket_file
from pushd.service.socket_file import SocketFile, unix_path


class SocketFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a folder, with a short path as those of sockets must be."""
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = self.folder / "web"
        self.lock = self.folder / "web.lock"
        self.file = SocketFile(str(self.path))
        self.addCleanup(self.file.release)

    def bind(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """Bind a socket to the path."""
        bound = socket.socket(socket.AF_UNIX, kind)
        self.addCleanup(bound.close)
        bound.bind(str(self.path))
        return bound

    def assert_refused(self, reason: str, file: SocketFile | None = None) -> None:
        """Assert that the path cannot be claimed, and that nothing was done to it."""
        before = set(os.listdir(self.folder))
        with self.assertRaisesRegex(SocketInUse, reason):
            (file or self.file).claim()
        self.assertEqual(set(os.listdir(self.folder)), before)

    def test_free(self) -> None:
        """A path without a file is free, and so it is after its release."""
        self.file.claim()
        self.assertEqual(os.listdir(self.folder), ["web.lock"])
        self.file.release()
        self.file.release()
        self.assertEqual(os.listdir(self.folder), [])

    def test_stale(self) -> None:
        """The socket of a process that is gone is removed."""
        self.bind().close()
        self.file.claim()
        self.assertFalse(self.path.exists())

    def test_lock_of_killed_process(self) -> None:
        """A lock file of a process that is gone holds nothing."""
        self.lock.touch()
        self.bind().close()
        self.file.claim()
        self.assertFalse(self.path.exists())

    def test_lock_of_twisted(self) -> None:
        """Neither does Twisted's lock, whose process id a new container has again."""
        for stale in (True, False):
            self.lock.symlink_to(str(os.getpid()))
            if stale:
                self.bind().close()
            self.file.claim()
            self.assertFalse(self.lock.is_symlink())
            self.assertFalse(self.path.exists())
            self.file.release()

    def test_listening(self) -> None:
        """A socket at which a process listens is left alone, with and without a lock."""
        listening = self.bind()
        listening.listen(0)
        self.assert_refused("another process listens there")
        self.lock.symlink_to("1")
        self.assert_refused("another process listens there")
        self.lock.unlink()
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            # The backlog is full.
            for client in (first, second):
                client.setblocking(False)
                client.connect_ex(str(self.path))
            self.assert_refused("another process listens there")

    def test_claimed(self) -> None:
        """A path that another daemon has claimed is left alone, also if it does not listen yet."""
        self.file.claim()
        self.bind()
        self.assert_refused("another process listens there", SocketFile(str(self.path)))
        self.file.release()

    def test_other_files(self) -> None:
        """Files that are not sockets, or sockets of another kind, are left alone."""
        self.bind(socket.SOCK_DGRAM)
        self.assert_refused("a socket of another program: Protocol wrong type")
        self.path.unlink()
        self.path.write_text("precious")
        self.assert_refused("a file that is not a socket")
        self.path.unlink()
        self.path.symlink_to("nowhere")
        self.assert_refused("a file that is not a socket")

    def test_no_folder(self) -> None:
        """If there can be no file, an OSError says why."""
        with self.assertRaises(FileNotFoundError):
            SocketFile(str(self.folder / "nowhere/web")).claim()

    def test_released_meanwhile(self) -> None:
        """A lock file that its owner removes while it is taken is not the lock any more."""
        # Whether another one has made a new file by then.
        changes = [False, True]
        lock = self.lock

        class Fcntl:
            """Takes the lock after the file has changed."""

            LOCK_EX, LOCK_NB = fcntl.LOCK_EX, fcntl.LOCK_NB

            @staticmethod
            def flock(descriptor: int, operation: int) -> None:
                """Lock a file, after a change."""
                if changes:
                    lock.unlink()
                    if changes.pop():
                        lock.touch()
                fcntl.flock(descriptor, operation)

        self.patch(socket_file, "fcntl", Fcntl)
        self.file.claim()
        self.assertEqual(changes, [])
        self.assert_refused("another process", SocketFile(str(self.path)))

    def test_no_rights_any_more(self) -> None:
        """A lock file that cannot be removed stays, and holds nothing."""
        self.file.claim()
        self.lock.unlink()
        self.lock.mkdir()
        self.file.release()
        self.lock.rmdir()
        self.file.claim()


class PathTests(SynchronousTestCase):
    def test_unix(self) -> None:
        """The path of a Unix endpoint may be named, be behind other arguments, and have colons."""
        for endpoint, path in (
            ("unix:/run/a", "/run/a"),
            ("unix:/run/a:mode=660", "/run/a"),
            ("unix:address=/run/a:mode=660", "/run/a"),
            ("unix:mode=660:address=/run/a", "/run/a"),
            ("unix:/run/a\\:b\\\\c", "/run/a:b\\c"),
        ):
            self.assertEqual(unix_path(endpoint), path)

    def test_others(self) -> None:
        """Other endpoints have no path."""
        for endpoint in ("tcp:80", "unix", "systemd:domain=UNIX:index=0", "unixes:/run/a"):
            self.assertIsNone(unix_path(endpoint))
