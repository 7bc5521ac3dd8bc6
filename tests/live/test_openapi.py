"""The OpenAPI documents against a running daemon: every operation, parameter and response."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.live.attacked_daemon import control_url_of
from tests.support.daemon_process import DaemonProcess
from tests.support.keyring import SECRET, sign
from tests.support.openapi import Example, Operation, read_document

# The timeout of each step, in seconds.
TIMEOUT = 60.0

PORTS = ("public", "control")

CONFIGURATION = """
centrifuge = true
api-key = "key"
max-message = 100000

[[topic]]
match = "chat/**"
presence = true

[[topic]]
match = "open/**"
publish = "anyone"
max-message = 4
"""

API_KEY = {"X-API-Key": "api-key"}
# The origin of the daemon's own pages, which is known when it runs.
OWN_ORIGIN = {"Origin": "own"}

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
STREAM = {"Accept": "text/event-stream"}

# Files and views answer OPTIONS as they like, and ignore parameters that they do not know.
NO_TOPICS = {
    *("/", "/{file}", "/test/", "/operator/{file}"),
    *("/play/publish/", "/play/cut/", "/play/costs/", "/play/topics/{way}/{topic}"),
}

# These ignore what a prober adds.
PROBED = {"/healthz", "/readyz", "/metrics"}

# A poll that is answered at once.
AT_ONCE = {"wait": 0}

# Parameters that are given together.
PARTNERS = {"every": ["count"], "count": ["every"]}


class Answer(NamedTuple):
    """A response, or what has arrived of an event stream until its first event is complete."""

    status: int
    kind: str
    body: bytes
    headers: dict[str, str]


@dataclass
class Service:
    """A running daemon that answers requests."""

    daemon: DaemonProcess

    def url_of(self, port: str) -> str:
        """Return the URL of a port."""
        return self.daemon.url if port == "public" else control_url_of(self.daemon)

    @contextmanager
    def connect(self, port: str, example: Example) -> Iterator[HTTPResponse]:
        """Send a request, and yield the response, which is closed then."""
        where = urlsplit(self.url_of(port))
        connection = HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT)
        try:
            own = {"Origin": f"http://{where.netloc}"}
            headers = example.headers | (
                own if OWN_ORIGIN.items() <= example.headers.items() else {}
            )
            connection.request(example.method, example.path, example.body, headers)
            yield connection.getresponse()
        finally:
            connection.close()

    def send(self, port: str, example: Example) -> Answer:
        """Send a request, and return the response."""
        with self.connect(port, example) as response:
            kind = response.getheader("Content-Type", "")
            if kind.startswith("text/event-stream") and example.method == "GET":
                body = read_event(response)
            else:
                body = b"" if response.status == 101 else response.read()
            return Answer(response.status, kind, body, dict(response.getheaders()))

    def ask(self, port: str, method: str, path: str, body: bytes = b"") -> Any:
        """Send a request that must succeed, and return the JSON of its answer."""
        answer = self.send(port, Example(method, path, body=body))
        assert answer.status < 300, answer
        return json.loads(answer.body)


def read_event(response: HTTPResponse) -> bytes:
    """Return the first event of a stream."""
    lines = [response.readline()]
    while lines[-1].strip():
        lines.append(response.readline())
    return b"".join(lines)


@dataclass(frozen=True)
class Case:
    """A request, and the description of the response that it gets."""

    id: str
    #: The status, or ``default``.
    key: str
    port: str = "control"
    #: Which daemon: ``plain``, ``tokens``, or ``away``, whose Redis cannot be reached.
    daemon: str = "plain"
    values: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""
    kind: str = ""
    body: bytes | None = None

    @property
    def operation(self) -> Operation:
        """What the document says of it."""
        return read_document(self.port).find(self.id)

    def __str__(self) -> str:
        return f"{self.port}-{self.id}-{self.key}-{self.kind or self.query or self.daemon}"


def public(id: str, key: str, **more: Any) -> Case:
    """Return a case for the public port."""
    return Case(id, key, "public", **more)


def _bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {sign({'exp': 4102444800, 'sub': 'ann', **claims})}"}


MAY_DO_ALL = _bearer(subscribe=["**"], publish=["**"])
LONG = b"x" * 100_001

# Each operation, once as its examples say.
SUCCESSES = [
    Case("publish", "200", kind="text/plain"),
    Case("publish", "200", kind="application/json"),
    Case("publish", "200", kind="application/octet-stream"),
    Case("publish", "202", query="delay=3600"),
    Case("describeTopic", "200"),
    Case("publishBatch", "200"),
    Case("publishStream", "101", headers=HANDSHAKE),
    Case("lastId", "200"),
    Case("listTopics", "200"),
    Case("topicPresence", "200"),
    Case("topicPresence", "200", values={"topic": "news"}),
    Case("presence", "200"),
    Case("rules", "200", values={"topic": "chat/7"}),
    Case("rules", "200"),
    Case("listPublications", "200", values={"topic": "news"}),
    Case("snapshots", "200"),
    Case("page", "200"),
    Case("pageFile", "200"),
    Case("rules", "200", values={"topic": "news"}),
    Case("listConnections", "200"),
    Case("describeConnection", "200"),
    Case("closeConnection", "204"),
    Case("revokeSubscriptions", "200", values={"topic": "news"}),
    Case("listSchedules", "200"),
    Case("describeSchedule", "200"),
    Case("cancelSchedule", "204"),
    Case("probe", "204"),
    Case("health", "200"),
    Case("readiness", "200"),
    Case("metrics", "200"),
    Case("centrifugo", "200", kind="application/json", headers=API_KEY),
    public("subscribe", "101", headers=HANDSHAKE),
    public("subscribe", "200", values=AT_ONCE),
    public("subscribe", "200", headers=STREAM, kind=""),
    public("publish", "200", daemon="tokens", headers=MAY_DO_ALL, kind="text/plain"),
    public("publish", "200", daemon="tokens", headers=MAY_DO_ALL, kind="application/json"),
    public("publish", "200", daemon="tokens", headers=MAY_DO_ALL, kind="application/octet-stream"),
    public("subscribeToMany", "101", headers={**HANDSHAKE, "Sec-WebSocket-Protocol": "pushd.v1"}),
    public("subscribeToMany", "200", values={"topic": ["news", "chat/7"], **AT_ONCE}),
    public("subscribeToMany", "200", values={"topic": ["news"]}, headers=STREAM),
    public("startPage", "200"),
    public("file", "200"),
    public("file", "206", values={"Range": "bytes=0-9"}),
    public("demo", "101", headers=HANDSHAKE),
    public("demo", "200"),
    public("playPublish", "200", kind="text/plain", headers=OWN_ORIGIN),
    public("playCut", "200", headers=OWN_ORIGIN),
    public("playCosts", "200"),
    public("playSubscribe", "101", headers=HANDSHAKE, values={"way": "websocket"}),
    public("playSubscribe", "200", values=AT_ONCE),
    public("playSubscribe", "200", headers=STREAM, values={"way": "sse"}),
    public("centrifuge", "101", headers=HANDSHAKE),
]

# Each response that says what is wrong.
FAILURES = [
    Case("publish", "400", values={"topic": "a//b"}),
    Case("publish", "400", query="every=1"),
    Case("publish", "413", values={"topic": "open/a"}, body=b"hello"),
    Case("publish", "413", body=LONG),
    Case("publish", "503", daemon="away"),
    Case("describeTopic", "400", values={"topic": "a//b"}),
    Case("describeTopic", "503", daemon="away"),
    Case("publishBatch", "400", body=b"{}"),
    Case("publishBatch", "413", body=json.dumps({"publications": [{}] * 1001}).encode()),
    Case("publishBatch", "503", daemon="away"),
    Case("lastId", "400", values={"topic": "a//b"}),
    Case("lastId", "503", daemon="away"),
    Case("listTopics", "400", query="topics=1"),
    Case("listTopics", "503", daemon="away"),
    Case("topicPresence", "400", query="topic=1"),
    Case("topicPresence", "503", daemon="away"),
    Case("presence", "400", values={"topic": "a//b"}),
    Case("presence", "404", values={"topic": "news"}),
    Case("presence", "503", daemon="away"),
    Case("rules", "400", values={"topic": "a//b"}),
    Case("listPublications", "400", values={"limit": 0}),
    Case("listPublications", "503", daemon="away"),
    Case("snapshots", "400", query="limit=1"),
    Case("page", "404", daemon="tokens"),
    Case("pageFile", "404", values={"file": "none"}),
    Case("listConnections", "400", values={"after": "x"}),
    Case("describeConnection", "400", query="after=1"),
    Case("describeConnection", "404", values={"id": 10**9}),
    Case("closeConnection", "400", values={"code": 999}),
    Case("closeConnection", "404", values={"id": 10**9}),
    Case("revokeSubscriptions", "400"),
    Case("revokeSubscriptions", "503", daemon="away", values={"topic": "news"}),
    Case("listSchedules", "400", query="after=1"),
    Case("listSchedules", "503", daemon="away"),
    Case("describeSchedule", "400", query="after=1"),
    Case("describeSchedule", "404", values={"schedule": "none"}),
    Case("describeSchedule", "503", daemon="away", values={"schedule": "none"}),
    Case("cancelSchedule", "400", query="after=1"),
    Case("cancelSchedule", "404", values={"schedule": "none"}),
    Case("cancelSchedule", "503", daemon="away", values={"schedule": "none"}),
    Case("readiness", "503", daemon="away"),
    Case("centrifugo", "400", headers=API_KEY, body=b"{"),
    Case("centrifugo", "401"),
    Case("centrifugo", "404", headers=API_KEY, values={"method": "none"}),
    public("subscribe", "400", values={"wait": 61}),
    public("subscribe", "401", daemon="tokens"),
    public("subscribe", "403", daemon="tokens", headers=_bearer()),
    public("subscribe", "403", headers={"Origin": "http://elsewhere.example"}),
    public("subscribe", "426", headers={"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"}),
    public("subscribe", "503", daemon="away", values=AT_ONCE),
    public("publish", "400", daemon="tokens", headers=MAY_DO_ALL, query="delay=1"),
    public("publish", "401", daemon="tokens"),
    public("publish", "403", daemon="tokens", headers=_bearer()),
    public("publish", "405"),
    public("publish", "413", values={"topic": "open/a"}, body=b"hello"),
    public("publish", "413", values={"topic": "open/a"}, body=LONG),
    public("publish", "503", daemon="away", values={"topic": "open/a"}),
    public("subscribeToMany", "400", values={"topic": ["a//b"]}),
    public("subscribeToMany", "401", daemon="tokens", values={"topic": ["news"]}),
    public("subscribeToMany", "403", daemon="tokens", headers=_bearer(), values={"topic": ["a"]}),
    public(
        "subscribeToMany",
        "426",
        headers={"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"},
        values={"topic": ["news"]},
    ),
    public("subscribeToMany", "503", daemon="away", values={"topic": ["news"], **AT_ONCE}),
    public("file", "404", values={"file": "none"}),
    public("file", "416", values={"Range": "bytes=9999999-"}),
    public("playPublish", "400", values={"topic": "news"}, headers=OWN_ORIGIN),
    public("playPublish", "403", headers={"Origin": "http://elsewhere.example"}),
    public("playPublish", "413", body=b"x" * 1025, headers=OWN_ORIGIN),
    public("playCut", "400", values={"seconds": 11}, headers=OWN_ORIGIN),
    public("playCut", "403", headers={"Origin": "http://elsewhere.example"}),
    public("playSubscribe", "400", values={"topic": "news"}),
    public("playSubscribe", "404", values={"way": "none"}),
]

CASES = [*SUCCESSES, *FAILURES]

# Descriptions that no single request gets; each has a test of its own below.
OTHERS = {
    ("control", "snapshots", "503"),
    ("public", "file", "304"),
    ("public", "playPublish", "429"),
    ("public", "playCut", "429"),
}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    """Run the daemons."""
    folder = tmp_path_factory.mktemp("openapi")
    (folder / "pushd.toml").write_text(CONFIGURATION)
    (folder / "key").write_text("api-key")
    (folder / "secret").write_bytes(SECRET)
    control = ("--control", "tcp:0:interface=127.0.0.1", "--demo", "on")
    configured = (*control, "--config", "pushd.toml")
    options = {
        "plain": configured,
        "tokens": (*control, "--token-key", "secret", "--control-page", "off"),
        "away": (*configured, "--broker", "redis://127.0.0.1:1"),
    }
    with (
        DaemonProcess(options["plain"], directory=folder) as plain,
        DaemonProcess(options["tokens"], directory=folder) as tokens,
        DaemonProcess(options["away"], directory=folder) as away,
    ):
        yield {"plain": Service(plain), "tokens": Service(tokens), "away": Service(away)}


@pytest.fixture
def listener(services: dict[str, Service]) -> Iterator[int]:
    """Subscribe, and yield the id of the connection at the plain daemon."""
    service = services["plain"]
    with service.connect("public", Example("GET", "/topics/chat/7?client=tab", STREAM)) as response:
        read_event(response)
        [*_, last] = service.ask("control", "GET", "/connections")["connections"]
        yield last["id"]


def fill(operation: Operation, values: dict[str, Any], service: Service, listener: int) -> Any:
    """Return the values of parameters, with those in place that only this daemon has."""
    filled = {name.replace("-", "_"): value for name, value in values.items()}
    names = {one["name"] for one in operation.parameters}
    if operation.path == "/connections/{id}":
        filled.setdefault("id", listener)
    if "schedule" in names and "schedule" not in filled:
        made = service.ask("control", "POST", "/topics/news?delay=3600", b"later")
        filled["schedule"] = made["schedule"]
    return filled


def is_websocket_only(operation: Operation) -> bool:
    """Return whether an operation is nothing but a handshake."""
    return set(operation.responses) == {"101", "default"}


def check(service: Service, operation: Operation, port: str, example: Example) -> tuple[str, str]:
    """Send a request; return the key of the description of its response, and its type."""
    answer = service.send(port, example)
    body = answer.body
    key = operation.check(answer.status, answer.kind, body)
    described = operation.responses[key].get("headers", {})
    if answer.status in (202, 401, 405, 429):
        assert all(name in answer.headers for name in described), (example, answer)
    if port == "public" and answer.kind.startswith("text/event-stream"):
        assert body.startswith(b"event: subscribed\nid: "), body
        data = body.partition(b"\ndata: ")[2]
        document = read_document("public")
        document.validate({"$ref": "#/components/schemas/Subscribed"}, json.loads(data))
    return key, answer.kind


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=f"{number}-{case}") for number, case in enumerate(CASES)],
)
def test_response(case: Case, services: dict[str, Service], listener: int) -> None:
    """The response to a request of the document is one that it describes."""
    service, operation = services[case.daemon], case.operation
    values = fill(operation, case.values, service, listener)
    example = operation.example(kind=case.kind, **values)
    path = f"{example.path}{'&' if '?' in example.path else '?'}{case.query}"
    example = replace(
        example,
        path=path if case.query else example.path,
        headers={**example.headers, **case.headers},
        body=example.body if case.body is None else case.body,
    )
    assert check(service, operation, case.port, example)[0] == case.key


def test_all_described() -> None:
    """Each response that a document describes has a case here."""
    described = {
        (port, operation.id, key)
        for port in PORTS
        for operation in read_document(port).operations
        for key in operation.responses
        if key != "default"
    }
    cases = {(case.port, case.id, case.key) for case in CASES}
    assert cases | OTHERS == described
    assert not cases & OTHERS


def test_types(services: dict[str, Service], listener: int) -> None:
    """Each type of a successful response is sent."""
    described = {
        (port, operation.id, kind)
        for port in PORTS
        for operation in read_document(port).operations
        for kind in operation.responses.get("200", {}).get("content", {})
    }
    sent = set()
    for case in SUCCESSES:
        operation = case.operation
        if case.key != "200":
            continue
        values = fill(operation, case.values, services[case.daemon], listener)
        example = operation.example(kind=case.kind, **values)
        example = replace(example, headers={**example.headers, **case.headers})
        _, kind = check(services[case.daemon], operation, case.port, example)
        sent.add((case.port, case.id, kind.partition(";")[0]))
    described = {(port, id, kind) for port, id, kind in described if kind != "*/*"}
    assert described <= sent, described - sent


def find_optional() -> Iterator[tuple[str, str, str]]:
    """Yield the port, the operation and the name of each parameter that may be left out."""
    for port in PORTS:
        for operation in read_document(port).operations:
            for parameter in operation.parameters:
                if not parameter.get("required"):
                    yield port, operation.id, parameter["name"]


@pytest.mark.parametrize(("port", "id", "name"), list(find_optional()))
def test_parameter(
    port: str, id: str, name: str, services: dict[str, Service], listener: int
) -> None:
    """The example of each parameter is accepted."""
    operation = read_document(port).find(id)
    is_publish = (port, id) == ("public", "publish")
    service = services["tokens" if is_publish else "plain"]
    values: dict[str, Any] = {}
    if name == "at":
        moment = datetime.now(UTC) + timedelta(minutes=1)
        values["at"] = moment.isoformat(timespec="seconds").replace("+00:00", "Z")
    if "wait" in operation.query_names and name != "wait":
        values |= AT_ONCE
    if id == "subscribeToMany":
        values["topic"] = ["chat/7"]
    example = operation.example(
        name, *PARTNERS.get(name, ()), **fill(operation, values, service, listener)
    )
    if is_publish:
        if name == "token":
            given = MAY_DO_ALL["Authorization"].removeprefix("Bearer ")
            example = operation.example(token=given)
        else:
            example = replace(example, headers={**example.headers, **MAY_DO_ALL})
    key, _ = check(service, operation, port, example)
    assert key.startswith("2"), key


@pytest.mark.parametrize(
    ("port", "id"),
    [(port, operation.id) for port in PORTS for operation in read_document(port).operations],
)
def test_refused(port: str, id: str, services: dict[str, Service], listener: int) -> None:
    """A malformed request, and one of a page to the control port, get the default response."""
    operation = read_document(port).find(id)
    service = services["plain"]
    values = fill(operation, {}, service, listener)
    example = operation.example(**values)
    header = {"Host": "a, b"} if port == "public" else {"Origin": "http://localhost"}
    example = replace(example, headers={**example.headers, **header})
    answer = service.send(port, example)
    assert answer.status in (400, 403), answer
    if str(answer.status) not in operation.responses:
        assert operation.check(answer.status, answer.kind, answer.body) == "default"


@pytest.mark.parametrize("port", PORTS)
def test_methods(port: str, services: dict[str, Service], listener: int) -> None:
    """The daemon allows the methods that a document has, and no other."""
    described: dict[str, set[str]] = {}
    operations = [one for one in read_document(port).operations if not is_websocket_only(one)]
    for operation in operations:
        if operation.path not in NO_TOPICS:
            described.setdefault(operation.path, set()).add(operation.method)
    assert described
    # Every method but GET is for the topic of that name.
    described.get("/topics/{topic}/presence", set()).add("POST")
    for path, methods in described.items():
        operation = next(one for one in operations if one.path == path)
        values = fill(operation, {}, services["plain"], listener)
        if path == "/topics/{topic}":
            values["topic"] = "open/a"  # Anyone may publish to it, at the public port as well.
        example = replace(operation.example(**values), method="OPTIONS", body=b"")
        answer = services["plain"].send(port, example)
        assert answer.status in (200, 204), answer
        allowed = set(answer.headers["Allow"].split(", "))
        assert allowed - {"OPTIONS", "HEAD"} == methods, path
        assert ("HEAD" in allowed) == ("GET" in methods), path


@pytest.mark.parametrize("port", PORTS)
def test_query_names(port: str, services: dict[str, Service], listener: int) -> None:
    """The daemon takes the parameters of the query that a document has, and no other."""
    asked = 0
    for operation in read_document(port).operations:
        if is_websocket_only(operation) or operation.path in NO_TOPICS | PROBED:
            continue
        is_publish = (port, operation.id) == ("public", "publish")
        values = fill(operation, {}, services["plain"], listener)
        example = operation.example(**values)
        path = f"{example.path}{'&' if '?' in example.path else '?'}nonsense=1"
        headers = {**example.headers, **API_KEY, **(MAY_DO_ALL if is_publish else {})}
        service = services["tokens" if is_publish else "plain"]
        answer = service.send(port, replace(example, path=path, headers=headers))
        value = json.loads(answer.body)
        assert (answer.status, value["where"]) == (400, "nonsense"), (operation, answer)
        taken = set(value["error"].partition(" takes ")[2].split(", ")) - {"none"}
        assert taken == operation.query_names, operation
        asked += 1
    assert asked >= {"public": 3, "control": 16}[port]


def test_not_modified(services: dict[str, Service]) -> None:
    """A file that the client has is not sent again."""
    operation = read_document("public").find("file")
    tag = services["plain"].send("public", operation.example()).headers["ETag"]
    example = operation.example(If_None_Match=tag)
    assert check(services["plain"], operation, "public", example)[0] == "304"


def test_too_many_viewers(services: dict[str, Service]) -> None:
    """The metrics are streamed to so many viewers at once."""
    operation, service = read_document("control").find("snapshots"), services["plain"]
    with ExitStack() as stack:
        for _ in range(32):
            viewer = stack.enter_context(service.connect("control", operation.example()))
            assert read_event(viewer).startswith(b"event: about\ndata: {")
            assert read_event(viewer).startswith(b"event: snapshot\ndata: {")
        assert check(service, operation, "control", operation.example())[0] == "503"


def test_too_many(tmp_path: Path) -> None:
    """The demo takes so many requests a second."""
    operations = [read_document("public").find(id) for id in ("playPublish", "playCut")]
    with DaemonProcess(directory=tmp_path) as daemon:
        where = urlsplit(daemon.url)
        own = {"Origin": f"http://{where.netloc}"}
        connection = HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT)
        keys: list[str] = []
        # Over one connection, so that they come faster than the demo takes them.
        while len(keys) < 2000 and keys[-2:] != ["429", "429"]:
            operation = operations[len(keys) % 2]
            example = operation.example(kind="text/plain" if operation.bodies else "")
            headers = {**example.headers, **own}
            connection.request("POST", example.path, example.body, headers)
            response = connection.getresponse()
            kind, body = response.getheader("Content-Type", ""), response.read()
            keys.append(operation.check(response.status, kind, body))
        connection.close()
    assert keys[:2] == ["200", "200"]
    assert keys[-2:] == ["429", "429"]
