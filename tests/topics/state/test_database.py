"""The database of ``--state``: what is checked when it is opened, and how it is written."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import StateDamaged, StateUnusable
from pushd.topics.state import database as module
from pushd.topics.state.database import FILE, VERSION, Database, Statement
from tests.support.folder import make_folder

INSERT = "INSERT INTO topic VALUES (?, 'e', 0, 0, 0)"


class DatabaseTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a folder."""
        self.folder = make_folder(self)
        self.path = self.folder / FILE

    def open(self, sync: str = "second") -> Database:
        """Open the database."""
        database = Database(self.folder, sync)
        self.addCleanup(database.close)
        database.open()
        return database

    def names(self, database: Database) -> list[str]:
        """Return the names of the topics in the database."""
        return [name for (name,) in database.read("SELECT name FROM topic ORDER BY name")]

    def files(self) -> list[str]:
        """Return the names of the files."""
        return sorted(one.name for one in self.folder.iterdir())


class OpenTests(DatabaseTestCase):
    def test_new(self) -> None:
        """A database is made in a directory that is new, and only its user can read it."""
        self.folder = self.folder / "new"
        database = self.open()
        self.assertEqual(stat.S_IMODE(self.folder.stat().st_mode), 0o700)
        for name in (FILE, f"{FILE}-wal"):
            self.assertEqual(stat.S_IMODE((self.folder / name).stat().st_mode), 0o600)
        self.assertEqual(self.names(database), [])
        self.assertGreater(database.size(), 4096)

    def test_again(self) -> None:
        """What was written is there when it is opened again; unknown tables are left alone."""
        database = self.open()
        database.write([Statement(INSERT, ("a",)), Statement("CREATE TABLE other (one)")], True)
        database.close()
        database = self.open()
        self.assertEqual(self.names(database), ["a"])
        self.assertEqual(list(database.read("SELECT * FROM other")), [])

    def test_in_use(self) -> None:
        """A second process cannot open it."""
        self.patch(module, "_PATIENCE", 0.0)
        self.open()
        with self.assertRaisesRegex(StateUnusable, f"^--state .*: another process uses {FILE}$"):
            self.open()
        self.assertEqual(self.files(), [FILE, f"{FILE}-wal"])

    def test_newer(self) -> None:
        """A newer version's file is refused in words, and left as it is."""
        database = self.open()
        database.write([Statement(f"PRAGMA user_version = {VERSION + 1}")], True)
        database.close()
        with self.assertRaisesRegex(StateUnusable, "was written by a newer pushd"):
            self.open()
        self.assertEqual(self.files(), [FILE])

    def test_foreign(self) -> None:
        """A file that is not pushd's is set aside, with a line that says why and where to."""
        other = sqlite3.connect(self.path)
        other.execute("CREATE TABLE other (one)")
        other.close()
        with capturedLogs() as events:
            database = self.open()
        [event] = events
        self.assertEqual(event["event"], "state_set_aside")
        self.assertEqual(event["reason"], f"{FILE} is not a database of pushd")
        self.assertEqual(event["kept"], f"{FILE}.damaged-1")
        database.write([Statement(INSERT, ("a",))], True)
        self.assertEqual(self.files(), [FILE, f"{FILE}-wal", f"{FILE}.damaged-1"])

    def test_text(self) -> None:
        """A file that is no database at all is set aside; each keeps a name of its own."""
        for number in (1, 2):
            self.path.write_text("something else\n" * 1000)
            with capturedLogs() as events:
                self.open().close()
            self.assertEqual(events[0]["kept"], f"{FILE}.damaged-{number}")
            self.assertIn("is damaged (file is not a database)", events[0]["reason"])
        self.assertEqual(self.files(), [FILE, f"{FILE}.damaged-1", f"{FILE}.damaged-2"])

    def test_torn(self) -> None:
        """A file that was torn is set aside, wherever it was, and the next one works."""
        database = self.open()
        database.write([Statement(INSERT, (f"{number:0100}",)) for number in range(2000)], True)
        database.close()
        whole = self.path.read_bytes()
        for start in (4096, len(whole) // 8192 * 4096, len(whole) - 8192):
            for torn in (whole[:start], whole[:start] + os.urandom(8192) + whole[start + 8192 :]):
                self.path.write_bytes(torn)
                with capturedLogs() as events:
                    database = self.open()
                self.assertEqual([one["event"] for one in events], ["state_set_aside"])
                self.assertEqual(self.names(database), [])
                database.close()

    def test_empty(self) -> None:
        """An empty file becomes a database."""
        self.path.touch()
        self.assertEqual(self.names(self.open()), [])

    def test_directory(self) -> None:
        """A directory that cannot be used is an error with its name and the system's reason."""
        for folder, reason in (
            (self.folder / "a" / "b", "No such file or directory"),
            (self.folder / "file", "File exists"),
        ):
            (self.folder / "file").touch()
            with self.assertRaises(StateUnusable) as raised:
                Database(folder, "second").open()
            self.assertEqual(str(raised.exception), f"--state {folder}: {reason}")

    def test_no_wal(self) -> None:
        """A file that cannot be opened as a database is an error with SQLite's reason."""
        Path(f"{self.path}-wal").mkdir()
        with self.assertRaisesRegex(StateUnusable, "disk I/O error"):
            self.open()


class WriteTests(DatabaseTestCase):
    def test_together(self) -> None:
        """Statements are executed together, or none of them; afterwards it can be written again."""
        database = self.open()
        with self.assertRaises(sqlite3.IntegrityError):
            database.write([Statement(INSERT, ("a",)), Statement(INSERT, ("a",))], True)
        database.write([Statement(INSERT, ("b",))], False)
        self.assertEqual(self.names(database), ["b"])

    def test_levels(self) -> None:
        """SQLite waits for the disk as often as it must."""
        for sync, levels in (("always", (2, 2)), ("second", (1, 2)), ("none", (0, 2))):
            database = Database(self.folder / sync, sync)
            database.open()
            found = []
            for durable in (False, True):
                database.write([], durable)
                found += list(database.read("PRAGMA synchronous"))
            self.assertEqual(tuple(found), tuple((level,) for level in levels))
            database.close()

    def test_full(self) -> None:
        """A full disk is an error of SQLite, and what was written before is there."""
        database = self.open()
        database.write([Statement(INSERT, ("a",))], True)
        list(database.read("PRAGMA max_page_count = 20"))
        with self.assertRaisesRegex(sqlite3.OperationalError, "database or disk is full"):
            database.write([Statement(INSERT, ("x" * 100_000,))], True)
        self.assertEqual(self.names(self.open()), ["a"])

    def test_shrinks(self) -> None:
        """Pages that are free are given back to the system, a part with each write to the disk."""
        self.patch(module, "_MAX_FREE", 10)
        database = self.open()
        database.write([Statement(INSERT, (f"{n:01000}",)) for n in range(2000)], True)
        database.write([Statement("DELETE FROM topic")], True)
        for _ in range(3):
            database.write([], True)
        [[pages]] = database.read("PRAGMA page_count")
        self.assertLess(pages, 50)
        database.close()
        self.assertLess(database.size(), 50 * 4096)

    def test_read_error(self) -> None:
        """A statement that cannot be read says that the file is damaged."""
        with self.assertRaisesRegex(StateDamaged, "no such table"):
            list(self.open().read("SELECT * FROM missing"))

    def test_size(self) -> None:
        """The size is that of all files; of a database that is gone, it is 0."""
        database = self.open()
        database.close()
        self.path.unlink()
        self.assertEqual(database.size(), 0)
        database.close()
