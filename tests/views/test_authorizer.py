"""The authorizer: asked on the reactor or in a thread, in time, and remembered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pushd.access.closing import PERMISSION_EXPIRED
from pushd.access.permissions import PermissionCache
from pushd.errors import BadRequest
from pushd.testing import Answer
from pushd.views import NotPermitted, Permission, Request
from pushd.views.authorizer import TopicAuthorizer, _credentials_of
from tests.support.keyring import secret_keys, token
from tests.support.topic_clients import TopicTestCase


class AuthorizerTestCase(TopicTestCase):
    """A daemon with an authorizer that answers as the test says."""

    def setUp(self) -> None:
        """Start a daemon whose authorizer runs on the reactor."""
        #: What the authorizer was asked.
        self.asked: list[tuple[Request, str, str]] = []
        #: What it returns, or raises.
        self.answer: Any = True
        self.use(self.may)

    def use(self, function: Callable[..., Any], **settings: Any) -> None:
        """Start a daemon with an authorizer."""
        self.start(authorize=function, **settings)

    def note(self, request: Request, action: str, topic: str) -> Any:
        """Answer in a thread."""
        self.asked.append((request, action, topic))
        if isinstance(self.answer, BaseException) and not isinstance(self.answer, NotPermitted):
            raise self.answer
        return self.answer

    async def may(self, request: Request, action: str, topic: str) -> Any:
        """Answer on the reactor."""
        answer = self.note(request, action, topic)
        return await answer if isinstance(answer, Deferred) else answer

    def ask(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
        """Send a request that is answered at once."""
        answer = self.daemon.request(method, path, headers, b"x" if method == "POST" else b"")
        assert answer is not None
        return answer

    def events(self, captured: Any, name: str) -> list[Any]:
        """Return the log events of a name."""
        return [event for event in captured if event.get("event") == name]


class AnswerTests(AuthorizerTestCase):
    """What an authorizer may answer."""

    def test_request(self) -> None:
        """It gets the headers, cookies, query, path and peer, the action and the topic."""
        headers = {"Cookie": "session=7", "X-App": "y"}
        self.ask("/topics/a/b?wait=0", headers)
        [(request, action, topic)] = self.asked
        self.assertEqual((action, topic), ("subscribe", "a/b"))
        self.assertEqual((request.path, request.method), ("/topics/a/b", "GET"))
        self.assertEqual((request.cookies["session"], request.headers["x-app"]), ("7", "y"))
        self.assertEqual((request.query["wait"], request.scheme), ("0", "http"))
        self.assertTrue(request.peer.startswith("127.0.0.1"))
        self.assertIsNone(request.identity)

    def test_true(self) -> None:
        """Permitted clients subscribe over every transport, and publish."""
        browser = self.daemon.connect("/topics/t")
        self.assertEqual(self.ask("/topics/t", method="POST").status, 200)
        self.assertEqual(browser.messages, ["x"])
        self.assertEqual(self.ask("/topics/t?wait=0").status, 200)
        connection = self.daemon.open_connection()
        connection.send(
            b"GET /topics/t HTTP/1.1\r\nHost: localhost:8080\r\nAccept: text/event-stream\r\n\r\n"
        )
        self.assertIn(b"event: subscribed", connection.received)
        connection.leave()
        actions = [action for _, action, _ in self.asked]
        self.assertEqual(actions, ["subscribe", "publish", "subscribe", "subscribe"])

    def test_false(self) -> None:
        """A client that is not permitted gets 403 over every transport, and when it publishes."""
        self.answer = False
        for method in ("GET", "HEAD", "POST"):
            answer = self.ask("/topics/t?wait=0" if method != "POST" else "/topics/t", None, method)
            self.assertEqual(answer.status, 403)
            self.assertIn("WWW-Authenticate", answer.headers)
        self.assertEqual(json.loads(answer.body), {"error": "not permitted", "where": "topic"})
        self.assertEqual(self.ask("/topics/t", {"Accept": "text/event-stream"}).status, 403)
        refused = self.daemon.connect("/topics/t").refused
        assert refused is not None
        self.assertEqual(refused.status, 403)

    def test_reason(self) -> None:
        """A reason and a 401 reach the client, whether raised or returned."""
        self.answer = NotPermitted("log in first", status=401)

        def raises(request: Request, action: str, topic: str) -> bool:
            raise self.answer

        for function in (self.note, self.may, raises):
            self.use(function)
            answer = self.ask("/topics/t")
            self.assertEqual(
                (answer.status, json.loads(answer.body)["error"]), (401, "log in first")
            )

    def test_subject(self) -> None:
        """The subject that it gives is that of the connection."""
        self.answer = Permission(subject="ann")
        browser = self.daemon.connect("/topics/t", subprotocols=["pushd.v1"])
        [listed] = json.loads(self.control("GET", "/connections").body)["connections"]
        self.assertEqual(listed["subject"], "ann")
        self.assertEqual(len(browser.messages), 1)

    def test_until(self) -> None:
        """When the permission ends, so does the connection, over every transport."""
        self.answer = Permission(until=10)
        browsers = [self.daemon.connect("/topics/t", subprotocols=v1) for v1 in ([], ["pushd.v1"])]
        self.assertEqual([len(one.messages) for one in browsers], [0, 1])
        connections = []
        for accept in ("text/event-stream", "*/*"):
            connection = self.daemon.open_connection()
            head = f"GET /topics/t HTTP/1.1\r\nHost: localhost:8080\r\nAccept: {accept}\r\n\r\n"
            connection.send(head.encode())
            connections.append(connection)
        self.daemon.advance(9.9)
        self.assertEqual([one.closing for one in browsers], [None, None])
        self.daemon.advance(0.1)
        self.assertEqual([one.closing for one in browsers], [PERMISSION_EXPIRED] * 2)
        self.assertTrue(connections[0].received.endswith(b"0\r\n\r\n"))
        answer = connections[1].answer()
        assert answer is not None
        self.assertEqual(answer.status, 200)
        for connection in connections:
            connection.leave()
        answer = self.ask("/topics/t?wait=0")
        self.assertEqual(
            (answer.status, json.loads(answer.body)["error"]), (403, "permission has expired")
        )

    def test_token(self) -> None:
        """With keys, it gets the identity of a valid token; a bad token is refused before."""
        self.use(self.may, token_keys=secret_keys())
        self.ask("/topics/t?wait=0")
        self.ask(f"/topics/t?wait=0&token={token('ann')}")
        answer = self.ask("/topics/t?wait=0&token=x")
        self.assertEqual((answer.status, json.loads(answer.body)["where"]), (401, "token"))
        [none, ann] = [request.identity for request, _, _ in self.asked]
        self.assertIsNone(none)
        self.assertEqual(ann.subject if ann else None, "ann")

    def test_renewal(self) -> None:
        """A fresh token over ``pushd.v1`` is put to it again; a denial leaves the old one."""
        self.use(self.may, token_keys=secret_keys())
        browser = self.daemon.connect(
            f"/topics/t?token={token('ann', exp=10)}", subprotocols=["pushd.v1"]
        )
        self.assertEqual(json.loads(browser.messages[1]), {"expires_in": 10})
        fresh = json.dumps({"token": token("ann", exp=20)})
        self.answer = False
        browser.send(fresh)
        error = {"error": "not permitted", "where": "topic"}
        self.assertEqual(json.loads(browser.messages[2]), error)
        self.answer = ValueError("a bug")
        browser.send(fresh)
        self.assertEqual(json.loads(browser.messages[3])["error"], "the authorizer failed")
        self.flushLoggedErrors(ValueError)
        self.answer = True
        browser.send(fresh)
        self.assertEqual(json.loads(browser.messages[4]), {"expires_in": 20})
        identity = self.asked[-1][0].identity
        self.assertEqual(identity.expires if identity else None, 20)

    def test_stopping(self) -> None:
        """A client that is permitted after the daemon began to stop is refused with 503."""
        self.answer = Deferred()
        connection = self.daemon.open_connection()
        connection.send(b"GET /topics/t HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.daemon.begin_stop()
        self.answer.callback(True)
        self.daemon.settle()
        answer = connection.answer()
        assert answer is not None
        self.assertEqual(answer.status, 503)


class FailureTests(AuthorizerTestCase):
    """An authorizer that fails, hangs, or whose client leaves."""

    def test_raises(self) -> None:
        """One that raises, or returns something else, is logged; its client gets 500."""
        for function in (self.note, self.may):
            self.use(function)
            for answer, kind in (
                (ValueError("a bug"), ValueError),
                (None, TypeError),
                (1, TypeError),
            ):
                self.answer = answer
                with capturedLogs() as captured:
                    response = self.ask("/topics/t")
                self.assertEqual(response.status, 500)
                error = {"error": "the authorizer failed", "where": "topic"}
                self.assertEqual(json.loads(response.body), error)
                [event] = self.events(captured, "authorizer_failed")
                self.assertEqual((event["topic"], event["action"]), ("t", "subscribe"))
                self.assertEqual(len(self.flushLoggedErrors(kind)), 1)
            metrics = self.control("GET", "/metrics").text
            self.assertIn("pushd_view_errors_total 3.0", metrics)
            self.assertIn('pushd_refused_total{reason="other"} 3.0', metrics)

    def test_late(self) -> None:
        """One that takes longer than ten seconds is cancelled, and its client gets 503."""
        cancelled: list[Any] = []
        self.answer = Deferred(cancelled.append)
        connection = self.daemon.open_connection()
        connection.send(b"GET /topics/t HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.daemon.advance(9.9)
        self.assertIsNone(connection.answer())
        with capturedLogs() as captured:
            self.daemon.advance(0.1)
        answer = connection.answer()
        assert answer is not None
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "5"))
        self.assertEqual(len(self.events(captured, "authorizer_late")), 1)
        self.assertEqual(len(cancelled), 1)
        connection.leave()

    def test_left(self) -> None:
        """If its client leaves, one on the reactor is cancelled, and nothing is logged."""
        cancelled: list[Any] = []
        self.answer = Deferred(cancelled.append)
        connection = self.daemon.open_connection()
        connection.send(b"GET /topics/t HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        with capturedLogs() as captured:
            connection.leave()
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(self.events(captured, "authorizer_failed"), [])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_half_closed(self) -> None:
        """A client that closes its side meanwhile is answered at once when it is permitted."""
        for accept, wanted in (("*/*", b'"publications":[]'), ("text/event-stream", b"subscribed")):
            self.answer = Deferred()
            connection = self.daemon.open_connection()
            head = f"GET /topics/t HTTP/1.1\r\nHost: localhost:8080\r\nAccept: {accept}\r\n\r\n"
            connection.send(head.encode())
            connection._transport.loseWriteConnection()
            self.daemon.settle()
            self.answer.callback(True)
            self.daemon.settle()
            self.assertIn(wanted, connection.received)
            self.assertTrue(connection.closed)
            self.assertEqual(self.describe("t")["subscribers"], {})


class AsyncioTests(AuthorizerTestCase):
    """An authorizer may await what is asyncio's, with ``--loop asyncio``."""

    def test_answer(self) -> None:
        """It has ten seconds, and is cancelled then, or when the client leaves."""
        self.notes: list[str] = []

        async def may(request: Request, action: str, topic: str) -> bool:
            try:
                await asyncio.sleep(1 if topic == "quick" else 100)
            except asyncio.CancelledError:
                self.notes.append("cancelled")
                raise
            return True

        self.use(may, loop="asyncio")
        quick, late, leaving = (
            self.daemon.connect(f"/topics/{topic}") for topic in ("quick", "late", "leaving")
        )
        leaving.leave()
        self.daemon.advance(1)
        self.assertEqual((quick.opened, late.opened), (True, False))
        self.daemon.advance(9)
        assert late.refused is not None
        self.assertEqual(late.refused.status, 503)
        self.assertEqual(self.notes, ["cancelled"] * 2)

    def test_without(self) -> None:
        """Without the option, the log names it."""

        async def may(request: Request, action: str, topic: str) -> None:
            await asyncio.sleep(1)

        self.use(may)
        with capturedLogs() as events:
            self.assertEqual(self.ask("/topics/t").status, 500)
        [event] = self.events(events, "authorizer_failed")
        self.assertIn("start pushd with --loop asyncio", formatEvent(event))
        self.flushLoggedErrors()


