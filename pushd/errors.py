"""Every exception of pushd, in one tree. This module needs only the standard library.

PushdError
├── RequestRefused          a request is answered with an HTTP status and one line
│   ├── BadRequest          it cannot be carried out as it stands
│   ├── Denied              it is not permitted
│   │   └── NotPermitted    the authorizer does not permit it
│   ├── TopicRefused        it is refused because of one of its topics
│   └── HandshakeRefused    it is not a valid WebSocket handshake
├── CommandRefused          a command of a Centrifuge client is refused
│   └── RpcError            by the operator's function, with a code of its own
├── BadToken                a token that cannot be trusted
│   └── TokenExpired        a token that was valid
├── Unavailable             the broker cannot be reached, or refuses
├── StateUnusable           the directory of --state cannot be used
├── StateDamaged            the database there is torn, or not pushd's
├── RedisUnavailable        Redis cannot be reached at the moment
├── RedisMisconfigured      Redis or its address must be changed first
├── RedisError              Redis answered with an error
├── TooManyScheduled        the limit of scheduled publications is reached
├── ThreadsBusy             every thread for blocking views is in use
├── NoMoreMessages          a thread waits for messages after the end; an EOFError as well
├── StartFailed             an application says that it cannot start
├── ClientDisconnected      an ASGI application sends to a client that has left
├── SocketInUse             the path of a Unix socket is in use
├── InvalidOptions          options that cannot be put into force
├── UsageError              a command line that ``pushd`` cannot carry out
├── Unreachable             (client) no pushd answers at the address
└── Refused                 (client) a pushd refused the request

ConversationOver            ends a blocking view; a SystemExit on purpose
"""

from __future__ import annotations

from collections.abc import Sequence


class PushdError(Exception):
    """Base of pushd's exceptions. The text is one line that describes the error."""


