"""Recordings as tests: each is replayed with today's plan and code."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from fractale.agents.catalog import Catalog
from fractale.errors import FractaleError, NotRecorded, PlanError, UsageError
from fractale.models import Models
from fractale.plan.model import Plan
from fractale.record.recordings import Recording, find_recordings, open_recording
from fractale.replaying.replay import Live, Replayed, replay
from fractale.runs.workspace import Extensions, Workspace, with_recorded_model
from fractale.settings import Settings

if TYPE_CHECKING:
    from fractale.models.runnables import Chat
    from fractale.toolbox import Toolbox

Side: TypeAlias = Literal["tools", "model"]
"""The side of a replay that may be real."""

CheckVerdict: TypeAlias = Literal["equal", "diverged", "invalid", "not-recorded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRecording:
    """The result of replaying one recording.

    Args:
        replayed: None if it could not be replayed.
        error: Why it could not.
    """

    name: str
    replayed: Replayed | None = None
    error: FractaleError | None = None
    notes: Sequence[str] = ()

    @property
    def verdict(self) -> CheckVerdict:
        """``invalid`` if today's plan is invalid, or if something that it needs is missing."""
        if self.replayed is None:
            return "not-recorded" if isinstance(self.error, NotRecorded) else "invalid"
        return "equal" if self.replayed.equal else "diverged"


def agents_of(
    recording: Recording, plan: Plan, objects: Sequence[Any] | Mapping[str, Any] = ()
) -> tuple[Catalog, list[str]]:
    """Load the sub-agents that a recorded run can ask, with today's code.

    Args:
        recording: With the registries and agents that the user gave (`Recording.given`); nothing
            else is imported.
        objects: Further sub-agents, as objects.

    Returns:
        The sub-agents, and notes for the user.

    Raises:
        PlanError: The user's own run names a sub-agent that can't be loaded.
    """
    named = [str(path) for path in recording.head.get("registries") or ()]
    found = {path: recording.find(path) for path in named}
    notes = [f"registry {path} not found; its sub-agents are not available" for path in named]
    notes = [note for note, path in zip(notes, named, strict=True) if found[path] is None]
    registries = [path for path in found.values() if path is not None]
    agents = [str(path) for path in recording.head.get("agents") or ()]
    extensions = Extensions(registries=registries, agents=agents, given=objects)
    if not recording.own:
        plan = _with_given(plan, extensions)
    try:
        return extensions.load(plan)[0], notes
    except PlanError as error:
        # Their tools are not needed here, and their imports may not be installed.
        notes.append(f"the registries were not loaded: {error.problems[0]}")
        return Extensions(agents=agents, given=objects).load(plan)[0], notes


def _with_given(plan: Plan, given: Extensions) -> Plan:
    """The plan with those of its `agents` that the user gave; the others are not imported."""
    listed = {entry.path for registry in given.files for entry in registry.entries}
    known = listed | {*given.agents}
    refs = tuple(ref for ref in plan.registered if ref.path in known)
    return replace(plan, agents=(*refs, *plan.experts))


def plan_today_of(recording: Recording) -> Plan:
    """The present plan of a recorded run.

    Raises:
        UsageError: Its file is gone.
        PlanError: It is invalid.
    """
    plan = recording.plan_today()
    if plan is None:
        raise UsageError(
            f"the plan {recording.head.get('file')} was not found", hint="name a plan with --plan"
        )
    return plan


@asynccontextmanager
async def open_live(
    side: Side | None,
    recording: Recording,
    settings: Settings,
    plan: Plan,
    *,
    loose: bool = False,
    secrets: Mapping[str, str] | None = None,
    tools: Toolbox | Sequence[Any] = (),
    model: Chat | None = None,
) -> AsyncGenerator[Live]:
    """Open the side of a replay that is real, for the duration of the block.

    Args:
        side: None: both sides are recorded.
        secrets: The values of the plan's secret inputs, for real tools.
        tools, model: As for `Workspace.open`.
    """
    if side == "model":
        models = Models(with_recorded_model(settings, recording.head), given=model)
        yield Live(models=models, loose=loose)
        return
    if side != "tools":
        yield Live(loose=loose)
        return
    extensions = Extensions(
        registries=[recording.find(str(p)) or p for p in recording.head.get("registries") or ()],
        agents=[str(path) for path in recording.head.get("agents") or ()],
    )
    async with Workspace.open(settings, plan, extensions, tools=tools) as opened:
        yield Live(tools=opened.toolbox, secrets=secrets or {}, loose=loose)