class ThreadTests(AuthorizerTestCase):
    """A plain function runs in a thread of the pages' pool."""

    def setUp(self) -> None:
        """Start a daemon whose authorizer runs in a thread."""
        super().setUp()
        self.use(self.note)

    def test_publish(self) -> None:
        """Its request publishes as that of a blocking view does."""

        def may(request: Request, action: str, topic: str) -> bool:
            self.published = request.publish("asked", topic)
            return True

        self.use(may)
        browser = self.daemon.connect("/topics/asked")
        self.ask("/topics/t?wait=0")
        self.assertIn("t", browser.messages)
        self.assertEqual(self.describe("asked")["id"], str(self.published))

    def test_coroutine(self) -> None:
        """A plain function may return a coroutine or a Deferred, which runs on the reactor."""

        async def later() -> bool:
            return False

        for answer, status in ((succeed(True), 200), (succeed(False), 403)):
            self.answer = answer
            self.assertEqual(self.ask("/topics/t?wait=0").status, status)
        self.use(lambda request, action, topic: later())
        self.assertEqual(self.ask("/topics/t?wait=0").status, 403)

    def test_exit(self) -> None:
        """One that exits ends its request, and nothing else."""
        self.answer = SystemExit(3)
        self.assertEqual(self.ask("/topics/t").status, 500)
        self.flushLoggedErrors(SystemExit)
        self.answer = True
        self.assertEqual(self.ask("/topics/t?wait=0").status, 200)


