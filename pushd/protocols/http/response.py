"""HTTP responses: what a view may return, errors as pages, text or JSON, and writing them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from http import HTTPStatus
from typing import Any

from twisted.web.http_headers import Headers
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from pushd.protocols.http.static import StaticFiles
from pushd.protocols.json_format import is_encodable, to_json


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response: ``Response(403, body="no")``, ``Response(302, {"Location": "/"})``.

    A ``str`` body is sent as UTF-8. Without a Content-Type, ``str`` is HTML and ``bytes`` is
    ``application/octet-stream``. A header that occurs more than once has a list of values.
    """

    status: int = 200
    headers: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    body: str | bytes = b""

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 599:
            raise ValueError(f"status must be 200 to 599; got {self.status}")


@dataclass(frozen=True, slots=True)
class Page:
    """A file of the static client as a response; see ``page``."""

    name: str


def page(name: str) -> Page:
    """Respond with a file of the ``--web`` folder: ``return page("test.html")``."""
    return Page(name)


# The same frame as that of the pages in web/.
_PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>{status} {phrase}</title>
    <link rel="icon" href="/favicon.svg" type="image/svg+xml">
    <link rel="stylesheet" href="/pushd.css">
  </head>
  <body>
    <header>
      <a class="home" href="/"><img src="/favicon.svg" alt="" width="28" height="28">pushd</a>
    </header>
    <main>
      <h1>{status} {phrase}</h1>
      <p class="lead">{line}</p>
      <p><a class="go" href="/">Go to the start page</a></p>
    </main>
  </body>
</html>
"""


def error_page(status: int, line: str) -> Response:
    """Return an error as an HTML page, for people."""
    phrase = HTTPStatus(status).phrase
    return Response(status, body=_PAGE.format(status=status, phrase=phrase, line=escape(line)))


def refusal(status: int, line: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as one line of text, for programs."""
    headers = {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}
    return Response(status, headers, f"{line}\n")


# twisted.web does not know all of them: 426 would be "Unknown Status".
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}

_LENGTH = re.compile(rb"[0-9]{1,18}")

#: Bytes of a body that leaves with its head in one write, at most: it is copied for that.
MAX_WHOLE = 1 << 18

# Headers that stay when a response is replaced by a failure: about the connection, and about the
# origins whose pages may read any response.
_KEPT = (
    b"connection",
    b"access-control-allow-origin",
    b"access-control-allow-credentials",
    b"access-control-expose-headers",
    b"vary",
)

NOT_FOUND = error_page(404, "There is nothing at this address.")
FAILURE = error_page(500, "Something went wrong here. It has been logged.")
BUSY = refusal(503, "connection limit reached, try again later", {"Retry-After": "5"})


class AnswerResource(Resource):
    """Answers every request with the same response."""

    isLeaf = True

    def __init__(self, answer: Response) -> None:
        super().__init__()
        self._answer = answer

    def render(self, request: Any) -> int:
        """Write the response."""
        write_response(request, self._answer)
        return NOT_DONE_YET


def write_answer(request: Any, answer: object, files: StaticFiles) -> None:
    """Answer a request with what a view returned.

    Raises TypeError if it is of a wrong type, and LookupError if it is a page that does not exist;
    then nothing is written.
    """
    if answer is None:
        answer = Response(204)
    elif isinstance(answer, str | bytes):
        answer = Response(body=answer)
    elif isinstance(answer, Page):
        file = files.find(f"/{answer.name}")
        if file is None:
            raise LookupError(f"no page {answer.name!r} in the folder of --web")
        answer = file
    if isinstance(answer, Response):
        write_response(request, answer)
    elif IResource.providedBy(answer):
        request.render(answer)
    else:
        raise TypeError(
            "a view must return str, bytes, Response, page(…), a twisted.web resource or None; "
            f"got {type(answer).__name__}"
        )


def write_failure(request: Any, response: Response = FAILURE) -> None:
    """Answer 500, or another response, after an answer failed at any point."""
    if request.startedWriting:
        # Too late for a status: a lost connection shows the client that the answer is incomplete.
        if not request.finished:
            request.loseConnection()
        return
    # The headers of the failed answer, Cache-Control above all, must not apply to the failure.
    failed, request.responseHeaders = request.responseHeaders, Headers()
    for name in _KEPT:
        request.responseHeaders.setRawHeaders(name, failed.getRawHeaders(name, ()))
    request.etag = request.lastModified = None
    request.cookies.clear()
    write_response(request, response)


def write_response(request: Any, response: Response) -> None:
    """Write a whole response and finish the request."""
    body = response.body
    default_type = "application/octet-stream"
    if isinstance(body, str):
        body, default_type = body.encode(), "text/html; charset=utf-8"
    request.setResponseCode(response.status, _PHRASES.get(response.status))
    if response.status not in (204, 304):
        request.setHeader(b"content-type", default_type.encode())
    for name, value in response.headers.items():
        values = [value] if isinstance(value, str) else value
        request.responseHeaders.setRawHeaders(name, list(values))
    # A view must not set the length of a body: a wrong one would shift the next response.
    request.responseHeaders.removeHeader(b"transfer-encoding")
    if response.status not in (204, 304) and not _has_valid_length(request):
        request.setHeader(b"content-length", str(len(body)).encode())
    if _leaves_whole(request, body):
        request.write_whole(request.make_head(), body)
    else:
        request.write(body)
    request.finish()


def _leaves_whole(request: Any, body: bytes) -> bool:
    """Return whether a response can leave in one write, and at once.

    twisted.web writes head and body one after the other, each of which waits until the reactor
    finds the socket writable.
    """
    return (
        0 < len(body) <= MAX_WHOLE
        and request.clientproto == b"HTTP/1.1"
        and request.method != b"HEAD"
        and request.code not in (204, 304)
        and not request._disconnected
    )


def _has_valid_length(request: Any) -> bool:
    """Return whether the view's own Content-Length can be used: for HEAD, which has no body."""
    lengths = request.responseHeaders.getRawHeaders(b"content-length", ())
    return bool(request.method == b"HEAD" and len(lengths) == 1 and _LENGTH.fullmatch(lengths[0]))


#: Headers of a response for programs, which must not be cached.
JSON_HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-store"}


def json_response(status: int, value: object, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response for programs, which must not be cached."""
    text = to_json(value)
    if not is_encodable(text):
        text = json.dumps(value)  # Only an escape can write half a surrogate pair.
    return Response(status, {**JSON_HEADERS, **(headers or {})}, f"{text}\n")


def json_refusal(
    status: int,
    error: str,
    where: str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    topic: str | None = None,
) -> Response:
    """Return an error as JSON, for programs.

    :param where: the part of the request that was wrong.
    :param topic: which of its topics was refused.
    """
    members = {"error": error, "where": where, "topic": topic}
    value = {name: member for name, member in members.items() if member is not None}
    return json_response(status, value, headers)


@cache
def phrase_of(status: int) -> str:
    """Return the reason phrase of a status, or "Unknown" (RFC 9110 §15)."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
