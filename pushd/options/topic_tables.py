"""The tables ``[[topic]]`` of a configuration file, each of which is a rule for topics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from pushd.access.tokens import check_pattern, covers
from pushd.options.conflicts import has_authorizer
from pushd.options.option import Option, Values
from pushd.options.parsers import number, one_of, parse_switch
from pushd.options.sizes import Size, write_size
from pushd.options.sources import TABLE, closest
from pushd.topics.rules import Rule

_GROUP = "Rules for topics"
_ACCESS = ("anyone", "token", "authorize", "nobody")

#: The keys of a table, in the order in which they are listed. Their names with an underscore are
#: those of the attributes of ``Rule``; their defaults are those of a daemon without options.
KEYS = (
    Option(
        _GROUP,
        "match",
        "PATTERN",
        check_pattern,
        "Pattern of the topics that the rule is for: * stands for one segment, and ** at the end "
        "for all the rest. The first rule that matches a topic holds for it.",
        default="",
    ),
    Option(
        _GROUP,
        "history-size",
        "N",
        number(0, 1_000_000),
        "Maximum number of publications kept per topic, in place of --history-size.",
        default="100",
    ),
    Option(
        _GROUP,
        "history-ttl",
        "SECONDS",
        number(1, 604_800),
        "Time for which a publication is kept, in place of --history-ttl.",
        default="300",
    ),
    Option(
        _GROUP,
        "subscribe",
        "ACCESS",
        one_of(*_ACCESS),
        "Requirement for subscribing: anyone, token, authorize or nobody.",
        default="anyone",
    ),
    Option(
        _GROUP,
        "publish",
        "ACCESS",
        one_of(*_ACCESS),
        "Requirement for publishing at the public port: anyone, token, authorize or nobody.",
        default="nobody",
    ),
    Option(
        _GROUP,
        "presence",
        "BOOLEAN",
        parse_switch,
        "Whether subscribers and the control port can see who subscribes.",
        default="off",
    ),
    Option(
        _GROUP,
        "latest",
        "BOOLEAN",
        parse_switch,
        "Whether a slow subscriber, and one that resumes, gets only the newest publication.",
        default="off",
    ),
    Option(
        _GROUP,
        "max-message",
        "SIZE",
        Size(1, 1 << 30),
        "Maximum size of a publication; at most --max-message.",
        default="1MiB",
    ),
    Option(
        _GROUP,
        "retain",
        "BOOLEAN",
        parse_switch,
        "Whether the newest publication is kept without a time limit, and sent first to new "
        "subscribers.",
        default="off",
    ),
)

_BY_NAME = {key.name: key for key in KEYS}

_EXAMPLE = f"""\

## {_GROUP}: as many tables as needed, after all options; see docs/topic-rules.md

# [[topic]]
# match = "chat/**"
"""


def read_rules(
    file: str | None, tables: object, options: Collection[str]
) -> tuple[list[Rule], list[str]]:
    """Return the rules in a configuration file, and one line for each mistake in them.

    :param tables: what the file has under the name ``topic``; None for nothing.
    :param options: the names of the daemon's options, which may have got into a table.
    """
    if tables is None:
        return [], []
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        return [], [f"{file}: {TABLE}: must be tables, each under a line [[{TABLE}]]"]
    rules, mistakes = [], []
    for place, table in enumerate(tables, 1):
        values, wrong = _read_table(table, options)
        mistakes += [f"{_where(file, place)}: {one}" for one in wrong]
        if not wrong:
            rules.append(Rule(**values))
    return rules, mistakes


def find_rule_conflicts(file: str | None, rules: Sequence[Rule], values: Values) -> Iterator[str]:
    """Return one line for each rule that cannot work, or that is never used.

    :param values: the values of all options.
    """
    for place, rule in enumerate(rules, 1):
        for reason in _find_conflicts(rules[: place - 1], rule, values):
            yield f"{_where(file, place)}: {reason}"


def write_rules(file: str | None, rules: Iterable[Rule]) -> list[str]:
    """Return the lines of the tables for some rules, with their source as a comment."""
    lines = []
    for place, rule in enumerate(rules, 1):
        lines += ["", f"[[{TABLE}]]  # {_where(file, place)}", *_write_rule(rule)]
    return lines


def show_rules(rules: Iterable[Rule]) -> str:
    """Return rules on one line, for the log."""
    return ", ".join(f"{{{', '.join(_write_rule(rule))}}}" for rule in rules)


def write_example() -> str:
    """Return a table as a comment, with the description and the default of each key."""
    lines = [f"# {key.name} = {key.write(key.default)}  # {key.help}" for key in KEYS[1:]]
    return _EXAMPLE + "".join(f"{line}\n" for line in lines)


def _where(file: str | None, place: int) -> str:
    return f"{file}: {TABLE} {place}"


def _read_table(table: dict[str, Any], options: Collection[str]) -> tuple[Values, list[str]]:
    values, mistakes = {}, []
    for name, value in table.items():
        key = _BY_NAME.get(name)
        if key is None:
            mistakes.append(_unknown(name, options))
            continue
        try:
            values[name.replace("-", "_")] = key.parse(key.read(value))
        except (TypeError, ValueError) as error:
            mistakes.append(f"{name} {key.show_value(value)}: {error}")
    if "match" not in table:
        mistakes.append('match is missing: a rule needs a pattern, such as match = "chat/**"')
    return values, mistakes


def _unknown(name: str, options: Collection[str]) -> str:
    if name in options:
        return f"{name} is an option, not part of a rule: move it above the first [[{TABLE}]]"
    guess = closest(name, _BY_NAME)
    return f"unknown key {name}" + (f": did you mean {guess}?" if guess else "")


def _find_conflicts(before: Sequence[Rule], rule: Rule, values: Values) -> Iterator[str]:
    for place, other in enumerate(before, 1):
        if covers(str(other.match), str(rule.match)):
            yield f'match "{rule.match}": never used, as {TABLE} {place} matches the same topics'
            break
    size = values["history-size"] if rule.history_size is None else rule.history_size
    for name in ("retain", "latest"):
        if getattr(rule, name) and not size:
            yield f"{name}: needs a history-size of 1 or more"
    limit = values["max-message"]
    if rule.max_message is not None and rule.max_message > limit:
        yield (
            f"max-message {write_size(rule.max_message)}: must be at most --max-message, "
            f"which is {write_size(limit)}"
        )
    for name in ("subscribe", "publish"):
        needed = getattr(rule, name)
        if needed == "token" and not (values["token-key"] or values["centrifuge-secret"]):
            yield f'{name} "token": needs --token-key'
        elif needed == "authorize" and not has_authorizer(values):
            yield f'{name} "authorize": needs --authorize'


def _write_rule(rule: Rule) -> list[str]:
    """Return the keys and values of a rule that are not the daemon's defaults."""
    values = {key: getattr(rule, key.name.replace("-", "_")) for key in KEYS}
    return [
        f"{key.name} = {key.write(_as_text(key, value))}"
        for key, value in values.items()
        if value is not None and value is not False
    ]


def _as_text(key: Option, value: Any) -> str:
    if value is True:
        return "on"
    return write_size(value) if key.is_size else str(value)
