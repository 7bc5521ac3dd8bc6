"""Publishing from code of the daemon's process that has no request."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.testing import Answer, Daemon
from pushd.views import inprocess
from pushd.views.request import Request
from pushd.views.threads import BlockingPublisher


class PublishTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Forget daemons that other tests did not stop."""
        self.patch(inprocess, "_running", [])

    def ask(self, daemon: Daemon, path: str) -> Answer:
        """Request a page."""
        answer = daemon.get(path)
        assert answer is not None
        return answer

    def daemon(self, work: Callable[[], Any]) -> Daemon:
        """Start a daemon with one view, in a thread, which answers with what a function returns."""

        def view(request: Request) -> str:
            return str(work())

        return Daemon({"/": view})

    def test_publish(self) -> None:
        """Code without a request publishes to the daemon of its process, now or later."""
        with self.daemon(partial(inprocess.publish, "a", "news")) as daemon:
            id = self.ask(daemon, "/").text
            self.assertIn(id, self.ask(daemon, "/topics/a?wait=0").text)
        with self.daemon(partial(inprocess.publish, "a", {"b": 1}, event="paid")) as daemon:
            browser = daemon.connect("/topics/a", subprotocols=("pushd.v1",))
            self.ask(daemon, "/")
            self.assertIn('"event":"paid"', browser.messages[-1])
        later = partial(inprocess.publish, "a", "news", delay=1)
        with self.daemon(lambda: later().cancel()) as daemon:
            self.assertEqual(self.ask(daemon, "/").text, "True")
            self.assertEqual(daemon.pending_calls, [])

    def test_last_id(self) -> None:
        """Code without a request gets the last id of a topic."""
        with self.daemon(partial(inprocess.last_id, "a")) as daemon:
            id = daemon.publish("a", "news")
            self.assertEqual(self.ask(daemon, "/").text, str(id))
            self.assertEqual((inprocess.last_id("a"), daemon.last_id("a")), (str(id), str(id)))

    def test_none(self) -> None:
        """Publishing fails with a RuntimeError if no daemon runs, or none any more."""
        self.daemon(lambda: None).stop()
        self.assertRaisesRegex(
            RuntimeError, "no pushd runs in this process", inprocess.publish, "a", "b"
        )
        self.assertRaises(RuntimeError, inprocess.last_id, "a")
        with self.assertRaisesRegex(RuntimeError, "no pushd runs in this process"):
            inprocess.revoke(topic="a")

    def test_stopped_unstarted(self) -> None:
        """A daemon that was never started can be stopped."""
        inprocess.InProcess(BlockingPublisher(None, None)).stopService()  # type: ignore[arg-type] # never used
