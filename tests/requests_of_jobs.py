"""Requests of jobs for property tests of batch scripts."""

from __future__ import annotations

from hypothesis import strategies as st

from fractale.schedulers.request import Array, Chunk, Dependency, Request, Span

WORDS = st.text("abcXYZ019_.-", min_size=1, max_size=8).filter(lambda text: text[0] not in "-.")
TEXTS = st.text("ab 9#'\"\\,=;&|()<>$%é", min_size=1, max_size=10)
SMALL = st.integers(1, 64)
MIB = 2**20
MARKS = ("id", "name")


def _names() -> st.SearchStrategy[str]:
    parts = st.one_of(
        st.text("ab/_. #'\"%", min_size=1, max_size=5),
        st.sampled_from(MARKS).map("{{{{{}}}}}".format),
    )
    return st.lists(parts, min_size=1, max_size=4).map("".join).map(lambda text: f"d{text}z")


def _arrays() -> st.SearchStrategy[Array]:
    spans = st.builds(
        lambda first, more, step: Span(first=first, last=first + more, step=step),
        st.integers(0, 50),
        st.integers(0, 50),
        st.integers(1, 5),
    )
    return st.builds(
        lambda found, most: Array.parse(str(Array(spans=tuple(found), most=most))),
        st.lists(spans, min_size=1, max_size=3),
        st.none() | SMALL,
    )


def _dependencies() -> st.SearchStrategy[tuple[Dependency, ...]]:
    ids = st.integers(1, 10**6).map(str)
    several = st.builds(
        lambda kind, jobs: Dependency(kind=kind, jobs=tuple(jobs)),
        st.sampled_from(["after", "afterany", "afterok", "afternotok", "aftercorr"]),
        st.lists(ids, min_size=1, max_size=3, unique=True),
    )
    return st.lists(
        several | st.just(Dependency(kind="singleton")),
        min_size=1,
        max_size=2,
        unique_by=lambda each: each.kind,
    ).map(tuple)


def _tuples(of: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(of, min_size=1, max_size=3, unique=True).map(tuple)


PLAIN = {
    "name": TEXTS,
    "account": WORDS,
    "queues": _tuples(WORDS),
    "server": WORDS,
    "qos": WORDS,
    "reservation": WORDS,
    "seconds": st.integers(1, 10**7) | st.just(float("inf")),
    "begin": st.sampled_from(["+0", "+3600", "2031-05-06T07:08", "2031-05-06T07:08:09"]),
    "output": _names(),
    "error": _names(),
    "input": st.just("in.txt"),
    "join": st.booleans(),
    "append": st.booleans(),
    "workdir": TEXTS.map(lambda text: f"/{text}"),
    "mail_on": st.sampled_from([("begin",), ("end", "fail"), ("none",)]),
    "mail_to": _tuples(WORDS),
    "array": _arrays(),
    "dependencies": _dependencies(),
    "hold": st.just(True),
    "requeue": st.booleans(),
    "exclusive": st.booleans(),
    "export": st.booleans(),
    "variables": _tuples(st.builds("{}={}".format, st.sampled_from("ABC"), TEXTS)),
    "constraint": st.sampled_from(["intel", "intel&gpu", "a|b"]),
    "hosts": st.just(("n[1-4]", "m9")),
    "without_hosts": st.just(("n7", "n[8,9]")),
    "licenses": st.just("a:2,b"),
    "signal": st.sampled_from(["USR1@60", "TERM@120", "10@5"]),
    "comment": TEXTS,
    "shell": st.just("/bin/csh"),
    "other": st.just(("gres/tmp=1",)),
}


@st.composite
def _sizes(draw: st.DrawFn) -> dict[str, object]:
    """Sizes that agree with each other."""
    found: dict[str, object] = {}
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
        found[memory] = draw(st.integers(1, 10**6)) * MIB
    return found


@st.composite
def plain_requests(draw: st.DrawFn) -> Request:
    """Requests without chunks."""
    names = draw(st.lists(st.sampled_from(sorted(PLAIN)), max_size=8, unique=True))
    fields = {name: draw(PLAIN[name]) for name in names}
    sizes = draw(_sizes())
    if "hosts" in fields:
        sizes["nodes"] = 5
        sizes.pop("tasks", None)
    return Request(**fields, **sizes)  # type: ignore[arg-type]


@st.composite
def requests_with_chunks(draw: st.DrawFn) -> Request:
    """Requests with chunks, alike or not."""
    chunk = st.builds(
        Chunk,
        count=st.integers(1, 8),
        cores=st.integers(1, 64),
        tasks=st.none() | st.integers(1, 8),
        gpus=st.none() | st.integers(1, 4),
        memory=st.none() | st.integers(1, 512).map(lambda amount: amount * 2**30),
    )
    chunks = draw(st.lists(chunk, min_size=1, max_size=3))
    place = draw(st.sampled_from([None, "free", "pack", "scatter"]))
    return Request(chunks=tuple(chunks), place=place)
