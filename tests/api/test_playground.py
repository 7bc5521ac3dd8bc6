"""The demo's views below ``/play/``."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.api import playground
from pushd.api.playground import BURST, MAX_BODY, WAYS, Cost, CountingTransport, TopicCosts
from pushd.testing import Answer, Daemon, RawConnection
from pushd.topics.rules import Rule, Rules
from tests.support.keyring import secret_keys, token
from tests.support.peer import Peer, close_frame, handshake, request

OWN = {"Origin": "http://localhost:8080"}


class PlaygroundTestCase(SynchronousTestCase):
    """A daemon with the demo's views."""

    def setUp(self) -> None:
        self.daemon = Daemon()
        self.addCleanup(self.daemon.stop)

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request that is answered at once; a body makes it a POST."""
        method = "GET" if body is None else "POST"
        answer = self.daemon.request(method, path, headers, body or b"")
        assert answer is not None
        return answer

    def publish(self, topic: str, body: bytes = b"hello") -> Answer:
        """Publish as the page does."""
        return self.ask(f"/play/publish/?topic={topic}", body, OWN)

    def costs(self, topic: str) -> dict[str, dict[str, int]]:
        """Return the costs of each way to follow a topic."""
        costs: dict[str, dict[str, int]] = json.loads(self.ask(f"/play/costs/?topic={topic}").text)[
            "costs"
        ]
        return costs

    def open(self, path: str, *lines: str) -> RawConnection:
        """Send a GET whose response does not come at once, or does not end."""
        connection = self.daemon.open_connection()
        head = "".join(f"{line}\r\n" for line in ("Host: localhost:8080", *lines))
        connection.send(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        return connection

    def assert_refused(self, answer: Answer, status: int, where: str | None) -> None:
        """Check that an answer is a refusal of the given status that names what is wrong."""
        self.assertEqual(answer.status, status, answer.text)
        self.assertEqual(json.loads(answer.text).get("where"), where)


class TokenTests(PlaygroundTestCase):
    """With token keys, the demo's views ask for tokens."""

    def setUp(self) -> None:
        self.daemon = Daemon(token_keys=secret_keys())
        self.addCleanup(self.daemon.stop)

    def ask_with(self, path: str, given: str | None) -> Answer:
        """Send a POST as the page does, with a token or without."""
        more = {} if given is None else {"Authorization": f"Bearer {given}"}
        return self.ask(path, b"hello", OWN | more)

    def test_strangers(self) -> None:
        """Without a valid token, publishing, cutting and following are refused."""
        for path in ("/play/publish/?topic=play/a", "/play/cut/?topic=play/a&seconds=0"):
            for given in (None, "x.y.z"):
                answer = self.ask_with(path, given)
                self.assertEqual(answer.status, 401, answer.text)
                self.assertIn("Bearer", answer.headers["www-authenticate"])
        answer = self.ask("/play/topics/poll/play/a?wait=0")
        self.assert_refused(answer, 401, "token")

    def test_members(self) -> None:
        """A token permits the topics that it lists, and no others."""
        given = token("ann", publish=["play/a"])
        for path in ("/play/publish/?topic=play/{}", "/play/cut/?topic=play/{}&seconds=0"):
            self.assertEqual(self.ask_with(path.format("a"), given).status, 200)
            self.assert_refused(self.ask_with(path.format("b"), given), 403, "token")


class PublishTests(PlaygroundTestCase):
    def test_publish(self) -> None:
        """Subscribers of the topic receive what a page publishes."""
        browser = self.daemon.connect("/topics/play/a", subprotocols=["pushd.v1"])
        answer = self.publish("play/a", "žluťoučký 🐎".encode())
        id = json.loads(answer.text)["id"]
        self.assertEqual(answer.status, 200)
        self.assertEqual(json.loads(browser.messages[-1]), {"id": id, "data": "žluťoučký 🐎"})

    def test_programs(self) -> None:
        """A request without Origin is accepted: it does not come from a page."""
        self.assertEqual(self.ask("/play/publish/?topic=play/a", b"hello").status, 200)

    def test_strangers(self) -> None:
        """Pages of other origins can neither publish nor cut."""
        for origin in ("http://evil.example", "https://localhost:8080", "null"):
            for path in ("/play/publish/?topic=play/a", "/play/cut/?topic=play/a&seconds=5"):
                answer = self.ask(path, b"hello", {"Origin": origin})
                self.assert_refused(answer, 403, "Origin")

    def test_method(self) -> None:
        """GET is refused, as a link could send it."""
        answer = self.ask("/play/publish/?topic=play/a")
        self.assert_refused(answer, 405, "method")
        self.assertEqual(answer.headers["Allow"], "POST")

    def test_topic(self) -> None:
        """Topics that do not begin with ``play/`` are refused."""
        for topic in ("news", "playa", "play", "play/", "play/a/", "play//a", "play/%20", ""):
            self.assert_refused(self.publish(topic), 400, "topic")
        self.assert_refused(self.ask("/play/publish/", b"hello"), 400, "topic")

    def test_body(self) -> None:
        """A publication must be short, and UTF-8 text."""
        self.assertEqual(self.publish("play/a", b"x" * MAX_BODY).status, 200)
        self.assert_refused(self.publish("play/a", b"x" * (MAX_BODY + 1)), 413, "body")
        self.assert_refused(self.publish("play/a", b"\xff"), 400, "body")

    def test_rule(self) -> None:
        """A rule for the topics of the demo can lower the limit."""
        self.daemon = Daemon(rules=Rules([Rule(match="play/**", max_message=3)]))
        self.addCleanup(self.daemon.stop)
        self.assert_refused(self.publish("play/a", b"xxxx"), 413, "body")
        self.assertEqual(self.publish("play/a", b"xxx").status, 200)

    def test_rate(self) -> None:
        """All clients share one rate; beyond it they get 429."""
        self.assertEqual({self.publish("play/a").status for _ in range(BURST)}, {200})
        answer = self.publish("play/b")
        self.assert_refused(answer, 429, None)
        self.assertEqual(answer.headers["Retry-After"], "1")
        self.daemon.advance(1)
        self.assertEqual(self.publish("play/b").status, 200)


