"""Who listens to one topic."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from twisted.python.failure import Failure

from pushd.topics.fanout import Batch, DirectWrite, FanOutGroup, Form
from pushd.topics.subscription import Subscription


class SubscriberList:
    """The subscriptions of one topic: some hear it in unison, the others one by one."""

    __slots__ = ("_apart", "_unisons")

    def __init__(self) -> None:
        self._apart: dict[Subscription, None] = {}
        self._unisons: dict[Form, FanOutGroup[Subscription]] = {}

    def __len__(self) -> int:
        return len(self._apart) + sum(map(len, self._unisons.values()))

    def __iter__(self) -> Iterator[Subscription]:
        return chain(self.apart(), *self._unisons.values())

    def apart(self) -> tuple[Subscription, ...]:
        """Those who hear it one by one."""
        return tuple(self._apart)

    def add(self, subscription: Subscription) -> None:
        """Let one in, apart."""
        self._apart[subscription] = None

    def discard(self, subscription: Subscription) -> None:
        """Let one go."""
        self.set_apart(subscription)
        del self._apart[subscription]

    def unite(self, subscription: Subscription, part: DirectWrite) -> None:
        """Let one that has just been told hear in unison what comes next."""
        unison = self._unisons.get(part.form)
        if unison is None:
            unison = self._unisons[part.form] = FanOutGroup(part.form, subscription.last)
        # Those were told before it.
        assert unison.last == subscription.last
        del self._apart[subscription]
        subscription.joined(unison, part)
        unison.join(subscription)

    def set_apart(self, subscription: Subscription) -> None:
        """Let one hear by itself what comes next."""
        unison = subscription.unison
        if unison is None:
            return
        unison.leave(subscription)
        if not unison:
            del self._unisons[subscription.part.form]
        self._apart[subscription] = None
        subscription.left(unison.last)

    def break_up(self) -> None:
        """Let all hear by themselves what comes next."""
        for unison in tuple(self._unisons.values()):
            self._break_up(unison)

    def tell(self, batch: Batch) -> int:
        """Tell all what has just been published. Returns how many of them heard it in unison.

        Where something is the matter with it, all are told one by one. One that fails is ended;
        nothing is raised.
        """
        told = 0
        for unison in tuple(self._unisons.values()):
            if _is_fit(batch, unison):
                told += len(unison)
                self._write_rest(unison.tell(batch))
            else:
                self._break_up(unison)
        for subscription in self.apart():
            try:
                subscription.take(batch)
            except Exception:
                subscription.failed(Failure())
        return told

    def settle(self) -> None:
        """Count on each connection what it was told in unison, until now."""
        for unison in self._unisons.values():
            unison.settle()

    def _break_up(self, unison: FanOutGroup[Subscription]) -> None:
        for subscription in unison:
            self.set_apart(subscription)

    def _write_rest(self, short: list[tuple[Subscription, bytes]]) -> None:
        """Write what sockets did not take; those that are short are apart from then on."""
        # First all apart: nobody is to be written to past what waits for them now.
        writes = [(subscription, subscription.part.write, rest) for subscription, rest in short]
        for subscription, _ in short:
            self.set_apart(subscription)
        failures = []
        for subscription, write, rest in writes:
            try:
                write(rest)
            except Exception:  # The others are not to notice.
                failures.append((subscription, Failure()))
        # Only now, as that may make others write.
        for subscription, failure in failures:
            subscription.failed(failure)


def _is_fit(batch: Batch, unison: FanOutGroup[Subscription]) -> bool:
    """Whether what was published can be told in unison; else each finds out by itself why not."""
    if not batch.follows(unison.last):
        return False
    try:
        batch.render(unison.form)
    except Exception:  # Whatever is wrong is logged for each, as they can't be told either.
        return False
    return True
