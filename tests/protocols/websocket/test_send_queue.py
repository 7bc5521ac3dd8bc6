"""The send queue: tasks and subscribers that wait for room."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.websocket.send_queue import SendQueue


class RecordingSubscriber:
    """A subscriber that records when it is resumed.

    :param then: called at that moment.
    """

    def __init__(self, name: str, resumed: list[str], then: Callable[[], object] = list) -> None:
        self._name = name
        self._resumed = resumed
        self._then = then

    def resume(self) -> None:
        """Record it."""
        self._resumed.append(self._name)
        self._then()


class SendQueueTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a queue whose connection is full."""
        self.queue = SendQueue()
        self.queue.pause()
        self.resumed: list[str] = []

    def wait(self, name: str, then: Callable[[], object] = list) -> Deferred[None]:
        """Let a task wait."""
        waiting = self.queue.wait()

        def resume(_: None) -> None:
            self.resumed.append(name)
            then()

        waiting.addCallback(resume)
        return waiting

    def add(self, name: str, then: Callable[[], object] = list) -> RecordingSubscriber:
        """Let a subscriber wait."""
        subscriber = RecordingSubscriber(name, self.resumed, then)
        self.queue.add(subscriber)
        return subscriber

    def test_order(self) -> None:
        """Tasks are resumed first, then subscribers, each in their order; then nothing waits."""
        self.add("subscriber a")
        self.wait("task a")
        self.wait("task b")
        self.add("subscriber b")
        self.assertEqual((self.queue.paused, len(self.queue)), (True, 4))
        self.queue.resume()
        self.assertEqual(self.resumed, ["task a", "task b", "subscriber a", "subscriber b"])
        self.assertEqual((self.queue.paused, len(self.queue)), (False, 0))

    def test_full_again(self) -> None:
        """Each goes on only while there is room; the others keep their places."""
        self.wait("task a", self.queue.pause)
        self.wait("task b")
        self.add("subscriber a", self.queue.pause)
        self.add("subscriber b")
        for resumed in (["task a"], ["task b", "subscriber a"], ["subscriber b"]):
            self.queue.resume()
            self.assertEqual(self.resumed, resumed)
            self.resumed.clear()

    def test_more_to_send(self) -> None:
        """A subscriber that has more to send than there was room for goes to the end."""

        def wait_again() -> None:
            self.queue.pause()
            self.queue.add(first)

        first = self.add("a", wait_again)
        self.add("b")
        self.queue.resume()
        self.queue.resume()
        self.assertEqual(self.resumed, ["a", "b", "a"])

    def test_cancelled(self) -> None:
        """A task that is cancelled, and a subscriber that is discarded, are forgotten."""
        waiting = self.wait("task")
        subscriber = self.add("subscriber")
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        for _ in range(2):
            self.queue.discard(subscriber)
        self.queue.resume()
        self.assertEqual(self.resumed, [])
