"""A run as a Workflow Run RO-Crate: the plan, inputs, outputs, and every step's work.

The crate conforms to the profiles Process, Workflow and Provenance Run Crate 0.5 and Workflow
RO-Crate 1.0. The plan is its main workflow; the run is a ``CreateAction``; each attempt of a step
is a ``ControlAction`` on the ``CreateAction`` of what the step called. Values are files that are
named by their content, so that an output that became an input is one entity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fractale.errors import DependencyMissing, UsageError
from fractale.plain import to_json
from fractale.plan.paths import without_indexes
from fractale.record.export import transition_lines
from fractale.record.history import RecordedAttempt, RunHistory, input_values, resolve
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
PLAN = "plan.yaml"
TYPES = {"bool": "Boolean", "int": "Integer", "float": "Float", "str": "Text"}
NO_LICENSE = "No license was given: ask who made this crate before you use it."
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


def write_crate(history: RunHistory, directory: Path, *, license_name: str | None = None) -> Path:
    """Write a run as an RO-Crate.

    Args:
        directory: The directory, made if it does not exist.
        license_name: An SPDX name or a URL; without one the crate says that it has no license.

    Returns:
        The crate's metadata file.

    Raises:
        DependencyMissing: The extra `crate` is not installed.
        UsageError: The directory is not empty, the run finished no step, or its plan has changed.
    """
    try:
        from rocrate.rocrate import ROCrate  # pyright: ignore[reportMissingImports, reportUnknownVariableType] - untyped
    except ImportError as error:
        raise DependencyMissing(
            "an RO-Crate needs the package `rocrate`", hint="pip install 'fractale[crate]'"
        ) from error
    plan = plan_file(history.record, history.head)
    if plan is None:
        raise UsageError(
            f"the plan of run {history.run} has changed or was removed",
            hint="a crate contains the plan that was run; restore the plan",
        )
    if not any(attempt.outcome in STATUSES for attempt in history.attempts):
        raise UsageError(f"run {history.run} has no finished step to describe")
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty", hint="choose another directory")
    crate = ROCrate(version="1.1")
    _Writer(crate, history).write(plan, license_name)
    try:
        crate.write(directory)
    except OSError as error:
        raise UsageError(f"cannot write {directory}: {error}") from error
    return directory / "ro-crate-metadata.json"


class _Writer:
    """Puts a run into a crate of the package `rocrate`."""

    def __init__(self, crate: Any, history: RunHistory) -> None:
        self._crate = crate
        self._history = history
        self._entities = _Entities(crate, history)
        self._actions: list[Any] = []
        self._controls: list[Any] = []

    def write(self, plan: Path, license_name: str | None) -> None:
        self._engine()
        self._root(license_name)
        for attempt in self._history.attempts:
            if attempt.outcome in STATUSES:
                self._attempt(attempt)
        inputs = self._parameters("input", input_values(self._history))
        outputs = self._parameters("output", self._history.result.get("outputs") or {})
        self._workflow(plan, inputs, outputs)
        run = self._run(inputs, outputs)
        self._organize(run)
        self._crate.root_dataset["mentions"] = [run, *self._actions]
        self._records()

    # -- the user and the software --------------------------------------------------------------

    def _engine(self) -> None:
        version = self._history.versions.get("fractale")
        add = self._entities.add
        add(ENGINE, "SoftwareApplication", name="fractale", url=HOME, softwareVersion=version)
        add(LANGUAGE, "ComputerLanguage", name="fractale plan", url=HOME, version=version)

    def _root(self, license_name: str | None) -> None:
        history, root = self._history, self._crate.root_dataset
        profiles = [
            self._entities.add(address, "CreativeWork", name=name, version=version)
            for address, name, version in PROFILES
        ]
        root["conformsTo"] = profiles
        root["name"] = f"{history.head.get('plan')}, run {history.run}"
        root["description"] = f"A run of the plan: {history.title}"
        root["license"] = self._entities.license(license_name)
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

    def _attempt(self, attempt: RecordedAttempt) -> None:
        """The work of the tools and models of an attempt, and the engine's control of it."""
        place, words = (
            f"{attempt.path}#{attempt.number}",
            f"`{attempt.path}`, attempt {attempt.number}",
        )
        tools = [
            self._entities.tool(attempt),
            *(self._entities.model(name) for name in attempt.models),
        ]
        action = self._entities.add(
            f"#action-{_id_of(place)}",
            "CreateAction",
            name=f"Work of step {words}",
            description=_about(attempt),
            instrument=tools,
            **self._times(attempt.started, attempt.ended),
            agent=self._entities.person,
            object=self._values(attempt.inputs, f"inputs of step {words}"),
            result=self._values(attempt.outputs, f"outputs of step {words}"),
            **_status(attempt.outcome, attempt.error),
        )
        control = self._entities.add(
            f"#control-{_id_of(place)}",
            "ControlAction",
            name=f"Step {words}",
            description=f"{attempt.outcome}, decided by {attempt.decided_by}: {attempt.reason}",
            instrument=self._entities.step(attempt),
            object=action,
            **self._times(attempt.started, attempt.ended),
        )
        self._actions.append(action)
        self._controls.append(control)

    def _values(self, value: Any, about: str) -> Any:
        if value is None:
            return None
        return self._entities.value_file(resolve(self._history.record, value), about)

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
            "step": _one([{"@id": step.id} for step in self._entities.steps.values()]),
            "hasPart": _one([{"@id": tool.id} for tool in self._entities.tools.values()]),
        }
        workflow = self._crate.add(
            ComputationalWorkflow(self._crate, str(plan), PLAN, properties=properties)
        )
        for side, parameters in (("input", inputs), ("output", outputs)):
            if parameters:
                workflow[side] = _one([parameter for parameter, _ in parameters.values()])
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
        events = self._history.record.events
        self._read_me()
        self._crate.add_file(
            events,
            "events.jsonl",
            properties={"name": "every event of the run", "encodingFormat": "application/jsonl"},
        )
        lines = "".join(f"{line}\n" for line in transition_lines(self._history))
        about = "every transition of the run, with values and calls"
        self._entities.file("transitions.jsonl", lines, about, "application/jsonl")
        for path, text in self._history.drafts.items():
            about = f"the plan that a model drafted for step `{path}`, and a user accepted"
            self._entities.file(f"drafts/{_id_of(path)}.yaml", text, about, "application/yaml")

    def _read_me(self) -> None:
        history = self._history
        text = README.format(
            run=history.run, plan=history.head.get("plan"), title=history.title, home=HOME
        )
        about = self._entities.file("README.md", text, "contents of this crate", "text/markdown")
        about["about"] = {"@id": "./"}

    @staticmethod
    def _times(started: float | None, ended: float | None) -> dict[str, str]:
        found = {"startTime": started, "endTime": ended}
        return {name: _iso(moment) for name, moment in found.items() if moment}


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def _about(attempt: RecordedAttempt) -> str:
    """The work of an attempt as text, with the source of a result that it took over."""
    own = attempt.description or attempt.reason or f"{attempt.kind} {attempt.target or ''}"
    source = attempt.reused
    if source is None:
        return own
    return f"{own} (the result was taken over from step {source['step']} of run {source['run']})"


