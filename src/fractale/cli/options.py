"""Options that several commands share, and their meaning.

A command names its groups of options, and gets their parsed values as one `CommandLine`:

    @click.command("run")
    @click.argument("plan")
    @options.input_options
    @options.model_options
    @options.collected
    def command(plan: str, given: CommandLine) -> int: ...
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from fractale import shipped
from fractale.audit import AuditLog
from fractale.errors import AnswerError, InputError, PlanError, UsageError
from fractale.plan.model import Limits
from fractale.runs.workspace import Extensions
from fractale.settings import Settings, decide_for_children, load_settings
from fractale.settings.files import CONFIG_VARIABLE

MAX_INPUTS = 64 * 2**20
"""The most bytes of a file of inputs."""
OPEN_FILES = Path("/dev/fd")
"""Here a background process finds the JSON file of its inputs, which has no name."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """The parsed values of one command's shared options.

    Args:
        answers: Answers to all questions of the run.
        replies: Answers to the questions that a resumed run waits for, but not to later ones.
        run_id: The id for a new run.
        reuse: Of `RunOptions`.
        output: The output of the run to write to stdout.
        gives_outputs: Whether the outputs of the run may go to stdout.
    """

    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    extensions: Extensions = field(default_factory=Extensions)
    backend: str | None = None
    model: str | None = None
    store: str | None = None
    max_attempts: int | None = None
    limits: Limits = field(default_factory=Limits)
    answers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    replies: Mapping[str, str] = field(default_factory=dict[str, str])
    yes: bool = False
    as_json: bool = False
    quiet: bool = False
    detach: bool = False
    run_id: str | None = None
    reuse: bool | None = None
    output: str | None = None
    gives_outputs: bool = True

    def settings(self, *, acts: bool = False, check_state: bool = True) -> Settings:
        """The settings, overridden by these options; see `settings_of`.

        Raises:
            SettingsError: The settings are wrong, or not trusted.
        """
        settings = settings_of(acts=acts, check_state=check_state)
        return settings.with_flags(
            provider=self.backend,
            model=self.model,
            max_attempts=self.max_attempts,
            store=self.store,
        )


def collected(function: F) -> F:
    """Pass a command its shared options as one `CommandLine`, in the argument `given`."""

    @functools.wraps(function)
    def command(*args: Any, **typed: Any) -> Any:
        given = _read(typed)  # removes the shared options from `typed`
        return function(*args, given=given, **typed)

    return command  # pyright: ignore[reportReturnType] - click calls it, with what it parsed


def _read(typed: dict[str, Any]) -> CommandLine:
    take = typed.pop
    typed_json: bool = typed.get("as_json", False)
    return CommandLine(
        inputs=read_inputs(take("pairs", ()), take("inputs_file", None)),
        extensions=Extensions(registries=take("registries", ()), agents=take("agents", ())),
        backend=take("backend", None),
        model=take("model", None),
        store=take("store", None),
        max_attempts=take("max_attempts", None),
        limits=read_limits(take("limits", ())),
        answers={
            **read_answers_file(take("answers_file", None)),
            **read_answers(take("answers", ())),
        },
        replies=read_answers(take("replies", ())),
        yes=take("yes", False),
        as_json=take("as_json", False),
        quiet=take("quiet", False),
        detach=take("detach", False),
        run_id=take("new_id", None),
        reuse=_reuse(take("reuse", False), take("no_cache", False)),
        output=_only_output(take("output", None), as_json=typed_json),
    )


def _reuse(reuse: bool, no_cache: bool) -> bool | None:
    if reuse and no_cache:
        raise UsageError("--reuse and --no-cache exclude each other", hint="leave one out")
    return False if no_cache else reuse or None


def _only_output(name: str | None, *, as_json: bool) -> str | None:
    if name is not None and as_json:
        raise UsageError(
            "--output and --json exclude each other", hint="--json has all outputs at the end"
        )
    return name


# -- completion -----------------------------------------------------------------------------------


def complete_plans(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Plan files below the typed directory, and the plans that come with fractale."""
    del ctx, param
    return [*_files_like(incomplete, "plans"), *_shipped_like(incomplete, "plan")]


