"""The resources of PBS: chunks, nodes and limits of `qsub -l`, read and written.

Sources: pbs_resources(7B) of OpenPBS 23 and PBS Professional. For resources that only Torque and
Moab have (`nodes=2:ppn=8:gpus=1`, `procs`, `feature`, …): Torque's "Requesting resources".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from fractale.schedulers.pbs.times import read_time
from fractale.schedulers.reading import Draft, Gathered, amount, contradictions, even, slip, whole
from fractale.schedulers.request import ALL_MEMORY, MEMORY, SIZES, Chunk, Place, Request

_SIZES: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_GPU_KINDS: Final = ("accelerator_model", "gpu_model", "gpu_type", "gputype", "gpu_kind", "gtype")
_GPU_MODES: Final = frozenset(
    {"shared", "default", "exclusive", "exclusive_thread", "exclusive_process", "reseterr"}
)
_TRUE: Final = frozenset({"true", "t", "yes", "y", "1", "on"})

_HOST_LEVEL: Final = frozenset(
    {
        *("ncpus", "mem", "vmem", "arch", "host", "vnode", "vntype", "mpiprocs", "ompthreads"),
        *("naccelerators", "accelerator", "accelerator_model", "accelerator_memory", "nchunk"),
        *("aoe", "eoe", "hbmem"),
    }
)
"""Resources that PBS refuses beside a `select` (ATR_DFLAG_CVTSLT in master_resc_def_all.xml)."""

_KNOWN: Final = _HOST_LEVEL | {
    *("select", "place", "nodes", "walltime", "cput", "pcput", "pmem", "pvmem", "file", "nice"),
    *("software", "site", "min_walltime", "max_walltime", "soft_walltime", "preempt_targets"),
    *("partition", "ngpus", "pcmem", "pstate", "pgov", "energy"),
    # of Torque and Moab
    *("procs", "gpus", "feature", "features", "qos", "gres", "depend", "signal", "advres", "size"),
    *("naccesspolicy", "naccessmethod", "nodeset", "opsys", "other", "prologue", "epilogue", "tpn"),
    *("mppwidth", "mppnppn", "mppdepth", "mppmem", "mpplabels", "mppnodes", "template", "trl"),
    *("cpus", "ppn", "mics", "disk", "ddisk", "dmem", "swap", "var", "flags", "nodesetisoptional"),
    *("nodeaccesspolicy", "resfailpolicy", "allocationpolicy", "taskdistpolicy", "pvmem", "core"),
    # of sites with many users
    *("filesystems", "jobfs", "storage", "scratch_local", "gpu_type", "gpu_mem", "cluster"),
    # of NEC NQSV, whose scripts also have the mark of PBS
    *("elapstim_req", "cpunum_job", "gpunum_job", "memsz_job", "cputim_job", "vmemsz_job"),
}


_OF_NODES: Final = frozenset(
    {
        *("procs", "mppwidth", "size", "mppnppn", "tpn", "ppn", "mppdepth", "mppmem", "pmem"),
        *("gpunum_job", "memsz_job", "cpunum_job", "cpus"),
    }
)
"""Sizes of the old syntax; chunks have other names for them."""


def read_size(text: str) -> int:
    """An amount of memory, ``4gb`` or ``512mb``, in bytes; a bare number is in bytes.

    Raises:
        ValueError: The text is not an amount of memory.
    """
    match = re.fullmatch(r"([0-9]{1,18})(?:([kmgtp])?([bw])?)", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"`{text}` is not an amount of memory such as 4gb or 512mb")
    count = int(match[1]) << _SIZES[(match[2] or "").lower()]
    return count * 8 if (match[3] or "").lower() == "w" else count


def write_size(count: int) -> str:
    """Bytes in the largest PBS unit that gives a whole number."""
    return amount(count, (("gb", 1 << 30), ("mb", 1 << 20), ("kb", 1 << 10), ("b", 1)))


@dataclass(slots=True)
class _Part:
    """A part of `select` or `nodes`, and the resources in it that no field represents."""

    chunk: Chunk
    hosts: tuple[str, ...] = ()
    gpu_kind: str | None = None
    properties: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()


def split_resources(value: str) -> list[tuple[str, str | None]]:
    """Name and value of each resource of a `-l`; a comma in quotes does not end a value.

    Raises:
        ValueError: A name is missing.
    """
    found: list[tuple[str, str | None]] = []
    for item in _split(value, ","):
        name, equals, amount_ = item.strip().partition("=")
        if not name.strip():
            raise ValueError("a resource has no name")
        found.append((name.strip(), amount_.strip().strip("\"'") if equals else None))
    return found


def _split(text: str, separator: str) -> list[str]:
    if "'" not in text and '"' not in text:
        return text.split(separator)
    parts, quote, start = [], "", 0
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter == separator:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


class Resources:
    """The resources of a script: collected from its lines and settled at the end."""

    def __init__(self, gathered: Gathered) -> None:
        self._gathered = gathered
        self._given: dict[str, Draft] = {}

    def add(self, line: int, value: str) -> None:
        """Add one `-l`.

        If a resource is repeated, OpenPBS uses the first amount (set_resources of Libcmds), and
        Torque the last.

        Raises:
            ValueError: A resource has no name.
        """
        for name, amount_ in split_resources(value):
            text = f"-l {name}" if amount_ is None else f"-l {name}={amount_}"
            draft = self._gathered.draft(line, name, amount_ or "", text)
            first = self._given.setdefault(name.lower(), draft)
            if first is not draft:
                self._gathered.again(draft, first)
                if first.value != draft.value:
                    draft.untold.append(f"line {first.line} has it already")
                    why = f"line {first.line} counts for OpenPBS, this one for Torque"
                    self._gathered.remark(draft, why)

    def settle(self) -> None:
        """Set the fields that all resources together ask for."""
        rest = dict(self._given)
        sized = {name: rest.pop(name) for name in ("select", "nodes", "place") if name in rest}
        parts: list[_Part] = []
        for name in ("select", "nodes"):
            if name in sized:
                reader = _select if name == "select" else self._nodes
                parts = self._try(sized[name], reader) or parts
        place = self._place(sized.get("place"))
        if "select" in sized:
            self._chunks(sized["select"], parts, place)
        elif "nodes" in sized:
            self._hosts(sized["nodes"], parts)
        for name, draft in rest.items():
            if draft.untold:
                continue
            try:
                self._one(name, draft, sized)
            except ValueError as error:
                draft.invalid = str(error)
        self._compatible(sized)

    def _try(self, draft: Draft, reader: Any) -> list[_Part]:
        try:
            return reader(draft.value, draft)
        except ValueError as error:
            draft.invalid = str(error)
            draft.sets("chunks" if draft.option == "select" else "nodes")
            return []

    def _compatible(self, sized: Mapping[str, Draft]) -> None:
        """Refuse the combinations that req_quejob.c of OpenPBS refuses."""
        chunked = sized.get("select") or sized.get("place")
        if chunked is None:
            return
        if "nodes" in sized:
            sized["nodes"].invalid = "`nodes` and `select` or `place` exclude each other"
        elif "select" not in sized:
            chunked.invalid = "`place` needs a `select`"
        for name, draft in self._given.items():
            if name in _HOST_LEVEL and not draft.invalid:
                draft.invalid = f"`{name}` belongs into the chunks of `select`, not beside it"

    def _place(self, draft: Draft | None) -> Place | None:
        if draft is None:
            return None
        place: Place | None = None
        for word in draft.value.lower().split(":"):
            if word in ("free", "pack", "scatter"):
                place = word
            elif word == "vscatter":
                place = "scatter"
                self._gathered.remark(draft, "a vnode is read as a node")
            elif word in ("excl", "exclhost"):
                self._gathered.set(draft, exclusive=True)
            elif word in ("shared", "share"):
                self._gathered.set(draft, exclusive=False)
            elif word.startswith("group="):
                draft.untold.append(word)
            else:
                draft.invalid = (
                    f"`{word}` is not one of free, pack, scatter, vscatter, excl, shared"
                )
        self._gathered.set(draft, place=place)
        return place

    def _nodes(self, value: str, draft: Draft) -> list[_Part]:
        """Torque's nodes and OpenPBS's old syntax: ``2:ppn=8:gpus=1:ib+n01:ppn=4#excl``."""
        spec, *suffixes = value.split("#")
        for suffix in suffixes:
            if suffix in ("excl", "shared"):
                self._gathered.set(draft, exclusive=suffix == "excl")
        common = tuple(each for each in suffixes if each not in ("excl", "shared", ""))
        return [self._node(part, common, draft) for part in spec.split("+")]

    def _node(self, text: str, common: tuple[str, ...], draft: Draft) -> _Part:
        words = text.split(":")
        count = whole(words.pop(0), "nodes") if words[0].isdecimal() else 1
        named = not text.split(":")[0].isdecimal()
        part = _Part(Chunk(count=count))
        amounts: dict[str, int] = {}
        properties = list(common)
        for index, word in enumerate(words):
            name, equals, amount_ = word.partition("=")
            key = {"cpp": "ncpus"}.get(name.lower(), name.lower())
            if not equals and "gpus" in amounts and key in _GPU_MODES:
                part.untold += (f"the GPUs' mode {name}",)
            elif not equals and index == 0 and named and any(c.isdigit() for c in name):
                part.hosts = (name,)
                self._gathered.remark(draft, f"`{name}` is read as the name of a node")
            elif not equals and re.fullmatch(r"[\w.-]+", name):
                properties.append(name)
            elif key in ("ppn", "ncpus", "gpus", "mpiprocs", "ngpus", "procs"):
                amounts[{"ngpus": "gpus"}.get(key, key)] = whole(amount_, name)
            elif key in ("mem", "pmem"):
                amounts[key] = read_size(amount_)
            elif equals and (wrong := slip(key, ("ppn", "ncpus", "gpus"))):
                raise ValueError(f"unknown `{name}`: did you mean `{wrong}`?")
            elif equals and re.fullmatch(r"\w+", name):
                part.other += (word,)
            else:
                raise ValueError(f"`{word}` is neither a host, a property nor such as ppn=8")
        tasks = amounts.get("ppn") or amounts.get("mpiprocs")
        # OpenPBS makes `ncpus=2:ppn=2` into 4 cores and 2 MPI processes: pbs_resources(7B)
        cores = amounts["ncpus"] * (tasks or 1) if "ncpus" in amounts else tasks
        part.chunk = Chunk(
            count=count,
            cores=cores,
            tasks=tasks,
            gpus=amounts.get("gpus"),
            memory=amounts.get("mem"),
        )
        part.properties = tuple(properties)
        return part

    def _hosts(self, draft: Draft, parts: Sequence[_Part]) -> None:
        """Set the fields of Torque's nodes: each part is a number of nodes."""
        if not parts:
            return
        gathered = self._gathered
        nodes = sum(part.chunk.count for part in parts)
        gathered.set(draft, nodes=nodes)
        self._beside(draft, parts)
        first = parts[0].chunk
        if all(dataclasses.replace(part.chunk, count=first.count) == first for part in parts):
            gathered.set(draft, tasks_per_node=first.tasks, memory_per_node=first.memory)
            gathered.set(draft, gpus_per_node=first.gpus)
            if first.cores and first.cores != first.tasks:
                gathered.set(draft, cores_per_task=first.cores // (first.tasks or 1))
            return
        gathered.set(draft, chunks=tuple(part.chunk for part in parts), place="scatter")
        self._in_all(draft, parts)

    def _chunks(self, draft: Draft, parts: Sequence[_Part], place: Place | None) -> None:
        """Set the fields of a `select`. Its chunks may share hosts unless `place` prevents it."""
        if not parts:
            return
        gathered = self._gathered
        chunks = tuple(part.chunk for part in parts)
        count = sum(chunk.count for chunk in chunks)
        gathered.set(draft, chunks=chunks)
        self._beside(draft, parts)
        nodes = {"scatter": count, "pack": 1}.get(place or "free", 1 if count == 1 else None)
        named = {host for part in parts for host in part.hosts}
        if nodes is None and len(named) == count:  # each chunk names its node
            nodes = count
            gathered.set(draft, place="scatter")
        gathered.set(draft, nodes=nodes)
        if len({dataclasses.replace(chunk, count=1) for chunk in chunks}) > 1:
            self._in_all(draft, parts)
            return
        if nodes is None:
            why = "chunks may share nodes, as no `place` says otherwise: how many nodes is not said"
            gathered.remark(draft, why)
        first, own = chunks[0], nodes == count  # one node per chunk
        tasks = first.tasks or 1
        gathered.set(draft, tasks=tasks * count)
        if own and first.tasks and count > 1:
            gathered.set(draft, tasks_per_node=first.tasks)
        if first.cores and first.cores % tasks == 0:
            if first.cores // tasks > 1:
                gathered.set(draft, cores_per_task=first.cores // tasks)
        elif first.cores and own:
            gathered.set(draft, cores_per_node=first.cores)
        self._chunk_gpus(draft, first, own=own)
        self._chunk_memory(draft, first, nodes)

    def _chunk_gpus(self, draft: Draft, chunk: Chunk, *, own: bool) -> None:
        """GPUs of equal chunks: per node if each chunk has its own node, per task, or in total."""
        gpus, tasks = chunk.gpus, chunk.tasks or 1
        if gpus is None:
            return
        if own:
            self._gathered.set(draft, gpus_per_node=gpus)
        elif gpus % tasks == 0:
            self._gathered.set(draft, gpus_per_task=gpus // tasks)
        else:
            self._gathered.set(draft, gpus=gpus * chunk.count)

    def _chunk_memory(self, draft: Draft, chunk: Chunk, nodes: int | None) -> None:
        """Memory of equal chunks: per node, per core, or in total."""
        memory, tasks = chunk.memory, chunk.tasks or 1
        cores = max(chunk.cores or 1, tasks)  # other schedulers give each task a core
        if not memory:
            return
        if nodes in (1, chunk.count):
            self._gathered.set(draft, memory_per_node=memory * chunk.count // nodes)
        elif memory % cores == 0 and cores % tasks == 0:
            self._gathered.set(draft, memory_per_core=memory // cores)
        else:
            self._gathered.set(draft, memory=memory * chunk.count)

    def _in_all(self, draft: Draft, parts: Sequence[_Part]) -> None:
        chunks = [part.chunk for part in parts]
        self._gathered.set(
            draft,
            tasks=sum(chunk.count * (chunk.tasks or 1) for chunk in chunks),
            gpus=sum(chunk.count * (chunk.gpus or 0) for chunk in chunks) or None,
            memory=sum(chunk.count * (chunk.memory or 0) for chunk in chunks) or None,
        )

    def _beside(self, draft: Draft, parts: Sequence[_Part]) -> None:
        """Set the fields that parts contain in addition to amounts."""
        self._gathered.set(
            draft,
            hosts=_unique(host for part in parts for host in part.hosts),
            gpu_kind=next((part.gpu_kind for part in parts if part.gpu_kind), None),
            constraint="&".join(_unique(p for part in parts for p in part.properties)) or None,
        )
        self._other(draft, _unique(each for part in parts for each in part.other))
        draft.untold.extend(_unique(each for part in parts for each in part.untold))
        kinds = _unique(part.gpu_kind for part in parts if part.gpu_kind)
        if len(kinds) > 1:
            draft.untold.append(f"chunks with GPUs of the kinds {', '.join(kinds)}")

    def _other(self, draft: Draft, items: Sequence[str]) -> None:
        if not items:
            return
        found = self._gathered.fields.get("other", ())
        self._gathered.set(draft, other=_unique((*found, *items)))

    def _one(self, name: str, draft: Draft, sized: Mapping[str, Draft]) -> None:
        """A resource of the whole job."""
        gathered, value = self._gathered, draft.value
        if not value:  # qsub accepts a resource without a value, such as a site's `wd`
            if name in _KNOWN:
                raise ValueError(f"`{name}` needs a value")
            self._other(draft, [draft.option])
        elif "select" in sized and name in ("ngpus", "gpus", *_HOST_LEVEL):
            raise ValueError(f"`{name}` belongs into the chunks of `select`, not beside it")
        elif "select" in sized and name in _OF_NODES:
            self._other(draft, [f"{draft.option}={value}"])
        elif name in _WHOLE:
            gathered.set(draft, **{_WHOLE[name]: whole(value, name)})
        elif name in _WORDS:
            gathered.set(draft, **{_WORDS[name]: value})
        elif name in _ONES:
            _ONES[name](self, draft, value)
        elif name in ("naccesspolicy", "nodeaccesspolicy") and value.lower().startswith("single"):
            gathered.set(draft, exclusive=True)
        else:
            self._unknown(name, draft, value)

    def _unknown(self, name: str, draft: Draft, value: str) -> None:
        if name not in _KNOWN:
            if near := slip(name, _KNOWN):
                raise ValueError(f"unknown resource `{name}`: did you mean `{near}`?")
            why = f"`{name}` is a resource of the site; PBS refuses it where it is not defined"
            self._gathered.remark(draft, why)
        self._other(draft, [f"{draft.option}={value}"])

    def time(self, draft: Draft, value: str) -> None:
        """A limit of wall time."""
        self._gathered.set(draft, seconds=read_time(value))
        if value.count(":") == 3:
            self._gathered.remark(draft, "days are read by Torque only")

    def cores(self, draft: Draft, value: str) -> None:
        """Cores beside `nodes`, or of the single chunk of a job without `nodes`."""
        cores, fields = whole(value, "cores"), self._gathered.fields
        if "nodes" not in self._given:  # one chunk on one host: pbs_resources(7B)
            self._gathered.set(draft, nodes=1, cores_per_task=cores)
            return
        each, left = divmod(cores, fields.get("nodes", 1))
        if left:
            raise ValueError(f"{cores} cores do not divide over {fields['nodes']} nodes")
        self._gathered.set(draft, cores_per_node=each)

    def memory(self, draft: Draft, value: str) -> None:
        """Memory of the whole job, which PBS divides over `nodes`."""
        size, nodes = read_size(value), self._gathered.fields.get("nodes")
        if size == 0:
            draft.untold.append("a memory of nothing")
            return
        sizeless = not self._given.keys() & {"select", "nodes", "procs"}
        if sizeless or (nodes and size % nodes == 0):
            self._gathered.set(draft, memory_per_node=size // (nodes or 1))
        else:
            self._gathered.set(draft, memory=size)

    def process_memory(self, draft: Draft, value: str) -> None:
        """Memory of each process."""
        size, cores = read_size(value), self._gathered.fields.get("cores_per_task") or 1
        if size == 0:
            draft.untold.append("a memory of nothing")
        elif size % cores == 0:
            self._gathered.set(draft, memory_per_core=size // cores)
        else:
            self._other(draft, [f"{draft.option}={value}"])

    def feature(self, draft: Draft, value: str) -> None:
        """Moab's conditions on nodes."""
        self._gathered.set(draft, constraint="&".join(re.split(r"[:,]", value)))

    def host(self, draft: Draft, value: str) -> None:
        """A node by name."""
        self._gathered.set(draft, hosts=(value,))


_WHOLE: Final = {
    **dict.fromkeys(("procs", "mppwidth", "size"), "tasks"),
    **dict.fromkeys(("mppnppn", "tpn", "ppn"), "tasks_per_node"),
    **dict.fromkeys(("ngpus", "gpus"), "gpus"),
    "mppdepth": "cores_per_task",
    "gpunum_job": "gpus_per_node",
}
_WORDS: Final = {
    **dict.fromkeys(_GPU_KINDS, "gpu_kind"),
    "qos": "qos",
    "advres": "reservation",
}
_ONES: Final[dict[str, Callable[[Resources, Draft, str], None]]] = {
    **dict.fromkeys(("walltime", "elapstim_req", "max_walltime"), Resources.time),
    **dict.fromkeys(("ncpus", "cpunum_job", "cpus"), Resources.cores),
    **dict.fromkeys(("mem", "memsz_job"), Resources.memory),
    **dict.fromkeys(("pmem", "mppmem"), Resources.process_memory),
    **dict.fromkeys(("feature", "features"), Resources.feature),
    **dict.fromkeys(("host", "vnode"), Resources.host),
}


def _select(value: str, draft: Draft) -> list[_Part]:
    """The chunks of a `select`.

    Raises:
        ValueError: One of them is not a valid chunk.
    """
    del draft
    return [_chunk(part) for part in _split(value, "+")]


def _chunk(text: str) -> _Part:
    words = _split(text, ":")
    count = whole(words.pop(0), "chunks") if "=" not in words[0] else 1
    part = _Part(Chunk())
    amounts: dict[str, int] = {}
    for word in words:
        name, equals, value = word.partition("=")
        key, value = name.strip().lower(), value.strip("\"'")
        key = {"naccelerators": "ngpus", "gpus": "ngpus"}.get(key, key)
        if not equals or not key:
            raise ValueError(f"`{word}` in a chunk has not the form resource=value")
        if key in ("ncpus", "mpiprocs", "ompthreads", "ngpus"):
            amounts[key] = whole(value, name, 0)
        elif key == "mem":
            amounts[key] = read_size(value)
        elif key in ("host", "vnode"):
            part.hosts += (value,)
        elif key in _GPU_KINDS:
            part.gpu_kind = value
        elif value.lower() in ("true", "t") and key not in _KNOWN:
            part.properties += (name.strip(),)
        elif near := slip(key, _KNOWN):
            raise ValueError(f"unknown resource `{name}`: did you mean `{near}`?")
        else:
            part.other += (f"{name.strip()}={value}",)
    if (threads := amounts.get("ompthreads")) is not None:
        part.other += (f"ompthreads={threads}",)
    part.chunk = Chunk(
        count=count,
        cores=amounts.get("ncpus"),
        tasks=amounts.get("mpiprocs"),
        gpus=amounts.get("ngpus") or None,
        memory=amounts.get("mem"),
        threads=amounts.get("ompthreads"),
        other=part.other,
    )
    return part


def _unique(items: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(items))


# writing


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The chunks of a request, as PBS writes them.

    Args:
        lost: Field → why PBS cannot represent it.
    """

    select: str
    place: str
    said: frozenset[str]
    lost: Mapping[str, str]
    notes: tuple[str, ...]


_CHUNKED: Final = frozenset(
    {
        *("nodes", "tasks", "tasks_per_node", "cores_per_task", "cores_per_node", "chunks"),
        *("gpus", "gpus_per_node", "gpus_per_task", "gpu_kind", "place", "exclusive"),
        *("memory", "memory_per_node", "memory_per_core", "memory_per_gpu", "hosts", "constraint"),
    }
)


_PER_NODE: Final = SIZES - {"nodes", "most_nodes"}


def write_chunks(request: Request) -> Chosen:
    """Write the chunks of a request.

    A request's own chunks are written unchanged. Otherwise there is one chunk per node if the
    number of nodes is known, else one chunk per task.
    """
    said = request.said().keys()
    lost: dict[str, str] = {}
    notes: list[str] = []
    if not said & (_CHUNKED | {"most_nodes"}):
        return Chosen(select="", place="", said=frozenset(), lost=lost, notes=())
    if request.chunks:
        chunks, place = list(request.chunks), request.place
        count = sum(chunk.count for chunk in chunks)
        if place is None and count > 1 and request.nodes in (1, count):
            place = "scatter" if request.nodes == count else "pack"
    else:
        chunks, place = _from_sizes(request, lost, notes)
    if request.most_nodes and request.most_nodes != request.nodes:
        lost["most_nodes"] = "PBS has one number of nodes, and no range"
    nodes = _nodes_of(chunks, place)
    lost |= {**contradictions(request, chunks, nodes), **lost}
    words = _with_names(request, chunks, lost, notes)
    if request.exclusive and not said & _PER_NODE:
        notes.append(
            "the nodes are the job's own, and `ncpus` counts one core in each: write how many "
            "cores a node has, and as `ngpus` how many GPUs"
        )
    if request.exclusive is not None:
        place = ":".join(filter(None, (place, "excl" if request.exclusive else "shared")))
    return Chosen(
        select="+".join(words),
        place=place or "",
        said=frozenset(said & (_CHUNKED | {"most_nodes"})),
        lost=lost,
        notes=tuple(notes),
    )


def _with_names(
    request: Request, chunks: Sequence[Chunk], lost: dict[str, str], notes: list[str]
) -> list[str]:
    """The chunks, with the request's GPU kind, constraint and hosts added."""
    extra = ""
    gpus = any(chunk.gpus for chunk in chunks)
    if gpus and re.fullmatch(r"[\w.-]+", request.gpu_kind or ""):
        extra += f":accelerator_model={request.gpu_kind}"
    elif request.gpu_kind is not None:
        lost["gpu_kind"] = "PBS has no name for this kind" if gpus else "no chunk has a GPU"
    names = (request.constraint or "").split("&")
    if all(re.fullmatch(r"\w[\w.-]*", name) and name.lower() not in _KNOWN for name in names):
        extra += "".join(f":{name}=true" for name in names)
        notes.append(f"`{request.constraint}` must be a resource of the site's nodes, of yes or no")
    elif request.constraint is not None:
        lost["constraint"] = (
            "PBS does not know this condition: see the resources of the site's nodes"
        )
    words = [_words(chunk) + extra for chunk in chunks]
    if not request.hosts:
        return words
    if not all(re.fullmatch(r"[\w.-]+", host) for host in request.hosts):
        lost["hosts"] = "PBS has no ranges of host names"
        return words
    if len(request.hosts) == 1:
        return [f"{word}:host={request.hosts[0]}" for word in words]
    single = [
        _words(dataclasses.replace(chunk, count=1)) + extra
        for chunk in chunks
        for _ in range(min(chunk.count, len(request.hosts) + 1))
    ]
    if len(single) != len(request.hosts):
        lost["hosts"] = "PBS names a host in each chunk, and there are not as many chunks"
        return words
    pairs = zip(single, request.hosts, strict=True)
    return [f"{word}:host={host}" for word, host in pairs]


def _nodes_of(chunks: Sequence[Chunk], place: str | None) -> int | None:
    count = sum(chunk.count for chunk in chunks)
    return {"scatter": count, "pack": 1}.get(place or "free", 1 if count == 1 else None)


def _words(chunk: Chunk) -> str:
    words = [str(chunk.count)]
    if chunk.cores is not None:
        words.append(f"ncpus={chunk.cores}")
    if chunk.tasks is not None:
        words.append(f"mpiprocs={chunk.tasks}")
    if chunk.threads is not None:
        words.append(f"ompthreads={chunk.threads}")
    if chunk.gpus:
        words.append(f"ngpus={chunk.gpus}")
    if chunk.memory:
        words.append(f"mem={write_size(chunk.memory)}")
    words += [each for each in chunk.other if not each.startswith("ompthreads=")]
    return ":".join(words)


def _from_sizes(
    request: Request, lost: dict[str, str], notes: list[str]
) -> tuple[list[Chunk], Place | None]:
    """Chunks for a request without chunks."""
    totals = request.totals()
    nodes, tasks = totals.nodes, totals.tasks
    if nodes is not None and tasks < nodes:
        if request.tasks is not None:
            lost["tasks"] = f"PBS starts a process in each of the {nodes} chunks at least"
        tasks = nodes
    parts = nodes or tasks
    gpus = totals.gpus
    if nodes is None and gpus % parts:
        notes.append(
            f"{gpus} GPUs do not divide over {tasks} tasks: all tasks are put into one chunk, "
            "which is on one node"
        )
        nodes = parts = 1
    # Group equal chunks: a group ends where the even share of tasks or GPUs changes.
    tasks_of, gpus_of = even(tasks, parts), even(gpus, parts)
    breaks = sorted({0, parts, tasks_of[0][0], gpus_of[0][0]})
    chunks: list[Chunk] = []
    for start, end in pairwise(breaks):
        own_tasks = tasks_of[0 if start < tasks_of[0][0] else -1][1]
        own_gpus = gpus_of[0 if start < gpus_of[0][0] else -1][1]
        cores = request.cores_per_node if nodes and request.cores_per_node else None
        cores = cores or own_tasks * (request.cores_per_task or 1)
        chunks.append(
            Chunk(
                count=end - start,
                cores=cores,
                tasks=own_tasks,
                gpus=own_gpus or None,
                memory=_memory(request, nodes, parts, cores, own_gpus) or None,
            )
        )
    if request.cores_per_node and nodes is None:
        lost["cores_per_node"] = "how many nodes is not said"
    if request.memory_per_node and nodes is None and parts > 1:
        notes.append(
            "the memory of a node is divided over the chunks, as how many nodes is not said"
        )
    if not totals.memory:
        lost |= {name: ALL_MEMORY for name in MEMORY if getattr(request, name) == 0}
    if request.memory_per_gpu and not gpus:
        lost["memory_per_gpu"] = "the job has no GPU"
    return chunks, "scatter" if (nodes or 0) > 1 else None


def _memory(request: Request, nodes: int | None, parts: int, cores: int, gpus: int) -> int:
    """Bytes of one chunk."""
    if request.memory_per_node:
        return request.memory_per_node if nodes else _share(request.memory_per_node, parts)
    if request.memory:
        return _share(request.memory, parts)
    return (request.memory_per_core or 0) * cores or (request.memory_per_gpu or 0) * gpus


def _share(memory: int, parts: int) -> int:
    """Memory per part; rounded up to whole megabytes unless it divides evenly."""
    return memory // parts if memory % parts == 0 else -(-memory // (parts << 20)) << 20
