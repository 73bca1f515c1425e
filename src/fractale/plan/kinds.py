"""Kinds of step: one object each.

A kind defines:

- the key that names it, and the meaning of that key,
- the common keys that it lacks,
- the tools and agents that it may call,
- the values that it renders, the values that it names, and the known names of its outputs,
- its drawing.

To add a kind, write a class here, add it to `KINDS`, and write how it runs in
``fractale/graph/kinds/``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Final

from fractale.durations import format_duration
from fractale.errors import PlanError, Problem
from fractale.plan.ask import (
    ASK_OUTPUTS,
    QUESTION,
    field_names,
    question_values,
    unknown_answers,
)
from fractale.plan.escape import ELLIPSIS, escape
from fractale.plan.fields import join
from fractale.plan.forms import CALLABLE_PATTERN, NAME, NAMED_VALUES, Form, Key, ref
from fractale.plan.job import (
    JOB_OUTPUTS,
    SCRIPT_OUTPUTS,
    TIME,
    JobPlan,
    job_data,
    read_job,
    read_script,
    script_data,
)
from fractale.plan.values import Expression, Template, Value

if TYPE_CHECKING:
    from fractale.plan.build import StepReader
    from fractale.plan.fields import Fields
    from fractale.plan.model import Plan, Step
    from fractale.plan.node import Node

GENERAL_AGENTS: Final = (None, "ask", "ask_question")
"""Names of the generalist in a step: none, its own, and that of 0.1.0."""

MODEL_AGENTS: Final = ("ask_or_plan", "planner", "result_parse", "transform_jobspec")
"""Built-in sub-agents that can't work without a model."""

ASK_PERSON: Final = "ask_person"
GET_PROMPT: Final = "get_prompt"
READ_RESOURCE: Final = "read_resource"
EXTRA_TOOLS: Final = (ASK_PERSON, GET_PROMPT, READ_RESOURCE)
"""The names that a step's list of tools can contain beside tools."""

INSTRUCTION_INPUTS: Final = ("goal", "prompt", "instruction")
"""The inputs that fractale 0.1.0 read a step's instruction from, in this order."""

PLANNER_INPUTS: Final = (*INSTRUCTION_INPUTS, "agent")
"""The inputs of a planned step that are for the planner: its draft does not see them.

`agent` or `prompt` beside an instruction names the one expert that the draft must ask.
"""

KNOWN: Final = "known"
"""The input of a planned step, and of its draft, that contains earlier findings."""

HANDED_OVER: Final = "handed_over_to_planner"
"""The output of the agent `ask_or_plan` that reports that it handed its task over."""

SUMMARY_LIMIT: Final = 60
"""Characters of one part of a step's summary."""

COMMAND_LIMIT: Final = 48
"""Characters of a command in a step's summary: its program and its first words."""

READ_LIMIT: Final = 4000
"""Characters of a text that are read for its summary."""

SHELLS: Final = ("sh", "bash", "dash", "ksh", "zsh")

_TEMPLATE: Final = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_IN_A_ROW: Final = re.compile(rf"{ELLIPSIS}[\s{ELLIPSIS}]*{ELLIPSIS}")
_JOINED: Final = re.compile(r"[ \t]*\\\n[ \t]*")
_PREPARES: Final = re.compile(
    r"(?:set|export|unset|cd|module|ml|source|\.|umask|ulimit|trap|shopt)(?:\s|$)|[A-Za-z_]\w*=\S*$"
    r"|[A-Za-z_]\w*=\$\("
)
"""The beginning of a line of a shell script that only prepares for the next lines."""

_OF_A_CALL: Final = frozenset(
    {"instruction", "inputs", "allow_tools", "retry", "approve", "judge", "model"}
)
"""Common keys without a meaning in a step that makes no call of its own."""

_CALLABLE: Final = {"type": "string", "pattern": f"^{CALLABLE_PATTERN}$"}


