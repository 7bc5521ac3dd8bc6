"""The reference of the log's events and of the close codes, compared with the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd.access import closing
from pushd.access.closing import Closing
from pushd.access.memory import KINDS
from pushd.api.centrifuge import codes
from pushd.api.centrifuge.codes import Unsubscription
from pushd.api.operator import admin

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs/reference"

# Fields that a call spreads, by its module and the expression.
SPREAD = {
    ("access/memory.py", "{…}"): {f"{kind}_bytes" for kind in KINDS},
    ("api/centrifuge/procedures.py", "self._fields(request, method)"): {
        *("function", "method", "peer")
    },
    ("gateways/wsgi.py", "self._log_fields()"): {"path", "peer"},
    ("protocols/http/access_log.py", "_facts(request)"): {
        *("connection", "peer", "method", "path", "seconds")
    },
    ("service/process/event_loop.py", "fields"): {"report", "task"},
    ("views/authorizer.py", "fields"): {"authorizer", "peer", "action", "topic"},
    ("views/exchange.py", "self._log_fields()"): {"connection", "view", "path", "peer"},
}

# The levels of calls that are no methods of a logger named after one, and the fields that these
# functions add.
FUNCTIONS = {
    ("protocols/fast_paths.py", "_report"): ({"warn"}, {"path", "lacking"}),
    ("service/lifecycle/reload.py", "log"): ({"info", "warn"}, set[str]()),
}

# Modules whose events are dictionaries for ``emit_info``, and what is added to some of these.
EMITTING = {"access/connections.py", "protocols/http/access_log.py"}
ADDED = {"request": {"reason"}}

# What a failure is logged with.
FAILURE = ({"critical"}, {"traceback"})


@dataclass
class Event:
    """What is said of an event, by all its calls in the source or by its row in the reference."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def find_logged() -> dict[str, Event]:
    """Return the events that pushd logs."""
    events: dict[str, Event] = {}
    package = ROOT / "pushd"
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package).as_posix()
        tree = ast.parse(path.read_text())
        found = [(name, read_call(module, call)) for name, call in find_calls(tree)]
        if module in EMITTING:
            found += find_dictionaries(module, tree)
        for name, (levels, fields) in found:
            event = events.setdefault(name, Event())
            event.levels |= levels
            event.fields |= fields
    return events


