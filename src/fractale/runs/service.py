"""The service behind every way to start, resume or fork a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fractale.agents.catalog import Catalog
from fractale.errors import StoreError, UsageError
from fractale.graph.bindings import Bindings
from fractale.graph.context import MADE, Dependencies, ResultCache
from fractale.models import Models
from fractale.pins import pins_of
from fractale.plan.inputs import bind_inputs
from fractale.plan.model import Plan
from fractale.plan.needs import tools_of
from fractale.policy import Policy, allowed_by
from fractale.record.conditions import keep_conditions
from fractale.record.history_reader import read_history
from fractale.record.jobs import JOBS, RunJobs
from fractale.record.plans import PlanCopies, plan_hash
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
from fractale.runs.changes import (
    plan_today,
    refuse_changed_tools,
    unchanged_plan,
    version_notice,
)
from fractale.runs.conditions import Place, conditions_of
from fractale.runs.driver import RunDriver, checkpoints
from fractale.runs.fork import (
    ForkChanges,
    by_reference,
    check_point,
    find_origin,
    inherited_inputs,
    new_outputs,
    notices,
    read_point,
    take_over,
    with_outputs,
    with_values,
    write_point,
)
from fractale.runs.options import RunOptions
from fractale.runs.own_parts import check_own_parts
from fractale.runs.preflight import preflight
from fractale.runs.result import RunResult
from fractale.settings import Settings
from fractale.settings.environment import lasting, without_secrets
from fractale.settings.own_runs import marked
from fractale.store.cache import CacheStore
from fractale.store.notes import FileNotes
from fractale.store.outputs import FileOutputs, InlineOutputs, MemoryOutputs, OutputStore
from fractale.store.run_record import (
    ID_LENGTH,
    SHARED_ID_LENGTH,
    RunRecord,
    RunRecords,
    random_id,
)
from fractale.toolbox import Toolbox

if TYPE_CHECKING:
    from fractale.runs.why import Why


class Runs:
    """The runs of one state directory, with the external services that they use.

    Args:
        settings: The settings, whose `state_dir` has the runs.
        toolbox: Open as long as the runs are in progress.
        models: Built from the settings by default.
        policy: The calls that a model may make.
        agents: By default, fractale's own sub-agents.
        head: Data for the record of each run, such as the registries; see `Workspace`.
    """

    def __init__(
        self,
        settings: Settings,
        toolbox: Toolbox,
        *,
        models: Models | None = None,
        policy: Policy | None = None,
        agents: Catalog | None = None,
        head: Mapping[str, Any] | None = None,
    ) -> None:
        self._settings = settings
        self._head = dict(head or {})
        self._toolbox = toolbox
        self._models = models or Models(settings)
        self._policy = policy or Policy(settings=settings.policy)
        self._agents = agents or Catalog()
        self._records = RunRecords(settings.state_dir)
        self._pins = pins_of(toolbox)
        self._copies = PlanCopies()
        self._checked: Plan | None = None

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
            head: Further data for the run's record.

        Raises:
            InputError: An input is missing or wrong.
            PlanError: The plan is invalid, or names tools that its servers do not have.
            SettingsError: A model that the plan needs cannot be used.
            StoreError: The run cannot be recorded.
        """
        options = options or RunOptions()
        values = bind_inputs(plan, inputs or {}, secrets)
        bindings = Bindings(pins=self._pins)
        checked = plan is self._checked
        await preflight(plan, self._toolbox, self._models, self._agents, bindings, checked=checked)
        self._checked = plan
        driver, kept = await self._begin(plan, values, options, secrets or {}, head or {}, bindings)
        return await driver.drive(kept)

    async def why(
        self,
        plan: Plan,
        inputs: Mapping[str, Any] | None = None,
        options: RunOptions | None = None,
        *,
        secrets: Mapping[str, str] | None = None,
    ) -> list[Why]:
        """Why each step would run, or from which run it would take over its result.

        No step runs and nothing is recorded. The servers are asked for their tools.

        Raises:
            InputError: An input is missing or wrong.
            PlanError: The plan is invalid, or names tools that its servers do not have.
            SettingsError: A model that the plan needs cannot be used.
        """
        from fractale.runs.why import reasons

        options = options or RunOptions()
        values = bind_inputs(plan, inputs or {}, secrets)
        bindings = Bindings(pins=self._pins)
        await preflight(plan, self._toolbox, self._models, self._agents, bindings)
        store = MemoryOutputs()
        dependencies = self._dependencies(store, None, options.reuse)
        driver = RunDriver(self._settings, dependencies, plan, options, "why", None, secrets or {})
        driver.context.bindings = bindings
        driver.context.emit_event = lambda _event: None
        kept = {name: store.put(driver.context.mask(value)) for name, value in values.items()}
        return await reasons(plan, kept, dependencies, driver.context)

    async def _begin(
        self,
        plan: Plan,
        values: Mapping[str, Any],
        options: RunOptions,
        secrets: Mapping[str, str],
        head: Mapping[str, Any],
        bindings: Bindings,
        fill: Callable[[RunRecord, OutputStore], None] = lambda _record, _store: None,
    ) -> tuple[RunDriver, dict[str, Any]]:
        """A new run, ready to be driven, and its inputs in the form that its state stores.

        Args:
            fill: Writes files into the run's directory that must exist before its head.
        """
        changed = await self.pin(plan)
        record = self._new_record(options.run_id) if options.keep else None
        run_id = record.run_id if record else options.run_id or random_id()
        store = FileOutputs(record.outputs) if record else _outputs_of_unrecorded(options)
        dependencies = self._dependencies(store, record, options.reuse)
        driver = RunDriver(self._settings, dependencies, plan, options, run_id, record, secrets)
        driver.context.bindings = bindings
        driver.notices += changed
        kept = {name: store.put(driver.context.mask(value)) for name, value in values.items()}
        if record:
            try:
                fill(record, store)
            except StoreError:
                record.remove()
                raise
            offered = await take_snapshot(self._toolbox, plan, self._agents.names())
            keep_snapshot(record, offered, driver.context.mask)
            conditions = await conditions_of(plan, self._place, offered, secrets)
            keep_conditions(record, conditions, driver.context.mask)
            policy = self._policy.settings
            known: dict[str, Any] = {
                "versions": versions(),
                "tools": tool_hashes(offered.tools),
                "bindings": bindings.data(),
                "settings": settings_data(self._settings, self._models, policy),
            }
            if options.reuse is not None:
                head = {"reuse": options.reuse, **head}
            whole = {**_head(plan, kept), **known, **self._head, **head}
            record.write_head(marked(whole, self._settings.environment))
            self._copies.keep(record, plan)
            bindings.attach(FileNotes(record.bindings))
            bindings.snapshots.append(snapshot_of(record))
        return driver, kept

    async def pin(self, plan: Plan) -> list[tuple[str, str]]:
        """Pin definitions at first sight. Warns of changes since a definition was pinned."""
        needed = await names_needed(plan, self._toolbox, self._agents.names())
        tools = await self._toolbox.tools(needed)
        listed = [s.name for s in await self._toolbox.servers(()) if s.listed]
        globs = None if needed is None else tuple(needed)
        changes = self._pins.changes(tool for tool in tools if allowed_by(globs, tool))
        self._pins.see(tools, listed)
        found = [("tool-changed", change_notice(change)) for change in changes]
        try:
            await asyncio.to_thread(self._pins.save)  # a server's loop must not wait for a disk
        except StoreError as error:  # the run's own record has the approved definitions
            found.append(
                ("not-pinned", f"{error.message}; later runs cannot detect changes of tools")
            )
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
    ) -> RunResult:
        """Start a new run with the state of another run before a step. It runs live from there.

        The other run is only read. It may still be in progress.

        Args:
            run_id: The run's id; ``-1`` is the latest.
            at: The step's name or path. ``STEP#2`` for its second attempt, else the last one.
            plan: Replaces that run's plan; None: its present file.
            changes: Inputs and outputs that differ from that run's.
            secrets: The secret inputs.

        Raises:
            UsageError: The run or the step was not found, or the plan does not have the step.
            InputError: An input is missing or wrong.
            PlanError: The plan is invalid, or names tools that its servers do not have.
            StoreError: The run's checkpoints are gone, or the new run cannot be recorded.
        """
        options, changes = options or RunOptions(), changes or ForkChanges()
        if not options.keep:
            raise UsageError("a fork must be recorded", hint="use `keep=True`")
        history = read_history(self._records.find(run_id))
        if any(attempt.handler for attempt in history.of_step(at.partition("#")[0])):
            raise UsageError(
                f"`{at}` runs at the end of a plan; a fork cannot begin there",
                hint=f"fork at a step of the plan: `fractale show {history.run}` lists them",
            )
        plan = plan or plan_today(history.record, history.head)
        async with checkpoints(self._settings, options) as saver:
            origin = await find_origin(saver, history, at)
        check_point(plan, origin.point)
        values = bind_inputs(plan, {**inherited_inputs(history, plan), **changes.inputs}, secrets)
        # This run approves its tools anew, by the pinned definitions.
        names = self._bindings_of(history.record, history.head, plan).data()["names"]
        bindings = Bindings(pins=self._pins)
        bindings.take({"names": names})
        await preflight(plan, self._toolbox, self._models, self._agents, bindings)
        theirs, parent = FileOutputs(history.record.outputs), origin.parent(history.run)
        point = with_outputs(with_values(origin.point, theirs, changes), theirs, changes.outputs)

        def fill(record: RunRecord, store: OutputStore) -> None:
            nonlocal point
            take_over(history, record, point, origin.at)
            point = by_reference(point, store)
            write_point(record, point)

        kept = {**_kept_of(history.head), **self._head, "parent": parent}
        driver, inputs = await self._begin(
            plan, values, options, secrets or {}, kept, bindings, fill
        )
        driver.fork(point, parent)
        warnings = new_outputs(origin.point, theirs, changes.outputs)
        warnings += notices(history, plan, point, values)
        driver.notices = [("fork", words) for words in warnings]
        return await driver.drive(inputs)

    async def resume(
        self,
        run_id: str,
        options: RunOptions | None = None,
        *,
        plan: Plan | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> RunResult:
        """Resume a run that was stopped, waits, or reached a limit.

        Args:
            run_id: The run's id; ``-1`` is the latest.
            plan: The result of `unchanged_plan`, if the caller needed it; None: it is read here.
            secrets: The secret inputs.

        Raises:
            UsageError: The run was not found, its plan or a tool that it still needs has changed,
                or a tool or a sub-agent of the user's program is missing.
        """
        options = options or RunOptions()
        record = self._records.find(run_id)
        head = record.read_head()
        plan = plan or unchanged_plan(record, head)
        driver = await self._continued(record, head, plan, plan, options, secrets)
        return await driver.resume(head["inputs"])

    async def _continued(
        self,
        record: RunRecord,
        head: Mapping[str, Any],
        plan: Plan,
        left: Plan,
        options: RunOptions,
        secrets: Mapping[str, str] | None,
    ) -> RunDriver:
        """The driver of a run that began earlier.

        Args:
            left: The part of the plan that may still run.

        Raises:
            UsageError: A tool that this part needs has changed, or one, or a sub-agent, of the
                user's program is missing.
        """
        await self._check_tools(record, head, left)
        bindings = self._bindings_of(record, head, plan)
        names = self._agents.names()
        await check_own_parts(record, head, left, bindings, self._toolbox, names)
        reuse = head.get("reuse") if options.reuse is None else options.reuse
        dependencies = self._dependencies(FileOutputs(record.outputs), record, reuse)
        driver = RunDriver(
            self._settings, dependencies, plan, options, record.run_id, record, secrets or {}
        )
        driver.context.start_dir = Path(head.get("folder") or Path.cwd())
        driver.context.bindings = bindings
        if notice := version_notice(head):
            driver.notices.append(("versions", notice))
        if point := read_point(record):
            driver.fork(point, head["parent"])
        return driver

    async def end_cancelled(
        self,
        run_id: str,
        plan: Plan,
        options: RunOptions | None = None,
        *,
        secrets: Mapping[str, str] | None = None,
    ) -> RunResult | None:
        """Run the plan's `finally` for a run that was cancelled and has no process.

        If an earlier process began the handlers of the plan's end, the rest of them runs.

        Args:
            run_id: The run's id.
            plan: The plan that the run was started with.
            secrets: The secret inputs.

        Returns:
            The state of the run after them; None if there was nothing to do.

        Raises:
            UsageError: A tool that its handlers need has changed, or one, or a sub-agent, of the
                user's program is missing.
        """
        record = self._records.find(run_id)
        head = record.read_head()
        handlers, options = replace(plan, steps=()), options or RunOptions()
        driver = await self._continued(record, head, plan, handlers, options, secrets)
        return await driver.end_cancelled()

    async def resume_unrecorded(
        self,
        run_id: str,
        plan: Plan,
        options: RunOptions,
        *,
        secrets: Mapping[str, str] | None = None,
    ) -> RunResult:
        """Resume a run that only its checkpointer knows.

        Args:
            run_id: The run's id, which is the id of its thread in the checkpointer of the options.
            plan: The plan that the run was started with.
            secrets: The secret inputs.

        Raises:
            UsageError: The run was not found, or its plan has changed.
        """
        bindings = Bindings(pins=self._pins)
        await preflight(plan, self._toolbox, self._models, self._agents, bindings)
        changed = await self.pin(plan)
        dependencies = self._dependencies(_outputs_of_unrecorded(options), None, options.reuse)
        driver = RunDriver(self._settings, dependencies, plan, options, run_id, None, secrets or {})
        driver.context.bindings = bindings
        driver.notices += changed
        return await driver.resume({})

    def _bindings_of(self, record: RunRecord, head: Mapping[str, Any], plan: Plan) -> Bindings:
        """The bound names of a run that began earlier."""
        bindings = Bindings(pins=self._pins, snapshots=[snapshot_of(record)])
        bindings.take(head.get("bindings") or bindings_of_old(record, plan, self._agents.names()))
        bindings.attach(FileNotes(record.bindings))
        return bindings

    async def _check_tools(self, record: RunRecord, head: Mapping[str, Any], plan: Plan) -> None:
        """Check that the tools that are still needed have the same schemas."""
        names = tools_of(plan, self._agents.names())
        tools = await self._toolbox.tools(names) if head.get("tools") else []
        now = tool_hashes(tools)
        if any(now.get(name, digest) != digest for name, digest in head.get("tools", {}).items()):
            refuse_changed_tools(read_history(record), plan, tools)

    def head(self, run_id: str) -> dict[str, Any]:
        """The start of a run: its plan's file, its inputs, its registries."""
        return self._records.find(run_id).read_head()

    def _new_record(self, run_id: str | None) -> RunRecord:
        length = SHARED_ID_LENGTH if self._settings.store else ID_LENGTH
        return self._records.new(run_id, length=length)

    def _dependencies(
        self, store: OutputStore, record: RunRecord | None, reuse: bool | None
    ) -> Dependencies:
        jobs = record.jobs if record else self._settings.state_dir / JOBS
        return Dependencies(
            toolbox=self._toolbox,
            models=self._models,
            outputs=store,
            policy=self._policy,
            agents=self._agents,
            max_attempts=self._settings.max_attempts,
            jobs=RunJobs.of(jobs, self._settings, environment=self._site_environment),
            made=self._settings.state_dir / MADE,
            cache=self._result_cache(reuse),
        )

    @cached_property
    def _place(self) -> Place:
        return Place(
            settings=self._settings,
            toolbox=self._toolbox,
            agents=self._agents,
            models=self._models,
            registries=tuple(self._head.get("registries", ())),
        )

    @cached_property
    def _site_environment(self) -> dict[str, str]:
        return self._settings.site_environment

    @cached_property
    def _lasting_environment(self) -> dict[str, str]:
        return _lasting(self._settings)

    def _result_cache(self, reuse: bool | None) -> ResultCache | None:
        if reuse is False:
            return None
        return result_cache(self._settings, reuse, environment=self._lasting_environment)


def result_cache(
    settings: Settings, reuse: bool | None, *, environment: Mapping[str, str] | None = None
) -> ResultCache | None:
    """The results that the steps of a run may take over.

    Args:
        reuse: See `RunOptions`.
        environment: The variables that may change what a program computes, if they are known.
    """
    if reuse is False:
        return None
    known = dict(environment) if environment is not None else _lasting(settings)
    return ResultCache(store=CacheStore(settings.state_dir), reuse=bool(reuse), environment=known)


def _lasting(settings: Settings) -> dict[str, str]:
    return lasting(without_secrets(settings.environment, settings.secrets))


def _outputs_of_unrecorded(options: RunOptions) -> OutputStore:
    """The outputs of a run without a record: as durable as its checkpoints are."""
    return InlineOutputs() if options.checkpointer is not None else MemoryOutputs()


def _kept_of(head: Mapping[str, Any]) -> dict[str, Any]:
    """The data that a fork's record repeats from the record of the other run."""
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
