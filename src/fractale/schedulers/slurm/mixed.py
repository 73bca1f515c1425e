"""`#PBS` and `#BSUB` lines in a Slurm script: sbatch also reads the options that it knows.

It reads them after its own lines and from the whole script. It reads one kind only: `#BSUB` if
there are any. Source: tests of sbatch 22.05 with such lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast

from fractale.schedulers.options import GivenOption, Option, OptionTable, getopt


@dataclass(frozen=True, slots=True)
class Foreign:
    """An option of another scheduler as sbatch reads it.

    Args:
        option: sbatch's own option; empty if sbatch ignores the line's option.
        invalid: Why sbatch refuses it.
    """

    line: int
    text: str
    option: str = ""
    value: str = ""
    invalid: str = ""


def _options(letters: str, names: str) -> OptionTable:
    found = {pair[0]: pair[2:] for pair in names.split()}
    return OptionTable(
        Option(found.get(letter, ""), letter, cast("Any", "required" if colon else "none"))
        for letter, colon in re.findall(r"(\w)(:?)", letters)
    )


_BSUB: Final = _options(
    "c:e:J:m:M:n:o:q:W:x",
    "c=cwd e=error_file J=job_name m=hostname M=memory_limit o=output_file q=queue_name W=time "
    "x=exclusive",
)
_PBS: Final = _options(
    "a:A:c:C:e:hIj:J:k:l:m:M:N:o:p:q:r:S:t:u:v:VW:z",
    "a=start_time A=account c=checkpoint C=working_dir e=error h=hold I=interactive j=join "
    "J=job_array k=keep l=resource_list m=mail_options M=mail_user_list N=job_name o=out "
    "p=priority q=destination r=rerunable S=script_path t=array u=running_user v=variable_list "
    "V=all_env W=attributes z=no_std",
)
_BSUB_TO: Final = MappingProxyType(
    {
        "c": "chdir",
        "e": "error",
        "J": "job-name",
        "m": "nodelist",
        "M": "mem-per-cpu",
        "n": "ntasks",
        "o": "output",
        "q": "partition",
        "W": "time",
        "x": "exclusive",
    }
)
_PBS_TO: Final = MappingProxyType(
    {
        "a": "begin",
        "A": "account",
        "e": "error",
        "h": "hold",
        "J": "array",
        "t": "array",
        "m": "mail-type",
        "M": "mail-user",
        "N": "job-name",
        "o": "output",
        "p": "nice",
        "q": "partition",
        "v": "export",
    }
)


def foreign_options(lines: Sequence[str]) -> Iterator[Foreign]:
    """The options that sbatch reads in lines of other schedulers."""
    found = [n for n, line in enumerate(lines, 1) if line.startswith(("#BSUB", "#PBS"))]
    if not found:
        return
    looked_at = frozenset(_looked_at(lines))
    for mark, options, read in (("#BSUB", _BSUB, _of_bsub), ("#PBS", _PBS, _of_pbs)):
        numbers = [n for n in found if n in looked_at and lines[n - 1].startswith(mark)]
        for number in numbers:
            text = lines[number - 1].removeprefix(mark).partition("#")[0]
            words = ["-c" if word == "-cwd" else word for word in text.split()]
            for given in getopt([word.strip("\"'") for word in words], options):
                if given.option is None or given.why:
                    yield Foreign(number, given.text, invalid=given.why)
                else:
                    yield from read(number, given)
        if numbers:
            return


_MOST_COMMANDS: Final = 100


def _looked_at(lines: Sequence[str]) -> Iterator[int]:
    """Numbers of the lines before the 101st line that is not a comment: sbatch stops there."""
    commands = 0
    for number, line in enumerate(lines, 1):
        commands += not line.startswith("#")
        if commands > _MOST_COMMANDS:
            return
        yield number


def _letter(given: GivenOption) -> str:
    return given.option.letter if given.option else ""


def _of_bsub(number: int, given: GivenOption) -> Iterator[Foreign]:
    letter, value = _letter(given), given.value or ""
    if letter == "m":
        value = value.replace(" ", ",")
    elif letter == "M":
        value += "K" if value[-1:].isdigit() else ""
    elif letter == "n":
        value = value.rpartition(",")[2]
    yield Foreign(number, given.text, _BSUB_TO[letter], value)


def _of_pbs(number: int, given: GivenOption) -> Iterator[Foreign]:
    letter, value = _letter(given), given.value or ""
    if letter == "l":
        yield from _resources(number, given.text, value)
        return
    option = _PBS_TO.get(letter, "")
    if letter == "m":
        kinds = {"b": "BEGIN", "e": "END", "a": "FAIL"}
        found = [kind for key, kind in kinds.items() if key in value.lower()]
        value = "NONE" if "n" in value.lower() else ",".join(found)
    elif letter == "W" and value.lower().startswith("depend="):
        option, value = "dependency", value[7:]
    yield Foreign(number, given.text, option, value)


_RESOURCES: Final = MappingProxyType(
    {
        "cput": "time",
        "pcput": "time",
        "walltime": "time",
        "mem": "mem",
        "file": "tmp",
        "mpiprocs": "ntasks-per-node",
        "ncpus": "mincpus",
        "nice": "nice",
        "select": "nodes",
        "proc": "constraint",
        "naccelerators": "gres",
    }
)


def _resources(number: int, text: str, value: str) -> Iterator[Foreign]:
    for resource in value.split(","):
        if resource.startswith("nodes="):
            yield from _nodes(number, text, resource.removeprefix("nodes="))
            continue
        parts: dict[str, str] = {}
        for part in resource.split(":"):
            name, _, amount = part.partition("=")
            parts[name] = amount
        if resource.startswith("walltime="):
            parts = {"walltime": resource.removeprefix("walltime=")}
        for name, amount in parts.items():
            if name in ("mem", "file"):
                amount = re.sub(r"[bB]$", "", amount)
            elif name == "naccelerators":
                amount = f"gpu:{amount}"
            yield Foreign(number, text, _RESOURCES.get(name, ""), amount)
        tasks, cores = parts.get("mpiprocs", ""), parts.get("ncpus", "")
        if (
            "select" in parts
            and tasks.isdecimal()
            and cores.isdecimal()
            and int(cores) > int(tasks)
        ):
            yield Foreign(number, text, "cpus-per-task", str(int(cores) // max(int(tasks), 1)))


def _nodes(number: int, text: str, value: str) -> Iterator[Foreign]:
    count, on_node, hosts = 0, 0, list[str]()
    for part in re.split("[+:]", value):
        if part.startswith("gpus="):
            yield Foreign(number, text, "gpus-per-node", part[5:])
        elif part.startswith("ppn="):
            on_node += _first_number(part[4:])
        elif part[:1].isdigit():
            count += _first_number(part)
        elif part[:1].isalpha():
            hosts.append(part)
    if count:
        yield Foreign(number, text, "nodes", str(count))
    if on_node:
        yield Foreign(number, text, "ntasks", str(on_node * (count or 1)))
    if hosts:
        yield Foreign(number, text, "nodelist", ",".join(hosts))


def _first_number(text: str) -> int:
    found = re.match(r"[0-9]+", text)
    return int(found[0]) if found else 0
