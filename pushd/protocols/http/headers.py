"""The head of a request, read in one go."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.web.http_headers import Headers


def asks_for_websocket(fields: RequestHeaders) -> bool:
    """Whether a request wants to go on as a WebSocket (RFC 6455 §4.1, RFC 9110 §7.8)."""
    return has_token(fields.values(b"Upgrade"), b"websocket")


def has_token(values: Sequence[bytes], token: bytes) -> bool:
    """Whether a token is one of a list's (RFC 9110 §5.6.1), in upper or lower case."""
    for value in values:
        lowered = value.lower()
        if lowered == token or token in [part.strip() for part in lowered.split(b",")]:
            return True
    return False


# A request line without anything special, and lines of headers: a token (RFC 9110 §5.6.2), a
# colon, and a value without controls (§5.5). Nothing that has matched is tried in another way
# ("++", "*+"), or a head that does not match after all could take long.
_LINE = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t\x20-\x7e\x80-\xff]*+\r\n"
_HEAD = re.compile(rb"GET ([\x21-\x7e]++) HTTP/1\.1\r\n(?:" + _LINE + rb")*+\r\n")
# What follows the target on that line, in bytes.
_VERSION = len(b" HTTP/1.1\r\n")

# The longest head that is read here, in bytes, and the most headers.
_MAX_SIZE = 8192
_MAX_LINES = 100

# Headers that say that there is a body, or wait for a word before it comes.
_UNUSUAL = frozenset({b"Content-Length", b"Transfer-Encoding", b"Expect"})

# A name or an address, and perhaps a port (RFC 9110 §7.2, RFC 3986 §3.2.2).
_HOST = re.compile(rb"([A-Za-z0-9._~%!$&'()*+,;=-]*|\[[0-9A-Za-z:.]+\])(:[0-9]*)?")

# The form of a target that proxies are asked with, which a server takes as well.
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)

# What clients send most, as they write it, by the one spelling under which it is kept.
_USUAL = {
    spelt: name.title()
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
    )
    for spelt in (name, name.lower(), name.title())
}


class RequestHeaders(Headers):
    """The headers of a request, which say quickly what is in them.

    twisted.web canonicalizes a name for each question; here it is asked for by the spelling that
    it is kept under, with each part in title case: ``Sec-Websocket-Key``.
    """

    __slots__ = ("_lines", "_unfolded")

    def __init__(self, rawHeaders: Mapping[Any, Sequence[Any]] | None = None) -> None:
        # The lines as they came, of a head that was read here, and what they hold by name, but not
        # while it is folded.
        self._lines: bytes | None = None
        self._unfolded: dict[bytes, list[bytes]] | None = {}
        for name, values in (rawHeaders or {}).items():
            self.setRawHeaders(name, values)

    @property
    def raw(self) -> dict[bytes, list[bytes]]:
        """All values of each header: for who asks for many."""
        unfolded = self._unfolded
        if unfolded is None:
            unfolded = self._unfolded = _unfold(self._lines or b"")
        return unfolded

    # What twisted.web's own methods go by.
    _rawHeaders = raw

    def fold(self) -> None:
        """Keep only the lines as they came until somebody asks again, which few do.

        For a browser's dozen headers that is one object in place of some thirty, as long as a view
        keeps its request. Those that have been changed since they came are kept as they are.
        """
        if self._lines is not None:
            self._unfolded = None

    # What changes them

    def setRawHeaders(self, name: Any, values: Any) -> None:
        """Give a header these values; see ``Headers``."""
        super().setRawHeaders(name, values)
        self._lines = None

    def addRawHeader(self, name: Any, value: Any) -> None:
        """Give a header one more value; see ``Headers``."""
        super().addRawHeader(name, value)
        self._lines = None

    def removeHeader(self, name: Any) -> None:
        """Take a header out; see ``Headers``."""
        super().removeHeader(name)
        self._lines = None

    def __reduce__(self) -> tuple[type[RequestHeaders], tuple[object]]:
        """Be copied."""
        return type(self), (self.raw,)

    # What asks them

    def values(self, name: bytes) -> Sequence[bytes]:
        """All values of a header, in their order."""
        return (self._unfolded or self.raw).get(name, ())

    def last(self, name: bytes) -> str | None:
        """The last value of a header; its bytes may be any, so they are taken for Latin-1."""
        values = (self._unfolded or self.raw).get(name)
        return values[-1].decode("latin-1") if values else None

    def holds(self, byte: bytes) -> bool:
        """Whether a byte is in any of the values."""
        return byte in b"".join(chain.from_iterable(self.raw.values()))

    def has_host(self, version: bytes) -> bool:
        """Whether there is one Host that can be one (RFC 9112 §3.2).

        Or none, from the times before it was needed.
        """
        hosts = self.values(b"Host")
        if not hosts:
            return version == b"HTTP/1.0"
        return len(hosts) == 1 and _HOST.fullmatch(hosts[0]) is not None

    def __contains__(self, name: bytes) -> bool:
        return name in (self._unfolded or self.raw)

    @classmethod
    def of(cls, lines: bytes) -> RequestHeaders | None:
        """Read the lines of a head; None if one is for twisted.web to judge."""
        unfolded = _unfold(lines)
        if not _UNUSUAL.isdisjoint(unfolded):
            return None
        fields = cls()
        fields._lines, fields._unfolded = lines, unfolded
        return fields


def _unfold(lines: bytes) -> dict[bytes, list[bytes]]:
    """What lines of a head hold, by name."""
    unfolded: dict[bytes, list[bytes]] = {}
    spellings = _USUAL.get
    for line in lines.split(b"\r\n") if lines else ():
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        spelling = spellings(name) or _spell(name)
        if spelling in unfolded:
            unfolded[spelling].append(value)
        else:
            unfolded[spelling] = [value]
    return unfolded


def _spell(name: bytes) -> bytes:
    """The spelling under which twisted.web keeps a header."""
    [(spelling, _)] = Headers({name: ()}).getAllRawHeaders()
    return spelling


def split_target(target: bytes) -> tuple[bytes | None, bytes]:
    """What is asked for: the host that a whole URL names, if it is one, and path and query.

    Those are RFC 9112's absolute-form (§3.2.2) and origin-form (§3.2.1); what is neither is left.
    """
    if target[:1] != b"/" and (absolute := _ABSOLUTE.fullmatch(target)):
        return absolute[1], absolute[2] if absolute[2][:1] == b"/" else b"/" + absolute[2]
    return None, target


def path_in(target: bytes) -> bytes:
    """The path that is asked for, decoded."""
    return decode_path(split_target(target)[1].partition(b"?")[0])


def decode_path(path: bytes) -> bytes:
    """A path without its percent-escapes (RFC 3986 §2.1); few have any."""
    return unquote_to_bytes(path) if b"%" in path else path


def read_head(data: bytes) -> tuple[bytes, RequestHeaders] | None:
    """The target and the headers of a GET that is here in one piece and has no body.

    Nearly all are, and reading one line after the other takes four times as long. Whatever is the
    least unusual, or wrong, gives None and is twisted.web's to read, as if nothing had been tried.
    """
    if len(data) > _MAX_SIZE:
        return None
    head = _HEAD.fullmatch(data)
    if head is None:
        return None
    # What stands between the request line and the empty one.
    lines = data[head.end(1) + _VERSION : -4]
    fields = RequestHeaders.of(lines) if lines.count(b"\n") < _MAX_LINES else None
    return None if fields is None else (head[1], fields)
