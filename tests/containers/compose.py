"""The services of deploy/compose.yaml, in one network: each at an address of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import yaml

from tests.containers.container import PATIENCE, Container
from tests.containers.image import Image
from tests.support.proxies import NGINX_FRAME
from tests.support.systemd_machine import ROOT, run

FILE = ROOT / "deploy/compose.yaml"

_COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())

SERVICES: dict[str, dict[str, Any]] = _COMPOSE["services"]

# The network of the file.
_NETWORK = _COMPOSE["networks"]["default"]["ipam"]["config"][0]["subnet"].removesuffix("0/24")

NODES = (f"{_NETWORK}2", f"{_NETWORK}3")
_REDIS = f"{_NETWORK}4"
_PROXY = f"{_NETWORK}5"

_HOSTS = f"""\
127.0.0.1 localhost
{NODES[0]} pushd
{NODES[1]} pushd
{_REDIS} redis
{_PROXY} nginx
"""


@dataclass(frozen=True)
class Services:
    """The services, while they run."""

    nodes: list[Container]
    #: A process in their network.
    network: int

    def python(self, path: Path, *arguments: str) -> Any:
        """Run a program of these tests in the network, and return the JSON that it prints."""
        done = subprocess.run(
            [*_enter(self.network), sys.executable, path, *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextmanager
def up(image: Image, folder: Path) -> Iterator[Services]:
    """Start all services, as ``docker compose up`` does."""
    (folder / "hosts").write_text(_HOSTS)
    (image.root / "etc/hosts").write_text(_HOSTS)
    with ExitStack() as running:
        network = running.enter_context(_process(["unshare", "--net", "sleep", "infinity"]))
        _wait_for(
            lambda: os.readlink(f"/proc/{network}/ns/net") != os.readlink("/proc/self/ns/net")
        )
        run(*_enter(network), "ip", "link", "set", "lo", "up")
        for address in (*NODES, _REDIS, _PROXY):
            run(*_enter(network), "ip", "address", "add", f"{address}/32", "dev", "lo")
        # As in its image, it is open to the network.
        redis = [*SERVICES["redis"]["command"], "--bind", _REDIS, "--protected-mode", "no"]
        running.enter_context(_process([*_enter(network), *redis, "--dir", str(folder)]))
        ping = ["redis-cli", "-h", _REDIS, "ping"]
        _wait_for(
            lambda: subprocess.call([*_enter(network), *ping], stdout=_NULL, stderr=_NULL) == 0
        )
        nodes = [_node(image, folder, number, network) for number in range(len(NODES))]
        for node in nodes:
            running.enter_context(node)
        running.enter_context(_process(_nginx(folder, network)))
        yield Services(nodes, network)


def _node(image: Image, folder: Path, number: int, network: int) -> Container:
    """Return one container of the service; with Docker, each has all addresses for itself."""
    service = SERVICES["pushd"]
    address = NODES[number]
    variables = {
        **service["environment"],
        "SECRET_KEY": "secret",
        "PUSHD_LISTEN": f"tcp:8080:interface={address}",
        "PUSHD_CONTROL": f"{service['environment']['PUSHD_CONTROL']}:interface={address}",
        # For the health check.
        "PUSHD_CONTROL_URL": f"http://{address}:8081",
    }
    volumes = {}
    for volume in service["volumes"]:
        source, target, _ = volume.split(":")
        volumes[target] = (FILE.parent / source).resolve()
    return Container(
        image,
        folder / f"node-{number}",
        service["command"],
        variables,
        volumes=volumes,
        network=network,
    )


def _nginx(folder: Path, network: int) -> list[str]:
    """Return the command of nginx, with the mounted file, and with the names of the services."""
    mounted = SERVICES["nginx"]["volumes"][0].split(":")[0]
    configuration = folder / "nginx.conf"
    text = (FILE.parent / mounted).read_text()
    configuration.write_text(NGINX_FRAME.format(folder=folder, user="root", content=text))
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    start = (
        f"mount --bind {folder}/hosts /etc/hosts && "
        f"exec {program} -p {folder} -e stderr -c {configuration}"
    )
    return [*_enter(network), "unshare", "--mount", "sh", "-c", start]


def _enter(network: int) -> list[str]:
    return ["nsenter", "--target", str(network), "--net"]


_NULL = subprocess.DEVNULL


@contextmanager
def _process(command: list[str]) -> Iterator[int]:
    process = subprocess.Popen(command, stdin=_NULL, stdout=_NULL)
    try:
        yield process.pid
    finally:
        # Not killed: nginx ends its own processes.
        process.terminate()
        process.wait(PATIENCE)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline
        sleep(0.05)
