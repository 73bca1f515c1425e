"""The plans that ``fractale agent`` and ``fractale prompt`` run.

The planner drafts a step that asks an expert and fills in the expert's arguments. The generalist
starts its work at once. A second step is planned only if it hands over.

The title of such a plan is the only place with the user's words. Elsewhere the words are an input
of the plan, so that no part of them is read as a template.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from fractale.errors import StoreError, ToolError, UsageError
from fractale.plan.inputs import TYPES, convert
from fractale.plan.kinds import GENERAL_AGENTS, HANDED_OVER, INSTRUCTION_INPUTS, KNOWN
from fractale.plan.model import RESERVED_STEP_NAMES, InputSpec
from fractale.private import make_folder, write_private
from fractale.text import clip, did_you_mean

if TYPE_CHECKING:
    from fractale.agents.catalog import Catalog
    from fractale.toolbox import PromptInfo, Toolbox

GENERALIST = "ask"
ASK_OR_PLAN = "ask_or_plan"
"""The generalist that can hand over to the planner."""

PLAN = "plan"
"""The step for a task that is handed over, and the event that leads to the step."""

WORDS = "instruction"
"""The plan's input with the text that the user typed."""

TITLE_LENGTH = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedExpert:
    """A sub-agent or a prompt, as one step of a plan names it.

    Args:
        input_schema: JSON Schema of its inputs.
        output_schema: JSON Schema of its outputs, if it is known.
        words_as: The argument for an instruction. None: the expert accepts one beside its
            arguments;
            empty: it does not accept any.
    """

    kind: Literal["agent", "prompt"]
    name: str
    description: str = ""
    input_schema: Mapping[str, Any] = field(default_factory=dict[str, Any])
    output_schema: Mapping[str, Any] | None = None
    words_as: str | None = None


async def find_agent(name: str, toolbox: Toolbox, catalog: Catalog) -> NamedExpert:
    """The sub-agent of that name: fractale's, the user's own, or a server's.

    Raises:
        UsageError: The name is unknown.
        PlanError: A package offers the sub-agent, and it can't be loaded.
    """
    if found := find_in_catalog(name, catalog):
        return found
    tools = [tool for tool in await toolbox.tools() if tool.is_agent]
    for tool in tools:
        if name in (tool.name, tool.qualified_name):
            takes = tool.input_schema.get("properties", {})
            return NamedExpert(
                kind="agent",
                name=name,
                description=tool.description,
                input_schema=tool.input_schema,
                output_schema=tool.output_schema,
                words_as=next((each for each in (WORDS, *INSTRUCTION_INPUTS) if each in takes), ""),
            )
    raise _no_agent(name, [*catalog.names(), *(tool.name for tool in tools)])


def find_in_catalog(name: str, catalog: Catalog) -> NamedExpert | None:
    """The sub-agent of that name, if it does not need a server.

    Raises:
        PlanError: A package offers the sub-agent, and it can't be loaded.
    """
    name = GENERALIST if name in GENERAL_AGENTS else name
    agent = catalog.find(name)
    if agent is None:
        return None
    return NamedExpert(
        kind="agent",
        name=name,
        description=agent.description,
        input_schema=agent.input_schema,
        output_schema=agent.output_schema,
    )


def _no_agent(name: str, known: list[str]) -> UsageError:
    tail = did_you_mean(name, known, before="; ")
    return UsageError(
        f"sub-agent `{name}` not found{tail}",
        hint=f"sub-agents: {', '.join(known)}; for other tasks use `fractale prompt`",
    )


async def find_prompt(name: str, toolbox: Toolbox) -> NamedExpert | None:
    """The prompt of that name; None if no server has it.

    Raises:
        ToolError: Several servers have it.
    """
    found = [prompt for prompt in await toolbox.prompts() if name in _names_of(prompt)]
    if not found:
        return None
    if len(found) > 1:
        names = " or ".join(f"`{prompt.name}`" for prompt in found)
        raise ToolError(f"several servers have a prompt `{name}`", hint=f"write {names}")
    arguments = {str(a["name"]): a for a in found[0].arguments}
    properties = {
        name: {"type": "string", "description": each.get("description") or ""}
        for name, each in arguments.items()
    }
    required = [name for name, each in arguments.items() if each.get("required")]
    schema = {"type": "object", "properties": properties, "required": required}
    return NamedExpert(kind="prompt", name=found[0].name, input_schema=schema)


