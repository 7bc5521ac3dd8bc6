"""Calls on the beat: at their time, in their order, and one timer for all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pushd.schedule.coalescing import CoalescingClock
from tests.bracket import Bracket
from tests.unhurried import UNHURRIED


class BeatTests(SynchronousTestCase):
    """A clock over another."""

    def setUp(self) -> None:
        """Start at a time that is no whole number of anything."""
        self.clock = Clock()
        self.clock.advance(1.23456)
        self.beat = CoalescingClock(self.clock)
        self.made: list[Any] = []

    def later(self, delay: float, what: Any) -> IDelayedCall:
        """Note something later."""
        return self.beat.callLater(delay, self.made.append, what)

    def test_interfaces(self) -> None:
        """It can stand wherever a clock can."""
        verifyObject(IReactorTime, self.beat)
        verifyObject(IDelayedCall, self.later(1, "x"))

    def test_name(self) -> None:
        """A call says when it is due, and what it is, to who looks for what is left behind."""
        self.assertIn("in 2 s: list.append('x',)", repr(self.later(2, "x")))

    def test_time(self) -> None:
        """A call is made at its time or within a millisecond of it, and never before."""
        call = self.later(0.5, "x")
        self.assertAlmostEqual(call.getTime(), 1.73456)
        self.clock.advance(0.4999)
        self.assertEqual(self.made, [])
        self.clock.advance(0.0011)
        self.assertEqual(self.made, ["x"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_arguments(self) -> None:
        """A call has the arguments that it was given, those with names as well."""
        self.beat.callLater(1, lambda *given, **named: self.made.append((given, named)), 1, b=2)
        self.beat.callLater(1, lambda *given, **named: self.made.append((given, named)), 1)
        self.clock.advance(1.001)
        self.assertEqual(self.made, [((1,), {"b": 2}), ((1,), {})])

    def test_whole_beats(self) -> None:
        """Where the clock shows whole milliseconds a call is made at its very time."""
        clock = Clock()
        beat = CoalescingClock(clock)
        for tenths in range(1, 100):
            beat.callLater(tenths * 0.1 - clock.seconds(), self.made.append, tenths)
            clock.advance(tenths * 0.1 - clock.seconds())
            self.assertEqual(self.made[-1], tenths)

    def test_at_once(self) -> None:
        """What is due at once does not wait for a beat."""
        self.later(0, "x")
        self.clock.advance(0)
        self.assertEqual(self.made, ["x"])

    def test_one_timer(self) -> None:
        """However many calls there are, the clock behind has one; what is sooner moves it."""
        for number in range(1000):
            self.later(2 - number / 1000, number)
        [timer] = self.clock.getDelayedCalls()
        self.assertTrue(0 <= timer.getTime() - (1.23456 + 1.001) <= 0.004)
        self.assertEqual(len(self.beat.getDelayedCalls()), 1000)
        self.clock.advance(2.1)
        self.assertEqual(self.made, list(range(999, -1, -1)))
        self.assertEqual(self.beat.getDelayedCalls(), [])

    def test_together(self) -> None:
        """What is due in one millisecond is one wake of the clock, in the order it came."""
        wakes: list[None] = []
        call_later = self.clock.callLater

        def count(delay: float, function: Callable[..., Any], *args: Any) -> Any:
            wakes.append(None)
            return call_later(delay, function, *args)

        self.patch(self.clock, "callLater", count)
        for name in "abc":
            self.later(0.1, name)
        self.clock.advance(0.2)
        self.assertEqual((self.made, len(wakes)), (["a", "b", "c"], 1))

    def test_few(self) -> None:
        """Where few wait, none waits for another: each is made within a millisecond."""
        made = self.make_in_turn(60)
        self.assertLess(max(late for late, _ in made), 0.00101)

    def test_many(self) -> None:
        """Where many wait, what is due within four milliseconds is made at once."""
        made = self.make_in_turn(1000)
        self.assertLess(max(late for late, _ in made), 0.00401)
        self.assertLess(len({moment for _, moment in made}), 350)

    def test_order(self) -> None:
        """What is made at once is made in the order in which it was due, then as it came."""
        others = [self.later(60 + number, None) for number in range(100)]
        for what, delay in (("c", 1.002), ("a", 1.0), ("d", 1.002), ("b", 1.001)):
            self.later(delay, what)
        self.clock.advance(1.01)
        self.assertEqual(self.made, ["a", "b", "c", "d"])
        for other in others:
            other.cancel()

    def make_in_turn(self, count: int) -> list[tuple[float, float]]:
        """How late each is of those that are due one after the other, and when it is made."""
        made: list[tuple[float, float]] = []

        def note(due: float) -> None:
            made.append((self.clock.seconds() - due, self.clock.seconds()))

        for number in range(count):
            due = 2 + number * 0.0011
            self.beat.call_at(due, partial(note, due))
        while calls := self.clock.getDelayedCalls():
            self.clock.advance(calls[0].getTime() - self.clock.seconds())
        self.assertEqual(len(made), count)
        return made

    def test_held_together(self) -> None:
        """What is due together is done within what holds it together; one call needs no such."""
        notes: list[str] = []
        beat = CoalescingClock(self.clock, batch=Bracket(notes))
        for delay in (1, 2, 2):
            beat.callLater(delay, notes.append, "call")
        self.clock.advance(1.01)
        self.assertEqual(notes, ["call"])
        self.clock.advance(1)
        self.assertEqual(notes, ["call", "(", "call", "call", ")"])

    def test_at_a_time(self) -> None:
        """A call may be for a time of the clock; if that has passed it comes in the next turn."""
        made: list[float] = []
        for time in (2.0, 1.0):
            self.beat.call_at(time, lambda: made.append(self.clock.seconds()))
        self.assertEqual(made, [])
        self.clock.advance(0)
        self.assertEqual(made, [1.23456])
        self.clock.advance(2.0001 - self.clock.seconds())
        self.assertEqual(made[1:], [2.0001])
        self.beat.call_at(9, lambda: made.append(0)).cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel(self) -> None:
        """A call that is cancelled is not made; without any there is no timer."""
        first, second, third = (self.later(delay, delay) for delay in (1, 2, 2))
        first.cancel()
        second.cancel()
        self.assertFalse(first.active())
        self.assertTrue(third.active())
        self.clock.advance(3)
        self.assertEqual(self.made, [2])
        self.later(1, "x").cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_put_off_again_and_again(self) -> None:
        """Time-outs that never come to pass leave nothing behind, long before their time."""
        self.later(7200, "last")
        for number in range(1000):
            self.later(3600 + number, number).cancel()
            self.clock.advance(0.01)
        self.assertLess(len(self.beat._beats), 100)
        self.later(1, "first")
        self.clock.advance(7200)
        self.assertEqual(self.made, ["first", "last"])

    def test_too_late(self) -> None:
        """What was made or cancelled can't be changed any more."""
        made, cancelled = self.later(1, "x"), self.later(1, "y")
        cancelled.cancel()
        self.clock.advance(2)
        self.assertFalse(made.active())
        for call, error in ((made, AlreadyCalled), (cancelled, AlreadyCancelled)):
            self.assertRaises(error, call.cancel)
            self.assertRaises(error, call.reset, 1)
            self.assertRaises(error, call.delay, 1)

    def test_put_off(self) -> None:
        """A call can be put off, or had sooner."""
        first, second = self.later(1, "first"), self.later(2, "second")
        first.delay(2)
        second.reset(0.5)
        self.clock.advance(0.6)
        self.assertEqual(self.made, ["second"])
        self.clock.advance(2)
        self.assertEqual(self.made, ["second"])
        self.clock.advance(0.6)
        self.assertEqual(self.made, ["second", "first"])

    def test_among_themselves(self) -> None:
        """A call may cancel or put off one of its own beat, and begin others."""

        def meddle() -> None:
            second.cancel()
            third.reset(1)
            self.later(1, "fourth")

        self.beat.callLater(1, meddle)
        second, third = self.later(1, "second"), self.later(1, "third")
        self.clock.advance(1.01)
        self.assertEqual(self.made, [])
        self.clock.advance(1.01)
        self.assertEqual(self.made, ["third", "fourth"])

    def test_failure(self) -> None:
        """A call that fails is logged, and the others are made."""
        self.beat.callLater(1, lambda: 1 / 0)
        self.later(1, "x")
        self.clock.advance(2)
        self.assertEqual(self.made, ["x"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    @UNHURRIED
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["call", "cancel", "reset", "pass"]),
                st.integers(0, 9),
                st.floats(0.0002, 0.02),
            ),
            max_size=60,
        )
    )
    def test_as_any_clock(self, steps: list[tuple[str, int, float]]) -> None:
        """Whatever is done to it, each call is made once, in time, and no timer is left."""
        clock = Clock()
        beat = CoalescingClock(clock)
        calls: list[IDelayedCall] = []
        made: dict[int, float] = {}
        for what, which, seconds in steps:
            if what == "call":
                name = len(calls)
                calls.append(
                    beat.callLater(seconds, lambda name=name: made.update({name: clock.seconds()}))
                )
            elif what == "pass":
                clock.advance(seconds)
            elif which < len(calls) and calls[which].active():
                if what == "cancel":
                    calls[which].cancel()
                else:
                    calls[which].reset(seconds)
            for name, call in enumerate(calls):
                if call.active():
                    self.assertGreater(call.getTime() + 0.0011, clock.seconds())
                elif name in made:
                    self.assertGreaterEqual(made[name] + 1e-6, call.getTime())
        clock.advance(1)
        self.assertEqual([call for call in calls if call.active()], [])
        self.assertEqual(clock.getDelayedCalls(), [])
