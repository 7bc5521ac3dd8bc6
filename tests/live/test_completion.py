"""``pushdctl completion`` in real shells."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PUSHDCTL = Path(sys.executable).with_name("pushdctl")

# Seconds that a shell may take.
PATIENCE = 60.0

# What is typed, and the words that complete the last one of it.
LINES: tuple[tuple[str, list[str]], ...] = (
    ("pushdctl hea", ["health"]),
    ("pushdctl --js", ["--json"]),
    ("pushdctl publish --con", ["--content-type", "--control"]),
    (
        "pushdctl publish --content-type ",
        ["application/json", "application/octet-stream", "text/plain"],
    ),
    ("pushdctl --control http://h:1 publish --eve", ["--event", "--every"]),
    ("pushdctl check --log-l", ["--log-level"]),
    ("pushdctl publish --event ", []),
    ("pushdctl token --key scr", ["script"]),
)

# Splits a line as readline does by default, and calls what completes it.
BASH = r"""
source ./script
compopt() { :; }
IFS=$' \t' read -ra COMP_WORDS <<< "$1"
[[ $1 != *' ' ]] || COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_pushdctl
printf '%s\n' "${COMPREPLY[@]}"
"""

# Types in an interactive zsh, whose completions are printed instead of inserted.
ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "autoload -Uz compinit; compinit -u -D; source ./script; source ./show; print rea''dy"
zpty -r -m shell seen '*ready*'
zpty -w -n shell "$1"$'\t'
zpty -r -m shell seen '*THE-END*'
print -r -- "$seen"
"""

SHOW = r"""
compadd() {
    # What completers ask for their own use.
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
    local -a found
    builtin compadd -A found "$@"
    for one in $found; do print -r -- "FOUND $one."; done
}
complete-and-show() { zle complete-word; print THE-''END; }
zle -N complete-and-show
bindkey '^I' complete-and-show
"""


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Return the name of a shell, and a folder with the script for it."""
    name: str = request.param
    done = subprocess.run(
        [PUSHDCTL, "completion", name], capture_output=True, timeout=PATIENCE, check=True
    )
    (tmp_path / "script").write_bytes(done.stdout)
    return name, tmp_path


def run(folder: Path, *command: str) -> str:
    """Run a shell in a folder; return what it prints, which must not be an error."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def complete(shell: str, folder: Path, typed: str) -> list[str]:
    """Return the words that complete the last one of a line."""
    if shell == "bash":
        return run(folder, "bash", "--norc", "-euc", BASH, "bash", typed).split()
    if shell == "zsh":
        (folder / "show").write_text(SHOW)
        return re.findall(r"FOUND (\S+)\.", run(folder, "zsh", "-f", "-c", ZSH, "zsh", typed))
    ask = "source script; complete --do-complete $argv[1]"
    lines = run(folder, "fish", "--no-config", "-c", ask, typed).splitlines()
    return [line.partition("\t")[0] for line in lines]


def test_completion(shell: tuple[str, Path]) -> None:
    """The commands and options that begin with what was typed are completed, and files."""
    name, folder = shell
    for typed, words in LINES:
        assert sorted(set(complete(name, folder, typed))) == words, (name, typed)
