"""Resources whose answer a coroutine makes: what comes of it when there is none."""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred, fail

from pushd.api import resource
from pushd.api.resource import AsyncResource
from pushd.errors import Unavailable
from pushd.topics.publication import Id
from tests.api.test_publish import PublishTestCase


class Failing(Exception):
    """What goes wrong in these tests."""


class AsyncResourceTests(PublishTestCase):
    """Answers that fail, are late, or are not waited for."""

    def test_failure(self) -> None:
        """A failure of ours is 500 and in the log."""
        self.patch(self.daemon._service._broker, "publish", lambda *_: fail(Failing()))
        self.assertEqual(self.post("/topics/t").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)

    def test_unavailable(self) -> None:
        """While what keeps the topics is away, it is 503 and why, and when to try again."""
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
        """So is one while the answer is written."""

        def write(*_: object) -> None:
            raise Failing

        self.patch(resource, "write_response", write)
        self.assertEqual(self.post("/topics/t").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)

    def test_leaving(self) -> None:
        """Who leaves before the answer is not waited for."""
        cancelled: list[Deferred[Id]] = []
        broker = self.daemon._service._broker
        self.patch(broker, "publish", lambda *_: Deferred(cancelled.append))
        wire = self.daemon.open_connection(control=True)
        wire.send(b"POST /topics/t HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
        self.assertEqual(wire.received, b"")
        wire.leave()
        self.assertEqual(len(cancelled), 1)

    def test_base_resource(self) -> None:
        """A resource that does not say what it answers is a mistake of ours."""
        resource = AsyncResource(None)  # type: ignore[arg-type]
        self.failureResultOf(Deferred.fromCoroutine(resource.answer(None)), NotImplementedError)
