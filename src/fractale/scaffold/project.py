"""A new project: its files, for the site where it is started, and a recording of its first run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fractale.errors import FractaleError, UsageError
from fractale.plan.schema import plan_schema
from fractale.private import make_folder, open_private
from fractale.settings import PROJECT_FOLDER, Settings
from fractale.site.discover import discover, machine_of
from fractale.site.model import Site, words_of
from fractale.text import clip

TEMPLATES: Final = Path(__file__).parent / "templates"

PLAN: Final = "plans/first.yaml"
REGISTRY: Final = "registries/tools.yaml"
RECORDING: Final = "recordings/first.zip"
SCHEMA: Final = "plan.schema.json"
MODULE: Final = "project_tools"

FILES: Final[Mapping[str, str]] = {
    f"{PROJECT_FOLDER}/config.yaml": "config.yaml",
    PLAN: "first.yaml",
    REGISTRY: "tools.yaml",
    f"registries/{MODULE}.py": "project_tools.py.txt",
    "tests/test_first.py": "test_first.py.txt",
    ".github/workflows/fractale.yml": "github.yml",
    ".gitlab-ci.yml": "gitlab.yml",
    ".vscode/settings.json": "vscode.json",
    ".gitignore": "gitignore",
}
"""File of the project → its template."""

SHOWN: Final = ("gpus", "schedulers", "software", "containers", "kubernetes")
"""The sections of the site that the settings file lists."""

PROVIDERS: Final = {"slurm": "slurm", "pbs": "pbspro", "lsf": "lsf"}
"""Scheduler → the provider of an executor for sweeps."""


_QUEUE: Final = re.compile(r"[A-Za-z][\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProject:
    """The result of starting a project.

    Args:
        written: Files relative to `directory`.
        kept: Files of the same names that existed; they are unchanged.
        status: How the first run ended; None if there was none.
        why: The reason why the first run was not recorded; None if it was.
        next: The commands to type next.
    """

    directory: Path
    site: Site
    written: tuple[str, ...]
    kept: tuple[str, ...]
    status: str | None = None
    why: str | None = None
    next: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        works = {
            section: [finding.name for finding in findings if finding.state == "works"]
            for section, findings in self.site.sections.items()
            if section in SHOWN
        }
        return {
            "directory": str(self.directory),
            "written": list(self.written),
            "kept": list(self.kept),
            "site": {"host": self.site.host, **works},
            "first_run": self.status,
            "recording": RECORDING if RECORDING in (*self.written, *self.kept) else None,
            "note": self.why,
            "next": list(self.next),
        }


async def init(directory: Path, settings: Settings) -> NewProject:
    """Start a project in a directory, which may exist and have files. No file is overwritten.

    The first plan runs once, to record it: as a job of this machine, with no server and no model.
    Nothing runs if the directory had plans' tools before, because these may be a stranger's.

    Raises:
        UsageError: A file cannot be written, or a directory of the project is a link to another.
    """
    _check_directory(directory)
    is_fresh = not _has_files(directory / "registries")
    site = await discover(machine_of(settings), secrets=settings.secrets)
    texts = {name: filled(template, site) for name, template in FILES.items()}
    written, kept = list[str](), list[str]()
    for name, text in texts.items():
        (written if _write_new(directory, name, text) else kept).append(name)
    status, why = None, _why_not_run(is_fresh=is_fresh and PLAN not in kept)
    if why is None:
        alone = replace(settings, servers={}, notify=(), store=None)
        schema = json.dumps(await _schema(directory, alone), indent=2, ensure_ascii=False) + "\n"
        (written if _write_new(directory, SCHEMA, schema) else kept).append(SCHEMA)
        if (directory / RECORDING).exists():
            kept.append(RECORDING)
        else:
            status, why = await _record(directory, alone)
            written += [RECORDING] if why is None else []
    return NewProject(
        directory=directory,
        site=site,
        written=tuple(written),
        kept=tuple(kept),
        status=status,
        why=why,
        next=tuple(_next_commands(directory)),
    )


def _why_not_run(*, is_fresh: bool) -> str | None:
    """Why the first plan does not run now, for the user; None if it can."""
    reason = None
    if not is_fresh:
        reason = "the directory had files of these names"
    elif importlib.util.find_spec(MODULE) is not None:  # it would be imported instead
        reason = f"Python finds another module `{MODULE}`"
    return reason and (
        f"nothing was run or imported, because {reason}; read them, then record the first run: "
        f"fractale run {PLAN} -r {REGISTRY}, fractale export -1 --recording {RECORDING}"
    )


def _next_commands(directory: Path) -> Iterator[str]:
    if directory.resolve() != Path.cwd():
        yield f"cd {shlex.quote(str(directory))}"
    yield f"fractale run {PLAN} -r {REGISTRY}"
    missing = "" if importlib.util.find_spec("pytest") else "pip install pytest && "
    yield f"{missing}python -m pytest"
    yield "fractale test recordings"


# -- files ------------------------------------------------------------------------------------


def _check_directory(directory: Path) -> None:
    """Make the directory, and check that the project's own directories are inside of it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(directory, error) from error
    root = directory.resolve()
    for name in [*FILES, RECORDING]:
        if not (directory / name).parent.resolve().is_relative_to(root):
            raise UsageError(
                f"{(directory / name).parent} is a link to another directory",
                hint="start the project in another directory",
            )


