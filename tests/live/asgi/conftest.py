"""Leaves out the applications whose frameworks are not installed; ``make asgi`` has all."""

from __future__ import annotations

import importlib.util

# Starlette and FastAPI are installed for all tests.
_NEEDS = {
    "test_channels.py": "channels",
    "test_example_channels.py": "channels",
    "test_graphql.py": "strawberry",
    "test_quart.py": "quart",
    "test_sse.py": "sse_starlette",
}

collect_ignore = [name for name, needed in _NEEDS.items() if not importlib.util.find_spec(needed)]
