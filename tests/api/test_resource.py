"""Responses that coroutines make: errors, delays and disconnected clients."""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred, fail

from pushd.api import resource
from pushd.api.resource import AsyncResource
from pushd.errors import Unavailable
from pushd.topics.publication import Id
from tests.api.test_publish import PublishTestCase


class Failing(Exception):
    """The error that these tests raise."""


class AsyncResourceTests(PublishTestCase):
    """Failing, unavailable and cancelled responses."""

    def test_failure(self) -> None:
        """An unexpected exception is 500, and logged."""
        self.patch(self.daemon._service._broker, "publish", lambda *_: fail(Failing()))
        self.assertEqual(self.post("/topics/t").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)

    def test_unavailable(self) -> None:
        """While the broker is unavailable, the answer is 503 with the reason and Retry-After."""
        kept = self.daemon._service._broker
        for name in ("publish", "publish_all", "describe", "names"):
            self.patch(kept, name, lambda *_: fail(Unavailable("no Redis")))
        batch = json.dumps({"publications": [{"topic": "t", "data": "x"}]}).encode()
        for answer in (
            self.post("/topics/t"),
            self.post("/publish", batch),
            self.control("GET", "/topics/t"),
            self.control("GET", "/topics"),
        ):
            self.assertEqual(self.assert_wrong(answer, 503, "broker")["error"], "no Redis")
            self.assertEqual(answer.headers["Retry-After"], "5")

    def test_failing_answer(self) -> None:
        """An exception while the response is written is 500, and logged."""

        def write(*_: object) -> None:
            raise Failing

        self.patch(resource, "write_response", write)
        self.assertEqual(self.post("/topics/t").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)

    def test_leaving(self) -> None:
        """The coroutine is cancelled if the client disconnects."""
        cancelled: list[Deferred[Id]] = []
        broker = self.daemon._service._broker
        self.patch(broker, "describe", lambda *_: Deferred(cancelled.append))
        connection = self.daemon.open_connection(control=True)
        connection.send(b"GET /topics/t HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(connection.received, b"")
        connection.leave()
        self.assertEqual(len(cancelled), 1)

    def test_base_resource(self) -> None:
        """A subclass must say what it answers."""
        resource = AsyncResource(None)  # type: ignore[arg-type]
        self.failureResultOf(Deferred.fromCoroutine(resource.answer(None)), NotImplementedError)