def left_out_note(recording: Recording, given: Recording) -> list[str]:
    """A note about the parts of a recording that were not imported."""
    there = [f"-r {path}" for path in given.head.get("registries") or ()]
    there += [f"-a {path}" for path in given.head.get("agents") or ()]
    options = [each for each in recording.left_out if each not in there]
    if not options or there:
        return []
    return [
        "the code that the recording names was not imported; if the run used its sub-agents, "
        f"review the code and add it with: {' '.join(options)}"
    ]


async def check_recording(
    path: Path,
    settings: Settings,
    name: str = "",
    extensions: Extensions | None = None,
) -> CheckedRecording:
    """Replay one recording against the plan's file as it is now.

    Args:
        extensions: The registries and agents to import. By default, for the user's own run, those
            that it was started with.
    """
    name, given = name or str(path), extensions or Extensions()
    notes, left_out = list[str](), list[str]()
    try:
        with open_recording(path, name, settings=settings) as found:
            recording = found.given(given.paths, given.agents)
            left_out = left_out_note(found, recording)
            plan = recording.plan_today()
            if plan is None:
                file = recording.head.get("file")
                notes.append(f"{file} not found; the recorded plan was used")
                plan = recording.plan_then()
            catalog, more = agents_of(recording, plan)
            notes += more
            replayed = await replay(recording, settings, plan=plan, agents=catalog)
            notes += left_out if replayed.missing or not replayed.equal else []
            notes += reworded_note(replayed)
            return CheckedRecording(name=name, replayed=replayed, notes=notes)
    except FractaleError as error:
        return CheckedRecording(name=name, error=error, notes=[*notes, *left_out])


async def check_recordings(
    root: Path,
    settings: Settings,
    extensions: Extensions | None = None,
) -> AsyncGenerator[CheckedRecording]:
    """Replay every recording in a directory, one after the other.

    Args:
        extensions: See `check_recording`.

    Raises:
        UsageError: The directory does not exist.
    """
    for path in find_recordings(root):
        name = str(path.relative_to(root)) if path != root else path.name
        yield await check_recording(path, settings, name, extensions)


# -- as JSON ------------------------------------------------------------------------------------


def checked_data(checked: CheckedRecording) -> dict[str, Any]:
    """A result as JSON."""
    data: dict[str, Any] = {"recording": checked.name, "verdict": checked.verdict}
    if checked.replayed is not None:
        data |= replayed_data(checked.replayed)
    if checked.error is not None:
        data["error"] = error_data(checked.error)
    return data | {"notes": list(checked.notes)}


def replayed_data(replayed: Replayed) -> dict[str, Any]:
    """A replay as JSON."""
    data = {
        "run": replayed.run,
        "plan": replayed.plan,
        "equal": replayed.equal,
        "events": replayed.events,
        "of": replayed.of,
        "status": replayed.status,
        "record_ends": replayed.ends or None,
        "missing_agents": list(replayed.missing),
        "reworded": replayed.reworded,
    }
    return data | {"divergence": asdict(replayed.divergence) if replayed.divergence else None}


def reworded_note(replayed: Replayed) -> list[str]:
    """A note that fractale's own prompts are not those of the recorded run."""
    if not replayed.reworded:
        return []
    differ = (
        "1 request differs" if replayed.reworded == 1 else f"{replayed.reworded} requests differ"
    )
    return [f"fractale's own prompts changed since: {differ}"]


def error_data(error: FractaleError) -> dict[str, Any]:
    """The reason why a recording could not be replayed, as JSON."""
    code = error.reason if isinstance(error, NotRecorded) else error.code
    return {"code": code, "message": str(error), "hint": error.hint}
