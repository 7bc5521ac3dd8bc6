"""``--reload``: an application is edited while the daemon runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep

import pytest

from pushd.client import Began, Broken, Client, Message, connect
from tests.support.daemon_process import TWISTD, DaemonProcess

# Seconds that any step may take.
PATIENCE = 60.0

# For each kind of application, its option and what it is made of; %s is what it answers.
KINDS = {
    "--views": 'async def hello(request):\n    return "%s"\n\n\nit = {"/hello/": hello}\n',
    "--wsgi": (
        "def it(environ, start_response):\n"
        '    start_response("200 OK", [("Content-Type", "text/plain")])\n'
        '    return [b"%s"]\n'
    ),
    "--asgi": (
        "async def it(scope, receive, send):\n"
        '    if scope["type"] == "lifespan":\n'
        "        await receive()\n"
        '        await send({"type": "lifespan.startup.complete"})\n'
        "        return\n"
        '    await send({"type": "http.response.start", "status": 200, "headers": []})\n'
        '    await send({"type": "http.response.body", "body": b"%s"})\n'
    ),
}


class EditedDaemon:
    """A daemon with ``--reload``, and the file that it serves."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self._template = KINDS[kind]
        # A port that is free may not be free when the daemon starts anew; these paths are.
        self.public, self.control = f"{folder}/public.sock", f"{folder}/control.sock"
        self.write("one")
        self.process = DaemonProcess(
            (
                *(f"--listen=unix:{self.public}", f"--control=unix:{self.control}"),
                *("--reload", kind, "edited:it"),
            ),
            directory=folder,
            patience=PATIENCE,
            # It starts its own command again, which that of a forked process is not.
            is_new=True,
        )

    def write(self, text: str) -> None:
        """Edit the file, so that the application answers a text."""
        self.write_code(self._template % text)

    def write_code(self, code: str) -> None:
        """Replace the file, as many editors do."""
        (self.folder / "edited.new").write_text(code)
        (self.folder / "edited.new").rename(self.folder / "edited.py")

    def ask(self) -> str | None:
        """Ask the application; return None if the daemon is not there."""
        connection = connect("unix", self.public, None, PATIENCE)
        try:
            connection.request("GET", "/hello/")
            return connection.getresponse().read().decode()
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()

    def wait_for(self, text: str) -> None:
        """Wait until the application answers a text."""
        deadline = monotonic() + PATIENCE
        while (answer := self.ask()) != text:
            assert monotonic() < deadline, (answer, self.process.log)
            sleep(0.05)


@pytest.fixture(params=KINDS)
def edited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EditedDaemon]:
    """Run a daemon that serves an application of each kind."""
    daemon = EditedDaemon(tmp_path, request.param)
    daemon.process.start()
    daemon.wait_for("one")
    yield daemon
    daemon.process.stop()
    assert not [line for line in daemon.process.log if "Traceback" in line], daemon.process.log


def test_edit(edited: EditedDaemon) -> None:
    """An edited file is served; one with a mistake is named, and what was served before goes on."""
    pid = edited.process.pid
    edited.write("two")
    edited.wait_for("two")
    edited.write_code("def it(:\n")
    edited.process.wait_for(r"edited\.py, line 1: invalid syntax; the code from before goes on")
    assert edited.ask() == "two"
    edited.write("three")
    edited.wait_for("three")
    # It compiles, but cannot be imported: nothing is served until that is mended.
    edited.write_code("import nothing_of_this_name\n")
    edited.process.wait_for("No module named 'nothing_of_this_name'.*edited.py, line 1")
    edited.process.wait_for("waiting for a change of the code")
    edited.write("four")
    edited.wait_for("four")
    assert edited.process.pid == pid


def test_resume(tmp_path: Path) -> None:
    """Subscribers reconnect after an edit, and get what was published meanwhile."""
    edited = EditedDaemon(tmp_path, "--views")
    edited.process.start()
    edited.wait_for("one")
    events: list[Began | Broken | Message] = []
    subscribed, done = Event(), Event()

    def follow() -> None:
        client = Client(f"unix:{edited.public}", pause=lambda seconds: sleep(0.05))
        for event in client.follow("news"):
            events.append(event)
            if isinstance(event, Began):
                subscribed.set()
            if isinstance(event, Message) and event.data == "last":
                done.set()
                return

    Thread(target=follow, daemon=True).start()
    assert subscribed.wait(PATIENCE)
    control = Client(f"unix:{edited.control}")
    control.publish("news", "before")
    edited.write("two")
    edited.wait_for("two")
    control.publish("news", "last")
    assert done.wait(PATIENCE), events
    assert [one.data for one in events if isinstance(one, Message)] == ["before", "last"]
    began = [one for one in events if isinstance(one, Began)]
    assert len(began) == 2, events
    assert began[1].recovered
    edited.process.stop()


def test_blocked(tmp_path: Path) -> None:
    """A view that blocks its thread does not keep the daemon from starting anew."""
    edited = EditedDaemon(tmp_path, "--views")
    edited.write_code(
        "import time\n\n\n"
        "def block(request):\n    time.sleep(600)\n\n\n"
        'it = {"/block/": block, "/hello/": lambda request: "one"}\n'
    )
    edited.process.start()
    edited.wait_for("one")
    connection = connect("unix", edited.public, None, PATIENCE)
    connection.request("GET", "/block/")
    edited.write("two")
    edited.wait_for("two")
    connection.close()
    edited.process.stop()


def test_refused(tmp_path: Path) -> None:
    """It is refused in the background and under systemd, with one line."""
    for environ, flags, line in (
        ({}, [], "pushd: --reload: is for development: start it in the foreground"),
        ({"NOTIFY_SOCKET": "/x"}, ["-n"], "pushd: --reload: is for development: it does not go"),
    ):
        done = subprocess.run(
            [TWISTD, *flags, "--pidfile=", "pushd", "--reload", "--control", "none"],
            cwd=tmp_path,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 1, done
        assert done.stderr.startswith(line), done
        assert done.stderr.count("\n") == 1, done
