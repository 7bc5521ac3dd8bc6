"""Writes a response that comes in one piece: head and body leave at once, in one write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from pushd.protocols.http.headers import head_lines
from pushd.protocols.http.strict import date_of


def write_whole(
    request: Any, status: int, phrase: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes
) -> None:
    """Write a response over HTTP/1.1; ``request.finish`` must be called later.

    :param headers: with the Content-Length; Date is added unless it is among them.
    """
    request.setResponseCode(status, phrase)
    headers = [*headers]
    if not any(name.lower() == b"date" for name, _ in headers):
        headers.append((b"date", date_of(int(request.site.policy.wall()))))
    lines = head_lines(chain(_shared_headers(request), headers))
    request.write_whole(b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, phrase, lines), body)


def _shared_headers(request: Any) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers that the response has already, such as ``Connection: close``."""
    for name, values in request.responseHeaders.getAllRawHeaders():
        for value in values:
            yield name, value
