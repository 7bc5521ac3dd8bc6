"""Publishing from code that nobody hands a request to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.testing.daemon import Answer, Daemon
from pushd.views import inprocess
from pushd.views.request import Request
from pushd.views.threads import BlockingPublisher


class PublishTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Forget the daemons that other tests never stopped."""
        self.patch(inprocess, "_running", [])

    def ask(self, daemon: Daemon, path: str) -> Answer:
        """Ask for a page."""
        answer = daemon.get(path)
        assert answer is not None
        return answer

    def daemon(self, work: Callable[[], Any]) -> Daemon:
        """Start a daemon whose one view, in a thread, does some work and answers what comes."""

        def view(request: Request) -> str:
            return str(work())

        return Daemon({"/": view})

    def test_publish(self) -> None:
        """Code that knows no request publishes to the daemon around it, now or later."""
        with self.daemon(partial(inprocess.publish, "a", "news")) as daemon:
            id = self.ask(daemon, "/").text
            self.assertIn(id, self.ask(daemon, "/topics/a?wait=0").text)
        later = partial(inprocess.publish, "a", "news", delay=1)
        with self.daemon(lambda: later().cancel()) as daemon:
            self.assertEqual(self.ask(daemon, "/").text, "None")
            self.assertEqual(daemon.pending_calls, [])

    def test_none(self) -> None:
        """Where no daemon runs, or none any more, that is said."""
        self.daemon(lambda: None).stop()
        self.assertRaisesRegex(
            RuntimeError, "no pushd runs in this process", inprocess.publish, "a", "b"
        )

    def test_stopped_unstarted(self) -> None:
        """A daemon may be stopped that was never started."""
        inprocess.InProcess(BlockingPublisher(None, None)).stopService()  # type: ignore[arg-type] # never used