class CacheTests(AuthorizerTestCase):
    """Answers are remembered for the time that they allow."""

    def count(self, *requests: tuple[str, dict[str, str]]) -> int:
        """Return how often the authorizer is asked for some requests."""
        self.asked.clear()
        for path, headers in requests:
            self.ask(path, headers)
        return len(self.asked)

    def test_time(self) -> None:
        """The same client is asked for once in that time, and denied as often as it asks."""
        same = ("/topics/t?wait=0", {"Cookie": "s=1", "Accept": "*/*"})
        for answer, status in ((Permission(cache=5), 200), (NotPermitted(cache=5), 403)):
            self.answer = answer
            self.assertEqual(self.count(same, same), 1)
            self.assertEqual(self.ask(*same).status, status)
            self.daemon.advance(5)
            self.assertEqual(self.count(same, same), 1)
            self.daemon.advance(5)
        self.answer = True
        self.assertEqual(self.count(same, same), 2)

    def test_clients(self) -> None:
        """Whatever may tell clients apart counts; what is different in each request does not."""
        self.answer = Permission(cache=5)
        path = "/topics/t?wait=0"
        self.assertEqual(self.count((path, {"Cookie": "s=1"}), (path, {"Cookie": "s=2"})), 2)
        self.assertEqual(self.count((path, {"X-Key": "1"}), (path, {"X-Key": "2"}), (path, {})), 3)
        self.assertEqual(self.count((f"{path}&token=a", {}), (f"{path}&token=b", {})), 2)
        self.assertEqual(self.count(("/topics/u?wait=0", {}), (path, {})), 1)
        self.assertEqual(self.count((path, {"Cookie": "s=1", "Last-Event-ID": "e:1"})), 0)

    def test_tokens(self) -> None:
        """A renewed token is a question of its own."""
        self.use(self.may, token_keys=secret_keys())
        self.answer = Permission(cache=50)
        browser = self.daemon.connect(
            f"/topics/t?token={token('ann', exp=10)}", subprotocols=["pushd.v1"]
        )
        browser.send(json.dumps({"token": token("ann", exp=20)}))
        self.assertEqual(len(self.asked), 2)

    def test_peers(self) -> None:
        """Clients of different addresses are different, whatever their ports."""
        self.answer = Permission(cache=5)
        get = b"GET /topics/t?wait=0 HTTP/1.1\r\nHost: localhost:8080\r\n\r\n"
        for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
            connection = self.daemon.open_connection(address=address)
            connection.send(get)
            connection.leave()
        self.assertEqual(len(self.asked), 2)
        peers = ["[::1]:80", "[::1]:81", "[::2]:80", "::1", "::2", "unix", "1.2.3.4"]
        made = {
            _credentials_of(replace(self.asked[0][0], peer=peer, raw_headers=Headers()))
            for peer in peers
        }
        self.assertEqual(len(made), 6)


