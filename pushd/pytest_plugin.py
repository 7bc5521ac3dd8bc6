"""pytest plugin: the fixture ``pushd_daemon``, a daemon in memory."""

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
    """Return a function that makes daemons: ``pushd_daemon(views, **settings)``.

    See ``pushd.testing.Daemon``. After the test each daemon is stopped; the test fails if a daemon
    leaves a delayed call behind.
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
