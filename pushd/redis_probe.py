"""A look at Redis before the daemon starts, so that what can't work ends it with one line."""

from __future__ import annotations

from typing import Any

from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure

from pushd.redis_scripts import Unsuitable
from pushd.redis_session import Session, open_session
from pushd.redis_url import RedisAddress


def probe(address: RedisAddress) -> str | None:
    """Why this Redis can't be used until somebody changes something; None if it can.

    One that just can't be reached can: the daemon goes on asking. The look takes at most the ten
    seconds that a session has to open, on a reactor of its own, as the daemon's is not running yet.
    """
    reactor: Any = SelectReactor()
    reasons: list[str] = []

    def begin() -> None:
        opening = open_session(reactor, address, lambda *_: None, lambda _: None)
        opening.addCallback(Session.end).addErrback(note).addBoth(lambda _: reactor.stop())

    def note(failure: Failure) -> None:
        if failure.check(Unsuitable):
            reasons.append(failure.getErrorMessage())

    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    return reasons[0] if reasons else None
