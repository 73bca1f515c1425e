"""Spack's long and stateful commands: install with progress, and run installed packages.

`spack find`, `spec` and `info` are quick enough for hpc-mcp's tools. An installation takes minutes
to hours, and the user wants to see its progress. A package that one call loads is not loaded in the
next, because `spack load` changes the environment of a shell. So loading and running are one tool.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from fractale.registry.calls import Progress
from fractale.tools.processes import run_program, teller

PREFIX = re.compile(r"^\[\+\] (\S+)", re.MULTILINE)
"""The lines in which Spack reports the directory of a package; dependencies first."""

ERROR = re.compile(r"^==> Error: (.*)$", re.MULTILINE)
OF_ANOTHER = "Terminating after first install failure"
"""Spack's last message after a failure; alone, it means that another process failed."""

MARKED = re.compile(r"^  >> (.+)$")
"""Spack's mark for the lines of a build's log that look like errors."""

MOST_ERROR_LINES = 12
DYING_SECONDS = 60.0

LOAD = """\
loaded=$("$1" load --sh $2) || exit 120
eval "$loaded"
shift 2
exec "$@"
"""
"""Loads the specs and runs the command; Spack itself does not use exit code 120."""
NOT_LOADED = 120


async def spack_install(
    spec: str,
    progress: Progress,
    jobs: int | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - a tool's argument
) -> dict[str, Any]:
    """Install a package with Spack, and report which part is being built.

    Installed packages are left as they are, so you can call it again after an interruption.

    Args:
        spec: The package to install, such as `cowsay` or `hdf5 +mpi %gcc`.
        jobs: How many processes may build at a time; by default Spack's own number.
        timeout: The time limit in seconds; null for no limit.

    Returns:
        `returncode`, `success`, `seconds`, `prefixes` (the directories of the package, which is
        the last, and of its dependencies), `installed` (those that this call added), `log`, its
        end, and, after a failure, `error`: Spack's message, and the path of its log.

    Raises:
        ValueError: Spack was not found here.
    """
    words = [
        _spack(),
        "install",
        "--fail-fast",
        *(["-j", str(jobs)] if jobs else []),
        *_specs(spec),
    ]
    lock = _lock()
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        ended = await run_program(words, timeout=timeout, on_line=teller(progress), held=[lock])
        if ended.returncode and _is_of_another(ended.log):
            # A killed installation is still ending, and Spack counts that as a failure.
            await _alone(lock)
            fcntl.flock(lock, fcntl.LOCK_SH)
            ended = await run_program(words, timeout=timeout, on_line=teller(progress), held=[lock])
    finally:
        os.close(lock)
    answer = ended.answer(f"spack install {spec}")
    if answer["success"]:
        return {**answer, "prefixes": PREFIX.findall(ended.log), "installed": _new(ended.log)}
    if ended.returncode is not None and (said := _said(ended.log)):
        answer["error"] = f"spack install {spec} failed (exit code {ended.returncode}): {said}"
    return answer


def _lock() -> int:
    """Open the lock of installations from this state directory; their processes hold it.

    The lock is shared: several installations may run at the same time.
    """
    from fractale.private import make_folder, open_private
    from fractale.settings import load_settings

    directory = load_settings(untrusted="narrow").state_dir
    make_folder(directory)
    return open_private(directory / "spack.lock", os.O_RDWR | os.O_CREAT)


async def _alone(lock: int) -> None:
    """Wait until no other installation holds the lock, at most as long as one may take to end."""
    deadline = time.monotonic() + DYING_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(0.2)
        else:
            return


def _is_of_another(log: str) -> bool:
    """Whether only another process that installs the same package failed."""
    errors = ERROR.findall(log)
    return bool(errors) and all(each.strip() == OF_ANOTHER for each in errors)


def _new(log: str) -> list[str]:
    """The directories of packages that this call installed: ``[+]`` after ``==> Installing``."""
    found: list[str] = []
    installing = False
    for line in log.splitlines():
        if line.startswith("==> Installing "):
            installing = True
        elif match := PREFIX.match(line):
            if installing:
                found.append(match[1])
            installing = False
    return found


def _said(log: str) -> str:
    """Spack's report: the first error, the marked lines of the build, the path of the log."""
    lines = log.splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith("==> Error:")), None)
    if start is None:
        return ""
    lines = lines[start:]
    end = next((n for n, line in enumerate(lines) if n and not line.strip()), len(lines))
    first = [line.strip() for line in lines[: min(end, MOST_ERROR_LINES)]]
    marked = [found[1] for line in lines if (found := MARKED.match(line))][-MOST_ERROR_LINES:]
    where = [
        lines[n + 1].strip()
        for n, line in enumerate(lines[:-1])
        if line.startswith("See build log for details")
    ]
    logs = [f"build log: {path}" for path in where[:1]]
    return "\n".join([first[0].removeprefix("==> Error: "), *first[1:], *marked, *logs])


async def spack_run(
    spec: str,
    command: list[str],
    progress: Progress,
    timeout: float | None = None,  # noqa: ASYNC109 - a tool's argument
) -> dict[str, Any]:
    """Load packages with Spack and run a command with them.

    Args:
        spec: The package to load; it must be installed.
        command: The program and its arguments; no shell interprets them.
        timeout: The time limit in seconds; null for no limit.

    Returns:
        `returncode`, `success`, `seconds`, `log`, `prefix` (the directory of the package, if
        Spack reports it) and, after a failure, `error`.

    Raises:
        ValueError: Spack was not found here, or the command is empty.
    """
    if not command:
        raise ValueError("`command` is empty: name the program to run")
    words = ["sh", "-c", LOAD, "sh", _spack(), " ".join(_specs(spec)), *command]

    ended = await run_program(words, timeout=timeout, on_line=teller(progress))
    what = f"spack load {spec}" if ended.returncode == NOT_LOADED else command[0]
    answer = ended.answer(what)
    if not answer["success"]:
        return answer
    place = await run_program([_spack(), "location", "-i", *_specs(spec)], timeout=timeout)
    found = place.log.strip().splitlines()
    return {**answer, "prefix": found[-1]} if place.returncode == 0 and found else answer


def _spack() -> str:
    """Find Spack on the PATH, or in SPACK_ROOT.

    Raises:
        ValueError: Spack is in neither place.
    """
    from fractale.settings import load_settings

    environment = load_settings(untrusted="narrow").environment
    root = environment.get("SPACK_ROOT")
    found = shutil.which("spack", path=environment.get("PATH", os.defpath))
    if found is None and root:
        found = shutil.which(str(Path(root) / "bin" / "spack"))
    if found is None:
        raise ValueError(
            "`spack` was not found: git clone --depth 1 https://github.com/spack/spack, and "
            "put its bin on PATH or set SPACK_ROOT"
        )
    return found


def _specs(spec: str) -> list[str]:
    """Split a spec into words; none of them may be an option.

    Raises:
        ValueError: The spec is empty, or contains invalid text.
    """
    words = spec.split()
    if not words or words[0].startswith("-") or re.search(r"[;&|<>$`\"'\\()*?\[\]]", spec):
        raise ValueError(f"`{spec}` is not a spec of a package, such as `cowsay` or `hdf5 +mpi`")
    return words
