"""The life of the package: each test goes on where the one before it has ended."""

from __future__ import annotations

import json
import pwd
import re
import subprocess
import tomllib
from pathlib import Path
from socket import socket

from tests.debian.__main__ import NEW_LINE, NEWER, NEWEST, PACKAGE
from tests.support.systemd_unit import CONTROL, PUBLIC, PUSHD, Unit, fetch, run, wait_until
from tests.systemd.load import Load

HOME = Path("/usr/lib/pushd")
CONFIG = Path("/etc/pushd/pushd.toml")
ENVIRONMENT = Path("/etc/pushd/environment")
STATE = Path("/var/lib/pushd")
SITE = Path("/usr/local/lib/pushd")

VIEWS = """\
from pushd.views import accept_websocket


@accept_websocket
async def hello(request):
    return "hello from a module of my own"


views = {"/hello/": hello}
"""

INSTANCE = Unit("pushd@8081.service")

# Requests that are answered before and after an upgrade.
WARM = 50


def install(package: Path, *options: str) -> str:
    """Install a package as apt does without a terminal; return what it prints."""
    environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    command = ("dpkg", "--force-unsafe-io", *options, "--install", str(package))
    return run(*command, environment=environment).stdout


def states(*units: str) -> list[str]:
    """Return whether units are enabled, and whether they run."""
    done = [
        run("systemctl", verb, *units, check=False).stdout.split()
        for verb in ("is-enabled", "is-active")
    ]
    return [" ".join(pair) for pair in zip(*done, strict=True)]


def last_id(topic: str) -> str:
    """Return the last id of a topic."""
    found: str = json.loads(fetch(f"{CONTROL}topics/{topic}").body)["id"]
    return found


def setting(text: str, old: str, new: str) -> str:
    """Return a configuration file in which a line is another one."""
    assert f"\n{old}\n" in text
    return text.replace(f"\n{old}\n", f"\n{new}\n")


def test_install() -> None:
    """The package needs nothing else of this machine; its service is enabled, and runs."""
    install(PACKAGE)
    wait_until(lambda: PUSHD.status.startswith("serving"), "the status")
    assert states("pushd.socket", "pushd.service") == ["enabled active"] * 2
    assert fetch(PUBLIC).status == 200
    assert fetch(f"{CONTROL}readyz").status == 200
    # Twisted says so where its cache of plugins is missing or outdated.
    assert not [line for line in PUSHD.journal() if "cache" in line or "Traceback" in line]


def test_user() -> None:
    """The service runs as a user of its own, to whom the state belongs."""
    user = pwd.getpwnam("pushd")
    assert user.pw_uid < 1000
    assert user.pw_shell == "/usr/sbin/nologin"
    assert Path(f"/proc/{PUSHD.pid}").stat().st_uid == user.pw_uid
    assert (STATE.stat().st_uid, STATE.stat().st_mode & 0o777) == (user.pw_uid, 0o700)
    assert (STATE / "pushd.sqlite").exists()


def test_config() -> None:
    """The configuration file is valid, and has all options, but for those that the units set."""
    printed = run(str(HOME / "bin/twistd"), "pushd", "--print-config").stdout
    text = re.sub(r"(?m)^# Set by pushd\.service.*\n(# )?", "", CONFIG.read_text())
    assert text.replace('state = ""', '# state = ""') == printed
    given = tomllib.loads(CONFIG.read_text())
    assert given.keys() == tomllib.loads(printed).keys() - {"listen", "control", "state"}
    shown = run("dpkg-query", "--show", "--showformat", "${Conffiles}", "pushd").stdout
    assert [line.split()[0] for line in shown.splitlines() if line] == [str(CONFIG)]
    run("pushdctl", "check", "--config", str(CONFIG))


def test_commands() -> None:
    """The command of operators is found, and so are the pages of the manual."""
    run("pushdctl", "publish", "news", "hello")
    assert "news" in run("pushdctl", "topics").stdout
    assert run("env", "pushd", "--version").stdout == run("pushdctl", "--version").stdout
    for page in ("8 pushd", "1 pushdctl"):
        path = run("man", "--where", *page.split()).stdout.strip()
        # Nothing in it is unknown to the formatter.
        shown = run("man", "--warnings=w", "--pager=cat", "--local-file", path)
        assert "warning" not in shown.stdout
        assert "--control" in shown.stdout


def test_completion() -> None:
    """Shells find the completion of the command where they look for it."""
    share = Path("/usr/share")
    for shell, path in {
        "bash": "bash-completion/completions/pushdctl",
        "fish": "fish/vendor_completions.d/pushdctl.fish",
        "zsh": "zsh/vendor-completions/_pushdctl",
    }.items():
        assert (share / path).read_text() == run("pushdctl", "completion", shell).stdout, shell


def test_extras() -> None:
    """The extras of the daemon are there: Redis, uvloop, Centrifugo's protocol, asyncio client."""
    imports = "import hiredis, uvloop, google.protobuf, pushd.aio"
    run(str(HOME / "bin/python"), "-c", imports)


def test_contents() -> None:
    """All files belong to root, no other user can change them, and pip finds its environment."""
    for path in HOME.rglob("*"):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (0, 0), path
        assert path.is_symlink() or not status.st_mode & 0o022, path
    assert str(HOME) in run(str(HOME / "bin/pip"), "--version").stdout


