"""The house rules, proved from the source: what imports what, and what nobody may touch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent

# Imports go down this table, or stay on a storey without going round in a circle.
STOREYS = (
    ("words", {"messages", "identity", "remote", "client"}),
    (
        "clockwork",
        {
            "schedule",
            "steps",
            "beat",
            "deadlines",
            "expiries",
            "limits",
            "frames",
            "traffic",
            "metrics",
            "fields",
            "distributions",
            "lag",
            "steady",
            "sent",
            "verbosity",
        },
    ),
    (
        "topics",
        {
            "history",
            "batch",
            "broker",
            "brokers",
            "redis_url",
            "redis_scripts",
            "redis_patience",
            "redis_topic",
            "redis_connection",
            "redis_greeting",
            "redis_session",
            "redis_link",
            "redis_store",
            "redis_follower",
            "redis_broker",
            "redis_probe",
            "unison",
            "subscription",
            "audience",
            "hub",
            "timed",
            "publisher",
        },
    ),
    (
        "rooms",
        {
            "views",
            "routes",
            "feeds",
            "listener",
            "websocket",
            "threads",
            "gateway",
            "inprocess",
            "django",
            "conversation",
            "ticker",
            "access",
            "keys",
            "tokens",
            "proxies",
            "admission",
            "connections",
            "drain",
            "readiness",
            "visits",
        },
    ),
    (
        "doors",
        {
            "answers",
            "bearer",
            "static",
            "handshake",
            "outbox",
            "turn",
            "outbound",
            "judge",
            "inbound",
            "protocol",
            "factory",
            "lean",
            "deflate",
            "upgrade",
            "wsgi",
            "strict",
            "channel",
            "access_log",
            "arrivals",
            "door",
            "sse",
            "longpoll",
            "topics",
            "async_resource",
            "drafts",
            "topic_list",
            "publish",
            "receipts",
            "schedules",
            "roster",
            "health",
            "readings",
            "meter",
            "playground",
            "guard",
            "request",
            "site",
        },
    ),
    (
        "assembly",
        {
            "garbage",
            "polling",
            "logs",
            "settings",
            "option",
            "option_values",
            "option_table",
            "config",
            "options",
            "systemd",
            "signals",
            "descriptors",
            "reuse_port",
            "listening",
            "daemon",
            "entrances",
            "changes",
            "assembly",
            "reload",
            "service",
            "tables",
            "actions",
            "arguments",
            "command",
        },
    ),
)
# These stand beside the house: they may import anything, and nothing in the house imports them.
KIT = {"testing", "browser", "wire", "lockstep", "loopback", "pytest_plugin"}
BESIDE = {"__init__", "__main__", *KIT}

# The only ones that know which library speaks WebSocket.
SPEAKS_AUTOBAHN = {"factory", "lean", "deflate", "browser"}

# What looks at the clock on the wall; a clock that a test can set is passed in instead.
WALL_CLOCKS = {
    *(f"time.{name}" for name in ("time", "monotonic", "perf_counter", "process_time", "sleep")),
    *(f"time.{name}_ns" for name in ("time", "monotonic", "perf_counter", "process_time")),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
}

Sources = Mapping[str, str]


def read_sources() -> dict[str, str]:
    """Give the source of every module of pushd by the module's name."""
    return {path.stem: path.read_text() for path in sorted((ROOT / "pushd").glob("*.py"))}


def find_strangers(modules: Sources) -> list[str]:
    """Find the modules that have no place in the house."""
    known = BESIDE.union(*(names for _, names in STOREYS))
    return [
        f"pushd/{name}.py is on no storey: add it to STOREYS in tests/test_house.py"
        for name in modules
        if name not in known
    ]


def find_upward_imports(modules: Sources) -> list[str]:
    """Find the imports that go up, sideways out of the house, or round in a circle."""
    storey = {name: level for level, (_, names) in enumerate(STOREYS) for name in names}
    graph = {name: list(_imported_modules(source)) for name, source in modules.items()}
    faults = []
    for name, imports in graph.items():
        for line, imported in imports:
            if imported in BESIDE and not (name in KIT and imported in KIT):
                faults.append(f"pushd/{name}.py:{line} imports {imported}, which is for no module")
            elif name not in BESIDE and storey.get(name, 0) < storey.get(imported, 0):
                faults.append(
                    f"pushd/{name}.py:{line} imports {imported}, which is "
                    f"{storey[imported] - storey.get(name, 0)} up"
                )
    edges = {name: {imported for _, imported in imports} for name, imports in graph.items()}
    return faults + [f"a circle of imports: {' → '.join(circle)}" for circle in _circles(edges)]


