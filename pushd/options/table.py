"""All options in order, and the combinations of their values that are not allowed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pushd.options.option import declared_options
from pushd.options.settings import Settings
from pushd.options.sources import Clash

# An endpoint that the system finds a free port for, each time another.
_ANY_PORT = re.compile(r"(tcp6?|ssl):0(:|$)")

#: Every option there is, in the order in which people should read of them.
OPTIONS = tuple(declared_options(Settings))


def _find_shared_doors(values: Mapping[str, Any]) -> Iterator[Clash]:
    """Find the endpoints that are named twice: who came second could not listen there."""
    for endpoint, count in Counter(values["listen"] + values["control"]).items():
        if count > 1 and not _ANY_PORT.match(endpoint):
            names = tuple(name for name in ("listen", "control") if endpoint in values[name])
            yield Clash(names, f"{endpoint} is named {count} times")


#: What can't be in force together: each takes the values of all options by name.
COMBINATIONS: tuple[Callable[[Mapping[str, Any]], Iterator[Clash]], ...] = (_find_shared_doors,)
