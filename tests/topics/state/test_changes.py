"""Changes of a history as statements: few of them, and none for what comes and goes."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.history import History, Retention
from pushd.topics.publication import Id
from pushd.topics.state.activity_log import ActivityLog
from pushd.topics.state.changes import HistoryChanges, delete_all, insert_all


class StatementsTests(SynchronousTestCase):
    def test_insert(self) -> None:
        """Rows are inserted by statements of which there are few different ones."""
        for count, sizes in ((0, []), (1, [1]), (7, [4, 2, 1]), (300, [128, 128, 32, 8, 4])):
            rows = [(number, "x") for number in range(count)]
            statements = list(insert_all("t", rows))
            self.assertEqual([len(one.values) // 2 for one in statements], sizes)
            self.assertEqual([one.sql.count("(?, ?)") for one in statements], sizes)
            self.assertEqual(
                [value for one in statements for value in one.values],
                [value for row in rows for value in row],
            )

    def test_delete(self) -> None:
        """All rows are deleted by one statement."""
        statement = delete_all("t", "name", ['"', "ä"])
        self.assertEqual(statement.values, ('["\\"", "\\u00e4"]',))


class ChangesTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a history."""
        self.clock = Clock()
        epochs = iter(range(100))
        self.history = History(self.clock, Retention(size=2, ttl=5), lambda: f"e{next(epochs)}")
        self.woken = 0
        log = ActivityLog("", ())
        self.changes = HistoryChanges(self.history, self.clock.seconds, log, self.wake)
        self.history.recorder = self.changes

    def wake(self) -> None:
        """Count."""
        self.woken += 1

    def take(self) -> list[str]:
        """Return the beginnings of the statements, and their first values."""
        changes = self.changes.take()
        if changes is None:
            return []
        changes.written()
        return [f"{one.sql.split(' WHERE')[0]}: {one.values[0]!s}" for one in changes.statements]

    def inserts(self, table: str) -> int:
        """Return how many rows are inserted into a table."""
        changes = self.changes.take()
        assert changes is not None
        return sum(
            one.sql.count("(?")
            for one in changes.statements
            if one.sql.startswith(f"INSERT OR REPLACE INTO {table} ")
        )

    def test_nothing(self) -> None:
        """Without changes there are no statements."""
        self.assertEqual(self.take(), [])
        self.history.newest("t")
        self.assertEqual(self.woken, 0)

    def test_comes_and_goes(self) -> None:
        """Only what is still kept is written, and each topic once."""
        for _ in range(50):
            self.history.add("t", "x")
        self.assertEqual(self.changes.written, 0)
        self.assertGreaterEqual(self.woken, 50)
        statements = self.take()
        self.assertEqual(self.changes.written, 50)
        self.assertEqual(len(statements), 4)
        self.assertEqual(statements[:2], [
            "INSERT OR REPLACE INTO topic VALUES (?, ?, ?, ?, ?): t",
            "INSERT OR REPLACE INTO publication VALUES (?, ?, ?, ?, ?, ?, ?), "
            "(?, ?, ?, ?, ?, ?, ?): 49",
        ])  # fmt: skip
        self.history.add("t", "x")
        self.assertIn("DELETE FROM publication: [49]", self.take())

    def test_forgotten(self) -> None:
        """A topic that is forgotten is deleted, unless it is there again."""
        for topic in "tu":
            self.history.add(topic, "x")
        self.take()
        self.clock.advance(20)
        self.history.add("u", "y")
        self.assertIn('DELETE FROM topic: ["t"]', self.take())

    def test_keys(self) -> None:
        """Keys are numbered, and the oldest are deleted by their number."""
        for key in "ab":
            self.changes.add_key("t", key, Id("e", 1))
        self.assertEqual(self.inserts("idempotency"), 2)
        number = self.changes.reserve_key()
        self.assertEqual(number, 3)
        self.changes.restore_key(number)
        self.changes.restore_key(2)
        for _ in range(3):
            self.changes.drop_key()
        self.assertIn("DELETE FROM idempotency: 3", self.take())
