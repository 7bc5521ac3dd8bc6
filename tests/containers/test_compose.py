"""deploy/compose.yaml: two processes, a Redis, nginx, and the Django project."""

from __future__ import annotations

import json
from pathlib import Path
from signal import SIGTERM

from tests.containers.compose import NODES, SERVICES, up
from tests.containers.image import Image

CLIENT = Path(__file__).with_name("chat_client.py")

# The port of nginx, in the network of the services.
PORT = SERVICES["nginx"]["ports"][0].rpartition(":")[2]


def test_site(image: Image, tmp_path: Path) -> None:
    """Browsers at different processes talk to each other; other services publish by a name."""
    tmp_path.chmod(0o755)
    with up(image, tmp_path) as services:
        seen = services.python(CLIENT, f"127.0.0.1:{PORT}", *NODES)
        assert seen["page"][0] == 200
        assert "<h1>Chat: lobby</h1>" in seen["page"][1]
        assert seen["heard"] == [{"name": "ann", "text": "hello"}] * 2
        # One at each process, at the address that nginx gives.
        assert seen["websockets"] == [["127.0.0.1"], ["127.0.0.1"]]
        assert [status for status, _ in seen["published"]] == [200, 200]
        status, body = seen["read"]
        assert status == 200
        assert [one["data"] for one in json.loads(body)["publications"]] == ["news"]
        # A service that is scaled down, or updated, ends in order.
        for node in services.nodes:
            node.signal(SIGTERM)
            assert node.wait() == 0
            assert "Traceback" not in node.log
