"""How a connection ends: close codes with their reasons, and which side closed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

#: Which side ended a connection: this daemon, or its peer.
US, PEER = "us", "peer"


class Ending(NamedTuple):
    """How a connection ended; event streams borrow the close codes of WebSockets."""

    #: Code of the Close frame; 1006 if there was none.
    code: int
    #: US or PEER.
    by: str
    #: Reason of the Close frame, or another explanation.
    reason: str
    #: Bytes that were written and that the peer did not take.
    untaken: int = 0


# Codes that an endpoint may send: RFC 6455 §7.4.1 and the IANA registry. 1004, 1005, 1006 and 1015
# are reserved for local use.
_REGISTERED_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})

# A control frame holds 125 bytes, two of them the code (RFC 6455 §5.5).
_MAX_REASON = 123


@dataclass(frozen=True, slots=True)
class Closing:
    """Code and reason of the Close frame that ends a WebSocket (RFC 6455 §7.4).

    Raises TypeError if the code is not an int or the reason not a str, and ValueError if the code
    must not be sent or the reason is longer than 123 bytes of UTF-8.
    """

    code: int
    reason: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.code, int) or isinstance(self.code, bool):
            raise TypeError(f"close code must be an int; got {type(self.code).__name__}")
        if not isinstance(self.reason, str):
            raise TypeError(f"close reason must be a str; got {type(self.reason).__name__}")
        if self.code not in _REGISTERED_CODES and not 3000 <= self.code <= 4999:
            raise ValueError(
                f"close code must be 1000-1003, 1007-1014 or 3000-4999; got {self.code}"
            )
        length = len(self.reason.encode())
        if length > _MAX_REASON:
            raise ValueError(f"close reason must be {_MAX_REASON} bytes at most; got {length}")


NORMAL = Closing(1000)
GOING_AWAY = Closing(1001, "server is shutting down")
TINY_FRAGMENTS = Closing(1008, "too many tiny fragments")
INVALID_TEXT = Closing(1007, "text is not UTF-8")
INVALID_COMPRESSION = Closing(1007, "message cannot be decompressed")
# web/transports.js compares this reason.
TOKEN_EXPIRED = Closing(1008, "token expired")
# web/transports.js compares this reason, too.
PERMISSION_EXPIRED = Closing(1008, "permission expired")
PERMISSION_REVOKED = Closing(1008, "permission revoked")
RATE_EXCEEDED = Closing(1008, "too many messages")
TOO_BIG = Closing(1009, "message too big")
INTERNAL_ERROR = Closing(1011, "internal error")
TRY_AGAIN_LATER = Closing(1013, "client reads too slowly")
MEMORY_EXCEEDED = Closing(1013, "the server's buffers are full")
HISTORY_GAP = Closing(1013, "history gap: reconnect with your last id")
BROKER_UNAVAILABLE = Closing(1013, "temporarily unavailable")
