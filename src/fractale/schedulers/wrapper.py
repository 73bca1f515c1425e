"""The wrapper that a scheduler starts: it runs the job, and leaves evidence of the result."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fractale.errors import JobError
from fractale.private import touch_private, write_private
from fractale.schedulers.folder import JobFolder, disk
from fractale.schedulers.job import ELEMENTS, JobSpec

NO_FOLDER: Final = 72
NO_CLAIM: Final = 73
NOT_MINE: Final = 74
"""Exit codes of the wrapper if it has not begun the job. They count only if the file `started`,
which a wrapper writes when it begins, is missing or belongs to another job."""

STDOUT: Final = "stdout"
"""In the job's directory: the stdout of a short program."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TEXT: Final = r"""#!/bin/sh
{directives}# Written by fractale. It runs the job and leaves evidence of how that went:
# `started` before anything else, `ended.CODE` when all is done.
mask=$(umask)  # the job's; what is written here is for its owner only
umask 077
dir={dir}
id={id}
[ -n "$id" ] || id="$(uname -n).$$"
cd "$dir" || {{
  echo "fractale: $dir is not found on $(uname -n): the nodes of the jobs must see the" \
    "state directory" >&2
  exit {no_folder}
}}
{element}note=".started.$id.$$"
stat=; read -r stat 2>/dev/null < /proc/$$/stat; set -- $stat; [ $# -gt 21 ] && shift 21
boot=; read -r boot 2>/dev/null < /proc/sys/kernel/random/boot_id
{{
  printf 'id=%s\nhost=%s\npid=%s\nat=%s\n' "$id" "$(uname -n)" $$ "$(date +%s)" &&
    printf 'boot=%s\nticks=%s\nnodes=%s\n' "$boot" "${{1:-}}" {nodes}
}} > "$note" || exit {no_claim}
# A second job of the same key does not begin: the first job to make the link runs.
if ! ln "$note" started 2>/dev/null; then
  if [ ! -e started ]; then  # a file system without links
    (set -C; cat "$note" > started) 2>/dev/null || exit {no_claim}
  elif grep -qxF "id=$id" started; then  # the scheduler starts the same job again
    mv -f "$note" started; rm -f ended.*
  else
    echo "fractale: this job runs, or ran, as $(head -n 1 started)" >&2
    rm -f "$note"; exit {not_mine}
  fi
fi
rm -f "$note"
# The file that will say how it ended is made while there is space for it.
: > .ending || exit {no_claim}
child=; signal=
# With the job over, what is asked of it changes nothing any more.
forward() {{ signal=".$1"; if [ -n "$child" ]; then kill -s "$1" "$child" 2>/dev/null; fi; }}
for each in TERM INT HUP XCPU; do trap "forward $each" $each; done
for each in USR1 USR2; do  # these ask for something, and not for the end
  trap "[ -z \"\$child\" ] || kill -s $each \"\$child\"" $each
done
(
  trap - TERM INT HUP XCPU USR1 USR2
  umask "$mask"
{env}{run}) < {stdin} {streams} &
child=$!
while :; do
  wait "$child"; code=$?
  # A signal ends the waiting, not the job.
  kill -0 "$child" 2>/dev/null || break
done
touch .ending; mv -f .ending "ended.$code$signal"
{epilogue}exit $code
"""


_ELEMENT: Final = """FRACTALE_INDEX={index}; export FRACTALE_INDEX
mkdir -p "{elements}/$FRACTALE_INDEX" && cd "{elements}/$FRACTALE_INDEX" || exit {no_claim}
"""
_BY_INDEX: Final = "elements.sh"
"""File in an array's directory: the command of each element, if the commands differ."""


def write_wrapper(
    folder: JobFolder,
    spec: JobSpec,
    *,
    native_id: str,
    index: str = "",
    nodes: str = '""',
    directives: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> None:
    """Write the wrapper, and the script if there is one, into the job's directory.

    Args:
        native_id: Word of the shell for the scheduler's id of the job.
        index: Word for the index of an array's element; required for an array.
        nodes: Word for the host list of the job, such as ``n[1-3],m7``.
        directives: Lines for the scheduler.
        variables: Name → word for its value; variables of the spec take precedence.

    Raises:
        JobError: The spec has neither a script nor a command, or both; or a name in `env` is not
            valid.
        StoreError: The files cannot be written.
    """
    if bool(spec.script) == bool(spec.command):
        raise JobError("a job has either a script or a command", hint="give one of them")
    if spec.script:
        folder.write("script", spec.script)
    stdin = "/dev/null"
    if spec.stdin:
        folder.write("stdin", spec.stdin)
        stdin = shlex.quote(str(folder.path / "stdin"))
    run = _run(spec.folder, [*spec.launcher, *_words(folder, spec.script, spec.command, "script")])
    if spec.elements:
        folder.write(_BY_INDEX, _by_index(folder, spec))
        run = f"  . {shlex.quote(str(folder.path / _BY_INDEX))}\n  exit 1\n"
    element = _ELEMENT.format(index=index, elements=ELEMENTS, no_claim=NO_CLAIM)
    text = _TEXT.format(
        directives="".join(f"{line}\n" for line in directives),
        dir=shlex.quote(str(folder.path)),
        id=native_id,
        element=element if spec.array else "",
        no_folder=NO_FOLDER,
        no_claim=NO_CLAIM,
        not_mine=NOT_MINE,
        nodes=nodes,
        env=_exports(
            [f"{name}={word}" for name, word in (variables or {}).items()] + _settings(folder, spec)
        ),
        run=run,
        stdin=stdin,
        streams=f">> {STDOUT} 2>> log" if spec.short else ">> log 2>&1",
        epilogue=_epilogue(spec),
    )
    folder.write(folder.wrapper.name, text)
    for log in (folder.log, folder.scheduler_log):
        with disk(log):
            touch_private(log)  # schedulers use another umask


def _epilogue(spec: JobSpec) -> str:
    if not spec.epilogue:
        return ""
    return f"{shlex.join(spec.epilogue)} < /dev/null > epilogue.log 2>&1\n"


def _run(folder: Path, words: Sequence[str]) -> str:
    return f"  cd {shlex.quote(str(folder))} || exit 1\n  exec {shlex.join(words)}\n"


def _by_index(folder: JobFolder, spec: JobSpec) -> str:
    """Write the command of each element, as a ``case`` of the shell; equal scripts are one file."""
    files: dict[str, str] = {}
    cases: list[str] = []
    for index, element in sorted(spec.elements.items()):
        name = "script"
        if element.script:
            name = files.setdefault(element.script, f"script-{len(files) + 1}")
        words = [*spec.launcher, *_words(folder, element.script, element.command, name)]
        exports = _exports(_lines_of(element.env))
        reads = ""
        if element.stdin:
            own = files.setdefault(element.stdin, f"stdin-{len(files) + 1}")
            reads = f"  exec < {shlex.quote(str(folder.path / own))}\n"
        cases.append(f"{index})\n{exports}{reads}{_run(element.folder, words)};;\n")
    for text, name in files.items():
        with disk(folder.path / name):
            write_private(folder.path / name, text, errors="surrogateescape")
    return f'case "$FRACTALE_INDEX" in\n{"".join(cases)}esac\n'


def _words(folder: JobFolder, script: str | None, command: Sequence[str], name: str) -> list[str]:
    """Run the script with its own interpreter, because a directory may be mounted ``noexec``."""
    if not script:
        return list(command)
    first = script.partition("\n")[0]
    program = first[2:].strip().split(None, 1) if first.startswith("#!") else ["/bin/sh"]
    return [*(program or ["/bin/sh"]), str(folder.path / name)]


def _exports(lines: Sequence[str]) -> str:
    return "".join(f"  export {line}\n" for line in lines)


def _lines_of(variables: Mapping[str, str]) -> list[str]:
    for name in variables:
        if not _NAME.fullmatch(name):
            raise JobError(f"`{name}` is not a valid name of an environment variable")
    return [f"{name}={shlex.quote(value)}" for name, value in variables.items()]


def _settings(folder: JobFolder, spec: JobSpec) -> list[str]:
    own = {"FRACTALE_JOB_DIR": str(folder.path), "FRACTALE_JOB_NAME": spec.name}
    for name in ("nodes", "tasks", "cores_per_task", "gpus_per_task"):
        if (value := getattr(spec, name)) is not None:
            own[f"FRACTALE_JOB_{name.upper()}"] = str(value)
    return _lines_of({**own, **spec.env})
