"""What the commands of a batch script find: variables, a launcher and programs, by scheduler.

Each home's `environment` has an `ENVIRONMENT`. The *facts* that variables tell, in words of no
scheduler:

- of the job: ``job_id``, ``name``, ``queue``, ``account``, ``user``, ``home``, ``submit_folder``
  (where it was submitted), ``submit_host``, ``host`` (where it runs), ``seconds`` (time limit).
- of an array: ``array_id``, ``array_index``, ``array_count``, ``array_first``, ``array_last``,
  ``array_step``.
- sizes: ``nodes``, ``tasks``, ``tasks_per_node``, ``cores_per_task``, ``cores_per_node``,
  ``gpus``, ``gpus_per_node``, ``gpus_per_task``, ``megabytes_per_node``; ``tasks_by_node`` and
  ``cores_by_node``, as ``4(x2)``.
- hosts: ``node_list`` (in one word, such as ``n[1-4]`` or ``n1,n2``), ``host_lines`` (one per
  line), ``host_words`` (one per task), ``host_file`` (a file, one per line), ``slot_file`` (a file
  with a line per task).
- of a process that the launcher starts: ``rank``, ``local_rank``, ``node_rank``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast

from fractale.schedulers.homes import READ, home

PROCESS: Final = frozenset({"rank", "local_rank", "node_rank"})
"""Facts of a process that a launcher starts, not of the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """An option of a launcher.

    Args:
        key: What it says, as other launchers' options say it; empty for what is its own.
        argument: ``optional`` is one that is only attached, with ``=``.
        values: Its values in common words; None: as written. One that is not among them is its
            own. An empty word is a value that says what is so anyway.
        read: What its value says, by key, where that is more than one thing; None for a value
            that is its own. Several ``variables`` are parted by newlines.
        essential: Whether the program does not do its work without it.
        of_job: Whether it is for a job that the launcher would make, as a queue is: inside of a
            job it does nothing.
    """

    key: str = ""
    argument: Literal["none", "required", "optional"] = "required"
    values: Mapping[str, str] | None = None
    read: Callable[[str], Mapping[str, str] | None] | None = None
    essential: bool = False
    of_job: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """A program that starts the processes of a parallel program.

    Args:
        options: By their spelling, with dashes.
        abbreviated: Whether a unique beginning of a long option stands for it.
        tasks: How many processes it starts unless told: one per task of the ``job``, ``one``, or
            those of its resource ``sets``.
        glued: Whether a letter's value may follow it without a blank.
        file: A file name in the marks of a `Request`, and ``{{step}}`` for the launch; None for one
            that cannot be said so.
    """

    options: Mapping[str, Flag]
    tasks: Literal["job", "one", "sets"] = "job"
    abbreviated: bool = False
    glued: bool = True
    file: Callable[[str], str | None] = str


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How a launcher is written.

    Args:
        program: Its words.
        options: Key → option, with ``{}`` for the value.
        values: Key → common word → its own.
        implied: Keys that it need not be told when they are as the job's directives have them.
        separator: Between several ``variables``; empty: each is an option of its own.
        tasks: As in `Launcher`; ``all`` is as many as MPI finds slots, so they are written.
        marks: Mark of a file name → what is written for it.
        literal: How what is no mark of a file name is written; None where it cannot be.
        reasons: Key → why it is left out, where that is not for want of an option.
    """

    program: str
    options: Mapping[str, str]
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    implied: frozenset[str] = frozenset()
    separator: str = ""
    tasks: Literal["job", "one", "all"] = "job"
    marks: Mapping[str, str] = field(default_factory=dict[str, str])
    literal: Callable[[str], str] = str
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A variable that a scheduler sets.

    Args:
        said: The fields of a `Request` one of which has to be said for it to be set; none:
            it is set in each job.
    """

    name: str
    said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the commands of one scheduler's scripts find.

    Args:
        variables: Name → fact, for reading.
        conditional: Variables that are set only if a field is said: name → fields.
        names: Fact → variable, for writing.
        commands: Fact → a command that prints it.
        printed: A command as written → the fact that it prints.
        pattern: A regular expression for the names of its variables.
        programs: Its programs, and what each does.
        subcommands: Of a program whose name is a word of the language too: what follows it.
        does: What a program does → the command that does it, where `programs` does not tell.
        own_job: What a program does with the job that it is given → the command, with ``{}`` for
            the job's id; the same words in each home: ``cancel``, ``show``.
        launchers: Program (or program and subcommand) → its options.
        launch: How a program is launched.
        starts_in: Where a job begins.
        finds_hosts: Whether an MPI's own ``mpirun`` finds the job's hosts.
        whole_nodes: Whether a job that has nodes to itself has all of their cores and GPUs, also
            those that its directives do not count.
        modules: Names of its environment modules.
    """

    name: str
    title: str
    variables: Mapping[str, str]
    conditional: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    names: Mapping[str, Name]
    commands: Mapping[str, str]
    printed: Mapping[str, str] = field(default_factory=dict[str, str])
    pattern: str
    programs: Mapping[str, str]
    subcommands: Mapping[str, str] = field(default_factory=dict[str, str])
    does: Mapping[str, str] = field(default_factory=dict[str, str])
    own_job: Mapping[str, str]
    launchers: Mapping[str, Launcher]
    launch: Writing | None
    starts_in: Literal["submit", "home"] = "submit"
    finds_hosts: bool = True
    whole_nodes: bool = False
    modules: tuple[str, ...] = ()

    def doing(self, deed: str) -> str | None:
        """The command that does what another scheduler's program does; None if there is none."""
        own = (name for name, what in self.programs.items() if what == deed)
        return self.does.get(deed) or next(own, None)