class RequestRefused(PushdError):
    """A request is refused.

    :param status: the HTTP status to answer with.
    :param reason: one line that says why.
    :param help: which option or document helps, for the log.
    """

    def __init__(self, status: int, reason: str, help: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.help = help

    @property
    def line(self) -> str:
        """The reason, and what helps, for the log."""
        return f"{self.reason}: {self.help}" if self.help else self.reason


class BadRequest(RequestRefused):
    """A request cannot be carried out.

    :param error: the reason: a text, or an exception with that text.
    :param where: the part of the request that is wrong, such as ``delay`` or ``body``.
    :param headers: headers of the answer.
    :param help: which option or document helps, for the log.
    """

    def __init__(
        self,
        error: object,
        where: str,
        status: int = 400,
        headers: dict[str, str] | None = None,
        help: str = "",
    ) -> None:
        super().__init__(status, str(error), help)
        self.where = where
        self.headers = headers


class Denied(RequestRefused):
    """A request is not permitted.

    :param error: the error code of RFC 6750 §3.1; empty if the request had no token at all.
    :param where: the part of the request that decides: ``token`` or ``topic``.
    :param help: which option or document helps, for the log.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        error: str = "",
        *,
        where: str = "token",
        help: str = "see docs/tokens.md",
    ) -> None:
        super().__init__(status, reason, help)
        self.error = error
        self.where = where


class NotPermitted(Denied):
    """An authorizer does not permit what a client asks for; it raises or returns this.

    :param reason: one line for the client.
    :param status: 401 if the client should log in first, otherwise 403.
    :param cache: seconds for which the answer holds for the same client, action and topic.

    Raises ValueError for another status.
    """

    def __init__(
        self, reason: str = "not permitted", *, status: int = 403, cache: float = 0
    ) -> None:
        if status not in (401, 403):
            raise ValueError(f"status must be 401 or 403; got {status}")
        super().__init__(status, reason, where="topic", help="by the authorizer")
        self.cache = cache


class TopicRefused(RequestRefused):
    """A request for many topics is refused because of one of them.

    :param topic: which one, as the client wrote it.
    :param refused: why.
    """

    def __init__(self, topic: str, refused: BadRequest | Denied) -> None:
        super().__init__(refused.status, refused.reason, refused.help)
        self.topic = topic
        self.refused = refused

    @property
    def line(self) -> str:
        """The topic, the reason, and what helps, for the log."""
        return f"{self.topic!r}: {super().line}"


class HandshakeRefused(RequestRefused):
    """A WebSocket handshake violates RFC 6455."""


class CommandRefused(PushdError):
    """A command of a client that speaks the Centrifuge protocol is refused.

    :param code: of the error; those below 400 are the protocol's own.
    :param message: one line that says why.
    :param temporary: whether the client may try again.
    """

    def __init__(self, code: int, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.code = int(code)
        self.message = message
        self.temporary = temporary


class RpcError(CommandRefused):
    """A function that serves remote procedure calls raises it, to answer with an error.

    :param code: of the error, 400 to 1999.
    :param message: one line for the client.
    :param temporary: whether the client may try again.

    Raises ValueError for another code.
    """

    def __init__(self, code: int, message: str, *, temporary: bool = False) -> None:
        if not 400 <= code <= 1999:
            raise ValueError(f"code must be 400 to 1999; got {code}")
        super().__init__(code, message, temporary=temporary)


class BadToken(PushdError):
    """A token cannot be trusted; the text says why."""


class TokenExpired(BadToken):
    """A token was valid, and is not any more."""


class Unavailable(PushdError):
    """The broker cannot be reached, or refuses: try again in ``retry_after`` seconds.

    If the connection was lost before the answer came, the publication may have been made all the
    same. One with an idempotency key can be repeated safely.
    """

    retry_after = 5


class StateUnusable(PushdError):
    """The directory of ``--state`` cannot be used until something there is changed."""


class StateDamaged(PushdError):
    """The database in the directory of ``--state`` is torn, or not one of pushd's."""


class RedisUnavailable(PushdError):
    """Redis cannot be reached at the moment."""


class RedisMisconfigured(PushdError):
    """Redis cannot be used until its configuration, or its address, is changed."""


class RedisError(PushdError):
    """Redis answered with an error and changed nothing."""


class TooManyScheduled(PushdError):
    """The limit on the number, or on the bytes, of scheduled publications is reached."""


class ThreadsBusy(PushdError):
    """Every thread for blocking views is in use."""


class StartFailed(PushdError):
    """An application says that it cannot start, and perhaps why."""


class ClientDisconnected(PushdError, OSError):
    """An ASGI application sends to a client that has left; frameworks know it as OSError."""


class SocketInUse(PushdError):
    """The path of a Unix socket is in use: the text says by what."""


class InvalidOptions(PushdError):
    """Options that cannot be put into force.

    :param lines: one line for each of them.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


class UsageError(PushdError):
    """A command line that ``pushd`` cannot carry out; the text says why."""


class Unreachable(PushdError):
    """No pushd answers at the address, or the connection was lost during the answer."""


class Refused(PushdError):
    """A pushd answered, and refused the request.

    :param status: the HTTP status of the answer.
    :param error: the text of the answer.
    :param where: the part of the request that is wrong, if the answer named one.
    :param retry_after: seconds after which another attempt may succeed, 300 at most; None if it did
        not say.
    """

    def __init__(
        self, status: int, error: str, where: str | None, retry_after: float | None
    ) -> None:
        super().__init__(f"{error} ({status})" if where is None else f"{where}: {error} ({status})")
        self.status = status
        self.where = where
        self.retry_after = retry_after


class ConversationOver(SystemExit):
    """Ends a blocking view that goes on after the end of its conversation.

    It is no ``Exception``, so that an ``except Exception`` in the view does not stop it.
    """


class NoMoreMessages(PushdError, EOFError):
    """A thread goes on waiting for messages after the end of the conversation.

    An ``EOFError`` ends the loops of programs that were written for dwebsocket.
    """
