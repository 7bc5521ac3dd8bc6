"""The contract of a subscriber, run over every transport."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pushd.access.closing import HISTORY_GAP, TRY_AGAIN_LATER
from pushd.access.limits import Limits
from pushd.topics.rules import Rule
from pushd.topics.rules import Rules as TopicRules
from pushd.topics.subscription import LAG_TIMEOUT
from tests.support.topic_clients import (
    MIB,
    TRANSPORTS,
    LongPollClient,
    RawWebSocketClient,
    SseClient,
    TopicClient,
    TopicTestCase,
    V1WebSocketClient,
    sequel,
    split,
)

if TYPE_CHECKING:
    _Base = TopicTestCase
else:
    _Base = object

# More than the buffers between two sockets hold, less than what ends a slow client.
HALF = "x" * (MIB // 2)


class Rules(_Base):
    """Rules for every transport."""

    transport: type[TopicClient]

    def listen(self, topic: str = "news", after: str | None = None) -> TopicClient:
        """Subscribe over the transport under test."""
        return self.transport(self.daemon, topic, after)

    def assert_began(self, client: TopicClient, id: str, *, recovered: bool) -> None:
        """Check what the subscription began with, if the transport says it."""
        if client.has_ids:
            self.assertEqual((client.begun, client.recovered), (id, recovered))

    def assert_got(self, client: TopicClient, ids: list[str], data: list[str]) -> None:
        """Check everything that was received."""
        self.assertEqual(client.data, data)
        if client.has_ids:
            self.assertEqual(client.ids, ids)

    def test_order(self) -> None:
        """Publications arrive in order, and only those after the subscription."""
        before = self.publish("news", "before")
        client = self.listen()
        data = [str(number) for number in range(30)]
        ids = [self.publish("news", one) for one in data]
        self.assert_got(client, ids, data)
        self.assert_began(client, before, recovered=False)

    def test_ids(self) -> None:
        """Ids count from 1 without a gap, in the epoch that the first subscriber received."""
        client = self.listen()
        ids = [self.publish("news", "x") for _ in range(3)]
        epoch, _ = split(ids[0])
        self.assertEqual(ids, list(sequel(f"{epoch}:0", 3)))
        self.assert_got(client, ids, ["x"] * 3)
        self.assert_began(client, f"{epoch}:0", recovered=False)

    def test_topics_are_apart(self) -> None:
        """A subscriber does not receive publications to other topics."""
        client = self.listen()
        self.publish("news/local", "no")
        self.publish("new", "no")
        id = self.publish("news", "yes")
        self.assert_got(client, [id], ["yes"])

    def test_many_listeners(self) -> None:
        """All subscribers of a topic receive the same, in the same order."""
        clients = [transport(self.daemon, "news", None) for transport in TRANSPORTS]
        clients.append(self.listen())
        self.publish_many("news", ["a", "b"])
        self.publish_many("news", ["c"])
        for client in clients:
            self.assertEqual(client.data, ["a", "b", "c"])

    def test_any_text(self) -> None:
        """Text arrives unchanged: empty, with any line ends, quotes, beyond the BMP."""
        texts = [
            "",
            " ",
            "\n",
            "a\nb",
            "\n\na\n",
            "a\r\nb\r",
            '"\\',
            "é€😀",
            "data: x",
            ": x",
            "\0",
        ]
        client = self.listen()
        for text in texts:
            self.publish("news", text)
        self.assertEqual(client.data, texts)

    def test_binary(self) -> None:
        """Bytes arrive as bytes: none, every value, and valid UTF-8."""
        data = [b"", bytes(range(256)), b"text"]
        client = self.listen()
        for one in data:
            self.publish("news", one)
        self.assertEqual(client.data, data)
        again = self.listen(after=self.first(client))
        self.assertEqual(again.data, data[1:])

    def first(self, client: TopicClient) -> str:
        """Return the id of the first publication."""
        epoch, _ = split(self.describe(client.topic)["id"])
        return f"{epoch}:1"

    def test_resume(self) -> None:
        """An id received over any transport resumes over this one, first with the history."""
        for other in TRANSPORTS:
            topic = other.__name__
            first = other(self.daemon, topic)
            ids = self.publish_many(topic, ["1"])
            self.assertEqual(first.data, ["1"])
            last = first.last if first.has_ids else ids[0]
            first.leave()
            ids += self.publish_many(topic, ["2", "3"])
            client = self.listen(topic, last)
            ids.append(self.publish(topic, "4"))
            self.assert_got(client, ids[1:], ["2", "3", "4"])
            self.assert_began(client, ids[0], recovered=True)

    def test_retained(self) -> None:
        """A new subscriber of a topic that retains its newest publication gets it first."""
        for latest in (False, True):
            self.start(rules=TopicRules([Rule(match="news", retain=True, latest=latest)]))
            ids = self.publish_many("news", ["1", "2"])
            self.daemon.advance(1000)
            client = self.listen()
            ids.append(self.publish("news", "3"))
            self.assert_got(client, ids[1:], ["2", "3"])
            self.assert_began(client, ids[0], recovered=False)

    def test_retained_and_resumed(self) -> None:
        """One that resumes gets what it missed; if that is gone, it begins with the newest."""
        self.start(rules=TopicRules([Rule(match="news", retain=True)]))
        ids = self.publish_many("news", ["1", "2", "3"])
        client = self.listen(after=ids[2])
        self.assert_got(client, [], [])
        client.leave()
        client = self.listen(after=ids[0])
        self.assert_got(client, ids[1:], ["2", "3"])
        self.assert_began(client, ids[0], recovered=True)
        client.leave()
        self.daemon.advance(1000)
        client = self.listen(after=ids[0])
        self.assert_got(client, ids[2:], ["3"])
        self.assert_began(client, ids[1], recovered=False)

    def test_rules_reloaded(self) -> None:
        """A reload changes how much is kept, without a restart."""
        self.publish_many("news", ["1", "2", "3"])
        rules = TopicRules([Rule(match="news", history_size=1)])
        for apply in self.daemon._service.appliers:
            apply(replace(self.daemon.settings, rules=rules))
        self.assertEqual(self.describe("news")["history"], 3)
        self.publish("news", "4")
        self.assertEqual(self.describe("news")["history"], 1)

    def test_resume_from_the_beginning(self) -> None:
        """Offset 0 is before the first publication."""
        ids = self.publish_many("news", ["1", "2"])
        epoch, _ = split(ids[0])
        client = self.listen(after=f"{epoch}:0")
        self.assert_got(client, ids, ["1", "2"])
        self.assert_began(client, f"{epoch}:0", recovered=True)

    def test_resume_with_nothing_missing(self) -> None:
        """A subscriber that has missed nothing gets recovered: true, and continues live."""
        id = self.publish("news", "old")
        client = self.listen(after=id)
        self.assertEqual(client.data, [])
        new = self.publish("news", "new")
        self.assert_got(client, [new], ["new"])
        self.assert_began(client, id, recovered=True)

    def test_wrong_epoch(self) -> None:
        """An id of another epoch is not recovered; the subscription starts live."""
        id = self.publish("news", "old")
        client = self.listen(after="another:1")
        self.assert_began(client, id, recovered=False)
        new = self.publish("news", "new")
        self.assert_got(client, [new], ["new"])

    def test_future(self) -> None:
        """An id that no publication has had yet is not recovered."""
        id = self.publish("news", "old")
        epoch, _ = split(id)
        client = self.listen(after=f"{epoch}:2")
        self.assert_began(client, id, recovered=False)
        new = self.publish("news", "new")
        self.assert_got(client, [new], ["new"])

    def test_too_old(self) -> None:
        """If the publication after the id is no longer kept, nothing is recovered."""
        self.keep(size=3)
        ids = self.publish_many("news", ["1", "2", "3", "4", "5"])
        enough = self.listen(after=ids[1])
        self.assert_got(enough, ids[2:], ["3", "4", "5"])
        self.assert_began(enough, ids[1], recovered=True)
        client = self.listen(after=ids[0])
        self.assert_began(client, ids[4], recovered=False)
        new = self.publish("news", "6")
        self.assert_got(client, [new], ["6"])

    def test_expiry(self) -> None:
        """Publications older than --history-ttl are gone; younger ones are kept."""
        self.keep(ttl=10)
        ids = [self.publish("news", "1")]
        self.daemon.advance(5)
        ids.append(self.publish("news", "2"))
        self.daemon.advance(5)
        young = self.listen(after=ids[0])
        self.assert_got(young, ids[1:], ["2"])
        self.assert_began(young, ids[0], recovered=True)
        epoch, _ = split(ids[0])
        old = self.listen(after=f"{epoch}:0")
        self.assertEqual(old.data, [])
        self.assert_began(old, ids[1], recovered=False)

    def test_no_history(self) -> None:
        """With --history-size 0, only clients that are connected receive a publication."""
        self.keep(size=0)
        client = self.listen()
        if isinstance(client, LongPollClient):
            # Between two polls, the client is not connected.
            ids = [self.publish("news", "1")]
            self.assertEqual(client.data, ["1"])
        else:
            ids = self.publish_many("news", ["1", "2"])
            self.assert_got(client, ids, ["1", "2"])
        self.publish("news", "missed")
        again = self.listen(after=ids[0])
        new = self.publish("news", "new")
        self.assert_got(again, [new], ["new"])
        self.assertIsNot(again.recovered, True)

    def test_no_history_nothing_missed(self) -> None:
        """With --history-size 0, a client that has missed nothing gets recovered: true."""
        self.keep(size=0)
        id = self.publish("news", "1")
        client = self.listen(after=id)
        new = self.publish("news", "2")
        self.assert_got(client, [new], ["2"])
        self.assert_began(client, id, recovered=True)

    def test_leaving(self) -> None:
        """A client that has disconnected is not counted, and leaves no timer."""
        client = self.listen()
        self.assertEqual(sum(self.describe("news")["subscribers"].values()), 1)
        client.leave()
        self.assertEqual(self.describe("news")["subscribers"], {})
        self.publish("news", "without subscribers")
        self.assertEqual(client.data, [])
        self.daemon.advance(300, 1)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_stop(self) -> None:
        """When the daemon stops, every subscription ends, and nothing is left."""
        client = self.listen()
        self.publish("news", "1")
        self.assertEqual(client.data, ["1"])
        self.daemon.stop()
        self.assertTrue(client.server_side.lost)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_slow(self) -> None:
        """A client that does not read delays no other, and takes a limited amount of memory."""
        slow = self.listen()
        others = [transport(self.daemon, "news") for transport in TRANSPORTS]
        slow.stall()
        server_side = slow.server_side
        for number in range(1, 9):
            self.publish("news", HALF)
            for other in others:
                self.assertEqual(len(other.data), number)
            self.assertLess(server_side.unsent, MIB)
        self.daemon.advance(LAG_TIMEOUT)
        self.assertEqual(sum(self.describe("news")["subscribers"].values()), len(others))
        slow.resume()
        self.assert_cut_off(slow)

    def test_slow_and_steady(self) -> None:
        """A client that a small publication finds behind a large one is followed while it reads."""
        self.start(limits=Limits(max_message=8 * MIB))
        client = self.listen()
        client.stall()
        self.publish("news", "x" * (4 * MIB))
        self.daemon.advance(0.5)
        for number in range(9):
            self.publish("news", str(number))
        for _ in range(80):
            self.daemon.advance(1)
            client.server_side.take(50_000)
        self.assertFalse(client.gone)
        client.resume()
        self.assertEqual([len(data) for data in client.data], [4 * MIB, *[1] * 9])

    def test_slow_for_a_while(self) -> None:
        """A client that resumes reading in time has missed nothing."""
        client = self.listen()
        client.stall()
        burst = [f"{number} {HALF}" for number in range(12)]
        for one in burst:
            self.publish("news", one)
        self.daemon.advance(LAG_TIMEOUT - 1)
        client.resume()
        self.assertEqual(client.data, burst)
        self.publish("news", "live")
        self.assertEqual(client.data[12:], ["live"])

    def assert_cut_off(self, client: TopicClient) -> None:
        """Check that a client that was too slow ended where it can resume."""
        self.assertTrue(client.gone)
        self.assertIn(len(client.data), (1, 2))

    def test_burst(self) -> None:
        """A client that reads receives everything published in one reactor iteration."""
        client = self.listen()
        self.publish("news", "first")
        self.assertEqual(client.data, ["first"])
        broker = self.daemon._service._broker
        burst = [f"{number} {HALF}" for number in range(12)]
        for one in burst:
            broker.publish("news", one)
        self.assertLess(client.server_side.unsent, 2.2 * MIB)
        self.daemon.settle()
        self.assertEqual(client.data[1:], burst)
        self.publish("news", "live")
        self.daemon.advance(LAG_TIMEOUT)
        self.assertEqual(client.data[13:], ["live"])
        self.assertFalse(client.gone)

    def test_long_history(self) -> None:
        """A long history is replayed as fast as it is read, with little of it buffered."""
        self.keep(size=100, bytes=200 * MIB)
        id = self.publish("news", "first")
        for number in range(100):
            self.publish("news", bytes([number]) * MIB)
        self.assertEqual(self.describe("news")["history"], 100)
        client = self.listen_stalled(id)
        self.assertLess(client.server_side.unsent, 2 * MIB)
        client.resume()
        got = client.data
        self.assertEqual([one[0] for one in got], list(range(100)))
        self.assertTrue(all(len(one) == MIB for one in got))
        new = self.publish("news", "live")
        self.assertEqual(client.data[100:], ["live"])
        self.assertIn(client.ids[-1], (None, new))

    def listen_stalled(self, after: str) -> TopicClient:
        """Subscribe without reading."""
        stopped = self.patch(self.daemon._network, "run", lambda: None)
        client = self.listen(after=after)
        client.stall()
        stopped.restore()
        self.daemon.settle()
        return client

    def test_publications_during_replay(self) -> None:
        """Publications during the replay of a history follow it, once each."""
        self.keep(size=1000)
        numbers = iter(range(1000))
        big = [f"{next(numbers)} {'x' * 100_000}" for _ in range(20)]
        ids = [self.publish("news", one) for one in big]
        epoch, _ = split(ids[0])
        data = list(big)
        client = self.listen_stalled(f"{epoch}:0")
        for _ in range(10):
            one = f"{next(numbers)} {'y' * 50_000}"
            data.append(one)
            ids.append(self.publish("news", one))
            client.resume()
            client.stall()
        client.resume()
        self.assert_got(client, ids, data)

    def test_gap(self) -> None:
        """If the history that a client still has to read is dropped, the subscription ends."""
        self.keep(size=4)
        ids = [self.publish("news", HALF) for _ in range(4)]
        epoch, _ = split(ids[0])
        client = self.listen_stalled(f"{epoch}:0")
        for _ in range(8):
            self.publish("news", "later")
        client.resume()
        self.assert_gap(client, ids)

    def assert_gap(self, client: TopicClient, ids: list[str]) -> None:
        """Check that it ended after a part of the history."""
        self.assertTrue(client.gone)
        self.assertLess(len(client.data), 4)
        self.assertEqual(set(client.data), {HALF})

    def test_bad_id(self) -> None:
        """An invalid id is refused with 400."""
        answer = self.daemon.get("/topics/news?after=x")
        assert answer is not None
        self.assertEqual(answer.status, 400)
        self.assertIn('"where":"after"', answer.text)


class RawSocketTests(Rules, TopicTestCase):
    """WebSocket without a subprotocol."""

    transport = RawWebSocketClient

    def assert_cut_off(self, client: TopicClient) -> None:
        """Check the close code too."""
        super().assert_cut_off(client)
        assert isinstance(client, RawWebSocketClient)
        self.assertEqual(client.closing, TRY_AGAIN_LATER)

    def assert_gap(self, client: TopicClient, ids: list[str]) -> None:
        """Check the close code too."""
        super().assert_gap(client, ids)
        assert isinstance(client, RawWebSocketClient)
        self.assertEqual(client.closing, HISTORY_GAP)


class JsonSocketTests(RawSocketTests):
    """WebSocket with ``pushd.v1``."""

    transport = V1WebSocketClient


class EventsTests(Rules, TopicTestCase):
    """Server-Sent Events."""

    transport = SseClient

    def assert_cut_off(self, client: TopicClient) -> None:
        """Check that the connection of a client that was too slow was aborted."""
        self.assertTrue(client.gone)
        self.assertEqual((client.data, client.server_side.unsent), ([], 0))


class PollerTests(Rules, TopicTestCase):
    """Long polls, one after the other."""

    transport = LongPollClient

    def test_slow(self) -> None:
        """A client that does not read delays no other, and its response does not grow."""
        slow = self.listen()
        others = [transport(self.daemon, "news") for transport in TRANSPORTS]
        slow.stall()
        for number in range(1, 9):
            self.publish("news", HALF)
            for other in others:
                self.assertEqual(len(other.data), number)
            self.assertLess(slow.server_side.unsent, MIB)
        self.assertEqual(sum(self.describe("news")["subscribers"].values()), len(others))
        slow.resume()
        self.assertEqual(slow.data, [HALF] * 8)

    def assert_gap(self, client: TopicClient, ids: list[str]) -> None:
        """Check that the next response reports the gap."""
        runs = client.runs
        self.assertEqual([run.recovered for run in runs], [True, False])
        self.assertEqual(len(runs[0].got), 2)
        self.assertEqual(runs[1].got, [])
        self.assertEqual(runs[1].begun, self.describe("news")["id"])
