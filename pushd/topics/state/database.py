"""The database of ``--state``: its tables, the checks at the start, and one transaction a group.

To keep something else in it, add a table to ``TABLES``, and submit statements to the ``Writer``. A
table that is new needs no new version: the tables that are missing are made at each start, and an
older daemon leaves alone what it does not know.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from pushd.errors import StateDamaged, StateUnusable

_log = Logger(namespace="pushd.topics")

#: When what is written is also safe from a loss of power; see ``--state-sync``.
SYNCS = ("always", "second", "none")

#: A value of a row.
Value = str | bytes | int | float | None

#: The name of the database in the directory of ``--state``.
FILE = "pushd.sqlite"

# What SQLite adds to the name of a database for the files beside it.
_BESIDE = ("", "-wal", "-shm", "-journal")

#: The tables, with their columns.
TABLES = (
    # The one row of the run: how publications are numbered, and how the run ended.
    "daemon (one INTEGER PRIMARY KEY CHECK (one = 1), generation TEXT NOT NULL,"
    " sequence INTEGER NOT NULL, floor INTEGER NOT NULL, run TEXT NOT NULL,"
    " sync TEXT NOT NULL, clean INTEGER NOT NULL)",
    "topic (name TEXT PRIMARY KEY, epoch TEXT NOT NULL, offset INTEGER NOT NULL,"
    " sequence INTEGER NOT NULL, floor INTEGER NOT NULL) WITHOUT ROWID",
    "publication (sequence INTEGER PRIMARY KEY, topic TEXT NOT NULL, offset INTEGER NOT NULL,"
    " at REAL NOT NULL, data NOT NULL, event TEXT, is_json INTEGER NOT NULL)",
    # Of the publications that have any.
    "metadata (sequence INTEGER PRIMARY KEY, text TEXT NOT NULL)",
    "idempotency (number INTEGER PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL,"
    " epoch TEXT NOT NULL, offset INTEGER NOT NULL, at REAL NOT NULL)",
    "schedule (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, topic TEXT NOT NULL,"
    " data NOT NULL, event TEXT, is_json INTEGER NOT NULL, first REAL NOT NULL,"
    " every REAL NOT NULL, count INTEGER NOT NULL, done INTEGER NOT NULL)",
    # The number of writes that had to reach the disk: one that changes nothing would not.
    "written (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL)",
)

#: The triggers.
TRIGGERS = (
    "publication_deleted AFTER DELETE ON publication"
    " BEGIN DELETE FROM metadata WHERE sequence = OLD.sequence; END",
)

#: The version of the tables. One that older daemons would misread has the next number.
VERSION = 1

# Marks a database as pushd's: "push" in ASCII.
_APPLICATION_ID = 0x70757368

# Seconds to wait for a daemon that is about to end, and still has the database.
_PATIENCE = 5.0

# The size to which SQLite cuts the log that it writes ahead, in bytes.
_MAX_LOG = 16 << 20

# How many pages may be free, and how many of those a write gives back to the system.
_MAX_FREE = 1024
_GIVEN_BACK = 1024

# SQLite's levels of care: FULL waits for the disk at each commit, NORMAL when it moves the log into
# the database, and OFF never.
_LEVELS = {"always": "FULL", "second": "NORMAL", "none": "OFF"}

# Results of SQLite that say that a file is torn, or none of ours.
_DAMAGED = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}
)
_IN_USE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of SQL, and its values."""

    sql: str
    values: Sequence[Value] = ()


