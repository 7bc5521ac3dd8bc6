"""Topics over long polling, and over plain polling with ``wait=0``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.access.closing import Closing
from pushd.access.counters import Traffic
from pushd.api.subscribe.presence import PresencePoll
from pushd.protocols.http.response import JSON_HEADERS, Response, json_refusal, write_response
from pushd.protocols.json_format import publication_json, to_json
from pushd.schedule.turns import Turn, Turns
from pushd.topics.fanout import Batch
from pushd.topics.hub import Hub
from pushd.topics.publication import Id, Publication
from pushd.topics.subscription import Subscription

# Size of a response, in bytes, beyond which no publication is added to it.
_ENOUGH = 1 << 20

# Seconds for which changes of presence are collected before a poll is answered because of them.
_PRESENCE_PACE = 0.5

#: Seconds that reading the history may take, in addition to the time that the poll waits.
READ_TIMEOUT = 5.0


class Repeat(Protocol):
    """Answers a poll, and expects the next."""

    def answer(self, poll: LongPoll) -> None:
        """Write the response."""


class LongPoll:
    """One poll: answered when there are publications, or when its time is up.

    :param turns: thousands of polls that a publication answers take turns, which keeps others from
        waiting, and bounds what is buffered for slow clients before the limit is looked at.
    :param wait: seconds to wait for a publication; 0 asks for the current ones only.
    :param presence: reads who is present, if the client asks for that.
    :param format_json: whether JSON is written as a value, not as text.
    """

    transport = "longpoll"

    #: Answers, if the next poll of the client may be known.
    repeat: Repeat | None = None

    def __init__(
        self,
        request: Any,
        clock: IReactorTime,
        turns: Turns,
        wait: float,
        presence: PresencePoll | None = None,
        *,
        format_json: bool = False,
    ) -> None:
        self._form = _list_item_with_value if format_json else _list_item
        self._request = request
        self._presence = presence
        # True once it is only waited for who is present, which is being read; and once a change of
        # that is to be answered.
        self._is_due = self._is_woken = False
        self._clock = clock
        self._turns = turns
        self._turn: Turn | None = None
        self._wait = wait
        self._topic = ""
        # The last id that the client has.
        self._after: Id | None = None
        # Where the publications of the response begin, once that is known.
        self._id: Id | None = None
        self._recovered = False
        # The publications as they are written in the response, the id of the last, and how many.
        self._written: list[bytes] = []
        # The first of them, as they were delivered.
        self._batch: Batch | None = None
        self._last: Id | None = None
        self._count = self._bytes = 0
        self._subscription: Subscription | None = None
        self._call: IDelayedCall | None = None
        self._open = True
        self.traffic = Traffic()

    def start(self, hub: Hub, topic: str, after: Id | None) -> None:
        """Subscribe."""
        self._topic, self._after = topic, after
        if self._presence is not None:
            self._presence.start(self._presence_changed)
        subscription = hub.subscribe(topic, self, after)
        if not self._open:
            return  # It is answered, as the subscription has ended already.
        self._subscription = subscription
        if self._call is None:
            self._answer_in(self._wait + READ_TIMEOUT)

    # What the subscription calls

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Start to wait; answer at once if publications are missing."""
        self._id = id
        self._recovered = recovered
        missing = self._after is not None and not recovered
        self._answer_in(0 if missing else self._wait)
        self._wake_for_presence()

    def deliver(self, batch: Batch) -> None:
        """Add publications to the response, which waits for others of this reactor iteration."""
        written = batch.render(self._form)
        if self._batch is None:
            self._batch = batch
        self._written.append(written)
        self._last = batch.last
        self._bytes += len(written)
        self._count += batch.count
        self._take_turn()

    def has_room(self) -> bool:
        """Return whether the response may take more."""
        return self._open and self._bytes < _ENOUGH

    def keeps_up(self) -> bool:
        """Return whether the response may take more; the next poll gets the rest."""
        return self.has_room()

    def can_take(self, batch: Batch) -> bool:
        """Return whether the response may take more: what is beyond comes in the next one."""
        return self.has_room()

    @property
    def taken(self) -> int:
        """How many bytes the client has taken: it takes the response as a whole, at its end."""
        return 0

    def direct_write(self) -> None:
        """Return None: publications are collected for one response."""

    def subscription_lost(self) -> None:
        """Answer with what has come; the answer to the next poll says what is missing."""
        self._answer()

    # What answers calls

    @property
    def last(self) -> Id:
        """The id that the response gives."""
        last = self._last or self._id
        assert last is not None
        return last

    @property
    def made_of(self) -> tuple[object, ...]:
        """What the response is made of, if others may be made of the same; else nothing."""
        one = len(self._written) == 1
        return (self._batch, self._form, self._recovered) if one else ()

    def body(self, presence: dict[str, Any] | None = None) -> bytes:
        """Return the body of the response.

        :param presence: who is present, if the client asks for that.
        """
        value = {"id": str(self.last), "recovered": self._recovered}
        if presence is not None:
            [listed] = presence["topics"].values()
            value["presence"] = {"version": presence["version"], **listed}
        head = to_json(value)
        # Without the comma of the first.
        items = b"".join(self._written)[1:]
        return b'%b,"publications":[%b]}\n' % (head[:-1].encode(), items)

    # What the connection and the daemon call

    def close_with(self, closing: Closing) -> Deferred[None]:
        """Answer now, as the daemon shuts down or the token has expired."""
        self._answer()
        return succeed(None)

    def end_subscriptions(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """Answer now if the topic matches."""
        ends = self._open and matches(self._topic)
        if ends:
            self._answer()
        return int(ends)

    def end_waiting(self) -> None:
        """Answer with what there is: the client has closed its side, and may be gone."""
        self._wait = 0
        self._answer_in(READ_TIMEOUT if self._id is None else 0)

    def forget(self) -> None:
        """Cancel everything: the client has its response, or has disconnected."""
        if not self._open:
            return
        self._open = False
        # Both refer to the poll, which would keep it until garbage is collected.
        presence, self._presence = self._presence, None
        call, self._call = self._call, None
        turn, self._turn = self._turn, None
        subscription, self._subscription = self._subscription, None
        if call is not None and call.active():
            call.cancel()
        if turn is not None:
            turn.cancel()
        if subscription is not None:
            subscription.cancel()
        if presence is not None:
            presence.stop()

    def _presence_changed(self) -> None:
        """Answer soon if the client does not know who is present."""
        if self._is_due:
            self._answer()
        elif self._id is not None:
            self._wake_for_presence()

    def _wake_for_presence(self) -> None:
        if self._presence is not None and self._presence.is_news and not self._is_woken:
            self._is_woken = True
            self._answer_in(0 if self._presence.is_first else _PRESENCE_PACE)

    def _answer_in(self, seconds: float) -> None:
        if self._call is not None and self._call.active():
            self._call.reset(seconds)
        else:
            self._call = self._clock.callLater(seconds, self._answer_when_ready)

    def _answer_when_ready(self) -> None:
        """Answer as soon as it is known who is present, if the client asks for that."""
        if self._presence is None or self._presence.is_ready:
            self._answer()
        else:
            self._is_due = True

    def _take_turn(self) -> None:
        if self._turn is None:
            self._turn = self._turns.wait("", self._answer_in_turn)

    def _answer_in_turn(self) -> None:
        self._turn = None  # It need not be looked for among hundreds, to be cancelled.
        began = self._clock.seconds()
        self._answer_when_ready()
        # Before the next poll is answered: what all of one portion buffer may be much.
        self._request.site.policy.memory.enforce()
        self._turns.charge(began)

    def _answer(self) -> None:
        if not self._open:
            return
        presence = None if self._presence is None else self._presence.json()
        self.forget()
        self.traffic.messages_out, self.traffic.bytes_out = self._count, self._bytes
        if self.repeat is not None and self._id is not None:
            self.repeat.answer(self)
        else:
            write_response(self._request, self._make_response(presence))

    def _make_response(self, presence: dict[str, Any] | None) -> Response:
        if self._id is None:
            retry = {"Retry-After": f"{READ_TIMEOUT:g}"}
            return json_refusal(503, "topic temporarily unavailable", "topic", retry)
        return Response(200, JSON_HEADERS, self.body(presence))


def _list_item(publication: Publication) -> bytes:
    """Return a publication in the list of a response, after a comma."""
    return f",{publication_json(publication)}".encode()


def _list_item_with_value(publication: Publication) -> bytes:
    """Return the same, with JSON as a value."""
    return f",{publication_json(publication, format_json=True)}".encode()