def test_own_modules() -> None:
    """Views are imported from the folder for modules of the site, and so are further packages."""
    assert SITE.is_dir()
    (SITE / "hello.py").write_text(VIEWS)
    text = CONFIG.read_text()
    CONFIG.write_text(setting(text, '# views = ""', 'views = "hello:views"'))
    PUSHD.restart()
    assert fetch(f"{PUBLIC}hello/").body == b"hello from a module of my own"


def test_secrets() -> None:
    """Variables of a file that only root can read are options of the service."""
    ENVIRONMENT.write_text("PUSHD_DRAIN=1\n")
    ENVIRONMENT.chmod(0o600)
    PUSHD.restart()
    assert [line for line in PUSHD.journal() if "drain = 1  # PUSHD_DRAIN" in line]


def test_upgrade() -> None:
    """An upgrade keeps what the user has changed and all topics, and refuses no request."""
    fetch(f"{CONTROL}topics/kept", "POST", b"one")
    id, pid, text = last_id("kept"), PUSHD.pid, CONFIG.read_text()
    with Load() as load:
        wait_until(lambda: load.answered > WARM, "load")
        install(NEWER)
        answered = load.answered
        wait_until(lambda: load.answered > answered + WARM, "load after the upgrade")
    assert "\n".join(load.failures) == ""
    assert PUSHD.pid not in (0, pid)
    assert states("pushd.socket", "pushd.service") == ["enabled active"] * 2
    assert CONFIG.read_text() == text
    assert last_id("kept") == id
    assert fetch(f"{PUBLIC}hello/").status == 200


def test_upgrade_of_config() -> None:
    """If the package has another configuration file, too, that of the user stays in force."""
    text = CONFIG.read_text()
    install(NEWEST, "--force-confdef", "--force-confold")
    assert CONFIG.read_text() == text
    beside = CONFIG.with_name("pushd.toml.dpkg-dist")
    assert beside.read_text().endswith(NEW_LINE)
    beside.unlink()
    assert fetch(f"{PUBLIC}hello/").status == 200


def test_disabled() -> None:
    """A service that the user has disabled stays so after an upgrade."""
    run("systemctl", "disable", "--now", "pushd.socket", "pushd.service")
    install(NEWEST)
    assert states("pushd.socket", "pushd.service") == ["disabled inactive"] * 2
    run("systemctl", "enable", "--now", "pushd.socket", "pushd.service")


def test_instances() -> None:
    """Instances of pushd@.service are restarted by an upgrade, and stopped by a removal."""
    run("systemctl", "disable", "--now", "pushd.socket", "pushd.service")
    units = ("pushd@8081.socket", "pushd@8081.service")
    run("systemctl", "enable", "--now", *units)
    pid = INSTANCE.pid
    install(NEWEST)
    assert INSTANCE.pid not in (0, pid)
    assert fetch(f"{PUBLIC}hello/").status == 200
    run("dpkg", "--force-unsafe-io", "--remove", "pushd")
    assert INSTANCE.pid == 0
    install(NEWEST)
    run("systemctl", "disable", "--now", *units)
    run("systemctl", "enable", "--now", "pushd.socket", "pushd.service")


def test_remove() -> None:
    """After a removal nothing runs; configuration, state and modules of the site are kept."""
    id = last_id("kept")
    run("dpkg", "--force-unsafe-io", "--remove", "pushd")
    assert PUSHD.pid == 0
    assert not HOME.exists()
    assert not Path("/usr/bin/pushdctl").exists()
    assert all(path.exists() for path in (CONFIG, ENVIRONMENT, STATE, SITE / "hello.py"))
    text = CONFIG.read_text()
    install(NEWEST)
    wait_until(lambda: PUSHD.status.startswith("serving"), "the status")
    assert last_id("kept") == id
    assert CONFIG.read_text() == text
    assert fetch(f"{PUBLIC}hello/").status == 200


def test_purge() -> None:
    """A purge deletes all but the modules of the site, and the user."""
    run("dpkg", "--force-unsafe-io", "--purge", "pushd")
    run("systemctl", "daemon-reload")
    for path in (
        HOME,
        CONFIG.parent,
        STATE,
        Path("/var/lib/pushd-8081"),
        Path("/usr/share/doc/pushd"),
    ):
        assert not path.exists(), path
    assert PUSHD.show("LoadState")["LoadState"] == "not-found"
    assert not list(Path("/etc/systemd/system").rglob("pushd*"))
    assert (SITE / "hello.py").exists()
    assert pwd.getpwnam("pushd")
    listed = subprocess.run(["dpkg", "--status", "pushd"], capture_output=True, check=False)
    assert listed.returncode == 1


def test_port_in_use() -> None:
    """If another program has the port, the package is installed all the same, and says why."""
    server = ("/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "8080")
    run("systemd-run", "--unit=tests-port", *server)
    port = socket()
    wait_until(lambda: port.connect_ex(("127.0.0.1", 8080)) == 0, "the other program")
    port.close()
    try:
        install(PACKAGE)
        assert states("pushd.socket", "pushd.service") == ["enabled failed", "enabled inactive"]
    finally:
        run("systemctl", "stop", "tests-port")
    run("systemctl", "start", "pushd.socket", "pushd.service")
    assert fetch(PUBLIC).status == 200
