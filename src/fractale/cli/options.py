"""Options that several commands share, and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from fractale.audit import AuditLog
from fractale.errors import InputError, UsageError
from fractale.plan.model import Limits
from fractale.settings import Settings, decide_for_children, load_settings
from fractale.settings.files import CONFIG_VARIABLE

MAX_INPUTS = 64 * 2**20
"""Bytes of a file of inputs."""

F = TypeVar("F", bound=Callable[..., Any])


def tool_options(function: F) -> F:
    """``-r`` and ``-a``: local tools and sub-agents."""
    registry = click.option(
        "-r",
        "--registry",
        "registries",
        multiple=True,
        type=click.Path(dir_okay=False, path_type=Path),
        help="A registry or server file whose tools the run may use. Repeatable.",
    )
    agent = click.option(
        "-a",
        "--sub-agent",
        "agents",
        multiple=True,
        metavar="PATH",
        help="A sub-agent by dotted path, such as pkg.module.Agent. Repeatable.",
    )
    return registry(agent(function))


def model_options(function: F) -> F:
    """``--backend`` and ``--model``."""
    backend = click.option(
        "--backend",
        metavar="NAME",
        help="Where the model runs: gemini, openai or local (in this process, without a key).",
    )
    model = click.option("--model", metavar="PROVIDER:NAME", help="The model for every step.")
    return backend(model(function))


def store_option(function: F) -> F:
    """``--store``: where checkpoints are kept."""
    return click.option(
        "--store",
        metavar="URL",
        help="Keep checkpoints in a PostgreSQL server: postgresql://user@host/database.",
    )(function)


def input_options(function: F) -> F:
    """``-i`` and ``--inputs``."""
    one = click.option(
        "-i", "--input", "pairs", multiple=True, metavar="NAME=VALUE", help="Set an input."
    )
    file = click.option(
        "--inputs",
        "inputs_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A YAML or JSON file of inputs; -i wins over it.",
    )
    return one(file(function))


def run_options(function: F) -> F:
    """What `run` and `resume` share."""
    options = [
        click.option("--max-attempts", type=click.IntRange(1), help="Entries of any one step."),
        click.option(
            "--limit",
            "limits",
            multiple=True,
            metavar="NAME=VALUE",
            help="Stop, resumable, at: steps, attempts, time (90s, 10m), tokens, cost, depth.",
        ),
        click.option("--yes", is_flag=True, help="Agree beforehand to what would be asked."),
        click.option("--json", "as_json", is_flag=True, help="Print one event a line on stdout."),
        click.option("-q", "--quiet", is_flag=True, help="Only tell how it ended."),
        trust_option,
    ]
    for option in reversed(options):
        function = option(function)
    return function


def detach_option(function: F) -> F:
    """``--detach``."""
    words = "Do not wait for a batch job: end, waiting for it, and hold no process."
    return click.option("--detach", is_flag=True, help=words)(function)


def answer_options(function: F) -> F:
    """``--answers`` and ``--answer``: what a run would ask, answered beforehand."""
    file = click.option(
        "--answers",
        "answers_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A YAML or JSON file of answers: of a step, or of a step's questions by their text.",
    )
    one = click.option(
        "--answer",
        "answers",
        multiple=True,
        metavar="STEP=ANSWER",
        help="Answer what a step asks, such as submit=yes. Repeatable.",
    )
    return file(one(function))


def read_inputs(pairs: tuple[str, ...], file: Path | None) -> dict[str, Any]:
    """The inputs of a file and of ``-i`` together.

    Raises:
        InputError: The file can't be read or isn't a mapping, or a pair has no ``=``.
    """
    inputs: dict[str, Any] = {}
    if file is not None:
        inputs.update(_read_mapping(file))
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"an input is given as NAME=VALUE, not `{pair}`")
        inputs[name.strip()] = value
    return inputs


def _read_mapping(file: Path) -> dict[str, Any]:
    import yaml

    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_INPUTS + 1)
        if len(text) > MAX_INPUTS:
            raise InputError(f"the inputs in {file} are larger than {MAX_INPUTS // 2**20} MiB")
        data = yaml.safe_load(text.decode())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the inputs in {file}: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} must be a mapping of input names to values")
    return {str(key): value for key, value in data.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - YAML is untyped


def read_limits(pairs: tuple[str, ...]) -> Limits:
    """The limits of ``--limit``.

    Raises:
        UsageError: An unknown limit or a value that is none.
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
            raise UsageError(f"--limit {pair}: must be above 0")
    return Limits(**values)


def warn_of_server(server: str, level: str, message: str) -> None:
    """Print what a server warns of, or what is waited for; everything else it logs is left out."""
    from fractale.cli.render.text import inert

    if level in ("warning", "error", "critical", "alert", "emergency"):
        click.echo(f"! {inert(server)}: {inert(message, 1000)}", err=True)


def trust_option(function: F) -> F:
    """``--trust-project``: for commands whose settings act."""
    return click.option(
        "--trust-project",
        is_flag=True,
        expose_value=False,
        callback=_keep_trust,
        help="Use the project's settings without asking, this time. See `fractale trust`.",
    )(function)


_TRUST: Final = "fractale.trust_project"
_PRINTED: Final = "fractale.printed"
"""Keys of what a command's context keeps."""


def _keep_trust(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.meta[_TRUST] = value


def trusts_project() -> bool:
    """Whether ``--trust-project`` was given."""
    ctx = click.get_current_context(silent=True)
    return bool(ctx and ctx.meta.get(_TRUST))


def trust_given(environment: Mapping[str, str]) -> str | None:
    """The option or variable by which all is trusted for this command; None without one."""
    if trusts_project():
        return "--trust-project"
    return CONFIG_VARIABLE if environment.get(CONFIG_VARIABLE) == "1" else None


def settings_of(
    backend: str | None = None,
    model: str | None = None,
    max_attempts: int | None = None,
    store: str | None = None,
    *,
    acts: bool = False,
    check_state: bool = True,
) -> Settings:
    """The settings with the command line's flags over them.

    Args:
        acts: Whether the command starts or sends what the settings say. If the project's file is
            not trusted then, the person is asked on a terminal, and the command refused elsewhere.
            Other commands continue without what waits, and say so on stderr.
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
            from fractale.cli.commands.trust import settle

            settings = settle(settings, check_state=check_state)
    return settings.with_flags(
        provider=backend, model=model, max_attempts=max_attempts, store=store
    )


def _warn_of_project(settings: Settings, ctx: click.Context | None, *, acts: bool) -> None:
    """Print once what does not count of the project, or waits and is not about to be asked."""
    from fractale.cli.render.text import inert

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
