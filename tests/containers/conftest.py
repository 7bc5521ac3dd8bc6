"""Fixtures: the image, in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containers.compose import SERVICES
from tests.containers.container import Container
from tests.containers.image import Image, build
from tests.support.systemd_machine import run


def pytest_sessionstart() -> None:
    """Refuse to run where mounts would be those of the machine."""
    if os.environ.get("TESTS_CONTAINERS") != "1":
        raise pytest.UsageError("these tests run in namespaces of their own: make containers")


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Build the image, with what the site of the compose file needs."""
    folder = tmp_path_factory.mktemp("image")
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
    yield build(folder, SERVICES["pushd"]["build"]["args"]["PACKAGES"])
    run("umount", "--recursive", "--lazy", folder)


@pytest.fixture
def container(image: Image, tmp_path: Path) -> Callable[..., Container]:
    """Return what makes a container; the arguments are those of ``Container``."""

    def make(*command: str, name: str = "container", **options: Any) -> Container:
        return Container(image, tmp_path / name, command, **options)

    return make
