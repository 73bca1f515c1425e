"""A site, and the doctor's report, as text for the user."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import IO, TYPE_CHECKING, Any, cast

from fractale.findings import Finding, State
from fractale.render.text import (
    ELLIPSIS,
    Line,
    Mark,
    cells,
    count,
    fold,
    inert,
    pad,
    row,
    seconds,
)
from fractale.site.model import MARKS, Check, Site, Verdict
from fractale.site.probes.folders import size

if TYPE_CHECKING:
    from fractale.site.doctor import Report

WIDTH, LEAST_WIDTH = 96, 50
MOST_ROWS = 30
MOST_NAMES = 6
WIDEST = 32
"""The most columns of the names before the findings; a longer name gets a separate line."""
TITLES = {"gpus": "GPUs", "file_systems": "file systems"}
STATES: Mapping[State, tuple[str, Mark]] = {
    "works": ("✓", "good"),
    "broken": ("✗", "bad"),
    "absent": ("–", "dim"),  # noqa: RUF001 - the mark of what did not happen, as in runs
}
VERDICTS: Mapping[Verdict, Mark] = {"ok": "good", "missing": "bad", "warning": "warn"}


def columns_of(stream: IO[str]) -> int:
    """The columns of a terminal; `WIDTH` for a pipe or a file."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or WIDTH
    except (OSError, ValueError):
        return WIDTH


def room(columns: int) -> int:
    """The most columns of a line on a screen of this width."""
    return max(LEAST_WIDTH, min(WIDTH, columns))


# A site


def site_lines(site: Site, only: str | None = None, width: int = WIDTH) -> list[Line]:
    """The findings of each section, with its absent things on one line.

    Args:
        only: The section to show; None: all sections.
        width: Columns of the screen.
    """
    lines = _head(site)
    for section, findings in site.sections.items():
        if section == "machine" or (only and section != only):
            continue
        lines += [[], row(TITLES.get(section, section))]
        lines += list(
            _folders(findings) if section == "file_systems" else _things(findings, room(width))
        )
    return lines


def _head(site: Site) -> list[Line]:
    known = site.machine.details
    cores = known.get("cores_usable")
    parts = [
        inert(str(known.get("system", "")), 60),
        inert(str(known.get("processor", "")), 60),
        f"{cores} cores" + (f" of {known['cores']}" if known.get("cores") != cores else ""),
        f"{_memory(known.get('memory_mb'))} memory",
    ]
    if "memory_limit_mb" in known:
        parts.append(f"{_memory(known['memory_limit_mb'])} of it usable")
    if "inside_job" in known:
        parts.append(f"inside {inert(str(known['inside_job']), 60)}")
    age = max(0.0, time.time() - site.looked)
    when = (
        f"checked {seconds(age)} ago; --refresh checks again"
        if site.cached
        else (f"checked now, in {seconds(site.seconds)}")
    )
    words = " · ".join(part for part in parts if part)
    return [[(inert(site.host, 60), ""), (f"   {when}", "dim")], row(f"  {words}")]


def _things(findings: Sequence[Finding], screen: int) -> Iterator[Line]:
    there = [finding for finding in findings if finding.state != "absent"]
    width = max((cells(_title(finding)) for finding in there), default=0)
    for finding in there:
        yield from _thing(finding, width, screen)
    absent = [inert(finding.name, 40) for finding in findings if finding.state == "absent"]
    if absent:
        mark, color = STATES["absent"]
        yield [(f" {mark} ", color), (f"not found: {', '.join(absent)}", "dim")]


def _title(finding: Finding) -> str:
    return inert(f"{finding.name} {finding.version}".strip(), 40)


