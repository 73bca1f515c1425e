"""The environment of a batch script's commands, by scheduler: variables, launchers, programs.

Each scheduler's package has an `ENVIRONMENT` in its module `environment`. Variables give
*facts*, which have the same names for every scheduler:

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
"""Facts about a process that a launcher starts, rather than about the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """An option of a launcher.

    Args:
        key: The option's common name, shared with other launchers; empty for a private option.
        argument: An ``optional`` argument is attached with ``=``.
        values: Its values → common words; None: as written. A value that is missing here is private
            to the launcher. An empty word marks the default.
        read: Splits a value into several keys; returns None for a private value. Newlines separate
            several ``variables``.
        essential: Whether the program does not do its work without the option.
        of_job: Whether the option belongs to a job that the launcher would make, such as a queue.
            Inside a job it has no effect.
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
        options: Spelling, with dashes → option.
        abbreviated: Whether a unique prefix of a long option is valid.
        tasks: Default number of processes: one per task of the ``job``, ``one``, or the number of
            its resource ``sets``.
        glued: Whether a value may follow a letter without a blank.
        file: Converts a file name to the marks of a `Request`, and ``{{step}}`` for the launch;
            returns None if no marks can express it.
    """

    options: Mapping[str, Flag]
    tasks: Literal["job", "one", "sets"] = "job"
    abbreviated: bool = False
    glued: bool = True
    file: Callable[[str], str | None] = str


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """The spelling of a launch for one scheduler.

    Args:
        program: The launcher's words.
        options: Key → option, with ``{}`` for the value.
        values: Key → common word → the launcher's own word.
        implied: Keys that may be omitted if they equal the job's directives.
        separator: Separates several ``variables``; empty: one option per variable.
        tasks: As in `Launcher`. ``all`` means as many as MPI finds slots, so the number is written.
        marks: Mark of a file name → the launcher's own mark.
        literal: Escapes the text between marks of a file name; returns None if it cannot.
        reasons: Key → why it is omitted, unless the launcher just lacks the option.
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
        said: Fields of a `Request`: the variable is set if the request sets one of them. Empty: the
            variable is set in every job.
    """

    name: str
    said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The environment of the commands in one scheduler's scripts.

    Args:
        variables: Name → fact, for reading.
        conditional: Variables that are set only if the request sets a field: name → fields.
        names: Fact → variable, for writing.
        commands: Fact → a command that prints it.
        printed: A command as written → the fact that it prints.
        pattern: A regular expression for the names of its variables.
        programs: Its programs → their purpose.
        subcommands: For programs whose name is also an English word: name → the words that follow
            it.
        does: Purpose of a program → the command for it, if `programs` does not show it.
        own_job: Purpose of a program that acts on a job (``cancel``, ``show``; the same in each
            package) → the command, with ``{}`` for the job's id.
        launchers: Program (or program and subcommand) → its options.
        launch: The spelling of a launch.
        starts_in: The directory in which a job begins.
        finds_hosts: Whether an MPI's own ``mpirun`` finds the job's hosts.
        whole_nodes: Whether a job with exclusive nodes has all of their cores and GPUs, including
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
        """Find the command for the purpose of another scheduler's program; None without one."""
        own = (name for name, what in self.programs.items() if what == deed)
        return self.does.get(deed) or next(own, None)


@functools.cache
def environment_of(scheduler: str) -> Environment:
    """Get the environment of the commands in a scheduler's scripts.

    Raises:
        ValueError: The scheduler is unknown.
    """
    return cast("Environment", home(scheduler, "environment").ENVIRONMENT)


OF_MPI: Final = frozenset({"mpirun", "mpiexec"})
"""Launchers that an MPI brings, under any scheduler."""


def launchers() -> frozenset[str]:
    """List the one-word launchers: programs that start the program named after their options."""
    homes = map(environment_of, READ)
    return OF_MPI.union(name for home in homes for name in home.launchers if " " not in name)


@functools.cache
def mentions_of(scheduler: str) -> re.Pattern[str]:
    """Make the pattern for the scheduler-specific parts of a text.

    Its groups are ``variable``, ``program`` (with ``sub`` if the name alone is ambiguous) and
    ``module``.
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
    """Make a pattern for the first letters of a scheduler's mentions.

    It is fast, so that the full pattern with its lookarounds is tried at few positions.
    """
    home = environment_of(scheduler)
    return re.compile("|".join((home.pattern, *map(re.escape, home.programs), "module", "ml")))


def mentions_in(text: str, scheduler: str) -> Iterator[re.Match[str]]:
    """Yield the matches of `mentions_of`, in the order of its ``finditer``, but faster."""
    begins, mention = _beginnings_of(scheduler).search, mentions_of(scheduler).match
    at = 0
    while (begin := begins(text, at)) is not None:
        found = mention(text, begin.start())
        if found is not None:
            yield found
        at = found.end() if found is not None else begin.start() + 1
