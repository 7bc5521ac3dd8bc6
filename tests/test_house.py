"""The house rules, proved from the source: imports, names, docstrings, and what has a test."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel

ROOT = Path(__file__).parent.parent

# The rooms, the lowest first: a module imports from its own room and from rooms before it.
ROOMS = (
    "schedule",
    "access",
    "topics",
    "protocols",
    "views",
    "gateways",
    "api",
    "options",
    "service",
)
# Annexes may import from any room; no room imports from an annex.
ANNEXES = {"aio", "asgi", "client", "django", "testing"}
# Modules beside the rooms. All may import errors; pytest imports pytest_plugin without the daemon.
TOP = {"__init__", "__main__", "errors", "pytest_plugin"}

# Folders between which imports are forbidden, even where the order of the rooms allows them: the
# importing one, the imported one, and subfolders of the first that may. Options read the address of
# a Redis; only the service builds the brokers.
APART = (
    ("protocols.http", "protocols.websocket", frozenset[str]()),
    ("topics", "topics.redis", frozenset({"topics.redis"})),
    ("topics", "topics.state", frozenset({"topics.state"})),
)

# Functions that may import the global reactor: twistd's, and runpushd, which replaces twistd.
REACTOR = {
    ("service.twistd", "makeService"),
    ("django.management.commands.runpushd", "get_reactor"),
}

# Packages in which Autobahn and txaio may be imported.
AUTOBAHN_PACKAGES = ("protocols.websocket", "testing")

# Modules that may use private names of Twisted and Autobahn, and change a reactor.
FAST_PATHS = (
    "service.process.reactor",
    "protocols.twisted_internals",
    "protocols.websocket.protocol",
)

# Names of asyncio's that are documented for event loops and tasks of other kinds, or that anyio
# reads of every task.
ASYNCIO = {
    "_enter_task",
    "_leave_task",
    "_register_task",
    "_unregister_task",
    "_get_running_loop",
    "_set_running_loop",
    "_asyncio_future_blocking",
}

# Module names that say nothing about their contents.
BANNED_NAMES = {"base", "common", "helpers", "manager", "managers", "misc", "util", "utils"}

# Lines of a room's __init__.py, at most.
FACE = 20

# Functions that read the wall clock. A clock that a test can set is passed in instead.
WALL_CLOCKS = {
    *(f"time.{name}" for name in ("time", "monotonic", "perf_counter", "process_time", "sleep")),
    *(f"time.{name}_ns" for name in ("time", "monotonic", "perf_counter", "process_time")),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
}

Sources = Mapping[str, str]


def read_sources() -> dict[str, str]:
    """Return the source of each module of pushd by its dotted name below pushd."""
    return {
        ".".join(path.relative_to(ROOT / "pushd").with_suffix("").parts): path.read_text()
        for path in sorted((ROOT / "pushd").rglob("*.py"))
    }


def room_of(name: str) -> str:
    """Return the room or annex that a dotted module name belongs to, or "" at the top."""
    room, _, module = name.partition(".")
    return room if module else ""


def find_misplaced(modules: Sources) -> list[str]:
    """Find modules that are in no room."""
    return [
        f"pushd/{_path(name)} is in no room: see docs/architecture.md"
        for name in modules
        if room_of(name) not in (*ROOMS, *ANNEXES) and name not in TOP
    ]


def find_upward_imports(modules: Sources) -> list[str]:
    """Find imports from a higher room, from an annex, and circles of imports."""
    rank = {room: number for number, room in enumerate(ROOMS)}
    graph = {name: list(_imported_modules(name, modules)) for name in modules}
    faults = []
    for name, imports in graph.items():
        room = room_of(name)
        for line, imported in imports:
            other = room_of(imported)
            if room not in rank or other == room:
                continue
            if other in ANNEXES or imported == "pytest_plugin":
                faults.append(f"pushd/{_path(name)}:{line} imports {imported}, an annex")
            elif rank.get(other, 0) > rank[room]:
                faults.append(f"pushd/{_path(name)}:{line} imports {imported} from a higher room")
    circles = _circles(_edges(modules, lambda name: name))
    return faults + [f"a circle of imports: {' → '.join(circle)}" for circle in circles]


def find_circles_of_folders(modules: Sources) -> list[str]:
    """Find circles of imports between the folders of a room, and the modules beside them."""
    circles = _circles(_edges(modules, lambda name: ".".join(name.split(".")[:2])))
    return [f"a circle of folders: {' → '.join(circle)}" for circle in circles]


def find_house_imports_of_faces(modules: Sources) -> list[str]:
    """Find imports from a face inside the rooms, where modules are imported by their full names."""
    return [
        f"pushd/{_path(name)}:{line} imports from the face of {imported}: name the module"
        for name in modules
        if room_of(name) in ROOMS and not _is_face(name)
        for line, imported in _imported_modules(name, modules)
        if _is_face(imported) and room_of(imported) in ROOMS
    ]


def find_forbidden_imports(modules: Sources) -> list[str]:
    """Find imports between the folders of APART."""
    return [
        f"pushd/{_path(name)}:{line} imports {imported}, which {source} must not"
        for source, target, allowed in APART
        for name in modules
        if name.startswith(f"{source}.") and not any(name.startswith(f"{one}.") for one in allowed)
        for line, imported in _imported_modules(name, modules)
        if imported.startswith(f"{target}.")
    ]


def find_reactors(modules: Sources) -> list[str]:
    """Find imports of the reactor outside the functions of REACTOR."""
    return [
        f"pushd/{_path(name)}:{line} imports the reactor: take a clock as an argument"
        for name, source in modules.items()
        for line, function, imported in _imports(source)
        if "twisted.internet.reactor" in (imported, imported.rpartition(".")[0])
        and (name, function) not in REACTOR
    ]


def find_untested(modules: Sources, tests: set[str]) -> list[str]:
    """Find modules of a room or annex without a test file of the same name in its folder."""
    return [
        f"pushd/{_path(name)} has no tests/{_test_path(name)}"
        for name in modules
        if "." in name and not _is_face(name) and _test_path(name) not in tests
    ]


def find_bad_names(modules: Sources) -> list[str]:
    """Find modules whose name says nothing about their contents."""
    return [
        f"pushd/{_path(name)}: name it after what it holds"
        for name in modules
        if not BANNED_NAMES.isdisjoint(name.split("."))
    ]


def find_bad_faces(modules: Sources) -> list[str]:
    """Find faces that are too long, or that import something and have no ``__all__``."""
    return [
        f"pushd/{_path(name)}: a face has {FACE} lines at most, and an __all__"
        for name, source in modules.items()
        if _is_face(name)
        and name != "__init__"
        and (source.count("\n") > FACE or ("import" in source and "__all__" not in source))
    ]


def find_autobahn(modules: Sources) -> list[str]:
    """Find modules that import Autobahn outside the packages that may."""
    return [
        f"pushd/{_path(name)}:{line} imports {imported}"
        for name, source in modules.items()
        for line, _, imported in _imports(source)
        if imported.partition(".")[0] in ("autobahn", "txaio")
        and not name.startswith(tuple(f"{package}." for package in AUTOBAHN_PACKAGES))
    ]


def find_wall_clocks(modules: Sources) -> list[str]:
    """Find uses of a clock that a test cannot set.

    The service and the command may pass ``time.time`` on; no module may call it.
    """
    return [
        f"pushd/{_path(name)}:{line} asks {clock}: take a clock as an argument"
        for name, source in modules.items()
        for line, clock, called in _wall_clocks(ast.parse(source))
        if called or name not in ("service.twistd", "__main__")
    ]


def find_stray_loggers(modules: Sources) -> list[str]:
    """Find loggers that are not a module's, or that have another namespace than its room's.

    A logger that is an attribute of a class takes its namespace from that class.
    """
    return [
        f"pushd/{_path(name)}:{node.lineno} wants Logger(namespace='pushd.{room_of(name)}')"
        for name, source in modules.items()
        for tree in [ast.parse(source)]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Logger"
        if not any(isinstance(one, ast.Assign) and one.value is node for one in tree.body)
        or ast.unparse(node) != f"Logger(namespace='pushd.{room_of(name)}')"
    ]


def find_foreign_names(modules: Sources) -> list[str]:
    """Find private names that are not pushd's own, outside the modules of FAST_PATHS.

    The name of an attribute is pushd's own if any of its classes or modules defines it, whatever
    the object is; ``find_inherited_names`` checks ``self`` more closely.
    """
    own = {name for source in modules.values() for name in _defined_names(ast.parse(source))}
    return [
        f"pushd/{_path(name)}:{line} uses {used}: only {', '.join(FAST_PATHS)} may"
        for name, source in modules.items()
        if name not in FAST_PATHS
        for line, used in _used_names(ast.parse(source))
        if _is_private(used) and used not in own and used not in ASYNCIO
    ]


def find_inherited_names(classes: Iterable[type], modules: Sources) -> list[str]:
    """Find private names of a base class of Twisted or Autobahn that a class uses or overrides."""
    faults = []
    for cls in classes:
        name = cls.__module__.removeprefix("pushd.")
        inherited = {
            private: base
            for base in cls.__mro__
            if base.__module__.partition(".")[0] in ("autobahn", "twisted")
            for private in _defined_names(_tree_of(base))
            if _is_private(private)
        }
        if name not in FAST_PATHS and inherited:
            tree = _tree_of(cls)
            used = {used for _, used in _used_names(tree)} | set(_defined_names(tree))
            faults += [
                f"pushd/{_path(name)}: {cls.__name__} uses {one}, which is private to "
                f"{inherited[one].__module__}.{inherited[one].__qualname__}"
                for one in sorted(used & set(inherited))
            ]
    return faults


def find_patches(modules: Sources) -> list[str]:
    """Find assignments to attributes of a reactor outside service/process/reactor."""
    return [
        f"pushd/{_path(name)}:{node.lineno} changes a reactor: only service/process/reactor may"
        for name, source in modules.items()
        if name != "service.process.reactor"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value).endswith("reactor")
    ]


def find_undocumented(modules: Sources) -> list[str]:
    """Find public modules, classes, functions and methods without a docstring.

    Names in camelCase are the framework's, which documents them. Names that start with an
    underscore, and those inside functions, are private.
    """
    return [
        f"pushd/{_path(name)}:{line} {what} has no docstring"
        for name, source in modules.items()
        for line, what in _undocumented(ast.parse(source), name)
    ]


def find_package_markers(paths: list[Path]) -> list[str]:
    """Find files that would make our twisted/ a package, which would hide the real Twisted."""
    return [f"{path} hides Twisted itself" for path in paths if path.name == "__init__.py"]


class RoomTests(SynchronousTestCase):
    """Imports go to the same room or to lower ones."""

    def test_house(self) -> None:
        """No module imports from a higher room or an annex, and no imports form a circle."""
        modules = read_sources()
        self.assertIn("__init__", modules)
        self.assertEqual(find_upward_imports(modules), [])
        self.assertEqual(find_circles_of_folders(modules), [])
        self.assertEqual(find_forbidden_imports(modules), [])
        self.assertEqual(find_house_imports_of_faces(modules), [])

    def test_place(self) -> None:
        """Every module is in a room or an annex, or is one of the few at the top."""
        self.assertEqual(find_misplaced(read_sources()), [])
        modules = {"hub": "", "lobby.hub": "", "topics.hub": "", "client.http": "", "__main__": ""}
        self.assertEqual(len(find_misplaced(modules)), 2)

    def test_up(self) -> None:
        """An import from a higher room is found in each of its forms."""
        for statement in (
            "from pushd.api.urls import build",
            "import pushd.api.urls",
            "import pushd.api.urls as urls",
            "from pushd.api import urls",
            "def f():\n    from pushd.api.urls import build",
            "if TYPE_CHECKING:\n    from pushd.api.urls import build",
        ):
            faults = find_upward_imports({"topics.hub": statement, "api.urls": ""})
            self.assertEqual(len(faults), 1, statement)
            self.assertIn("pushd/topics/hub.py", faults[0])

    def test_down(self) -> None:
        """Imports from lower rooms and from the same room are allowed, and any in an annex."""
        modules = {
            "api.urls": "from pushd.topics.hub import Hub\nfrom pushd.api.resource import refuse",
            "api.resource": "from pushd import __version__",
            "topics.hub": "import json",
            "testing.daemon": "from pushd.api.urls import build",
            "testing.__init__": "from pushd.testing import Daemon",
            "__main__": "from pushd.client.cli import run",
            "client.cli": "",
            "__init__": "",
        }
        self.assertEqual(find_upward_imports(modules), [])

    def test_annex(self) -> None:
        """A room must not import from an annex, in any form."""
        for statement in ("from pushd.testing import Daemon", "from pushd.testing import X"):
            modules = {"service.twistd": statement, "testing.__init__": "", "testing.daemon": ""}
            self.assertEqual(len(find_upward_imports(modules)), 1, statement)

    def test_circle(self) -> None:
        """Two modules of one room must not import each other, nor three in a circle."""
        modules = {
            "topics.history": "from pushd.topics.broker import Broker",
            "topics.broker": "from pushd.topics.hub import Hub",
            "topics.hub": "from pushd.topics.history import History",
        }
        self.assertEqual(
            find_upward_imports(modules),
            ["a circle of imports: topics.broker → topics.hub → topics.history → topics.broker"],
        )
        modules["topics.hub"] = ""
        self.assertEqual(find_upward_imports(modules), [])

    def test_circle_of_folders(self) -> None:
        """Two folders of a room must not import each other, even without a circle of modules."""
        modules = {
            "api.urls": "from pushd.api.operator.admin import TopicListResource",
            "api.publish": "from pushd.api.operator.admin import topic_json",
            "api.operator.admin": "from pushd.api.operator.health import Readiness",
            "api.operator.health": "",
            "api.operator.rules": "from pushd.api.publish import read_topic",
        }
        self.assertEqual(find_upward_imports(modules), [])
        self.assertEqual(
            find_circles_of_folders(modules),
            ["a circle of folders: api.operator → api.publish → api.operator"],
        )
        modules["api.operator.rules"] = ""
        self.assertEqual(find_circles_of_folders(modules), [])

    def test_forbidden(self) -> None:
        """HTTP must not import WebSocket, nor topics Redis."""
        modules = {
            "protocols.http.site": "from pushd.protocols.websocket.frames import frame",
            "protocols.websocket.frames": "from pushd.protocols.http.headers import Headers",
            "protocols.http.headers": "",
            "topics.broker": "from pushd.topics.redis.scripts import TOUCH",
            "topics.redis.scripts": "from pushd.topics.broker import Broker",
            "topics.redis.broker": "from pushd.topics.redis import scripts",
        }
        faults = find_forbidden_imports(modules)
        self.assertEqual(len(faults), 2)
        self.assertIn("pushd/protocols/http/site.py:1", faults[0])
        self.assertIn("pushd/topics/broker.py:1", faults[1])

    def test_faces_are_for_users(self) -> None:
        """Inside the rooms a module is imported by its full name, not from a face."""
        modules = {
            "views.__init__": "from pushd.views.request import Request",
            "views.request": "",
            "api.topics": "from pushd.views import Request",
            "testing.daemon": "from pushd.views import Request",
        }
        self.assertEqual(len(find_house_imports_of_faces(modules)), 1)

    def test_names(self) -> None:
        """No module has a name that could hold anything."""
        self.assertEqual(find_bad_names(read_sources()), [])
        self.assertEqual(len(find_bad_names({"topics.utils": "", "topics.hub": ""})), 1)

    def test_faces(self) -> None:
        """A face is short, and lists in ``__all__`` what is public."""
        self.assertEqual(find_bad_faces(read_sources()), [])
        long = '"""Views."""\n' + "\n" * FACE
        silent = '"""Views."""\nfrom pushd.views.request import Request\n'
        modules = {"views.__init__": long, "api.__init__": silent, "access.__init__": '"""A."""\n'}
        self.assertEqual(len(find_bad_faces(modules)), 2)


class ReactorTests(SynchronousTestCase):
    """Only two functions may import the global reactor."""

    def test_house(self) -> None:
        """No module imports the reactor, except two functions when they are called."""
        self.assertEqual(find_reactors(read_sources()), [])

    def test_found(self) -> None:
        """An import of the reactor is found in each of its forms."""
        for statement in (
            "from twisted.internet import reactor",
            "from twisted.internet import reactor as clock",
            "import twisted.internet.reactor",
            "from twisted.internet.reactor import callLater",
            "def other():\n    from twisted.internet import reactor",
        ):
            self.assertEqual(len(find_reactors({"service.twistd": statement})), 1, statement)
            self.assertEqual(len(find_reactors({"testing.daemon": statement})), 1, statement)

    def test_allowed(self) -> None:
        """It is allowed in service/twistd's makeService, but not in its namesake elsewhere."""
        source = "def makeService(options):\n    from twisted.internet import reactor"
        self.assertEqual(find_reactors({"service.twistd": source}), [])
        self.assertEqual(len(find_reactors({"api.urls": source})), 1)

    def test_import_installs_none(self) -> None:
        """Importing all of pushd installs no reactor: the program that starts it chooses one."""
        script = (
            "import importlib, sys\n"
            "for name in sys.argv[1:]:\n"
            "    importlib.import_module(name)\n"
            "    assert 'twisted.internet.reactor' not in sys.modules, name\n"
        )
        # Django's command needs Django to be set up.
        commands = {name for name in read_sources() if name.startswith("django.")}
        left_out = {"__main__", "__init__", *commands}
        names = [
            f"pushd.{name.removesuffix('.__init__')}"
            for name in read_sources()
            if name not in left_out
        ]
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
    """Use of Autobahn, private names, loggers and clocks."""

    def test_autobahn(self) -> None:
        """Autobahn is imported in two packages only, so that it could be replaced there."""
        self.assertEqual(find_autobahn(read_sources()), [])

    def test_autobahn_found(self) -> None:
        """An import of Autobahn or of txaio elsewhere is found."""
        source = "from autobahn.websocket import types\nimport txaio"
        modules = {"topics.hub": source, "protocols.websocket.factory": source}
        self.assertEqual(len(find_autobahn(modules)), 2)

    def test_private_names(self) -> None:
        """Only three modules rely on private names of Twisted and Autobahn."""
        modules = read_sources()
        self.assertEqual(find_foreign_names(modules), [])
        self.assertEqual(find_inherited_names(_read_classes(modules), modules), [])

    def test_private_names_found(self) -> None:
        """A private name that pushd does not define is found, in each of its forms."""
        for source in (
            "transport._tempDataLen",
            "getattr(transport, '_tempDataLen', 0)",
            "from twisted.internet.tcp import _accept",
            "from twisted.internet._posixserialport import SerialPort",
            "class Hub:\n    def size(self): return self._dataBuffer",
        ):
            self.assertEqual(len(find_foreign_names({"topics.hub": source})), 1, source)
            self.assertEqual(
                find_foreign_names({"protocols.twisted_internals": source}), [], source
            )
        own = {
            "topics.hub": "class Hub:\n    def _tell(self): self._told = True",
            "topics.broker": "hub._tell()\nhub._told\nhub.__class__\nfor _ in (): pass",
        }
        self.assertEqual(find_foreign_names(own), [])

    def test_inherited_names_found(self) -> None:
        """A private name of a base class is found, whether a class reads, sets or overrides it."""

        class Reader(HTTPChannel):
            def size(self) -> object:
                return self._dataBuffer

        class Setter(HTTPChannel):
            def set(self) -> None:
                self._handlingRequest = True

        class Overrider(HTTPChannel):
            def _respondToBadRequestAndDisconnect(self) -> None: ...

        class Honest(HTTPChannel):
            _own = 0

            def read(self) -> object:
                return self._own, self.requests

        classes = (Reader, Setter, Overrider, Honest)
        self.assertEqual(
            [fault.split()[1] for fault in find_inherited_names(classes, {})],
            ["Reader", "Setter", "Overrider"],
        )

    def test_patches(self) -> None:
        """Only service/process/reactor changes a reactor."""
        self.assertEqual(find_patches(read_sources()), [])
        for source in ("reactor.seconds = f", "self._reactor.doIteration = f"):
            self.assertEqual(len(find_patches({"service.twistd": source})), 1, source)
            self.assertEqual(find_patches({"service.process.reactor": source}), [])

    def test_loggers(self) -> None:
        """Each module logs with the namespace of its room, which operators see."""
        self.assertEqual(find_stray_loggers(read_sources()), [])

    def test_stray_loggers(self) -> None:
        """A logger with another namespace is found, and one that is an attribute of a class."""
        for source in (
            '_log = Logger(namespace="pushd.service")',
            "_log = Logger()",
            'class Hub:\n    _log = Logger(namespace="pushd.topics")',
        ):
            self.assertEqual(len(find_stray_loggers({"topics.hub": source})), 1, source)
        good = '_log = Logger(namespace="pushd.topics")'
        self.assertEqual(find_stray_loggers({"topics.redis.broker": good}), [])

    def test_wall_clock(self) -> None:
        """No module reads the wall clock: a test could not set it."""
        self.assertEqual(find_wall_clocks(read_sources()), [])

    def test_wall_clock_found(self) -> None:
        """Every way to read it is found, under any name."""
        for source in (
            "import time\ntime.sleep(1)",
            "import time as t\nt.monotonic()",
            "from time import time as now\nnow()",
            "import time\ndef f(now=time.time): ...",
            "import datetime\ndatetime.datetime.now(UTC)",
            "from datetime import datetime\ndatetime.now(UTC)",
        ):
            self.assertEqual(len(find_wall_clocks({"access.limits": source})), 1, source)

    def test_wall_clock_handed_on(self) -> None:
        """The service may pass it on, and other names are allowed."""
        handed_on = "import time\nLimits(now=time.time)"
        self.assertEqual(find_wall_clocks({"service.twistd": handed_on}), [])
        self.assertEqual(len(find_wall_clocks({"service.twistd": "import time\ntime.time()"})), 1)
        self.assertEqual(
            find_wall_clocks({"topics.hub": "self.now()\nclock.seconds()\ntime = 3"}), []
        )


