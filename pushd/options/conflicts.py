"""Values of options that are valid alone, and conflict with each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from pushd.options.option import Values
from pushd.options.sources import Conflict

# An endpoint for which the system picks a free port, a different one each time.
_ANY_PORT = re.compile(r"(haproxy:)?(tcp6?|ssl):0(:|$)")


def _find_shared_endpoints(values: Values) -> Iterator[Conflict]:
    """Find endpoints that are given twice: only the first could listen there."""
    for endpoint, count in Counter(values["listen"] + values["control"]).items():
        if count > 1 and not _ANY_PORT.match(endpoint):
            names = tuple(name for name in ("listen", "control") if endpoint in values[name])
            yield Conflict(names, f"the endpoint {endpoint} is given {count} times")


def find_conflicts(values: Values) -> list[Conflict]:
    """Find all conflicts in the values of all options."""
    return list(_find_shared_endpoints(values))