def complete_registries(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Registry files below the typed directory, and those that come with fractale."""
    del ctx, param
    return [*_files_like(incomplete, "registries"), *_shipped_like(incomplete, "registry")]


def complete_examples(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The names of ``fractale examples``."""
    del ctx, param
    names = {*shipped.files("plan"), *shipped.files("registry")}
    return sorted(name for name in names if name.startswith(incomplete))


def _files_like(incomplete: str, beside: str) -> list[str]:
    directory = Path(incomplete) if incomplete.endswith("/") else Path(incomplete or ".").parent
    found = [
        *directory.glob("*.yaml"),
        *directory.glob("*.yml"),
        *directory.glob(f"{beside}/*.yaml"),
    ]
    return sorted(str(p) for p in found if str(p).startswith(incomplete))


def _shipped_like(incomplete: str, kind: shipped.Kind) -> list[str]:
    names = [f"{shipped.SCHEME}{name}" for name in shipped.files(kind)]
    return [name for name in names if name.startswith(incomplete)]


# -- groups of options ----------------------------------------------------------------------------


def tool_options(function: F) -> F:
    """``-r`` and ``-a``: local tools and sub-agents."""
    registry = click.option(
        "-r",
        "--registry",
        "registries",
        multiple=True,
        type=click.Path(dir_okay=False, path_type=Path),
        shell_complete=complete_registries,
        help="Add the tools of a registry or server file, or of fractale:NAME. Repeatable.",
    )
    agent = click.option(
        "-a",
        "--sub-agent",
        "agents",
        multiple=True,
        metavar="PATH",
        help="Add a sub-agent by its dotted path, such as pkg.module.Agent. Repeatable.",
    )
    return registry(agent(function))


def model_options(function: F) -> F:
    """``--backend`` and ``--model``."""
    backend = click.option(
        "--backend",
        metavar="NAME",
        help="Model provider: gemini, openai, or local (in this process, without an API key).",
    )
    model = click.option("--model", metavar="PROVIDER:NAME", help="Use this model for every step.")
    return backend(model(function))


def store_option(function: F) -> F:
    """``--store``: where checkpoints are kept."""
    return click.option(
        "--store",
        metavar="URL",
        help="Keep checkpoints on a PostgreSQL server: postgresql://USER@HOST/DATABASE.",
    )(function)


def input_options(function: F) -> F:
    """``-i`` and ``--inputs``."""
    one = click.option(
        "-i",
        "--input",
        "pairs",
        multiple=True,
        metavar="NAME=VALUE",
        help="Set an input. Repeatable.",
    )
    file = inputs_file_option("Read inputs from a YAML or JSON file; -i overrides it.")
    return one(file(function))


def inputs_file_option(words: str) -> Callable[[F], F]:
    """``--inputs``."""
    path = click.Path(dir_okay=False, path_type=Path)
    return click.option("--inputs", "inputs_file", type=path, help=words)


def run_id_option(function: F) -> F:
    """``--run-id``: the id of a new run."""
    words = "Use this id for the run instead of a random one, such as job-$SLURM_JOB_ID."
    return click.option("--run-id", "new_id", metavar="ID", help=words)(function)


def plan_hash_option(function: F) -> F:
    """``--plan-hash``: of a background process, the plan that its user was shown."""
    return click.option("--plan-hash", "shown", hidden=True)(function)


def run_options(function: F) -> F:
    """The options that `run` and `resume` share."""
    options = [
        click.option("--max-attempts", type=click.IntRange(1), help="Maximum attempts per step."),
        click.option(
            "--limit",
            "limits",
            multiple=True,
            metavar="NAME=VALUE",
            help="Pause the run at a limit: steps, attempts, time (90s, 10m), tokens, cost, depth.",
        ),
        click.option(
            "--yes", is_flag=True, help="Approve all tool calls and plan drafts without asking."
        ),
        click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON event per line on stdout."
        ),
        click.option(
            "--output",
            metavar="NAME",
            help="Write only this output to stdout: a text as it is, anything else as JSON.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="Print only the final summary."),
        trust_option,
    ]
    for option in reversed(options):
        function = option(function)
    return function


def detach_option(function: F) -> F:
    """``--detach``."""
    words = "Exit while batch jobs run or a time passes; resume later with `fractale resume`."
    return click.option("--detach", is_flag=True, help=words)(function)


def reuse_option(function: F) -> F:
    """``--reuse``: tools that only read take over results of earlier runs."""
    words = "Take over the results of equal steps of earlier runs, for all tools that only read."
    return click.option("--reuse", is_flag=True, help=words)(function)


def cache_options(function: F) -> F:
    """``--reuse`` and ``--no-cache``: whether steps take over results of earlier runs."""
    no_cache = click.option(
        "--no-cache",
        is_flag=True,
        help="Make every call, also in steps that say `cache`; keep no results.",
    )
    return reuse_option(no_cache(function))


def answer_options(function: F) -> F:
    """``--answers`` and ``--answer``: answers to a run's questions, given beforehand."""
    return _answers_file(_answer("answers")(function))


def reply_options(function: F) -> F:
    """``--answers``, and ``--answer`` for the questions that a resumed run waits for now."""
    return _answers_file(_answer("replies")(function))


def _answers_file(function: F) -> F:
    return click.option(
        "--answers",
        "answers_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Read answers from a YAML or JSON file, by step or by the text of a question.",
    )(function)


def _answer(name: str) -> Callable[[F], F]:
    return click.option(
        "--answer",
        name,
        multiple=True,
        metavar="STEP=ANSWER",
        help="Answer the question of a step, such as submit=yes. Repeatable.",
    )


# -- their values ---------------------------------------------------------------------------------


def read_inputs(pairs: tuple[str, ...], file: Path | None) -> dict[str, Any]:
    """The inputs of a file and of ``-i`` together.

    Raises:
        InputError: The file cannot be read or is not a mapping, or a pair has no ``=``.
    """
    inputs: dict[str, Any] = {}
    if file is not None:
        inputs.update(_read_mapping(file))
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"`{pair}` is not a valid input; write NAME=VALUE")
        inputs[name.strip()] = value
    return inputs


