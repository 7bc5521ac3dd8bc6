"""Resources of the process: how many files it may open, and the memory that it takes."""

from __future__ import annotations

import resource
from pathlib import Path

from twisted.logger import Logger

from pushd.options.settings import Settings
from pushd.options.sizes import round_size

_log = Logger(namespace="pushd.service")

# Descriptors for everything but connections to the public port: the reactor, the log, listening
# sockets, open files, connections that wait for a 503, and the control port.
_RESERVED = 192


def allow_connections(wanted: int) -> int:
    """Return how many of the wanted connections the limit of open files allows, and log it.

    Each connection takes a descriptor. The soft limit is raised as far as necessary and as far as
    the hard limit permits.
    """
    allowed = _raise_limit(wanted)
    if allowed == wanted:
        _log.info("connection limit is {allowed}", event="allowed", allowed=allowed)
    else:
        _log.warn(
            "connection limit is {allowed}, not {wanted}: raise the limit of open files "
            "(LimitNOFILE=, ulimit -n)",
            event="allowed",
            allowed=allowed,
            wanted=wanted,
        )
    return allowed


def resident_bytes(status: Path = Path("/proc/self/statm")) -> int:
    """Return the memory that the process takes (RSS), in bytes; 0 where that is not known.

    :param status: a file of Linux.
    """
    try:
        pages = int(status.read_bytes().split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def log_memory_limit(settings: Settings) -> None:
    """Log how much memory buffers may take: at the start, and after each reload."""
    limit = settings.limits.max_memory
    _log.info(
        "memory limit for all buffers is {size}",
        event="memory_limit",
        size=round_size(limit),
        limit=limit,
    )


def _raise_limit(wanted: int) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _RESERVED
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - _RESERVED))
