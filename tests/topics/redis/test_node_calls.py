"""Calls of other nodes over a fake Redis: answered by all, late, by none, and not at all."""

from __future__ import annotations

import json
from typing import Any

from twisted.logger import capturedLogs

from pushd.errors import RedisError, RedisUnavailable, Unavailable
from pushd.topics.broker import NodeCalls
from tests.support.fake_redis import NAMES
from tests.support.redis_nodes import RedisNodesTestCase


class NodeCallTestCase(RedisNodesTestCase):
    """A fake Redis, and nodes that answer with their names."""

    def start(self, name: str) -> NodeCalls:
        """Start a node that answers, and return its calls."""
        broker = self.make(name)
        assert broker.calls is not None
        broker.calls.serve(lambda method, argument: [name, method, argument])
        self.connect(broker)
        return broker.calls

    def start_subscribing(self, name: str) -> NodeCalls:
        """Start a node whose session is open, while Redis has not confirmed its subscriptions."""
        self.redis.late = True
        broker = self.make(name)
        assert broker.calls is not None
        broker.calls.serve(lambda method, argument: name)
        self.connect(broker)
        opening, session = self.redis.waiting.popleft()
        opening.callback(session)
        return broker.calls

    def answer(self, calls: NodeCalls) -> Any:
        """Call the other nodes, and return what they answer."""
        return self.successResultOf(calls.call("add", {"to": 1}))

    def why(self, calls: NodeCalls) -> str:
        """Call the other nodes, and return why that fails at once."""
        return str(self.failureResultOf(calls.call("add", 1), Unavailable).value)


class CallTests(NodeCallTestCase):
    def test_answers(self) -> None:
        """Each other node answers, once."""
        a, _, _ = (self.start(name) for name in "abc")
        self.assertEqual(self.answer(a), [["b", "add", {"to": 1}], ["c", "add", {"to": 1}]])

    def test_alone(self) -> None:
        """A node without others gets no answer; one that takes no part is none."""
        calls = self.start("a")
        self.connect(self.make("b"))
        self.assertEqual(self.answer(calls), [])

    def test_serving_later(self) -> None:
        """A node may begin to take part while it is connected."""
        calls, broker = self.start("a"), self.make("b")
        self.connect(broker)
        assert broker.calls is not None
        broker.calls.serve(lambda method, argument: "late")
        self.assertEqual(self.answer(calls), ["late"])
        self.assertEqual(len(self.answer(broker.calls)), 1)

    def test_late(self) -> None:
        """A call waits until the node has subscribed to answers, and for each answer."""
        self.redis.late = True
        self.start("b")
        self.redis.answer()
        called = self.start_subscribing("a").call("add", 1)
        self.assertNoResult(called)
        self.redis.answer()
        self.assertEqual(self.successResultOf(called), [["b", "add", 1]])

    def test_one_deadline(self) -> None:
        """The time in which a call waits for the subscription is not added to that for answers."""
        self.start("b")
        self.redis.sessions[0].on_message = lambda channel, message: None
        called = self.start_subscribing("a").call("add", 1)
        self.clock.advance(4)
        self.redis.answer()
        self.clock.advance(0.9)
        self.assertNoResult(called)
        self.clock.advance(0.1)
        why = self.failureResultOf(called, Unavailable).value
        self.assertEqual(str(why), "0 of 1 other nodes have answered in 5 seconds")

    def test_not_subscribed(self) -> None:
        """A call fails in the same time if there is no subscription, and is not sent after it."""
        called = self.start_subscribing("a").call("add", 1)
        self.clock.advance(4.9)
        self.assertNoResult(called)
        self.clock.advance(0.1)
        why = self.failureResultOf(called, Unavailable).value
        self.assertEqual(str(why), "Redis at it: no subscription to answers in 5 seconds")
        self.redis.answer()
        self.assertNotIn("PUBLISH", self.redis.asked)

    def test_cancelled(self) -> None:
        """A call that was cancelled ends without an error when the answers come."""
        calls = self.start("a")
        self.start("b")
        self.redis.late = True
        timers = len(self.clock.getDelayedCalls())
        called = calls.call("add", 1)
        called.addErrback(lambda _: None)
        called.cancel()
        self.assertEqual(len(self.clock.getDelayedCalls()), timers)
        self.redis.answer()

    def test_cancelled_waiting(self) -> None:
        """A call that is cancelled as another one is refused is not sent after it."""
        calls = self.start_subscribing("a")
        first, second = (calls.call("add", number) for number in range(2))
        second.addErrback(lambda _: None)
        first.addErrback(lambda _: second.cancel())
        self.redis.refusal = "NOPERM"
        self.redis.answer()
        self.assertEqual(self.redis.asked.count("PUBLISH"), 1)

    def test_cancelled_by_another(self) -> None:
        """A call that is cancelled as another one fails does not keep the rest from failing."""
        calls = self.start("a")
        self.redis.late = True
        first, second, third = (calls.call("add", number) for number in range(3))
        second.addErrback(lambda _: None)
        first.addErrback(lambda _: second.cancel())
        self.redis.lose()
        self.failureResultOf(third, Unavailable)


