"""A run as a Workflow Run RO-Crate: the plan, what went in and out, and every step's work.

The crate conforms to the profiles Process, Workflow and Provenance Run Crate 0.5 and Workflow
RO-Crate 1.0. The plan is its main workflow; the run is a ``CreateAction``; each visit of a step
is a ``ControlAction`` on the ``CreateAction`` of what the step called. Values are files that are
named by their content, so that an output that became an input is one entity.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fractale.errors import DependencyMissing, UsageError
from fractale.record.crate_entities import PLAN, Entities, id_of, one
from fractale.record.export import input_values, transition_lines
from fractale.record.history import RunHistory, Visit
from fractale.record.history_values import resolve
from fractale.record.plans import plan_file
from fractale.store.run_record import RunRecord

CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"
PROFILES = (
    ("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/provenance/0.5", "Provenance Run Crate", "0.5"),
    ("https://w3id.org/workflowhub/workflow-ro-crate/1.0", "Workflow RO-Crate", "1.0"),
)
BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
HOME = "https://github.com/converged-computing/fractale"
ENGINE, LANGUAGE, RUN = "#fractale", "#plan-language", "#run"
STATUSES = {
    "success": "http://schema.org/CompletedActionStatus",
    "failure": "http://schema.org/FailedActionStatus",
    "failed": "http://schema.org/FailedActionStatus",
}
README = """# {plan}

{title}

This is the record of run `{run}` of that plan by [fractale]({home}), as a Workflow Run RO-Crate.