class StepKind:
    """A kind of step."""

    name: ClassVar[str]
    key: ClassVar[Key]
    """The key that names the kind. Its form is only read here if it has a `read`."""

    field: ClassVar[str] = "target"
    """The field of `Step` that the key sets: `target` for a name, `value` for anything else."""

    lacks: ClassVar[frozenset[str]] = frozenset()
    """Common keys without a meaning in this kind."""

    reason: ClassVar[str] = ""
    """The reason, as the end of the message about such a key."""

    also_named_by: ClassVar[tuple[str, ...]] = ()
    """Other keys that name the kind if no key of a kind is present, and no `type`."""

    overrules_agent: ClassVar[bool] = False
    """Whether the key overrides `type: agent`, which was the default type of 0.1.0."""

    asks_user: ClassVar[bool] = False
    """Whether the user's answer decides how the step ends."""

    asks_model: ClassVar[bool] = False
    """Whether a model works in the step, so that an error of an earlier step can help it."""

    chooses_tools: ClassVar[bool] = False
    """Whether a model in the step chooses among tools."""

    keeps_sources: ClassVar[bool] = False
    """Whether a killed attempt keeps the sources that it had seen, as the context of a model does.
    Other kinds make their calls again, from the journal."""

    in_brackets: ClassVar[tuple[str, str]] = ("[", "]")
    """The brackets of its node in Mermaid."""

    is_square: ClassVar[bool] = False
    """Whether its box in a picture has square corners."""

    def lacking(self, fields: Fields) -> frozenset[str]:
        """The common keys without a meaning in the step of a mapping."""
        del fields
        return self.lacks

    def read(self, fields: Fields, steps: StepReader, *, inside: bool) -> dict[str, Any]:
        """The fields of `Step` that only this kind sets.

        Args:
            fields: The step's mapping.
            steps: Reads the steps of the plan.
            inside: Whether the step is in a parallel block.
        """
        del steps, inside
        if fields.get(self.name) is None:
            if self.key.required is not None:
                article = "an" if self.name[0] in "aeiou" else "a"
                message = f"{article} {self.name} step needs `{self.name}`{self.key.required}"
                fields.fail(self.name, "missing-key", message)
            return {}
        return {self.field: self.key.form.read(fields, self.name) if self.key.form.read else None}

    def data(self, step: Step) -> dict[str, Any]:
        """The keys that define the step's kind, as plain data."""
        value = getattr(step, self.field)
        return {self.name: self.key.form.dump(value)} if value is not None else {"type": self.name}

    def inputs(self, step: Step) -> Mapping[str, Value]:
        """The values that the step renders before its call, by name, as the plan has them."""
        return step.inputs

    def templates(self, step: Step) -> Iterator[tuple[str, Value | Expression]]:
        """The values of the kind's own keys that may contain templates, with their paths."""
        if self.field == "value" and step.value is not None:
            yield self.name, step.value

    def value_names(self, step: Step) -> Collection[str]:
        """The names that the step gives to values."""
        del step
        return ()

    def problems(self, step: Step, path: str) -> Iterator[Problem]:
        """Warnings about what the kind's own keys mean together with the step's rules."""
        del step, path
        yield from ()

    def rule_names(self, step: Step) -> Collection[str] | None:
        """The outputs that a rule can read; None if only the run shows them."""
        del step
        return None

    def inherits_instruction(self, target: str | None) -> bool:
        """Whether an input can contain the step's instruction, as in 0.1.0."""
        del target
        return False

    def needs_model(self, step: Step) -> bool:
        """Whether the step can't run without a model."""
        del step
        return False

    def output_names(self, step: Step) -> Collection[str] | None:
        """The names of the step's outputs; None if only the run shows them."""
        del step
        return None

    def summary(self, step: Step) -> str:
        """The call of the step, as text for a drawing."""
        value = getattr(step, self.field)
        return "" if value is None else escape(brief(str(self.key.form.dump(value))), SUMMARY_LIMIT)


class _Tool(StepKind):
    name = "tool"
    key = Key(NAME, "The MCP tool or local tool to call.", required=": its name")
    reason = "has no meaning in a tool step: no model chooses what to call"
    overrules_agent = True
    is_square = True


class _Prompt(StepKind):
    name = "prompt"
    key = Key(NAME, "The MCP prompt that a model answers.", required=": its name")
    overrules_agent = True
    asks_model = True
    chooses_tools = True
    in_brackets = ("(", ")")
    keeps_sources = True

    def inherits_instruction(self, target: str | None) -> bool:
        del target
        return True

    def needs_model(self, step: Step) -> bool:
        del step
        return True


class _Agent(StepKind):
    name = "agent"
    key = Key(
        Form(NAME.read, {**_CALLABLE, "type": ["string", "null"]}),
        "The [sub-agent](#sub-agents) to ask; empty, the general one.",
    )
    asks_model = True
    chooses_tools = True
    in_brackets = ("(", ")")
    keeps_sources = True

    def inherits_instruction(self, target: str | None) -> bool:
        del target
        return True

    def needs_model(self, step: Step) -> bool:
        return step.target in (*GENERAL_AGENTS, *MODEL_AGENTS)

    def summary(self, step: Step) -> str:
        return super().summary(step) or "ask"


