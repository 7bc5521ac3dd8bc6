"""The image that deploy/Dockerfile describes: what is in it, and pushd as its first process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM
from textwrap import dedent
from time import monotonic, sleep

import pytest

from tests.containers.container import PATIENCE, Container
from tests.containers.image import Image
from tests.support.systemd_machine import ROOT

Make = Callable[..., Container]

# Prints the status and the body of the answer to a request, with a Host of its own.
REQUEST = dedent("""\
    import sys
    from http.client import HTTPConnection
    port, method, path, host = sys.argv[1:5]
    connection = HTTPConnection("127.0.0.1", int(port))
    connection.request(method, path, sys.argv[5] if sys.argv[5:] else None, {"Host": host})
    answer = connection.getresponse()
    print(answer.status, answer.read().decode())
    """)


def ask(one: Container, port: int, method: str, path: str, host: str, *body: str) -> list[str]:
    """Send a request from within a container; return the status and the body of the answer."""
    return one.python(REQUEST, str(port), method, path, host, *body).strip().split(" ", 1)


def wait_for_log(one: Container, text: str) -> None:
    """Wait until a container has logged a text."""
    deadline = monotonic() + PATIENCE
    while text not in one.log:
        assert monotonic() < deadline, one.log
        sleep(0.05)


def test_contents(image: Image) -> None:
    """There is no shell, and nothing in the environment belongs to another user or is missing."""
    programs = {path.name for path in (image.root / "usr/bin").iterdir()}
    assert not programs & {"sh", "bash", "dash", "busybox", "perl", "apt-get"}
    for path in (image.root / "opt/pushd").rglob("*"):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (0, 0), path
        assert path.is_symlink() or not status.st_mode & 0o022, path


def test_ignored() -> None:
    """Docker is sent each file that the Dockerfile copies, and nothing else."""
    lines = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    text = (ROOT / "deploy/Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    names = {name for line in copied for name in line if not name.startswith(("--", "/"))}
    assert sent == names


@pytest.mark.parametrize(("user", "group"), [(65532, 65532), (1_000_650_000, 0)])
def test_any_user(container: Make, user: int, group: int) -> None:
    """It runs as the image's user or as any other, with a root that cannot be written."""
    with container(user=user, group=group) as one:
        assert Path(f"/proc/{one.pid}").stat().st_uid == user
        status, page = ask(one, 8080, "GET", "/", "localhost")
        assert status == "200"
        assert "pushd" in page
        assert "Traceback" not in one.log
        assert "cache" not in one.log, one.log


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_stop(container: Make, number: int) -> None:
    """As the first process it heeds the signals that stop it: in order, with exit code 0."""
    with container("--drain", "0") as one:
        one.signal(number)
        assert one.wait() == 0
    assert "shutting down" in one.log


def test_stop_early(container: Make) -> None:
    """A stop that comes while it starts is not lost."""
    one = container("--drain", "0")
    one.start()
    wait_for_log(one, "listening on")
    one.signal(SIGTERM)
    try:
        assert one.wait() == 0
    finally:
        one.kill()


def test_reload(container: Make, tmp_path: Path) -> None:
    """SIGHUP reads the configuration file again."""
    tmp_path.chmod(0o755)
    volume = tmp_path / "etc"
    volume.mkdir()
    (volume / "pushd.toml").write_text("max-rate = 10\n")
    env = {"PUSHD_CONFIG": "/run/etc/pushd.toml"}
    with container(env=env, volumes={"/run/etc": volume}) as one:
        (volume / "pushd.toml").write_text("max-rate = 77\n")
        one.signal(SIGHUP)
        wait_for_log(one, "max-rate changed from 10 to 77")


def test_no_zombies(container: Make) -> None:
    """Health checks leave no process behind."""
    with container() as one:
        for _ in range(3):
            assert one.check_health() == 0
        list_processes = "import os; print(*sorted(p for p in os.listdir('/proc') if p.isdigit()))"
        # The other one is that which lists them.
        numbers = one.python(list_processes).split()
        assert numbers[0] == "1"
        assert len(numbers) == 2


def test_unhealthy(container: Make) -> None:
    """If the daemon does not answer, the health check fails, and says so in one line."""
    one = container("--control", "none")
    one.start()
    try:
        wait_for_log(one, "listening on")
        done = one.run(*one.image.stage.healthcheck)
    finally:
        one.kill()
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1, done.stdout


def test_bad_option(container: Make) -> None:
    """A mistake in a variable is one line, and ends the container."""
    one = container(env={"PUSHD_THREADS": "many"})
    one.start()
    assert one.wait() == 1
    assert one.log.count("\n") == 1
    assert "PUSHD_THREADS many" in one.log


def test_stale_socket(container: Make, tmp_path: Path) -> None:
    """A socket and a lock that a killed container has left in a volume are taken over."""
    volume = tmp_path / "sockets"
    volume.mkdir()
    os.chown(volume, 65532, 65532)
    tmp_path.chmod(0o755)
    options = {
        "env": {
            "PUSHD_LISTEN": "unix:/run/sockets/web.sock",
            "PUSHD_CONTROL": "unix:/run/sockets/control.sock",
            "PUSHD_CONTROL_URL": "unix:/run/sockets/control.sock",
        },
        "volumes": {"/run/sockets": volume},
    }
    for number in range(3):
        one = container(name=f"container-{number}", **options)
        with one:
            assert one.check_health() == 0
            one.signal(SIGKILL)
            one.wait()
        assert (volume / "web.sock").is_socket()
        assert (volume / "web.sock.lock").exists()


def test_state(container: Make, tmp_path: Path) -> None:
    """With a volume for ``--state`` the next container, with another id, has the topics."""
    volume = tmp_path / "volume"
    volume.mkdir()
    # As a volume belongs to the group that Kubernetes' fsGroup names.
    os.chown(volume, 0, 65532)
    volume.chmod(0o2775)
    tmp_path.chmod(0o755)
    options = {
        "env": {"PUSHD_STATE": "/run/state/topics", "PUSHD_STATE_SYNC": "always"},
        "volumes": {"/run/state": volume},
    }
    with container(name="first", **options) as one:
        status, body = ask(one, 8081, "POST", "/topics/news", "localhost", "hello")
        assert status == "200"
        one.signal(SIGKILL)
        one.wait()
    with container(name="second", **options) as one:
        found = one.run("/opt/pushd/bin/pushdctl", "last-id", "news").stdout.strip()
        assert found == json.loads(body)["id"]


def test_control_host(container: Make) -> None:
    """Publishers call the control port by its service's name, probes by any address."""
    env = {"PUSHD_CONTROL": "tcp:8081", "PUSHD_CONTROL_HOST": "pushd-control"}
    with container(env=env) as one:
        for host, status in (("pushd-control:8081", "200"), ("pushd:8081", "403")):
            answer = ask(one, 8081, "POST", "/topics/news", host, "hello")
            assert answer[0] == status
        for path in ("/healthz", "/readyz"):
            assert ask(one, 8081, "GET", path, "10.1.2.3:8081")[0] == "200"


def test_service_variables(container: Make) -> None:
    """The variables that Kubernetes sets for services with such names are not taken for options."""
    env = {
        "PUSHD_SERVICE_HOST": "10.96.0.7",
        "PUSHD_PORT": "tcp://10.96.0.7:80",
        "PUSHD_CONTROL_PORT": "tcp://10.96.0.8:8081",
        "PUSHD_CONTROL_SERVICE_PORT_CONTROL": "8081",
    }
    with container(env=env) as one:
        assert one.check_health() == 0