class ModuleTests(SynchronousTestCase):
    """Each module has tests and docstrings."""

    def test_tests(self) -> None:
        """Every module of a room has a test file in the folder that mirrors the room."""
        tests = {
            str(path.relative_to(ROOT / "tests")) for path in (ROOT / "tests").rglob("test_*.py")
        }
        self.assertEqual(find_untested(read_sources(), tests), [])

    def test_tests_missing(self) -> None:
        """A module without tests is found; faces need none."""
        modules = {"topics.hub": "", "api.urls": "", "api.__init__": "", "__main__": ""}
        self.assertEqual(
            find_untested(modules, {"api/test_urls.py"}),
            ["pushd/topics/hub.py has no tests/topics/test_hub.py"],
        )

    def test_docstrings(self) -> None:
        """Everything that another file may use has a docstring."""
        self.assertEqual(find_undocumented(read_sources()), [])

    def test_docstrings_missing(self) -> None:
        """A public module, class, function or method without a docstring is found."""
        source = (
            "class Hub:\n    def add(self): ...\n    def _sort(self): ...\n"
            "    def onOpen(self): ...\n"
            "async def publish(): ...\ndef _f(): ...\nclass _Node:\n    def add(self): ...\n"
        )
        self.assertEqual(
            find_undocumented({"topics.hub": source}),
            [
                "pushd/topics/hub.py:1 topics.hub has no docstring",
                "pushd/topics/hub.py:1 Hub has no docstring",
                "pushd/topics/hub.py:2 Hub.add has no docstring",
                "pushd/topics/hub.py:5 publish has no docstring",
            ],
        )
        self.assertEqual(find_undocumented({"topics.hub": '"""Subscribers."""'}), [])

    def test_plugin(self) -> None:
        """Our twisted/ holds the plugin and is no package, which would hide Twisted."""
        paths = list((ROOT / "twisted").rglob("*.py"))
        self.assertIn(ROOT / "twisted/plugins/pushd_plugin.py", paths)
        self.assertEqual(find_package_markers(paths), [])
        self.assertEqual(len(find_package_markers([Path("twisted/plugins/__init__.py")])), 1)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name.strip("_") != ""


