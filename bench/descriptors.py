"""The limit of open files, which the servers and the load generator inherit from the benchmark."""

from __future__ import annotations

import resource


def raise_descriptors(needed: int = 0) -> int:
    """Raise the limit of open files to the hard limit, or to ``needed`` if that is more.

    Only root can do the latter. Return the limit that is in force.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(hard, needed), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except (ValueError, OSError):
            continue
        return limit
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
