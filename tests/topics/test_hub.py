"""Who listens to what: each publication to each of them once, and to nobody else."""

from __future__ import annotations

from pushd.topics.fanout import Batch
from tests.audience import Failing, HubTestCase, Listener


class HubTests(HubTestCase):
    """Many who listen."""

    def test_counts(self) -> None:
        """Who listens can be asked, by topic."""
        first, second = self.listen(), self.listen()
        self.listen(topic="u")
        self.assertEqual((self.hub.count("t"), self.hub.count("u"), self.hub.count("v")), (2, 1, 0))
        self.assertEqual(self.hub.topics(), ["t", "u"])
        self.assertEqual(self.hub.subscribers("t"), [first, second])
        self.assertEqual(self.hub.subscribers("v"), [])

    def test_delays(self) -> None:
        """A publication is on its way until its last subscriber has it; one without is not."""
        for listener in (self.listen(), self.listen()):
            self.patch(listener, "deliver", lambda _: self.pass_time(0.1))
        self.publish("a")
        self.publish("x", "other")
        self.assertEqual(self.hub.delays.buckets[-1][1], 1)
        self.assertAlmostEqual(self.hub.delays.sum, 0.2)

    def test_delay_in_turn(self) -> None:
        """What is published while another is delivered waits for that, and it shows."""
        first = self.listen()
        heard: list[str] = []

        def deliver(batch: Batch) -> None:
            heard.extend(str(publication.data) for publication in batch)
            if heard == ["a"]:
                self.publish("b")
            self.pass_time(1)

        self.patch(first, "deliver", deliver)
        self.publish("a")
        self.past.clock.advance(0)
        self.assertEqual((heard, self.hub.delays.sum), (["a", "b"], 3))

    def test_delays_together(self) -> None:
        """What is published in one turn is delivered once, and counts from its beginning."""
        self.listen()
        for text in ("a", "b"):
            self.hub.deliver(self.past.history.add("t", text))
            self.pass_time(0.5)
        self.hub.flush()
        self.assertEqual((self.hub.delays.buckets[-1][1], self.hub.delays.sum), (1, 1))

    def test_uncork(self) -> None:
        """Everything that is corked is written before a delivery, and again after it."""
        listener, notes = self.listen(), list[str]()
        self.patch(self.hub, "_uncork", lambda: notes.append("uncork"))
        self.patch(listener, "deliver", lambda _: notes.append("deliver"))
        self.publish("a")
        self.assertEqual(notes, ["uncork", "deliver", "uncork"])

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with nothing else done."""
        self.past.clock.rightNow += seconds

    def test_follow(self) -> None:
        """A topic is followed from its first subscriber to its last, and forgotten then."""
        first = self.subscribe(Listener())
        second = self.subscribe(Listener())
        first.cancel()
        first.cancel()
        self.assertEqual(self.past.events, ["follow t"])
        second.cancel()
        self.assertEqual(self.past.events, ["follow t", "unfollow t"])
        self.assertEqual(self.hub._topics, {})

    def test_publish_while_told(self) -> None:
        """What one publishes while it is told, all hear after that: the order is one."""
        first, second = self.listen(), self.listen()
        first.react = lambda event: event == "1" and self.publish("2")
        self.publish("1")
        self.assertEqual(first.events[1:], ["1"])
        self.past.clock.advance(0)
        self.assertEqual(first.events[1:], ["1", "2"])
        self.assertEqual(second.events[1:], ["1", "2"])

    def test_publish_at_the_beginning(self) -> None:
        """What one publishes while it begins, it hears once."""
        listener = Listener()
        listener.react = lambda event: event.startswith("t from") and self.publish("1")
        self.subscribe(listener)
        self.publish("2")
        self.assertEqual(listener.events, ["t from e1:0", "1", "2"])

    def test_leave_while_told(self) -> None:
        """One who makes another leave spares it what both would have heard."""
        first, second = self.listen(), Listener()
        leaving = self.subscribe(second)
        first.react = lambda event: leaving.cancel()
        self.publish("1")
        self.assertEqual(first.events[1:], ["1"])
        self.assertEqual(second.events[1:], [])

    def test_come_while_told(self) -> None:
        """One who comes while others are told begins behind that publication."""
        late = Listener()
        first = self.listen()
        first.react = lambda event: event == "1" and self.subscribe(late)
        self.publish("1")
        self.publish("2")
        self.assertEqual(late.events, ["t from e1:1", "2"])

    def test_failing_listener(self) -> None:
        """One that fails is logged and ended; the others and the publisher do not notice."""

        def raise_it(event: str) -> None:
            if event == "1":
                raise Failing

        first, second = self.listen(), self.listen()
        first.react = raise_it
        self.publish("1")
        self.publish("2")
        self.assertEqual(first.events[1:], ["1", "lost"])
        self.assertEqual(second.events[1:], ["1", "2"])
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)

    def test_cost_of_delivery(self) -> None:
        """Delivering to N costs N calls, whatever else is listened to; the past is not asked."""
        others = [self.listen(topic=f"u{number}") for number in range(50)]
        listeners = [self.listen() for _ in range(50)]
        asked = self.past.asked
        for number in range(1, 4):
            self.publish("x")
            self.assertEqual([one.calls for one in listeners], [number] * 50)
        self.assertEqual({one.calls for one in others}, {0})
        self.assertEqual(self.past.asked, asked)

    def test_cost_of_resuming(self) -> None:
        """Resuming reads what was missed and no more, and nobody else hears of it."""
        for _ in range(1000):
            self.publish("x")
        other = self.listen()
        self.past.given = 0
        self.assertEqual(self.listen("e1:997").calls, 3)
        self.assertEqual((self.past.given, other.calls), (3, 0))

    def test_idle(self) -> None:
        """A topic that is listened to and silent costs no timer."""
        self.listen()
        self.assertEqual(self.past.clock.getDelayedCalls(), [])