class _Plan(StepKind):
    """An included plan file, or steps that the planner drafts at run time."""

    name = "plan"
    key = Key(
        Form(None, {"type": ["string", "null"]}),
        "A plan file to [include](#included-plans), relative to this one; empty, the step is "
        "[drafted](planning.md) when the run reaches it.",
    )
    reason = "belongs to the steps inside the plan"
    asks_model = True
    chooses_tools = True
    in_brackets = ("[[", "]]")

    _INCLUDED_LACKS: Final = frozenset({"instruction", "tools", "allow_tools", "retry", "approve"})
    """Keys that a step with a plan file cannot have: the steps of that file have them."""
    keeps_sources = True

    def lacking(self, fields: Fields) -> frozenset[str]:
        return self._INCLUDED_LACKS if fields.get("plan") else self.lacks

    def read(self, fields: Fields, steps: StepReader, *, inside: bool) -> dict[str, Any]:
        del inside
        retry = fields.get("retry")
        on = retry.value.get("on") if retry and isinstance(retry.value, dict) else None
        if on is not None and on.value == "failure" and not fields.get("plan"):
            message = "`on: failure` has no meaning in a drafted step: its steps try again"
            fields.fail("retry", "misplaced-key", message)
        return {"target": fields.text("plan") or None, "plan": _included(fields, steps)}

    def inherits_instruction(self, target: str | None) -> bool:
        return not target  # the inputs of an included plan are its own

    def needs_model(self, step: Step) -> bool:
        return step.target is None

    def output_names(self, step: Step) -> Collection[str] | None:
        return (step.plan.outputs or None) if step.plan else None

    def summary(self, step: Step) -> str:
        return super().summary(step) or "drafted while the plan runs"


def _included(fields: Fields, steps: StepReader) -> Plan | None:
    node = fields.get("plan")
    if node is None or not isinstance(node.value, str):
        return None
    file = node.value
    if "://" in file or "{{" in file:
        fields.fail("plan", "bad-include", "`plan` must be the path of a local file")
    elif steps.include is None:
        fields.fail("plan", "bad-include", "only a plan file can include another file")
    else:
        try:
            return steps.include(file, node.position)
        except PlanError as error:
            _keep_problems(fields, node, error)
    return None


def _keep_problems(fields: Fields, node: Node, error: PlanError) -> None:
    """Keep problems of an included file with their positions. Others get the path's position."""
    for problem in error.problems:
        if problem.position == node.position:
            path = join(fields.path, "plan")
            fields.reader.keep(replace(problem, path=path, length=node.length))
        else:
            fields.reader.keep(problem)


class _Program(StepKind):
    """A program that is started once, and that outlives fractale."""

    field = "job"
    in_brackets = ("[/", "/]")

    def inputs(self, step: Step) -> Mapping[str, Value]:
        return step.job.values() if step.job else step.inputs

    def templates(self, step: Step) -> Iterator[tuple[str, Value | Expression]]:
        if step.job is not None:
            for name, value in step.job.values().items():
                yield f"{step.job.prefix}{name}", value

    def summary(self, step: Step) -> str:
        return _job_summary(step.job) if step.job else ""


class _Job(_Program):
    name = "job"
    key = Key(
        Form(None, {"anyOf": [ref("job"), {"type": "null"}]}),
        "A [batch job](#batch-jobs) to submit and to wait for.",
    )
    lacks = frozenset({"instruction", "inputs", "allow_tools"})
    reason = "has no meaning in a job step; put templates into `script`, `command` and `env`"

    def read(self, fields: Fields, steps: StepReader, *, inside: bool) -> dict[str, Any]:
        del steps, inside
        job = read_job(fields)
        if job is not None and job.array is not None and "foreach" in fields:
            message = (
                "a step has `array` or `foreach`, not both: a `foreach` over jobs is "
                "submitted as an array anyway"
            )
            fields.fail("foreach", "misplaced-key", message)
        return {"job": job}

    def data(self, step: Step) -> dict[str, Any]:
        return {"job": job_data(step.job)} if step.job else {"type": self.name}

    def rule_names(self, step: Step) -> Collection[str] | None:
        if step.job is None or step.job.answer is not None:
            return None  # only the JSON shows them
        return [*step.job.metrics, *JOB_OUTPUTS]  # also of an array's element

    def output_names(self, step: Step) -> Collection[str] | None:
        if step.job is None or step.job.array is not None:
            return None  # the outputs of an array are a list
        return self.rule_names(step)


