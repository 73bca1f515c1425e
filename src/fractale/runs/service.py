"""Starting runs and going on with them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fractale.agents.catalog import Catalog
from fractale.errors import UsageError
from fractale.graph.context import Dependencies
from fractale.graph.state import initial_state
from fractale.models import Models
from fractale.plan.build import load_plan
from fractale.plan.inputs import bind_inputs
from fractale.plan.model import Plan
from fractale.policy import Policy
from fractale.runs.options import RunOptions
from fractale.runs.plans import keep_plan, plan_hash
from fractale.runs.preflight import preflight
from fractale.runs.provenance import tool_hashes, versions
from fractale.runs.result import RunResult
from fractale.runs.session import Session
from fractale.settings import Settings
from fractale.store.outputs import FileOutputs, MemoryOutputs, OutputStore
from fractale.store.records import ID_LENGTH, SHARED_ID_LENGTH, RunFolder, RunFolders
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
        self._folders = RunFolders(settings.state_dir)

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
        await preflight(plan, self._toolbox, self._models, self._agents)
        folder = self._new_folder(options.run_id) if options.keep else None
        run_id = folder.run_id if folder else options.run_id or "run"
        store = FileOutputs(folder.outputs) if folder else MemoryOutputs()
        dependencies = self._dependencies(store)
        session = Session(
            self._settings, dependencies, plan, options, run_id, folder, secrets or {}
        )
        kept = {name: store.put(session.context.mask(value)) for name, value in values.items()}
        if folder:
            tools = tool_hashes(await self._toolbox.tools())
            known = {"versions": versions(), "tools": tools}
            folder.write_head({**_head(plan, kept), **known, **(head or {})})
            keep_plan(folder, plan)
        return await session.drive(initial_state(kept))

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
            UsageError: There is no such run, or its plan has changed since.
        """
        options = options or RunOptions()
        folder = self._folders.find(run_id)
        head = folder.read_head()
        plan = load_plan(head["file"])
        if plan_hash(plan) != head["plan_hash"]:
            raise UsageError(
                f"the plan {head['file']} has changed since run {folder.run_id} was started",
                hint="put the plan back as it was, or start a new run",
            )
        dependencies = self._dependencies(FileOutputs(folder.outputs))
        session = Session(
            self._settings, dependencies, plan, options, folder.run_id, folder, secrets or {}
        )
        return await session.resume(head["inputs"])

    def head(self, run_id: str) -> dict[str, Any]:
        """How a run was started: its plan's file, its inputs, its registries."""
        return self._folders.find(run_id).read_head()

    def _new_folder(self, run_id: str | None) -> RunFolder:
        length = SHARED_ID_LENGTH if self._settings.store else ID_LENGTH
        return self._folders.new(run_id, length=length)

    def _dependencies(self, store: OutputStore) -> Dependencies:
        return Dependencies(
            toolbox=self._toolbox,
            models=self._models,
            outputs=store,
            policy=self._policy,
            agents=self._agents,
            max_attempts=self._settings.max_attempts,
        )


def _head(plan: Plan, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "version": 1,
        "plan": plan.name,
        "file": str(Path(plan.file).absolute()),
        "plan_hash": plan_hash(plan),
        "inputs": dict(inputs),
        "started": time.time(),
    }
