"""Checks the status and the headers of an ASGI application's response."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_LENGTH = re.compile(rb"[0-9]{1,18}")

# What would end a header, or the head (RFC 9110 §5.5).
_FORBIDDEN = re.compile(rb"[\r\n\0]")

# Headers that only the server may set (RFC 9110 §7.6.1); Date and Server are the application's if
# it sets them.
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"trailer", b"transfer-encoding", b"upgrade"}
)

Headers = list[tuple[bytes, bytes]]


def check_status(status: Any) -> int:
    """Return a status. Raises ValueError or TypeError if it cannot be one of a response."""
    if not isinstance(status, int):
        raise TypeError(f"status must be an int, not {type(status).__name__}")
    if not 200 <= status <= 599:
        raise ValueError(f"status must be 200 to 599; got {status}")
    return int(status)


def check_headers(
    headers: Iterable[Iterable[bytes]], server: frozenset[bytes] = frozenset()
) -> Headers:
    """Return the headers that are sent: those that only the server may set are left out.

    :param server: the names of more of these, in lower case.

    Raises TypeError or ValueError, for the application, if they cannot be sent.
    """
    kept = []
    for name, value in headers:
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise TypeError(f"headers consist of bytes; got {name!r}")
        lowered = _check_name(name)
        if _FORBIDDEN.search(value):
            raise ValueError(f"the header {name!r} contains a line break or a null character")
        if lowered not in _HOP_BY_HOP and lowered not in server:
            kept.append((name, value.strip(b" \t")))
    return kept


@lru_cache(maxsize=1024)
def _check_name(name: bytes) -> bytes:
    """Return the name of a header in lower case. Raises ValueError if it is none."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a header name")
    return name.lower()


def read_length(headers: Headers) -> int | None:
    """Return the Content-Length; None without one. Raises ValueError for one that is no number."""
    lengths = [value for name, value in headers if name.lower() == b"content-length"]
    if not lengths:
        return None
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise ValueError(f"Content-Length must be one number; got {b', '.join(lengths)!r}")
    return int(lengths[0])
