"""A daemon whose system clock is set while it runs."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support.daemon_process import DaemonProcess

HOUR = 3600

# Seconds from the first message to the Close: ten pushes, half a second apart.
LENGTH = 5.0

SetClock = Callable[[int], object]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library that shifts the system clock of a process."""
    library = tmp_path_factory.mktemp("shim") / "wall_clock.so"
    source = Path(__file__).with_name("wall_clock.c")
    command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(library), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return library


@pytest.fixture
def daemon(shim: Path, tmp_path: Path) -> Iterator[tuple[DaemonProcess, SetClock]]:
    """Give a daemon, and a function that shifts its system clock."""
    file = tmp_path / "seconds"

    def set_clock(seconds: int) -> None:
        # In place, because the daemon has mapped the file.
        with file.open("r+b" if file.exists() else "wb") as clock:
            clock.write(struct.pack("l", seconds))

    set_clock(0)
    environment = {"LD_PRELOAD": str(shim), "WALL_CLOCK": str(file)}
    # Without fast paths, timers follow the system clock.
    args = ["--fast-paths", "on"]
    with DaemonProcess(args, directory=tmp_path, environment=environment) as process:
        yield process, set_clock


@pytest.mark.parametrize("step", [-HOUR, HOUR], ids=["back", "forward"])
def test_demo(daemon: tuple[DaemonProcess, SetClock], step: int) -> None:
    """Pushes stay half a second apart, and log lines have the time of the system clock."""
    process, set_clock = daemon
    url = process.url.replace("http", "ws") + "test/"
    received = 0
    with connect(url, proxy=None) as browser:
        begin = monotonic()
        browser.send("hello")
        with pytest.raises(ConnectionClosed):
            while True:
                browser.recv(timeout=30)
                received += 1
                if received == 3:
                    set_clock(step)
        took = monotonic() - begin
    assert received == 10
    assert LENGTH - 0.1 < took < LENGTH + 20
    process.wait_for(r" closed 1000 after (5\.\d+|[1-2]\d\.\d+) s by us")
    opened, closed = (
        _hour(process.wait_for(rf"^(\S+) .* {what}")[1]) for what in ("opened", "closed")
    )
    assert (closed - opened) % 24 in ((step // HOUR) % 24, (step // HOUR + 1) % 24)


def _hour(stamp: str) -> int:
    match = re.search(r"T(\d\d):", stamp)
    assert match is not None
    return int(match[1])