@functools.cache
def environment_of(scheduler: str) -> Environment:
    """What the commands of a scheduler's scripts find.

    Raises:
        ValueError: The scheduler is unknown.
    """
    return cast("Environment", home(scheduler, "environment").ENVIRONMENT)


OF_MPI: Final = frozenset({"mpirun", "mpiexec"})
"""What an MPI brings to start programs with, under any scheduler."""


def launchers() -> frozenset[str]:
    """The programs of one word that start the program that is named after their options."""
    homes = map(environment_of, READ)
    return OF_MPI.union(name for home in homes for name in home.launchers if " " not in name)


@functools.cache
def mentions_of(scheduler: str) -> re.Pattern[str]:
    """What in a text speaks to a scheduler.

    Its groups: ``variable``, ``program`` (with ``sub`` where its name alone says little),
    ``module`` and ``mark`` (a directive, in a text that the script writes).
    """
    home = environment_of(scheduler)
    plain = "|".join(re.escape(each) for each in home.programs if each not in home.subcommands)
    double = "|".join(
        rf"{re.escape(name)}[ \t]+(?P<sub>{words})(?![\w/.-])"
        for name, words in home.subcommands.items()
    )
    programs = "|".join(each for each in (double, rf"(?:{plain})" if plain else "") if each)
    modules = "|".join(map(re.escape, home.modules)) or r"(?!)"
    return re.compile(
        rf"(?P<variable>(?<![A-Za-z0-9_])(?:{home.pattern})(?![A-Za-z0-9_]))"
        rf"|(?:(?<![\w.@%+-])|(?<=:-))(?P<program>{programs})(?![\w@%+/-]|\.\w)"
        rf"|(?P<module>(?:module|ml)[ \t][^\n#;&|]*?(?<![\w-])(?:{modules})(?=[\s/]|$))",
        re.MULTILINE,
    )


@functools.cache
def _beginnings_of(scheduler: str) -> re.Pattern[str]:
    """What each of a scheduler's mentions begins with; each of its words begins with a letter.

    So it is found by the first letter, and what looks around it is tried at few places.
    """
    home = environment_of(scheduler)
    return re.compile("|".join((home.pattern, *map(re.escape, home.programs), "module", "ml")))


def mentions_in(text: str, scheduler: str) -> Iterator[re.Match[str]]:
    """The matches of `mentions_of` in a text, as its ``finditer`` gives them, in less time."""
    begins, mention = _beginnings_of(scheduler).search, mentions_of(scheduler).match
    at = 0
    while (begin := begins(text, at)) is not None:
        found = mention(text, begin.start())
        if found is not None:
            yield found
        at = found.end() if found is not None else begin.start() + 1
