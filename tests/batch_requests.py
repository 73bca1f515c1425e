"""Requests of batch jobs as hypothesis draws them, and what a dialect makes of one."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from fractale.schedulers.request import (
    SIZES,
    Array,
    Chunk,
    Dependency,
    DependencyKind,
    Request,
    Span,
)
from fractale.schedulers.script import Dialect, Reading, Written

SIZE_FIELDS = SIZES | {"memory", "memory_per_node", "memory_per_core", "memory_per_gpu", "place"}

_words = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=12).filter(
    lambda text: text[0] not in "-." and not text.endswith("-")
)
_texts = st.text(string.ascii_letters + "0123456789_-. #,'\"%$@:;=", min_size=1, max_size=20).map(
    lambda text: f"x{text}x"
)
_paths = st.lists(_words, min_size=1, max_size=3).map("/".join)
_marks = st.sampled_from(["", "", "{{id}}", "{{array_id}}", "{{index}}", "{{name}}", "{{user}}"])
_files = st.tuples(_paths, _marks, st.sampled_from(["", ".out", "/"])).map("".join)
_small = st.integers(1, 12)
_memory = st.integers(1, 4096).map(lambda count: count << 20)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    first = draw(st.integers(0, 20))
    span = Span(first=first, last=first + draw(st.integers(0, 30)), step=draw(st.integers(1, 4)))
    more = draw(st.lists(st.integers(60, 99).map(lambda n: Span(first=n, last=n)), max_size=2))
    return Array(spans=(span, *more), most=draw(st.none() | _small))


_KINDS: tuple[DependencyKind, ...] = ("after", "afterany", "afterok", "afternotok", "aftercorr")


@st.composite
def _dependency(draw: st.DrawFn) -> Dependency:
    jobs = draw(st.lists(st.integers(1, 999).map(str), min_size=1, max_size=2, unique=True))
    return Dependency(kind=draw(st.sampled_from(_KINDS)), jobs=tuple(jobs))


@st.composite
def _chunk(draw: st.DrawFn) -> Chunk:
    tasks = draw(_small)
    return Chunk(
        count=draw(_small),
        cores=tasks * draw(_small),
        tasks=tasks,
        gpus=draw(st.none() | _small),
        memory=draw(st.none() | _memory),
    )


def _several(each: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(each, min_size=1, max_size=2, unique_by=repr).map(tuple)


FIELDS: Mapping[str, st.SearchStrategy[Any]] = {
    "name": _texts | _words,
    "account": _texts | _words,
    "queues": _several(_words),
    "server": _words,
    "qos": _words,
    "reservation": _words,
    "seconds": st.integers(1, 1_000_000) | st.just(math.inf),
    "begin": st.just("2031-02-03T04:05") | st.just("+3600"),
    "output": _files,
    "error": _files,
    "input": _files,
    "join": st.booleans(),
    "append": st.booleans(),
    "workdir": _paths,
    "mail_on": _several(st.sampled_from(["begin", "end", "fail", "requeue"])),
    "mail_to": _several(_words),
    "array": arrays(),
    "dependencies": _several(_dependency()),
    "components": st.just(("a", "b")),
    "hold": st.booleans(),
    "requeue": st.booleans(),
    "exclusive": st.booleans(),
    "export": st.booleans(),
    "variables": st.just(("A",)) | st.just(("A=1", "B=x y")) | st.just(("C=1,2",)),
    "constraint": st.sampled_from(["skylake", "a&b", "a|b", "[x*2]"]),
    "hosts": _several(_words),
    "without_hosts": st.just(("n1",)),
    "licenses": _words,
    "signal": st.sampled_from(["USR1@60", "TERM@90"]),
    "comment": _texts,
    "shell": st.just("/bin/csh"),
    "nodes": _small,
    "most_nodes": _small,
    "tasks": st.integers(1, 60),
    "tasks_per_node": _small,
    "cores_per_task": _small,
    "cores_per_node": _small,
    "gpus": _small,
    "gpus_per_node": _small,
    "gpus_per_task": _small,
    "gpu_kind": _words,
    "memory": _memory,
    "memory_per_node": _memory,
    "memory_per_core": _memory,
    "memory_per_gpu": _memory,
    "chunks": _several(_chunk()),
    "place": st.sampled_from(["free", "pack", "scatter"]),
    "other": st.just(("lscratch:100",)) | st.just(("software=x", "tmp=1000")),
}


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Any request, consistent or not."""
    chosen = draw(st.lists(st.sampled_from(sorted(FIELDS)), unique=True, max_size=8))
    return Request(**{name: draw(FIELDS[name]) for name in chosen})


