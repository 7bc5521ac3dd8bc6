"""Topics by long polling, and by plain polling."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.access.closing import Closing
from pushd.access.counters import Traffic
from pushd.protocols.http.response import Response, json_refusal, json_response, write_response
from pushd.protocols.websocket.subscriber import publication_json
from pushd.topics.fanout import Batch
from pushd.topics.hub import Hub
from pushd.topics.publication import Id, Publication
from pushd.topics.subscription import Subscription

# How many bytes one answer has, about: no publication is added beyond.
_ENOUGH = 1 << 20

# How long the past may take to be read, in seconds, beside the time that the poll waits anyway.
_PATIENCE = 5.0

# What a publication takes in it beside its data, in bytes, about.
_OVERHEAD = 50


class LongPoll:
    """One question for what is new: answered when there is something, or when the time is up.

    :param wait: seconds to wait for something; 0 asks for what is here.
    """

    transport = "longpoll"

    def __init__(self, request: Any, clock: IReactorTime, wait: float) -> None:
        self._request = request
        self._clock = clock
        self._wait = wait
        self._asked: Id | None = None
        self._id: Id | None = None
        self._recovered = False
        self._publications: list[Publication] = []
        self._bytes = 0
        self._subscription: Subscription | None = None
        self._call: IDelayedCall | None = None
        self._open = True
        self.traffic = Traffic()

    def start(self, hub: Hub, topic: str, after: Id | None) -> None:
        """Begin to wait."""
        self._asked = after
        self._subscription = hub.subscribe(topic, self, after)
        if self._open and self._call is None:
            self._answer_in(self._wait + _PATIENCE)

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Note where the publications begin; that some are lost is an answer already."""
        self._id = id
        self._recovered = recovered
        lost = self._asked is not None and not recovered
        self._answer_in(0 if lost else self._wait)

    def deliver(self, batch: Batch) -> None:
        """Put publications into the answer, with those that come in the same turn."""
        for publication in batch:
            self._publications.append(publication)
            self._bytes += len(publication.data) + _OVERHEAD
        self._answer_in(0)

    def has_room(self) -> bool:
        """Whether the answer can hold more."""
        return self._open and self._bytes < _ENOUGH

    def keeps_up(self) -> bool:
        """Whether the answer can hold more; what it can't is for the next."""
        return self.has_room()

    def direct_write(self) -> None:
        """Return None: publications are collected for one response."""

    def subscription_lost(self) -> None:
        """Answer with what has come; the answer to the next poll says what is missing."""
        self._answer()

    def close_with(self, closing: Closing) -> Deferred[None]:
        """Answer now, as the daemon stops."""
        self._answer()
        return succeed(None)

    def forget(self) -> None:
        """Let go of everything: the client has its answer, or has left."""
        self._open = False
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._subscription is not None:
            self._subscription.cancel()

    def _answer_in(self, seconds: float) -> None:
        if self._call is not None and self._call.active():
            self._call.reset(seconds)
        else:
            self._call = self._clock.callLater(seconds, self._answer)

    def _answer(self) -> None:
        if not self._open:
            return
        self.forget()
        answer = self._make_answer()
        self.traffic.messages_out = len(self._publications)
        self.traffic.bytes_out = self._bytes - _OVERHEAD * len(self._publications)
        write_response(self._request, answer)

    def _make_answer(self) -> Response:
        if self._id is None:
            retry = {"Retry-After": f"{_PATIENCE:g}"}
            return json_refusal(503, "the topic can't be read just now", "topic", retry)
        last = self._publications[-1].id if self._publications else self._id
        answer = {
            "id": str(last),
            "recovered": self._recovered,
            "publications": [publication_json(one) for one in self._publications],
        }
        return json_response(200, answer)
