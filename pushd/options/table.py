"""All options in the order of their groups, and which values of them conflict."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

from pushd.options.option import Values, declared_options
from pushd.options.settings import GROUPS, Settings
from pushd.options.sources import Conflict

# An endpoint for which the system picks a free port, a different one each time.
_ANY_PORT = re.compile(r"(tcp6?|ssl):0(:|$)")

#: Every option, in the order in which they are listed.
OPTIONS = tuple(sorted(declared_options(Settings), key=lambda option: GROUPS.index(option.group)))


def _find_shared_endpoints(values: Values) -> Iterator[Conflict]:
    """Find endpoints that are given twice: only the first could listen there."""
    for endpoint, count in Counter(values["listen"] + values["control"]).items():
        if count > 1 and not _ANY_PORT.match(endpoint):
            names = tuple(name for name in ("listen", "control") if endpoint in values[name])
            yield Conflict(names, f"the endpoint {endpoint} is given {count} times")


#: Each finds conflicts in the values of all options.
COMBINATIONS: tuple[Callable[[Values], Iterator[Conflict]], ...] = (_find_shared_endpoints,)
