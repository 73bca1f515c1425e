"""The directives of Cobalt scripts. fractale reads them and does not write them.

The options are those of Cobalt's qsub (src/clients/POSIX/qsub.py of Cobalt 1.0). It uses optparse,
so a long name may be abbreviated. Argonne ran Cobalt until 2023: its scripts are translated for
other schedulers, but no scripts are translated for Cobalt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from fractale.schedulers.options import Option, OptionTable, getopt
from fractale.schedulers.reading import Draft, Gathered, split_words, whole
from fractale.schedulers.request import Dependency, Request
from fractale.schedulers.script import Directive, Reading, Remark, Written

_COBALT_MARK: Final = re.compile(r"\s*#COBALT\s+")
_OPTIONS: Final = OptionTable(
    (
        Option("project", "A"),
        Option("attrs"),
        Option("cwd"),
        Option("debuglog"),
        Option("dependencies"),
        Option("disable_preboot", "", "none"),
        Option("env"),
        Option("error", "e"),
        Option("geometry"),
        Option("held", "h", "none"),
        Option("inputfile", "i"),
        Option("interactive", "I", "none"),
        Option("ion_kernel"),
        Option("ion_kerneloption"),
        Option("jobname"),
        Option("kernel"),
        Option("kerneloptions", "K"),
        Option("mode"),
        Option("nodecount", "n"),
        Option("notify", "M"),
        Option("output", "o"),
        Option("outputprefix", "O"),
        Option("preemptable", "", "none"),
        Option("proccount"),
        Option("queue", "q"),
        Option("run_project", "", "none"),
        Option("run_users"),
        Option("time", "t"),
        Option("umask", "u"),
        Option("user_list"),
        Option("debug", "d", "none"),
        Option("verbose", "v", "none"),
    )
)

_ABOUT: Final = {"nodecount": "nodes", "proccount": "tasks", "dependencies": "dependencies"}


class Cobalt:
    """Argonne's Cobalt. fractale reads its scripts and does not write them."""

    name = "cobalt"
    title = "Cobalt"
    mark = "#COBALT"
    defaults = Request(join=False, export=False)
    slots = False
    guard = ""
    against_dos = ""

    def is_directive(self, line: str) -> bool:
        match = _COBALT_MARK.match(line) if "#COBALT" in line else None
        return match is not None and line[match.end() :].startswith("-")

    def about(self, directive: Directive) -> str:
        if directive.option == "attrs":
            return "gpus" if "gpu" in directive.value else ""
        return _ABOUT.get(directive.option, "")

    def read(self, lines: Sequence[str]) -> Reading:
        return _Reader(lines).reading()

    def write(self, request: Request) -> Written:
        """Not supported.

        Raises:
            ValueError: Always.
        """
        del request
        raise ValueError("fractale reads scripts of Cobalt, and does not write any")


DIALECT: Final = Cobalt()


