"""The entities of an RO-Crate that describes a run: tools, models, steps, values, people."""

from __future__ import annotations

import hashlib
from io import StringIO
from typing import Any
from urllib.parse import quote

from fractale.plain import to_json
from fractale.record.history import RunHistory, Visit, without_indexes

PLAN = "plan.yaml"
TYPES = {"bool": "Boolean", "int": "Integer", "float": "Float", "str": "Text"}
NO_LICENCE = "No licence was given: ask who made this crate before you use it."


class Entities:
    """Adds entities to a crate of the package `rocrate`, each once.

    Args:
        crate: A `rocrate.rocrate.ROCrate`.
        history: Of the run.
    """

    def __init__(self, crate: Any, history: RunHistory) -> None:
        self._crate = crate
        self._history = history
        self.tools: dict[str, Any] = {}
        self.steps: dict[str, Any] = {}
        self.person = self.add(f"#person-{id_of(_owner(history))}", "Person", name=_owner(history))

    def add(self, entity_id: str, kind: Any, **properties: Any) -> Any:
        """A contextual entity; what is None is left out."""
        from rocrate.model.contextentity import ContextEntity

        given = {name: one(value) for name, value in properties.items() if value is not None}
        return self._crate.add(
            ContextEntity(self._crate, entity_id, properties={"@type": kind, **given})
        )

    def parameter(self, side: str, name: str, value: Any) -> tuple[Any, Any]:
        """A parameter of the workflow, and its value in this run."""
        parameter_id = f"#{side}-{id_of(name)}"
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
        """A file with a text."""
        properties = {"name": about, "encodingFormat": encoding}
        return self._crate.add_file(StringIO(text), dest_path=name, properties=properties)

    def licence(self, licence: str | None) -> Any:
        """A licence, by its SPDX name or URL; without one, words that say so."""
        if licence is None:
            return NO_LICENCE
        address = licence if "://" in licence else f"https://spdx.org/licenses/{licence}"
        return self.add(address, "CreativeWork", name=licence)

    def tool(self, visit: Visit) -> Any:
        """What a step calls; a step with an inside is work of the engine's own."""
        name = visit.target or {"agent": "ask"}.get(visit.kind) or f"fractale {visit.kind}"
        key = f"#tool-{id_of(f'{visit.kind}-{name}')}"
        if key not in self.tools:
            self.tools[key] = self.add(
                key,
                "SoftwareApplication",
                name=name,
                description=f"the {visit.kind} that steps of the plan call",
                softwareVersion=self._schema_hash(name),
            )
        return self.tools[key]

    def _schema_hash(self, name: str) -> str | None:
        digest = self._history.tools.get(name)
        return f"schema sha256:{digest}" if digest else None

    def model(self, name: str) -> Any:
        """A model that a step asked."""
        key = f"#model-{id_of(name)}"
        if key not in self.tools:
            self.tools[key] = self.add(
                key, "SoftwareApplication", name=name, description="a language model"
            )
        return self.tools[key]

    def step(self, visit: Visit) -> Any:
        """The step of the plan that a visit is of; the items of a foreach are one step."""
        path = without_indexes(visit.path)
        if path not in self.steps:
            self.steps[path] = self.add(
                f"{PLAN}#{id_of(path)}",
                "HowToStep",
                name=path,
                description=visit.description or None,
                position=str(len(self.steps) + 1),
                workExample=self.tool(visit),
            )
        return self.steps[path]


def _owner(history: RunHistory) -> str:
    """Who ran it, as the system knows them."""
    try:
        return history.folder.path.owner()
    except (KeyError, OSError, NotImplementedError):  # no such user on this machine any more
        return "unknown"


def one(value: Any) -> Any:
    """The only value of a list that has one: JSON-LD writes no list then."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - JSON


def id_of(text: str) -> str:
    """A text as a part of an identifier: what has a meaning in a URL is written out."""
    return quote(text, safe="").replace("%2F", "/").replace("%", "_")
