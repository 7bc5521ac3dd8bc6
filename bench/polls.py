"""The workload of long polls: an answer to a client that waits, and its next request."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

from bench.crowd import Crowd, make_request
from bench.readings import scaled
from bench.server import Server, Trouble
from bench.workload import Measure, Workload

# Seconds in which the server takes the requests that were sent, before the next publication.
_PAUSE = 0.05

_SUBSCRIBERS = 500
_WARM, _TIMES = 5, 20

_ID = re.compile(rb'"id":"([^"]+)"')
_MODIFIED = re.compile(rb"\r\nLast-Modified: ([^\r]+)")
_TAG = re.compile(rb"\r\nEtag: ([^\r]+)", re.IGNORECASE)


def run_polls(server: Server, scale: float) -> Mapping[str, float]:
    """L1: each subscriber polls again, with its new position, as soon as it has been answered."""
    path = server.rival.paths["poll"]
    polls = _PollsOfPushd(path) if server.rival.gives_ids else _PollsOfNchan(path)
    subscribers = scaled(_SUBSCRIBERS, scale)
    with Crowd(server.port, subscribers) as crowd, Crowd(server.control_port, 1) as publisher:
        announce = server.rival.paths["announce-poll"]
        crowd.send(polls.first(_publish(publisher, announce, 0)))
        began = 0.0
        for number in range(1, _WARM + _TIMES + 1):
            time.sleep(_PAUSE)
            if number == _WARM + 1:
                began = server.cpu()
            _publish(publisher, announce, number)
            crowd.take(subscribers, polls.follow(_data(number)))
        time.sleep(_PAUSE)
        return {"l1.cpu": (server.cpu() - began) / subscribers / _TIMES}


def _data(number: int) -> bytes:
    """Return the data of a publication: 128 bytes, unlike any other."""
    return b"%08d" % number + b"x" * 120


def _publish(publisher: Crowd, path: str, number: int) -> bytes:
    """Publish, and return the answer."""
    answers: list[bytes] = []
    publisher.send(make_request(f"POST {path}", "Content-Type: text/plain", body=_data(number)))

    def keep(head: bytes, body: bytes) -> None:
        answers.append(body)

    publisher.take(1, keep)
    return answers[0]


class _PollsOfPushd:
    """The position is the id in the body."""

    def __init__(self, path: str) -> None:
        self._path = path

    def first(self, published: bytes) -> bytes:
        """Return the first poll, given the answer to a publication."""
        return self._after(published)

    def follow(self, data: bytes) -> Callable[[bytes, bytes], bytes]:
        """Return what checks an answer, and makes the next poll."""

        def next_poll(head: bytes, body: bytes) -> bytes:
            if body.count(b'"data":') != 1 or data not in body:
                raise Trouble(f"not the next publication: {body[:300]!r}")
            return self._after(body)

        return next_poll

    def _after(self, body: bytes) -> bytes:
        found = _ID.search(body)
        if found is None:
            raise Trouble(f"no id in {body[:300]!r}")
        return make_request(f"GET {self._path}?after={found[1].decode()}")


class _PollsOfNchan:
    """The position is in two headers."""

    def __init__(self, path: str) -> None:
        self._path = path

    def first(self, published: bytes) -> bytes:
        """Return the first poll, which begins with the next publication."""
        return make_request(f"GET {self._path}")

    def follow(self, data: bytes) -> Callable[[bytes, bytes], bytes]:
        """Return what checks an answer, and makes the next poll."""

        def next_poll(head: bytes, body: bytes) -> bytes:
            modified, tag = _MODIFIED.search(head), _TAG.search(head)
            if body != data or modified is None or tag is None:
                raise Trouble(f"not the next publication: {head!r} {body[:300]!r}")
            return make_request(
                f"GET {self._path}",
                f"If-Modified-Since: {modified[1].decode()}",
                f"If-None-Match: {tag[1].decode()}",
            )

        return next_poll


POLLS: tuple[Workload, ...] = (
    Workload(
        "l1",
        "long polls of 500 subscribers",
        run_polls,
        (
            Measure(
                "l1.cpu",
                "L1 long poll, 500 subscribers: CPU per delivery and next request",
                "µs",
                relations=((1.5, "nchan"),),
            ),
        ),
        rivals=frozenset({"pushd", "nchan"}),
        family="Long polls",
    ),
)
