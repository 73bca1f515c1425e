"""Translates a launcher's command for another launcher.

`read_launch` reads the words between the launcher's name and the program; `write_launch` writes
them for another launcher. Values are words of a shell (``8``, ``$N``, ``"$N"``) and stay unchanged.
A product of two values becomes an arithmetic expansion of the shell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fractale.schedulers.environment import Flag, Launcher, Writing
from fractale.schedulers.request import Request, write_name

_ORDER: Final = (
    *("nodes", "tasks", "tasks_per_node", "cores_per_task", "gpus_per_task", "gpus_per_node"),
    *("gpus", "whole_nodes", "alone", "mpi", "bind", "distribution", "hosts", "kill", "name"),
    *("workdir", "label", "unbuffered", "input", "output", "error", "variables"),
)


@dataclass(slots=True)
class Launch:
    """The options of a launcher's command.

    Args:
        said: Key → words of the shell; empty for a switch.
        texts: Key → the option as written.
        own: Options as written that only this launcher has.
        of_job: Options that belong to a job, such as a queue.
        unnamed: Options with a file name that only this launcher can express.
        count: Number of words of all options.
    """

    said: dict[str, str] = field(default_factory=dict[str, str])
    texts: dict[str, str] = field(default_factory=dict[str, str])
    own: list[str] = field(default_factory=list[str])
    of_job: list[str] = field(default_factory=list[str])
    unnamed: list[str] = field(default_factory=list[str])
    count: int = 0


class UnclearError(ValueError):
    """The words have no exact equivalent for another launcher; the message says why."""


def read_launch(words: Sequence[str], launcher: Launcher) -> Launch:
    """Read a launcher's options, up to the first word that is not an option.

    Raises:
        UnclearError: An option is unknown, so that the start of the program is unclear.
    """
    launch = Launch()
    while launch.count < len(words):
        word = words[launch.count]
        if word == "--":
            launch.count += 1
            break
        if not word.startswith("-") or word == "-":
            break
        flag, value = _flag(word, launcher)
        text = word
        launch.count += 1
        if value is None and flag.argument == "required":
            if launch.count >= len(words):
                raise UnclearError(f"`{word}` has no value")
            value = words[launch.count]
            text = f"{word} {value}"
            launch.count += 1
        if flag.essential:
            raise UnclearError(f"`{text}` has no counterpart")
        _take(launch, launcher, flag, value, text)
    return launch


def _flag(word: str, launcher: Launcher) -> tuple[Flag, str | None]:
    """Find the option that a word names, and the value in the word."""
    name, equals, value = word.partition("=")
    flag = launcher.options.get(name)
    if flag is None and word.startswith("--") and launcher.abbreviated:
        found = [each for each in launcher.options if each.startswith(name)]
        flags = {id(launcher.options[each]): launcher.options[each] for each in found}
        flag = next(iter(flags.values())) if len(flags) == 1 else None
    if flag is not None and (not equals or name.startswith("--")):
        return flag, value if equals else None
    flag = launcher.options.get(word[:2])
    if flag is None or word.startswith("--") or not launcher.glued:
        raise UnclearError(f"`{name}` is an option that fractale does not know")
    if flag.argument == "none":  # several letters together
        raise UnclearError(f"`{word}` may be several options")
    return flag, word[2:]


def _take(launch: Launch, launcher: Launcher, flag: Flag, value: str | None, text: str) -> None:
    if flag.of_job:
        launch.of_job.append(text)
        return
    if flag.read is not None:
        found = flag.read(value or "")
    elif not flag.key:
        found = None
    elif flag.values is None:
        word = launcher.file(value or "") if flag.key in _FILES else value or ""
        found = None if word is None else {flag.key: word} if word else {}
        if not value:
            found = {flag.key: ""}
    else:
        word = flag.values.get(value or "")
        found = None if word is None else {flag.key: word} if word else {}
    if found is None:
        (launch.unnamed if flag.key in _FILES else launch.own).append(text)
        return
    for key, said in found.items():
        earlier = launch.said.get(key) if key == "variables" else None
        launch.said[key] = said if earlier is None else f"{earlier}\n{said}"
        launch.texts[key] = text


@dataclass(frozen=True, slots=True)
class WrittenLaunch:
    """A launch in the words of another launcher.

    Args:
        text: The launcher and its options.
        left_out: Omitted options as written, each with the reason.
        no_gpus: Why the program does not get its GPUs; empty if it does.
        uses: Resources that the launch uses at a time.
    """

    text: str
    left_out: tuple[tuple[str, str], ...]
    uses: Uses
    no_gpus: str = ""


@dataclass(frozen=True, slots=True)
class Uses:
    """Numbers of tasks, cores and GPUs of a launch; 0 if only the shell knows the number."""

    tasks: int = 0
    cores: int = 0
    gpus: int = 0


def write_launch(
    launch: Launch, launcher: Launcher, writing: Writing, request: Request, *, title: str
) -> WrittenLaunch:
    """Write a launch for another launcher.

    Args:
        request: The job's request.
        title: Name of the target scheduler, for users.

    Raises:
        UnclearError: The size of the launch is unclear.
    """
    sizes = _Sizes(launch, launcher, request)
    sizes.by_task = "gpus_per_task" in writing.options
    sizes.settle()
    uses = sizes.uses()
    if writing.tasks != "job":
        sizes.state()
    sizes.fit(writing)
    said = sizes.said
    left = [(text, _NOT_KNOWN.format(title, writing.program)) for text in launch.own]
    left += [(text, _OF_JOB) for text in launch.of_job]
    left += [(text, _NO_NAME) for text in launch.unnamed]
    words = [writing.program]
    for key in _ORDER:
        if key not in said:
            continue
        text = launch.texts.get(key, "")
        word = writing.values.get(key, {said[key]: said[key]}).get(said[key])
        if key in _FILES and key in writing.options:
            word, why = _file(said[key], writing, request)
            if word is None:
                left.append((text, why))
                continue
        if key in writing.options and word is not None:
            words += _option(writing, key, word)
        elif text and not (key in writing.implied and sizes.as_job(key)):
            left.append((text, writing.reasons.get(key, _LACKS.format(title, writing.program))))
    left += [(launch.texts.get(key, key), why) for key, why in sizes.lost.items()]
    seen: dict[str, str] = {}
    for text, why in left:
        seen.setdefault(text, why)
    return WrittenLaunch(" ".join(words), tuple(seen.items()), uses, sizes.no_gpus)


def tasks_of(launch: Launch, launcher: Launcher, request: Request) -> str:
    """Find the number of tasks of a launch, as a word of the shell.

    Args:
        request: The job's request.

    Raises:
        UnclearError: The size of the launch is unclear.
    """
    sizes = _Sizes(launch, launcher, request)
    sizes.settle()
    return sizes.said.get("tasks") or str(request.totals().tasks)


_LACKS: Final = "left out: {}'s `{}` has no such option"
_NOT_KNOWN: Final = "left out: fractale knows no option of {}'s `{}` that says it"
_OF_JOB: Final = "left out: it belongs to the job, whose directives say it"
_NO_NAME: Final = "left out: no other launcher has such a name of a file"
_FILES: Final = frozenset({"output", "error", "input"})


def _file(name: str, writing: Writing, request: Request) -> tuple[str | None, str]:
    """Write a file name with a launcher's marks; None, and the reason, if it lacks one of them."""
    marks = dict(writing.marks)
    if request.name and re.fullmatch(r"[\w.+-]+", request.name):
        marks.setdefault("name", request.name)
    text, missing = write_name(name, marks, writing.literal)
    if missing:
        return None, f"left out: `{writing.program}` has no mark for the {', '.join(missing)} in it"
    if name.startswith("'") and "$" in text:
        return None, "left out: in quotes, the shell does not replace the mark"
    if (text.count("{{") and "{{" in re.sub(r"\{\{\w+\}\}", "", name)) or not text:
        return None, f"left out: `{writing.program}` would replace the marks in it"
    return text, ""