- `plan.yaml`: the plan
- `ro-crate-metadata.json`: what was run, by what, with which inputs and outputs
- `values/`: the inputs and outputs of each step
- `transitions.jsonl`: every transition with its decision, calls, times and values
- `events.jsonl`: every event of the run
"""


def write_crate(history: RunHistory, folder: Path, *, licence: str | None = None) -> Path:
    """Write a run as an RO-Crate.

    Args:
        folder: Made where it is not there.
        licence: An SPDX name or a URL; without one the crate says that it has none.

    Returns:
        The crate's metadata file.

    Raises:
        DependencyMissing: The extra `crate` is not installed.
        UsageError: The folder is not empty, the run visited no step, or its plan has changed.
    """
    try:
        from rocrate.rocrate import ROCrate  # pyright: ignore[reportMissingImports, reportUnknownVariableType] - untyped
    except ImportError as error:
        raise DependencyMissing(
            "an RO-Crate needs the package `rocrate`", hint="pip install 'fractale[crate]'"
        ) from error
    plan = plan_file(history.folder, history.head)
    if plan is None:
        raise UsageError(
            f"the plan of run {history.run} has changed since, or is gone",
            hint="a crate holds the plan that was run; put it back as it was",
        )
    if not any(visit.outcome in STATUSES for visit in history.visits):
        raise UsageError(f"run {history.run} finished no step: there is nothing to describe")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", hint="choose another folder")
    crate = ROCrate(version="1.1")
    _Writer(crate, history).write(plan, licence)
    try:
        crate.write(folder)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error}") from error
    return folder / "ro-crate-metadata.json"


class _Writer:
    """Puts a run into a crate of the package `rocrate`."""

    def __init__(self, crate: Any, history: RunHistory) -> None:
        self._crate = crate
        self._history = history
        self._entities = Entities(crate, history)
        self._actions: list[Any] = []
        self._controls: list[Any] = []

    def write(self, plan: Path, licence: str | None) -> None:
        """Everything of the run."""
        self._engine()
        self._root(licence)
        for visit in self._history.visits:
            if visit.outcome in STATUSES:
                self._visit(visit)
        inputs = self._parameters("input", input_values(self._history))
        outputs = self._parameters("output", self._history.result.get("outputs") or {})
        self._workflow(plan, inputs, outputs)
        run = self._run(inputs, outputs)
        self._organize(run)
        self._crate.root_dataset["mentions"] = [run, *self._actions]
        self._records()

    # -- who and what ---------------------------------------------------------------------------

    def _engine(self) -> None:
        version = self._history.versions.get("fractale")
        add = self._entities.add
        add(ENGINE, "SoftwareApplication", name="fractale", url=HOME, softwareVersion=version)
        add(LANGUAGE, "ComputerLanguage", name="fractale plan", url=HOME, version=version)

    def _root(self, licence: str | None) -> None:
        history, root = self._history, self._crate.root_dataset
        profiles = [
            self._entities.add(address, "CreativeWork", name=name, version=version)
            for address, name, version in PROFILES
        ]
        root["conformsTo"] = profiles
        root["name"] = f"{history.head.get('plan')}, run {history.run}"
        root["description"] = f"A run of the plan: {history.title}"
        root["license"] = self._entities.licence(licence)
        root["author"] = self._entities.person
        self._crate.metadata["conformsTo"] = [
            {"@id": "https://w3id.org/ro/crate/1.1"},
            {"@id": PROFILES[-1][0]},
        ]
        self._crate.metadata.extra_contexts.append(CONTEXT)

    # -- values ---------------------------------------------------------------------------------

    def _parameters(self, side: str, values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """The workflow's parameters of one side, each with its value in this run."""
        parameter = self._entities.parameter
        return {name: parameter(side, name, value) for name, value in values.items()}

    # -- steps ----------------------------------------------------------------------------------

    def _visit(self, visit: Visit) -> None:
        """A visit: what the step called did its work, and the engine had it do so."""
        place, words = f"{visit.path}#{visit.number}", f"`{visit.path}`, visit {visit.number}"
        tools = [self._entities.tool(visit), *(self._entities.model(name) for name in visit.models)]
        action = self._entities.add(
            f"#action-{id_of(place)}",
            "CreateAction",
            name=f"Work of step {words}",
            description=visit.description or visit.reason or f"{visit.kind} {visit.target or ''}",
            instrument=tools,
            **self._times(visit.started, visit.ended),
            agent=self._entities.person,
            object=self._values(visit.inputs, f"inputs of step {words}"),
            result=self._values(visit.outputs, f"outputs of step {words}"),
            **_status(visit.outcome, visit.error),
        )
        control = self._entities.add(
            f"#control-{id_of(place)}",
            "ControlAction",
            name=f"Step {words}",
            description=f"{visit.outcome}, decided by {visit.decided_by}: {visit.reason}",
            instrument=self._entities.step(visit),
            object=action,
            **self._times(visit.started, visit.ended),
        )
        self._actions.append(action)
        self._controls.append(control)

    def _values(self, value: Any, about: str) -> Any:
        if value is None:
            return None
        return self._entities.value_file(resolve(self._history.folder, value), about)

    # -- the whole ------------------------------------------------------------------------------

    def _workflow(self, plan: Path, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        from rocrate.model.computationalworkflow import ComputationalWorkflow

        head = self._history.head
        properties = {
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
            "name": head.get("plan"),
            "description": self._history.title,
            "encodingFormat": "application/yaml",
            "programmingLanguage": {"@id": LANGUAGE},
            "conformsTo": {"@id": BIOSCHEMAS},
            "version": head.get("plan_hash"),
            "step": one([{"@id": step.id} for step in self._entities.steps.values()]),
            "hasPart": one([{"@id": tool.id} for tool in self._entities.tools.values()]),
        }
        workflow = self._crate.add(
            ComputationalWorkflow(self._crate, str(plan), PLAN, properties=properties)
        )
        for side, parameters in (("input", inputs), ("output", outputs)):
            if parameters:
                workflow[side] = one([parameter for parameter, _ in parameters.values()])
        self._crate.mainEntity = workflow
        if (included := plan.parent / RunRecord.included_plans.name).is_dir() and plan.name == PLAN:
            self._crate.add_tree(included, included.name)

    def _run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        history = self._history
        return self._entities.add(
            RUN,
            "CreateAction",
            name=f"Run {history.run} of {history.head.get('plan')}",
            description=f"{history.title} ({history.status})",
            instrument={"@id": PLAN},
            agent=self._entities.person,
            **self._times(history.started, history.ended),
            object=[value for _, value in inputs.values()] or None,
            result=[value for _, value in outputs.values()] or None,
            **_status(history.status, history.result.get("error")),
        )

    def _organize(self, run: Any) -> None:
        self._entities.add(
            "#organize",
            "OrganizeAction",
            name=f"fractale runs the plan in {len(self._history.processes)} processes",
            instrument={"@id": ENGINE},
            object=self._controls,
            result=run,
            agent=self._entities.person,
            **self._times(self._history.started, self._history.ended),
        )

    def _records(self) -> None:
        """The record itself: the events, the transitions, and the drafts."""
        folder = self._history.folder.path
        self._read_me()
        self._crate.add_file(
            folder / "events.jsonl",
            "events.jsonl",
            properties={"name": "every event of the run", "encodingFormat": "application/jsonl"},
        )
        lines = "".join(f"{line}\n" for line in transition_lines(self._history))
        about = "every transition of the run, with values and calls"
        self._entities.file("transitions.jsonl", lines, about, "application/jsonl")
        for path, text in self._history.drafts.items():
            about = f"the plan that a model drafted for step `{path}`, and a person accepted"
            self._entities.file(f"drafts/{id_of(path)}.yaml", text, about, "application/yaml")

    def _read_me(self) -> None:
        history = self._history
        text = README.format(
            run=history.run, plan=history.head.get("plan"), title=history.title, home=HOME
        )
        about = self._entities.file("README.md", text, "what is in this crate", "text/markdown")
        about["about"] = {"@id": "./"}

    @staticmethod
    def _times(started: float | None, ended: float | None) -> dict[str, str]:
        found = {"startTime": started, "endTime": ended}
        return {name: _iso(moment) for name, moment in found.items() if moment}


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def _status(status: str | None, error: Any) -> dict[str, str]:
    """How an action ended; nothing where it has not: a run that waits is no failure."""
    if status not in STATUSES:
        return {}
    failed = STATUSES[status] == STATUSES["failed"]
    told = {"error": str(error)} if failed and error else {}
    return {"actionStatus": STATUSES[status], **told}
