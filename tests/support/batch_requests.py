"""Requests of batch jobs as hypothesis draws them, and what a dialect makes of one."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from fractale.schedulers.dialects import read_script
from fractale.schedulers.request import (
    SIZES,
    Array,
    Chunk,
    Dependency,
    DependencyKind,
    Request,
    Span,
)
from fractale.schedulers.script import Dialect, Reading, Script, Written

SIZE_FIELDS = SIZES | {"memory", "memory_per_node", "memory_per_core", "memory_per_gpu", "place"}

WORDS = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=12).filter(
    lambda text: text[0] not in "-." and not text.endswith("-")
)
TEXTS = st.text("ab_-.@: 9#'\"\\,=;&|()<>$%é", min_size=1, max_size=16)
SMALL = st.integers(1, 64)
MEMORY = st.integers(1, 10**6).map(lambda count: count << 20)


def _some(
    each: st.SearchStrategy[Any], most: int = 3, by: Callable[[Any], Any] = repr
) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(each, min_size=1, max_size=most, unique_by=by).map(tuple)


_PATHS = st.lists(WORDS, min_size=1, max_size=3).map("/".join)
_MARKS = st.sampled_from(["", "{{id}}", "{{array_id}}", "{{index}}", "{{name}}", "{{user}}"])
_FILES = st.tuples(_PATHS, _MARKS, st.sampled_from(["", ".out", "/"])).map("".join)
_ODD_FILES = (
    st.lists(
        st.text("ab/_. #'\"%", min_size=1, max_size=5) | st.sampled_from(["{{id}}", "{{name}}"]),
        min_size=1,
        max_size=4,
    )
    .map("".join)
    .map(lambda text: f"d{text}z")
)

_SPANS = st.builds(
    lambda first, more, step: Span(first=first, last=first + more, step=step),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(1, 5),
)
ARRAYS = st.builds(
    lambda spans, most: Array.parse(str(Array(spans=spans, most=most))),
    _some(_SPANS),
    st.none() | SMALL,
)
_KINDS: tuple[DependencyKind, ...] = ("after", "afterany", "afterok", "afternotok", "aftercorr")
_DEPENDENCY = st.builds(
    Dependency, kind=st.sampled_from(_KINDS), jobs=_some(st.integers(1, 10**6).map(str))
) | st.just(Dependency(kind="singleton"))
CHUNKS = st.builds(
    Chunk,
    count=st.integers(1, 8),
    cores=SMALL,
    tasks=st.none() | st.integers(1, 8),
    gpus=st.none() | st.integers(1, 4),
    memory=st.none() | st.integers(1, 512).map(lambda amount: amount << 30),
)


def _with_tasks(chunk: Chunk) -> Chunk:
    """A chunk whose cores are shared out among its tasks evenly."""
    tasks = chunk.tasks or 1
    return replace(chunk, tasks=tasks, cores=tasks * (chunk.cores or 1))


PLACES = st.sampled_from(["free", "pack", "scatter"])

FIELDS: Mapping[str, st.SearchStrategy[Any]] = {
    "name": TEXTS.map(lambda text: f"x{text}x") | WORDS,
    "account": WORDS,
    "queues": _some(WORDS),
    "server": WORDS,
    "qos": WORDS,
    "reservation": WORDS,
    "seconds": st.integers(1, 10**7) | st.just(math.inf),
    "begin": st.sampled_from(["+0", "+3600", "2031-05-06T07:08", "2031-05-06T07:08:09"]),
    "output": _FILES,
    "error": _FILES,
    "input": _FILES,
    "join": st.booleans(),
    "append": st.booleans(),
    "workdir": TEXTS.map(lambda text: f"/{text}x") | WORDS,
    "mail_on": _some(st.sampled_from(["begin", "end", "fail", "requeue"])) | st.just(("none",)),
    "mail_to": _some(WORDS),
    "array": ARRAYS,
    "dependencies": _some(_DEPENDENCY, 2, lambda each: each.kind),
    "components": st.just(("a", "b")),
    "hold": st.booleans(),
    "requeue": st.booleans(),
    "exclusive": st.booleans(),
    "export": st.booleans(),
    "variables": st.sampled_from([("A",), ("A=1", "B=x y"), ("C=1,2",), ("A=it's", "B=1")]),
    "constraint": st.sampled_from(["skylake", "a&b", "a|b", "[x*2]"]),
    "hosts": _some(WORDS) | st.just(("n[1-4]", "m9")),
    "without_hosts": st.just(("n7", "n[8,9]")),
    "licenses": WORDS | st.just("a:2,b"),
    "signal": st.sampled_from(["USR1@60", "TERM@120", "10@5"]),
    "comment": TEXTS.map(lambda text: f"x{text}x"),
    "shell": st.just("/bin/bash"),
    "nodes": SMALL,
    "most_nodes": SMALL,
    "tasks": SMALL,
    "tasks_per_node": SMALL,
    "cores_per_task": SMALL,
    "cores_per_node": SMALL,
    "gpus": SMALL,
    "gpus_per_node": SMALL,
    "gpus_per_task": SMALL,
    "gpu_kind": WORDS,
    "memory": MEMORY,
    "memory_per_node": MEMORY,
    "memory_per_core": MEMORY,
    "memory_per_gpu": MEMORY,
    "chunks": _some(CHUNKS.map(_with_tasks), 2),
    "place": PLACES,
    "other": st.sampled_from([("lscratch:100",), ("software=x", "tmp=1000"), ("gres/tmp=1",)]),
}


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Any request, consistent or not."""
    chosen = draw(st.lists(st.sampled_from(sorted(FIELDS)), unique=True, max_size=8))
    return Request(**{name: draw(FIELDS[name]) for name in chosen})


