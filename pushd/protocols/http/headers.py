"""The head of a request: parsing it in one go, its headers, its target, and its path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from twisted.web.http_headers import Headers

# A plain request line, and lines of headers: a token (RFC 9110 §5.6.2), a colon, and a value
# without controls (§5.5). The quantifiers are possessive ("++", "*+"), so that a long head that
# does not match is rejected without backtracking.
_LINE = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t\x20-\x7e\x80-\xff]*+\r\n"
_HEAD = re.compile(rb"(GET|POST) ([\x21-\x7e]++) HTTP/1\.1\r\n(?:" + _LINE + rb")*+\r\n")
# Bytes that follow the target on that line.
_VERSION = len(b" HTTP/1.1\r\n")

# The longest head that is parsed here, in bytes, and the most headers.
_MAX_SIZE = 8192
_MAX_LINES = 100

# Headers about a body that this does not read.
_UNUSUAL = frozenset({b"Transfer-Encoding", b"Expect"})

# A length in its plainest form, of a body that one segment may bring.
_LENGTH = re.compile(rb"[0-9]{1,5}")

# A name or an address, and an optional port (RFC 9110 §7.2, RFC 3986 §3.2.2).
_HOST = re.compile(rb"([A-Za-z0-9._~%!$&'()*+,;=-]*|\[[0-9A-Za-z:.]+\])(:[0-9]*)?")

# The absolute form of a target, which a server must accept as well (RFC 9112 §3.2.2).
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)

# Common names, as clients spell them, and the spelling under which twisted.web keeps them.
_COMMON_NAMES = {
    spelling: name.title()
    for name in (
        b"Host",
        b"Connection",
        b"Upgrade",
        b"Origin",
        b"Sec-WebSocket-Key",
        b"Sec-WebSocket-Version",
        b"Sec-WebSocket-Protocol",
        b"Sec-WebSocket-Extensions",
        b"User-Agent",
        b"Accept",
        b"Accept-Encoding",
        b"Accept-Language",
        b"Cache-Control",
        b"Pragma",
        b"Cookie",
        b"Referer",
        b"Authorization",
        b"Content-Length",
        b"Content-Type",
    )
    for spelling in (name, name.lower(), name.title())
}


class RequestHeaders(Headers):
    """The headers of a request, which can be folded to the bytes that were received.

    A view keeps its request as long as its WebSocket is open. For a browser's dozen headers the
    bytes are one object in place of some thirty, which saves 1.8 KiB a connection. Few views look
    at headers so late; if one does, they are parsed again::

        parsed ── fold() ──> folded ── any question ──> parsed

    Headers that were not read by ``read_whole``, or were changed since, stay parsed.

    ``raw``, ``values``, ``last`` and ``in`` take names as twisted.web spells them, each part in
    title case (``Sec-Websocket-Key``); the methods of ``Headers`` take any spelling.
    """

    __slots__ = ("_lines", "_parsed")

    def __init__(self, rawHeaders: Mapping[Any, Sequence[Any]] | None = None) -> None:
        # Not that of Headers: its dict, which has no public name, is not used.
        # The lines as received, from which the headers can be parsed again; None if they can't.
        self._lines: bytes | None = None
        # The values of each header; None while folded.
        self._parsed: dict[bytes, list[bytes]] | None = {}
        for name, values in (rawHeaders or {}).items():
            self.setRawHeaders(name, values)

    @classmethod
    def parse(cls, lines: bytes) -> RequestHeaders:
        """Parse the well-formed lines of a head, without the CRLF of the last one."""
        headers = cls.__new__(cls)
        headers._lines, headers._parsed = lines, _parse(lines)
        return headers

    @property
    def raw(self) -> dict[bytes, list[bytes]]:
        """The values of each header."""
        if self._parsed is None:
            self._parsed = _parse(self._lines or b"")
        return self._parsed

    def fold(self) -> None:
        """Keep only the lines as received, until the next question."""
        if self._lines is not None:
            self._parsed = None

    def values(self, name: bytes) -> Sequence[bytes]:
        """Return all values of a header, in their order."""
        return (self._parsed or self.raw).get(name, ())

    def last(self, name: bytes) -> str | None:
        """Return the last value of a header, decoded as Latin-1, as its bytes may be any."""
        values = (self._parsed or self.raw).get(name)
        return values[-1].decode("latin-1") if values else None

    def holds(self, byte: bytes) -> bool:
        """Return whether a byte is in any of the values, or else in none of the names."""
        if self._lines is not None:
            return byte in self._lines
        return byte in b"".join(chain.from_iterable(self.raw.values()))

    def has_host(self, version: bytes) -> bool:
        """Return whether there is exactly one Host, and a valid one (RFC 9112 §3.2).

        HTTP/1.0 did not need any.
        """
        hosts = (self._parsed or self.raw).get(b"Host")
        if not hosts:
            return version == b"HTTP/1.0"
        return len(hosts) == 1 and _HOST.fullmatch(hosts[0]) is not None

    def __contains__(self, name: bytes) -> bool:
        return name in (self._parsed or self.raw)

    # The methods of Headers

    def hasHeader(self, name: Any) -> bool:
        """Return whether there is such a header."""
        return _canonical(name) in self.raw

    def getRawHeaders(self, name: Any, default: Any = None) -> Any:
        """Return the values of a header, of the type of its name, or the default."""
        values = self.raw.get(_canonical(name))
        if not values:
            return default
        return [value.decode() for value in values] if isinstance(name, str) else values

    def getAllRawHeaders(self) -> Iterator[tuple[bytes, Sequence[bytes]]]:
        """Iterate over the headers and their values."""
        return iter(self.raw.items())

    def setRawHeaders(self, name: Any, values: Any) -> None:
        """Replace the values of a header."""
        self._change()[_canonical(name)] = [_clean(value) for value in values]

    def addRawHeader(self, name: Any, value: Any) -> None:
        """Add a value to a header."""
        self._change().setdefault(_canonical(name), []).append(_clean(value))

    def removeHeader(self, name: Any) -> None:
        """Remove a header."""
        self._change().pop(_canonical(name), None)

    def copy(self) -> RequestHeaders:
        """Return a copy."""
        return type(self)(self.raw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.raw!r})"

    def __cmp__(self, other: object) -> Any:
        if not isinstance(other, Headers):
            return NotImplemented
        return Headers(self.raw).__cmp__(Headers(dict(other.getAllRawHeaders())))

    def __reduce__(self) -> tuple[type[RequestHeaders], tuple[object]]:
        return type(self), (self.raw,)

    def _change(self) -> dict[bytes, list[bytes]]:
        """Return the headers to be changed, which then differ from the lines as received."""
        raw = self.raw
        self._lines = None
        return raw


class WholeRequest(NamedTuple):
    """A request that arrived in one piece."""

    method: bytes
    target: bytes
    headers: RequestHeaders
    body: bytes


def read_whole(data: bytes) -> WholeRequest | None:
    """Return a GET without a body, or a POST with one, that arrived in one piece and alone.

    Most requests are such, and parsing one line after the other takes four times as long. A request
    that is unusual or wrong in any way gives None, and is left to twisted.web.
    """
    head = _HEAD.match(data, 0, _MAX_SIZE)
    if head is None:
        return None
    # Between the request line and the empty line.
    lines = data[head.end(2) + _VERSION : head.end() - 4]
    if lines.count(b"\n") >= _MAX_LINES:
        return None
    headers, body = RequestHeaders.parse(lines), data[head.end() :]
    raw = headers.raw
    if not _UNUSUAL.isdisjoint(raw):
        return None
    lengths = raw.get(b"Content-Length", ())
    if head[1] == b"GET":
        if lengths or body:
            return None
    elif len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]) or int(lengths[0]) != len(body):
        return None
    return WholeRequest(head[1], head[2], headers, body)


def head_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the lines of headers, spelled as twisted.web spells them."""
    return b"".join([b"%b%b\r\n" % (_line_start(name), value) for name, value in headers])