def find_reactors(modules: Sources) -> list[str]:
    """Find the imports of the reactor outside of service.makeService."""
    return [
        f"pushd/{name}.py:{line} imports the reactor: take a clock as an argument"
        for name, source in modules.items()
        for line, function, imported in _imports(source)
        if "twisted.internet.reactor" in (imported, imported.rpartition(".")[0])
        and (name, function) != ("service", "makeService")
    ]


def find_untested(modules: Sources, tests: set[str]) -> list[str]:
    """Find the modules without a test file of their own."""
    return [
        f"pushd/{name}.py has no tests/test_{name}.py"
        for name in modules
        if not name.startswith("__") and f"test_{name}" not in tests
    ]


def find_autobahn(modules: Sources) -> list[str]:
    """Find the modules that name Autobahn without being its side of the house."""
    return [
        f"pushd/{name}.py:{line} imports {imported}"
        for name, source in modules.items()
        for line, _, imported in _imports(source)
        if imported.partition(".")[0] in ("autobahn", "txaio") and name not in SPEAKS_AUTOBAHN
    ]


def find_wall_clocks(modules: Sources) -> list[str]:
    """Find what looks at a clock that a test cannot set.

    The assembly, and what starts a command, may hand ``time.time`` to somebody; calling it is for
    nobody.
    """
    return [
        f"pushd/{name}.py:{line} asks {clock}: take a clock as an argument"
        for name, source in modules.items()
        for line, clock, called in _wall_clocks(ast.parse(source))
        if called or name not in ("service", "__main__")
    ]


def find_undocumented(modules: Sources) -> list[str]:
    """Find the public modules, classes, functions and methods that do not say what for.

    A name in camelCase is the framework's, which says what it is for; so is a name that starts
    with an underscore. What stands inside a function is nobody else's.
    """
    return [
        f"pushd/{name}.py:{line} {what} has no docstring"
        for name, source in modules.items()
        for line, what in _undocumented(ast.parse(source), name)
    ]


def find_package_markers(paths: list[Path]) -> list[str]:
    """Find what would make our twisted/ a package, which would hide the real Twisted."""
    return [f"{path} hides Twisted itself" for path in paths if path.name == "__init__.py"]


class StoreyTests(SynchronousTestCase):
    """Imports only go down."""

    def test_house(self) -> None:
        """Every module has its place, and imports nothing from above it."""
        modules = read_sources()
        self.assertIn("messages", modules)
        self.assertEqual(find_strangers(modules), [])
        self.assertEqual(find_upward_imports(modules), [])

    def test_stranger(self) -> None:
        """A module that is not in the table is told to add itself."""
        self.assertEqual(len(find_strangers({"messages": "", "utils": ""})), 1)

    def test_no_module_lives_twice(self) -> None:
        """A module has one place."""
        names = [name for _, names in STOREYS for name in names]
        self.assertEqual(len(names), len({*names} - BESIDE))

    def test_up(self) -> None:
        """An import from above is found in each of its forms, wherever it hides."""
        for statement in (
            "from pushd.site import build",
            "import pushd.site",
            "import pushd.site as doors",
            "from pushd import site",
            "from .site import build",
            "from . import site",
            "def f():\n    from pushd.site import build",
            "if TYPE_CHECKING:\n    from pushd.site import build",
        ):
            faults = find_upward_imports({"hub": statement, "site": ""})
            self.assertEqual(len(faults), 1, statement)
            self.assertIn("pushd/hub.py", faults[0])

    def test_down(self) -> None:
        """What is below, what is beside one on the same storey and the version are free to all."""
        modules = {
            "site": "from pushd.hub import Hub\nfrom pushd.guard import Guard",
            "guard": "from pushd import __version__",
            "hub": "import json",
            "testing": "from pushd.site import build\nfrom pushd.loopback import Loopback",
            "__init__": "from pushd.hub import Hub",
        }
        self.assertEqual(find_upward_imports(modules), [])

    def test_beside(self) -> None:
        """Nothing in the house imports the testing kit, nor what the package itself collects."""
        for statement in ("from pushd.testing import Daemon", "from pushd import Hub"):
            self.assertEqual(len(find_upward_imports({"service": statement})), 1, statement)

    def test_circle(self) -> None:
        """Two modules of one storey cannot both need the other, nor three in a ring."""
        modules = {
            "history": "from pushd.broker import Broker",
            "broker": "from pushd.hub import Hub",
            "hub": "from pushd.history import History",
        }
        self.assertEqual(
            find_upward_imports(modules),
            ["a circle of imports: broker → hub → history → broker"],
        )
        modules["hub"] = ""
        self.assertEqual(find_upward_imports(modules), [])


