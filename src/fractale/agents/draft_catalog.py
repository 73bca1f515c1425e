"""The contents that a drafted plan may have: as text and JSON Schema for the planner, and to check.

The schema is the plan language, narrowed to the catalog. It declares a step once, in ``$defs``. The
planner reads the arguments of each tool in the text beside the schema. A draft is checked against
the tools' own schemas.

Two schemas have the arguments themselves: the schema for a small model, which fills in everything
that it sees, and the schema of the one step that asks an expert.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from fractale.agents.signatures import faults_of_given, prompt_signature, resolved, signature
from fractale.agents.subagent import Subagent
from fractale.durations import format_duration
from fractale.errors import PlanError, Problem
from fractale.plan.build import parse_plan
from fractale.plan.check import check_against_tools, check_plan
from fractale.plan.dump import dump_data
from fractale.plan.job import JOB_KEYS, JOB_OUTPUTS, WIDENING
from fractale.plan.kinds import GENERAL_AGENTS, KNOWN
from fractale.plan.model import HANDLERS, Plan, Step
from fractale.plan.values import has_template
from fractale.text import clip
from fractale.toolbox import PromptInfo, ResourceInfo, ToolInfo

Schema = Mapping[str, Any]

MAX_STEPS = 50

SCRIPT_SECONDS: Final = 600.0
"""The longest `timeout` of a drafted script, which no limit on jobs counts."""

KEYS = ("description", "steps", "outputs", "limits", *HANDLERS)
"""Top-level keys of a draft. Its name and its inputs are those of the step that it is for."""

NOT_AS_INPUT: Final = ("instruction", "error")
"""Arguments that the engine passes: the step's `instruction`, and the last attempt's error."""

FEW_TOOLS = 8
"""Up to this number of tools, the schema for a small model has the arguments of each."""

MAX_DESCRIPTION = 200
"""The most characters of a description in the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCatalog:
    """The tools, agents, prompts and inputs that a draft may use.

    Args:
        inputs: Names of the step's inputs. The draft reads them as `inputs.NAME`.
        expert: Kind and name of the one agent or prompt that the draft must ask; None: any.
        may_nest: Whether a drafted step may be a `plan` step.
        plain: Whether the model is small. If so, a draft is a sequence of plain calls.
    """

    tools: Sequence[ToolInfo] = ()
    prompts: Sequence[PromptInfo] = ()
    agents: Sequence[Subagent | ToolInfo] = ()
    resources: Sequence[ResourceInfo] = ()
    inputs: Sequence[str] = ()
    expert: tuple[str, str] | None = None
    may_nest: bool = False
    max_steps: int = MAX_STEPS
    plain: bool = False

    @property
    def may_submit(self) -> bool:
        """Whether a draft may have jobs."""
        return any(tool.name == "job_submit" for tool in self.tools)

    @property
    def expert_takes(self) -> Mapping[str, Any]:
        """JSON Schema of the expert's arguments."""
        kind, name = self.expert or ("", "")
        if kind == "agent":
            return next((a.input_schema for a in self.agents if a.name == name), dict[str, Any]())
        arguments = [a for p in self.prompts if p.name == name for a in p.arguments]
        return {
            "type": "object",
            "properties": {
                str(a["name"]): {"type": "string", "description": a.get("description") or ""}
                for a in arguments
            },
            "required": [str(a["name"]) for a in arguments if a.get("required")],
        }

    @property
    def expert_takes_words(self) -> bool:
        """Whether the expert accepts an instruction beside its inputs."""
        _, name = self.expert or ("", "")
        served = [a for a in self.agents if a.name == name and isinstance(a, ToolInfo)]
        return not served or "instruction" in self.expert_takes.get("properties", {})

    def as_text(self) -> str:
        """The catalog for the planner. For an expert, only tools and inputs."""
        whole = not self.expert
        blocks = [
            ("Tools", [_line(tool) for tool in self.tools]),
            ("Prompts", [_prompt_line(prompt) for prompt in self.prompts if whole]),
            ("Sub-agents", [_line(agent) for agent in self.agents if whole]),
            (
                "Resources",
                [
                    f"{r.uri}: {clip(r.description or r.name, MAX_DESCRIPTION)}"
                    for r in self.resources
                    if whole
                ],
            ),
            ("Inputs, seen as {{ inputs.NAME }}", list(self.inputs)),
        ]
        return "\n\n".join(
            f"{title}:\n" + "\n".join(f"- {line}" for line in lines)
            for title, lines in blocks
            if lines
        )

    def schema(self) -> dict[str, Any]:
        """JSON Schema of a draft."""
        return draft_schema(self)

    def read(self, name: str, data: Any, known: str = "") -> tuple[Plan, str]:
        """Check a draft. Returns it as a plan, and as YAML.

        Args:
            name: Of the step that the draft is for.
            data: The draft as JSON, with the keys `KEYS`.
            known: The planner's findings, for the steps that need them.

        Raises:
            PlanError: The draft is not valid. The error lists all faults.
        """
        if not isinstance(data, Mapping):
            raise PlanError([Problem("not-a-draft", "a draft is a mapping with `steps`")])
        draft: dict[str, Any] = {str(key): value for key, value in data.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - a model's words
        kept = {key: draft[key] for key in KEYS if draft.get(key)}
        inputs: dict[str, Any] = {key: {"required": True} for key in self.inputs}
        if known or KNOWN in inputs:
            kept = hand_on(kept)
        if KNOWN not in inputs and _mentions_known(kept):
            inputs[KNOWN] = {"type": "string", "default": known}
        text = dump_data({"name": name, **({"inputs": inputs} if inputs else {}), **kept})
        plan = parse_plan(text, f"draft of {name}")
        problems = [*self._problems(plan, draft), *self._checked(plan)]
        if faults := [problem for problem in problems if problem.severity == "error"]:
            raise PlanError(faults, plan)
        return plan, text

    def _checked(self, plan: Plan) -> list[Problem]:
        found = check_plan(plan)
        if any(problem.severity == "error" for problem in found):
            return found
        tools = {
            name: {"input_schema": tool.input_schema, "output_schema": tool.output_schema}
            for tool in self.tools
            for name in (tool.name, tool.qualified_name)
        }
        prompts = {p.name: {"arguments": list(p.arguments)} for p in self.prompts}
        agents = {
            agent.name: {"input_schema": agent.input_schema, "output_schema": agent.output_schema}
            for agent in self.agents
        }
        found += check_against_tools(plan, tools, prompts, agents, drafted=True)
        if any(problem.severity == "error" for problem in found):
            return found
        known = {**tools, **agents}
        return [*found, *(p for step in plan.walk() for p in _value_problems(step, known))]

    def _problems(self, plan: Plan, draft: Mapping[str, Any]) -> Iterator[Problem]:
        for key in draft:
            if key not in (*KEYS, "name", "inputs"):
                yield Problem("draft-key", f"a draft has no `{key}`; it has {', '.join(KEYS)}")
        steps = list(plan.walk())
        if len(steps) > self.max_steps:
            yield Problem("draft-too-long", f"{len(steps)} steps; at most {self.max_steps}")
        for step in steps:
            yield from self._step_problems(step)

    def _step_problems(self, step: Step) -> Iterator[Problem]:
        if step.approve == "never":
            message = f"`{step.name}`: a draft can't say `approve: never`"
            yield Problem("draft-approve", message, step.where("approve"))
        if step.kind in ("job", "script") and not self.may_submit:
            does = "submit a job" if step.kind == "job" else "run a script"
            message = f"`{step.name}`: a draft can {does} only where it has the tool for it"
            yield Problem("draft-job", message, step.position)
        if step.kind == "script" and (not step.timeout or step.timeout > SCRIPT_SECONDS):
            most = format_duration(SCRIPT_SECONDS)
            message = (
                f"`{step.name}`: a drafted script needs a `timeout` of at most {most}; "
                "for longer work, write a `job`"
            )
            yield Problem("draft-script", message, step.where("timeout"))
        if (job := step.job) and (job.confine is False or job.network or job.writable):
            keys = "`confine: false`, `network` or `writable`"
            message = f"`{step.name}`: a draft can't say {keys}: its jobs are confined"
            yield Problem("draft-confine", message, step.position)
        if job and job.answer and job.answer.file is not None:
            message = f"`{step.name}`: a draft can't name a file of outputs; let the job print it"
            yield Problem("draft-file", message, step.where("job.outputs"))
        if step.default is not None:
            message = f"`{step.name}`: a draft can't say `default`: the person is to answer"
            yield Problem("draft-default", message, step.where("default"))
        if step.kind == "plan" and not self.may_nest:
            message = f"`{step.name}`: plans may not nest so deep; write its steps out"
            yield Problem("draft-too-deep", message, step.position)
        if step.kind == "agent" and step.target is None and not self._asks_anyone:
            message = f"`{step.name}`: name one of the sub-agents that there are"
            yield Problem("draft-agent", message, step.position)
        if self.expert and (step.kind, step.target) != self.expert:
            kind, name = self.expert
            message = f"`{step.name}`: the one step is to be `{kind}: {name}`"
            yield Problem("draft-expert", message, step.position)

    @property
    def _asks_anyone(self) -> bool:
        return any(agent.name == "ask" for agent in self.agents)


def _value_problems(step: Step, known: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """Inputs that the step's tool or agent would refuse. Templates have no value yet."""
    target = step.target or ""
    if step.kind not in ("tool", "agent") or target not in known:
        return
    values = {name: value for name, value in step.inputs.items() if not has_template(value)}
    for fault in faults_of_given(known[target].get("input_schema") or {}, values):
        message = f"`{step.name}`: `{target}` can't take these inputs: {fault}"
        yield Problem("bad-argument", message, step.where("inputs"))


def hand_on(draft: Mapping[str, Any]) -> dict[str, Any]:
    """A draft that passes the planner's findings to its generalists, so that they need not search.

    Steps that read the findings already do not change. The user sees the change in the review.
    """
    blocks = {key: draft[key] for key in ("steps", *HANDLERS) if isinstance(draft.get(key), list)}
    return {**draft, **{key: list(map(_handed_on, steps)) for key, steps in blocks.items()}}


def _handed_on(step: Any) -> Any:
    if not isinstance(step, Mapping):
        return step
    said: dict[str, Any] = {str(key): value for key, value in step.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - a model's words
    if inside := next((key for key in ("parallel", "steps") if key in said), None):
        inner = hand_on({"steps": said[inside]})["steps"]
        return {**said, inside: inner}
    given: Any = said.get("inputs") or {}
    inputs: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}  # pyright: ignore[reportUnknownArgumentType] - a model's words
    asks = "agent" in said and said["agent"] in GENERAL_AGENTS and isinstance(given, Mapping)
    if not asks or _mentions_known(said):
        return step  # pyright: ignore[reportUnknownVariableType] - a model's words
    return {**said, "inputs": {**inputs, KNOWN: f"{{{{ inputs.{KNOWN} }}}}"}}


def _mentions_known(data: Any) -> bool:
    """Whether a text in a draft reads the input `known`."""
    if isinstance(data, str):
        return f"inputs.{KNOWN}" in data
    if isinstance(data, Mapping):
        return any(map(_mentions_known, data.values()))  # pyright: ignore[reportUnknownArgumentType] - a model's words
    return isinstance(data, list) and any(map(_mentions_known, data))  # pyright: ignore[reportUnknownArgumentType] - a model's words


def _line(tool: ToolInfo | Subagent) -> str:
    without = NOT_AS_INPUT if isinstance(tool, Subagent) or tool.is_agent else ()
    gives = tool.output_schema
    if isinstance(tool, Subagent) and tool.name in GENERAL_AGENTS:
        gives = {"properties": {"content": {"type": "string"}}}
    reads = isinstance(tool, ToolInfo) and tool.annotations.get("readOnlyHint") is True
    said = signature(tool.name, tool.input_schema, gives, without)
    return f"{said}: {clip(tool.description, MAX_DESCRIPTION)}{' (only reads)' if reads else ''}"


def _prompt_line(prompt: PromptInfo) -> str:
    return f"{prompt_signature(prompt)}: {clip(prompt.description, MAX_DESCRIPTION)}"


# -- the JSON Schema of a draft -------------------------------------------------------------------

_NAME: Final[Schema] = {"type": "string", "description": "Letters, digits, _ and -; unique."}
_PLAIN_NAME: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]{0,30}$"}
_EXPRESSION: Final[Schema] = {"type": "string"}
_TEXTS: Final[Schema] = {"type": "array", "items": {"type": "string"}}
_STEPS: Final[Schema] = {"type": "array", "items": {"$ref": "#/$defs/step"}, "minItems": 1}
_TEMPLATE: Final[Schema] = {"type": "string", "pattern": r"\{\{.*\}\}"}

_HANDLERS: Final[Mapping[str, Any]] = {
    "on_failure": {**_STEPS, "description": "Steps that run once the plan failed."},
    "finally": {**_STEPS, "description": "Steps that run at every end, such as a cleanup."},
}

_FLOW: Final[Mapping[str, Any]] = {
    "tools": {
        **_TEXTS,
        # Sent to models, so recorded runs are compared with it.
        "description": "What an agent may call. Left out: all tools, but none of the sub-agents.",
    },
    "when": _EXPRESSION,
    "foreach": {
        "anyOf": [
            _EXPRESSION,
            {"type": "array"},
            {"type": "object", "properties": {"zip": {"type": "object"}}, "required": ["zip"]},
        ]
    },
    "max_parallel": {"type": "integer", "minimum": 1},
    # Sent to models, so recorded runs are compared with it.
    "keep_going": {"type": "boolean", "description": "Go on if items or steps inside fail."},
    "parallel": _STEPS,
    "steps": {**_STEPS, "description": "A chain: steps in their order, as one step."},
    "rules": {"type": "object", "properties": {"success": _TEXTS, "failure": _TEXTS}},
    "transitions": {
        "type": "object",
        "description": "Event to a step's name, `success` or `failed`.",
        "properties": {"success": {"type": "string"}, "failure": {"type": "string"}},
    },
    "reason": {"type": "string", "description": "The error, if a transition leads to `failed`."},
    "max_attempts": {"type": "integer", "minimum": 1},
    "retry": {"type": "object"},
    "until": {**_EXPRESSION, "description": "Call the tool again until this is true."},
    "every": {"type": "string"},
    "timeout": {"type": "string"},
    "output_schema": {"type": "object", "description": "JSON Schema of a model's answer."},
}
"""Keys of a step beside its call. A small model would fill them with nonsense."""

_ASK: Final[Mapping[str, Any]] = {
    "ask": {
        "type": "string",
        "description": "A question to the person: only what they alone can know or decide. "
        "Outputs: `answer`, `text`.",
    },
    "choices": {"anyOf": [_TEXTS, _EXPRESSION], "description": "Of `ask`; left out: any text."},
    "form": {"type": "object", "description": "Of `ask`: JSON Schema of an object, flat."},
}
"""Keys of a step that asks. Its default is for the plan's author to set."""


_SET: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "Name to template: later steps read the value as `values.NAME`.",
}