def asks_for_websocket(headers: RequestHeaders) -> bool:
    """Return whether a request is a WebSocket handshake (RFC 6455 §4.1, RFC 9110 §7.8)."""
    values = headers.raw.get(b"Upgrade")
    return values is not None and has_token(values, b"websocket")


def split_list(values: Sequence[bytes]) -> list[bytes]:
    """Return the elements of a list, without empty ones, which do not count (RFC 9110 §5.6.1)."""
    elements = [element.strip(b" \t") for value in values for element in value.split(b",")]
    return [element for element in elements if element]


def has_token(values: Sequence[bytes], token: bytes) -> bool:
    """Return whether a token is in a list, in upper or lower case (RFC 9110 §5.6.1)."""
    for value in values:
        lowered = value.lower()
        if lowered == token or token in [part.strip() for part in lowered.split(b",")]:
            return True
    return False


def split_target(target: bytes) -> tuple[bytes | None, bytes]:
    """Return the host of a target in absolute form, else None; and its path and query.

    A target in another form than RFC 9112's absolute-form (§3.2.2) and origin-form (§3.2.1) is
    returned as it is.
    """
    if target[:1] != b"/" and (absolute := _ABSOLUTE.fullmatch(target)):
        return absolute[1], absolute[2] if absolute[2][:1] == b"/" else b"/" + absolute[2]
    return None, target


def path_in(target: bytes) -> bytes:
    """Return the decoded path of a target."""
    return decode_path(split_target(target)[1].partition(b"?")[0])


def decode_path(path: bytes) -> bytes:
    """Return a path without its percent-encoding (RFC 3986 §2.1)."""
    return unquote_to_bytes(path) if b"%" in path else path


def _parse(lines: bytes) -> dict[bytes, list[bytes]]:
    """Return the values of each header in the lines of a head."""
    headers: dict[bytes, list[bytes]] = {}
    find = _COMMON_NAMES.get
    for line in lines.split(b"\r\n") if lines else ():
        spelling, _, value = line.partition(b":")
        value = value.strip(b" \t")
        name = find(spelling) or _canonical(spelling)
        if name in headers:
            headers[name].append(value)
        else:
            headers[name] = [value]
    return headers


def _canonical(name: str | bytes) -> bytes:
    """Return a name in the spelling under which twisted.web keeps it."""
    spelling = name.encode("latin-1") if isinstance(name, str) else name
    return _COMMON_NAMES.get(spelling) or _ask_for_canonical(spelling)


@lru_cache(maxsize=1024)
def _line_start(name: bytes) -> bytes:
    """Return the beginning of a header's line."""
    return b"%b: " % _canonical(name)


@lru_cache(maxsize=1024)
def _ask_for_canonical(spelling: bytes) -> bytes:
    [(name, _)] = Headers({spelling: ()}).getAllRawHeaders()
    return name


def _clean(value: str | bytes) -> bytes:
    """Return a value in bytes and without line ends, as ``Headers`` keeps it."""
    return b" ".join((value.encode() if isinstance(value, str) else value).splitlines())
