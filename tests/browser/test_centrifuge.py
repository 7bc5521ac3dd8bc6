"""npm's centrifuge in a page: in JSON and Protobuf, and the page of docs/centrifuge.md."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import assert_clean_exit
from tests.browser.tcp_proxy import TcpProxy
from tests.live.attacked_daemon import control_url_of
from tests.sdk.daemon import SdkDaemon, make_token
from tests.support.daemon_process import DaemonProcess
from tests.support.fences import find_fences

# Where "make browser" installs the SDK.
SDK = Path(os.environ.get("SDK_MODULES", Path(__file__).parents[2] / ".venv/sdk")) / "node_modules"

DOCUMENT = Path(__file__).parents[2] / "docs/centrifuge.md"

# The file of each format, which defines Centrifuge.
FORMATS = {"json": "centrifuge.js", "protobuf": "centrifuge.protobuf.js"}

# Connects with a token and subscribes to a channel; `heard` holds what both have got.
_CONNECT = """
async ([format, token, channel]) => {
  const isProtobuf = format === "protobuf";
  const [encoder, decoder] = [new TextEncoder(), new TextDecoder()];
  window.encode = (value) => isProtobuf ? encoder.encode(JSON.stringify(value)) : value;
  const decode = (data) => isProtobuf ? JSON.parse(decoder.decode(data)) : data;
  window.heard = [];
  window.subscribed = [];
  const hear = (channel) => ({ data, offset }) => heard.push([channel, offset, decode(data)]);
  window.client = new Centrifuge(`ws://${location.host}/connection/websocket`, { token });
  client.on("publication", ({ channel, ...publication }) => hear(channel)(publication));
  window.subscription = client.newSubscription(channel);
  subscription.on("publication", hear(channel));
  subscription.on("subscribed", ({ wasRecovering, recovered }) => {
    subscribed.push([wasRecovering, recovered]);
  });
  subscription.subscribe();
  client.connect();
  await subscription.ready();
}
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[SdkDaemon, TcpProxy]]:
    """Run a daemon that serves the SDK, and a proxy before it."""
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.html").write_text("<!doctype html><title>SDK</title>")
    for name in FORMATS.values():
        shutil.copy(SDK / "centrifuge/dist" / name, pages)
    with SdkDaemon(tmp_path, "--web", str(pages)) as daemon, TcpProxy(daemon.url) as proxy:
        yield daemon, proxy
    assert_clean_exit(daemon)


def wait_for(page: Page, heard: list[Any]) -> None:
    """Wait for as many publications, and check which they are."""
    page.wait_for_function("(count) => heard.length >= count", arg=len(heard))
    assert page.evaluate("heard") == heard


@pytest.mark.parametrize("format", FORMATS)
def test_page(page: Page, served: tuple[SdkDaemon, TcpProxy], format: str) -> None:
    """The SDK publishes, calls, sees who is there, and recovers on all channels after a cut."""
    daemon, proxy = served
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(proxy.url)
    page.add_script_tag(url=f"/{FORMATS[format]}")
    page.evaluate(_CONNECT, [format, make_token(sub="ann"), "chat:1"])
    page.evaluate("subscription.publish(encode({ text: 'é' }))")
    daemon.call("publish", channel="users/ann", data=[1])
    heard = [["chat:1", 1, {"text": "é"}], ["#ann", 1, [1]]]
    wait_for(page, heard)
    users = page.evaluate(
        "async () => Object.values((await subscription.presence()).clients).map((one) => one.user)"
    )
    assert users == ["ann"]
    doubled = page.evaluate(
        "async () => { const { data } = await client.rpc('double', encode({ number: 21 }));"
        " return data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data; }"
    )
    assert doubled == {"doubled": 42}

    proxy.unreachable = True
    proxy.cut()
    page.wait_for_function("() => client.state === 'connecting'")
    daemon.call("publish", channel="chat:1", data=2)
    daemon.call("publish", channel="users/ann", data=3)
    proxy.unreachable = False
    page.wait_for_function("() => subscribed.length === 2")
    assert page.evaluate("subscribed") == [[False, False], [True, True]]
    page.wait_for_function("() => heard.length >= 4")
    again = sorted(page.evaluate("heard")[2:])
    assert again == [["#ann", 2, 3], ["chat:1", 2, 2]]
    assert errors == []


def test_five_minutes(tmp_path: Path, page: Page) -> None:
    """The page of the document shows what is published, and what it has missed."""
    fences = [
        (language, body)
        for heading, language, body in find_fences(DOCUMENT.read_text())
        if heading == "Five minutes"
    ]
    bodies = [body for _, body in fences]
    install, html, script, serve, publish = bodies[:5]
    assert install == "npm install centrifuge\n"
    folder = tmp_path / "page"
    # What npm has installed.
    shutil.copytree(SDK / "centrifuge", folder / "node_modules/centrifuge")
    (folder / "index.html").write_text(html)
    (folder / "news.js").write_text(script)
    command = shlex.split(serve)
    assert command[:3] == ["twistd", "-n", "pushd"]
    path = os.environ.get("PYTHONPATH")
    control = ("--control", "tcp:0:interface=127.0.0.1")
    with (
        DaemonProcess(
            [*command[3:], *control],
            directory=folder,
            environment={} if path is None else {"PYTHONPATH": path},
        ) as daemon,
        TcpProxy(daemon.url) as proxy,
    ):
        commands = publish.replace("http://127.0.0.1:8081/", control_url_of(daemon)).splitlines()
        page.goto(proxy.url)
        expect(page.locator("#state")).to_have_text("connected")
        for line in commands:
            run(line)
        items = page.locator("#news li")
        expect(items).to_have_text(["1: hello", "2: hello"])
        proxy.unreachable = True
        proxy.cut()
        expect(page.locator("#state")).to_have_text("connecting")
        for line in commands:
            run(line)
        proxy.unreachable = False
        expect(page.locator("#state")).to_have_text("back, and nothing was missed")
        expect(items).to_have_text([f"{number}: hello" for number in range(1, 5)])
        # The same in the browser's console, as the document has it.
        page.evaluate("() => client.disconnect()")
        expect(page.locator("#state")).to_have_text("connecting")
        for line in commands:
            run(line)
        page.evaluate("() => client.connect()")
        expect(page.locator("#state")).to_have_text("back, and nothing was missed")
        expect(items).to_have_text([f"{number}: hello" for number in range(1, 7)])
    assert_clean_exit(daemon)


def run(command: str) -> None:
    """Run a command of the document, which answers in JSON."""
    done = subprocess.run(
        [*shlex.split(command), "--silent", "--show-error", "--fail", "--noproxy", "*"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
