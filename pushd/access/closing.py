"""Closings: the codes and reasons with which a WebSocket ends, and how a connection ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Ending(NamedTuple):
    """How a connection ended: the code of a WebSocket's Close frame, who ended it, and why.

    SSE has no codes; it borrows those of WebSocket.
    """

    code: int
    by: str
    reason: str


# RFC 6455 §7.4.1 and the IANA registry: what an endpoint may put on the wire.
# 1004, 1005, 1006 and 1015 are reserved for reports on one's own side.
_REGISTERED_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})

# A control frame holds 125 bytes, two of them the code (RFC 6455 §5.5).
_MAX_REASON = 123


@dataclass(frozen=True, slots=True)
class Closing:
    """How a WebSocket ends: the code and the reason of its Close frame (RFC 6455 §7.4).

    Raises TypeError when the code is no integer or the reason no text, and ValueError when
    the code may not go on the wire or the reason needs more than 123 bytes of UTF-8.
    """

    code: int
    reason: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.code, int) or isinstance(self.code, bool):
            raise TypeError(f"a close code is an int, not {type(self.code).__name__}")
        if not isinstance(self.reason, str):
            raise TypeError(f"a close reason is a str, not {type(self.reason).__name__}")
        if self.code not in _REGISTERED_CODES and not 3000 <= self.code <= 4999:
            raise ValueError(
                f"close code {self.code} may not go on the wire: "
                "1000-1003, 1007-1014 and 3000-4999 may"
            )
        length = len(self.reason.encode())
        if length > _MAX_REASON:
            raise ValueError(f"a close reason holds {_MAX_REASON} bytes, this one has {length}")


NORMAL = Closing(1000)
GOING_AWAY = Closing(1001, "the server is going away")
TINY_FRAGMENTS = Closing(1008, "too many tiny fragments")
TOKEN_EXPIRED = Closing(1008, "the token has run out")
RATE_EXCEEDED = Closing(1008, "too many messages")
TOO_BIG = Closing(1009, "the message is too big")
INTERNAL_ERROR = Closing(1011, "internal error")
TRY_AGAIN_LATER = Closing(1013, "too slow to follow")
HISTORY_GAP = Closing(1013, "history gap: reconnect with your last id")
BROKER_UNAVAILABLE = Closing(1013, "temporarily unavailable")