def _read_mapping(file: Path) -> dict[str, Any]:
    import yaml

    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_INPUTS + 1)
        if len(text) > MAX_INPUTS:
            raise InputError(f"the inputs in {file} are larger than {MAX_INPUTS // 2**20} MiB")
        data = _json_in(file, text)
        if data is None:
            data = yaml.safe_load(text.decode())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the inputs in {file}: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} must be a mapping of input names to values")
    return {str(key): value for key, value in data.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - YAML is untyped


def _json_in(file: Path, text: bytes) -> Any:
    """The data of a JSON file; None if it is not one. YAML reads some of JSON's texts otherwise."""
    import json

    try:
        named = file.suffix == ".json" or file.parent == OPEN_FILES
        return json.loads(text) if named else None
    except ValueError:
        return None


def read_limits(pairs: tuple[str, ...]) -> Limits:
    """The limits of ``--limit``.

    Raises:
        UsageError: The limit is unknown, or its value is invalid.
    """
    from fractale.durations import parse_duration

    values: dict[str, Any] = {}
    readers: dict[str, Callable[[str], Any]] = {
        "steps": int,
        "attempts": int,
        "tokens": int,
        "cost": float,
        "depth": int,
        "node_hours": float,
        "core_hours": float,
        "gpu_hours": float,
        "jobs": int,
        "time": parse_duration,
    }
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in readers:
            raise UsageError(f"unknown limit `{name}`", hint=f"one of: {', '.join(readers)}")
        try:
            values[name] = readers[name](text)
        except ValueError as error:
            raise UsageError(f"--limit {pair}: {error}") from error
        if values[name] is None or values[name] <= 0:
            raise UsageError(f"--limit {pair}: must be greater than 0")
    return Limits(**values)


def read_answers(pairs: tuple[str, ...]) -> dict[str, str]:
    """The answers of ``--answer``.

    Raises:
        AnswerError: An answer has no ``=``, or a step is answered twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        step, equals, answer = pair.partition("=")
        if not equals or not step.strip():
            raise AnswerError(f"`{pair}` is not a valid answer; write STEP=ANSWER")
        if step.strip() in found:
            raise AnswerError(
                f"`{step.strip()}` is answered twice",
                hint="answer each of its questions by text in a file: --answers FILE",
            )
        found[step.strip()] = answer
    return found


def read_answers_file(file: Path | None) -> dict[str, Any]:
    """The answers of ``--answers``: step → answer, or question → answer; empty without a file.

    Raises:
        AnswerError: The file cannot be read, or is not a mapping.
    """
    if file is None:
        return {}
    from fractale.plan.source import read_file

    try:
        root = read_file(file)
    except PlanError as error:
        problem = error.problems[0]
        raise AnswerError(problem.message, position=problem.position) from error
    if not isinstance(root.value, dict):
        raise AnswerError(
            f"a file of answers is a mapping of steps to answers, not {root.found()}",
            hint="such as:  submit: yes",
            position=root.position,
        )
    return root.plain()


def warn_of_server(server: str, level: str, message: str) -> None:
    """Print a server's warnings and reports of waiting; its other log messages are left out."""
    from fractale.render.text import inert

    if level in ("warning", "error", "critical", "alert", "emergency"):
        click.echo(f"! {inert(server)}: {inert(message, 1000)}", err=True)


# -- the settings, and trust ----------------------------------------------------------------------


def trust_option(function: F) -> F:
    """``--trust-project``: for commands that start or send something by the settings."""
    return click.option(
        "--trust-project",
        is_flag=True,
        expose_value=False,
        callback=_keep_trust,
        help="Trust the project's settings for this command. See `fractale trust`.",
    )(function)


_TRUST: Final = "fractale.trust_project"
_PRINTED: Final = "fractale.printed"
"""Keys in the `meta` of a command's context."""


def _keep_trust(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.meta[_TRUST] = value


def trusts_project() -> bool:
    """Whether ``--trust-project`` was given."""
    ctx = click.get_current_context(silent=True)
    return bool(ctx and ctx.meta.get(_TRUST))


def trust_given(environment: Mapping[str, str]) -> str | None:
    """The option or variable that trusts everything for this command; None if neither is set."""
    if trusts_project():
        return "--trust-project"
    return CONFIG_VARIABLE if environment.get(CONFIG_VARIABLE) == "1" else None


def settings_of(*, acts: bool = False, check_state: bool = True) -> Settings:
    """The settings of the files and the environment.

    Args:
        acts: Whether the command starts or sends something by the settings. If so, and the
            project's file is not trusted, fractale asks the user on a terminal, and otherwise
            refuses the command. Other commands continue without the settings that wait for trust,
            and say so on stderr.
        check_state: Whether the command uses the state directory.

    Raises:
        SettingsError: The settings are wrong, or not trusted.
    """
    ctx = click.get_current_context(silent=True)
    trusts = trusts_project()
    settings = load_settings(trust_project=trusts, untrusted="narrow", check_state=check_state)
    _warn_of_project(settings, ctx, acts=acts)
    if acts and settings.project is not None and settings.project.config is not None:
        if trusts:
            AuditLog.of(settings).record(
                "trust",
                kind="project",
                path=str(settings.project.config.path),
                by="--trust-project",
            )
            decide_for_children(settings.project.config, trusted=True)
            settings = load_settings(untrusted="narrow", check_state=check_state)
        elif settings.waiting:
            from fractale.cli.consent import ask_about_project

            settings = ask_about_project(settings, check_state=check_state)
    return settings


def _warn_of_project(settings: Settings, ctx: click.Context | None, *, acts: bool) -> None:
    """Print, once, which settings of the project are ignored or still wait for trust."""
    from fractale.render.text import inert

    notes = [*(settings.project.passed_over if settings.project else ())]
    if settings.waiting and not acts and not settings.declined:
        keys = ", ".join(dict.fromkeys(each.key for each in settings.waiting))
        words = "settings of the project wait for your trust"
        notes.append(f"{words}: {keys}; see `fractale trust --show`")
    printed = ctx.meta.setdefault(_PRINTED, set[str]()) if ctx else set[str]()
    for note in notes:
        if note not in printed:
            printed.add(note)
            click.echo(f"! {inert(note, 1000)}", err=True)
