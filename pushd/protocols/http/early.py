"""Requests that are refused before they have arrived as a whole, as far as they are known."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.web.http import parse_qs

from pushd.protocols.http.headers import RequestHeaders, asks_for_websocket, split_target

# Headers that say which page sent a request, to which host, and over which proxies.
_READ = frozenset(
    {b"host", b"origin", b"upgrade", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto"}
)


class EarlyRequest:
    """A request to be refused, for ``SitePolicy.share``, which marks answers for pages.

    :param request_line: the first line, or the beginning of it; empty if it is not known.
    :param headers: what is known of the headers.
    """

    #: The scheme that the client used.
    scheme = "http"

    def __init__(self, request_line: bytes, headers: RequestHeaders) -> None:
        _, _, rest = request_line.partition(b" ")
        self.path, _, query = split_target(rest.partition(b" ")[0])[1].partition(b"?")
        self.args = parse_qs(query, 1)
        self.requestHeaders = headers
        self.wants_websocket = asks_for_websocket(headers)
        #: Headers of the answer.
        self.answer_headers: dict[bytes, bytes] = {}

    def setHeader(self, name: bytes, value: bytes) -> None:
        """Set a header of the answer."""
        self.answer_headers[name] = value


def read_early(lines: Iterable[bytes]) -> RequestHeaders:
    """Read the headers of a head that may be malformed and incomplete, up to its blank line."""
    headers = RequestHeaders()
    for line in lines:
        if not line:
            break
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        if name.lower() in _READ and value.isascii() and value.decode().isprintable():
            headers.addRawHeader(name, value)
    return headers