class FakePool:
    """Keeps the functions that are to be called in a thread."""

    def __init__(self) -> None:
        self.functions: list[Callable[[], Any]] = []

    def callInThread(self, function: Callable[[], Any]) -> None:
        self.functions.append(function)


class FakeBridge:
    """Calls functions on the reactor's thread, which is the same."""

    def call(self, function: Callable[[], Any]) -> Any:
        return function()

    def send(self, function: Callable[[], object]) -> None:
        function()


class QueueTests(SynchronousTestCase):
    """Only some of the threads are used at a time; further questions wait."""

    def setUp(self) -> None:
        """Make an authorizer that may use one thread."""
        self.clock, self.pool = Clock(), FakePool()
        self.cache = PermissionCache(self.clock.seconds, self.clock.seconds)
        self.asked: list[str] = []
        self.authorizer = TopicAuthorizer(
            self.note,
            self.clock,
            now=self.clock.seconds,
            publisher=cast(Any, None),
            threads=FakeBridge(),
            pool=self.pool,
            limit=1,
            failed=lambda: None,
            cache=self.cache,
        )
        self.request = Request(
            method="GET", path="/", scheme="http", host="h", peer="p", clock=self.clock
        )

    def note(self, request: Request, action: str, topic: str) -> bool:
        """Permit it."""
        self.asked.append(topic)
        return True

    def ask(self, topic: str) -> Deferred[Permission]:
        """Ask about a topic."""
        return self.authorizer.ask(self.request, "subscribe", topic)

    def run_next(self) -> None:
        """Run what is next in the pool."""
        self.pool.functions.pop(0)()

    def test_limit(self) -> None:
        """The second question gets a thread when the first is answered."""
        first, second = self.ask("a"), self.ask("b")
        self.assertEqual(len(self.pool.functions), 1)
        self.run_next()
        self.assertEqual(self.successResultOf(first), Permission())
        self.assertNoResult(second)
        self.run_next()
        self.assertEqual(self.successResultOf(second), Permission())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_left(self) -> None:
        """A client that leaves gives up its place in the queue."""
        first, second, third = self.ask("a"), self.ask("b"), self.ask("c")
        second.cancel()
        self.failureResultOf(second, CancelledError)
        for _ in range(2):
            self.run_next()
        self.assertEqual(self.asked, ["a", "c"])
        for one in (first, third):
            self.successResultOf(one)
        self.assertEqual(self.pool.functions, [])

    def test_left_in_pool(self) -> None:
        """The function is not called for a client that left before its thread began."""
        first, second = self.ask("a"), self.ask("b")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.run_next()
        self.run_next()
        self.assertEqual(self.asked, ["b"])
        self.successResultOf(second)

    def test_revoked(self) -> None:
        """An answer to a question from before a revocation that concerns it does not count."""
        concerned, other = self.ask("a"), self.ask("b")
        self.cache.forget(lambda topic: topic == "a")
        self.run_next()
        self.run_next()
        error = self.failureResultOf(concerned, BadRequest).value
        assert isinstance(error, BadRequest)
        self.assertEqual((error.status, error.where), (503, "topic"))
        self.successResultOf(other)
        again = self.ask("a")
        self.run_next()
        self.successResultOf(again)

    def test_late(self) -> None:
        """Ten seconds include the wait; a thread that goes on keeps its place until it ends."""
        first, second = self.ask("a"), self.ask("b")
        self.clock.advance(10)
        for late in (first, second):
            error = self.failureResultOf(late, BadRequest).value
            assert isinstance(error, BadRequest)
            self.assertEqual(error.status, 503)
        third = self.ask("c")
        self.assertEqual(len(self.pool.functions), 1)
        self.run_next()
        self.run_next()
        self.assertEqual(self.asked, ["c"])
        self.successResultOf(third)