def draft_schema(catalog: DraftCatalog) -> dict[str, Any]:
    """JSON Schema of a draft that uses the catalog."""
    if catalog.expert:
        return _draft(_expert_step(catalog), most=1)
    if catalog.plain:
        kinds = list(_plain_steps(catalog))
        return _draft(kinds[0] if len(kinds) == 1 else {"anyOf": kinds}, most=catalog.max_steps)
    outputs = {
        "type": "object",
        "description": "Name to template: what the plan returns; else its last step's outputs.",
    }
    schema = _draft({"$ref": "#/$defs/step"}, most=catalog.max_steps)
    schema["properties"] |= {"outputs": outputs, **_HANDLERS}
    return {**schema, "$defs": {"step": _whole_step(catalog)}}


def _draft(step: Schema, *, most: int) -> dict[str, Any]:
    steps = {"type": "array", "items": step, "minItems": 1, "maxItems": most}
    return {"type": "object", "properties": {"steps": steps}, "required": ["steps"]}


def _whole_step(catalog: DraftCatalog) -> dict[str, Any]:
    """Schema of any step of a draft."""
    offered = {
        "tool": [tool.name for tool in catalog.tools],
        "prompt": [prompt.name for prompt in catalog.prompts],
        "agent": [agent.name for agent in catalog.agents],
    }
    kinds: dict[str, Any] = {
        kind: {"type": "string", "enum": names} for kind, names in offered.items() if names
    }
    if catalog.may_nest:
        kinds["type"] = {
            "type": "string",
            "enum": ["plan"],
            "description": "`plan`: the steps that its `instruction` needs are written when the "
            "run comes to it; only where they depend on what earlier steps find.",
        }
    if catalog.may_submit:
        kinds |= {"job": _job(), **_SCRIPT}
    kinds["wait"] = {"type": "string", "description": "How long to wait, such as `10m`."}
    kinds["set"] = _SET
    instruction = {"type": "string", "description": "All that an agent or a prompt is to do."}
    given = {"inputs": {"type": "object"}, "instruction": instruction}
    properties = {"name": _NAME, **kinds, **given, **_FLOW, **_ASK}
    return {
        "type": "object",
        "properties": properties,
        "required": ["name"],
        "additionalProperties": False,
    }


