"""A Dockerfile, as far as deploy/Dockerfile uses its language."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.systemd_machine import ROOT

DOCKERFILE = ROOT / "deploy/Dockerfile"


@dataclass
class Stage:
    """One ``FROM`` and what follows."""

    image: str
    #: Each instruction and its argument, but for those below, in their order.
    steps: list[tuple[str, str]] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)


def read_stages(path: Path = DOCKERFILE) -> list[Stage]:
    """Read the stages of a file."""
    stages: list[Stage] = []
    for name, argument in _instructions(path.read_text()):
        if name == "FROM":
            stages.append(Stage(argument.split()[0]))
            continue
        stage = stages[-1]
        if name == "ENV":
            stage.env |= dict(pair.split("=", 1) for pair in shlex.split(argument))
        elif name == "ENTRYPOINT":
            stage.entrypoint = json.loads(argument)
        elif name == "HEALTHCHECK":
            stage.healthcheck = json.loads(argument.partition("CMD ")[2])
        else:
            if name == "WORKDIR":
                stage.workdir = argument
            stage.steps.append((name, argument))
    return stages


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        if line:
            name, argument = line.split(None, 1)
            yield name, argument
