"""A look at Redis before the daemon starts, so that what can't work ends it with one line."""

from __future__ import annotations

from typing import Any

from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure

from pushd.redis_scripts import Unsuitable
from pushd.redis_session import Session, open_session
from pushd.redis_url import RedisAddress

# How long to wait for something to happen before the clock is looked at, in seconds.
_STEP = 0.1


def probe(address: RedisAddress) -> str | None:
    """Why this Redis can't be used until somebody changes something; None if it can.

    One that just can't be reached can: the daemon goes on asking. The look takes at most the ten
    seconds that a session has to open, on a reactor of its own, as the daemon's is not running yet.
    """
    reactor: Any = SelectReactor()
    reactor.startRunning(installSignalHandlers=False)
    opening = open_session(reactor, address, lambda *_: None, lambda _: None)
    looking = opening.addCallbacks(Session.end, _explain)
    while not looking.called:
        reactor.iterate(_STEP)
    reactor.stop()
    # Once to be told of the stop, once to carry it out.
    reactor.iterate(0)
    reactor.iterate(0)
    reason: Any = looking.result
    return None if reason is None else str(reason)


def _explain(failure: Failure) -> str | None:
    return failure.getErrorMessage() if failure.check(Unsuitable) else None