_SCRIPT: Final[Mapping[str, Any]] = {
    # Sent to models, so recorded runs are compared with it.
    "script": {
        "type": "string",
        "description": "A short program on this machine, with its `#!` line. Its outputs are the "
        "JSON that it prints, or `content`. Values go in by `stdin` and `env`. It needs a "
        "`timeout` of at most 10m.",
    },
    "stdin": {"description": "Of a script: text, or data that it reads as JSON."},
    "env": {"type": "object", "description": "Of a script: its variables."},
}
"""Keys of a script step. A draft may have one if it may submit jobs: it is a local job."""


def _job() -> dict[str, Any]:
    """Schema of the key `job`."""
    named = ("script", "command", "outputs", *WIDENING)
    keys = ", ".join(key for key in JOB_KEYS if key not in named)
    return {
        "type": "object",
        "description": f"A batch job, submitted and waited for. Further keys: {keys}. Its outputs "
        f"are {', '.join(JOB_OUTPUTS)}, and those that `outputs` reads from the log: NAME: a "
        "regular expression with one group.",
        "properties": {
            "command": _TEXTS,
            "script": {"type": "string"},
            "outputs": {"type": "object"},
        },
    }


def _expert_step(catalog: DraftCatalog) -> dict[str, Any]:
    """Schema of the one step that asks the expert."""
    kind, name = catalog.expert or ("", "")
    takes = catalog.expert_takes
    inputs = _arguments(takes, templates=bool(catalog.inputs))
    properties: dict[str, Any] = {
        "name": _NAME,
        kind: {"type": "string", "enum": [name]},
        "inputs": inputs,
    }
    if catalog.expert_takes_words:
        properties["instruction"] = {"type": "string", "description": "All that it is to do."}
    needed = ["inputs"] if inputs.get("required") else []
    return {"type": "object", "properties": properties, "required": ["name", kind, *needed]}


