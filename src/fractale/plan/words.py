"""The words of the plan language: the keys of each part, and hints for words that are not."""

from __future__ import annotations

from dataclasses import fields
from typing import Final, get_args

from fractale.plan.model import Approve, FigureType, Limits, Retry, StepKind, Take

KINDS: Final[tuple[StepKind, ...]] = get_args(StepKind)
APPROVE: Final[tuple[Approve, ...]] = get_args(Approve)
FIGURE_TYPES: Final[tuple[FigureType, ...]] = get_args(FigureType)
TAKES: Final[tuple[Take, ...]] = get_args(Take)
RETRY_KEYS: Final = tuple(field.name for field in fields(Retry))
GENERAL_AGENTS: Final = (None, "ask", "ask_question")
"""Names of the generalist in a step: none, its own, and 0.1.0's."""

MODEL_AGENTS: Final = ("ask_or_plan", "planner", "result_parse", "transform_jobspec")
"""Built-in sub-agents that can't do without a model."""

ASK_PERSON: Final = "ask_person"
GET_PROMPT: Final = "get_prompt"
READ_RESOURCE: Final = "read_resource"
EXTRA_TOOLS: Final = (ASK_PERSON, GET_PROMPT, READ_RESOURCE)
"""What a step's list of tools can name beside tools: see `fractale.agents.loop_tools`."""

INSTRUCTION_INPUTS: Final = ("goal", "prompt", "instruction")
"""The inputs that fractale 0.1.0 took a step's instruction from, in this order."""

PLANNER_INPUTS: Final = (*INSTRUCTION_INPUTS, "agent")
"""The inputs of a planned step that speak to the planner: its draft does not see them.

`agent` or `prompt` beside an instruction names the one expert that the draft is to ask.
"""

KNOWN: Final = "known"
"""The input of a planned step, and of its draft, that holds what was found out before."""

HANDED_OVER: Final = "handed_over_to_planner"
"""The output of the agent `ask_or_plan` that says that it handed its task over."""

SCHEDULERS: Final = ("local", "slurm", "flux", "pbs", "lsf")
JOB_KEYS: Final = (
    "script",
    "command",
    "nodes",
    "tasks",
    "cores_per_task",
    "gpus_per_task",
    "array",
    "memory",
    "time",
    "queue",
    "account",
    "env",
    "folder",
    "scheduler",
    "confine",
    "writable",
    "network",
    "outputs",
)
"""What is said of a job: below `job`, or in a step of `type: job` beside the step's own keys."""

WIDENING: Final = ("confine", "writable", "network")
"""Of these, those that say how a job is confined: a drafted step's is, and can't say otherwise."""

FIGURE_KEYS: Final = ("pattern", "type", "take", "required")

JOB_OUTPUTS: Final = (
    "index",
    "state",
    "reason",
    "evidence",
    "exit_code",
    "job_id",
    "scheduler",
    "nodes",
    "submitted",
    "started",
    "ended",
    "seconds",
    "log",
    "log_file",
    "error",
)
"""The outputs of a job step, beside the figures that it reads from the log."""

STEP_KEYS: Final = (
    "name",
    "type",
    "description",
    "tool",
    "prompt",
    "agent",
    "plan",
    "job",
    *JOB_KEYS,
    "instruction",
    "inputs",
    "tools",
    "allow_tools",
    "when",
    "foreach",
    "max_parallel",
    "parallel",
    "keep_going",
    "rules",
    "transitions",
    "retry",
    "timeout",
    "max_attempts",
    "approve",
    "output_schema",
    "judge",
    "model",
    "persist",
)
"""Every key of a step, in the order in which people write them."""

_MODEL_KEYS: Final = frozenset({"tools", "persist"})
_CALL_KEYS: Final = frozenset(
    {
        "instruction",
        "inputs",
        "tools",
        "allow_tools",
        "foreach",
        "max_parallel",
        "retry",
        "approve",
        "judge",
        "model",
        "persist",
    }
)
JOB_ONLY: Final = frozenset(JOB_KEYS)
MISPLACED: Final[dict[StepKind, tuple[frozenset[str], str]]] = {
    "tool": (_MODEL_KEYS, "has no meaning in a tool step: no model chooses what to call"),
    "prompt": (frozenset(), ""),
    "agent": (frozenset(), ""),
    "plan": (frozenset({"persist"}), "belongs to the steps inside the plan"),
    "parallel": (_CALL_KEYS, "belongs to the steps inside the block"),
    "job": (
        frozenset({"instruction", "inputs", "tools", "allow_tools", "persist"}),
        "has no meaning in a job step; templates stand in `script`, `command` and `env` themselves",
    ),
}
INCLUDED_MISPLACED: Final = frozenset(
    {"instruction", "tools", "allow_tools", "retry", "approve", "persist"}
)
"""What a step that includes a plan file cannot say: the steps of that file say it."""

STEP_HINTS: Final = {
    "args": "write `inputs`",
    "arguments": "write `inputs`",
    "with": "write `inputs`",
    "if": "write `when`",
    "next": "write `transitions: {success: STEP}`",
    "needs": "steps run in the order of the file; write `transitions` to change it",
    "depends_on": "steps run in the order of the file; write `transitions` to change it",
    "initial": "a plan starts at its first step: move it there",
    "schema": "write `output_schema` for what comes out; inputs are checked by the tool's own",
    "validate": "write `rules` or `output_schema`",
}

INPUT_KEYS: Final = (
    "type",
    "default",
    "description",
    "enum",
    "minimum",
    "maximum",
    "required",
    "secret",
)
LIMIT_KEYS: Final = tuple(field.name for field in fields(Limits))


PLAN_KEYS: Final = (
    "name",
    "description",
    "inputs",
    "agents",
    "servers",
    "limits",
    "steps",
    "outputs",
)
_REGISTRY = "that belongs to a registry or server file"
PLAN_HINTS: Final = {
    "tools": _REGISTRY,
    "prompts": _REGISTRY,
    "resources": _REGISTRY,
    "server": f"{_REGISTRY}; a plan names its `servers`",
    "states": "write `steps`",
    "tasks": "write `steps`",
}