def _names_of(prompt: PromptInfo) -> tuple[str, ...]:
    bare = prompt.name.removeprefix(f"{prompt.server}.")
    return prompt.name, bare, f"{prompt.server}.{bare}"


def one_step_plan(
    expert: NamedExpert, words: str, inputs: Mapping[str, Any], *, direct: bool, small: bool = False
) -> dict[str, Any]:
    """The plan that asks an expert, as the data of its file.

    Args:
        words: The instruction as the user typed it; may be empty.
        inputs: The expert's other inputs.
        direct: Whether to ask the expert at once. Otherwise the planner explores first, and drafts
            the step that asks the expert. The generalist is always asked at once; without `direct`
            it may hand over to the planner. If an expert gets all its inputs and no words, no
            planning is needed.
        small: Whether the model can't call tools. Such a model can only plan.

    Raises:
        UsageError: The expert does not accept an instruction, or gets it twice.
    """
    _check_words(expert, words, inputs)
    _check_inputs(expert, inputs)
    direct = direct or _is_complete(expert, words, inputs)
    planned = [_planned_step(expert, words, inputs)] if small and not direct else None
    steps = planned or _steps(expert, words, inputs, direct=direct)
    name, complete = steps[0]["name"], steps[0].get("type") != "plan" and len(steps) == 1
    specs = {n: _input(expert, n) for n in _input_names(expert, inputs, direct=direct)}
    if words:
        specs[WORDS] = {"type": "string", "description": "What to do.", "required": True}
    return {
        "name": name,
        "description": _title(expert, words),
        **({"inputs": specs} if specs else {}),
        "steps": steps,
        "outputs": _outputs(name, expert if complete else None, planned=len(steps) > 1),
    }


def _is_complete(expert: NamedExpert, words: str, inputs: Mapping[str, Any]) -> bool:
    """Whether an expert gets all its required inputs, and no words that could say more."""
    needed = set(expert.input_schema.get("required") or ()) - {"error"}
    return expert.name != GENERALIST and not words and needed <= set(inputs)


def _steps(
    expert: NamedExpert, words: str, inputs: Mapping[str, Any], *, direct: bool
) -> list[dict[str, Any]]:
    if direct:
        return [_direct_step(expert, words, inputs)]
    if expert.name == GENERALIST:
        return _steps_that_hand_over(expert, words, inputs)
    return [_planned_step(expert, words, inputs)]


def _check_inputs(expert: NamedExpert, inputs: Mapping[str, Any]) -> None:
    """Refuse inputs that the expert does not accept, before a model is asked."""
    from fractale.agents.signatures import faults_of_given

    # On the command line all values are text. The plan will convert them in the same way.
    values = {n: convert(InputSpec(name=n, type=_type(expert, n)), v)[0] for n, v in inputs.items()}
    if faults := faults_of_given(expert.input_schema, values):
        raise UsageError(
            f"inputs of `{expert.name}` are not valid: {'; '.join(faults)}",
            hint=f"see its inputs: fractale agent {expert.name} --help",
        )


def is_small(model: str) -> bool:
    """Whether a model, as ``provider:name``, is so small that it can't call tools."""
    return model.startswith("local:")


def _check_words(expert: NamedExpert, words: str, inputs: Mapping[str, Any]) -> None:
    if words and WORDS in inputs:
        raise UsageError(f"the instruction is given twice: as WORDS and as -i {WORDS}=…")
    if words and expert.words_as == "":
        raise UsageError(
            f"`{expert.name}` does not accept an instruction",
            hint=f"set its inputs: {', '.join(f'-i {n}=…' for n in _properties(expert)) or 'none'}",
        )
    if not words and expert.name == GENERALIST and not {*inputs} & {*INSTRUCTION_INPUTS}:
        raise UsageError("the instruction is missing", hint="write it after the command")


def _properties(expert: NamedExpert) -> dict[str, Any]:
    return dict(expert.input_schema.get("properties", {}))


def _input_names(expert: NamedExpert, inputs: Mapping[str, Any], *, direct: bool) -> list[str]:
    """The plan's inputs: those that are given, and those that the expert requires."""
    needed: list[str] = list(expert.input_schema.get("required", [])) if direct else []
    own = {WORDS, expert.words_as}
    return list(dict.fromkeys([*(name for name in needed if name not in own), *inputs]))