def _plain_steps(catalog: DraftCatalog) -> Iterator[dict[str, Any]]:
    """Schemas of the calls that a small model may choose from."""
    several = len(catalog.tools) + len(catalog.agents) + len(catalog.prompts) > 1
    if len(catalog.tools) <= FEW_TOOLS:
        for tool in catalog.tools:
            takes = _arguments(tool.input_schema, templates=bool(catalog.inputs) or several)
            yield _plain_step("tool", [tool.name], takes)
    else:
        yield _plain_step("tool", [tool.name for tool in catalog.tools], {"type": "object"})
    for kind, offered in (("prompt", catalog.prompts), ("agent", catalog.agents)):
        if offered:
            yield _plain_step(kind, [each.name for each in offered], {"type": "object"})


def _plain_step(kind: str, names: Sequence[str], inputs: Schema) -> dict[str, Any]:
    target = {"type": "string", "enum": list(names)}
    properties: dict[str, Any] = {"name": _PLAIN_NAME, kind: target, "inputs": inputs}
    required = ["name", kind]
    if kind == "tool":
        required.append("inputs")
    else:
        properties["instruction"] = {
            "type": "string",
            # Sent to models, so recorded runs are compared with it.
            "description": "What it is to do.",
        }
    return {"type": "object", "properties": properties, "required": required}


