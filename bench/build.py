"""Compile the programs in C and C++ if their sources have changed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "bench"
LOAD = BUILD / "load"
FLOOR = BUILD / "floor"

_LOAD_SOURCES = HERE / "load"
_FLOOR_SOURCE = HERE / "rivals" / "floor.c"
_FLAGS = ["-O2", "-Wall", "-Wextra", "-Werror"]


def build() -> None:
    """Compile the load generator and the floor, unless they are up to date.

    Raises ``RuntimeError`` if there is no compiler, or if a program does not compile.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    sources = sorted(_LOAD_SOURCES.glob("*.cpp"))
    _compile(LOAD, ["g++", "-std=c++20", *_FLAGS], sources, sorted(_LOAD_SOURCES.iterdir()))
    _compile(FLOOR, ["gcc", *_FLAGS], [_FLOOR_SOURCE], [_FLOOR_SOURCE])


def is_older(target: Path, sources: list[Path]) -> bool:
    """Whether a target must be built: it is missing, or a source is newer."""
    if not target.exists():
        return True
    made = target.stat().st_mtime
    return any(source.stat().st_mtime > made for source in sources)


def _compile(target: Path, compiler: list[str], sources: list[Path], watched: list[Path]) -> None:
    if not is_older(target, watched):
        return
    if shutil.which(compiler[0]) is None:
        raise RuntimeError(f"the benchmark needs {compiler[0]}: apt-get install g++")
    fresh = target.with_suffix(".new")
    done = subprocess.run(
        [*compiler, "-o", str(fresh), *map(str, sources)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{target.name} does not compile:\n{done.stderr}")
    fresh.replace(target)