class ListenTests(PlaygroundTestCase):
    def test_same(self) -> None:
        """Each way is answered as ``/topics/<topic>`` would answer it."""
        first = json.loads(self.publish("play/a").text)["id"]
        self.publish("play/a", b"again")
        query = f"?after={first}&wait=0"
        through = self.ask(f"/play/topics/poll/play/a{query}")
        self.assertEqual(through.text, self.ask(f"/topics/play/a{query}").text)
        self.assertEqual(json.loads(through.text)["publications"][0]["data"], "again")

        browser = self.daemon.connect(
            f"/play/topics/websocket/play/a?after={first}", subprotocols=["pushd.v1"]
        )
        self.assertEqual(browser.subprotocol, "pushd.v1")
        self.assertEqual([*json.loads(browser.messages[0])], ["subscribed", "id", "recovered"])
        self.assertEqual(json.loads(browser.messages[1])["data"], "again")

        stream = self.open(
            "/play/topics/sse/play/a", "Accept: text/event-stream", f"Last-Event-ID: {first}"
        )
        self.assertIn(b"Content-Type: text/event-stream", stream.received)
        self.assertIn(b"data: again\n\n", stream.received)

    def test_guarded(self) -> None:
        """A page that may not subscribe at ``/topics/<topic>`` may not follow here either."""
        answer = self.ask("/play/topics/poll/play/a?wait=0", None, {"Origin": "http://evil"})
        self.assertEqual(answer.status, 403)
        browser = self.daemon.connect("/play/topics/websocket/play/a", origin="http://evil")
        assert browser.refused is not None
        self.assertEqual(browser.refused.status, 403)

    def test_fence(self) -> None:
        """An unknown way is 404; a topic that does not begin with ``play/`` is 400."""
        self.assert_refused(self.ask("/play/topics/pigeon/play/a"), 404, "way")
        self.assert_refused(self.ask("/play/topics/poll/news"), 400, "topic")
        self.assert_refused(self.ask("/play/topics/poll/play/%C3%A9"), 400, "topic")
        browser = self.daemon.connect("/play/topics/websocket/news")
        assert browser.refused is not None
        self.assert_refused(browser.refused, 400, "topic")

    def test_mistakes(self) -> None:
        """A bad argument is refused as at ``/topics/<topic>``."""
        self.assert_refused(self.ask("/play/topics/poll/play/a?after=x"), 400, "after")

    def test_nothing_left(self) -> None:
        """Once all clients have disconnected, no timer is left."""
        browser = self.daemon.connect("/play/topics/websocket/play/a")
        stream = self.open("/play/topics/sse/play/a", "Accept: text/event-stream")
        poll = self.open("/play/topics/longpoll/play/a")
        browser.close()
        stream.leave()
        poll.leave()
        # A topic without subscribers is kept for a while, for clients that reconnect.
        self.daemon.advance(*[100.0] * 4)
        self.assertEqual(self.daemon.pending_calls, [])


