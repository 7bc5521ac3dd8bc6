"""Long polling and plain polling: when a poll is answered, and with how much."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.testing import StringTransport

from pushd.api.subscribe.longpoll import LongPoll
from pushd.schedule.turns import Turns
from pushd.testing import RawConnection
from pushd.topics import hub
from pushd.topics.hub import Hub
from pushd.topics.publication import Id, Replay
from tests.support.topic_clients import MIB, TopicTestCase


class Failing(Exception):
    """The error that these tests raise."""


class LongPollTests(TopicTestCase):
    """Polls over one connection each."""

    def ask(self, query: str = "", topic: str = "t") -> RawConnection:
        """Send a poll, which may be answered later."""
        connection = self.daemon.open_connection()
        line = f"GET /topics/{topic}{query} HTTP/1.1\r\n"
        connection.send(f"{line}Host: localhost:8080\r\nConnection: close\r\n\r\n".encode())
        return connection

    def read(self, connection: RawConnection) -> dict[str, Any] | None:
        """Return the answer if it has come."""
        answer = connection.answer()
        if answer is None:
            return None
        self.assertEqual(answer.status, 200, answer)
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        value = json.loads(answer.body)
        assert isinstance(value, dict)
        return value

    def test_something_new(self) -> None:
        """A waiting poll is answered with the next publication and its id."""
        connection = self.ask()
        self.assertIsNone(self.read(connection))
        id = self.publish("t", "x")
        self.assertEqual(
            self.read(connection),
            {"id": id, "recovered": False, "publications": [{"id": id, "data": "x"}]},
        )
        self.assertTrue(connection.closed)

    def test_format_json(self) -> None:
        """With format=json, what was published as JSON is a value in the response."""
        id = self.publish("t", "x")
        self.publish("t", '{"a": 1}', event="paid", is_json=True)
        for query, data in (("", '{"a": 1}'), ("&format=json", {"a": 1})):
            answer = self.daemon.get(f"/topics/t?wait=0&after={id}{query}")
            assert answer is not None
            [one] = json.loads(answer.body)["publications"]
            self.assertEqual((one["event"], one["data"]), ("paid", data))

    def test_something_missed(self) -> None:
        """A poll for publications that exist already is answered at once."""
        ids = self.publish_many("t", ["1", "2", "3"])
        self.publish("t", b"\xff")
        value = self.read(self.ask(f"?after={ids[0]}"))
        assert value is not None
        self.assertEqual(value["recovered"], True)
        said = [one.get("data", one.get("base64")) for one in value["publications"]]
        self.assertEqual(said, ["2", "3", "/w=="])

    def test_nothing(self) -> None:
        """Without a publication, a poll is answered with an empty list after ``wait`` seconds."""
        id = self.publish("t", "x")
        for query, seconds in (
            ("?", 25.0),
            ("?wait=3", 3),
            ("?wait=0.5", 0.5),
            ("?wait=60", 60),
            # As programs print what they computed.
            ("?wait=0.30000000000000004", 0.3),
            ("?wait=24.999999999999996", 25),
        ):
            connection = self.ask(f"{query}&after={id}")
            self.daemon.advance(seconds - 0.1)
            self.assertIsNone(self.read(connection))
            self.daemon.advance(0.101)
            self.assertEqual(self.read(connection), self.nothing(id))

    def test_wait_passed(self) -> None:
        """A poll whose time to wait was over a moment ago is answered at once."""
        id = self.publish("t", "x")
        for wait in ("-2.384185791015625e-07", "-0.5"):
            self.assertEqual(self.read(self.ask(f"?wait={wait}&after={id}")), self.nothing(id))

    def nothing(self, id: str) -> dict[str, Any]:
        """Return the answer to a poll without publications."""
        return {"id": id, "recovered": True, "publications": []}

    def test_plain_poll(self) -> None:
        """A poll with ``wait=0`` is answered at once, with or without publications."""
        first = self.read(self.ask("?wait=0"))
        assert first is not None
        self.assertEqual((first["recovered"], first["publications"]), (False, []))
        id = self.publish("t", "x")
        second = self.read(self.ask(f"?wait=0&after={first['id']}"))
        self.assertEqual(
            second, {"id": id, "recovered": True, "publications": [{"id": id, "data": "x"}]}
        )
        third = self.read(self.ask(f"?wait=0&after={id}"))
        self.assertEqual(third, {"id": id, "recovered": True, "publications": []})

    def test_not_recovered(self) -> None:
        """A poll is answered at once if publications are missing."""
        id = self.publish("t", "x")
        self.assertEqual(
            self.read(self.ask("?after=other:1")),
            {"id": id, "recovered": False, "publications": []},
        )

    def test_epoch_is_kept(self) -> None:
        """A topic keeps its epoch while it is polled, so that nothing is reported missing."""
        value = self.read(self.ask("?wait=0"))
        for _ in range(5):
            assert value is not None
            self.daemon.advance(299)
            value = self.read(self.ask(f"?wait=0&after={value['id']}"))
            assert value is not None
            self.assertEqual(value["recovered"], True)
        self.daemon.advance(300)
        self.assertEqual(json.loads(self.control("GET", "/topics").body)["topics"], [])

    def test_together(self) -> None:
        """Publications of one reactor iteration come in one response."""
        connection = self.ask()
        ids = self.publish_many("t", ["1", "2", "3"])
        value = self.read(connection)
        assert value is not None
        self.assertEqual((value["id"], len(value["publications"])), (ids[-1], 3))

    def test_enough(self) -> None:
        """A response has about 1 MiB, or one publication; the next poll gets the rest."""
        ids = [self.publish("t", "x" * (MIB // 2)) for _ in range(5)]
        epoch = ids[0].partition(":")[0]
        value = self.read(self.ask(f"?after={epoch}:0"))
        assert value is not None
        self.assertEqual((value["id"], len(value["publications"])), (ids[1], 2))
        value = self.read(self.ask(f"?after={ids[3]}"))
        assert value is not None
        self.assertEqual(len(value["publications"]), 1)

    def test_enough_at_once(self) -> None:
        """The same limit holds for publications that come while the poll waits."""
        self.patch(LongPoll, "has_room", lambda poll: poll._count < 2)
        # As if each publication were as large as what one reactor iteration may collect.
        self.patch(hub, "_MAX_PENDING", 0)
        connection = self.ask()
        ids = self.publish_many("t", ["1", "2", "3"])
        value = self.read(connection)
        assert value is not None
        self.assertEqual(value["id"], ids[1])
        value = self.read(self.ask(f"?after={ids[1]}"))
        assert value is not None
        self.assertEqual(value["id"], ids[2])

    def test_enough_of_nothing(self) -> None:
        """Empty publications count towards the limit."""
        self.keep(size=100_000, bytes=1 << 30)
        for _ in range(30):
            self.publish_many("t", [""] * 1000)
        epoch = self.describe("t")["id"].partition(":")[0]
        value = self.read(self.ask(f"?after={epoch}:0"))
        assert value is not None
        self.assertIn(len(json.dumps(value, separators=(",", ":"))), range(MIB, MIB + (1 << 14)))

    def test_counted_as_written(self) -> None:
        """What JSON writes with six characters counts as six bytes."""
        ids = self.publish_many("t", ["\0" * 50_000] * 5)
        epoch = ids[0].partition(":")[0]
        value = self.read(self.ask(f"?after={epoch}:0"))
        assert value is not None
        self.assertEqual(len(value["publications"]), 4)

    def test_leaving(self) -> None:
        """A poll whose client disconnects leaves nothing behind."""
        connection = self.ask()
        connection.leave()
        self.publish("t", "x")
        self.assertEqual(self.describe("t")["subscribers"], {})
        self.daemon.advance(301)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_leaving_with_an_answer_on_its_way(self) -> None:
        """A client that disconnects between a publication and its response is not written to."""
        poll = LongPoll(StringTransport(), self.daemon.clock, Turns(self.daemon.clock), 25)
        hub: Hub = self.daemon._service._broker._deliver.__self__  # type: ignore[attr-defined]
        poll.start(hub, "t", None)
        self.assertEqual(hub.count("t"), 1)
        poll.forget()
        poll.subscription_lost()
        self.assertFalse(poll.has_room())
        self.assertEqual(hub.count("t"), 0)

    def test_stop(self) -> None:
        """A stop of the daemon answers polls at once."""
        id = self.publish("t", "x")
        connection = self.ask(f"?after={id}")
        self.daemon.begin_stop()
        self.assertEqual(self.read(connection), {"id": id, "recovered": True, "publications": []})

    def test_unreadable(self) -> None:
        """If the history can't be read, the poll is answered with 503 and the reason is logged."""
        self.patch(self.daemon._service._broker, "replay", lambda *_: fail(Failing()))
        answer = self.ask("?after=e:1").answer()
        assert answer is not None
        self.assertEqual((answer.status, json.loads(answer.body)["where"]), (503, "topic"))
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)

    def test_too_far_away(self) -> None:
        """If the history is not read within the poll's time and five seconds, the answer is 503."""
        self.patch(self.daemon._service._broker, "replay", lambda *_: Deferred())
        for wait, seconds in [(0, 5), (25, 30)]:
            connection = self.ask(f"?wait={wait}")
            self.daemon.advance(seconds - 1)
            self.assertIsNone(connection.answer())
            self.daemon.advance(1)
            answer = connection.answer()
            assert answer is not None
            self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "5"))

    def test_far_away(self) -> None:
        """A plain poll waits up to five seconds for the history."""
        asked: Deferred[Replay] = Deferred()
        self.patch(self.daemon._service._broker, "replay", lambda *_: asked)
        connection = self.ask("?wait=0&after=e:1")
        self.daemon.advance(1)
        self.assertIsNone(self.read(connection))
        asked.callback(Replay(Id("e", 1), True, (), Id("e", 1)))
        self.daemon.settle()
        self.assertEqual(
            self.read(connection), {"id": "e:1", "recovered": True, "publications": []}
        )