class ReactorTests(SynchronousTestCase):
    """The reactor is a guest of makeService alone."""

    def test_house(self) -> None:
        """No module imports the reactor, but for makeService when it is called."""
        self.assertEqual(find_reactors(read_sources()), [])

    def test_found(self) -> None:
        """Every way to import it is found."""
        for statement in (
            "from twisted.internet import reactor",
            "from twisted.internet import reactor as clock",
            "import twisted.internet.reactor",
            "from twisted.internet.reactor import callLater",
            "def other():\n    from twisted.internet import reactor",
        ):
            self.assertEqual(len(find_reactors({"service": statement})), 1, statement)
            self.assertEqual(len(find_reactors({"testing": statement})), 1, statement)

    def test_allowed(self) -> None:
        """Inside makeService it is at home; elsewhere a function of that name is not."""
        source = "def makeService(options):\n    from twisted.internet import reactor"
        self.assertEqual(find_reactors({"service": source}), [])
        self.assertEqual(len(find_reactors({"site": source})), 1)

    def test_import_installs_none(self) -> None:
        """Importing all of pushd leaves the choice of the reactor to whoever starts it."""
        script = (
            "import importlib, sys\n"
            "for name in sys.argv[1:]:\n"
            "    importlib.import_module(name)\n"
            "    assert 'twisted.internet.reactor' not in sys.modules, name\n"
        )
        # txredisapi imports it; these four are imported only where Redis is asked for.
        over_redis = {"redis_connection", "redis_greeting", "redis_session", "redis_probe"}
        left_out = {"__main__", "__init__", *over_redis}
        names = [f"pushd.{name}" for name in read_sources() if name not in left_out]
        done = subprocess.run(
            [sys.executable, "-c", script, *names],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)


class LibraryTests(SynchronousTestCase):
    """What a module may lean on."""

    def test_autobahn(self) -> None:
        """Autobahn stays behind its own doors, so that it could be exchanged there."""
        self.assertEqual(find_autobahn(read_sources()), [])

    def test_autobahn_found(self) -> None:
        """An import of Autobahn elsewhere is found, and of what it brings along."""
        source = "from autobahn.websocket import types\nimport txaio"
        self.assertEqual(len(find_autobahn({"hub": source, "factory": source})), 2)

    def test_wall_clock(self) -> None:
        """Nobody looks at the clock on the wall: a test could not set it."""
        self.assertEqual(find_wall_clocks(read_sources()), [])

    def test_wall_clock_found(self) -> None:
        """Every way to look at it is found, under any name."""
        for source in (
            "import time\ntime.sleep(1)",
            "import time as t\nt.monotonic()",
            "from time import time as now\nnow()",
            "import time\ndef f(now=time.time): ...",
            "import datetime\ndatetime.datetime.now(UTC)",
            "from datetime import datetime\ndatetime.now(UTC)",
        ):
            self.assertEqual(len(find_wall_clocks({"limits": source})), 1, source)

    def test_wall_clock_handed_on(self) -> None:
        """The assembly may give it to those who ask for one, and other names are free."""
        self.assertEqual(find_wall_clocks({"service": "import time\nLimits(now=time.time)"}), [])
        self.assertEqual(len(find_wall_clocks({"service": "import time\ntime.time()"})), 1)
        self.assertEqual(find_wall_clocks({"hub": "self.now()\nclock.seconds()\ntime = 3"}), [])


