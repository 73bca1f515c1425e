"""The options of sbatch, and how sbatch reads their values.

Sources: sbatch(1), and tests of sbatch 22.05 with such values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, cast

from fractale.schedulers.options import Option, OptionTable, Said
from fractale.schedulers.request import (
    MOST_ELEMENTS,
    Array,
    Dependency,
    DependencyKind,
    Span,
    join_dependencies,
    split_hosts,
)
from fractale.schedulers.slurm.times import read_limit

# name[:letter] of the options of sbatch 22.05, grouped by whether a value follows.
_WITH_VALUE: Final = """
    account:A acctg-freq array:a batch bb bbf begin:b chdir:D cluster cluster-constraint clusters:M
    comment constraint:C container context core-spec:S cores-per-socket cpu-freq cpus-per-gpu
    cpus-per-task:c deadline delay-boot dependency:d distribution:m error:e exclude:x export
    export-file extra-node-info:B gid gpu-bind gpu-freq gpus:G gpus-per-node gpus-per-socket
    gpus-per-task gres gres-flags hint input:i job-name:J kill-on-invalid-dep licenses:L mail-type
    mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nodefile:F nodelist:w
    nodes:N ntasks:n ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket
    ntasks-per-tres open-mode output:o partition:p power prefer priority profile qos:q reservation
    signal sockets-per-node switches tasks-per-node thread-spec threads-per-core time:t time-min tmp
    uid wait-all-nodes wckey wrap
"""
_WITHOUT_VALUE: Final = """
    contiguous help:h hold:H ignore-pbs no-requeue overcommit:O oversubscribe:s parsable quiet:Q
    reboot spread-job test-only usage use-min-nodes verbose:v version:V wait:W
"""
_VALUE_ATTACHED: Final = "exclusive get-user-env nice no-kill:k propagate requeue"
# Options of later releases, and of two common plugins: Shifter and Pyxis.
_LATER_WITH_VALUE: Final = """
    container-id extra mem-update resources runtime segment tres-bind tres-per-task
    image volume module
    container-image container-mounts container-workdir container-name container-save container-env
"""
_LATER_WITHOUT_VALUE: Final = """
    consolidate-segments external spread-segments stepmgr container-mount-home
    no-container-mount-home container-remap-root no-container-remap-root container-entrypoint
    no-container-entrypoint container-writable container-readonly
