"""Permissions: the answers of an authorizer, what is remembered of them, and revoking."""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from math import inf
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.access.authorization import Action
from pushd.access.closing import PERMISSION_EXPIRED, PERMISSION_REVOKED
from pushd.access.connections import Connections
from pushd.access.tokens import Identity, check_pattern, matches
from pushd.errors import NotPermitted, Unavailable

_log = Logger(namespace="pushd.access")

# Bytes of ``info`` as JSON, at most: all who may see the presence of a topic get that of each.
_MAX_INFO = 1024

# Bytes of a subject, at most.
_MAX_SUBJECT = 255

# Answers that are remembered, at most.
_MAX_ANSWERS = 10_000

# Revocations that are remembered, for answers that were asked for before.
_MAX_REVOCATIONS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """An authorizer permits what a client asks for; it returns this, or True for all defaults.

    Raises TypeError or ValueError for a value that is not valid.
    """

    #: Who the client is, for presence, revoking and the log; None for what its token says.
    subject: str | None = None
    #: When the permission ends, which ends the subscription: seconds since 1970, or a ``datetime``
    #: with a time zone. None for no end but that of the client's token.
    until: float | datetime | None = None
    #: What other subscribers may know of the client, if the topic has presence: any JSON, up to
    #: 1024 bytes.
    info: Any = None
    #: Seconds for which the answer holds for the same client, action and topic.
    cache: float = 0

    def __post_init__(self) -> None:
        if self.subject is not None:
            if not isinstance(self.subject, str):
                raise TypeError(f"subject must be a str; got {type(self.subject).__name__}")
            if len(self.subject.encode()) > _MAX_SUBJECT:
                raise ValueError(f"subject must be at most {_MAX_SUBJECT} bytes of UTF-8")
        if isinstance(self.until, datetime) and self.until.tzinfo is None:
            raise ValueError("until must have a time zone, as datetime.now(UTC) has")
        if not -inf < self.expires or self.until == inf:
            raise ValueError(f"until must be a finite time; got {self.until}")
        if not 0 <= self.cache < inf:
            raise ValueError(f"cache must be 0 seconds or more; got {self.cache}")
        size = len(json.dumps(self.info, ensure_ascii=False, allow_nan=False).encode())
        if size > _MAX_INFO:
            raise ValueError(f"info must be at most {_MAX_INFO} bytes of JSON; got {size}")

    @property
    def expires(self) -> float:
        """When it ends, in seconds since 1970; infinite if it does not."""
        if self.until is None:
            return inf
        return self.until.timestamp() if isinstance(self.until, datetime) else self.until

    def identity(self, token: Identity | None) -> Identity | None:
        """Return what is known of a client that has this; None if that is nothing.

        :param token: the identity in its token, if it has one.
        """
        ends = self.expires
        if token is None:
            if self.subject is None and self.info is None and ends == inf:
                return None
            token = Identity(subject="", expires=inf, closing=PERMISSION_EXPIRED)
        return Identity(
            subject=token.subject if self.subject is None else self.subject,
            expires=min(ends, token.expires),
            subscribe=token.subscribe,
            publish=token.publish,
            claims=token.claims,
            info=token.info if self.info is None else self.info,
            closing=PERMISSION_EXPIRED if ends < token.expires else token.closing,
        )


#: What an authorizer answers.
Answer = Permission | NotPermitted


@dataclass(frozen=True, slots=True)
class Question:
    """What an authorizer was asked."""

    #: A hash of what identifies the client.
    credentials: bytes
    action: Action
    topic: str


class _Revocation(NamedTuple):
    """Which permissions were revoked."""

    matches: Callable[[str], bool]
    subject: str | None

    def concerns(self, topic: str, answer: Answer) -> bool:
        """Whether an answer was revoked; one without a subject may be for any."""
        known = answer.subject if isinstance(answer, Permission) else None
        return self.matches(topic) and (self.subject is None or known in (None, self.subject))


