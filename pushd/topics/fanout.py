"""Fan-out: publications delivered together, and subscribers written to directly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from pushd.access.counters import Traffic
from pushd.topics.publication import Id, Publication

#: A socket's own ``send``: says how much it took, or raises OSError.
Send = Callable[[bytes], int]


class DirectWrite:
    """How one of them is told: past everything, as nothing waits before its socket.

    :param form: the bytes that it takes for a publication.
    :param send: takes them.
    :param write: takes, and keeps, what ``send`` did not.
    :param traffic: what went over its connection, but for what is not settled yet.
    """

    __slots__ = ("form", "send", "settled_bytes", "settled_messages", "traffic", "write")

    def __init__(
        self, form: Form, send: Send, write: Callable[[bytes], object], traffic: Traffic
    ) -> None:
        self.form = form
        self.send = send
        self.write = write
        self.traffic = traffic
        #: What its unison had said when this was last settled.
        self.settled_messages = self.settled_bytes = 0


class Member(Protocol):
    """One who can be told so."""

    @property
    def part(self) -> DirectWrite:
        """How."""


_M = TypeVar("_M", bound=Member)


class FanOutGroup(Generic[_M]):
    """Members of one topic that take the same form, and have heard the same up to now.

    To tell one of thousands costs mostly what must be fetched from memory for it: how far it has
    heard, its connection, what waits there, its counters. Here they have it all in common, so that
    a delivery is one call of a socket's ``send``. Who is to be asked anything has to leave before.

    :param form: what they take.
    :param last: the id of what they heard last.
    """

    __slots__ = ("_bytes", "_members", "_messages", "form", "last")

    def __init__(self, form: Form, last: Id) -> None:
        self.form = form
        self.last = last
        self._members: dict[Send, _M] = {}
        # What it has said, from its beginning.
        self._messages = self._bytes = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[_M]:
        return iter(tuple(self._members.values()))

    def join(self, member: _M) -> None:
        """Take one in who has heard the same."""
        part = member.part
        part.settled_messages, part.settled_bytes = self._messages, self._bytes
        self._members[part.send] = member

    def leave(self, member: _M) -> None:
        """Let one go, with all counted that it was told."""
        part = member.part
        del self._members[part.send]
        self._settle(part)

    def tell(self, batch: Batch) -> list[tuple[_M, bytes]]:
        """Tell all what follows. Returns those whose sockets did not take all, and the rest."""
        data = batch.render(self.form)
        size = len(data)
        self.last = batch.last
        self._messages += batch.count
        self._bytes += size
        short = []
        for send in tuple(self._members):
            try:
                sent = send(data)
            except OSError:
                # There is no room, or no connection: who writes the rest finds out.
                sent = 0
            if sent < size:
                short.append((self._members[send], data[sent:]))
        return short

    def settle(self) -> None:
        """Count on each connection what has been said until now."""
        for member in self._members.values():
            self._settle(member.part)

    def _settle(self, part: DirectWrite) -> None:
        part.traffic.messages_out += self._messages - part.settled_messages
        part.traffic.bytes_out += self._bytes - part.settled_bytes
        part.settled_messages, part.settled_bytes = self._messages, self._bytes


#: Makes the bytes by which a publication goes out. The same function makes the same bytes.
Form = Callable[[Publication], bytes]


class Batch:
    """Publications of one topic that follow one another, and the bytes by which they go out.

    What many take in one form is made once, for all of them.

    :param publications: one or more of one epoch, their offsets without a gap.
    """

    __slots__ = ("_forms", "count", "epoch", "first", "last", "publications", "topic")

    def __init__(self, publications: Sequence[Publication]) -> None:
        self.publications = publications
        self.topic = publications[0].topic
        #: How many there are: everybody who is told asks for it.
        self.count = len(publications)
        self.last: Id = publications[-1].id
        self.epoch = self.last.epoch
        #: The offset of the first publication.
        self.first = publications[0].id.offset
        self._forms: dict[Form, bytes] = {}

    def __iter__(self) -> Iterator[Publication]:
        return iter(self.publications)

    def render(self, form: Form) -> bytes:
        """All publications in a form, one right behind the other."""
        rendered = self._forms.get(form)
        if rendered is None:
            rendered = self._forms[form] = b"".join(map(form, self.publications))
        return rendered

    def follows(self, id: Id) -> bool:
        """Whether its first publication is the next one behind an id."""
        return self.first == id.offset + 1 and self.epoch == id.epoch

    def since(self, offset: int) -> Batch:
        """The publications behind an offset, of which there is one at least."""
        known = offset + 1 - self.first
        return self if known <= 0 else Batch(self.publications[known:])
