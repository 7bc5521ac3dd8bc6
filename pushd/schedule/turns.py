"""Turns: heavy work for many connections is done in portions, between which others are served."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.schedule.coroutine import CheapAwaitable

#: Seconds that heavy work may take in one iteration of the reactor; the step that exceeds it is
#: completed.
PORTION = 0.01


class Turns:
    """Lets heavy work take turns once it takes too much of the reactor's time.

    Work is charged by the time that it took. As long as that is less than ``PORTION`` in one
    iteration of the reactor, ``is_free`` is true and nothing has to wait. From then on work waits
    for a later iteration: keys have turns one after the other, however much waits for one of them,
    and so an address with a hundred connections does not delay another address by a hundred turns.

    :param batch: entered while turns are served.
    """

    def __init__(
        self, clock: IReactorTime, batch: AbstractContextManager[object] | None = None
    ) -> None:
        self._clock = clock
        self._batch = nullcontext() if batch is None else batch
        # The turns of each key; the key that was served last is at the end.
        self._waiting: OrderedDict[Hashable, deque[Turn]] = OrderedDict()
        self._spent = 0.0
        self._serving = False
        self._call: IDelayedCall | None = None

    def __len__(self) -> int:
        """Return the number of turns that are awaited."""
        return sum(map(len, self._waiting.values()))

    @property
    def is_free(self) -> bool:
        """Whether work may be done now, without a turn or in the turn that is being served."""
        return self._spent < PORTION and (self._serving or not self._waiting)

    def charge(self, since: float) -> None:
        """Charge work that was done.

        :param since: when it began, in seconds of the clock.
        """
        self._spent += max(0.0, self._clock.seconds() - since)
        if self._spent >= PORTION:
            self._schedule()

    def wait(self, key: Hashable, call: Callable[[], object]) -> Turn:
        """Call a function when it is its turn, in a later iteration of the reactor.

        :param key: whose turn it is, such as the address of a client.
        """
        turn = Turn(self, key, call)
        self._waiting.setdefault(key, deque()).append(turn)
        self._schedule()
        return turn

    def take(self, key: Hashable) -> CheapAwaitable:
        """Return what to await for a turn."""
        return _AwaitedTurn(self, key)

    def remove(self, turn: Turn) -> None:
        """Remove a turn that has not come; called by ``Turn.cancel``."""
        turns = self._waiting.get(turn.key)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[turn.key]
        if not self._waiting and self._call is not None and self._spent < PORTION:
            self._call.cancel()
            self._call = None

    def _schedule(self) -> None:
        if self._call is None and not self._serving:
            self._call = self._clock.callLater(0, self._serve)

    def _serve(self) -> None:
        """Serve as many turns as one iteration has time for."""
        self._call, self._spent, self._serving = None, 0.0, True
        # What begins to wait meanwhile waits for the next iteration.
        number = len(self)
        try:
            while number and self._waiting and self._spent < PORTION:
                number -= 1
                key, turns = self._waiting.popitem(last=False)
                turn = turns.popleft()
                if turns:
                    self._waiting[key] = turns
                with self._batch:
                    turn.call()
        finally:
            self._serving = False
            if self._waiting or self._spent >= PORTION:
                self._schedule()


class Turn:
    """Something that waits for its turn."""

    __slots__ = ("_turns", "call", "key")

    def __init__(self, turns: Turns, key: Hashable, call: Callable[[], object]) -> None:
        self._turns = turns
        self.key = key
        self.call = call

    def cancel(self) -> None:
        """Give the turn up; does nothing once it has come."""
        self._turns.remove(self)


class _AwaitedTurn(CheapAwaitable):
    """A turn that a coroutine awaits."""

    __slots__ = ("_key", "_turns")

    def __init__(self, turns: Turns, key: Hashable) -> None:
        self._turns = turns
        self._key = key

    def start(self, resume: Callable[..., Any]) -> None:
        """Wait for the turn."""
        self._turns.wait(self._key, resume)

    def cancel(self) -> None:
        """Do nothing: the turn comes soon."""