class CostsTests(PlaygroundTestCase):
    def test_nobody(self) -> None:
        """A topic without requests has cost nothing and takes no memory."""
        costs = self.costs("play/a")
        self.assertEqual([*costs], ["poll", "longpoll", "sse", "websocket", "any"])
        nothing = {"requests": 0, "received": 0, "sent": 0}
        self.assertEqual(costs["sse"], nothing)
        self.assertEqual(self.costs("")["sse"], nothing)

    def test_memory(self) -> None:
        """With too many topics, the costs of the one used least recently are forgotten."""
        self.patch(playground, "MAX_TOPICS", 3)
        for number in range(4):
            self.ask(f"/play/topics/poll/play/{number}?wait=0")
            self.ask("/play/topics/poll/play/0?wait=0")
        self.assertEqual(self.costs("play/1")["poll"]["requests"], 0)
        self.assertEqual(self.costs("play/2")["poll"]["requests"], 1)
        self.assertEqual(self.costs("play/0")["poll"]["requests"], 5)


class CutTests(PlaygroundTestCase):
    def cut(self, topic: str, seconds: Any) -> Answer:
        """Cut as the page does."""
        return self.ask(f"/play/cut/?topic={topic}&seconds={seconds}", b"", OWN)

    def test_cut(self) -> None:
        """A cut aborts a topic's connections, and refuses new ones until its time is over."""
        browser = self.daemon.connect("/play/topics/websocket/play/a")
        stream = self.open("/play/topics/sse/play/a", "Accept: text/event-stream")
        poll = self.open("/play/topics/longpoll/play/a")
        others = (
            self.daemon.connect("/topics/play/a"),
            self.daemon.connect("/play/topics/any/play/b"),
        )
        self.assertEqual(json.loads(self.cut("play/a", 5).text), {"cut": 3})
        self.assertEqual((browser.gone, browser.closing), (True, None))
        self.assertTrue(stream.closed and poll.closed)
        self.assertFalse(any(other.gone for other in others))

        self.daemon.advance(4.9)
        self.assertIsNone(self.daemon.get("/play/topics/poll/play/a?wait=0"))
        late = self.daemon.connect("/play/topics/websocket/play/a")
        self.assertEqual((late.gone, late.refused), (True, None))
        self.daemon.advance(0.1)
        self.assertEqual(self.ask("/play/topics/poll/play/a?wait=0").status, 200)

    def test_served(self) -> None:
        """A connection whose request has been answered is not cut."""
        connection = self.open("/play/topics/poll/play/a?wait=0")
        self.assertEqual(json.loads(self.cut("play/a", 0).text), {"cut": 0})
        self.assertFalse(connection.closed)

    def test_seconds(self) -> None:
        """The time of a cut must be a number from 0 to 10."""
        for seconds in ("", "x", "-1", "10.1", "99", "1e1", "nan"):
            self.assert_refused(self.cut("play/a", seconds), 400, "seconds")
        self.assert_refused(self.cut("news", 5), 400, "topic")
        self.assertEqual(self.cut("play/a", "10.0").status, 200)


