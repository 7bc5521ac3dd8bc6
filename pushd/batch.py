"""Publications that are delivered together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pushd.messages import Id, Publication

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