def _thing(finding: Finding, width: int, screen: int) -> Iterator[Line]:
    mark, color = STATES[finding.state]
    lead = f" {mark} "
    words = inert(finding.problem, 1000) or ", ".join(_facts(finding))
    folded = fold(words, screen - 5 - width) or [""]
    yield [(lead, color), (pad(_title(finding), width), ""), (f"  {folded[0]}", "")]
    for more in folded[1:]:
        yield row(" " * (5 + width) + more)
    yield from _tables(finding)


def _facts(finding: Finding) -> Iterator[str]:
    """Short texts about a finding, the evidence first."""
    if finding.evidence:
        yield finding.evidence
    known = finding.details
    for key, words in (
        ("kind", "{}"),
        ("engine", "engine {}"),
        ("server", "server {}"),
        ("context", "context {}"),
        ("cluster", "cluster {}"),
        ("storage", "{} storage"),
        ("compiler", "{}"),
        ("note", "{}"),
        ("inside_job", "inside job {}"),
    ):
        if known.get(key):
            yield words.format(inert(str(known[key]), 100))
    if "count" in known:
        found = cast("list[Any]", known.get("available") or known.get("installed") or [])
        names = [inert(str(name), 40) for name in found[:MOST_NAMES]]
        more = [ELLIPSIS] if known["count"] > len(names) else []
        shown = ", ".join([*names, *more])
        yield f"{known['count']} there" + (f": {shown}" if names else "")


def _tables(finding: Finding) -> Iterator[Line]:
    """Small tables of queues, nodes and GPUs, to show below a finding."""
    for gpu in _rows(finding, "gpus"):
        yield row(f"     {inert(str(gpu.get('name')), 60)}  {_memory(gpu.get('memory_mb'))}")
    queues = [_queue(queue) for queue in _rows(finding, "queues")]
    yield from _table(["queue", "state", "time limit", "nodes", "per node", "GPUs"], queues)
    nodes = [_nodes(group) for group in _rows(finding, "nodes")]
    yield from _table(["nodes", "state", "", "how many", "per node", "GPUs"], nodes)


def _rows(finding: Finding, key: str) -> list[dict[str, Any]]:
    found = finding.details.get(key)
    return cast("list[dict[str, Any]]", found) if isinstance(found, list) else []


def _queue(queue: Mapping[str, Any]) -> list[str]:
    total, idle = queue.get("nodes"), queue.get("nodes_idle")
    nodes = str(total) if total is not None else str(queue.get("nodes_per_job") or "")
    name = f"{queue.get('name') or '(unnamed)'}{' *' if queue.get('default') else ''}"
    return [
        inert(name, 40),
        inert(str(queue.get("state") or ""), 20),
        _limit(queue.get("time_limit")),
        f"{nodes}, {idle} idle" if idle is not None else nodes,
        _per_node(queue),
        _gpus(queue.get("gpus_per_node")),
    ]


def _nodes(group: Mapping[str, Any]) -> list[str]:
    size = _per_node(group) or (f"{group['cores']} cores in all" if group.get("cores") else "")
    gpus = _gpus(group.get("gpus_per_node")) or (str(group.get("gpus") or ""))
    return [
        inert(str(group.get("names") or ""), 40),
        inert(str(group.get("state") or ""), 20),
        "",
        str(group.get("count") or ""),
        size,
        gpus,
    ]


def _limit(value: Any) -> str:
    """A walltime in the largest unit that is exact: ``2 d``, ``36 h``, ``90 min``."""
    if not isinstance(value, int) or value <= 0:
        return "none"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if value % length == 0:
            return f"{value // length} {unit}"
    return f"{value} s"


def _per_node(table: Mapping[str, Any]) -> str:
    cores, memory = table.get("cores_per_node"), table.get("memory_per_node_mb")
    parts = [f"{cores} cores" if cores else "", _memory(memory) if memory else ""]
    return ", ".join(part for part in parts if part)