PLAIN: Mapping[str, st.SearchStrategy[Any]] = {
    **{name: FIELDS[name] for name in FIELDS.keys() - SIZE_FIELDS - {"gpu_kind", "components"}},
    "name": TEXTS,
    "output": _ODD_FILES,
    "error": _ODD_FILES,
    "input": st.just("in.txt"),
    "workdir": TEXTS.map(lambda text: f"/{text}"),
    "comment": TEXTS,
    "mail_on": st.sampled_from([("begin",), ("end", "fail"), ("none",)]),
    "hold": st.just(True),
    "hosts": st.just(("n[1-4]", "m9")),
    "variables": _some(st.builds("{}={}".format, st.sampled_from("ABC"), TEXTS)),
    "other": st.just(("gres/tmp=1",)),
}
"""Values that have one way only to be said, so that they are read back as they are."""


@st.composite
def plain_requests(draw: st.DrawFn) -> Request:
    """Requests without chunks, whose sizes agree with each other."""
    chosen = draw(st.lists(st.sampled_from(sorted(PLAIN)), unique=True, max_size=8))
    fields = {name: draw(PLAIN[name]) for name in chosen}
    sizes = draw(_sizes_that_agree())
    if "hosts" in fields:
        sizes["nodes"] = 5
        sizes.pop("tasks", None)
    return Request(**fields, **sizes)


@st.composite
def requests_with_chunks(draw: st.DrawFn) -> Request:
    """Requests with chunks, alike or not."""
    return Request(chunks=draw(_some(CHUNKS)), place=draw(st.none() | PLACES))


@st.composite
def _sizes_that_agree(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    nodes = draw(st.none() | st.integers(1, 8))
    kind = draw(st.sampled_from(["none", "tasks", "per node"]))
    if nodes is not None:
        found["nodes"] = nodes
    if kind == "tasks":
        found["tasks"] = (nodes or 1) * draw(SMALL)
    elif kind == "per node":
        found["tasks_per_node"] = draw(SMALL)
    if draw(st.booleans()):
        found["cores_per_task"] = draw(SMALL)
    gpus = draw(st.sampled_from(["none", "gpus", "gpus_per_node", "gpus_per_task"]))
    if gpus != "none":
        found[gpus] = draw(st.integers(1, 8)) * (nodes or 1 if gpus == "gpus" else 1)
        if draw(st.booleans()):
            found["gpu_kind"] = "a100"
    memory = draw(st.sampled_from(["none", "memory", "memory_per_node", "memory_per_core"]))
    if memory != "none":
        found[memory] = draw(MEMORY)
    return found


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


@dataclass(frozen=True, slots=True)
class ScriptsOf:
    """Scripts of one scheduler, from their lines or from the options in their directives."""

    dialect: Dialect

    def script(self, *lines: str) -> Script:
        return read_script("\n".join(lines), self.dialect.name)

    def with_options(self, *options: str) -> Script:
        return self.script(*(f"{self.dialect.mark} {option}" for option in options))

    def request(self, *options: str) -> Request:
        """The request of options that the scheduler accepts."""
        found = self.with_options(*options)
        assert found.invalid == ()
        return found.request

    def why_invalid(self, *options: str) -> str:
        """The reasons why the scheduler refuses the options."""
        found = self.with_options(*options)
        assert found.invalid, options
        return " ".join(each.why for each in found.invalid)

    def untold_of(self, *options: str) -> str:
        """The parts of the options that a request cannot express."""
        directives = self.with_options(*options).reading.directives
        return "; ".join(each.untold for each in directives if each.untold)

    def remarks_of(self, *lines: str) -> str:
        return " ".join(map(str, self.script(*lines).reading.remarks))


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
        if name == "error" and (asked.join or "one name" in notes):
            continue
        if name in ("output", "error") and asked.workdir and "have no working directory" in notes:
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
    alone = want.tasks == 1 or len(asked.hosts) == 1 or asked.place == "pack"
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
