"""Whether a batch script is a translation of another: what its own lines show.

No validator says it: one that knows the target only takes a script without a single directive
for valid, and another manager's directives for comments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fractale.tools.batch_script import BatchScript, Directive, find_manager, header_of, parse
from fractale.tools.dialects import DIALECTS, MARKS, Dialect
from fractale.tools.flux_rules import flux_problems

OTHER_NAMES: Mapping[str, str] = {"sbatch": "slurm", "torque": "pbs", "bsub": "lsf"}

FIGURES: Mapping[str, tuple[str, ...]] = {
    "nodes": ("nodes",),
    "tasks": ("tasks", "tasks_per_node"),
    "cores": ("cores_per_task", "cores_per_node"),
    "gpus": ("gpus_per_task", "gpus_per_node"),
    "seconds": ("seconds",),
}
"""Figure of a whole job → the facts that say it."""

WORDS = ("queue", "job_name", "output", "error", "account", "workdir", "exclusive")
"""Facts that a translation may say otherwise, but may not drop in silence."""

OF_A_MANAGER = re.compile(
    r"\b(srun|sbatch|salloc|sacct|squeue|scontrol|scancel|mpirun|mpiexec\S*|aprun|jsrun|ibrun|prun"
    r"|qsub|qstat|qdel|bsub|bjobs|bkill|lsrun|flux|module|ml)\b"
    r"|\b(SLURM|SBATCH|PBS|LSB|LSF|FLUX)_"
)
"""Commands that a translation may have to change."""

ONE_CORE_A_TASK = ("slurm", "flux", "lsf")
"""Managers that give a task one core where nothing is said of cores."""

MINUTE = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A script, and another one that is said to be its translation.

    Args:
        source: The manager of the original, as `manager_named` gives it; empty if it has none.
        target: The manager that it was translated for.
        no_analogue: What the translator says that the target has nothing for.
    """

    original: str
    script: str
    source: str
    target: str
    no_analogue: Sequence[str] = ()

    def faults(self, *, strict: bool) -> list[str]:
        """What shows that it is none, or a wrong one; empty if nothing does.

        Args:
            strict: Whether options that the target does not know are looked for, too; a
                validator does that better.
        """
        found = [*self._leftovers(), *self._lost_commands()]
        if not self._is_for_target():
            mark = MARKS.get(self.target)
            missing = [f"it has no {mark} line: it is not translated"] if mark else []
            return [*missing, *found] if self.source else found
        try:
            translated = parse(self.script)
        except ValueError as error:
            return [*found, str(error)]
        if strict and self.target == "flux":
            found += flux_problems(translated)
        original = _read(self.original)
        return [*found, *self._differences(original, translated)] if original else found

    def _is_for_target(self) -> bool:
        """Whether a line above the first command is a directive of the target."""
        dialect = DIALECTS.get(self.target)
        header = header_of(self.script.splitlines())
        return dialect is not None and any(dialect.sentinel.match(line) for line in header)

    def _leftovers(self) -> list[str]:
        """Directives of other managers; those that the original's body prints are not meant."""
        others = [d.sentinel for name, d in DIALECTS.items() if name != self.target]
        lines = self.original.splitlines()
        body = set(lines[len(header_of(lines)) :])
        return [
            f"still in it: `{line.strip()}`"
            for line in self.script.splitlines()
            if line not in body and any(mark.match(line) for mark in others)
        ]

    def _lost_commands(self) -> list[str]:
        """Commands of the original that have nothing to do with its manager, and are gone."""
        kept = " ".join(_commands(self.script))
        return [
            f"the command `{command}` is missing; keep all commands as they are, but those that "
            "speak to the manager"
            for command in _commands(self.original)
            if not OF_A_MANAGER.search(command) and command not in kept
        ]

    def _differences(self, original: BatchScript, translated: BatchScript) -> list[str]:
        wanted, given = _figures(original), _figures(translated)
        tasks = given.get("tasks")
        if tasks and tasks == wanted.get("cores") and translated.manager in ONE_CORE_A_TASK:
            given.setdefault("cores", tasks)
        found = [
            f"it asks for {given[name]} {name}, the original for {wanted[name]}"
            for name in wanted
            if name in given and not _same(name, wanted[name], given[name])
        ]
        dropped = [fact for name in wanted if name not in given for fact in FIGURES[name]]
        sayable = {option.fact for option in DIALECTS[translated.manager].options.values()}
        dropped += [fact for fact in WORDS if fact in sayable and fact not in translated.facts]
        return found + [
            f"line {d.line} of the original, {d.text}, is neither translated nor in `no_analogue`"
            for d in original.directives
            if d.fact in dropped and not d.problem and not self._is_mentioned(d)
        ]

    def _is_mentioned(self, directive: Directive) -> bool:
        names = _names_of(directive, DIALECTS[self.source]) if self.source in DIALECTS else []
        return any(re.search(name, said) for name in names for said in self.no_analogue)

    def without_counterpart(self) -> list[str]:
        """Directives of the original that Flux has nothing for, and that nobody mentioned yet."""
        original = _read(self.original)
        if original is None or self.target != "flux":
            return []
        lost = [d for d in original.untranslatable if not self._is_mentioned(d)]
        return [f"{d.text}: {d.problem}" for d in lost]


def _names_of(directive: Directive, dialect: Dialect) -> list[str]:
    """Patterns of the names that an option has."""
    option = directive.option
    short = [f"-{letter}" for letter, name in dialect.short.items() if name == option]
    long = [dialect.flag(option), *([option] if len(option) > 1 else [])]
    return [rf"(?<![\w-]){re.escape(name)}(?![a-z-])" for name in [*long, *short]]


def manager_named(name: str) -> str:
    """A manager's name as fractale writes it: ``slurm`` for ``Slurm 23``; else in small letters."""
    said = name.strip().lower()
    known = {**{each: each for each in DIALECTS}, **OTHER_NAMES}
    return next((own for word, own in known.items() if word in said), said)


def manager_of(script: str) -> str:
    """Whose directives a script has; empty if nobody's.

    Raises:
        ValueError: Those of two managers.
    """
    header = header_of(script.splitlines())
    if not any(d.sentinel.match(line) for d in DIALECTS.values() for line in header):
        return ""
    return find_manager(header)


def _read(script: str) -> BatchScript | None:
    """A script taken apart; None where that can't be done."""
    try:
        return parse(script)
    except ValueError:
        return None


def _commands(script: str) -> list[str]:
    """Its commands, each in one line, with single blanks."""
    lines = script.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and line.lstrip()[0] != "#"]


def _figures(parsed: BatchScript) -> dict[str, int]:
    """What the whole job asks for, as far as it says so."""
    facts = parsed.facts
    nodes, per_node = facts.get("nodes"), facts.get("tasks_per_node")
    tasks = facts.get("tasks") or (per_node and nodes and per_node * nodes)
    if nodes is None and tasks and per_node:
        nodes = math.ceil(tasks / per_node)
    known: dict[str, Any] = {"nodes": nodes, "tasks": tasks, "seconds": facts.get("seconds")}
    for thing in ("cores", "gpus"):
        per_task, on_node = facts.get(f"{thing}_per_task"), facts.get(f"{thing}_per_node")
        known[thing] = (per_task and per_task * (tasks or nodes or 1)) or (
            on_node and on_node * (nodes or 1)
        )
    return {name: value for name, value in known.items() if value}


def _same(name: str, wanted: int, given: int) -> bool:
    """Whether two figures are the same; some managers count whole minutes only."""
    return abs(wanted - given) < MINUTE if name == "seconds" else wanted == given
