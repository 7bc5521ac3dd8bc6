"""Tests of CoalescingClock."""

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
from tests.support.hypothesis_settings import NO_DEADLINE
from tests.support.recording_context import RecordingContext


class CoalescingClockTests(SynchronousTestCase):
    """CoalescingClock makes delayed calls in time, in order, and with one timer."""

    def setUp(self) -> None:
        """Start at a time between two ticks."""
        self.clock = Clock()
        self.clock.advance(1.23456)
        self.coalescing = CoalescingClock(self.clock)
        self.made: list[Any] = []

    def append_later(self, delay: float, what: Any) -> IDelayedCall:
        """Append something to ``made`` after a delay."""
        return self.coalescing.callLater(delay, self.made.append, what)

    def test_interfaces(self) -> None:
        """The clock and its calls provide Twisted's interfaces."""
        verifyObject(IReactorTime, self.coalescing)
        verifyObject(IDelayedCall, self.append_later(1, "x"))

    def test_repr(self) -> None:
        """The repr of a call says when it is due, and what it calls."""
        self.assertIn("in 2 s: list.append('x',)", repr(self.append_later(2, "x")))

    def test_time(self) -> None:
        """A call is made at its time or up to a millisecond later, and never earlier."""
        call = self.append_later(0.5, "x")
        self.assertAlmostEqual(call.getTime(), 1.73456)
        self.clock.advance(0.4999)
        self.assertEqual(self.made, [])
        self.clock.advance(0.0011)
        self.assertEqual(self.made, ["x"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_arguments(self) -> None:
        """A call is made with its positional and keyword arguments."""
        self.coalescing.callLater(
            1, lambda *given, **named: self.made.append((given, named)), 1, b=2
        )
        self.coalescing.callLater(1, lambda *given, **named: self.made.append((given, named)), 1)
        self.clock.advance(1.001)
        self.assertEqual(self.made, [((1,), {"b": 2}), ((1,), {})])

    def test_whole_milliseconds(self) -> None:
        """A call for a whole millisecond is made exactly then, despite float errors."""
        clock = Clock()
        coalescing = CoalescingClock(clock)
        for tenths in range(1, 100):
            coalescing.callLater(tenths * 0.1 - clock.seconds(), self.made.append, tenths)
            clock.advance(tenths * 0.1 - clock.seconds())
            self.assertEqual(self.made[-1], tenths)

    def test_no_delay(self) -> None:
        """A call without a delay does not wait for a tick."""
        self.append_later(0, "x")
        self.clock.advance(0)
        self.assertEqual(self.made, ["x"])

    def test_one_timer(self) -> None:
        """A thousand calls need one call of the underlying clock, set to the first of them."""
        for number in range(1000):
            self.append_later(2 - number / 1000, number)
        [timer] = self.clock.getDelayedCalls()
        self.assertTrue(0 <= timer.getTime() - (1.23456 + 1.001) <= 0.004)
        self.assertEqual(len(self.coalescing.getDelayedCalls()), 1000)
        self.clock.advance(2.1)
        self.assertEqual(self.made, list(range(999, -1, -1)))
        self.assertEqual(self.coalescing.getDelayedCalls(), [])

    def test_one_wake(self) -> None:
        """Calls for one millisecond are made at one wake, in the order of scheduling."""
        wakes: list[None] = []
        call_later = self.clock.callLater

        def count(delay: float, function: Callable[..., Any], *args: Any) -> Any:
            wakes.append(None)
            return call_later(delay, function, *args)

        self.patch(self.clock, "callLater", count)
        for name in "abc":
            self.append_later(0.1, name)
        self.clock.advance(0.2)
        self.assertEqual((self.made, len(wakes)), (["a", "b", "c"], 1))

    def test_few(self) -> None:
        """With calls in few ticks, each call is made within a millisecond of its time."""
        made = self.make_successive_calls(60)
        self.assertLess(max(late for late, _ in made), 0.00101)

    def test_many(self) -> None:
        """With calls in many ticks, those within four milliseconds are made together."""
        made = self.make_successive_calls(1000)
        self.assertLess(max(late for late, _ in made), 0.00401)
        self.assertLess(len({moment for _, moment in made}), 350)

    def test_order(self) -> None:
        """Calls made together are in the order of their times, then in that of scheduling."""
        others = [self.append_later(60 + number, None) for number in range(100)]
        for what, delay in (("c", 1.002), ("a", 1.0), ("d", 1.002), ("b", 1.001)):
            self.append_later(delay, what)
        self.clock.advance(1.01)
        self.assertEqual(self.made, ["a", "b", "c", "d"])
        for other in others:
            other.cancel()

    def make_successive_calls(self, count: int) -> list[tuple[float, float]]:
        """Make calls that are due one after the other; return how late each is, and when made."""
        made: list[tuple[float, float]] = []

        def note(due: float) -> None:
            made.append((self.clock.seconds() - due, self.clock.seconds()))

        for number in range(count):
            due = 2 + number * 0.0011
            self.coalescing.call_at(due, partial(note, due))
        while calls := self.clock.getDelayedCalls():
            self.clock.advance(calls[0].getTime() - self.clock.seconds())
        self.assertEqual(len(made), count)
        return made

    def test_batch(self) -> None:
        """Several calls of a tick are made inside ``batch``; a single call is not."""
        notes: list[str] = []
        coalescing = CoalescingClock(self.clock, batch=RecordingContext(notes))
        for delay in (1, 2, 2):
            coalescing.callLater(delay, notes.append, "call")
        self.clock.advance(1.01)
        self.assertEqual(notes, ["call"])
        self.clock.advance(1)
        self.assertEqual(notes, ["call", "(", "call", "call", ")"])

    def test_call_at(self) -> None:
        """``call_at`` makes a call at a time; at the next iteration if that has passed."""
        made: list[float] = []
        for time in (2.0, 1.0):
            self.coalescing.call_at(time, lambda: made.append(self.clock.seconds()))
        self.assertEqual(made, [])
        self.clock.advance(0)
        self.assertEqual(made, [1.23456])
        self.clock.advance(2.0001 - self.clock.seconds())
        self.assertEqual(made[1:], [2.0001])
        self.coalescing.call_at(9, lambda: made.append(0)).cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel(self) -> None:
        """A cancelled call is not made; without calls there is no timer."""
        first, second, third = (self.append_later(delay, delay) for delay in (1, 2, 2))
        first.cancel()
        second.cancel()
        self.assertFalse(first.active())
        self.assertTrue(third.active())
        self.clock.advance(3)
        self.assertEqual(self.made, [2])
        self.append_later(1, "x").cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_memory(self) -> None:
        """Calls that are cancelled long before their time do not fill the heap."""
        self.append_later(7200, "last")
        for number in range(1000):
            self.append_later(3600 + number, number).cancel()
            self.clock.advance(0.01)
        self.assertLess(len(self.coalescing._ticks), 100)
        self.append_later(1, "first")
        self.clock.advance(7200)
        self.assertEqual(self.made, ["first", "last"])

    def test_too_late(self) -> None:
        """Changing a call that was made or cancelled raises Twisted's errors."""
        made, cancelled = self.append_later(1, "x"), self.append_later(1, "y")
        cancelled.cancel()
        self.clock.advance(2)
        self.assertFalse(made.active())
        for call, error in ((made, AlreadyCalled), (cancelled, AlreadyCancelled)):
            self.assertRaises(error, call.cancel)
            self.assertRaises(error, call.reset, 1)
            self.assertRaises(error, call.delay, 1)

    def test_delay_and_reset(self) -> None:
        """A call can be postponed, and brought forward."""
        first, second = self.append_later(1, "first"), self.append_later(2, "second")
        first.delay(2)
        second.reset(0.5)
        self.clock.advance(0.6)
        self.assertEqual(self.made, ["second"])
        self.clock.advance(2)
        self.assertEqual(self.made, ["second"])
        self.clock.advance(0.6)
        self.assertEqual(self.made, ["second", "first"])

    def test_changes_within_a_tick(self) -> None:
        """A call may cancel or postpone calls of its own tick, and schedule others."""

        def change_others() -> None:
            second.cancel()
            third.reset(1)
            self.append_later(1, "fourth")

        self.coalescing.callLater(1, change_others)
        second, third = self.append_later(1, "second"), self.append_later(1, "third")
        self.clock.advance(1.01)
        self.assertEqual(self.made, [])
        self.clock.advance(1.01)
        self.assertEqual(self.made, ["third", "fourth"])

    def test_failure(self) -> None:
        """A call that raises is logged, and the others are made."""
        self.coalescing.callLater(1, lambda: 1 / 0)
        self.append_later(1, "x")
        self.clock.advance(2)
        self.assertEqual(self.made, ["x"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    @NO_DEADLINE
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
    def test_property(self, steps: list[tuple[str, int, float]]) -> None:
        """After any sequence of steps each call was made once, in time, and no timer is left."""
        clock = Clock()
        coalescing = CoalescingClock(clock)
        calls: list[IDelayedCall] = []
        made: dict[int, float] = {}
        for what, which, seconds in steps:
            if what == "call":
                name = len(calls)
                calls.append(
                    coalescing.callLater(
                        seconds, lambda name=name: made.update({name: clock.seconds()})
                    )
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
