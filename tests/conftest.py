"""Hooks of pytest for all tests."""

from __future__ import annotations

import gc
from collections.abc import Generator
from unittest import TestCase

import pytest

_THRESHOLDS = gc.get_threshold()


def pytest_collection_finish() -> None:
    """Leave the modules of all tests out of garbage collections.

    Many tests see by one whether something leaves garbage behind. With all modules in them, these
    took a fifth of the CPU of the tests in memory.
    """
    _freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Keep nothing of a test that has run, and leave what a file of tests left out as well.

    A case of trial refers to itself. It was made when the tests were collected, so that it is never
    found to be garbage: its daemon would stay to the end, and so would those of all other tests.
    Some tests thaw all objects, and change when the collector runs.
    """
    test = getattr(item, "instance", None)
    result = yield
    if isinstance(test, TestCase):
        vars(test).clear()
    if nextitem is None or nextitem.path != item.path:
        gc.set_threshold(*_THRESHOLDS)
        _freeze()
    return result


def _freeze() -> None:
    gc.collect()
    gc.freeze()