class CompanyTests(SynchronousTestCase):
    """What comes with every module."""

    def test_tests(self) -> None:
        """Every module has a test file of its own."""
        tests = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
        self.assertEqual(find_untested(read_sources(), tests), [])

    def test_tests_missing(self) -> None:
        """A module without one is found; the package's own two files need none."""
        modules = {"hub": "", "site": "", "__init__": "", "__main__": ""}
        self.assertEqual(
            find_untested(modules, {"test_site"}), ["pushd/hub.py has no tests/test_hub.py"]
        )

    def test_docstrings(self) -> None:
        """Everything that another file may use says what it is for."""
        self.assertEqual(find_undocumented(read_sources()), [])

    def test_docstrings_missing(self) -> None:
        """A module, class, function and method without one are found; private ones are free."""
        source = (
            "class Hub:\n    def add(self): ...\n    def _sort(self): ...\n"
            "    def onOpen(self): ...\n"
            "async def publish(): ...\ndef _f(): ...\nclass _Node:\n    def add(self): ...\n"
        )
        self.assertEqual(
            find_undocumented({"hub": source}),
            [
                "pushd/hub.py:1 hub has no docstring",
                "pushd/hub.py:1 Hub has no docstring",
                "pushd/hub.py:2 Hub.add has no docstring",
                "pushd/hub.py:5 publish has no docstring",
            ],
        )
        self.assertEqual(find_undocumented({"hub": '"""Who listens."""'}), [])

    def test_plugin(self) -> None:
        """Our twisted/ holds the plugin and is no package: it must not hide Twisted."""
        paths = list((ROOT / "twisted").rglob("*.py"))
        self.assertIn(ROOT / "twisted/plugins/pushd_plugin.py", paths)
        self.assertEqual(find_package_markers(paths), [])
        self.assertEqual(len(find_package_markers([Path("twisted/plugins/__init__.py")])), 1)


def _imports(source: str) -> Iterator[tuple[int, str | None, str]]:
    """Give line, enclosing outermost function and dotted name of all that a source imports."""

    def walk(node: ast.AST, function: str | None) -> Iterator[tuple[int, str | None, str]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, function, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = f"pushd.{module}".rstrip(".")
            for alias in node.names:
                yield node.lineno, function, f"{module}.{alias.name}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = function or node.name
        for child in ast.iter_child_nodes(node):
            yield from walk(child, function)

    return walk(ast.parse(source), None)


def _imported_modules(source: str) -> Iterator[tuple[int, str]]:
    """Give line and name of the modules of pushd that a source imports, each once a line."""
    seen = set()
    places = BESIDE.union(*(names for _, names in STOREYS))
    for line, _, imported in _imports(source):
        package, _, name = imported.partition(".")
        if package == "pushd" and name != "__version__":
            module = name.partition(".")[0]
            # "from pushd import Hub" needs whatever the package itself collects.
            seen.add((line, module if "." in name or module in places else "__init__"))
    yield from sorted(seen)


def _circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Give the circles of a graph, one for each way back that a walk through it meets."""
    circles: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            circles.append([*path[path.index(name) :], name])
        elif name not in done:
            for imported in sorted(edges.get(name, ())):
                walk(imported, [*path, name])
            done.add(name)

    for name in sorted(edges):
        walk(name, [])
    return circles


def _wall_clocks(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Give line and full name of the clocks that a module names, and whether it calls them."""
    full = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                full[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            name = f"{full.get(first)}.{rest}".rstrip(".")
            if name in WALL_CLOCKS:
                yield node.lineno, name, id(node) in called


def _undocumented(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
    """Give line and name of what is public in a module and has no docstring."""
    if tree.body and ast.get_docstring(tree) is None:
        yield 1, name

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[tuple[int, str]]:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            is_class = isinstance(node, ast.ClassDef)
            if node.name.startswith("_") or not (is_class or node.name.islower()):
                continue
            if ast.get_docstring(node) is None:
                yield node.lineno, prefix + node.name
            if is_class:
                yield from walk(node.body, f"{prefix}{node.name}.")

    yield from walk(tree.body, "")