class FakeChannel(Protocol):
    """An HTTP channel that keeps what it receives."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


class FakeTransport(StringTransport):
    """A transport that delivers to a protocol."""

    protocol: Any = None


class CountingTransportTests(SynchronousTestCase):
    """A counting transport between a transport and its channel."""

    def setUp(self) -> None:
        self.channel: Any = FakeChannel()
        self.transport = FakeTransport()
        self.transport.protocol = self.channel
        self.channel.makeConnection(self.transport)
        self.cost = Cost()
        self.connections: WrappingFactory[CountingTransport] = WrappingFactory(None)
        self.counting = CountingTransport(self.connections, self.channel, self.cost)
        self.counting.insert()

    def test_sending(self) -> None:
        """What the channel sends reaches the transport, and counts."""
        self.channel.transport.write(b"abc")
        self.channel.transport.writeSequence([b"de", b"", b"f"])
        self.assertEqual((self.transport.value(), self.cost.sent), (b"abcdef", 6))

    def test_receiving(self) -> None:
        """What the transport receives reaches the channel, and does not count."""
        self.transport.protocol.dataReceived(b"abc")
        self.assertEqual((self.channel.received, self.cost.sent), (b"abc", 0))

    def test_is_a_transport(self) -> None:
        """The channel finds every method and interface of its transport."""
        self.assertEqual(self.counting.getPeer(), self.transport.getPeer())
        self.assertTrue(ITransport.providedBy(self.counting))
        self.channel.transport.abortConnection()
        self.assertTrue(self.transport.disconnected)

    def test_removed(self) -> None:
        """A removed counting transport leaves the connection as it was."""
        self.assertIn(self.counting, self.connections.protocols)
        self.counting.remove()
        self.assertIs(self.channel.transport, self.transport)
        self.assertIs(self.transport.protocol, self.channel)
        self.assertEqual(self.connections.protocols, {})

    def test_taken_over(self) -> None:
        """A counting transport stays in place for a WebSocket that takes the connection over."""
        websocket = FakeChannel()
        self.channel.transport = None
        self.counting.wrappedProtocol = websocket
        self.counting.remove()
        self.transport.protocol.dataReceived(b"abc")
        self.assertEqual(websocket.received, b"abc")
        self.assertIn(self.counting, self.connections.protocols)

    def test_lost(self) -> None:
        """On connectionLost the channel may call ``remove``, which then does nothing."""
        lost: list[bool] = []

        def remove(reason: Failure) -> None:
            self.counting.remove()
            lost.append(self.counting in self.connections.protocols)

        self.channel.connectionLost = remove
        self.transport.protocol.connectionLost(connectionDone)
        self.assertEqual(lost, [False])
        self.assertIs(self.transport.protocol, self.counting)


class TopicCostsTests(SynchronousTestCase):
    """The costs of one topic."""

    def test_new(self) -> None:
        """At first each way has cost nothing, and there are no connections."""
        costs = TopicCosts()
        self.assertEqual(tuple(costs.by_way), WAYS)
        self.assertEqual(set(map(repr, costs.by_way.values())), {repr(Cost())})
        self.assertEqual(costs.connections.protocols, {})


class CountedTopicTests(PlaygroundTestCase):
    """``/topics/<topic>`` with its bytes counted."""

    def test_bytes(self) -> None:
        """All bytes of a response count; a request counts as it would at ``/topics/<topic>``."""
        stream = self.open("/play/topics/sse/play/a", "Accept: text/event-stream", "X: y")
        poll = self.open("/play/topics/longpoll/play/a?wait=5")
        self.publish("play/a")
        stream_head = (
            b"GET /topics/play/a HTTP/1.1\r\nHost: localhost:8080\r\n"
            b"Accept: text/event-stream\r\nX: y\r\n\r\n"
        )
        poll_head = b"GET /topics/play/a?wait=5 HTTP/1.1\r\nHost: localhost:8080\r\n\r\n"
        costs = self.costs("play/a")
        self.assertEqual(
            costs["sse"],
            {"requests": 1, "received": len(stream_head), "sent": len(stream.received)},
        )
        self.assertEqual(
            costs["longpoll"],
            {"requests": 1, "received": len(poll_head), "sent": len(poll.received)},
        )
        self.assertEqual(costs["poll"]["requests"], 0)

    def test_websocket(self) -> None:
        """The bytes of the handshake's response count, and those of each frame."""
        self.daemon.connect("/play/topics/websocket/play/a")
        before = self.costs("play/a")["websocket"]
        self.assertEqual(before["requests"], 1)
        self.assertGreater(before["received"], 100)
        self.assertGreater(before["sent"], 100)
        self.publish("play/a", b"hello")
        after = self.costs("play/a")["websocket"]
        self.assertEqual(after["sent"] - before["sent"], 2 + len("hello"))
        self.daemon.advance(25)
        self.assertEqual(self.costs("play/a")["websocket"]["sent"], after["sent"] + 2 + 4, "a ping")

    def test_tls(self) -> None:
        """Over TLS the bytes before encryption count."""
        peer = Peer(self.daemon, tls=True)
        peer.send(request("GET /play/topics/poll/play/a?wait=0 HTTP/1.1", "Host: localhost:8080"))
        self.assertEqual(self.costs("play/a")["poll"]["sent"], len(peer.received))
        del peer.received[:]
        peer.send(handshake("/play/topics/websocket/play/a"))
        self.publish("play/a", b"hello")
        peer.settle()
        self.assertEqual(peer.texts, ["hello"])
        self.assertEqual(self.costs("play/a")["websocket"]["sent"], len(peer.received))
        peer.send(close_frame(1000))
        self.assertEqual((peer.code, peer.lost), (1000, ConnectionDone))

    def test_connection_is_kept(self) -> None:
        """Other requests on the same connection do not count."""
        connection = self.open("/play/topics/poll/play/a?wait=0")
        costs = self.costs("play/a")["poll"]
        size = len(connection.received)
        connection.send(b"GET /test/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.assertGreater(len(connection.received), size)
        self.assertEqual(self.costs("play/a")["poll"], costs)
        connection.send(
            b"GET /play/topics/poll/play/a?wait=0 HTTP/1.1\r\nHost: localhost:8080\r\n\r\n"
        )
        self.assertEqual(self.costs("play/a")["poll"]["sent"], 2 * costs["sent"])

    def test_right_behind(self) -> None:
        """Pipelined requests are counted separately."""
        alone = self.open("/play/topics/poll/play/a?wait=0")
        head = b" HTTP/1.1\r\nHost: localhost:8080\r\n\r\n"
        connection = self.daemon.open_connection()
        connection.send(
            b"".join(
                b"GET " + path + head
                for path in (
                    b"/play/topics/poll/play/b?wait=0",
                    b"/play/topics/longpoll/play/b?wait=0",
                    b"/test/",
                )
            )
        )
        costs = self.costs("play/b")
        self.assertEqual(costs["poll"]["sent"], len(alone.received))
        self.assertEqual(costs["longpoll"]["sent"], len(alone.received))
