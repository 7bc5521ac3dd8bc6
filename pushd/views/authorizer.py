"""The authorizer: a function of the operator that decides what clients may do with topics."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredSemaphore, execute
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.access.authorization import Action
from pushd.access.permissions import Answer, Permission, PermissionCache, Question
from pushd.access.tokens import Identity
from pushd.errors import BadRequest, NotPermitted
from pushd.protocols.http.headers import decode_path
from pushd.schedule.asyncio_task import call_on_loop
from pushd.schedule.coroutine import NEEDS_ASYNCIO
from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.publisher import Publisher
from pushd.views.request import Request, fields_of, name_of
from pushd.views.runner import asks_for_asyncio, runs_on_reactor
from pushd.views.threads import Bridge, blocking

# What an authorizer is called with: a Request, the action, and the topic. It returns True, False,
# a Permission or NotPermitted, or is async def and returns one of these.
AuthorizeFunction = Callable[..., Any]

#: Seconds after which an answer comes too late.
TIMEOUT = 10

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


class Pool(Protocol):
    """A thread pool with a queue."""

    def callInThread(self, function: Callable[..., Any], /) -> object:
        """Call a function in a thread, once one is free."""


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
        self._threads = threads
        self._pool = pool
        self._failed = failed
        self._free = DeferredSemaphore(limit)
        self._timeouts: TimeoutQueue[_Call] = TimeoutQueue(
            clock, timeout=TIMEOUT, expired=_Call.expire
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
        call = _Call(self._cache.revoked, partial(call_on_loop, self._clock, self._loop))
        self._timeouts.start(call)
        function = partial(self._function, request, action, topic)
        if runs_on_reactor(self._function):
            call.run(function)
        else:
            request = blocking(request, self._threads)
            self._run_in_thread(call, partial(self._function, request, action, topic))
        call.answered.addBoth(self._settle, call, request, question)
        return call.answered

    def _run_in_thread(self, call: _Call, function: Callable[[], Any]) -> None:
        """Call the function in a thread once one is free, unless that is too late."""

        def work() -> None:
            outcome: Any = None
            try:
                if not call.answered.called:
                    outcome = function()
            except BaseException:  # SystemExit, too, ends nothing but the request.
                outcome = Failure()
            self._threads.call(partial(finished, outcome))

        def finished(outcome: Any) -> None:
            self._free.release()
            # A function that looks like a plain one may return a coroutine.
            call.run(lambda: outcome)

        call.work = free = self._free.acquire()
        free.addCallbacks(lambda _: self._pool.callInThread(work), lambda _: None)

    def _settle(self, outcome: Any, call: _Call, request: Request, question: Question) -> Any:
        """Return the permission in what the function returned. Raises RequestRefused."""
        self._timeouts.stop(call)
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
        if isinstance(answer, Permission) and self._cache.is_revoked(
            question, answer, call.revoked
        ):
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


class _Call:
    """One call of the function, until it has answered, is late, or its client is gone.

    :param revoked: how many revocations there had been before.
    :param call: calls a function; returns a Deferred of its result.
    """

    def __init__(self, revoked: int, call: Callable[[Callable[[], Any]], Deferred[Any]]) -> None:
        self.revoked = revoked
        self._call = call
        #: Fires with what the function returns, or its Failure.
        self.answered: Deferred[Any] = Deferred(self._cancel)
        #: What can be cancelled: a wait for a thread, or the function on the reactor.
        self.work: Deferred[Any] | None = None
        self.is_cancelled = self.is_late = False

    def run(self, function: Callable[[], Any]) -> None:
        """Call a function on the reactor, and wait for what it returns."""
        self.work = self._call(function)
        self.work.addBoth(self._finish)

    def expire(self) -> None:
        """Give up: it is late."""
        self.is_late = True
        self._end()
        self._finish(None)

    def _cancel(self, _: object) -> None:
        self.is_cancelled = True
        self._end()

    def _end(self) -> None:
        assert self.work is not None  # It is set as soon as the call is made.
        self.work.cancel()

    def _finish(self, outcome: Any) -> None:
        if not self.answered.called:
            self.answered.callback(outcome)


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
