"""From what a view returns to bytes on the wire."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from http import HTTPStatus
from typing import Any

from twisted.web.http_headers import Headers
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from pushd.protocols.http.static import StaticFiles


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer: ``Response(403, body="no")``, ``Response(302, {"Location": "/"})``.

    A ``str`` body is sent as UTF-8. Without a Content-Type, ``str`` is HTML and ``bytes`` are
    ``application/octet-stream``. A header that is there more than once has a list of values.
    """

    status: int = 200
    headers: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    body: str | bytes = b""

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 599:
            raise ValueError(f"status is {self.status}: 200 to 599")


@dataclass(frozen=True, slots=True)
class Page:
    """One of the files of the static client as an answer; see ``page``."""

    name: str


def page(name: str) -> Page:
    """Answer with a file of the ``--web`` folder: ``return page("test.html")``."""
    return Page(name)


def to_json(value: object) -> str:
    """JSON without blanks, in the characters that it is about."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{status} {phrase}</title>
<link rel="stylesheet" href="/pushd.css">
<main>
<h1>{status} {phrase}</h1>
<p>{line}</p>
<p><a href="/">To the start</a></p>
</main>
</html>
"""


def error_page(status: int, line: str) -> Response:
    """An error as a page, for people."""
    phrase = HTTPStatus(status).phrase
    return Response(status, body=_PAGE.format(status=status, phrase=phrase, line=escape(line)))


def refusal(status: int, line: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as one line of text, for programs."""
    headers = {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}
    return Response(status, headers, f"{line}\n")


# twisted.web does not know all of them: 426 Upgrade Required would be 426 Unknown Status.
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}

_LENGTH = re.compile(rb"[0-9]{1,18}")

# What is said of the connection and of who may read an answer, whatever it is.
_KEPT = (
    b"connection",
    b"access-control-allow-origin",
    b"access-control-expose-headers",
    b"vary",
)

NOT_FOUND = error_page(404, "There is nothing at this address.")
FAILURE = error_page(500, "Something went wrong here. It has been logged.")
BUSY = refusal(503, "all places are taken, try again later", {"Retry-After": "5"})


class AnswerResource(Resource):
    """Answers every request with the same."""

    isLeaf = True

    def __init__(self, answer: Response) -> None:
        super().__init__()
        self._answer = answer

    def render(self, request: Any) -> int:
        """Write the answer."""
        write_response(request, self._answer)
        return NOT_DONE_YET


def write_answer(request: Any, answer: object, files: StaticFiles) -> None:
    """Answer a request with what a view returned.

    Raises TypeError for what is no answer, and LookupError for a page that is not there; nothing
    is written then.
    """
    if answer is None:
        answer = Response(204)
    elif isinstance(answer, str | bytes):
        answer = Response(body=answer)
    elif isinstance(answer, Page):
        file = files.find(f"/{answer.name}")
        if file is None:
            raise LookupError(f"there is no page {answer.name!r}")
        answer = file
    if isinstance(answer, Response):
        write_response(request, answer)
    elif IResource.providedBy(answer):
        request.render(answer)
    else:
        raise TypeError(
            "a view returns str, bytes, Response, page(…), a twisted.web resource or None, "
            f"not {type(answer).__name__}"
        )


def write_failure(request: Any, response: Response = FAILURE) -> None:
    """Answer 500, or as told, in place of an answer that failed, whatever had become of that."""
    if request.startedWriting:
        # Too late for a status; that the connection breaks off tells that the answer is not whole.
        if not request.finished:
            request.loseConnection()
        return
    # What the failed answer said of itself, above all how long it may be kept, is not true of this.
    said, request.responseHeaders = request.responseHeaders, Headers()
    for name in _KEPT:
        request.responseHeaders.setRawHeaders(name, said.getRawHeaders(name, ()))
    request.etag = request.lastModified = None
    request.cookies.clear()
    write_response(request, response)


def write_response(request: Any, response: Response) -> None:
    """Write a whole response and finish the request."""
    body = response.body
    kind = "application/octet-stream"
    if isinstance(body, str):
        body, kind = body.encode(), "text/html; charset=utf-8"
    request.setResponseCode(response.status, _PHRASES.get(response.status))
    if response.status not in (204, 304):
        request.setHeader(b"content-type", kind.encode())
    for name, value in response.headers.items():
        values = [value] if isinstance(value, str) else value
        request.responseHeaders.setRawHeaders(name, list(values))
    # Where a body ends is not a view's to say: one that is wrong would be the next answer's end.
    request.responseHeaders.removeHeader(b"transfer-encoding")
    if response.status not in (204, 304) and not _may_stand(request):
        request.setHeader(b"content-length", str(len(body)).encode())
    request.write(body)
    request.finish()


def _may_stand(request: Any) -> bool:
    """Whether a view's own Content-Length is to stand: for HEAD, which shows no body."""
    told = request.responseHeaders.getRawHeaders(b"content-length", ())
    return bool(request.method == b"HEAD" and len(told) == 1 and _LENGTH.fullmatch(told[0]))


def json_response(status: int, value: object, headers: Mapping[str, str] | None = None) -> Response:
    """An answer for programs, which nobody may keep."""
    shared = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return Response(status, {**shared, **(headers or {})}, f"{to_json(value)}\n")


def json_refusal(
    status: int, error: str, where: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """An error for programs: what was wrong, and where in the request."""
    value = {"error": error} if where is None else {"error": error, "where": where}
    return json_response(status, value, headers)


def phrase_of(status: int) -> str:
    """Return the reason phrase of a status, or "Unknown" (RFC 9110 §15)."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