def find_dictionaries(
    module: str, tree: ast.AST
) -> Iterator[tuple[str, tuple[set[str], set[str]]]]:
    """Yield the events that are written as dictionaries, with their level and fields."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Dict):
            continue
        fields = {
            key.value: value
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant)
        }
        event = fields.pop("event", None)
        if isinstance(event, ast.Constant):
            name = str(event.value)
            names = {str(field) for field in fields} | ADDED.get(name, set())
            for key, value in zip(node.keys, node.values, strict=True):
                if key is None:
                    names |= SPREAD[module, ast.unparse(value)]
            yield name, ({"info"}, names)


def find_calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls with an event that is a string, and that."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                value = keyword.value
                if keyword.arg == "event" and isinstance(value, ast.Constant):
                    yield str(value.value), node


def read_call(module: str, call: ast.Call) -> tuple[set[str], set[str]]:
    """Return the levels and the fields of a call."""
    function = call.func
    if isinstance(function, ast.Attribute) and ast.unparse(function.value) == "_log":
        known = ({function.attr}, set[str]()) if function.attr != "failure" else FAILURE
    else:
        name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
        known = FUNCTIONS[module, name]
    levels, fields = set(known[0]), set(known[1])
    for keyword in call.keywords:
        if keyword.arg is None:
            spread = keyword.value
            # How a comprehension is written depends on the version of Python.
            text = "{…}" if isinstance(spread, ast.DictComp) else ast.unparse(spread)
            fields |= SPREAD[module, text]
        else:
            fields.add(keyword.arg)
    return levels, fields - {"event", "failure"}


def find_rows(text: str, columns: int) -> list[list[str]]:
    """Return the cells of the rows of all tables with a number of columns."""
    rows = [line.strip("|").split("|") for line in re.findall(r"(?m)^\|.*\|$", text)]
    return [[cell.strip() for cell in row] for row in rows if len(row) == columns]


class EventTests(SynchronousTestCase):
    """docs/reference/log-events.md."""

    def setUp(self) -> None:
        """Read the tables."""
        rows = find_rows((REFERENCE / "log-events.md").read_text(), 5)
        self.rows = {row[0].strip("`"): row for row in rows if re.fullmatch("`[a-z_]+`", row[0])}
        self.events = find_logged()

    def test_events(self) -> None:
        """It has every event, and no other."""
        self.assertGreater(len(self.events), 60)
        self.assertEqual(set(self.rows), set(self.events))

    def test_levels(self) -> None:
        """It has the levels of each."""
        for name, row in self.rows.items():
            self.assertEqual(set(row[1].split(", ")), self.events[name].levels, name)

    def test_fields(self) -> None:
        """It has the fields of each."""
        for name, row in self.rows.items():
            fields = set(re.findall(r"`(\w+)`", row[3]))
            self.assertEqual(fields, self.events[name].fields, name)

    def test_advice(self) -> None:
        """It says of each when it is logged, and what to do."""
        for name, row in self.rows.items():
            self.assertTrue(row[2] and row[4], name)

    def test_calls(self) -> None:
        """Levels and fields are read from a call; a spread that is not known is an error."""
        [(name, call)] = find_calls(ast.parse("_log.warn('{a}', event='x', a=1, b=2)"))
        self.assertEqual((name, read_call("m.py", call)), ("x", ({"warn"}, {"a", "b"})))
        [(_, call)] = find_calls(ast.parse("_log.failure('f', failure=f, event='x')"))
        self.assertEqual(read_call("m.py", call), FAILURE)
        for source in ("_log.info('', event='x', **more)", "log('', event='x')"):
            [(_, call)] = find_calls(ast.parse(source))
            self.assertRaises(KeyError, read_call, "m.py", call)


class CloseCodeTests(SynchronousTestCase):
    """docs/reference/close-codes.md."""

    def setUp(self) -> None:
        """Read the page."""
        self.text = (REFERENCE / "close-codes.md").read_text()
        self.ours = [one for one in vars(closing).values() if isinstance(one, Closing)]

    def section(self, heading: str) -> str:
        """Return what stands below a heading."""
        return self.text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]

    def test_codes(self) -> None:
        """Each code has a row, and no other has."""
        first = self.text.partition("\n## ")[0]
        rows = {int(row[0]) for row in find_rows(first, 3) if row[0].isdecimal()}
        # And those that Autobahn closes with, and those that stand for a missing Close or code.
        self.assertEqual(rows, {one.code for one in self.ours} | {1002, 1005, 1006, 1007})

    def test_reasons(self) -> None:
        """Each reason of pushd's own has a row with its code, and no other has."""
        rows = {
            (int(row[0]), row[1].strip("`"))
            for row in find_rows(self.section("Reasons"), 4)
            if re.fullmatch("`[^`]+`", row[1])
        }
        ours = {(one.code, one.reason) for one in self.ours if one.reason}
        self.assertEqual(rows, ours | {(admin._CODE, admin._REASON)})

    def test_centrifuge(self) -> None:
        """So have those for Centrifuge clients, for connections and for subscriptions."""
        values = [
            *(*vars(codes).values(), *codes.TRANSLATED.values()),
            *(codes.bad_request("…"), codes.invalid_token("…")),
        ]
        ours = {
            (one.code, one.reason)
            for one in values
            if isinstance(one, Unsubscription) or (isinstance(one, Closing) and one.code >= 3000)
        }
        rows = find_rows(self.section("Centrifuge clients"), 3)
        self.assertEqual(
            {(int(row[0]), row[1].strip("`")) for row in rows if row[0].isdecimal()}, ours
        )