_options = st.sampled_from(
    [
        *(
            "-l",
            "-lselect=",
            "-lnodes=",
            "-l walltime=",
            "-W depend=",
            "-J",
            "-t",
            "-v",
            "-a",
            "-N",
        ),
        *(
            "-R",
            "-gpu",
            "-n",
            "-w",
            "-b",
            "-env",
            "-M",
            "-o",
            "--attrs",
            "--mode",
            "-j",
            "-m",
            "-q",
        ),
    ]
)
_values = st.text("0123456789:=+,.-[]{}()%/'\"\\ #$abngpumeslct&|!@^", max_size=24) | st.text(
    max_size=8
)


def scripts(mark: str) -> st.SearchStrategy[list[str]]:
    """Lines that look like directives, with anything in them."""
    directive = st.tuples(_options, st.sampled_from(["", " ", "="]), _values).map("".join)
    return st.lists(directive.map(lambda text: f"{mark} {text}") | st.text(max_size=20), max_size=8)


def read_back(dialect: Dialect, written: Written) -> Reading:
    """What the dialect reads in its own lines."""
    return dialect.read([f"{dialect.mark} {line}" for line in written.lines])


def refused(reading: Reading) -> list[str]:
    """Why the scheduler refuses the lines."""
    own = [f"{each.text}: {each.invalid}" for each in reading.directives if each.invalid]
    return own + [str(each) for each in reading.invalid]


def untold(asked: Request, written: Written, found: Request) -> list[str]:
    """Fields that neither the lines nor the losses tell; sizes by what the job asks for in all.

    A note may stand for a difference of sizes, such as that all tasks are put on one node.
    """
    wrong: list[str] = []
    notes = " ".join(written.notes)
    for name, value in asked.said().items():
        if name in SIZE_FIELDS or name in ("most_nodes", "other") or name in written.lost:
            continue
        if name == "append" and not _can_be_there(asked):
            continue
        if name == "join" and ("by mail" in notes or "one name" in notes):
            continue
        if name == "error" and "one name" in notes:
            continue
        if name in ("output", "error") and asked.workdir and "has no folder of a job" in notes:
            value = f"{asked.workdir.rstrip('/')}/{value}" if value[0] not in "/~$" else value
        if _plain(name, value, found) != _plain(name, getattr(found, name), found):
            wrong.append(name)
    if not written.lost.keys() & (SIZE_FIELDS | {"most_nodes"}):
        wrong += _sizes(asked, written, found)
    return wrong


def _can_be_there(asked: Request) -> bool:
    """Whether a file of the job can be there before it: its name does not hold the job's id."""
    names = (asked.output, asked.error)
    return any(name and "id}}" not in name and not name.endswith("/") for name in names)


def _sizes(asked: Request, written: Written, found: Request) -> list[str]:
    want, got = asked.totals(), found.totals()
    notes = " ".join(written.notes)
    wrong = [
        name for name in ("tasks", "cores", "gpus") if getattr(want, name) != getattr(got, name)
    ]
    if "tasks share cores" in notes:
        wrong = [name for name in wrong if name != "cores"]
    if abs(got.memory - want.memory) > want.tasks << 20 and "memory" not in notes:
        wrong.append("memory")
    alone = want.tasks == 1 or len(asked.hosts) == 1
    one = alone and (want.nodes or 1) == (got.nodes or 1)
    if want.nodes != got.nodes and not one and "put " not in notes:
        wrong.append("nodes")
    return wrong


def _plain(name: str, value: Any, found: Request) -> Any:
    """A value without what makes no difference."""
    if isinstance(value, Array):
        return value.indices, value.most
    if name == "mail_on":
        return {each for each in value or () if each != "fail" or "end" not in value} - {"none"}
    if name in ("output", "error", "input") and value is not None:
        value = value if found.name is None else value.replace("{{name}}", found.name)
        value = value.replace("{{array_id}}.{{index}}", "{{id}}")
        return value.replace("{{array_id}}", "{{id}}") if found.array is None else value
    if name in ("exclusive", "hold", "append", "join", "export"):
        return bool(value)  # what is off unless it is said
    if name == "seconds" and value is not None:
        return math.ceil(value / 60)
    if name == "signal" and value is not None:
        signal, _, seconds = value.partition("@")
        return signal, math.ceil(int(seconds) / 60)
    if name == "dependencies":
        return {(each.kind, job) for each in value or () for job in each.jobs}
    return value
