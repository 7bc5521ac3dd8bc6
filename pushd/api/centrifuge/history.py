"""Pages of a topic's history, as Centrifuge clients ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pushd.api.centrifuge.codes import ErrorCode
from pushd.errors import CommandRefused
from pushd.topics.broker import Broker
from pushd.topics.publication import Id, Publication, size_of

# Bytes of the history that are read at a time, and how many a page has at most, approximately: one
# publication is always among them.
_READ_SIZE = 1 << 18
_MAX_PAGE = 1 << 20

# How many publications are read at a time in reverse: the size of those to come is not known.
_STEP = 16

# Counted for each publication beside its data.
_OVERHEAD = 64


@dataclass(frozen=True, slots=True)
class Page:
    """Publications, and the last id of their topic."""

    publications: Sequence[Publication]
    last: Id


async def read_page(broker: Broker, topic: str, request: dict[str, Any]) -> Page:
    """Read the page that a request asks for by ``limit``, ``since`` and ``reverse``.

    Without a limit it has no publications, with a negative one as many as there are. It begins
    after ``since`` or, in reverse, before it; without that at the one end or the other. It may be
    shorter than asked for, as it has about a megabyte at most.

    Raises CommandRefused for a position of which nothing is known, and Unavailable.
    """
    # Unlike a description, it keeps the epoch of an idle topic for a client that comes back.
    last = (await broker.replay(topic, None, 0)).last
    count = (await broker.describe(topic))[1]
    first = last.offset - count + 1
    since = request.get("since")
    if since is not None and since.get("epoch", "") not in ("", last.epoch):
        raise CommandRefused(ErrorCode.UNRECOVERABLE_POSITION, "unrecoverable position")
    limit = request.get("limit", 0)
    limit = count if limit < 0 else min(limit, count)
    if not limit:
        return Page((), last)
    if request.get("reverse"):
        end = last.offset + 1 if since is None else min(since.get("offset", 0), last.offset + 1)
        return Page(await _read_back(broker, topic, Id(last.epoch, end), first, limit), last)
    begin = first if since is None else max(first, since.get("offset", 0) + 1)
    return Page(await _read(broker, topic, Id(last.epoch, begin - 1), limit), last)


async def _read(broker: Broker, topic: str, after: Id, count: int) -> list[Publication]:
    """Read some publications after an id; fewer if there are no more, or no more fit."""
    found: list[Publication] = []
    while len(found) < count and _size(found) <= _MAX_PAGE:
        replay = await broker.replay(topic, after, _READ_SIZE)
        if not replay.recovered or not replay.publications:
            break
        found += replay.publications
        after = found[-1].id
    return _fit(found[:count])


async def _read_back(
    broker: Broker, topic: str, before: Id, first: int, count: int
) -> list[Publication]:
    """Read some publications before an id, the newest first; fewer if no more fit.

    :param first: the offset of the oldest one.
    """
    found: list[Publication] = []
    end, most = before.offset, _STEP
    while len(found) < count and end > first and _size(found) <= _MAX_PAGE:
        step = min(most, count - len(found), end - first)
        part = await _read(broker, topic, Id(before.epoch, end - step - 1), step)
        if len(part) == step:
            found += reversed(part)
            end -= step
        elif step > 1:
            most = 1  # They are large.
        else:
            break  # It was dropped meanwhile.
    return _fit(found)


def _fit(publications: list[Publication]) -> list[Publication]:
    """Return as many of the first publications as a page may have."""
    size = 0
    for place, publication in enumerate(publications):
        size += _size((publication,))
        if size > _MAX_PAGE and place:
            return publications[:place]
    return publications


def _size(publications: Sequence[Publication]) -> int:
    return sum(size_of(one.data) + _OVERHEAD for one in publications)
