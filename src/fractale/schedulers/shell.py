"""Finds the program that reads a script's commands, and checks the syntax with it.

A syntax check only parses, and never runs. Each shell checks its own scripts with ``-n``, because
bash cannot judge the syntax of zsh or csh.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

POSIX: Final = frozenset({"sh", "bash", "dash", "ash", "ksh", "ksh93", "mksh", "pdksh", "zsh"})
"""Shells with the words, quotes and expansions of ``sh``."""

CSH: Final = frozenset({"csh", "tcsh"})

_CHECKERS: Final = POSIX | CSH | {"fish"}
CHECK_SECONDS: Final = 10.0


def shell_of(
    shebang: str, scheduler: str, asked: str | None = None, *, login: str = "bash"
) -> str | None:
    """Find the program that reads a script's commands: ``bash``, ``tcsh``, ``python3``.

    Args:
        shebang: The first line if it begins with ``#!``, else empty.
        asked: Shell of a directive: ``-S /bin/csh`` of PBS, ``-L`` of LSF. For PBS it precedes the
            shebang, because PBS starts that shell with the script as its input.
        login: The login shell, which PBS uses for a script without either.

    Returns:
        The program's name without a path; None if the scheduler needs a shebang.
    """
    if scheduler == "pbs" and asked:
        return _name(asked)
    if shebang.startswith("#!"):
        return _interpreter(shebang)
    if asked:
        return _name(asked)
    if scheduler == "pbs":  # qsub(1B), -S: the user's login shell on the execution host
        return _name(login)
    if scheduler == "lsf":  # bsub(1): /bin/sh reads a script from its standard input
        return "sh"
    return None  # sbatch and flux batch refuse it, or cannot start it


def _interpreter(shebang: str) -> str:
    words = shebang[2:].split()
    if words and _name(words[0]) == "env":
        words = [each for each in words[1:] if not re.match(r"-|[A-Za-z_]\w*=", each)]
    return _name(words[0]) if words else "sh"


def _name(path: str) -> str:
    """The program of a path; of several (``/bin/sh@host``), the first host's program."""
    return path.strip().split(",")[0].split("@")[0].rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntaxCheck:
    """A shell's judgment of the syntax of a script.

    Args:
        shell: Name of the shell.
        errors: Faults that the shell refuses.
        warnings: Faults that the shell accepts, but warns of.
        skipped: Why the check was skipped; empty if it was made.
    """

    shell: str
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    skipped: str = ""


def check_syntax(script: str, shell: str | None, *, path: str | None = None) -> SyntaxCheck:
    """Let a script's own shell check its syntax.

    Args:
        script: The text; it is parsed, never run.
        shell: As `shell_of` returns it; None for a script that no scheduler starts.
        path: Search path for programs; None: the PATH.
    """
    if shell is None:
        return SyntaxCheck(shell="", skipped="the script does not begin with #!")
    if shell not in _CHECKERS:
        return SyntaxCheck(shell=shell, skipped=f"`{shell}` is not a shell")
    program = shutil.which(shell, path=path)
    if program is None:
        return SyntaxCheck(shell=shell, skipped=f"`{shell}` was not found on this machine")
    try:
        # With -f, csh skips the user's start-up files.
        options = ["-fn"] if shell in CSH else ["-n"]
        ran = subprocess.run(  # noqa: S603 - a shell by its name; the script is only parsed
            [program, *options],
            input=script,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHECK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"`{shell} -n` did not end within {CHECK_SECONDS:.0f} s"
        return SyntaxCheck(shell=shell, skipped=why)
    said = _said(ran.stderr, program, shell)
    if ran.returncode == 0:
        return SyntaxCheck(shell=shell, warnings=said)
    return SyntaxCheck(shell=shell, errors=said or (f"`{shell} -n` refuses it",))


def _said(text: str, program: str, shell: str) -> tuple[str, ...]:
    begins: Sequence[str] = (f"{program}: ", f"{shell}: ")
    found: list[str] = []
    for line in text.splitlines():
        short = line
        for each in begins:
            short = short.removeprefix(each)
        if short.strip():
            found.append(short)
    return tuple(found)