def _status(status: str | None, error: Any) -> dict[str, str]:
    """How an action ended; empty if it has not ended: a run that waits has not failed."""
    if status not in STATUSES:
        return {}
    failed = STATUSES[status] == STATUSES["failed"]
    why = {"error": str(error)} if failed and error else {}
    return {"actionStatus": STATUSES[status], **why}


class _Entities:
    """Adds entities to a crate of the package `rocrate`, each once.

    Args:
        crate: A `rocrate.rocrate.ROCrate`.
        history: The run's.
    """

    def __init__(self, crate: Any, history: RunHistory) -> None:
        self._crate = crate
        self._history = history
        self.tools: dict[str, Any] = {}
        self.steps: dict[str, Any] = {}
        self.person = self.add(f"#person-{_id_of(_owner(history))}", "Person", name=_owner(history))

    def add(self, entity_id: str, kind: Any, **properties: Any) -> Any:
        """A contextual entity; properties that are None are left out."""
        from rocrate.model.contextentity import ContextEntity

        given = {name: _one(value) for name, value in properties.items() if value is not None}
        return self._crate.add(
            ContextEntity(self._crate, entity_id, properties={"@type": kind, **given})
        )

    def parameter(self, side: str, name: str, value: Any) -> tuple[Any, Any]:
        """A parameter of the workflow, and its value in this run."""
        parameter_id = f"#{side}-{_id_of(name)}"
        value_id = f"{parameter_id}-value"
        kind = TYPES.get(type(value).__name__)  # pyright: ignore[reportUnknownArgumentType] - JSON
        shown = value if kind else to_json(value)
        parameter = self.add(
            parameter_id,
            "FormalParameter",
            name=name,
            additionalType=kind or "PropertyValue",
            workExample={"@id": value_id},
        )
        held = self.add(
            value_id, "PropertyValue", name=name, value=shown, exampleOfWork={"@id": parameter_id}
        )
        return parameter, held

    def value_file(self, value: Any, about: str) -> Any:
        """A value as a JSON file named by its content."""
        text = to_json(value, indent=1)
        name = f"values/{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        return self._crate.get(name) or self.file(name, text, about, "application/json")

    def file(self, name: str, text: str, about: str, encoding: str) -> Any:
        properties = {"name": about, "encodingFormat": encoding}
        return self._crate.add_file(StringIO(text), dest_path=name, properties=properties)

    def license(self, license_name: str | None) -> Any:
        """The entity of a license, by its SPDX name or URL; without one, a text that says so."""
        if license_name is None:
            return NO_LICENSE
        address = (
            license_name if "://" in license_name else f"https://spdx.org/licenses/{license_name}"
        )
        return self.add(address, "CreativeWork", name=license_name)

    def tool(self, attempt: RecordedAttempt) -> Any:
        """The tool, prompt or agent of a step; the engine itself, if the step has steps inside."""
        name = attempt.target or {"agent": "ask"}.get(attempt.kind) or f"fractale {attempt.kind}"
        key = f"#tool-{_id_of(f'{attempt.kind}-{name}')}"
        if key not in self.tools:
            self.tools[key] = self.add(
                key,
                "SoftwareApplication",
                name=name,
                description=f"the {attempt.kind} that steps of the plan call",
                softwareVersion=self._schema_hash(name),
            )
        return self.tools[key]

    def _schema_hash(self, name: str) -> str | None:
        digest = self._history.tools.get(name)
        return f"schema sha256:{digest}" if digest else None

    def model(self, name: str) -> Any:
        key = f"#model-{_id_of(name)}"
        if key not in self.tools:
            self.tools[key] = self.add(
                key, "SoftwareApplication", name=name, description="a language model"
            )
        return self.tools[key]

    def step(self, attempt: RecordedAttempt) -> Any:
        """The step of an attempt; the items of a foreach are one step."""
        path = without_indexes(attempt.path)
        if path not in self.steps:
            self.steps[path] = self.add(
                f"{PLAN}#{_id_of(path)}",
                "HowToStep",
                name=path,
                description=attempt.description or None,
                position=str(len(self.steps) + 1),
                workExample=self.tool(attempt),
            )
        return self.steps[path]


def _owner(history: RunHistory) -> str:
    """The user who owns the run's directory."""
    try:
        return history.record.path.owner()
    except (KeyError, OSError, NotImplementedError):  # the user was removed from this machine
        return "unknown"


def _one(value: Any) -> Any:
    """The only value of a list of one: JSON-LD does not distinguish the two."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - JSON


def _id_of(text: str) -> str:
    """A text as a part of an identifier, without characters that have a meaning in a URL."""
    return quote(text, safe="").replace("%2F", "/").replace("%", "_")