def _has_files(directory: Path) -> bool:
    try:
        return any(directory.iterdir())
    except OSError:
        return False


def _write_new(directory: Path, name: str, text: str) -> bool:
    """Write a file unless something has its name; returns whether it was written."""
    path = directory / name
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        if name.startswith(PROJECT_FOLDER):  # fractale reads it only if no other user may write it
            make_folder(path.parent)
            descriptor = open_private(path, flags)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, flags, 0o666)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        if not path.parent.is_dir():
            raise UsageError(
                f"{path.parent} is not a directory", hint="start the project in another directory"
            ) from None
        return False
    except OSError as error:
        raise _not_written(path, error) from error
    return True


def _not_written(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="start the project in another directory: fractale init DIR",
    )


# -- what depends on the site -------------------------------------------------------------------


def filled(template: str, site: Site) -> str:
    """A template with the facts of this site in it."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    if "@" not in text:
        return text
    cores = site.machine.details.get("cores_usable", 4)
    values = {
        "@HOST@": _printable(site.host),
        "@FOUND@": "\n".join(_found(site)),
        "@CORES@": str(max(1, int(cores) // 2)),
        "@EXECUTOR@": "\n".join(_executor(site)),
        "@SCHEDULERS@": _schedulers(site),
    }
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def _found(site: Site) -> Iterator[str]:
    """The programs of the site that answered, one per line."""
    found = [
        (finding.name, words_of(finding), _queues(finding.details.get("queues")))
        for section in SHOWN
        for finding in site.sections.get(section, ())
        if finding.state == "works"
    ]
    if not found:
        yield "#   no scheduler, no container engine and no software system"
    for name, words, queues in found:
        yield f"#   {_printable(f'{name}: {words}{queues}')}"


def _queues(queues: Any) -> str:
    names = [str(queue.get("name")) for queue in queues or ()]
    return f"; queues {', '.join(names[:8])}" if names else ""


def _executor(site: Site) -> Iterator[str]:
    """An executor for sweeps on each scheduler that answered, as comments."""
    for finding in site.sections.get("schedulers", ()):
        if finding.state != "works" or finding.name not in PROVIDERS:
            continue
        queues: list[dict[str, Any]] = finding.details.get("queues") or [{}]
        queue = next((each for each in queues if each.get("default")), queues[0])
        key = "partition" if finding.name == "slurm" else "queue"
        yield "# executors:                   # where `fractale sweep PLAN --on cluster` runs"
        yield "#   cluster:"
        yield f"#     provider: {PROVIDERS[finding.name]}"
        if name := _QUEUE.fullmatch(str(queue.get("name") or "")):
            yield f"#     {key}: {name[0]}"
        yield "#     walltime: 1h"
        yield f"#     workers_per_node: {queue.get('cores_per_node') or 4}"
        return


def _schedulers(site: Site) -> str:
    names = [
        finding.name for finding in site.sections.get("schedulers", ()) if finding.state == "works"
    ]
    if not names:
        return "without this line, the job goes to the scheduler of a cluster"
    return f"without this line, the job goes to {names[0]}"


def _printable(text: str) -> str:
    """Output of a program of the site, as part of a comment on one line."""
    return "".join(sign if sign.isprintable() else "?" for sign in clip(text, 100))


# -- the first run, and the schema --------------------------------------------------------------


async def _schema(directory: Path, settings: Settings) -> dict[str, Any]:
    from fractale.runs.preflight import tool_inputs
    from fractale.runs.workspace import Extensions, Workspace

    extensions = Extensions(registries=[directory / REGISTRY])
    async with Workspace.open(settings, extensions=extensions) as workspace:
        return plan_schema(await tool_inputs(workspace.toolbox))


async def _record(directory: Path, settings: Settings) -> tuple[str | None, str | None]:
    """Run the first plan, and write its recording.

    Returns:
        How the run ended, and the reason why it was not recorded.
    """
    from fractale.api import arun
    from fractale.record.recordings import write_recording
    from fractale.store.run_record import RunRecords

    with tempfile.TemporaryDirectory(prefix="fractale-init-") as state:
        here = replace(settings, state_dir=Path(state) / PROJECT_FOLDER)
        try:
            result = await arun(
                directory / PLAN, registries=[directory / REGISTRY], settings=here, keep=True
            )
            if not result.ok:
                return result.status, f"the first run ended with {result.status}: {result.error}"
            (directory / RECORDING).parent.mkdir(exist_ok=True)
            record = RunRecords(here.state_dir).find(result.run)
            write_recording(record, directory / RECORDING, settings.secrets)
        except (FractaleError, OSError) as error:
            return None, f"the first run could not be recorded: {error}"
    return result.status, None