def _input(expert: NamedExpert, name: str) -> dict[str, Any]:
    given: Any = _properties(expert).get(name)
    said = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    spec: dict[str, Any] = {"required": True}
    if kind := _type(expert, name):
        spec["type"] = kind
    if description := said.get("description"):
        spec["description"] = str(description)
    return spec


def _type(expert: NamedExpert, name: str) -> str | None:
    """The type of an input of the plan, if the expert's schema names a single one."""
    given: Any = _properties(expert).get(name)
    kind: Any = cast("dict[str, Any]", given).get("type") if isinstance(given, dict) else None
    return kind if isinstance(kind, str) and kind in TYPES else None


def _direct_step(expert: NamedExpert, words: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    names = _input_names(expert, inputs, direct=True)
    given = {name: _reference("inputs", name) for name in names}
    step: dict[str, Any] = {"name": _step_name(expert.name), expert.kind: expert.name}
    if words and expert.words_as:
        given[expert.words_as] = _reference("inputs", WORDS)
    elif words:
        step["instruction"] = _reference("inputs", WORDS)
    return {**step, "inputs": given} if given else step


def _planned_step(expert: NamedExpert, words: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A step for the planner. Its input `agent` or `prompt` names the expert for the draft."""
    if expert.kind in inputs:
        raise UsageError(f"-i {expert.kind}=… cannot be used here", hint="use --direct")
    instruction = f"Ask {expert.name}, with the inputs as they are, and find out the others."
    return {
        "name": _step_name(expert.name),
        "type": "plan",
        "instruction": _reference("inputs", WORDS) if words else instruction,
        "inputs": {
            expert.kind: expert.name,
            **{name: _reference("inputs", name) for name in inputs},
        },
    }


def _steps_that_hand_over(
    expert: NamedExpert, words: str, inputs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The generalist's step, and the step that is planned if it hands over."""
    if reserved := {"agent", KNOWN} & {*inputs}:
        raise UsageError(f"-i {min(reserved)}=… cannot be used here", hint="use --direct")
    first = _direct_step(expert, words, inputs)
    given = {name: _reference("inputs", name) for name in inputs}
    known = f"steps.{first['name']}.outputs.{KNOWN}"
    second = {
        "name": PLAN,
        "type": "plan",
        **({"instruction": _reference("inputs", WORDS)} if words else {}),
        "inputs": {**given, KNOWN: f"{{{{ {known} | default('') }}}}"},
    }
    handed_over = {
        "agent": ASK_OR_PLAN,
        "rules": {PLAN: [f"{HANDED_OVER} is defined"]},
        "transitions": {"success": "success", PLAN: PLAN},
    }
    return [{**first, **handed_over}, second]


def _outputs(step: str, expert: NamedExpert | None, *, planned: bool) -> dict[str, str]:
    schema = (expert.output_schema if expert else None) or {}
    names = [name for name in schema.get("properties", {}) if str(name).isidentifier()]
    if names:
        return {name: f"{{{{ steps.{step}.outputs.{name} | default(none) }}}}" for name in names}
    answer = _answer_of(step)
    if planned:
        # A plan that declares its outputs may also use this name.
        drafted = f"(steps.{PLAN}.outputs.answer | default{_answer_of(PLAN)})"
        answer = f"{drafted} if steps.{PLAN} is defined else {answer}"
    return {"answer": f"{{{{ {answer} }}}}"}


def _answer_of(step: str) -> str:
    outputs = f"steps.{step}.outputs"
    return f"({outputs}.content | default({outputs}))"


def _reference(where: str, name: str) -> str:
    part = f".{name}" if name.isidentifier() else f"[{json.dumps(name)}]"
    return f"{{{{ {where}{part} }}}}"


def _step_name(name: str) -> str:
    word = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if not word[:1].isalpha() or word in RESERVED_STEP_NAMES:
        return f"ask_{word}"
    return word


def _title(expert: NamedExpert, words: str) -> str:
    return clip(words, TITLE_LENGTH) or f"Ask {expert.name}"


def keep_plan(data: Mapping[str, Any], state_dir: Path) -> Path:
    """Write a plan into the state directory, where a resume finds it. Returns its path.

    Raises:
        StoreError: The plan cannot be written.
    """
    import yaml

    text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=100)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = state_dir / "asked" / f"{data['name']}-{digest}.yaml"
    try:
        make_folder(path.parent)
        write_private(path, text, sync="none")
    except OSError as error:
        raise StoreError(f"cannot write the plan to {path}: {error}") from error
    return path
