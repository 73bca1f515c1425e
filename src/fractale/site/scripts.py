"""Which programs a shell script starts, as far as one sees that without running it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from fractale.schedulers.environment import launchers

SHELL = """
    . : [ [[ ! { } ( alias bg break builtin case cd command continue declare do done echo elif else
    esac eval exit export false fg fi for function getopts hash if jobs kill let local logout printf
    pwd read readonly return select set shift test then times trap true type typeset ulimit umask
    unalias unset until wait while
"""
BUILT_IN = frozenset(SHELL.split())
"""What the shell does itself, or what begins a construct: what follows is not looked at."""

PASSES_ON = frozenset({"exec", "env", "nohup", "time", "command"})
PROVIDES = frozenset({"module", "ml", "spack", "conda", "micromamba", "source", "."})
"""What puts programs on the PATH: after it nothing can be told."""

ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
FIGURE = re.compile(r"\d+|\{\w+\}")
PLAIN = re.compile(r"[\w./+@~-]+")


def programs_of(script: str) -> list[str]:
    """The programs that a script starts by name, in the order in which it names them.

    Args:
        script: Of sh or bash; one of another language has none that can be seen.
    """
    lines = script.replace("\\\n", " ").splitlines()
    if lines and lines[0].startswith("#!") and not re.search(r"\b(ba|da|z|k)?sh\b", lines[0]):
        return []
    found: dict[str, None] = {}
    defined = set(re.findall(r"^\s*(?:function\s+)?(\w+)\s*\(\)", script, re.MULTILINE))
    for words in _commands(lines):
        if words[0] in PROVIDES:
            break
        found.update(dict.fromkeys(_started(words)))
        if "<<" in " ".join(words):
            break
    # What is named by a place in the job's folder may be put there by a step before.
    return [name for name in found if name not in defined and name.find("/") < 1]


def _commands(lines: Sequence[str]) -> Iterator[list[str]]:
    """Each simple command's words; a line that is more than that only as far as it is one."""
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quote that goes over several lines: what follows can't be told
            return
        if words:
            yield words


def _started(words: Sequence[str]) -> Iterator[str]:
    """The program of a command, and the one that it starts in its turn."""
    rest = [*words]
    while rest and (rest[0] in PASSES_ON or ASSIGNMENT.match(rest[0])):
        rest = rest[1:]
    if not rest or rest[0] in BUILT_IN or not PLAIN.fullmatch(rest[0]):
        return
    yield rest[0]
    if Path(rest[0]).name in launchers() and (own := _launched(rest[1:])):
        yield own


def _launched(words: Sequence[str]) -> str:
    """The program after a launcher's options; empty where an option may have a word as value."""
    left = [*words]
    while left and left[0].startswith("-"):
        if "=" not in left[0]:
            if len(left) < 2 or not FIGURE.fullmatch(left[1]):
                return ""
            left = left[1:]
        left = left[1:]
    return left[0] if left and PLAIN.fullmatch(left[0]) else ""
