"""The npm package: packed, installed into projects, compiled, bundled, and used in a page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from signal import SIGTERM
from threading import Thread

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import assert_clean_exit
from tests.browser.subscribing import Publisher
from tests.browser.test_tokens import SilentRequestHandler
from tests.support.daemon_process import DaemonProcess

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/npm"
SHIPPED = ROOT / "web"

# Where "make browser" installs what the examples need, except for the package itself.
PACKAGES = Path(os.environ.get("NPM_PACKAGES", ROOT / ".venv/npm"))

# Seconds that a command may take.
TIMEOUT = 120

# What is left of an example of which somebody has run "npm install" and "npm run build".
LEFT_OVER = shutil.ignore_patterns("node_modules", "dist", "package-lock.json")

CONTROL = ("--control", "tcp:0:interface=127.0.0.1")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed, and return what it prints."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def link(source: str, target: str) -> None:
    """Link a file, which takes less time than to copy it; copy it where that is not possible."""
    # npm writes to this one.
    if not source.endswith("/.package-lock.json"):
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack the package, as for the registry."""
    folder = tmp_path_factory.mktemp("packed")
    run("npm", "pack", SHIPPED, "--pack-destination", folder, cwd=folder)
    [tarball] = folder.iterdir()
    return tarball


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tarball: Path) -> Callable[[str], Path]:
    """Return a function that makes a project of an example, with the package installed."""
    projects: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in projects:
            folder = tmp_path_factory.mktemp(name) / name
            shutil.copytree(EXAMPLES / name, folder, ignore=LEFT_OVER)
            installed = PACKAGES / name
            assert installed.is_dir(), f"{installed} is missing: run make browser"
            shutil.copy(installed / "package-lock.json", folder)
            modules = folder / "node_modules"
            shutil.copytree(installed / "node_modules", modules, symlinks=True, copy_function=link)
            run("npm", "install", "--offline", "--no-audit", "--no-fund", tarball, cwd=folder)
            projects[name] = folder
        return projects[name]

    return make


def check_news(page: Page, daemon: DaemonProcess) -> None:
    """Check that the page of an example subscribes once, and shows what is published, in order."""
    expect(page.locator("#status")).to_have_text("open")
    publisher = Publisher(daemon)
    # React, which mounts a component twice while it is developed, must not leave two.
    publisher.wait_for_subscriber("news", "websocket")
    for text in ("hello", "<b>again</b>"):
        publisher.publish("news", text)
    expect(page.locator("#news li")).to_have_text(["hello", "<b>again</b>"])


def test_contents(tarball: Path) -> None:
    """The package holds the client without the demo, its types, a README and the licence."""
    with tarfile.open(tarball) as packed:
        names = {name.removeprefix("package/") for name in packed.getnames()}
        manifest = json.load(packed.extractfile("package/package.json"))  # type: ignore[arg-type]  # It is a file.
    others = {"LICENSE", "README.md", "package.json", "pushd.d.ts"}
    assert names == {path.name for path in SHIPPED.glob("*.js")} | others
    assert not {"dependencies", "peerDependencies", "scripts"} & set(manifest)


@pytest.mark.parametrize("framework", ["react", "vue"])
def test_framework(
    project: Callable[[str], Path],
    framework: str,
    page: Page,
    console_errors: list[str],
    tmp_path: Path,
) -> None:
    """A bundled page subscribes with a React hook or a Vue composable; pushd serves it."""
    folder = project(framework)
    run("npm", "run", "build", cwd=folder)
    with DaemonProcess([*CONTROL, "--web", str(folder / "dist")], directory=tmp_path) as daemon:
        page.goto(daemon.url)
        check_news(page, daemon)
        page.goto("about:blank")
        assert console_errors == []
    assert_clean_exit(daemon)


@pytest.fixture
def other_origin(project: Callable[[str], Path]) -> Iterator[str]:
    """Bundle the example with script tags, serve it from another origin, and return its URL."""
    folder = project("plain")
    run("npm", "run", "build", cwd=folder)
    handler = partial(SilentRequestHandler, directory=str(folder / "dist"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_script_tag(
    project: Callable[[str], Path],
    other_origin: str,
    page: Page,
    tmp_path: Path,
) -> None:
    """A script tag of a bundled page subscribes at a pushd of another origin, which allows it."""
    with DaemonProcess([*CONTROL, "--origin", other_origin], directory=tmp_path) as daemon:
        html = project("plain") / "dist/index.html"
        tag = f'<html lang="en" data-pushd="{daemon.url.rstrip("/")}">'
        html.write_text(html.read_text().replace('<html lang="en">', tag))
        page.goto(f"{other_origin}/index.html")
        check_news(page, daemon)
        page.goto("about:blank")
    assert_clean_exit(daemon)


def test_development(project: Callable[[str], Path], page: Page, tmp_path: Path) -> None:
    """``npm run dev`` serves a page that subscribes through Vite's proxy, without ``--origin``."""
    with DaemonProcess(CONTROL, directory=tmp_path) as daemon:
        vite = subprocess.Popen(
            [project("react") / "node_modules/.bin/vite", "--host", "127.0.0.1"],
            cwd=project("react"),
            env={**os.environ, "PUSHD": daemon.url, "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert vite.stdout is not None
            said, match = [], None
            for line in vite.stdout:
                said.append(line)
                if match := re.search(r"http://127\.0\.0\.1:\d+/", line):
                    break
            assert match, said
            page.goto(match[0])
            check_news(page, daemon)
        finally:
            vite.send_signal(SIGTERM)
            vite.communicate(timeout=TIMEOUT)
    assert_clean_exit(daemon)


def test_types(project: Callable[[str], Path]) -> None:
    """The types are strict, cover every option, and agree with the comments of the scripts."""
    folder = project("react")
    source = folder / "types"
    (source / "scripts").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("npm") / "types.ts", source)
    for path in SHIPPED.glob("*.js"):
        shutil.copy(path, source / "scripts")
    settings = {
        "extends": "../tsconfig.json",
        "compilerOptions": {"allowJs": True},
        "include": ["*.ts"],
    }
    (source / "tsconfig.json").write_text(json.dumps(settings))
    run(folder / "node_modules/.bin/tsc", "--project", source, cwd=folder)


def test_server(project: Callable[[str], Path]) -> None:
    """A server that renders pages can import the package: it runs nothing by itself."""
    script = 'console.log(Object.keys(await import("pushd-client")).sort().join())'
    said = run("node", "--input-type=module", "--eval", script, cwd=project("plain"))
    assert said == "connect,subscribe,webSocketURL\n"
