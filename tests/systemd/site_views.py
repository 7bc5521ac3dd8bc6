"""Views of the service under test: what its process can do. Copied to where the service runs."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from pushd.views import Request, Response, require_websocket

_ADDR_NO_RANDOMIZE = 0x0040000
_CLONE_NEWUSER = 0x10000000
_PTRACE_PEEKDATA = 2

# A process id that no process has: it is above the highest that the kernel gives.
_NOBODY = (1 << 22) + 1

_log = Logger()

_libc = ctypes.CDLL(None, use_errno=True)


async def hello(request: Request) -> Response:
    """Answer."""
    return Response(body="hello")


async def block(request: Request) -> Response:
    """Block the reactor, as no view should."""
    _log.info("blocking")
    time.sleep(600)
    return Response()


@require_websocket
async def echo(request: Request) -> None:
    """Send back every message."""
    async for message in request.websocket:
        request.websocket.send(message)


async def sandbox(request: Request) -> Response:
    """Tell what this process can do, and what the kernel says of it."""
    return Response(
        headers={"Content-Type": "application/json"},
        body=json.dumps({**_facts(), "attempts": _attempts()}),
    )


views = {"/hello/": hello, "/block/": block, "/echo/": echo, "/sandbox/": sandbox}


def _facts() -> dict[str, Any]:
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().split("\n")[:-1]
    )
    return {
        "user": os.environ["USER"],
        "uid": os.getuid(),
        "groups": os.getgroups(),
        "status": status,
        "uid_map": Path("/proc/self/uid_map").read_text().split(),
        "uts": os.readlink("/proc/self/ns/uts"),
        "devices": os.listdir("/dev"),
        "read_only": {
            path: bool(os.statvfs(path).f_flag & os.ST_RDONLY)
            for path in ("/", "/usr", "/etc", "/opt/pushd", "/var", "/sys", "/sys/fs/cgroup")
        },
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    }


def _attempts() -> dict[str, str]:
    """Try what the sandbox forbids: the name of the error of each attempt, or ``done``."""
    with tempfile.NamedTemporaryFile() as own:
        mode = stat.S_IMODE(os.stat(own.name).st_mode)
        tries: dict[str, Callable[[], object]] = {
            "write to /etc": lambda: Path("/etc/probe").write_text(""),
            "read /home": lambda: Path("/home/probe").read_text(),
            "see the first process": lambda: os.stat("/proc/1"),
            "read /proc/meminfo": lambda: Path("/proc/meminfo").read_text(),
            "see the /tmp of others": lambda: os.stat("/tmp/probe"),
            "list modules": lambda: os.listdir("/usr/lib/modules"),
            "set the name of the host": lambda: socket.sethostname("probe"),
            "change the personality": lambda: _call(_libc.personality, _ADDR_NO_RANDOMIZE),
            "map memory to write and execute": lambda: mmap.mmap(
                -1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
            ).close(),
            "open a netlink socket": lambda: socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW
            ).close(),
            "open a Unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
            "make a namespace": lambda: _call(_libc.unshare, _CLONE_NEWUSER),
            "make a file setuid": lambda: os.chmod(own.name, mode | stat.S_ISUID),
            "change the owner of a file": lambda: os.chown(own.name, -1, -1),
            "trace a process": lambda: _call(_libc.ptrace, _PTRACE_PEEKDATA, _NOBODY, None, None),
        }
        return {name: _try(call) for name, call in tries.items()}


def _try(call: Callable[[], object]) -> str:
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def _call(function: Any, *arguments: Any) -> None:
    """Call a function of the C library. Raises OSError."""
    if function(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
