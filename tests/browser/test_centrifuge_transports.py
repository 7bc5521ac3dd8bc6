"""npm's centrifuge in a page where WebSockets do not get through, and a page without an SDK."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import assert_clean_exit
from tests.browser.tcp_proxy import WEBSOCKET, TcpProxy
from tests.sdk.daemon import SdkDaemon, make_token
from tests.support.fences import find_fences

# Where "make browser" installs the SDK.
SDK = Path(os.environ.get("SDK_MODULES", Path(__file__).parents[2] / ".venv/sdk")) / "node_modules"

DOCUMENT = Path(__file__).parents[2] / "docs/centrifuge.md"

_STREAM = b"post /connection/http_stream"

# What does not get through, and the transport that the SDK is left with.
FALLBACKS = {"http_stream": [WEBSOCKET], "sse": [WEBSOCKET, _STREAM]}

# Subscribes to a channel with the client of the document; `heard` holds what has come.
_SUBSCRIBE = """
async () => {
  window.heard = [];
  window.subscribed = [];
  client.on("connected", ({ transport }) => (window.transport = transport));
  window.subscription = client.newSubscription("chat:1");
  subscription.on("publication", ({ data, offset }) => heard.push([offset, data]));
  subscription.on("subscribed", ({ recovered }) => subscribed.push(recovered));
  subscription.subscribe();
  client.connect();
  await subscription.ready();
}
"""


def block(heading: str) -> str:
    """Return the script below a heading of the document."""
    [body] = [
        body
        for above, language, body in find_fences(DOCUMENT.read_text())
        if (above, language) == (heading, "js")
    ]
    return body


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[SdkDaemon, TcpProxy]]:
    """Run a daemon that serves the SDK, and a proxy before it."""
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.html").write_text("<!doctype html><title>SDK</title>")
    shutil.copy(SDK / "centrifuge/dist/centrifuge.js", pages)
    options = ("--web", str(pages), "--csp", "default-src 'self'; connect-src *")
    with SdkDaemon(tmp_path, *options) as daemon, TcpProxy(daemon.url) as proxy:
        yield daemon, proxy
    assert_clean_exit(daemon)


def talk(page: Page, daemon: SdkDaemon, proxy: TcpProxy, transport: str) -> None:
    """Publish, call, see who is there, and recover after a cut, with the client of the page."""
    page.evaluate(_SUBSCRIBE)
    assert page.evaluate("transport") == transport
    page.evaluate("subscription.publish({ text: 'é' })")
    daemon.call("publish", channel="chat:1", data=[1])
    page.wait_for_function("() => heard.length === 2")
    assert page.evaluate("client.rpc('double', { number: 21 })") == {"data": {"doubled": 42}}
    assert page.evaluate("subscription.presenceStats()")["numClients"] == 1

    proxy.unreachable = True
    proxy.cut()
    page.wait_for_function("() => client.state === 'connecting'")
    daemon.call("publish", channel="chat:1", data=2)
    proxy.unreachable = False
    page.wait_for_function("() => subscribed.length === 2")
    page.wait_for_function("() => heard.length === 3")
    assert page.evaluate("subscribed") == [False, True]
    assert page.evaluate("heard") == [[1, {"text": "é"}], [2, [1]], [3, 2]]
    assert page.evaluate("transport") == transport


@pytest.mark.parametrize("transport", FALLBACKS)
def test_fallback(page: Page, served: tuple[SdkDaemon, TcpProxy], transport: str) -> None:
    """The client of the document falls back to what gets through."""
    daemon, proxy = served
    for head in FALLBACKS[transport]:
        proxy.refused[head] = b"403 Forbidden"
    page.goto(proxy.url)
    page.add_script_tag(url="/centrifuge.js")
    script = block("SSE and HTTP streaming").replace("wss:", "ws:").replace("https:", "http:")
    page.evaluate(f"() => {{ {script.replace('const client', 'window.client')} }}")
    talk(page, daemon, proxy, transport)


@pytest.mark.parametrize("transport", FALLBACKS)
def test_other_origin(
    page: Page, served: tuple[SdkDaemon, TcpProxy], tmp_path: Path, transport: str
) -> None:
    """A page of another origin that is allowed has the same transports."""
    _, proxy = served
    folder = tmp_path / "other"
    folder.mkdir()
    with (
        SdkDaemon(folder, "--origin", proxy.url.rstrip("/")) as other,
        TcpProxy(other.url) as to_other,
    ):
        page.goto(proxy.url)
        page.add_script_tag(url="/centrifuge.js")
        page.evaluate(
            "([url, transport]) => { window.client = new Centrifuge("
            "[{ transport, endpoint: `${url}connection/${transport}` }],"
            " { emulationEndpoint: `${url}emulation` }); }",
            [to_other.url, transport],
        )
        talk(page, other, to_other, transport)
    assert_clean_exit(other)


def test_without_sdk(page: Page, served: tuple[SdkDaemon, TcpProxy]) -> None:
    """The EventSource of the document resumes where it is told to, and hears what follows."""
    daemon, proxy = served
    daemon.call("publish", channel="news", data=1)
    epoch = daemon.call("history", channel="news", limit=0)["epoch"]
    daemon.call("publish", channel="news", data=2)
    page.goto(proxy.url)
    page.evaluate(
        "() => { window.heard = []; console.log = ({ pub }) => pub && heard.push(pub.data); }"
    )
    script = block("Clients without an SDK")
    token = make_token(sub="ann", channels=["news"])
    page.evaluate(f"([token, epoch, offset]) => {{ {script} }}", [token, epoch, 1])
    page.wait_for_function("() => heard.length === 1")
    daemon.call("publish", channel="news", data={"text": "é\n"})
    page.wait_for_function("() => heard.length === 2")
    assert page.evaluate("heard") == [2, {"text": "é\n"}]