"""
_LATER_ATTACHED: Final = "oom-kill-step resv-ports"
OF_SRUN: Final = frozenset(
    {
        *("accel-bind", "bcast", "cpu-bind", "cpu_bind", "disable-status", "epilog", "exact"),
        *("immediate", "interactive", "jobid", "kill-on-bad-exit", "label", "mpi", "multi-prog"),
        *("no-allocate", "overlap", "preserve-env", "prolog", "pty", "relative", "slurmd-debug"),
        *("task-epilog", "task-prolog", "unbuffered", "x11"),
    }
)
"""Options that srun has and sbatch does not."""


def _options() -> Iterator[Option]:
    for names, argument, exact in (
        (_WITH_VALUE, "required", False),
        (_WITHOUT_VALUE, "none", False),
        (_VALUE_ATTACHED, "optional", False),
        (_LATER_WITH_VALUE, "required", True),
        (_LATER_WITHOUT_VALUE, "none", True),
        (_LATER_ATTACHED, "optional", True),
    ):
        for each in names.split():
            name, _, letter = each.partition(":")
            yield Option(name, letter, cast("Any", argument), exact)


OPTIONS: Final = OptionTable(_options())
"""All options that sbatch knows in a script."""

ALIASES: Final = MappingProxyType({"tasks-per-node": "ntasks-per-node", "cluster": "clusters"})
"""Options with the same meaning: the last one counts."""

REASONS: Final = MappingProxyType(
    {
        **dict.fromkeys(
            ("container-image", "image"),
            "an option of a plugin; start the container in the commands",
        ),
        "distribution": "how tasks are laid out belongs to the launcher",
        "hint": "how hardware threads are used belongs to the launcher",
        "threads-per-core": "how hardware threads are used belongs to the launcher",
        "ntasks-per-core": "how hardware threads are used belongs to the launcher",
        "mem-bind": "binding belongs to the launcher",
        "gpu-bind": "binding belongs to the launcher",
        "nice": "priorities of schedulers do not compare",
        "priority": "priorities of schedulers do not compare",
        "wrap": "it belongs on the command line",
        **dict.fromkeys(
            ("parsable", "quiet", "verbose", "test-only", "usage", "help", "version", "wait"),
            "it changes what sbatch itself does, not the job",
        ),
    }
)
"""Option → why no field represents it, for common options."""


def _refused(value: str, wanted: str) -> ValueError:
    return ValueError(f"`{value}` is not {wanted}")


def _whole(value: str, least: int = 1) -> int:
    text = value.lstrip(" \t\n\v\f\r")
    if not (text.removeprefix("+").isdecimal() and text.isascii()) or int(text) < least:
        raise _refused(value, f"a whole number from {least} up")
    return int(text)


def _count(name: str) -> Callable[[str], Said]:
    return lambda value: Said({name: _whole(value)})


def _number(value: str) -> Said:
    _whole(value, 0)
    return Said({}, "")


def _text(name: str) -> Callable[[str], Said]:
    return lambda value: Said({name: value} if value else {}, "" if value else "it has no value")


def _per_socket(value: str) -> Said:
    if not re.fullmatch(r"\s*\d+(-\d+)?|\*", value):
        raise _refused(value, "a number such as 2")
    return Said({}, "")


def _words(name: str) -> Callable[[str], Said]:
    def read(value: str) -> Said:
        found = tuple(each.strip() for each in value.split(",") if each.strip())
        return Said({name: found} if found else {}, "" if found else "it has no value")

    return read


def _flag(name: str, value: bool) -> Callable[[str], Said]:
    return lambda _: Said({name: value})


_AMOUNT: Final = re.compile(r"\s*\+?(\d+)(?:([kmgt])b?)?", re.IGNORECASE | re.ASCII)


def _bytes(value: str) -> int:
    match = _AMOUNT.fullmatch(value)
    if match is None:
        raise _refused(value, "an amount of memory such as 512M or 4G")
    return int(match[1]) << {"k": 10, "m": 20, "g": 30, "t": 40}[(match[2] or "m").lower()]


def _memory(name: str) -> Callable[[str], Said]:
    return lambda value: Said({name: _bytes(value)})


def _memory_only_here(value: str) -> Said:
    _bytes(value)
    return Said({}, "")


_NODES: Final = re.compile(r"\s*(\d*)([km]?)\s*(?:(-)\s*(\d*)([km]?)\s*)?", re.I | re.ASCII)
_THOUSANDS: Final = MappingProxyType({"": 1, "k": 1024, "m": 1024 * 1024})


def _nodes(value: str) -> Said:
    match = _NODES.fullmatch(value)
    if re.fullmatch(r"\d+(?:-\d+(?::\d+)?)?(?:,\d+(?:-\d+(?::\d+)?)?)+", value):
        numbers = [int(each) for each in re.findall(r"\d+", value)]
        return Said({"nodes": min(numbers)}, f"any of the numbers {value}")
    if match is None or not (match[1] or match[3]) or (match[3] and not match[4]):
        raise _refused(value, "a number of nodes such as 2 or 2-4")
    least = int(match[1] or 1) * _THOUSANDS[match[2].lower()]
    if not match[3]:
        return Said(
            {"nodes": least} if least else {}, "" if least else "0 is not a valid number of nodes"
        )
    most = int(match[4]) * _THOUSANDS[match[5].lower()]
    if most and most < least:
        raise ValueError(f"`{value}`: the most is less than the least")
    return Said({"nodes": least, **({"most_nodes": most} if most > least else {})})


_GRES_COUNT: Final = re.compile(r"(\d+)([kmgtp]?)b?", re.IGNORECASE | re.ASCII)


def _gpus_of(parts: Sequence[str], value: str) -> tuple[int, str]:
    """How many and of which kind, from ``[KIND:][N]``."""
    kind, count = "", 1
    for part in parts:
        match = _GRES_COUNT.fullmatch(part)
        if match is not None:
            count = (
                int(match[1])
                << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}[match[2].lower()]
            )
        elif re.fullmatch(r"[\w.+-]+", part):
            kind = part
        else:
            raise _refused(value, "a number of GPUs such as 2 or a100:2")
    return count, kind


def _gpu_fields(name: str, found: Sequence[tuple[int, str]]) -> Said:
    kinds = sorted({kind for _, kind in found if kind})
    fields: dict[str, Any] = {name: sum(count for count, _ in found)}
    if len(kinds) == 1:
        fields["gpu_kind"] = kinds[0]
    return Said(fields, f"so many of each kind ({', '.join(kinds)})" if len(kinds) > 1 else "")


def _gpus(name: str) -> Callable[[str], Said]:
    def read(value: str) -> Said:
        found = [_gpus_of(re.split("[:=]", each), value) for each in value.split(",") if each]
        return _gpu_fields(name, found) if found else Said({}, "it has no value")

    return read


def _gres(value: str) -> Said:
    if value.lower() == "none":
        return Said({"gpus_per_node": 0})
    found: list[tuple[int, str]] = []
    other: list[str] = []
    for item in value.split(","):
        name, *parts = re.split("[:=]", item.removeprefix("gres/").removeprefix("gres:"))
        if not name:
            continue
        if "$" in item:
            raise _refused(value, "a list of resources such as gpu:2,lscratch:100")
        if name == "gpu":
            found.append(_gpus_of(parts, value))
        else:
            *kind, count = parts or ["1"]
            other.append(f"gres/{':'.join([name, *kind])}={count}")
    said = _gpu_fields("gpus_per_node", found) if found else Said({})
    if other:
        return Said({**said.fields, "other": tuple(other)}, said.untold)
    return said if found else Said({}, "it has no value")


def _tres_per_task(value: str) -> Said:
    fields: dict[str, Any] = {}
    found: list[tuple[int, str]] = []
    untold: list[str] = []
    for item in filter(None, value.split(",")):
        name, *parts = re.split("[:=]", item.removeprefix("gres/"))
        if name == "cpu" and len(parts) == 1 and parts[0].isdecimal():
            fields["cores_per_task"] = int(parts[0])
        elif name == "gpu":
            found.append(_gpus_of(parts, value))
        else:
            untold.append(item)
    if found:
        fields |= _gpu_fields("gpus_per_task", found).fields
    if not fields and not untold:
        return Said({}, "it has no value")
    return Said(fields, f"{', '.join(untold)} per task" if untold else "")


def _time(value: str) -> Said:
    return Said({"seconds": read_limit(value)})


def _time_only_here(value: str) -> Said:
    read_limit(value)
    return Said({}, "")


_MARKS: Final = MappingProxyType(
    {
        "j": "id",
        "J": "id",
        "A": "array_id",
        "a": "index",
        "x": "name",
        "u": "user",
        "N": "host",
        "n": "node",
        "t": "task",
    }
)
_PATTERN: Final = re.compile(r"%(\d*)([A-Za-z%])")


def _file(name: str) -> Callable[[str], Said]:
    def read(value: str) -> Said:
        if not value or "{{" in value:
            return Said({}, "another scheduler cannot use this file name")
        if value.lower() == "none":
            return Said({name: "/dev/null"})
        if "\\" in value:  # then sbatch replaces no patterns
            return Said({name: value.replace("\\", "")})
        untold: list[str] = []

        def mark(match: re.Match[str]) -> str:
            width, letter = match[1], match[2]
            if letter == "%":
                return "%"
            if letter not in _MARKS:
                if letter in "sb":
                    untold.append(f"`{match[0]}` in it")
                return "" if letter in "sb" else match[0]
            if width:
                untold.append(f"the width in `{match[0]}`")
            return f"{{{{{_MARKS[letter]}}}}}"

        return Said({name: _PATTERN.sub(mark, value)}, ", ".join(untold))

    return read


_MAIL: Final = frozenset(
    {
        *("none", "all", "begin", "end", "fail", "requeue", "invalid_depend", "stage_out"),
        *("array_tasks", "time_limit", "time_limit_90", "time_limit_80", "time_limit_50"),
    }
)


def _mail_type(value: str) -> Said:
    found = [each for each in value.lower().split(",") if each in _MAIL]
    if not found:
        raise _refused(value, "one of BEGIN, END, FAIL, REQUEUE, ALL, NONE")
    if "none" in found:
        return Said({"mail_on": ("none",)})
    kinds = dict.fromkeys(found)
    if "all" in kinds:
        kinds = dict.fromkeys(["begin", "end", "fail", "requeue", *kinds])
        del kinds["all"]
    return Said({"mail_on": tuple(kinds)})


def _array(value: str) -> Said:
    """``1-10:2,15%4``: the first number after a ``%`` counts, at any position."""
    spans: list[Span] = []
    for part in filter(None, value.split(",")):
        match = _INDICES.match(part)
        if match is None:
            raise _refused(value, "an array such as 1-10, 0-9:3 or 1,5,7-9%2")
        first, last, step = (int(each) if each else None for each in match.groups())
        span = Span(first=first or 0, last=first or 0 if last is None else last, step=step or 1)
        if span.last < span.first or step == 0:
            raise ValueError(f"`{value}`: `{part}` has no index")
        spans.append(span)
    most = re.match(r"\s*\+?(\d+)", value.partition("%")[2], re.ASCII)
    if not spans:
        return Said({}, "it has no value")
    array = Array(spans=tuple(spans), most=int(most[1]) or None if most else None)
    if array.size > MOST_ELEMENTS:
        return Said({"array": None}, f"more than {MOST_ELEMENTS:,} elements")
    return Said({"array": array})


_INDICES: Final = re.compile(
    r"\[?\s*\+?(\d+)\]?(?:-\s*\+?(\d+)\]?(?::\s*\+?(\d+)\]?)?)?(?:%|$)", re.ASCII
)


_DEPENDENCY: Final = re.compile(
    r"(?:(afterany|afterok|afternotok|aftercorr|afterburstbuffer|after|expand):)?"
    r"([\w+*]+(?::[\w+*]+)*)",
    re.ASCII | re.IGNORECASE,
)


def _dependency(value: str) -> Said:
    found: list[Dependency] = []
    untold: list[str] = []
    for item in re.split("[,?]", value):
        match = _DEPENDENCY.fullmatch(item)
        if item.lower() == "singleton":
            found.append(Dependency(kind="singleton"))
            continue
        if match is None or not all(re.match(r"\d", each) for each in match[2].split(":")):
            raise _refused(value, "a dependency such as afterok:123")
        kind = (match[1] or "afterany").lower()
        if kind in ("afterburstbuffer", "expand"):
            untold.append(item)
            continue
        jobs = match[2].split(":")
        if any("+" in job for job in jobs):
            untold.append(f"the minutes to wait in `{item}`")
        ids = tuple(job.partition("+")[0] for job in jobs)
        found.append(Dependency(kind=cast("DependencyKind", kind), jobs=ids))
    if "?" in value:
        untold.append("one of them is enough")
    fields = {"dependencies": join_dependencies(found)} if found else {}
    return Said(fields, ", ".join(untold))


_UNITS: Final = MappingProxyType(
    {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
)
_CLOCK: Final = r"(?:\d{1,2}:\d{2}(?::\d{2})?(?:\s*[ap]m)?|midnight|noon|fika|teatime|elevenses)"
_DATE: Final = r"(?:\d{6}|\d{1,2}[/.]\d{1,2}(?:[/.]\d{2}(?:\d{2})?)?|today|tomorrow)"
_ISO: Final = re.compile(r"\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}(?::\d{2})?)?")
_MOMENT: Final = re.compile(
    rf"(?:{_CLOCK}(?:[-T\s]*{_DATE})?|{_DATE}(?:[-T\s]*{_CLOCK})?|"
    r"\d{4}-\d{1,2}-\d{1,2}(?:T\d{1,2}(?::\d{1,2}){0,2})?)(?:\s*\+.*)?",
    re.IGNORECASE,
)


def _begin(value: str) -> Said:
    text = value.strip()
    if text.lower() == "now":
        return Said({"begin": "+0"})
    match = re.fullmatch(r"now\s*\+\s*(\d+)\s*([a-z]*)", text, re.IGNORECASE)
    if match is not None:
        unit = match[2].lower().removesuffix("s")
        return Said({"begin": f"+{int(match[1]) * _UNITS.get(unit or 'second', 1)}"})
    if _ISO.fullmatch(text):
        return Said({"begin": text if "T" in text else f"{text}T00:00"})
    if _MOMENT.fullmatch(text):
        return Said({}, "a time that depends on when the job is submitted")
    raise _refused(value, "a time such as now+3600 or 2026-11-30T12:00")


_SIGNALS: Final = frozenset(
    {
        *("HUP", "INT", "QUIT", "ABRT", "KILL", "ALRM", "TERM", "USR1", "USR2", "URG", "CONT"),
        *("STOP", "TSTP", "TTIN", "TTOU", "XCPU"),
    }
)


def _signal(value: str) -> Said:
    match = re.fullmatch(r"([RB]{1,2}:)?\s*(?:SIG)?(\w+?)\s*(?:@(\d+))?", value, re.I | re.ASCII)
    if match is None or not (match[2].upper() in _SIGNALS or match[2].isdecimal()):
        raise _refused(value, "a signal such as USR1@60 or B:TERM@120")
    said = f"{match[2].upper()}@{match[3] or 60}"
    untold = "it goes to the batch shell only" if "B" in (match[1] or "").upper() else ""
    return Said({"signal": said}, untold)


def _exclusive(value: str) -> Said:
    kind = value.lower()
    if kind in ("", "exclusive"):
        return Said({"exclusive": True})
    if kind == "oversubscribe":
        return Said({"exclusive": False})
    if kind in ("user", "mcs", "topo"):
        return Said({}, f"nodes are kept from jobs of another {kind}")
    raise _refused(value, "one of user, mcs, topo, oversubscribe")


def _open_mode(value: str) -> Said:
    if value[:1].lower() not in ("a", "t") or not value:
        raise _refused(value, "append or truncate")
    return Said({"append": value[0].lower() == "a"})


def _export(value: str) -> Said:
    names = _split_quoted(value)
    kinds = {name.upper() for name in names} & {"ALL", "NONE", "NIL"}
    variables = tuple(name for name in names if name.upper() not in ("ALL", "NONE", "NIL"))
    untold = "without the variables that Slurm sets" if "NIL" in kinds else ""
    return Said(
        {"export": "ALL" in kinds, **({"variables": variables} if variables else {})}, untold
    )


def _split_quoted(value: str) -> tuple[str, ...]:
    """Parts between commas. Commas within quotes do not separate, and quotes are removed."""
    parts, quote = [""], ""
    for letter in value:
        if quote and letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote = letter
        elif letter == "," and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return tuple(part for part in parts if part)


def _hosts(name: str) -> Callable[[str], Said]:
    def read(value: str) -> Said:
        if "/" in value:
            return Said({}, "the names are in a file")
        found = split_hosts(value)
        return Said({name: found} if found else {}, "" if found else "it has no value")

    return read


def how_many(hosts: Sequence[str]) -> int:
    """The number of hosts in names such as ``n[1-4,7]``."""
    total = 0
    for host in hosts:
        product = 1
        for inner in re.findall(r"\[([^\]]*)\]", host):
            spans = [span.partition("-") for span in inner.split(",")]
            product *= sum(
                int(last) - int(first) + 1 if last.isdecimal() and first.isdecimal() else 1
                for first, _, last in spans
            )
        total += product
    return total


READERS: Final[Mapping[str, Callable[[str], Said]]] = MappingProxyType(
    {
        "account": _text("account"),
        "array": _array,
        "begin": _begin,
        "chdir": _text("workdir"),
        "clusters": _text("server"),
        "comment": _text("comment"),
        "constraint": _text("constraint"),
        "core-spec": _number,
        "cpus-per-gpu": _number,
        "cpus-per-task": _count("cores_per_task"),
        "dependency": _dependency,
        "error": _file("error"),
        "exclude": _hosts("without_hosts"),
        "exclusive": _exclusive,
        "export": _export,
        "gpus": _gpus("gpus"),
        "gpus-per-node": _gpus("gpus_per_node"),
        "gpus-per-socket": _gpus("gpus"),
        "gpus-per-task": _gpus("gpus_per_task"),
        "gres": _gres,
        "hold": _flag("hold", True),
        "input": _file("input"),
        "job-name": _text("name"),
        "licenses": _text("licenses"),
        "mail-type": _mail_type,
        "mail-user": _words("mail_to"),
        "mem": _memory("memory_per_node"),
        "mem-per-cpu": _memory("memory_per_core"),
        "mem-per-gpu": _memory("memory_per_gpu"),
        "mincpus": _count("cores_per_node"),
        "no-requeue": _flag("requeue", False),
        "nodelist": _hosts("hosts"),
        "nodes": _nodes,
        "ntasks": _count("tasks"),
        "ntasks-per-core": _number,
        "ntasks-per-gpu": _number,
        "ntasks-per-node": _count("tasks_per_node"),
        "ntasks-per-socket": _number,
        "open-mode": _open_mode,
        "output": _file("output"),
        "oversubscribe": _flag("exclusive", False),
        "partition": _words("queues"),
        "qos": _text("qos"),
        "requeue": _flag("requeue", True),
        "reservation": _text("reservation"),
        "signal": _signal,
        "sockets-per-node": _per_socket,
        "threads-per-core": _number,
        "time": _time,
        "time-min": _time_only_here,
        "tmp": _memory_only_here,
        "tres-per-task": _tres_per_task,
    }
)
"""Option → its reader; a reader raises ValueError for a value that sbatch refuses."""