def _arguments(schema: Schema, *, templates: bool) -> dict[str, Any]:
    """Arguments in the form that a step writes.

    Local references are inlined: inside the schema of the draft they would have other targets.

    Args:
        templates: Whether each argument may be a template.
    """
    whole: dict[str, Any] = _inlined(schema, schema)
    named: dict[str, Any] = whole.get("properties") or {}
    properties = {name: each for name, each in named.items() if name not in NOT_AS_INPUT}
    if not properties:
        return {"type": "object"}
    if templates:
        properties = {name: _or_template(each) for name, each in properties.items()}
    needed = [name for name in whole.get("required") or () if name in properties]
    kept = {key: whole[key] for key in ("additionalProperties",) if key in whole}
    required = {"required": needed} if needed else {}
    return {"type": "object", "properties": properties, **required, **kept}


def _or_template(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    said = cast("Schema", schema)
    bound = any(key in said for key in ("enum", "anyOf", "oneOf"))
    if not bound and said.get("type", "string") == "string":
        return said
    return {"anyOf": [said, _TEMPLATE]}


def _inlined(schema: Any, root: Schema, within: tuple[str, ...] = ()) -> Any:
    """A schema without references and descriptions. A recursive reference accepts anything."""
    if isinstance(schema, list):
        return [_inlined(each, root, within) for each in schema]  # pyright: ignore[reportUnknownVariableType] - JSON Schema
    if not isinstance(schema, Mapping):
        return schema
    said: Schema = schema  # pyright: ignore[reportUnknownVariableType] - JSON Schema
    target = said.get("$ref")
    if isinstance(target, str):
        if target in within:
            return {}
        return _inlined(resolved(said, root), root, (*within, target))
    return {
        key: _inlined(each, root, within)
        for key, each in said.items()
        if key != "$defs" and not (key == "description" and isinstance(each, str))
    }
