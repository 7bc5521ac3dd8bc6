"""The fixture ``pushd_daemon``: daemons in memory for tests under pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

# pytest loads this module wherever pushd is installed, so nothing of pushd is imported until a
# test asks for the fixture.
if TYPE_CHECKING:
    from pushd.testing.daemon import Daemon
    from pushd.views.request import View


def make_daemons() -> Iterator[Callable[..., Daemon]]:
    """Make a daemon in memory: ``pushd_daemon(views, **settings)``; see ``pushd.testing.Daemon``.

    Each is stopped when the test is over, which fails if a daemon leaves a delayed call.
    """
    from pushd.testing.daemon import Daemon

    daemons: list[Daemon] = []

    def make(views: Mapping[str, View] | None = None, **settings: Any) -> Daemon:
        daemons.append(Daemon(views, **settings))
        return daemons[-1]

    yield make
    for daemon in daemons:
        daemon.stop()
    left = [str(call) for daemon in daemons for call in daemon.pending_calls]
    if left:
        pytest.fail("\n".join(["left behind after the daemon's stop:", *left]), pytrace=False)


pushd_daemon = pytest.fixture(name="pushd_daemon")(make_daemons)