class Database:
    """The database in a directory, which no other process can open meanwhile.

    It is opened and read at the start, before the reactor runs; from then on it is used by one
    thread at a time.

    :param sync: how much a write waits for the disk.
    """

    def __init__(self, directory: Path, sync: str) -> None:
        self.directory = directory
        self.sync = sync
        self._path = directory / FILE
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open and check the database, and make one if there is none.

        A file that is torn or not pushd's is set aside. Raises StateUnusable if a newer pushd has
        written it, if another process uses it, or if the directory cannot be used.
        """
        try:
            with self._explained():
                self.directory.mkdir(mode=0o700, exist_ok=True)
                self._connection = self._connect()
                self._check()
        except StateDamaged as damage:
            self.set_aside(str(damage))

    def set_aside(self, reason: str) -> None:
        """Rename a file that cannot be used, and begin with an empty one.

        Raises StateUnusable if that fails.
        """
        self.close()
        with self._explained():
            self._rename(reason)
            self._connection = self._connect()

    def read(self, sql: str) -> Iterator[Any]:
        """Yield rows. Raises StateDamaged if they cannot be read."""
        assert self._connection is not None
        try:
            yield from self._connection.execute(sql)
        except sqlite3.Error as error:
            raise _explain_damage(error) from None

    def write(self, statements: Sequence[Statement], durable: bool) -> None:
        """Execute statements in one transaction: all of them, or none. Raises sqlite3.Error.

        :param durable: whether it must be on the disk at the end, or just in the hands of the
            system, which outlives the process, but no loss of power.
        """
        if self._connection is None:
            self._connection = self._connect()
        execute = self._connection.execute
        try:
            execute(f"PRAGMA synchronous={'FULL' if durable else _LEVELS[self.sync]}")
            execute("BEGIN IMMEDIATE")
            for statement in statements:
                execute(statement.sql, statement.values)
            if durable:
                execute("UPDATE written SET number = number + 1")
            execute("COMMIT")
            if durable and execute("PRAGMA freelist_count").fetchone()[0] > _MAX_FREE:
                # A statement without columns is executed to its end in a script only.
                self._connection.executescript(f"PRAGMA incremental_vacuum({_GIVEN_BACK})")
        except BaseException:
            # The next write opens it again: an error of the disk may have left anything behind.
            self.close()
            raise

    def size(self) -> int:
        """Return how many bytes its files take."""
        total = 0
        for suffix in _BESIDE:
            with suppress(OSError):
                total += os.stat(f"{self._path}{suffix}").st_size
        return total

    def close(self) -> None:
        """Close the database, if it is open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _rename(self, reason: str) -> None:
        number = 1
        while (kept := self._path.with_name(f"{FILE}.damaged-{number}")).exists():
            number += 1
        for suffix in _BESIDE:
            with suppress(FileNotFoundError):
                os.replace(f"{self._path}{suffix}", f"{kept}{suffix}")
        _log.error(
            "--state {directory}: {reason}; it was renamed to {kept}, and all topics begin anew",
            event="state_set_aside",
            directory=str(self.directory),
            reason=reason,
            kept=kept.name,
        )

    def _connect(self) -> sqlite3.Connection:
        """Open the file; raises StateDamaged, StateUnusable, OSError or sqlite3.Error."""
        # Made here, so that other users cannot read it; SQLite gives its log the same rights.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise _explain_damage(error) from None
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        def pragma(text: str) -> Any:
            row = connection.execute(f"PRAGMA {text}").fetchone()
            return None if row is None else row[0]

        # Nobody else opens it: so it needs no file that processes share.
        pragma("locking_mode=EXCLUSIVE")
        is_new = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not is_new and pragma("application_id") != _APPLICATION_ID:
            raise StateDamaged(f"{FILE} is not a database of pushd")
        version = pragma("user_version")
        if version > VERSION:
            raise StateUnusable(
                self._explain(
                    f"{FILE} was written by a newer pushd (version {version} of its tables, this "
                    f"one knows {VERSION}): use that pushd, or another directory"
                )
            )
        if is_new:
            pragma("auto_vacuum=INCREMENTAL")
        pragma("journal_mode=WAL")
        pragma(f"journal_size_limit={_MAX_LOG}")
        pragma("temp_store=MEMORY")
        # A row that is replaced is deleted as well.
        pragma("recursive_triggers=ON")
        connection.execute("BEGIN IMMEDIATE")
        if is_new:
            pragma(f"application_id={_APPLICATION_ID}")
            pragma(f"user_version={VERSION}")
        for table in TABLES:
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")
        for trigger in TRIGGERS:
            connection.execute(f"CREATE TRIGGER IF NOT EXISTS {trigger}")
        connection.execute("INSERT OR IGNORE INTO written VALUES (1, 0)")
        connection.execute("COMMIT")

    def _check(self) -> None:
        """Raise StateDamaged if the file is torn."""
        [[found]] = self.read("PRAGMA quick_check(1)")
        if found != "ok":
            raise StateDamaged(f"{FILE} is damaged ({' '.join(str(found).split())})")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the system and of SQLite into StateUnusable."""
        try:
            yield
        except OSError as error:
            raise StateUnusable(self._explain(error.strerror or str(error))) from None
        except sqlite3.Error as error:
            raise StateUnusable(self._explain(str(error))) from None

    def _explain(self, reason: str) -> str:
        return f"--state {self.directory}: {reason}"


def _explain_damage(error: sqlite3.Error) -> Exception:
    """Return StateDamaged if an error says that a file is torn; else one that says what it is."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _DAMAGED:
        return StateDamaged(f"{FILE} is damaged ({error})")
    if code in _IN_USE:
        return type(error)(f"another process uses {FILE}")
    return error
