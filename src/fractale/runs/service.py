"""Starting runs and going on with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fractale.agents.catalog import Catalog
from fractale.errors import StoreError, UsageError
from fractale.graph.bindings import Bindings
from fractale.graph.context import Dependencies
from fractale.models import Models
from fractale.pins import pins_of
from fractale.plan.inputs import bind_inputs
from fractale.plan.model import Plan
from fractale.plan.needs import tools_of
from fractale.policy import Policy, allowed_by
from fractale.record.history_reader import read_history
from fractale.record.jobs import JOBS, RunJobs
from fractale.record.plans import keep_plan, plan_hash
from fractale.record.snapshot import (
    bindings_of_old,
    change_notice,
    keep_snapshot,
    names_needed,
    settings_data,
    snapshot_of,
    take_snapshot,
    tool_hashes,
    versions,
)
from fractale.runs.continuing import (
    plan_today,
    refuse_changed_tools,
    unchanged_plan,
    version_notice,
)
from fractale.runs.fork import find_point
from fractale.runs.forking import (
    ForkChanges,
    by_reference,
    check_entry,
    inherited_inputs,
    new_outputs,
    notices,
    read_entry,
    take_over,
    with_outputs,
    write_entry,
)
from fractale.runs.options import RunOptions
from fractale.runs.preflight import preflight
from fractale.runs.result import RunResult
from fractale.runs.session import Session, checkpoints
from fractale.settings import Settings
from fractale.settings.own_runs import marked
from fractale.store.notes import FileNotes
from fractale.store.outputs import FileOutputs, MemoryOutputs, OutputStore
from fractale.store.run_record import ID_LENGTH, SHARED_ID_LENGTH, RunRecord, RunRecords
from fractale.toolbox import Toolbox


class Runs:
    """The runs of one state folder, with the outside things they use.

    Args:
        settings: Whose `state_dir` holds the runs.
        toolbox: Open for as long as the runs go on.
        models: Built from the settings where not given.
        policy: What a model may call.
        agents: fractale's own sub-agents where not given.
    """

    def __init__(
        self,
        settings: Settings,
        toolbox: Toolbox,
        *,
        models: Models | None = None,
        policy: Policy | None = None,
        agents: Catalog | None = None,
    ) -> None:
        self._settings = settings
        self._toolbox = toolbox
        self._models = models or Models(settings)
        self._policy = policy or Policy(settings=settings.policy)
        self._agents = agents or Catalog()
        self._folders = RunRecords(settings.state_dir)
        self._pins = pins_of(toolbox)

    async def start(
        self,
        plan: Plan,
        inputs: Mapping[str, Any] | None = None,
        options: RunOptions | None = None,
        *,
        secrets: Mapping[str, str] | None = None,
        head: Mapping[str, Any] | None = None,
    ) -> RunResult:
        """Run a plan from its first step.

        Args:
            inputs: Values or texts of the plan's inputs, secret ones left out.
            secrets: The secret inputs.
            head: What else the run's record keeps, such as the registries it was given.

        Raises:
            InputError: An input is missing or wrong.
            PlanError: The plan is invalid, or names tools that its servers do not have.
            SettingsError: A model that the plan needs cannot be used.
            StoreError: The run cannot be recorded.
        """
        options = options or RunOptions()
        values = bind_inputs(plan, inputs or {}, secrets)
        bindings = Bindings(pins=self._pins)
        await preflight(plan, self._toolbox, self._models, self._agents, bindings)
        session, kept = await self._begin(
            plan, values, options, secrets or {}, head or {}, bindings
        )
        return await session.drive(kept)

    async def _begin(
        self,
        plan: Plan,
        values: Mapping[str, Any],
        options: RunOptions,
        secrets: Mapping[str, str],
        head: Mapping[str, Any],
        bindings: Bindings,
        fill: Callable[[RunRecord, OutputStore], None] = lambda _folder, _store: None,
    ) -> tuple[Session, dict[str, Any]]:
        """A new run, ready to be driven, and its inputs as its state holds them.

        Args:
            fill: Puts into the run's folder what must be there before its head is.
        """
        changed = await self._pin(plan)
        folder = self._new_folder(options.run_id) if options.keep else None
        run_id = folder.run_id if folder else options.run_id or "run"
        store = FileOutputs(folder.outputs) if folder else MemoryOutputs()
        dependencies = self._dependencies(store, folder)
        session = Session(self._settings, dependencies, plan, options, run_id, folder, secrets)
        session.context.bindings = bindings
        session.notices += changed
        kept = {name: store.put(session.context.mask(value)) for name, value in values.items()}
        if folder:
            try:
                fill(folder, store)
            except StoreError:
                folder.remove()
                raise
            offered = await take_snapshot(self._toolbox, plan, self._agents.names())
            keep_snapshot(folder, offered, session.context.mask)
            policy = self._policy.settings
            known = {
                "versions": versions(),
                "tools": tool_hashes(offered.tools),
                "bindings": bindings.data(),
                "settings": settings_data(self._settings, self._models, policy),
            }
            whole = {**_head(plan, kept), **known, **head}
            folder.write_head(marked(whole, self._settings.environment))
            keep_plan(folder, plan)
            bindings.attach(FileNotes(folder.bindings))
            bindings.snapshots.append(snapshot_of(folder))
        return session, kept

    async def _pin(self, plan: Plan) -> list[tuple[str, str]]:
        """Pin what is seen first; warns of what changed since it was pinned."""
        needed = await names_needed(plan, self._toolbox, self._agents.names())
        tools = await self._toolbox.tools(needed)
        listed = [s.name for s in await self._toolbox.servers(()) if s.listed]
        globs = None if needed is None else tuple(needed)
        changes = self._pins.changes(tool for tool in tools if allowed_by(globs, tool))
        self._pins.see(tools, listed)
        found = [("tool-changed", change_notice(change)) for change in changes]
        try:
            self._pins.save()
        except StoreError as error:  # the run's own record has what it agrees to
            found.append(("not-pinned", f"{error.message}: later runs will not see what changes"))
        return found

    async def fork(
        self,
        run_id: str,
        at: str,
        options: RunOptions | None = None,
        *,
        plan: Plan | None = None,
        changes: ForkChanges | None = None,
        secrets: Mapping[str, str] | None = None,
        head: Mapping[str, Any] | None = None,
    ) -> RunResult:
        """Start a new run that has all of another up to a step, and goes on live from there.

        The other run is only read; it may still be going on.

        Args:
            run_id: The run's id; ``-1`` is the latest.
            at: The step's name or path; ``STEP#2`` for its second visit, else the last one.
            plan: In place of that run's; None: as its file is today.
            changes: Inputs and outputs that are to be others than in that run.
            secrets: The secret inputs.
            head: What else the record keeps, in place of what that run's keeps.

        Raises:
            UsageError: There is no such run or step, or the plan does not have the step.
            InputError: An input is missing or wrong.
            PlanError: The plan is invalid, or names tools that its servers do not have.
            StoreError: The run's checkpoints are gone, or the new run cannot be recorded.
        """
        options, changes = options or RunOptions(), changes or ForkChanges()
        if not options.keep:
            raise UsageError("a fork is always recorded", hint="leave `keep` as it is")
        history = read_history(self._folders.find(run_id))
        plan = plan or plan_today(history.folder, history.head)
        async with checkpoints(self._settings, options) as saver:
            point = await find_point(saver, history, at)
        check_entry(plan, point.entry)
        values = bind_inputs(plan, {**inherited_inputs(history, plan), **changes.inputs}, secrets)
        # What was agreed to of the tools is for this run to say anew, by what is pinned.
        names = self._bindings_of(history.folder, history.head, plan).data()["names"]
        bindings = Bindings(pins=self._pins)
        bindings.take({"names": names})
        await preflight(plan, self._toolbox, self._models, self._agents, bindings)
        theirs, parent = FileOutputs(history.folder.outputs), point.parent(history.run)
        entry = with_outputs(point.entry, theirs, changes.outputs)

        def fill(folder: RunRecord, store: OutputStore) -> None:
            nonlocal entry
            take_over(history, folder, entry, point.at)
            entry = by_reference(entry, store)
            write_entry(folder, entry)

        kept = {**_kept_of(history.head), **(head or {}), "parent": parent}
        session, inputs = await self._begin(
            plan, values, options, secrets or {}, kept, bindings, fill
        )
        session.fork(entry, parent)
        told = new_outputs(point.entry, theirs, changes.outputs)
        told += notices(history, plan, entry, values)
        session.notices = [("fork", words) for words in told]
        return await session.drive(inputs)

    async def resume(
        self,
        run_id: str,
        options: RunOptions | None = None,
        *,
        secrets: Mapping[str, str] | None = None,
    ) -> RunResult:
        """Go on with a run that was stopped, waits, or reached a limit.

        Args:
            run_id: The run's id; ``-1`` is the latest.

        Raises:
            UsageError: There is no such run, or its plan or a tool that it still needs has changed
                since.
        """
        options = options or RunOptions()
        folder = self._folders.find(run_id)
        head = folder.read_head()
        plan = unchanged_plan(folder, head)
        await self._check_tools(folder, head, plan)
        dependencies = self._dependencies(FileOutputs(folder.outputs), folder)
        session = Session(
            self._settings, dependencies, plan, options, folder.run_id, folder, secrets or {}
        )
        session.context.folder = Path(head.get("folder") or Path.cwd())
        session.context.bindings = self._bindings_of(folder, head, plan)
        if notice := version_notice(head):
            session.notices.append(("versions", notice))
        if entry := read_entry(folder):
            session.fork(entry, head["parent"])
        return await session.resume(head["inputs"])

    def _bindings_of(self, folder: RunRecord, head: Mapping[str, Any], plan: Plan) -> Bindings:
        """What names mean in a run that was begun before."""
        bindings = Bindings(pins=self._pins, snapshots=[snapshot_of(folder)])
        bindings.take(head.get("bindings") or bindings_of_old(folder, plan, self._agents.names()))
        bindings.attach(FileNotes(folder.bindings))
        return bindings

    async def _check_tools(self, folder: RunRecord, head: Mapping[str, Any], plan: Plan) -> None:
        """See that the tools that are still needed take and give what they did."""
        names = tools_of(plan, self._agents.names())
        tools = await self._toolbox.tools(names) if head.get("tools") else []
        now = tool_hashes(tools)
        if any(now.get(name, digest) != digest for name, digest in head.get("tools", {}).items()):
            refuse_changed_tools(read_history(folder), plan, tools)

    def head(self, run_id: str) -> dict[str, Any]:
        """How a run was started: its plan's file, its inputs, its registries."""
        return self._folders.find(run_id).read_head()

    def _new_folder(self, run_id: str | None) -> RunRecord:
        length = SHARED_ID_LENGTH if self._settings.store else ID_LENGTH
        return self._folders.new(run_id, length=length)

    def _dependencies(self, store: OutputStore, folder: RunRecord | None) -> Dependencies:
        jobs = folder.jobs if folder else self._settings.state_dir / JOBS
        return Dependencies(
            toolbox=self._toolbox,
            models=self._models,
            outputs=store,
            policy=self._policy,
            agents=self._agents,
            max_attempts=self._settings.max_attempts,
            jobs=RunJobs.of(jobs, self._settings),
        )


def _kept_of(head: Mapping[str, Any]) -> dict[str, Any]:
    """What a fork's record repeats of that of the run that it comes from."""
    return {name: head[name] for name in ("registries", "agents", "model", "store") if name in head}


def _head(plan: Plan, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "version": 1,
        "plan": plan.name,
        "file": str(Path(plan.file).absolute()),
        "folder": str(Path.cwd()),
        "plan_hash": plan_hash(plan),
        "inputs": dict(inputs),
        "started": time.time(),
    }
