"""The sandbox of the service: each of its lines is in force, seen from a view."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from resource import RLIMIT_NOFILE, getrlimit
from typing import Any

import pytest

from tests.support.systemd_machine import ROOT
from tests.support.systemd_unit import PUBLIC, Unit, fetch

_UNIT = (ROOT / "deploy/systemd/pushd.service").read_text()

LINES = [
    line
    for line in _UNIT.partition("# Sandbox")[2].partition("[Install]")[0].splitlines()
    if "=" in line
]

Facts = dict[str, Any]


def refused(name: str, error: str) -> Callable[[Facts], bool]:
    """Whether an attempt has failed in this way."""
    return lambda facts: facts["attempts"][name] == error


def all_of(*checks: Callable[[Facts], bool]) -> Callable[[Facts], bool]:
    """Whether all of them hold."""
    return lambda facts: all(check(facts) for check in checks)


def filtered(facts: Facts) -> bool:
    """Whether system calls are filtered."""
    return bool(facts["status"]["Seccomp"] == "2")


# What a view sees of each line. Root alone could do what some of them forbid, so that they cannot
# be told apart by an attempt: of these, it is that there is a filter of system calls.
SEEN: dict[str, Callable[[Facts], bool]] = {
    "DynamicUser=yes": lambda facts: facts["user"] == "pushd" and 61184 <= facts["uid"] <= 65519,
    "UMask=0077": lambda facts: facts["status"]["Umask"] == "0077",
    "CapabilityBoundingSet=": lambda facts: not int(facts["status"]["CapBnd"], 16),
    "NoNewPrivileges=yes": lambda facts: facts["status"]["NoNewPrivs"] == "1",
    "PrivateDevices=yes": lambda facts: "probe" not in facts["devices"],
    "PrivateTmp=yes": refused("see the /tmp of others", "ENOENT"),
    "PrivateUsers=yes": lambda facts: facts["uid_map"] != ["0", "0", "4294967295"],
    "ProtectSystem=strict": all_of(
        refused("write to /etc", "EROFS"),
        lambda facts: all(facts["read_only"].values()),
    ),
    "ProtectHome=yes": refused("read /home", "EACCES"),
    "ProtectProc=invisible": refused("see the first process", "ENOENT"),
    "ProcSubset=pid": refused("read /proc/meminfo", "ENOENT"),
    "ProtectClock=yes": filtered,
    "ProtectControlGroups=yes": lambda facts: facts["read_only"]["/sys/fs/cgroup"],
    "ProtectHostname=yes": all_of(
        refused("set the name of the host", "EPERM"),
        lambda facts: facts["uts"] != os.readlink("/proc/1/ns/uts"),
    ),
    "ProtectKernelLogs=yes": filtered,
    "ProtectKernelModules=yes": refused("list modules", "EACCES"),
    "ProtectKernelTunables=yes": lambda facts: facts["read_only"]["/sys"],
    "LockPersonality=yes": refused("change the personality", "EPERM"),
    "MemoryDenyWriteExecute=yes": refused("map memory to write and execute", "EPERM"),
    "RemoveIPC=yes": filtered,
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX": all_of(
        refused("open a netlink socket", "EAFNOSUPPORT"),
        refused("open a Unix socket", "done"),
    ),
    "RestrictNamespaces=yes": refused("make a namespace", "EPERM"),
    "RestrictRealtime=yes": filtered,
    "RestrictSUIDSGID=yes": refused("make a file setuid", "EPERM"),
    "SystemCallArchitectures=native": filtered,
    "SystemCallFilter=@system-service": refused("trace a process", "EPERM"),
    "SystemCallFilter=~@privileged": refused("change the owner of a file", "EPERM"),
    "SystemCallErrorNumber=EPERM": refused("trace a process", "EPERM"),
}

# How systemctl shows what it does not show as it is written.
SHOWN = {
    "CapabilityBoundingSet": "",
    "RestrictNamespaces": "yes",
    "SystemCallErrorNumber": "1",
}


@pytest.fixture(scope="module")
def facts(service: Unit) -> Facts:
    """Ask a view what its process can do."""
    Path("/home/probe").write_text("not for the service")
    Path("/tmp/probe").write_text("not for the service")
    os.mknod("/dev/probe", 0o20666, os.makedev(1, 3))
    answer = fetch(f"{PUBLIC}sandbox/")
    assert answer.status == 200
    found: Facts = json.loads(answer.body)
    return found


def test_lines() -> None:
    """The unit has every line that is looked for, and no other, and pushd@.service has the same."""
    assert set(LINES) == set(SEEN)
    instance = (ROOT / "deploy/systemd/pushd@.service").read_text()
    assert instance.partition("# Sandbox")[2] == _UNIT.partition("# Sandbox")[2]


@pytest.mark.parametrize("line", LINES)
def test_in_force(service: Unit, facts: Facts, line: str) -> None:
    """A line of the unit is in force: systemd shows it, and a view sees what it does."""
    name, _, value = line.partition("=")
    shown = service.show(name)[name]
    if name != "SystemCallFilter":  # Shown as hundreds of system calls.
        expected = SHOWN.get(name, value)
        assert sorted(shown.split()) == sorted(expected.split())
    assert SEEN[line](facts), facts


def test_descriptors(facts: Facts) -> None:
    """The service can have as many descriptors as its unit says, if the machine allows them."""
    assert "LimitNOFILE=65536" in _UNIT.splitlines()
    assert facts["files"][1] == min(65536, getrlimit(RLIMIT_NOFILE)[1])