def _gpus(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    kinds = cast("dict[str, Any]", value).items()
    return ", ".join(f"{number} {inert(str(kind), 30)}" for kind, number in kinds)


def _memory(value: Any) -> str:
    return f"{value / 1024:.0f} GB" if isinstance(value, int) and value >= 1024 else f"{value} MB"


def _table(head: list[str], rows: Sequence[list[str]]) -> Iterator[Line]:
    if not rows:
        return
    shown = [head, *rows[:MOST_ROWS]]
    used = [index for index in range(len(head)) if any(line[index] for line in shown[1:])]
    widths = {index: max(cells(line[index]) for line in shown) for index in used}
    for number, line in enumerate(shown):
        words = "  ".join(pad(line[index], widths[index]) for index in used)
        yield row(f"     {words}".rstrip(), "dim" if number == 0 else "")
    if len(rows) > MOST_ROWS:
        yield row(f"     and {len(rows) - MOST_ROWS} more (--json has all)", "dim")


def _folders(findings: Sequence[Finding]) -> Iterator[Line]:
    for finding in findings:
        mark, color = STATES[finding.state]
        if finding.state != "works":
            yield [(f" {mark} ", color), (f"{inert(finding.name)}  {inert(finding.path)}", "")]
            yield row(f"     {inert(finding.problem, 500)}")
            continue
        known = finding.details
        free, total = known.get("free_bytes"), known.get("total_bytes")
        notes = [
            inert(str(known.get("file_system")), 20),
            "network" if known.get("network") else "",
            f"{size(free or 0)} free of {size(total or 0)}",
            "" if known.get("writable") else "not writable",
            "" if known.get("exists") else "not created yet",
            f"runs are {known.get('runs')}",
        ]
        yield [(f" {mark} ", color), (f"{inert(finding.name)}  {inert(finding.path)}", "")]
        yield row(f"     {', '.join(note for note in notes if note)}", "dim")


# The doctor


def report_lines(report: Report, width: int = WIDTH) -> list[Line]:
    """Every check with its mark, section by section, and the result at the end."""
    lines: list[Line] = []
    for section, checks in groupby(report.checks, key=lambda check: check.section):
        lines.append(row(section))
        group = list(checks)
        widths = [cells(inert(check.what, 60)) for check in group]
        widest = min(WIDEST, room(width) // 3)
        names = max((each for each in widths if each <= widest), default=widest)
        for check in group:
            lines += list(_check(check, names, room(width)))
        lines.append([])
    return [*lines, *_outcome(report)]


def _check(check: Check, width: int, screen: int) -> Iterator[Line]:
    what = inert(check.what, 60)
    head: Line = [(f" {MARKS[check.verdict]} ", VERDICTS[check.verdict]), (pad(what, width), "")]
    indent = 5 + width
    folded = fold(inert(check.found, 1000), screen - indent)
    if cells(what) > width:
        yield head
    else:
        yield [*head, (f"  {folded[0] if folded else ''}", "")]
        folded = folded[1:]
    for words in folded:
        yield row(" " * indent + words)
    if check.verdict == "ok":
        return
    if check.needed_by:
        words = f"needed by {', '.join(inert(each, 100) for each in _some(check.needed_by))}"
        for line in fold(words, screen - indent):
            yield row(" " * indent + line, "dim")
    if check.fix:
        first, *rest = fold(inert(check.fix, 1000), screen - indent - 2)
        yield [(" " * indent, ""), ("→ ", "now"), (first, "")]
        for line in rest:
            yield row(" " * (indent + 2) + line)


def _some(names: Sequence[str]) -> list[str]:
    if len(names) <= 5:
        return list(names)
    return [*names[:4], f"{len(names) - 4} more"]


def _outcome(report: Report) -> list[Line]:
    lines = [row("all requirements are met", "good")]
    if report.missing:
        lines = [row(f"{count(report.missing, 'requirement')} missing", "bad")]
    if report.warnings:
        what = f"{count(report.warnings, 'optional item')} not found"
        lines.append(row(what, "warn"))
    return lines
