"""The servers that are measured: pushd and its rivals."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from bench.build import FLOOR, HERE, ROOT
from bench.rival import PATHS, Rival, Start

RIVALS = HERE / "rivals"
# `make bench` has npm install its packages here.
NODE = ROOT / ".venv" / "bench" / "node"
# What depends on click has an environment of its own: if that is installed, Autobahn spends time on
# colouring log arguments that are not shown.
OTHERS = ROOT / ".venv" / "bench" / "others"
# How many threads produce pages.
THREADS = 4
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


def version_of(*names: str, places: Sequence[str] | None = None) -> str | None:
    """Return the versions of some distributions, or None if one of them is not installed.

    :param places: folders to look in; None for those of this Python.
    """
    found = []
    for name in names:
        where = sys.path if places is None else [*places]
        one = next(iter(metadata.distributions(name=name, path=where)), None)
        if one is None:
            return None
        found.append(f"{name} {one.version}")
    return ", ".join(found)


def _version_of_other(*names: str) -> str | None:
    folders = (OTHERS / "lib").glob("python*/site-packages")
    return version_of(*names, places=[str(one) for one in folders])


def _output_of(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip()


def _start_script(name: str) -> Start:
    return Start([sys.executable, f"{name}.py"], RIVALS)


def _start_pushd(folder: Path, *serving: str) -> Start:
    return Start(
        [
            *(str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "pushd"),
            *("--listen", "tcp:0:interface=127.0.0.1", "--control", "tcp:0:interface=127.0.0.1"),
            *(serving or ("--views", "pushd_views:views")),
            *("--max-rate", "10000000"),
            *("--max-connections", "19000", "--max-per-address", "19000"),
        ],
        RIVALS,
        r"(?<!port )listening on http://127\.0\.0\.1:(\d+)/",
        control=r"control port listening on http://127\.0\.0\.1:(\d+)/",
    )


def _start_pushd_with_pages(folder: Path) -> Start:
    start = _start_pushd(folder)
    threads = f"{THREADS}"
    more = ["--wsgi", "pages:application", "--wsgi-threads", threads]
    return replace(start, command=[*start.command, *more])


def _start_waitress(folder: Path) -> Start:
    return Start(
        [
            *(sys.executable, "-m", "waitress", "--listen", "127.0.0.1:0"),
            *("--threads", f"{THREADS}", "pages:application"),
        ],
        RIVALS,
        r"Serving on http://127\.0\.0\.1:(\d+)",
    )


def _start_gunicorn(folder: Path) -> Start:
    return Start(
        [
            *(sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--workers", "1"),
            *("--worker-class", "gthread", "--threads", f"{THREADS}", "--keep-alive", "60"),
            *("--access-logfile", "-", "pages:application"),
        ],
        RIVALS,
        r"Listening at: http://127\.0\.0\.1:(\d+)",
    )


def _start_channels(folder: Path) -> Start:
    return Start(
        [
            *(sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", "0"),
            *("--ping-interval", "25", "--ping-timeout", "25", "--access-log", "/dev/null"),
            "channels_application:application",
        ],
        RIVALS,
        r"Listening on TCP address 127\.0\.0\.1:(\d+)",
    )


def _start_pushd_with_asgi(folder: Path) -> Start:
    # Without the views, some of which have the same URLs.
    return _start_pushd(folder, "--asgi", "asgi_application:application")


def _start_daphne(folder: Path) -> Start:
    # All four have a log of requests.
    start = _start_channels(folder)
    command = [*start.command[:-1], "asgi_application:application"]
    command[command.index("/dev/null")] = "-"
    return replace(start, command=command)


def _start_uvicorn(folder: Path) -> Start:
    return Start(
        [
            *(str(OTHERS / "bin" / "uvicorn"), "--host", "127.0.0.1", "--port", "0"),
            *("--loop", "uvloop", "--http", "httptools"),
            *("--ws-ping-interval", "25", "--ws-ping-timeout", "25"),
            *("--ws-per-message-deflate", "false", "asgi_application:application"),
        ],
        RIVALS,
        r"Uvicorn running on http://127\.0\.0\.1:(\d+)",
    )


def _start_hypercorn(folder: Path) -> Start:
    return Start(
        [
            *(str(OTHERS / "bin" / "hypercorn"), "--bind", "127.0.0.1:0"),
            *("--worker-class", "uvloop", "--websocket-ping-interval", "25"),
            *("--access-logfile", "-"),
            "asgi_application:application",
        ],
        RIVALS,
        r"Running on http://127\.0\.0\.1:(\d+)",
    )


def _version_of_ws() -> str | None:
    package = NODE / "node_modules" / "ws" / "package.json"
    if not package.exists() or not (node := _output_of("node", "--version")):
        return None
    return f"ws {json.loads(package.read_text())['version']}, Node.js {node.removeprefix('v')}"


def _start_nchan(folder: Path) -> Start:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    text = (RIVALS / "nchan.conf").read_text()
    configuration = folder / "nchan.conf"
    configuration.write_text(text.replace("PORT", str(port)).replace("FOLDER", str(folder)))
    command = ["nginx", "-c", str(configuration), "-e", "stderr"]
    return Start(command, folder, "start worker process ", port)


def _version_of_nchan() -> str | None:
    if not NCHAN_MODULE.exists() or not (nginx := _output_of("nginx", "-v")):
        return None
    package = _output_of("dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan")
    return f"Nchan {package}, {nginx.removeprefix('nginx version: ')}"


PUSHD = Rival(
    name="pushd",
    title="**pushd**",
    start=_start_pushd,
    version=lambda: version_of("pushd", "Twisted", "autobahn"),
    source="this repository",
    paths={
        **PATHS,
        **dict.fromkeys(("subscribe", "events", "announce"), "/topics/bench"),
        **dict.fromkeys(("live", "announce-live"), "/topics/live"),
        "announce-batch": "/publish",
        "post": "/topics/bench/%",
        "stream": "/publish",
        "poll": "/topics/poll",
        "announce-poll": "/topics/poll",
    },
)

CATALOGUE: tuple[Rival, ...] = (
    PUSHD,
    Rival(
        name="floor",
        title="C floor",
        start=lambda folder: Start([str(FLOOR)], RIVALS),
        version=lambda: "bench/rivals/floor.c",
        source="this repository",
    ),
    Rival(
        name="floor-join",
        title="C floor that joins",
        start=lambda folder: Start([str(FLOOR), "--join"], RIVALS),
        version=lambda: "bench/rivals/floor.c --join",
        source="this repository",
    ),
    Rival(
        name="autobahn",
        title="Autobahn + Site",
        start=lambda folder: _start_script("autobahn_server"),
        version=lambda: version_of("autobahn", "Twisted"),
        source="PyPI",
    ),
    Rival(
        name="websockets",
        title="`websockets`",
        start=lambda folder: _start_script("websockets_server"),
        version=lambda: version_of("websockets"),
        source="PyPI",
    ),
    Rival(
        name="aiohttp",
        title="aiohttp",
        start=lambda folder: _start_script("aiohttp_server"),
        version=lambda: version_of("aiohttp"),
        source="PyPI",
    ),
    Rival(
        name="picows",
        title="picows",
        start=lambda folder: _start_script("picows_server"),
        version=lambda: version_of("picows"),
        source="PyPI",
    ),
    Rival(
        name="channels",
        title="Channels + Daphne",
        start=_start_channels,
        version=lambda: version_of("channels", "daphne", "Django"),
        source="PyPI",
        share=0.1,
    ),
    Rival(
        name="ws",
        title="Node `ws`",
        start=lambda folder: Start(["node", "ws_server.js", str(NODE)], RIVALS),
        version=_version_of_ws,
        source="npm, with Node.js",
    ),
    Rival(
        name="pushd-wsgi",
        title="**pushd**, with an application",
        start=_start_pushd_with_pages,
        version=lambda: version_of("pushd"),
        source="this repository",
    ),
    Rival(
        name="waitress",
        title="waitress",
        start=_start_waitress,
        version=lambda: version_of("waitress"),
        source="PyPI",
    ),
    Rival(
        name="gunicorn",
        title="gunicorn, gthread",
        start=_start_gunicorn,
        version=lambda: version_of("gunicorn"),
        source="PyPI",
    ),
    Rival(
        name="pushd-asgi",
        title="**pushd** on uvloop",
        start=_start_pushd_with_asgi,
        version=lambda: version_of("pushd", "uvloop", "channels"),
        source="this repository; PyPI: channels, uvloop",
    ),
    Rival(
        name="daphne",
        title="Daphne",
        start=_start_daphne,
        version=lambda: version_of("daphne", "channels"),
        source="PyPI",
    ),
    Rival(
        name="uvicorn",
        title="uvicorn, uvloop, httptools",
        start=_start_uvicorn,
        version=lambda: _version_of_other("uvicorn", "uvloop", "httptools", "websockets"),
        source="PyPI",
    ),
    Rival(
        name="hypercorn",
        title="hypercorn, uvloop",
        start=_start_hypercorn,
        version=lambda: _version_of_other("hypercorn"),
        source="PyPI",
    ),
    Rival(
        name="nchan",
        title="Nchan",
        start=_start_nchan,
        version=_version_of_nchan,
        source="Debian: nginx, libnginx-mod-nchan",
        paths={**PATHS, "handshake": "/subscribe/", "stream": "/publish/"},
        gives_ids=False,
    ),
)
