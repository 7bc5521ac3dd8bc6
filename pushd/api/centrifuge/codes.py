"""Codes of the Centrifuge client protocol: of errors, of disconnects and of unsubscribes.

A client reconnects after disconnect codes 3000 to 3499 and 4000 to 4499, and subscribes again after
unsubscribe codes from 2500 on; after all others it does not come back by itself.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from pushd.access.closing import (
    GOING_AWAY,
    HISTORY_GAP,
    INTERNAL_ERROR,
    MEMORY_EXCEEDED,
    PERMISSION_EXPIRED,
    RATE_EXCEEDED,
    TOKEN_EXPIRED,
    TRY_AGAIN_LATER,
    Closing,
)
from pushd.errors import BadRequest, CommandRefused, Denied

# Characters of a reason, which are ASCII; the reason of a Close frame has 123 bytes at most.
_MAX_REASON = 120


class ErrorCode(IntEnum):
    """Codes of errors in replies."""

    INTERNAL_ERROR = 100
    UNAUTHORIZED = 101
    UNKNOWN_CHANNEL = 102
    PERMISSION_DENIED = 103
    METHOD_NOT_FOUND = 104
    ALREADY_SUBSCRIBED = 105
    LIMIT_EXCEEDED = 106
    BAD_REQUEST = 107
    NOT_AVAILABLE = 108
    TOKEN_EXPIRED = 109
    TOO_MANY_REQUESTS = 111
    UNRECOVERABLE_POSITION = 112


class Unsubscription(NamedTuple):
    """Why the server ends a subscription."""

    code: int
    reason: str


REVOKED = Unsubscription(2000, "permission revoked")
SERVER_UNSUBSCRIBED = Unsubscription(2000, "server unsubscribe")
INSUFFICIENT_STATE = Unsubscription(2500, "history gap: subscribe again with your position")
SUBSCRIPTION_EXPIRED = Unsubscription(2501, "subscription expired")

CONNECTION_EXPIRED = Closing(3005, "connection expired")
SLOW = Closing(3008, TRY_AGAIN_LATER.reason)
SERVER_ERROR = Closing(3004, INTERNAL_ERROR.reason)
STATE_LOST = Closing(3010, "insufficient state")
NO_PONG = Closing(3012, "no pong")
TOO_MANY_REQUESTS = Closing(3013, RATE_EXCEEDED.reason)
INVALID_TOKEN = Closing(3500, "invalid token")
STALE = Closing(3502, "no connect command in time")
FORCED = Closing(3503, "force disconnect")

#: What other parts of the daemon close a connection with, as these clients know it.
TRANSLATED = {
    GOING_AWAY: Closing(3001, "shutdown"),
    INTERNAL_ERROR: SERVER_ERROR,
    TOKEN_EXPIRED: CONNECTION_EXPIRED,
    PERMISSION_EXPIRED: CONNECTION_EXPIRED,
    TRY_AGAIN_LATER: SLOW,
    MEMORY_EXCEEDED: Closing(3008, MEMORY_EXCEEDED.reason),
    HISTORY_GAP: STATE_LOST,
    RATE_EXCEEDED: TOO_MANY_REQUESTS,
}


def bad_request(reason: str) -> Closing:
    """Return how a connection is closed whose client breaks the protocol."""
    return Closing(3501, f"bad request: {reason}"[:_MAX_REASON])


def closing_of(refused: CommandRefused) -> Closing:
    """Return how a connection is closed whose client gets no replies, if it cannot connect."""
    if refused.code == ErrorCode.TOKEN_EXPIRED:
        return CONNECTION_EXPIRED
    return SERVER_ERROR if refused.temporary else bad_request(refused.message)


def refusal_of(refused: BadRequest | Denied) -> CommandRefused:
    """Return the error for what was refused in the terms of HTTP."""
    if refused.status >= 500:
        return CommandRefused(ErrorCode.INTERNAL_ERROR, refused.reason, temporary=True)
    if isinstance(refused, Denied):
        return CommandRefused(ErrorCode.PERMISSION_DENIED, refused.reason)
    return CommandRefused(ErrorCode.BAD_REQUEST, refused.reason)
