"""A tutorial, done step by step as its reader does it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from tests.support.fences import find_fences
from tests.support.held_port import held_port

DOCS = Path(__file__).parents[2] / "docs"

# Seconds that a command may take, and a server to start or to end.
TIMEOUT = 200.0

# The first line of a file: a comment with its path, from the folder in which commands run.
_HEAD = re.compile(r"(?:# |<!-- |// |/\* )([\w./-]+\.\w+)(, at the end)?(?: -->| \*/)?\n")

# Commands that run until Ctrl-C.
_SERVER = re.compile(r"\b(?:runpushd|twistd)\b")

# What is left out of the environment, as a reader does not have it.
_FOREIGN = re.compile(r"PYTHONPATH|VIRTUAL_ENV|DJANGO_.*|PUSHD_.*|COVERAGE_.*|PYTEST_.*")


class Step(NamedTuple):
    """A fenced block: the heading above, its language and its text."""

    heading: str
    language: str
    text: str


@contextmanager
def begin(
    document: str,
    port: int,
    folder: Path,
    *,
    wheel: Path | None = None,
    skipped: Collection[str] = (),
) -> Iterator[tuple[Tutorial, str]]:
    """Begin a tutorial; yield it, and the URL at which it will serve.

    :param port: the public port in the document; another one is used.
    :param folder: an empty folder, in which the commands run.
    :param wheel: is installed in place of the pushd of PyPI.
    :param skipped: words: commands that have one are not run.
    """
    with held_port() as public, held_port() as control:
        environment = {
            # Most of what is installed is never imported.
            "PIP_NO_COMPILE": "1",
            "PUSHD_LISTEN": f"tcp:{public}:interface=127.0.0.1",
            "PUSHD_CONTROL": f"tcp:{control}:interface=127.0.0.1",
            "PUSHD_CONTROL_URL": f"http://127.0.0.1:{control}",
        }
        tutorial = Tutorial(
            document,
            folder,
            ports={port: public, 8081: control},
            environment=environment,
            wheel=wheel,
            skipped=skipped,
        )
        try:
            yield tutorial, f"http://127.0.0.1:{public}"
        finally:
            tutorial.interrupt()


class Tutorial:
    """Does the steps of a tutorial in a folder, in order, until its end.

    Files are written, commands are run in one shell, and their output is compared with the block of
    text below them. A command that starts a server first ends the one before, as Ctrl-C does.

    :param ports: maps the ports in the document to those that are used instead.
    :param environment: is added to that of the commands.
    """

    def __init__(
        self,
        document: str,
        folder: Path,
        *,
        ports: Mapping[int, int],
        environment: Mapping[str, str],
        wheel: Path | None,
        skipped: Collection[str],
    ) -> None:
        self._steps = [Step(*found) for found in find_fences((DOCS / document).read_text())]
        self._ports = ports
        self._wheel = wheel
        self._skipped = skipped
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None
        self._serving = ""
        self._log = folder / "server.log"
        # What the shell remembers from one command to the next: its variables and its folder.
        self._state = folder / "shell"
        programs = str(Path(sys.executable).parent)
        kept = {name: value for name, value in os.environ.items() if not _FOREIGN.fullmatch(name)}
        kept["PATH"] = f"{programs}:{kept['PATH']}"
        self._environment = kept | dict(environment)
        self._state.write_text(f"cd {shlex.quote(str(folder))}\n")

    @property
    def log(self) -> str:
        """All that servers have logged."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def left(self) -> list[str]:
        """The headings whose steps are not done."""
        return list(dict.fromkeys(step.heading for step in self._steps))

    def do(self, *headings: str) -> None:
        """Do the steps under the next headings of the document, which must be these."""
        for heading in headings:
            assert self.left[:1] == [heading], (heading, self.left)
            while self.left[:1] == [heading]:
                self.step()

    def step(self) -> None:
        """Do the next step."""
        step = self._steps.pop(0)
        if step.language != "sh":
            head = _HEAD.match(step.text)
            assert head is not None, f"this block names no file: {step.text}"
            self._write(head[1], step.text, append=head[2] is not None)
            return
        wanted = None
        if self._steps and self._steps[0][:2] == (step.heading, "text"):
            wanted = self._steps.pop(0).text
        command = self._adapt(step.text)
        if any(word in command for word in self._skipped):
            return
        if _SERVER.search(command):
            self._serve(command)
            return
        output = self._run(command)
        assert wanted is None or output.strip() == wanted.strip(), (command, output)

    def restart(self) -> None:
        """End the server that runs, and start it again."""
        self._serve(self._serving)

    def interrupt(self) -> None:
        """End the server that runs, if any, as Ctrl-C does."""
        if self._server is None:
            return
        server, self._server = self._server, None
        try:
            os.killpg(server.pid, signal.SIGINT)
            server.wait(TIMEOUT)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait(TIMEOUT)

    def _adapt(self, command: str) -> str:
        """Return a command with the ports, and the pushd, that are used here."""
        command = re.sub(
            r"\b\d{4}\b", lambda port: str(self._ports.get(int(port[0]), port[0])), command
        )
        if self._wheel is not None:
            command = re.sub(r"'pushd(?=\[)", f"'{self._wheel}", command)
        return command

    def _run(self, command: str) -> str:
        keep = f'{{ export -p; printf "cd %q\\n" "$PWD"; }} > {shlex.quote(str(self._state))}'
        done = subprocess.run(
            ["bash", "-euc", f"{self._script(command)}\n{keep}"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}\n{self.log}"
        return done.stdout

    def _serve(self, command: str) -> None:
        self.interrupt()
        self._serving = command
        start = len(self.log)
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                ["bash", "-euc", self._script(f"exec {command}")],
                # Python buffers what it prints to a file.
                env=self._environment | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches all processes of the command.
                start_new_session=True,
            )
        deadline = monotonic() + TIMEOUT
        while not (found := re.search(r"listening on http://\S+:(\d+)", self.log[start:])):
            assert self._server.poll() is None, f"{command} ended\n{self.log}"
            assert monotonic() < deadline, f"{command} did not start\n{self.log}"
            sleep(0.05)
        socket.create_connection(("127.0.0.1", int(found[1])), TIMEOUT).close()

    def _script(self, command: str) -> str:
        return f". {shlex.quote(str(self._state))}\n{command}"

    def _write(self, name: str, text: str, *, append: bool) -> None:
        path = Path(self._run("pwd").strip(), name)
        path.parent.mkdir(parents=True, exist_ok=True)
        assert path.exists() or not append, f"{name} is not there"
        path.write_text((path.read_text() + "\n" if append else "") + text)
