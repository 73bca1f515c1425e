"""The variables that a scheduler would set, for a script that runs without that scheduler."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import pwd
import re
import shlex
import shutil
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from fractale.schedulers.environment import Environment, environment_of, mentions_in
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.job import JobSpec
from fractale.schedulers.request import Request
from fractale.schedulers.script import Script
from fractale.schedulers.shell_text import read_shell, words_of

# The id is a number, because scripts compute ports from it. It is larger than any scheduler's, so
# that a script that cancels its own job cannot cancel another job.
_N: Final = "n=${FRACTALE_JOB_ID#q}; n=$((1000000000 + ${n%%_*}))"
_NUMBER: Final = f'"$({_N}; echo $n)"'
_ELEMENT_NUMBER: Final = f'"$({_N}; printf %s%06d $n "$FRACTALE_INDEX")"'
_INDEX: Final = '"$FRACTALE_INDEX"'
_HOST: Final = '"$(uname -n)"'
_IDS: Final[Mapping[str, Mapping[str, str]]] = {
    "pbs": {
        "job_id": f'"$({_N}; echo "$n.$(uname -n)")"',
        "element_id": f'"$({_N}; echo "$n[$FRACTALE_INDEX].$(uname -n)")"',
        "array_id": f'"$({_N}; echo "$n[].$(uname -n)")"',
    },
    # For an element of an array, LSF's job id is the id of the array.
    "lsf": {"element_id": _NUMBER},
}
_OF_ANYWHERE: Final = frozenset({"name", "user", "home", "submit_folder", "submit_host"})
_BEFORE: Final = re.compile(
    r"[A-Za-z_]\w*\+?=.*|if|then|else|elif|do|while|until|\{|!|time|exec|eval|command|nohup|env",
    re.DOTALL,
)
"""Words that may precede the program of a command."""

_SLOTS: Final = "slots"
"""File in the job's directory: the host name, once per task."""


def variables_of(
    script: Script,
    request: Request,
    spec: JobSpec,
    folder: JobFolder,
    environment: Mapping[str, str],
) -> tuple[dict[str, str], JobSpec]:
    """Name → shell word, for each variable that the script's own scheduler would set.

    Inside an allocation of that scheduler, the job's variables stay unchanged: the scheduler's
    launcher reads them.

    Returns:
        The variables, and the spec with the variables that differ between an array's elements.
    """
    home = environment_of(script.scheduler)
    facts = _facts(script.scheduler, request, spec, folder, environment)
    if _is_inside(home, environment):
        facts = {
            fact: word
            for fact, word in facts.items()
            if fact in _OF_ANYWHERE or fact.startswith("array_")
        }
    said = request.said()
    found = {
        name: facts[fact]
        for name, fact in home.variables.items()
        if fact in facts
        and (name not in home.conditional or not said.keys().isdisjoint(home.conditional[name]))
    }
    where = [name for name, fact in home.variables.items() if fact == "submit_folder"]
    elements = {
        index: replace(each, env={**dict.fromkeys(where, str(each.folder)), **each.env})
        for index, each in spec.elements.items()
    }
    return found, replace(spec, elements=elements)


def _facts(
    scheduler: str,
    request: Request,
    spec: JobSpec,
    folder: JobFolder,
    environment: Mapping[str, str],
) -> dict[str, str]:
    """Fact → shell word."""
    totals, host = request.totals(), socket.gethostname()
    ids = _IDS.get(scheduler, {})
    tasks, cores = max(totals.tasks, 1), max(totals.cores, 1)
    user = environment.get("USER") or environment.get("LOGNAME") or ""
    with contextlib.suppress(KeyError):  # the user id has no name
        user = user or pwd.getpwuid(os.getuid()).pw_name
    plain: dict[str, object] = {
        "name": request.name or spec.name,
        "queue": request.queues[0] if request.queues else "local",
        "user": user,
        "home": environment.get("HOME", ""),
        "submit_folder": spec.folder,
        "submit_host": host,
        "nodes": 1,
        "tasks": tasks,
        "tasks_per_node": tasks,
        "tasks_by_node": tasks,
        "cores_per_task": request.cores_per_task or max(cores // tasks, 1),
        "cores_per_node": cores,
        "cores_by_node": cores,
        "host_words": " ".join([host] * tasks),
        "slot_file": folder.path / _SLOTS,
        "host_file": folder.path / _SLOTS,
    }
    if request.account:
        plain["account"] = request.account
    if request.seconds and math.isfinite(request.seconds):
        plain["seconds"] = int(request.seconds)
    if totals.gpus:
        plain |= {"gpus": totals.gpus, "gpus_per_node": totals.gpus}
        plain["gpus_per_task"] = request.gpus_per_task or totals.gpus // tasks
    if request.memory_per_node:
        plain["megabytes_per_node"] = request.memory_per_node // 2**20
    facts = {"job_id": ids.get("job_id", _NUMBER), "host": _HOST, "node_list": _HOST}
    if spec.array is not None:
        indices = spec.array.indices
        facts["job_id"] = ids.get("element_id", _ELEMENT_NUMBER)
        facts["array_id"] = ids.get("array_id", _NUMBER)
        facts["array_index"] = _INDEX
        plain |= {"array_count": len(indices), "array_first": indices[0]}
        plain |= {"array_last": indices[-1], "array_step": spec.array.spans[0].step}
    if {"slot_file", "host_file"} & set(environment_of(scheduler).variables.values()):
        lines = 1 if scheduler == "cobalt" else tasks
        folder.write(_SLOTS, f"{host}\n" * lines)
    return {fact: shlex.quote(str(value)) for fact, value in plain.items()} | facts


def foreign_programs(script: Script, environment: Mapping[str, str]) -> list[str]:
    """Programs of the script's scheduler that are missing here, or do not know a local job."""
    home = environment_of(script.scheduler)
    if _is_inside(home, environment):
        return []
    body = dict(script.body)
    text = "\n".join(body.get(number, "") for number in range(1, len(script.lines) + 1))
    if next(mentions_in(text, script.scheduler), None) is None:
        return []
    found: dict[str, int] = {}
    for command in read_shell(text).commands:
        words = [(text[word.start : word.end], word.start) for word in words_of(command)]
        rest = itertools.dropwhile(lambda word: _BEFORE.fullmatch(word[0]), words)
        name, start = next(rest, ("", 0))
        is_own = re.search(rf"(?m)^\s*(?:function\s+)?{re.escape(name)}\s*\(\)", text)
        if name in home.programs and not is_own:
            found.setdefault(name, text.count("\n", 0, start) + 1)
    path = environment.get("PATH", "")
    gone = "is not on the PATH of this machine"
    other = "does not know this job, which is a local one"
    return [
        f"line {line}: `{name}` of {home.title} {other if shutil.which(name, path=path) else gone}"
        for name, line in found.items()
    ]


def _is_inside(home: Environment, environment: Mapping[str, str]) -> bool:
    """Whether this process runs inside an allocation of the scheduler."""
    return any(fact == "job_id" and environment.get(name) for name, fact in home.variables.items())
