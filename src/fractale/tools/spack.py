"""Spack's long and its stateful commands: install, told line by line, and run what is installed.

`spack find`, `spec` and `info` are quick enough for hpc-mcp's tools. An installation takes minutes
to hours, in which somebody wants to see where it is; and a package that was loaded in one call
isn't in the next one, as `spack load` changes a shell, so loading and running are one tool here.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from fastmcp import Context

from fractale.tools.processes import run_program, teller

PREFIX = re.compile(r"^\[\+\] (\S+)", re.MULTILINE)
"""How Spack says where it put a package; dependencies first."""

LOAD = """\
loaded=$("$1" load --sh $2) || exit 120
eval "$loaded"
shift 2
exec "$@"
"""
"""Loads the specs and runs the rest; 120 is an exit code that Spack has no use for."""
NOT_LOADED = 120


async def spack_install(
    spec: str,
    ctx: Context,
    jobs: int | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - a tool's argument
) -> dict[str, Any]:
    """Install a package with Spack, and say all the time which part is being built.

    What is installed already is left as it is, so it can be called again after an interruption.

    Args:
        spec: What to install, such as `cowsay` or `hdf5 +mpi %gcc`.
        jobs: How many processes may build at a time; nothing for Spack's own number.
        timeout: Seconds it may take; nothing for as long as it needs.

    Returns:
        `returncode`, `success`, `seconds`, `prefixes` (the folders of what was installed, the
        package's own last), `log`, its end, and, where it failed, `error`.

    Raises:
        ValueError: There is no Spack here.
    """
    words = [
        _spack(),
        "install",
        "--fail-fast",
        *(["-j", str(jobs)] if jobs else []),
        *_specs(spec),
    ]

    ended = await run_program(words, timeout=timeout, on_line=teller(ctx))
    answer = ended.answer(f"spack install {spec}")
    return {**answer, "prefixes": PREFIX.findall(ended.log)} if answer["success"] else answer


async def spack_run(
    spec: str,
    command: list[str],
    ctx: Context,
    timeout: float | None = None,  # noqa: ASYNC109 - a tool's argument
) -> dict[str, Any]:
    """Load packages with Spack and run a command with them.

    Args:
        spec: What to load; it must be installed.
        command: The program and its arguments; no shell reads them.
        timeout: Seconds it may take; nothing for as long as it needs.

    Returns:
        `returncode`, `success`, `seconds`, `log` and, where it failed, `error`.

    Raises:
        ValueError: There is no Spack here, or no command was given.
    """
    if not command:
        raise ValueError("`command` is empty: say which program is to run")
    words = ["sh", "-c", LOAD, "sh", _spack(), " ".join(_specs(spec)), *command]

    ended = await run_program(words, timeout=timeout, on_line=teller(ctx))
    what = f"spack load {spec}" if ended.returncode == NOT_LOADED else command[0]
    return ended.answer(what)


def _spack() -> str:
    """The program: on the PATH, or in SPACK_ROOT.

    Raises:
        ValueError: It is in neither.
    """
    from fractale.settings import load_settings

    environment = load_settings(untrusted="narrow").environment
    root = environment.get("SPACK_ROOT")
    found = shutil.which("spack", path=environment.get("PATH", os.defpath))
    if found is None and root:
        found = shutil.which(str(Path(root) / "bin" / "spack"))
    if found is None:
        raise ValueError(
            "there is no `spack` here: git clone --depth 1 https://github.com/spack/spack, and "
            "put its bin on PATH or set SPACK_ROOT"
        )
    return found


def _specs(spec: str) -> list[str]:
    """A spec as words; no word of it is an option.

    Raises:
        ValueError: It is empty, or has something in it that specs don't have.
    """
    words = spec.split()
    if not words or words[0].startswith("-") or re.search(r"[;&|<>$`\"'\\()*?\[\]]", spec):
        raise ValueError(f"`{spec}` is no spec of a package, such as `cowsay` or `hdf5 +mpi`")
    return words