class _Reader:
    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._numbers: set[int] = set()
        self._found = Gathered()

    def reading(self) -> Reading:
        for number, text in self._directives():
            self._line(number, text)
        found = self._found
        prefix = found.fields.pop("prefix", None)
        if prefix is not None:
            found.fields.setdefault("output", f"{prefix}.output")
            found.fields.setdefault("error", f"{prefix}.error")
        if found.drafts and not {"nodes", "seconds"} <= found.fields.keys():
            why = (
                "Cobalt's qsub needs a number of nodes and a time, on its command line if not here"
            )
            found.remarks.append(Remark(line=0, text="", why=why))
        return self._found.reading("Cobalt's qsub", self._numbers)

    def _directives(self) -> Iterator[tuple[int, str]]:
        passed = False
        for number, line in enumerate(self._lines, 1):
            if not DIALECT.is_directive(line):
                bare = line.lstrip()
                passed = passed or bool(bare and not bare.startswith("#"))
            elif passed:
                why = "Cobalt does not read it: it is below the first command"
                self._found.remarks.append(Remark(line=number, text=line.strip(), why=why))
            else:
                self._numbers.add(number)
                yield number, _COBALT_MARK.sub("", line, count=1)

    def _line(self, number: int, text: str) -> None:
        words, unclosed = split_words(text, comments=False)
        if unclosed:
            self._found.refuse(number, text.strip(), f"a quote {unclosed} is not closed")
        for given in getopt(words, _OPTIONS):
            if given.option is None and not given.text.startswith("-"):
                why = "it is not an option: Cobalt's qsub may read it as the program"
                self._found.remarks.append(Remark(line=number, text=given.text, why=why))
                continue
            if given.option is None or given.why:
                draft = self._found.draft(number, given.text, "", given.text)
                draft.invalid = given.why or f"Cobalt's qsub has no option `{given.text}`"
                continue
            option = given.option.name
            draft = self._found.draft(number, option, given.value or "", given.text)
            try:
                self._option(draft, option, given.value or "")
            except ValueError as error:
                draft.invalid = str(error)

    def _option(self, draft: Draft, option: str, value: str) -> None:
        if option in _TEXTS:
            self._found.set(draft, **{_TEXTS[option]: value})
        elif option in _HANDLERS:
            _HANDLERS[option](self, draft, value)
        else:
            draft.untold.append(f"Cobalt's option {option}")

    def queue(self, draft: Draft, value: str) -> None:
        self._found.set(draft, queues=(value,))

    def nodes(self, draft: Draft, value: str) -> None:
        # Cobalt allocates whole nodes only.
        self._found.set(draft, nodes=whole(value, "nodes"), exclusive=True)

    def tasks(self, draft: Draft, value: str) -> None:
        self._found.set(draft, tasks=whole(value, "processes"))

    def time(self, draft: Draft, value: str) -> None:
        self._found.set(draft, seconds=read_time(value))

    def file(self, draft: Draft, value: str) -> None:
        self._found.set(draft, **{draft.option.removesuffix("file"): _file(value)})

    def prefix(self, draft: Draft, value: str) -> None:
        self._found.fields["prefix"] = _file(value)
        draft.sets("output", "error")

    def mail_to(self, draft: Draft, value: str) -> None:
        self._found.set(draft, mail_to=tuple(filter(None, re.split(r"[:,]", value))))

    def hold(self, draft: Draft, value: str) -> None:
        del value
        self._found.set(draft, hold=True)

    def depend(self, draft: Draft, value: str) -> None:
        jobs = tuple(filter(None, re.split(r"[:,]", value)))
        self._found.set(draft, dependencies=(Dependency(kind="afterok", jobs=jobs),))

    def variables(self, draft: Draft, value: str) -> None:
        self._found.set(draft, variables=tuple(re.split(r":(?=\w+=)", value)))

    def mode(self, draft: Draft, value: str) -> None:
        """``script``, or processes per node: ``c16``."""
        if match := re.fullmatch(r"c(\d+)", value):
            self._found.set(draft, tasks_per_node=whole(match[1], "processes"))
        elif value == "script":
            draft.untold.append("the job is a script, as all jobs of other schedulers are")
        else:
            draft.untold.append(f"the mode {value}")

    def attributes(self, draft: Draft, value: str) -> None:
        others = [each for each in value.split(":") if each and not each.startswith("location=")]
        for each in value.split(":"):
            if each.startswith("location="):
                self._found.set(draft, hosts=tuple(each.removeprefix("location=").split(",")))
        if others:
            other = (*self._found.fields.get("other", ()), *others)
            self._found.set(draft, other=tuple(dict.fromkeys(other)))


_HANDLERS: Final[dict[str, Callable[[_Reader, Draft, str], None]]] = {
    "attrs": _Reader.attributes,
    "dependencies": _Reader.depend,
    "env": _Reader.variables,
    "error": _Reader.file,
    "held": _Reader.hold,
    "inputfile": _Reader.file,
    "mode": _Reader.mode,
    "nodecount": _Reader.nodes,
    "notify": _Reader.mail_to,
    "output": _Reader.file,
    "outputprefix": _Reader.prefix,
    "proccount": _Reader.tasks,
    "queue": _Reader.queue,
    "time": _Reader.time,
}
_TEXTS: Final = {"project": "account", "jobname": "name", "cwd": "workdir"}


def read_time(text: str) -> int:
    """Cobalt's time: minutes, ``H:M`` or ``H:M:S``, in seconds.

    Raises:
        ValueError: The text is not a time in one of these forms.
    """
    if not re.fullmatch(r"[0-9]{1,9}(:[0-9]{1,9}){0,2}", text):
        raise ValueError(f"`{text}` is not a time such as 30 or 01:10:20")
    parts = [int(part) for part in text.split(":")]
    hours, minutes, seconds = ([0, *parts, 0] if len(parts) == 1 else [*parts, 0])[:3]
    return hours * 3600 + minutes * 60 + seconds


def _file(value: str) -> str:
    if not value or "{{" in value:
        raise ValueError(f"`{value}` is not a valid file name")
    return re.sub(r"\$(jobid|COBALT_JOBID|\{COBALT_JOBID\})", "{{id}}", value)
