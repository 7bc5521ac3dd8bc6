"""How many descriptors this process may have open, and what they leave for connections."""

from __future__ import annotations

import resource

from twisted.logger import Logger

_log = Logger()

# What all but the public door's connections take: the reactor, the log, listening ports and open
# files; those who wait to hear that there is no place; and operators, who must get in even then.
_OWN = 192


def allow_connections(wanted: int) -> int:
    """How many connections there may be, of those that are wanted; it is logged as well.

    Each takes a descriptor, so the soft limit is raised as far as that needs and the hard limit
    lets it. Whoever takes more than there are is left to accept() and its errors.
    """
    allowed = _raise_limit(wanted)
    if allowed == wanted:
        _log.info("{allowed} connections at most", event="allowed", allowed=allowed)
    else:
        _log.warn(
            "{allowed} connections at most, not {wanted}: the limit of open files allows no more",
            event="allowed",
            allowed=allowed,
            wanted=wanted,
        )
    return allowed


def _raise_limit(wanted: int) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OWN
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - _OWN))