class PermissionCache:
    """Remembers answers of an authorizer for the time that each allows, 10,000 at most.

    :param seconds: the time on a clock that never goes backwards.
    :param now: the time of day, in seconds since 1970.
    """

    def __init__(self, seconds: Callable[[], float], now: Callable[[], float]) -> None:
        self._seconds = seconds
        self._now = now
        # With the time at which each is forgotten, the oldest first.
        self._answers: OrderedDict[Question, tuple[Answer, float]] = OrderedDict()
        # The last revocations, and how many there have been.
        self._revocations: deque[_Revocation] = deque(maxlen=_MAX_REVOCATIONS)
        #: How many revocations there have been.
        self.revoked = 0

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, question: Question) -> Answer | None:
        """Return the answer to a question, or None if it must be asked."""
        answer, end = self._answers.get(question, (None, 0.0))
        if answer is None:
            return None
        is_over = isinstance(answer, Permission) and answer.expires <= self._now()
        if is_over or end <= self._seconds():
            del self._answers[question]
            return None
        return answer

    def add(self, question: Question, answer: Answer) -> None:
        """Remember an answer if it allows that."""
        self._answers.pop(question, None)
        if not answer.cache:
            return
        if len(self._answers) >= _MAX_ANSWERS:
            self._answers.popitem(last=False)
        self._answers[question] = answer, self._seconds() + answer.cache

    def forget(self, matches: Callable[[str], bool], subject: str | None = None) -> None:
        """Forget the answers about topics that match; with a subject, only its permissions.

        Permissions without a subject of their own are forgotten, too: it may be in the token.
        """
        revocation = _Revocation(matches, subject)
        self._revocations.append(revocation)
        self.revoked += 1
        for question, (answer, _) in tuple(self._answers.items()):
            if revocation.concerns(question.topic, answer):
                del self._answers[question]

    def is_revoked(self, question: Question, permission: Permission, since: int) -> bool:
        """Whether a permission was revoked before the answer came.

        :param since: the value of ``revoked`` when the question was asked.
        """
        count = self.revoked - since
        if count > len(self._revocations):
            return True  # Some are not known any more.
        recent = islice(reversed(self._revocations), count)
        return any(one.concerns(question.topic, permission) for one in recent)


class RevocationExchange(Protocol):
    """Shares revocations with other nodes."""

    def start(self, revoke: Callable[[str | None, str | None], object]) -> None:
        """Call a function with the topic and the subject of each revocation at another node."""

    def tell(self, topic: str | None, subject: str | None) -> Deferred[None]:
        """Tell the other nodes of a revocation.

        Fails with ``Unavailable`` if that is impossible now; then they are told later.
        """


class Revoker:
    """Ends subscriptions whose permission has been withdrawn, at this node and all others.

    :param exchange: shares revocations with the other nodes; None for a single process.
    """

    def __init__(
        self,
        connections: Connections,
        cache: PermissionCache,
        exchange: RevocationExchange | None = None,
    ) -> None:
        self._connections = connections
        self._cache = cache
        self._exchange = exchange
        if exchange is not None:
            exchange.start(self._revoke_here)

    def revoke(self, topic: str | None = None, subject: str | None = None) -> int:
        """End the subscriptions to a topic, or of a subject; return how many this node ends.

        Remembered permissions are forgotten. A client that is still permitted may come back. The
        other nodes are told in the background, or once they can be reached, which is logged.

        :param topic: a topic, or a pattern of topics as in tokens; None for all.
        :param subject: whose subscriptions; None for all.

        Raises ValueError if both are None, or the pattern is not valid.
        """
        ended, told = self._revoke(topic, subject)
        told.addErrback(_log_untold)
        return ended

    def revoke_everywhere(
        self, topic: str | None = None, subject: str | None = None
    ) -> Deferred[int]:
        """Do the same, and wait until the other nodes are told.

        Fails with ``Unavailable`` if they cannot be reached, and are told later.
        """
        ended, told = self._revoke(topic, subject)
        return told.addCallback(lambda _: ended)

    def _revoke(self, topic: str | None, subject: str | None) -> tuple[int, Deferred[None]]:
        if topic is None and subject is None:
            raise ValueError("topic or subject must be given")
        if topic is not None:
            check_pattern(topic)
        ended = self._revoke_here(topic, subject)
        return ended, succeed(None) if self._exchange is None else self._exchange.tell(
            topic, subject
        )

    def _revoke_here(self, topic: str | None, subject: str | None) -> int:
        def concerns(name: str) -> bool:
            return topic is None or matches(topic, name)

        self._cache.forget(concerns, subject)
        return sum(
            one.closable.end_subscriptions(concerns, PERMISSION_REVOKED)
            for one in self._connections
            if subject is None or one.subject == subject
        )


def _log_untold(failure: Failure) -> None:
    failure.trap(Unavailable)
    _log.warn(
        "the other nodes cannot be told yet what was revoked: {reason}",
        event="revocation_untold",
        reason=failure.getErrorMessage(),
    )
