"""Who is measured."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from bench.build import FLOOR, HERE
from bench.rival import PATHS, Rival, Start

RIVALS_FOLDER = HERE / "rivals"


def _version_of(*names: str) -> str | None:
    try:
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    except importlib.metadata.PackageNotFoundError:
        return None


def _start_script(name: str) -> Start:
    return Start([sys.executable, f"{name}.py"], RIVALS_FOLDER)


def _start_pushd(folder: Path) -> Start:
    return Start(
        [
            *(str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "pushd"),
            *("--listen", "tcp:0:interface=127.0.0.1", "--control", "none"),
            *("--views", "pushd_views:views", "--max-rate", "10000000"),
            *("--max-connections", "19000", "--max-per-address", "19000"),
        ],
        RIVALS_FOLDER,
        r"listening on http://127\.0\.0\.1:(\d+)/",
    )


PUSHD = Rival(
    name="pushd",
    title="**pushd**",
    start=_start_pushd,
    version=lambda: _version_of("pushd", "Twisted", "autobahn"),
    source="this repository",
    paths={**PATHS, "subscribe": "/topics/bench"},
)

CATALOGUE: tuple[Rival, ...] = (
    PUSHD,
    Rival(
        name="floor",
        title="C floor",
        start=lambda folder: Start([str(FLOOR)], RIVALS_FOLDER),
        version=lambda: "bench/rivals/floor.c",
        source="this repository",
    ),
    Rival(
        name="floor-join",
        title="C floor that joins",
        start=lambda folder: Start([str(FLOOR), "--join"], RIVALS_FOLDER),
        version=lambda: "bench/rivals/floor.c --join",
        source="this repository",
        workloads=frozenset({"w2"}),
    ),
    Rival(
        name="autobahn",
        title="Autobahn + Site",
        start=lambda folder: _start_script("autobahn_server"),
        version=lambda: _version_of("autobahn", "Twisted"),
        source="PyPI",
    ),
)