def _defined_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names of functions, classes, variables, and attributes of self and cls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) in ("self", "cls")
        ):
            yield node.attr


def _used_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of attributes, of names in strings, and of imports from elsewhere.

    Of an import, every part of the module's name counts.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.isidentifier():
                yield node.lineno, node.value
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("pushd"):
            for name in [*(node.module or "").split("."), *(alias.name for alias in node.names)]:
                yield node.lineno, name


def _tree_of(cls: type) -> ast.AST:
    """Return the syntax tree of a class; an empty one if it has no source."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return ast.parse("")


def _read_classes(modules: Sources) -> list[type]:
    """Import the modules, and return the classes that they define."""
    # The command runs on import, and Django's modules need Django to be set up.
    names = [name for name in modules if name != "__main__" and not name.startswith("django.")]
    imported = [
        importlib.import_module(f"pushd.{name}".removesuffix(".__init__")) for name in names
    ]
    return [
        cls
        for module in imported
        for cls in vars(module).values()
        if inspect.isclass(cls) and cls.__module__ == module.__name__
    ]


def _imports(source: str) -> Iterator[tuple[int, str | None, str]]:
    """Yield line, enclosing outermost function and dotted name of every import in a source."""

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


def _imported_modules(name: str, modules: Sources) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of the modules of pushd that a module imports, each once per line.

    A name imported from a package is the module of that name if it exists, else the face.
    """
    seen = set()
    for line, _, imported in _imports(modules[name]):
        package, _, rest = imported.partition(".")
        if package != "pushd" or rest == "__version__":
            continue
        parts = rest.split(".")
        for length in (len(parts), len(parts) - 1):
            dotted = ".".join(parts[:length])
            if dotted in modules or (known := f"{dotted}.__init__") in modules:
                seen.add((line, dotted if dotted in modules else known))
                break
        else:
            seen.add((line, rest))
    yield from sorted(seen)


def _is_face(name: str) -> bool:
    return name.rpartition(".")[2] == "__init__"


def _path(name: str) -> str:
    return f"{name.replace('.', '/')}.py"


def _test_path(name: str) -> str:
    folder, _, module = name.rpartition(".")
    return f"{folder.replace('.', '/')}/test_{module}.py"


def _edges(modules: Sources, part: Callable[[str], str]) -> dict[str, set[str]]:
    """Return what each part of the house imports of others, without the faces.

    :param part: returns the part that a module belongs to.
    """
    edges: dict[str, set[str]] = {}
    for name in modules:
        if not _is_face(name):
            imported = {one for _, one in _imported_modules(name, modules) if not _is_face(one)}
            edges.setdefault(part(name), set()).update({*map(part, imported)} - {part(name)})
    return edges


def _circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the circles in a graph, one for each edge that leads back on a walk through it."""
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
    """Yield line and full name of the clocks that a module names, and whether it calls them."""
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
    """Yield line and name of what is public in a module and has no docstring."""
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
