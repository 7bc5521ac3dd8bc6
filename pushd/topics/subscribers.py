"""The subscribers of one topic: those in fan-out groups, and all others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from itertools import chain

from twisted.python.failure import Failure

from pushd.topics.fanout import Batch, FanOutGroup, Form
from pushd.topics.publication import Id
from pushd.topics.subscription import Subscription


class SubscriberList:
    """The subscriptions of one topic.

    A subscription whose subscriber can be written to directly is in the group of its form. All
    others are asked before each delivery.
    """

    __slots__ = ("_groups", "_ungrouped")

    def __init__(self) -> None:
        self._ungrouped: dict[Subscription, None] = {}
        self._groups: dict[Form, FanOutGroup[Subscription]] = {}

    def __len__(self) -> int:
        return len(self._ungrouped) + sum(map(len, self._groups.values()))

    def __iter__(self) -> Iterator[Subscription]:
        return chain(tuple(self._ungrouped), *self._groups.values())

    def add(self, subscription: Subscription) -> None:
        """Add a subscription, outside of all groups."""
        self._ungrouped[subscription] = None

    def discard(self, subscription: Subscription) -> None:
        """Remove a subscription that is in no group."""
        del self._ungrouped[subscription]

    def deliver(self, batch: Batch, is_late: Callable[[], bool]) -> Generator[None, None, int]:
        """Deliver a batch that was just published, in steps: it yields whenever it is late.

        Whatever happens between two steps, the position of each subscription says what it lacks. A
        subscription that fails is ended; nothing is raised. Returns how many got the batch through
        a group.
        """
        grouped = 0
        for form, group in tuple(self._groups.items()):
            if not group:
                del self._groups[form]
            elif _can_write(batch, group):
                group.begin(batch)
                while not group.complete:
                    short, reached = group.write(batch, is_late)
                    grouped += reached
                    self._write_rest(short, batch.render(form))
                    # They may be closed between two steps, and must not be kept with all they
                    # buffer.
                    del short
                    if is_late():
                        yield
            else:
                # Each finds out by itself what is missing or wrong.
                _dissolve(group)
        waiting = deque(self._ungrouped)
        while waiting:
            subscription = waiting.popleft()
            try:
                direct = subscription.deliver(batch)
                if direct is not None:
                    subscription.join_group(self._group_for(direct.form, batch.last), direct)
            except Exception:
                subscription.failed(Failure())
            del subscription
            if is_late():
                yield
        return grouped

    def end_at_gap(self, last: Id) -> None:
        """End every subscription to which not everything up to an id was delivered."""
        for group in tuple(self._groups.values()):
            _dissolve(group)
        for subscription in tuple(self._ungrouped):
            try:
                subscription.end_at_gap(last)
            except Exception:
                subscription.failed(Failure())

    def flush_counters(self) -> None:
        """Count on each connection what its group has written to it until now."""
        for group in self._groups.values():
            for subscription in group:
                group.flush_counters(subscription.direct)

    def _group_for(self, form: Form, last: Id) -> FanOutGroup[Subscription]:
        group = self._groups.get(form)
        if not group:
            group = self._groups[form] = FanOutGroup(form, last, self._ungrouped)
        # The groups are written to first.
        assert group.last == last
        return group

    def _write_rest(self, short: list[tuple[Subscription, int]], data: bytes) -> None:
        """Write what sockets did not take of some data, outside of the group."""
        writes = [(one, one.direct.write_rest, sent) for one, sent in short]
        # All leave before the first write: a write may make the connections write what they have.
        for subscription, _ in short:
            subscription.leave_group()
        failures = []
        for subscription, write_rest, sent in writes:
            try:
                write_rest(data, sent)
            except Exception:
                failures.append((subscription, Failure()))
        # Only now, as the end of a subscription writes to its connection.
        for subscription, failure in failures:
            subscription.failed(failure)


def _can_write(batch: Batch, group: FanOutGroup[Subscription]) -> bool:
    """Return whether a batch follows the group's position and can be rendered in its form."""
    # A group is not complete if a delivery has failed.
    if not group.complete or not batch.follows(group.last):
        return False
    try:
        batch.render(group.form)
    except Exception:
        # It is raised again, and logged, for each subscription by itself.
        return False
    return True


def _dissolve(group: FanOutGroup[Subscription]) -> None:
    for subscription in group:
        subscription.leave_group()
