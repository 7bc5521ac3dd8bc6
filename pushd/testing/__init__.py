"""A daemon in memory, with a clock that the test controls; see ``Daemon``."""

from pushd.access.closing import (
    GOING_AWAY,
    INTERNAL_ERROR,
    NORMAL,
    RATE_EXCEEDED,
    TOKEN_EXPIRED,
    TOO_BIG,
    TRY_AGAIN_LATER,
    Closing,
)
from pushd.testing.browser import Browser
from pushd.testing.connection import Answer, RawConnection
from pushd.testing.daemon import Daemon

__all__ = ["GOING_AWAY", "INTERNAL_ERROR", "NORMAL", "RATE_EXCEEDED", "TOKEN_EXPIRED"]
__all__ += ["TOO_BIG", "TRY_AGAIN_LATER", "Answer", "Browser", "Closing", "Daemon", "RawConnection"]
