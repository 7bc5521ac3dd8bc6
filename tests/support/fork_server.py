"""A process that has imported all of pushd, and forks a daemon for each request.

The imports take two thirds of the CPU that a daemon needs to start and to end, and the tests start
hundreds. What runs in the forked process is twistd, from its command line on. Run as a script, with
the descriptor of a socket: see ``ForkedProcess``.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from socket import AF_UNIX, SOCK_SEQPACKET, recv_fds, socket, socketpair
from typing import Any, NoReturn

# What each daemon imports. None of it may import Twisted's reactor, which the daemon chooses.
PRELOADED = (
    "twisted.scripts._twistd_unix",
    "twisted.internet.epollreactor",
    "twisted.plugins.pushd_plugin",
    "pushd.service.twistd",
)

#: Maximum size of a request, in bytes.
MAX_REQUEST = 1 << 17


@dataclass
class Start:
    """A daemon that is to be started."""

    command: list[str]
    directory: str
    environment: dict[str, str]
    #: Where its output goes.
    output: int


def serve(requests: socket) -> None:
    """Fork a daemon for each request, and report how it ends; return when nobody asks any more.

    A request is JSON, with the descriptors of a socket for the reports and of the output. The
    reports are the process id and then the exit code, as ``Popen`` has it, each in a line.
    """
    for module in PRELOADED:
        importlib.import_module(module)
    assert "twisted.internet.reactor" not in sys.modules
    # Wakes the selector when a process has ended.
    ended, wakeup = socketpair()
    wakeup.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    reports: dict[int, socket] = {}
    with DefaultSelector() as selector:
        selector.register(requests, EVENT_READ)
        selector.register(ended, EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is ended:
                    ended.recv(1 << 10)
                    _report_ends(reports)
                    continue
                text, descriptors, _, _ = recv_fds(requests, MAX_REQUEST, 2)
                if not text:
                    for pid in reports:
                        os.kill(pid, signal.SIGKILL)
                    return
                report, output = descriptors
                start = Start(**json.loads(text), output=output)
                pid = os.fork()
                if not pid:
                    _become(start)
                os.close(output)
                reports[pid] = socket(fileno=report)
                reports[pid].sendall(b"%d\n" % pid)


def _report_ends(reports: dict[int, socket]) -> None:
    """Report the exit codes of the processes that have ended."""
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with reports.pop(pid) as report:
            report.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(start: Start) -> NoReturn:
    """Run twistd in this process, as its command line says, and end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(start.directory)
    os.environ.clear()
    os.environ.update(start.environment)
    _place_descriptors(start.output)
    sys.argv = start.command
    sys.path[:] = [str(Path(start.command[0]).parent), *sys.path]
    os._exit(_run())


def _place_descriptors(output: int) -> None:
    """Open the standard streams, and close all other descriptors."""
    source = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate([source, output, output]):
        os.dup2(descriptor, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _run() -> int:
    """Run twistd as the interpreter would, to the end of its threads; return the exit code."""
    from twisted.scripts.twistd import run

    code = 0
    try:
        run()
    except SystemExit as exit:
        if isinstance(exit.code, str):
            sys.stderr.write(f"{exit.code}\n")
        code = int(exit.code is not None) if not isinstance(exit.code, int) else exit.code
    except BaseException:
        traceback.print_exc()
        code = 1
    shut_down: Any = vars(threading)["_shutdown"]
    shut_down()
    end: Any = vars(atexit)["_run_exitfuncs"]
    end()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve(socket(AF_UNIX, SOCK_SEQPACKET, fileno=int(sys.argv[1])))