class FaultTests(NodeCallTestCase):
    def test_unavailable(self) -> None:
        """Without Redis a call fails at once."""
        calls = self.start("a")
        self.redis.trouble = RedisUnavailable("down")
        self.redis.lose()
        self.assertEqual(self.why(calls), "Redis at it: the connection was lost")

    def test_lost(self) -> None:
        """A call that is under way when Redis is lost fails; the next session has new ones."""
        calls = self.start("a")
        self.start("b")
        self.redis.late = True
        called = calls.call("add", 1)
        self.redis.lose()
        self.assertIn("lost", str(self.failureResultOf(called, Unavailable).value))
        self.clock.advance(10)
        self.assertEqual(len(self.answer(calls)), 1)

    def test_lost_before(self) -> None:
        """A call that waits fails if the session is lost; late answers of that are ignored."""
        calls = self.start_subscribing("a")
        called = calls.call("add", 1)
        held, self.redis.waiting = self.redis.waiting, type(self.redis.waiting)()
        self.redis.lose()
        self.assertIn("lost", str(self.failureResultOf(called, Unavailable).value))
        for waiting, answer in held:
            waiting.callback(answer)
        self.assertIn("lost", self.why(calls))

    def test_refused(self) -> None:
        """If Redis refuses the call, that is the error."""
        calls = self.start("a")
        self.redis.refusal = "NOPERM"
        self.assertEqual(self.why(calls), "Redis at it: NOPERM")

    def test_refused_late(self) -> None:
        """What becomes of a call that has failed is ignored."""
        calls = self.start("a")
        self.start("b")
        for answer in (RedisError("NOPERM"), 2):
            self.redis.late = True
            called = calls.call("add", 1)
            self.redis.late = False
            held, self.redis.waiting = self.redis.waiting, type(self.redis.waiting)()
            self.clock.advance(5)
            self.failureResultOf(called, Unavailable)
            for waiting, _ in held:
                waiting.errback(answer) if isinstance(answer, Exception) else waiting.callback(
                    answer
                )

    def test_silent(self) -> None:
        """A node that does not answer in time makes the call fail; a late answer is ignored."""
        calls = self.start("a")
        self.start("b")
        self.redis.sessions[1].on_message = lambda channel, message: None
        called = calls.call("add", 1)
        self.clock.advance(5)
        why = self.failureResultOf(called, Unavailable).value
        self.assertEqual(str(why), "0 of 1 other nodes have answered in 5 seconds")
        self.redis.send_message(NAMES.answer_channel("a"), b'{"id": 1, "answer": 2}')
        self.redis.late = True
        called = calls.call("add", 1)
        self.clock.advance(5)
        why = self.failureResultOf(called, Unavailable).value
        self.assertEqual(str(why), "0 of ? other nodes have answered in 5 seconds")
        self.redis.answer()

    def test_failing(self) -> None:
        """A node that raises logs that, and the caller knows; so if an answer is too long."""
        calls, broker = self.start("a"), self.make("b")
        assert broker.calls is not None
        broker.calls.serve(lambda method, argument: argument["missing"])
        self.connect(broker)
        with capturedLogs() as events:
            self.assertEqual(self.why(calls), "a node failed to answer: see its log")
        self.assertEqual([event["event"] for event in events], ["node_call_failed"])
        self.flushLoggedErrors(TypeError)
        broker.calls.serve(lambda method, argument: "x" * (1 << 20))
        self.assertEqual(self.why(calls), "the answer of a node is too long: ask for less")

    def test_unanswerable(self) -> None:
        """An answer that cannot be sent is ignored; the caller waits in vain."""
        calls = self.start("a")
        self.start("b")
        session: Any = self.redis.sessions[1]
        session.run = lambda *args: self.redis.reply(RedisUnavailable("gone"))
        called = calls.call("add", 1)
        self.clock.advance(5)
        self.failureResultOf(called, Unavailable)

    def test_foreign(self) -> None:
        """What other programs send is logged, and ignored."""
        self.start("a")
        channels = (NAMES.call_channel, NAMES.answer_channel("a"))
        messages = (b"", b"{", b"1", b"{}", b"[]", b"\xff")
        with capturedLogs() as events:
            for channel in channels:
                for message in messages:
                    self.redis.send_message(channel, message)
        self.assertEqual([one["event"] for one in events], ["broker_misused"] * 12)

    def test_other_channels(self) -> None:
        """What comes on other channels is left to others, also by a node that takes no part."""
        for broker in (self.make("a"), self.make("b")):
            assert broker.calls is not None
            self.assertFalse(broker._calls.receive(NAMES.channel("t"), b"{}"))
            broker.calls.serve(lambda method, argument: None)
            self.assertFalse(broker._calls.receive(NAMES.channel("t"), b"{}"))

    def test_without_session(self) -> None:
        """A call that arrives as the session ends is not answered."""
        broker = self.make("a")
        assert broker.calls is not None
        broker.calls.serve(lambda method, argument: "a")
        call: Any = {"node": "b", "id": 1, "method": "m", "argument": None}
        broker._receive(NAMES.call_channel, json.dumps(call).encode())
