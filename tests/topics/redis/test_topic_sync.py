"""How topics that are followed are kept in step with Redis, and from being forgotten."""

from __future__ import annotations

from twisted.logger import capturedLogs

from pushd.topics.publication import Id, Publication
from tests.broker_contract import Listener
from tests.topics.redis.test_broker import BrokerTestCase


class FollowingTests(BrokerTestCase):
    """Topics that begin to be followed, are told of, and are let go."""

    def test_one_subscription(self) -> None:
        """A topic is subscribed to once, from its first subscriber to its last."""
        node = self.start()
        first, second = node.listen("t"), node.listen("t")
        self.assertEqual(self.redis.sessions[0].channels, [b"pushd:0:t"])
        for listener in (first, second):
            assert listener.subscription is not None
            listener.subscription.cancel()
        self.assertEqual(self.redis.sessions[0].channels, [])

    def test_begins_behind_the_broker(self) -> None:
        """Nobody reads before the broker has, or what comes between might be taken for given."""
        node = self.start()
        self.redis.late = True
        listener = node.listen("t", after="e0-0:0")
        waiting, answer = self.redis.waiting.popleft()
        waiting.callback(answer)
        self.assertEqual(self.redis.asked, ["replay"])
        self.redis.publish("t", "a")
        self.redis.answer()
        self.assertEqual(listener.events, [("e0-0:0", True), ("e0-0:1", "a")])

    def test_left_in_each_step(self) -> None:
        """One who leaves while Redis is asked is not served, and its topic is let go."""
        for steps in range(3):
            with self.subTest(steps):
                self.setUp()
                node = self.start()
                self.redis.late = True
                listener = node.listen("t")
                for _ in range(steps):
                    waiting, answer = self.redis.waiting.popleft()
                    waiting.callback(answer)
                assert listener.subscription is not None
                listener.subscription.cancel()
                self.redis.answer()
                self.assertEqual(listener.events, [("e0-0:0", False)] if steps > 1 else [])
                self.assertEqual(self.redis.sessions[0].channels, [])
                self.stop()

    def test_gap(self) -> None:
        """What was not told is read as soon as something else is."""
        listener = self.start().listen("t")
        self.redis.silent = True
        self.redis.publish("t", "a")
        self.redis.silent = False
        self.redis.publish("t", "b")
        self.assertEqual([data for _, data in listener.events[1:]], ["a", "b"])

    def test_strangers(self) -> None:
        """What others say is logged and ignored, and so is what comes too late."""
        node = self.start()
        listener = node.listen("t")
        with capturedLogs() as events:
            self.redis.sessions[0].notice(b"pushd:0:t", b"hello")
        self.assertEqual(len(events), 1)
        self.redis.sessions[0].notice(b"pushd:0:another", b"e0-0:1 tx")
        self.redis.tell(Publication("t", "again", Id("e0-0", 0)))
        self.assertEqual(len(listener.events), 1)

    def test_refused(self) -> None:
        """A topic that Redis does not let us read is tried again; who waits, waits for that."""
        node = self.start()
        self.redis.refusal = "OOM"
        with capturedLogs() as events:
            listener = node.listen("t", "e0-0:0")
            node.listen("u")
            self.clock.advance(1)
        self.assertEqual([event["error"] for event in events], ["OOM"])
        self.assertEqual(listener.events, [])
        with capturedLogs() as events:
            self.clock.pump([1] * 10)
        self.assertEqual([event["error"] for event in events], ["OOM"])
        self.redis.refusal = None
        self.clock.advance(1)
        self.assertEqual(listener.events, [("e0-0:0", True)])
        self.redis.refusal = "OOM"
        self.assertEqual(node.listen("t", "e0-0:9").events, ["lost"])

    def test_refused_and_left(self) -> None:
        """A topic that nobody wants any more is not tried again."""
        node = self.start()
        self.redis.late = True
        listener = node.listen("t")
        waiting, answer = self.redis.waiting.popleft()
        self.redis.refusal = "OOM"
        waiting.callback(answer)
        assert listener.subscription is not None
        listener.subscription.cancel()
        self.redis.answer()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_many_topics(self) -> None:
        """However many topics catch up, only some do at a time, and all do in the end."""
        node = self.start()
        listeners = [node.listen(f"t{number}") for number in range(200)]
        self.redis.lose()
        ids = [str(self.redis.publish(f"t{number}", "x")) for number in range(200)]
        self.redis.late = True
        self.go_on()
        waiting, answer = self.redis.waiting.popleft()
        waiting.callback(answer)
        self.assertEqual(len(self.redis.waiting), 64)
        self.redis.answer()
        self.assertEqual([one.events[-1] for one in listeners], [(id, "x") for id in ids])


class TouchingTests(BrokerTestCase):
    """Topics that are followed are not forgotten."""

    def listen(self) -> Listener:
        """Let somebody listen, and forget what was asked for that."""
        listener = self.start().listen("t")
        self.redis.asked.clear()
        return listener

    def test_touched(self) -> None:
        """Every few minutes, in steps of some hundred."""
        node = self.start()
        for number in range(501):
            node.listen(f"t{number}")
        self.redis.asked.clear()
        self.clock.advance(199)
        self.assertEqual(self.redis.asked, [])
        self.clock.advance(1)
        self.assertEqual(self.redis.asked, ["touch"] * 2)
        self.clock.advance(200)
        self.assertEqual(self.redis.asked, ["touch"] * 4)

    def test_lost_tail(self) -> None:
        """What was not told, and nothing behind it, is found by that as well."""
        listener = self.listen()
        self.redis.silent = True
        id = str(self.redis.publish("t", "a"))
        self.clock.advance(200)
        self.assertEqual(listener.events[1:], [(id, "a")])

    def test_forgotten(self) -> None:
        """And so is that all is forgotten."""
        listener = self.listen()
        self.redis.history.stop()
        self.redis.ids.clear()
        self.redis.sessions.append(self.redis.sessions[0])
        self.redis.forget()
        self.clock.advance(200)
        self.assertEqual(listener.events[1:], ["lost"])

    def test_refused(self) -> None:
        """When Redis refuses that, or is lost, it is tried the next time."""
        self.listen()
        self.redis.refusal = "OOM"
        self.clock.advance(200)
        self.redis.refusal = None
        self.redis.late = True
        self.clock.advance(200)
        self.redis.lose()
        self.go_on()
        self.clock.advance(200)
        self.assertEqual(self.redis.asked.count("touch"), 3)

    def test_left_meanwhile(self) -> None:
        """One that was left while it was asked for is let go."""
        listener = self.listen()
        self.redis.silent = self.redis.late = True
        self.redis.publish("t", "a")
        self.clock.advance(200)
        assert listener.subscription is not None
        listener.subscription.cancel()
        self.redis.answer()
        self.assertEqual(self.redis.asked, ["touch"])
