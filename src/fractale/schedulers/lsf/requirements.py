"""Parser for the resource requirements of LSF: `bsub -R` and `bsub -gpu`.

Sources: "Resource requirement strings" and `bsub -gpu` of IBM Spectrum LSF 10.1. An amount of
memory in `rusage` is per host and in MB, unless ``/task`` or ``/job`` follows or the site changed
it (LSF_UNIT_FOR_LIMITS of lsf.conf, RESOURCE_RESERVE_PER_TASK of lsb.params).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Final

from fractale.schedulers.reading import amount, whole

_SECTION: Final = re.compile(r"\b(select|order|rusage|span|same|cu|affinity)\s*\[")
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50, "E": 1 << 60}
_GPUS: Final = frozenset(
    {"ngpus", "ngpus_physical", "ngpus_excl_p", "ngpus_excl_t", "ngpus_shared", "gpu"}
)


@dataclass(slots=True, kw_only=True)
class Required:
    """The resources that `-R` and `-gpu` ask for; None for those that they do not name.

    Args:
        hosts: 1 if all tasks are on one host.
        memory: Bytes, and their scope: ``host``, ``task`` or ``job``.
        gpus: How many, and their scope: ``host`` or ``task``.
        bare: Whether the amount of memory has no unit.
        untold: Parts that no field represents.
    """

    hosts: int | None = None
    ptile: int | None = None
    block: int | None = None
    cores: int | None = None
    memory: tuple[int, str] | None = None
    bare: bool = False
    gpus: tuple[int, str] | None = None
    gpu_kind: str | None = None
    constraint: str | None = None
    other: list[str] = field(default_factory=list[str])
    untold: list[str] = field(default_factory=list[str])


def read_size(text: str, unit: str) -> int:
    """An amount of memory, ``4GB`` or ``512``, in bytes.

    Args:
        unit: Unit of a bare number: ``K``, ``M`` and the like.

    Raises:
        ValueError: The text is not an amount of memory.
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]+)?)\s*(?:([KMGTPE])B?)?", text.strip(), re.I)
    if match is None:
        raise ValueError(f"`{text}` is not an amount of memory such as 4GB or 4096")
    return math.ceil(float(match[1]) * _UNITS[(match[2] or unit).upper()])


def write_size(count: int) -> str:
    """Bytes in the largest LSF unit that gives a whole number; KB is the smallest."""
    kilo = -(-count // 1024)
    return amount(kilo, (("GB", 1 << 20), ("MB", 1 << 10), ("KB", 1)))


def read_required(text: str) -> Required:
    """Parse one `-R`.

    Raises:
        ValueError: bsub refuses it.
    """
    found = Required()
    if re.search(r"[{}]|\]\s*\|\|", text):
        found.untold.append("alternative or compound requirements")
        return found
    if text.count("[") != text.count("]"):
        raise ValueError(f"`{text}` has brackets that are not closed")
    start, bare = 0, ""
    while match := _SECTION.search(text, start):
        bare += text[start : match.start()]
        end, depth = match.end(), 1
        while depth and end < len(text):
            depth += {"[": 1, "]": -1}.get(text[end], 0)
            end += 1
        _section(found, match[1], text[match.end() : end - 1].strip())
        start = end
    bare = (bare + text[start:]).strip()
    if bare:
        _section(found, "select", bare)
    return found


def _section(found: Required, name: str, value: str) -> None:
    if name == "select":
        _select(found, value)
    elif name == "rusage":
        _rusage(found, value)
    elif name == "span":
        _span(found, value)
    elif name == "affinity":
        match = re.match(r"core(?:\((\d+)((?:,[^)]*)?)\))?", value)
        if match:
            found.cores = whole(match[1] or "1", "cores")
            rest = value[match.end() :] + (match[2] or "")
        else:
            rest = value
        if rest:
            found.untold.append(f"affinity[{rest.lstrip(':,')}]")
    else:
        found.untold.append(f"{name}[{value}]")


def _select(found: Required, value: str) -> None:
    plain = value.replace("defined(", "").replace(")", "") if "defined(" in value else value
    if re.fullmatch(r"[A-Za-z_]\w*(\s*(&&|\|\|)\s*[A-Za-z_]\w*)*", plain):
        terms = re.sub(r"\s*(&&|\|\|)\s*", lambda match: match[1][0], plain)
        if not ("&" in terms and "|" in terms):
            found.constraint = f"{found.constraint}&{terms}" if found.constraint else terms
            return
    found.untold.append(f"select[{value}]")


def _rusage(found: Required, value: str) -> None:
    if "||" in value or "(" in value:
        found.untold.append(f"rusage[{value}]")
        return
    for item in re.split(r"[,:]", value):
        name, equals, figure = (part.strip() for part in item.partition("="))
        figure, _, of = figure.partition("/")
        if not name:
            continue
        if name == "mem" and equals:
            found.memory = (read_size(figure, "M"), of or "host")
            found.bare = figure[-1:].isdigit()
        elif name in _GPUS and equals:
            count = re.fullmatch(r"(\d+)(?:\.0*)?", figure)
            if count is None:
                raise ValueError(f"`{item}` is not a number of GPUs")
            found.gpus = (int(count[1]), of or "host")
        elif name in ("duration", "decay"):
            found.untold.append(f"rusage[{item.strip()}]")
        elif equals and figure:
            found.other.append(item.strip())
        else:
            raise ValueError(f"`{item}` in rusage has not the form resource=value")


def _span(found: Required, value: str) -> None:
    name, equals, figure = (part.strip() for part in value.partition("="))
    if (name, figure) == ("hosts", "1"):
        found.hosts = 1
    elif name == "ptile" and figure.isdecimal():
        found.ptile = whole(figure, "tasks for each host")
    elif name == "block" and figure.isdecimal():
        found.block = whole(figure, "tasks in a block")
    elif re.fullmatch(r"hosts=-1|stripe\b.*|(ptile|block)=[^$]+", f"{name}{equals}{figure}"):
        found.untold.append(f"span[{value}]")
    else:
        raise ValueError(f"`span[{value}]`: hosts=1, ptile=8, block=8 and the like are known")


def read_gpu(text: str) -> Required:
    """Parse one `-gpu`. The value ``-`` means one GPU.

    Raises:
        ValueError: bsub refuses it.
    """
    found = Required(gpus=(1, "host"))
    if text.strip() == "-":
        return found
    for item in text.split(":"):
        name, _, value = (part.strip() for part in item.partition("="))
        if name == "num":
            count, _, of = value.partition("/")
            found.gpus = (whole(count, "GPUs"), of or "host")
        elif name == "gmodel":
            found.gpu_kind = value
        elif name in ("mode", "mps", "j_exclusive") and value in ("shared", "no", "yes"):
            if (name, value) == ("mps", "yes"):
                found.untold.append("the GPUs' mps=yes")
        elif name in (
            *("mode", "mps", "j_exclusive", "gmem", "gtile", "glink", "nvlink", "mig", "aff"),
            *("block", "gpack", "gvendor", "gnvlink"),
        ):
            found.untold.append(f"the GPUs' {item.strip()}")
        elif name:
            raise ValueError(f"`{item}` in -gpu: num, mode, mps, j_exclusive, gmodel are known")
    return found
