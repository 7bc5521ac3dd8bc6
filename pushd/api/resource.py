"""Base class of the API's resources, whose responses are made by coroutines."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any
from urllib.parse import unquote_to_bytes as unquote

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.access.closing import GOING_AWAY
from pushd.access.connections import Connections
from pushd.access.limits import Limits
from pushd.access.permissions import PermissionCache, Revoker
from pushd.errors import BadRequest, Unavailable
from pushd.protocols.http.response import Response, json_refusal, write_response
from pushd.topics.attendance import Attendances
from pushd.topics.broker import Broker
from pushd.topics.hub import Hub
from pushd.topics.rules import Rule, Rules
from pushd.topics.scheduled import ScheduledPublications

# Between the parameters of a query.
_SEPARATOR = re.compile(b"[&;]")

# A number as programs print what they computed: 0.3333333333333333, 1e-05.
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?")
_MAX_NUMBER = 64

_COUNT = re.compile(r"[0-9]{1,9}")

# Request headers that a page of an allowed origin may set.
_PAGE_HEADERS = (
    "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID, X-Requested-With"
)

# Longest name of an unknown parameter in an error, in characters.
_MAX_NAME = 100


@dataclass(frozen=True, kw_only=True)
class DaemonState:
    """The state of a running daemon: its topics and their rules, its connections and limits."""

    clock: IReactorTime
    broker: Broker
    hub: Hub
    scheduled: ScheduledPublications
    connections: Connections
    limits: Limits
    rules: Rules
    attendances: Attendances
    #: Returns the rule of topics that match none, with all defaults of the daemon in their places.
    default_rule: Callable[[], Rule]
    permissions: PermissionCache
    revoker: Revoker


class AsyncResource(Resource):
    """Sends the ``Response`` that its coroutine ``answer`` returns.

    :param name: the part of the path that names one topic, connection or schedule.
    """

    isLeaf = True

    #: The methods that ``answer`` takes. With GET it takes HEAD, whose body is not sent.
    methods: tuple[str, ...] = ("GET",)

    def __init__(self, state: DaemonState, name: str = "") -> None:
        super().__init__()
        self._state = state
        self._name = name

    def render(self, request: Any) -> int:
        """Start the coroutine; cancel it if the client disconnects first."""
        answering = Deferred.fromCoroutine(self._answer_or_refuse(request))
        request.notifyFinish().addErrback(lambda _: answering.cancel())
        answering.addCallback(lambda response: write_response(request, response))
        answering.addErrback(self._failed, request)
        return NOT_DONE_YET

    async def answer(self, request: Any) -> Response:
        """Return the response. Raises BadRequest, which becomes a response of its own."""
        raise NotImplementedError

    async def _answer_or_refuse(self, request: Any) -> Response:
        try:
            if request.method == b"OPTIONS":
                return Response(204, {"Allow": allowed_methods(*self.methods)})
            require_method(request, *self.methods)
            return await self.answer(request)
        except BadRequest as error:
            request.why_refused = error.line
            return refuse(error)
        except Unavailable as error:
            return refuse_unavailable(error, self.explain(error))

    def explain(self, error: Unavailable) -> str:
        """Return the error text of a 503: why the broker is unavailable."""
        return str(error)

    def _failed(self, failure: Failure, request: Any) -> None:
        if not request._disconnected:
            request.processingFailed(failure)


def refuse(error: BadRequest) -> Response:
    """Return the response for a bad request."""
    return json_refusal(error.status, error.reason, error.where, error.headers)


def refuse_unavailable(error: Unavailable, line: str | None = None) -> Response:
    """Return the response while the broker is unavailable.

    :param line: what the client is told, if it is not what the error says.
    """
    headers = {"Retry-After": f"{error.retry_after}"}
    return json_refusal(503, str(error) if line is None else line, "broker", headers)


def refuses_all(request: Any, connections: Connections) -> bool:
    """Refuse a request for a topic if the daemon is stopping; return whether that is so."""
    if connections.closing is None:
        return False
    request.site.count_refusal(503)
    request.why_refused = GOING_AWAY.reason
    retry = {"Retry-After": "1"}
    write_response(request, json_refusal(503, GOING_AWAY.reason, None, retry))
    return True


def preflight(methods: str) -> dict[str, str]:
    """Return the headers that answer a CORS preflight request (WHATWG Fetch §3.2.2).

    :param methods: as a list with commas.
    """
    return {
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": _PAGE_HEADERS,
        "Access-Control-Max-Age": "600",
    }


def require_known(request: Any, *names: str) -> None:
    """Raise BadRequest for a query parameter other than these.

    One that is mistyped, belongs to another request or has no value must not be ignored.
    """
    query: bytes = request.uri.partition(b"?")[2]
    if not query:
        return
    for given in request.args:
        if (name := given.decode(errors="replace")) not in names:
            raise _unknown(name, names)
    # twisted.web ignores what has no equals sign.
    for item in filter(None, _SEPARATOR.split(query)):
        if b"=" not in item:
            name = unquote(item).decode(errors="replace")
            raise BadRequest("must have a value", name) if name in names else _unknown(name, names)


def read_argument(request: Any, name: str) -> str | None:
    """Return a parameter of the query, the last one of this name; None without one."""
    values = request.args.get(name.encode())
    return values[-1].decode(errors="replace") if values else None


def read_limit(request: Any, default: int, most: int) -> int:
    """Return the query's ``limit``: how many members a list may have. Raises BadRequest."""
    given = read_argument(request, "limit")
    if given is None:
        return default
    if not _COUNT.fullmatch(given) or not 1 <= int(given) <= most:
        raise BadRequest(f"limit must be 1 to {most}; got {given[:_MAX_NAME]}", "limit")
    return int(given)


def _unknown(name: str, names: tuple[str, ...]) -> BadRequest:
    takes = f"takes {', '.join(names)}" if names else "takes none"
    # Escaped: it may hold any character.
    return BadRequest(
        f"unknown query parameter: this request {takes}", ascii(name)[1:-1][:_MAX_NAME]
    )


def parse_number(text: str) -> float | None:
    """Return the number in a text; None if the text is no number, or an infinite one."""
    if len(text) > _MAX_NUMBER or not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if isfinite(number) else None


def require_method(request: Any, *methods: str) -> None:
    """Raise BadRequest (405) unless a request has one of these methods, or HEAD in place of GET."""
    method = request.method.decode("latin-1")
    if method not in methods and not (method == "HEAD" and "GET" in methods):
        error = f"method not allowed; use {' or '.join(methods)}"
        raise BadRequest(error, "method", 405, {"Allow": allowed_methods(*methods)})


def allowed_methods(*methods: str) -> str:
    """Return the value of an Allow header: these methods, HEAD beside GET, and OPTIONS."""
    return ", ".join((*methods, "OPTIONS")).replace("GET", "GET, HEAD")