def _option(writing: Writing, key: str, value: str) -> list[str]:
    option = writing.options[key]
    if not option:
        return []
    if key != "variables":
        return [option.format(value)]
    values = value.split("\n")
    return [
        option.format(each)
        for each in ([writing.separator.join(values)] if writing.separator else values)
    ]


class _Sizes:
    """The sizes of a launch: as given, as implied, and as another launcher can express them."""

    def __init__(self, launch: Launch, launcher: Launcher, request: Request) -> None:
        self.said = dict(launch.said)
        self.texts = launch.texts
        self.launcher, self.request = launcher, request
        self.total = request.totals()
        self.lost: dict[str, str] = {}
        self.no_gpus = ""
        self.by_task = True
        """Whether the target launcher assigns GPUs."""
        self.inherits = launcher.tasks == "job"
        """Whether the launch inherits missing sizes from the job."""

    def settle(self) -> None:
        """Determine the number of tasks, unless it is one per task of the job."""
        said = self.said
        if self.launcher.tasks == "sets":
            self._sets()
        if said.pop("as_job", None) is not None:  # aprun -B
            self.inherits = True
        elif "tasks" not in said:
            self._tasks()

    def _tasks(self) -> None:
        said = self.said
        nodes, per_node = said.get("nodes"), said.get("tasks_per_node")
        if per_node and (nodes or self.total.nodes):
            said["tasks"] = times(nodes or str(self.total.nodes), per_node)
        elif per_node:
            raise UnclearError("how many nodes the job has is not said")
        elif not self.inherits:
            said["tasks"] = nodes or "1"
        elif nodes and nodes != str(self.total.nodes):
            if self.request.tasks or self.request.tasks_per_node:
                raise UnclearError("how many tasks it starts on fewer nodes depends on the version")
            said["tasks"] = nodes
        elif nodes and not (self.request.tasks or self.request.tasks_per_node):
            said["tasks"] = nodes

    def _sets(self) -> None:
        """Convert resource sets, as jsrun has them."""
        said = self.said
        each = said.pop("tasks_per_set", "1")
        on_node = said.pop("sets_per_node", None)
        sets = said.pop("sets", None)
        if sets is None and on_node and self.total.nodes:
            sets = times(str(self.total.nodes), on_node)
        if "tasks" not in said:
            if sets is None:
                raise UnclearError("how many resource sets there are is not said")
            if not _is_number(sets):
                raise UnclearError(f"`{sets}` resource sets are as many as the hosts allow")
            said["tasks"] = times(sets, each)
        if on_node:
            said["tasks_per_node"] = times(on_node, each)
            self.texts["tasks_per_node"] = self.texts.get("sets_per_node", "")
        self._set_cores(each)
        self._set_gpus(each, on_node)

    def _set_cores(self, each: str) -> None:
        cores = self.said.pop("cores_per_set", None)
        text = self.texts.get("cores_per_set", "")
        if cores is None or cores == each:
            return
        per_task = _quotient(cores, each)
        if per_task is None:
            self.lost[text] = f"left out: its cores do not divide evenly over {each} tasks"
            return
        self.said["cores_per_task"], self.texts["cores_per_task"] = per_task, text

    def _set_gpus(self, each: str, on_node: str | None) -> None:
        gpus = self.said.pop("gpus_per_set", None)
        text = self.texts.get("gpus_per_set", "")
        if gpus is None or gpus == "0":
            return
        per_task = _quotient(gpus, each)
        if per_task is not None:
            self.said["gpus_per_task"], self.texts["gpus_per_task"] = per_task, text
        elif on_node:
            self.said["gpus_per_node"], self.texts["gpus_per_node"] = times(on_node, gpus), text
        else:
            self.lost[text] = f"left out: its GPUs do not divide evenly over {each} tasks"

    def uses(self) -> Uses:
        """The resources that the launch uses, as far as its sizes are numbers."""
        said = {key: int(value) for key, value in self.said.items() if _is_decimal(value)}
        tasks = said.get("tasks", 0 if "tasks" in self.said else self.total.tasks)
        nodes = said.get("nodes", self.total.nodes or 1)
        gpus = said.get("gpus", 0)
        gpus = gpus or said.get("gpus_per_node", 0) * nodes or said.get("gpus_per_task", 0) * tasks
        return Uses(tasks, tasks * said.get("cores_per_task", 1), gpus)

    def state(self) -> None:
        """Add the sizes for a launcher that does not know the job's sizes."""
        said, total = self.said, self.total
        if "tasks" not in said:
            said["tasks"] = str(total.tasks)
        if not self.inherits:
            return
        tasks = int(said["tasks"]) if _is_decimal(said["tasks"]) else None
        nodes = total.nodes or 0
        if tasks is not None and tasks == total.tasks and 1 < nodes <= tasks:
            said.setdefault("nodes", str(nodes))
        cores = self.request.cores_per_task
        if cores and cores > 1 and (tasks or 1) * cores <= total.cores:
            said.setdefault("cores_per_task", str(cores))
        if (
            total.gpus
            and self.by_task
            and not ({"gpus", "gpus_per_node", "gpus_per_task"} & said.keys())
        ):
            self._state_gpus(tasks)

    def _state_gpus(self, tasks: int | None) -> None:
        """Assign to a launch the GPUs that it would see: all, those of its host, or its share."""
        said, total = self.said, self.total
        on_host = total.gpus // total.nodes if total.nodes else None
        if tasks == total.tasks:
            said["gpus"] = str(total.gpus)
        elif tasks == 1 and on_host:
            said["gpus_per_task"] = str(on_host)
        elif total.gpus % total.tasks == 0:
            said["gpus_per_task"] = str(total.gpus // total.tasks)
        elif self._nodes() == 1:
            said["gpus"] = str(total.gpus)
        else:
            self.no_gpus = "how many of the job's GPUs it is to have is not clear"

    def fit(self, writing: Writing) -> None:
        """Convert sizes for a launcher that has only sizes per task."""
        said = self.said
        if "tasks_per_node" in said and "tasks_per_node" not in writing.options:
            self._fit_nodes()
        for key in ("gpus_per_node", "gpus"):
            if key in said and key not in writing.options and "gpus_per_task" in writing.options:
                self._fit_gpus(key, writing)

    def _fit_nodes(self) -> None:
        said = self.said
        nodes = _ratio(said["tasks"], said["tasks_per_node"], up=True)
        if "nodes" not in said and nodes is not None:
            said["nodes"] = nodes
        if (
            "nodes" in said
            and nodes is None
            and said["tasks"] == times(said["nodes"], said["tasks_per_node"])
        ):
            nodes = said["nodes"]
        if nodes is not None and nodes == said["nodes"]:
            del said["tasks_per_node"]

    def _fit_gpus(self, key: str, writing: Writing) -> None:
        said = self.said
        gpus = said.pop(key)
        if key == "gpus_per_node":
            gpus = times(said.get("nodes") or str(self.total.nodes or 1), gpus)
        per_task = _ratio(gpus, said["tasks"], up=False)
        if per_task == "0":
            return
        if per_task is not None:
            said["gpus_per_task"] = per_task
        elif self._nodes() and (
            said["tasks"] == str(self.total.tasks) or gpus == str(self.total.gpus)
        ):
            said["nodes"], said["whole_nodes"] = str(self._nodes()), ""
        else:
            self.no_gpus = (
                f"{gpus} GPUs do not divide evenly over {said['tasks']} tasks,"
                f" and `{writing.program}` gives them by task: the program gets none"
            )

    def _nodes(self) -> int | None:
        """The job's number of nodes; one if its GPUs are in one chunk."""
        nodes, total = self.total.nodes, self.total
        return 1 if nodes is None and math.gcd(total.gpus, total.cores) == 1 else nodes

    def as_job(self, key: str) -> bool:
        """Whether a size equals that of the job's directives."""
        value = self.said[key]
        tasks = self.said.get("tasks", "")
        if key == "nodes":
            return value == "1" == tasks or value == str(self.total.nodes)
        if key == "tasks_per_node":
            nodes = self.total.nodes
            return bool(nodes) and value == _ratio(str(self.total.tasks), str(nodes), up=False)
        return value in ("1", str(self.request.cores_per_task))


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _is_number(text: str) -> bool:
    """Whether a word may be a number: it is one, or the shell expands it to one."""
    return _is_decimal(text) or "$" in text or "`" in text


def _bare(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def times(one: str, other: str) -> str:
    """Multiply two words of a shell.

    Raises:
        UnclearError: One of the words is not a number.
    """
    one, other = _bare(one), _bare(other)
    if _is_decimal(one) and _is_decimal(other):
        return str(int(one) * int(other))
    if "1" in (one, other):
        return other if one == "1" else one
    if not _is_number(one) or not _is_number(other):
        raise UnclearError(f"`{one}` times `{other}` is not a number")
    inner = [re.fullmatch(r"\$\(\((.*)\)\)", each) for each in (one, other)]
    parts = [f"({m[1]})" if m else each for m, each in zip(inner, (one, other), strict=True)]
    return f"$(({parts[0]} * {parts[1]}))"


def _quotient(one: str, other: str) -> str | None:
    """Divide a part of a resource set by its tasks; None if it does not divide evenly."""
    if other == "1":
        return one
    return _ratio(one, other, up=False)


def _ratio(one: str, other: str, *, up: bool) -> str | None:
    """Divide two numbers, rounding up if asked; otherwise None if they do not divide evenly."""
    one, other = _bare(one), _bare(other)
    if not (_is_decimal(one) and _is_decimal(other)) or int(other) == 0:
        return None
    if int(one) % int(other) and not up:
        return None
    return str(-(-int(one) // int(other)))


_PLAIN: Final = re.compile(r"[\w.+:@()/-]+")


def known(request: Request) -> Mapping[str, str]:
    """Find the facts of `fractale.schedulers.environment` that a request gives as numbers."""
    total, array = request.totals(), request.array
    nodes = None if request.most_nodes and request.most_nodes != request.nodes else total.nodes
    per_node = request.tasks_per_node or (
        total.tasks // nodes if nodes and total.tasks % nodes == 0 else None
    )
    cores = request.cores_per_node or (
        total.cores // nodes if nodes and total.cores % nodes == 0 else None
    )
    gpus = request.gpus_per_node or (
        total.gpus // nodes if nodes and total.gpus % nodes == 0 else None
    )
    seconds = request.seconds
    found: dict[str, object | None] = {
        "name": request.name,
        "queue": request.queues[0] if len(request.queues) == 1 else None,
        "account": request.account,
        "nodes": nodes,
        "tasks": total.tasks,
        "tasks_per_node": per_node,
        "cores_per_task": request.cores_per_task or 1,
        "cores_per_node": cores,
        "tasks_by_node": _by_node(per_node, nodes),
        "cores_by_node": _by_node(cores, nodes),
        "gpus": total.gpus or None,
        "gpus_per_node": gpus or None,
        "gpus_per_task": request.gpus_per_task,
        "megabytes_per_node": request.memory_per_node and request.memory_per_node // 2**20,
        "seconds": int(seconds) if seconds and seconds < 1e9 else None,
    }
    if array is not None:
        indices = array.indices
        found |= {"array_count": len(indices), "array_first": indices[0], "array_last": indices[-1]}
        found["array_step"] = array.spans[0].step if len(array.spans) == 1 else None
    return {
        key: str(value)
        for key, value in found.items()
        if value is not None and _PLAIN.fullmatch(str(value))
    }


def _by_node(amount: int | None, nodes: int | None) -> str | None:
    if amount is None or nodes is None:
        return None
    return str(amount) if nodes == 1 else f"{amount}(x{nodes})"