def _job_summary(job: JobPlan) -> str:
    """The beginning of a job's command, and its resources as far as the plan has numbers."""
    what = " ".join(brief(_plain(word)) for word in job.command)
    if job.script is not None:
        what = _first_command(_plain(job.script))
    what = brief(what)
    given = [("nodes", job.nodes), ("tasks", job.tasks)]
    counts = [f"{value} {key[:-1] if value == 1 else key}" for key, value in given if _set(value)]
    limit = [_time(job.time)] if _set(job.time) else []
    return ", ".join([escape(what, COMMAND_LIMIT), *(escape(each, 20) for each in counts + limit)])


def _set(value: Value) -> bool:
    """Whether a value is in the plan itself, not in a template."""
    return value is not None and not isinstance(value, Template)


def _time(value: Value) -> str:
    return str(format_duration(value) if isinstance(value, (int, float)) else value)


def _plain(value: Value) -> str:
    return value.source if isinstance(value, Template) else str(value)


def brief(text: str) -> str:
    """A text with each template as ``…``; several in a row are one."""
    return _IN_A_ROW.sub(ELLIPSIS, _TEMPLATE.sub(ELLIPSIS, text[:READ_LIMIT]))


def _first_command(script: str) -> str:
    """The first command of a shell script that starts a program; of others, their language."""
    first, *_ = lines = _JOINED.sub(" ", script[:READ_LIMIT]).strip().splitlines() or [""]
    program = PurePosixPath(first.split()[-1]).name if first.startswith("#!") else "sh"
    if program.rstrip("0123456789.") not in SHELLS:
        return f"{program} script"
    commands = [line.strip() for line in lines]
    commands = [line for line in commands if line and not line.startswith("#")]
    starting = [line for line in commands if not _PREPARES.match(line)]
    return next(iter([*starting, *commands]), "script").removeprefix("exec ")


class _Parallel(StepKind):
    name = "parallel"
    key = Key(
        Form(
            None,
            {
                "type": "array",
                "minItems": 1,
                "items": {"allOf": [ref("step"), {"not": {"required": ["parallel"]}}]},
            },
        ),
        "A list of steps that [run at the same time](#parallel).",
        required=": a list of steps",
    )
    field = "steps"
    lacks = _OF_A_CALL | {"foreach", "max_parallel"}
    reason = "belongs to the steps inside the block"
    is_square = True
    keeps_sources = True

    def read(self, fields: Fields, steps: StepReader, *, inside: bool) -> dict[str, Any]:
        if inside:
            message = "a parallel block cannot be inside another; put its steps there instead"
            fields.fail("parallel", "nested-parallel", message)
            return {}
        found = [
            step
            for path, node in fields.items("parallel")
            if (step := steps.read(node, path, inside=True))
        ]
        node = fields.get("parallel")
        if node is None or node.value == []:
            fields.fail("parallel", "missing-key", "a parallel block needs a list of steps")
        return {"steps": tuple(found)}

    def data(self, step: Step) -> dict[str, Any]:
        del step
        return {}  # the key `parallel` has its place after those of the whole block

    def output_names(self, step: Step) -> Collection[str] | None:
        return [inner.name for inner in step.steps]

    def summary(self, step: Step) -> str:
        count = len(step.steps)
        return f"{count} step{'s' if count != 1 else ''} at the same time"


class _Wait(StepKind):
    name = "wait"
    key = Key(
        TIME,
        "How long the step [waits](waiting.md): `10m`, `2h`, or a template of a duration.",
        required=": how long",
    )
    field = "value"
    lacks = _OF_A_CALL | {"timeout", "output_schema"}
    reason = "has no meaning in a wait step: it only lets time pass"
    in_brackets = ("([", "])")

    def output_names(self, step: Step) -> Collection[str] | None:
        del step
        return ()


