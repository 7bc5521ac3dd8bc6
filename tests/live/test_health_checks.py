"""Health checks of load balancers, and publishers that call the control port by a name."""

from __future__ import annotations

from http.client import HTTPConnection
from pathlib import Path

from tests.support.daemon_process import DaemonProcess
from tests.support.proxies import run_proxy

CONTROL = ("--control", "tcp:0:interface=127.0.0.1", "--control-host", "pushd.internal")


def test_haproxy(tmp_path: Path) -> None:
    """HAProxy's checks of the control port succeed, with any Host and without one."""
    with DaemonProcess(CONTROL, directory=tmp_path) as daemon:
        control = daemon.wait_for(r"control port listening on http://\S+:(\d+)")[1]
        for number, (check, line) in enumerate(
            (
                ("GET /readyz", " GET /readyz 200 "),
                ("/readyz", " OPTIONS /readyz 200 "),
                ("", " OPTIONS / 204 "),
                ("GET /healthz HTTP/1.1\\r\\nHost:\\ health.example", " GET /healthz 200 "),
            )
        ):
            options = f"check port {control} inter 100ms\n    option httpchk {check}"
            folder = tmp_path / f"{number}"
            folder.mkdir()
            with run_proxy("haproxy", daemon.url.split("/")[2], folder, options):
                daemon.wait_for(line)


def test_names(tmp_path: Path) -> None:
    """The control port can be called by the name of --control-host, and by no other one."""
    with DaemonProcess(CONTROL, directory=tmp_path) as daemon:
        control = daemon.wait_for(r"control port listening on http://\S+:(\d+)")[1]
        for host, status in (("pushd.internal:8081", 200), ("pushd.example", 403)):
            connection = HTTPConnection("127.0.0.1", int(control), timeout=60)
            connection.request("POST", "/topics/news", b"hello", {"Host": host})
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
            assert answer.status == status, text
        assert b"--control-host" in text
