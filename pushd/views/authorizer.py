"""The authorizer: a function of the operator that decides what clients may do with topics."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.access.authorization import Action
from pushd.access.permissions import Answer, Permission, PermissionCache, Question
from pushd.access.tokens import Identity
from pushd.errors import BadRequest, NotPermitted
from pushd.protocols.http.headers import decode_path
from pushd.schedule.coroutine import NEEDS_ASYNCIO
from pushd.topics.publisher import Publisher
from pushd.views.calls import TIMEOUT, FunctionCall, FunctionCalls, Pool
from pushd.views.request import Request, fields_of, name_of
from pushd.views.runner import asks_for_asyncio
from pushd.views.threads import Bridge

# What an authorizer is called with: a Request, the action, and the topic. It returns True, False,
# a Permission or NotPermitted, or is async def and returns one of these.
AuthorizeFunction = Callable[..., Any]

# Headers that identify no client. All others count when a remembered answer is looked up: an
# application may use any of them, and no client must get the answer to another.
_NO_CREDENTIALS = frozenset(
    {
        "accept",
        "accept-encoding",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "idempotency-key",
        "last-event-id",
        "pragma",
        "referer",
        "sec-fetch-dest",
        "sec-fetch-mode",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "upgrade",
        "x-request-id",
    }
)

_FAILED = "the authorizer failed"
_LATE = "the authorizer took too long: try again later"
_REVOKED = "permissions were revoked meanwhile: try again"

_log = Logger(namespace="pushd.views")


class TopicAuthorizer:
    """Asks the operator's function, and remembers its answers if they allow that.

    One that is ``async def`` or returns a Deferred runs on the reactor, any other in a thread. It
    has ten seconds to answer, with the time in which it waits for a thread.

    :param clock: where time comes from.
    :param now: the time of day, in seconds since 1970.
    :param publisher: what its requests publish with.
    :param threads: how to get from a thread to the reactor.
    :param pool: the threads in which it runs.
    :param limit: how many of them it may use at a time.
    :param failed: counts an authorizer that raises.
    :param cache: answers that are remembered.
    :param loop: asyncio's event loop, if the reactor runs on one.
    """

    def __init__(
        self,
        function: AuthorizeFunction,
        clock: IReactorTime,
        *,
        now: Callable[[], float],
        publisher: Publisher,
        threads: Bridge,
        pool: Pool,
        limit: int,
        failed: Callable[[], object],
        cache: PermissionCache,
        loop: AbstractEventLoop | None = None,
    ) -> None:
        self._function = function
        self._clock = clock
        self._now = now
        self._publisher = publisher
        self._failed = failed
        self._calls = FunctionCalls(
            function, clock, threads=threads, pool=pool, limit=limit, loop=loop
        )
        self._cache = cache
        self._loop = loop

    def make_request(self, http: Any, identity: Identity | None) -> Request:
        """Return the request of a view for an HTTP request, without its body."""
        return Request(
            path=decode_path(http.path).decode(errors="replace"),
            clock=self._clock,
            publisher=self._publisher,
            identity=identity,
            **fields_of(http),
        )

    def ask(self, request: Request, action: Action, topic: str) -> Deferred[Permission]:
        """Return a Deferred of the permission for an action; it can be cancelled.

        It fails with NotPermitted, or with BadRequest if the authorizer fails (500) or takes too
        long (503).
        """
        question = Question(_credentials_of(request), action, topic)
        known = self._cache.get(question)
        if known is not None:
            return execute(self._grant, known)
        revoked = self._cache.revoked
        call = self._calls.start(request, action, topic)
        call.answered.addBoth(self._settle, call, revoked, request, question)
        return call.answered

    def _settle(
        self, outcome: Any, call: FunctionCall, revoked: int, request: Request, question: Question
    ) -> Any:
        """Return the permission in what the function returned. Raises RequestRefused.

        :param revoked: how many revocations there had been before.
        """
        if call.is_cancelled:
            return outcome
        fields: dict[str, Any] = {
            "authorizer": name_of(self._function),
            "peer": request.peer,
            "action": question.action,
            "topic": question.topic,
        }
        if call.is_late:
            _log.warn(
                "{authorizer} took longer than {seconds} s to answer whether {peer} may {action} "
                "{topic}",
                event="authorizer_late",
                seconds=TIMEOUT,
                **fields,
            )
            raise BadRequest(_LATE, "topic", 503, {"Retry-After": "5"}, "see docs/authorizer.md")
        try:
            answer = _read(outcome)
        except BaseException:
            self._failed()
            line = "{authorizer} failed to answer whether {peer} may {action} {topic}"
            if self._loop is None and asks_for_asyncio(Failure()):
                line = f"{line}: {NEEDS_ASYNCIO}"
            _log.failure(
                line,
                event="authorizer_failed",
                **fields,
            )
            raise BadRequest(_FAILED, "topic", 500, help="the log has the reason") from None
        if isinstance(answer, Permission) and self._cache.is_revoked(question, answer, revoked):
            raise BadRequest(_REVOKED, "topic", 503, {"Retry-After": "1"})
        self._cache.add(question, answer)
        return self._grant(answer)

    def _grant(self, answer: Answer) -> Permission:
        """Return a permission. Raises NotPermitted if it is none, or none any more."""
        if isinstance(answer, NotPermitted):
            raise answer.with_traceback(None)
        if answer.expires <= self._now():
            raise NotPermitted("permission has expired")
        return answer


def _read(outcome: Any) -> Answer:
    """Return the answer in what a function returned or raised. Raises what is none."""
    if isinstance(outcome, Failure):
        if not isinstance(outcome.value, NotPermitted):
            outcome.raiseException()
        outcome = outcome.value
    if isinstance(outcome, bool):
        return Permission() if outcome else NotPermitted()
    if not isinstance(outcome, Permission | NotPermitted):
        raise TypeError(
            "an authorizer must return True, False, a Permission or NotPermitted; got "
            f"{type(outcome).__name__}"
        )
    return outcome


def _credentials_of(request: Request) -> bytes:
    """Return a hash of all that may tell clients apart, except for the port of the address."""
    known = blake2b(digest_size=16)
    for name, values in request.raw_headers.getAllRawHeaders():
        if name.decode("latin-1").lower() not in _NO_CREDENTIALS:
            known.update(b"%b: %b\n" % (name.lower(), b"\n ".join(values)))
    for token in request.query.getlist("token"):
        known.update(f"token: {token}\n".encode(errors="surrogatepass"))
    if request.identity is not None:  # Its token may have been renewed.
        known.update(f"expires: {request.identity.expires}\n".encode())
    # ``[::1]:80`` and ``127.0.0.1:80``, but also ``::1``, as a proxy gives it.
    address, colon, _ = request.peer.rpartition(":")
    is_bare = ":" in address and not address.startswith("[")
    known.update((request.peer if is_bare or not colon else address).encode())
    return known.digest()