class _Ask(StepKind):
    name = "ask"
    key = Key(
        QUESTION,
        "A [question](#questions) that you answer; no model is involved. May contain {{ templates "
        "}}.",
        required=": the question",
    )
    field = "value"
    lacks = _OF_A_CALL | {"timeout", "output_schema"}
    reason = "has no meaning in an ask step, which only waits for an answer"
    asks_user = True
    in_brackets = ("{{", "}}")

    def rule_names(self, step: Step) -> Collection[str] | None:
        return self.output_names(step)

    def inputs(self, step: Step) -> Mapping[str, Value]:
        return question_values(step)

    def problems(self, step: Step, path: str) -> Iterator[Problem]:
        return unknown_answers(step, path)

    def templates(self, step: Step) -> Iterator[tuple[str, Value | Expression]]:
        yield from question_values(step).items()
        if isinstance(step.choices, Expression):
            yield "choices", step.choices

    def output_names(self, step: Step) -> Collection[str] | None:
        return [*ASK_OUTPUTS, *(field_names(step.form) if step.form else ())]


class _Set(StepKind):
    """Values that get a name, for the steps that follow."""

    name = "set"
    key = Key(
        NAMED_VALUES,
        "Name → value with {{ templates }}: from then on, `values.NAME` is the value "
        "([named values](#named-values)).",
        required=": names with their values",
    )
    field = "value"
    lacks = _OF_A_CALL | {"foreach", "max_parallel", "timeout"}
    reason = "has no meaning in a set step, which only gives names to values"
    is_square = True

    def inputs(self, step: Step) -> Mapping[str, Value]:
        return step.value or {}

    def templates(self, step: Step) -> Iterator[tuple[str, Value | Expression]]:
        for name, value in self.inputs(step).items():
            yield f"set.{name}", value

    def value_names(self, step: Step) -> Collection[str]:
        return list(self.inputs(step))

    def output_names(self, step: Step) -> Collection[str] | None:
        return self.value_names(step)

    def summary(self, step: Step) -> str:
        return escape(", ".join(self.value_names(step)), SUMMARY_LIMIT)


class _Steps(StepKind):
    """A chain: steps that run one after the other, as a plan inside the plan."""

    name = "steps"
    key = Key(
        Form(None, {"type": "array", "minItems": 1, "items": ref("step")}),
        "A list of steps that [run one after the other](#chains), as one step.",
        required=": a list of steps",
    )
    field = "chain"
    lacks = _OF_A_CALL | {"tools", "timeout"}
    reason = "belongs to the steps inside the chain"
    in_brackets = ("[[", "]]")

    def read(self, fields: Fields, steps: StepReader, *, inside: bool) -> dict[str, Any]:
        del inside
        return {"chain": steps.chain(fields)}

    def data(self, step: Step) -> dict[str, Any]:
        del step
        return {}  # as of a parallel block

    def summary(self, step: Step) -> str:
        del step
        return "one after the other"


class _Script(_Program):
    """A short program on this machine: a local job that does not wait in the queue."""

    name = "script"
    key = Key(
        Form(None, {"type": "string", "pattern": r"\S"}),
        "The text of a [script](#scripts) that runs on this machine, with its `#!` line, and "
        "gives its stdout; `command` instead names a program. Beside `type: job`, of a batch "
        "script.",
        kinds=("job", "script"),
    )
    also_named_by = ("command",)
    lacks = frozenset({"instruction", "inputs", "allow_tools", "model"})
    reason = "has no meaning in a script step; give it values by `stdin`, `env` and templates"

    def read(self, fields: Fields, steps: StepReader, *, inside: bool) -> dict[str, Any]:
        del steps, inside
        return {"job": read_script(fields)}

    def data(self, step: Step) -> dict[str, Any]:
        return script_data(step.job) if step.job else {"type": self.name}

    def output_names(self, step: Step) -> Collection[str] | None:
        answer = step.job.answer if step.job else None
        return ["content", *SCRIPT_OUTPUTS] if answer and answer.form == "text" else None

    def rule_names(self, step: Step) -> Collection[str] | None:
        return self.output_names(step)


KINDS: Final[Mapping[str, StepKind]] = {
    kind.name: kind
    for kind in (
        _Tool(),
        _Prompt(),
        _Agent(),
        _Plan(),
        _Parallel(),
        _Job(),
        _Wait(),
        _Ask(),
        _Set(),
        _Steps(),
        _Script(),
    )
}
"""Name → kind."""


def kinds_named(keys: Container[str], said: str | None) -> list[str]:
    """The kinds that the keys of a step name.

    Args:
        said: The step's `type`, if it has one.
    """
    given = [name for name in KINDS if name in keys]
    if "script" in given and (said == "job" or "job" in given):
        given.remove("script")  # the job's own
    if not given and said is None:
        given = [n for n, kind in KINDS.items() if any(k in keys for k in kind.also_named_by)]
    return given
