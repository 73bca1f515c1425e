"""The batch job of a step: the submitted job, and the metrics that are read from its log."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal, cast, get_args

from fractale.durations import format_duration, seconds_in
from fractale.plan.fields import Fields, join
from fractale.plan.forms import (
    FLAG,
    INPUT_NAME_PATTERN,
    Form,
    Inline,
    Key,
    Schema,
    choice,
    keys_of,
    part_data,
    part_schema,
    read_part,
    ref,
)
from fractale.plan.node import Node, clip
from fractale.plan.values import Template, Value, plain_value, template, value_of
from fractale.schedulers.homes import RUN

MetricType = Literal["number", "integer", "string"]
Take = Literal["last", "first", "all"]

WIDENING: Final = ("confine", "writable", "network")
"""Keys that confine a job. The job of a drafted step is confined; its draft can't change that."""

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
"""The outputs of a job step, beside the metrics that it reads from the log."""

SCRIPT_OUTPUTS: Final = ("exit_code", "stderr")
"""The outputs of a script that failed, beside its answer. Rules see them after a success, too."""

SCRIPT_KEYS: Final = (
    *("script", "command", "env", "folder"),
    *("confine", "writable", "network", "outputs", "stdin"),
)
"""Keys of a job that a script step has beside its own keys."""

AnswerForm = Literal["json", "text"]

COUNTS: Final[Mapping[str, int]] = {
    "nodes": 1,
    "tasks": 1,
    "cores_per_task": 1,
    "gpus_per_task": 0,
}
"""Keys that are whole numbers → their minimum."""

ENV_NAME_PATTERN: Final = "[A-Za-z_][A-Za-z0-9_]*"
MEMORY_PATTERN: Final = "[0-9]+(\\.[0-9]+)?([KMGT]i?B?)?"
_SPAN = "[0-9]{1,9}(-[0-9]{1,9}(:[1-9][0-9]{0,8})?)?"
ARRAY_PATTERN: Final = f"{_SPAN}(,{_SPAN})*(%[1-9][0-9]{{0,8}})?"
MOST_COUNT: Final = 1_000_000
MOST_ELEMENTS: Final = 10_000
"""The maximum size of an array in a job step. Its elements are tasks of the run."""

_BRACES = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_HOLE = "\x00"
_TEMPLATE: Final[Schema] = {"type": "string", "pattern": r"\{\{"}
_TEXT: Final[Schema] = {"type": "string", "pattern": r"\S"}
_WORD: Final[Schema] = {"type": ["string", "number", "boolean"]}


# The program of a job


def _script(fields: Fields, key: str) -> str | Template | None:
    node = fields.value(key)
    text = fields.reader.text(node, join(fields.path, key), f"`{key}`")
    return template(node) if text is not None else None


def _command(fields: Fields, key: str) -> tuple[Value, ...]:
    node = fields.value(key)
    if isinstance(node.value, str):
        return _words(fields, node)
    if not isinstance(node.value, list) or not node.value:
        fields.wrong(key, "a list of words, the program first, or one line of text")
        return ()
    words: list[Value] = []
    for path, item in fields.items(key):
        if isinstance(item.value, (dict, list)) or item.value is None:
            message = f"a word of a command must be text or a number, not {item.found()}"
            fields.reader.fail("wrong-type", message, item, path)
        words.append(template(item) if isinstance(item.value, str) else item.source)
    return tuple(words)


def _words(fields: Fields, node: Node) -> tuple[Value, ...]:
    """The words of a line, split as a shell does. Text in braces is one word, or part of one."""
    text = cast("str", node.value)
    holes = list(_BRACES.finditer(text))
    try:
        words = shlex.split(_BRACES.sub(_HOLE, text))
    except ValueError as error:
        fields.fail("command", "bad-value", f"`command` cannot be split into words: {error}")
        return ()
    if not words:
        fields.wrong("command", "a list of words, the program first, or one line of text")
    filled = iter(holes)
    return tuple(_word(word, filled, node) for word in words)


def _word(word: str, holes: Iterator[re.Match[str]], node: Node) -> Value:
    """A word with the contents of its braces. It has its own position in the line."""
    if _HOLE not in word:
        return word
    found = [next(holes) for _ in range(word.count(_HOLE))]
    parts = iter(found)
    at = node.position
    if "\n" not in cast("str", node.value):
        at = replace(at, column=at.column + found[0].start() - word.index(_HOLE))
    return Template(re.sub(_HOLE, lambda _: next(parts)[0], word), at)


# The resources of a job


def _templated(
    read: Callable[[Fields, str], Value], *schemas: Schema, dump: Callable[[Any], Any] = plain_value
) -> Form:
    """A value that may be a template instead. Without a template it must be valid."""

    def read_either(fields: Fields, key: str) -> Value:
        node = fields.value(key)
        if isinstance(node.value, str) and "{{" in node.value:
            return template(node)
        return read(fields, key)

    return Form(read_either, schemas[0] if len(schemas) == 1 else {"anyOf": [*schemas]}, dump)


def _count(least: int) -> Form:
    def read(fields: Fields, key: str) -> Value:
        number = fields.whole(key, least)
        if number is not None and number > MOST_COUNT:
            fields.fail(key, "bad-value", f"`{key}` must be at most {MOST_COUNT:,}")
        return number

    return _templated(read, {"type": "integer", "minimum": least, "maximum": MOST_COUNT}, _TEMPLATE)


def _time_data(time: Value) -> object:
    return format_duration(time) if isinstance(time, (int, float)) else plain_value(time)


def _fitting(fields: Fields, key: str, pattern: str, right: str) -> str | None:
    node = fields.value(key)
    plain = not isinstance(node.value, (bool, dict, list))
    if plain and re.fullmatch(pattern, node.source.strip()):
        return node.source.strip()
    fields.wrong(key, right)
    return None


def _memory(fields: Fields, key: str) -> str | None:
    return _fitting(fields, key, MEMORY_PATTERN, "an amount such as `4G` or `500M`")


def _array(fields: Fields, key: str) -> str | None:
    right = "indices such as `1-100`, `0-9:3` or `1,5,7-9%2`"
    found = _fitting(fields, key, ARRAY_PATTERN, right)
    if found is None:
        return None
    count = _count_of(found)
    if count is not None and count <= MOST_ELEMENTS:
        return found
    why = (
        "has a part without an index: the first must not be above the last"
        if count is None
        else f"has {count:,} elements, and a step has at most {MOST_ELEMENTS:,}"
    )
    fields.fail(key, "bad-value", f"`{key}: {found}` {why}")
    return None


def _count_of(array: str) -> int | None:
    """The number of indices that a literal array names; None if a part of it is not valid."""
    indices: set[int] = set()
    for part in array.partition("%")[0].split(","):
        ends, _, step = part.strip().partition(":")
        first, _, last = ends.partition("-")
        span = range(int(first), int(last or first) + 1, int(step or 1))
        if not span:
            return None
        if len(span) > MOST_ELEMENTS:
            return len(span)
        indices.update(span)
    return len(indices)


def _env(fields: Fields, key: str) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, at, node in fields.entries(key):
        path = join(join(fields.path, key), clip(name))
        if not re.fullmatch(ENV_NAME_PATTERN, name):
            message = f"`{clip(name)}` cannot be the name of a variable: letters, digits, `_`"
            fields.reader.fail("bad-name", message, at, path)
        elif isinstance(node.value, (dict, list)) or node.value is None:
            message = f"a variable must be text or a number, not {node.found()}"
            fields.reader.fail("wrong-type", message, node, path)
        elif isinstance(node.value, str):
            found[name] = template(node)
        else:
            found[name] = node.source
    return found


def _writable(fields: Fields, key: str) -> tuple[Value, ...]:
    node = fields.value(key)
    if isinstance(node.value, str):
        return (template(node),)
    found: list[Value] = []
    for path, item in fields.items(key):
        if fields.reader.text(item, path, f"a directory of `{key}`") is not None:
            found.append(template(item))
    return tuple(found)


TIME: Final = _templated(
    lambda fields, key: fields.seconds(key), ref("duration"), _TEMPLATE, dump=_time_data
)
"""A duration, or a template of one."""

_NAME: Final = _templated(lambda fields, key: fields.name(key), {"type": "string"})
_TEXT_OR_NONE: Final = _templated(lambda fields, key: fields.text(key) or None, {"type": "string"})
_SCHEDULER: Final = _templated(
    lambda fields, key: fields.choice(key, RUN), {"enum": list(RUN)}, _TEMPLATE
)
_COMMAND: Final = Form(
    _command,
    {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": _WORD}]},
    lambda words: Inline(map(plain_value, words)),
)
_ARRAY: Final = _templated(
    _array,
    {"type": "integer", "minimum": 0},
    {"type": "string", "pattern": f"^{ARRAY_PATTERN}$"},
    _TEMPLATE,
)
_ENV: Final = Form(
    _env,
    {
        "type": "object",
        "patternProperties": {f"^{ENV_NAME_PATTERN}$": _WORD},
        "additionalProperties": False,
    },
    plain_value,
)
_WRITABLE: Final = Form(
    _writable,
    {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]},
    lambda paths: plain_value(list(paths)),
)


# The metrics in its log


def _pattern(fields: Fields, key: str) -> str | None:
    path = join(fields.path, key)
    return _pattern_of(fields, fields.value(key), path)


def _pattern_of(fields: Fields, node: Node, path: str) -> str | None:
    # The import takes some milliseconds, and most plans have no job.
    from fractale.regexes import check_pattern

    text = fields.reader.text(node, path, "`pattern`")
    if text is None:
        return None
    try:
        check_pattern(text)
    except ValueError as error:
        fields.reader.fail("bad-pattern", f"this pattern cannot be used: {error}", node, path)
        return None
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric that a job step reads from the job's log."""

    pattern: Annotated[
        str,
        Key(
            Form(_pattern, _TEXT),
            "A regular expression with one group, or with one named `value`.",
            required=": where in the log it is",
        ),
    ]
    type: Annotated[
        MetricType,
        Key(choice(get_args(MetricType)), "The type that the group's text is converted to."),
    ] = "number"
    take: Annotated[
        Take, Key(choice(get_args(Take)), "Which match counts; `all` gives a list.")
    ] = "last"
    required: Annotated[bool, Key(FLAG, "`false`: the job may succeed without it in its log.")] = (
        True
    )


METRIC_KEYS: Final = keys_of(Metric)


def _metrics(fields: Fields, key: str) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    for name, at, node in fields.entries(key):
        path = join(join(fields.path, key), clip(name))
        if not re.fullmatch(INPUT_NAME_PATTERN, name):
            message = f"`{clip(name)}` cannot be the name of an output: letters, digits, `_`, `-`"
            fields.reader.fail("bad-name", message, at, path)
        elif name in JOB_OUTPUTS:
            message = f"every job has an output `{name}`; choose another name"
            fields.reader.fail("bad-name", message, at, path)
        elif metric := _metric(fields, node, path):
            found[name] = metric
    return found


def _metric(fields: Fields, node: Node, path: str) -> Metric | None:
    if isinstance(node.value, str):
        pattern = _pattern_of(fields, node, path)
        return Metric(pattern=pattern) if pattern else None
    noun = "an output of a job (a regular expression, or a mapping)"
    inner = fields.reader.fields(node, path, METRIC_KEYS, noun, {"regex": "write `pattern`"})
    if inner is None:
        return None
    given = read_part(METRIC_KEYS, inner)
    return Metric(**given) if "pattern" in given else None


def _metrics_data(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """The short form of each metric (the pattern alone) if it is complete."""
    written = {name: part_data(metric) for name, metric in metrics.items()}
    return {name: data if len(data) > 1 else data["pattern"] for name, data in written.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAnswer:
    """A job or a script that answers with JSON or with text, instead of metrics in its log.

    Args:
        file: The file that contains the JSON, relative to the job's directory. None: the JSON is
            the last one in the job's log, or the stdout of the script.
    """

    form: AnswerForm = "json"
    file: Value = None


def _outputs(fields: Fields, key: str) -> Mapping[str, Metric] | JobAnswer | None:
    node = fields.value(key)
    if isinstance(node.value, str):
        form = fields.choice(key, get_args(AnswerForm))
        return JobAnswer(form=form) if form else None
    file = node.value.get("file") if isinstance(node.value, dict) else None
    # A pattern has a group, so a text without parentheses is not one. A template is not one either.
    if file is not None and len(cast("dict[str, Node]", node.value)) == 1:
        text = file.value
        if isinstance(text, str) and text.strip() and ("{{" in text or "(" not in text):
            return JobAnswer(file=template(file))
    return _metrics(fields, key)


def _outputs_data(outputs: Mapping[str, Metric] | JobAnswer) -> object:
    if not isinstance(outputs, JobAnswer):
        return _metrics_data(outputs)
    return outputs.form if outputs.file is None else {"file": plain_value(outputs.file)}


_OUTPUTS: Final = Form(
    _outputs,
    {
        "anyOf": [
            {"enum": list(get_args(AnswerForm))},
            {
                "type": "object",
                "patternProperties": {
                    f"^{INPUT_NAME_PATTERN}$": {"anyOf": [_TEXT, part_schema(METRIC_KEYS)]}
                },
                "additionalProperties": False,
            },
        ]
    },
    _outputs_data,
)


# The job


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """The batch job of a job step. Its templates are only known at run time.

    Args:
        prefix: The path of its keys in the step: ``job.``, or empty beside the step's own keys.
    """

    script: Annotated[
        str | Template | None,
        Key(Form(_script, _TEXT, plain_value), "The text of a batch script."),
    ] = None
    command: Annotated[
        tuple[Value, ...],
        Key(
            _COMMAND,
            "Instead of `script`: a program with its arguments, a list of words or one line that "
            "is split as a shell would; no shell runs it. A template that gives a list gives "
            "several words.",
        ),
    ] = ()
    nodes: Annotated[
        Value,
        Key(_count(1), "How many nodes; left out, the script's own directives count, else one."),
    ] = None
    tasks: Annotated[
        Value,
        Key(_count(1), "How many tasks; left out, the script's own directives count, else one."),
    ] = None
    cores_per_task: Annotated[
        Value,
        Key(
            _count(1),
            "How many cores per task; left out, the script's own directives count, else one.",
        ),
    ] = None
    gpus_per_task: Annotated[
        Value,
        Key(_count(0), "How many GPUs per task; left out, the script's own directives count."),
    ] = None
    array: Annotated[
        Value,
        Key(
            _ARRAY,
            "The indices of a job array, such as `1-1000%50`, `0-9:3` or `1,5,7-9`; left out, the "
            "script's own directive counts. The outputs are then a list, in order "
            "([arrays](jobs.md#arrays)).",
        ),
    ] = None
    memory: Annotated[
        Value,
        Key(
            _templated(_memory, {"type": "number"}, {"type": "string"}),
            "Memory per node, such as `4G`.",
        ),
    ] = None
    time: Annotated[
        Value,
        Key(TIME, "How long the job may run: `30m`, `1:00:00`, `2-00:00:00`, or seconds."),
    ] = None
    queue: Annotated[Value, Key(_NAME, "The partition or queue.")] = None
    account: Annotated[Value, Key(_NAME, "The account whose allocation it uses.")] = None
    env: Annotated[Mapping[str, Value], Key(_ENV, "Variables of its environment.")] = field(
        default_factory=dict[str, Value]
    )
    folder: Annotated[
        Value,
        Key(
            _TEXT_OR_NONE,
            "The directory in which it works, relative to the one in which the run was started, "
            "which is also the default.",
        ),
    ] = None
    scheduler: Annotated[
        Value,
        Key(
            _SCHEDULER,
            f"{', '.join(f'`{name}`' for name in RUN if name != 'local')}, or `local` for a plain "
            "process; left out, the one that there is.",
        ),
    ] = None
    confine: Annotated[
        bool | None,
        Key(
            FLAG,
            "`true`: a local job is [confined](confinement.md): no private files, no network, "
            "writes only below the project. A step that a model drafted always is.",
        ),
    ] = None
    writable: Annotated[
        tuple[Value, ...],
        Key(_WRITABLE, "Of a confined job: a list of further directories that it may write."),
    ] = ()
    network: Annotated[
        bool | None, Key(FLAG, "Of a confined job: `true` lets it open sockets.")
    ] = None
    outputs: Annotated[
        Mapping[str, Metric] | JobAnswer,
        Key(
            _OUTPUTS,
            "The values to read from the log: name → a regular expression, or `{pattern, type, "
            "take, required}`. `json`: the keys of the last JSON in the log; `{file: out.json}`: "
            "of the JSON in that file ([JSON](jobs.md#json-in-and-out)).",
        ),
    ] = field(default_factory=dict[str, Metric])
    stdin: Annotated[
        Value,
        Key(
            Form(lambda fields, key: value_of(fields.value(key)), {}, plain_value),
            "The program's standard input, with {{ templates }}: text as it is, any other value as "
            "JSON.",
        ),
    ] = None
    prefix: str = field(default="", compare=False)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics to read from the log."""
        return {} if isinstance(self.outputs, JobAnswer) else self.outputs

    @property
    def answer(self) -> JobAnswer | None:
        """The form and the place of the answer, unless there are metrics or nothing to read."""
        return self.outputs if isinstance(self.outputs, JobAnswer) else None

    def values(self) -> dict[str, Value]:
        """The given values by their keys in the file; of `outputs` only a file's path.

        The order is part of the record: digests of jobs depend on it.
        """
        each: dict[str, Value] = {
            name: getattr(self, name) for name, key in JOB_KEYS.items() if key.default is None
        }
        each |= {
            "command": list(self.command) or None,
            "env": dict(self.env) or None,
            "writable": list(self.writable) or None,
        }
        if self.answer is not None and self.answer.file is not None:
            each["outputs"] = {"file": self.answer.file}
        return {name: value for name, value in each.items() if value is not None}


JOB_KEYS: Final = keys_of(JobPlan)
"""Keys below `job`, or in a step of `type: job` beside the step's own keys."""

JOB_HINTS: Final = {
    "walltime": "write `time`",
    "partition": "write `queue`",
    "timeout": "write `time` for the job's limit, or `timeout` beside `job:` for the whole wait",
    "ntasks": "write `tasks`",
    "cpus_per_task": "write `cores_per_task`",
    "gpus": "write `gpus_per_task`",
    "environment": "write `env`",
    "cwd": "write `folder`",
    "sandbox": "write `confine`",
}


def read_job(step: Fields) -> JobPlan | None:
    """The job of a job step, from the keys below `job`, or from those beside the step's own."""
    node = step.get("job")
    if node is None:
        return _read(step, "")
    if not isinstance(node.value, dict):
        step.wrong("job", f"a mapping (of {', '.join(f'`{key}`' for key in list(JOB_KEYS)[:4])} …)")
        return None
    for key in JOB_KEYS:
        if key in step:
            message = f"`{key}` is beside `job:`; put it below that with the rest"
            step.fail(key, "misplaced-key", message)
    fields = step.reader.fields(node, join(step.path, "job"), JOB_KEYS, "a job", JOB_HINTS)
    return _read(fields, "job.") if fields else None


def read_script(step: Fields) -> JobPlan:
    """The program of a script step: a local job without resources."""
    keys = {name: JOB_KEYS[name] for name in SCRIPT_KEYS}
    found = _checked(step, JobPlan(**read_part(keys, step), scheduler="local"), "a script step")
    answers = found.answer is not None and found.answer.file is None
    if found.outputs and not answers:
        message = "`outputs` of a script step is `json` or `text`; a `job` can read a file or a log"
        step.fail("outputs", "wrong-type", message)
    return found


def script_data(job: JobPlan) -> dict[str, Any]:
    """The program of a script step as the plain data of its keys."""
    return {key: value for key, value in part_data(job).items() if key in SCRIPT_KEYS}


def _read(fields: Fields, prefix: str) -> JobPlan:
    job = _checked(fields, JobPlan(**read_part(JOB_KEYS, fields), prefix=prefix), "a job")
    if job.answer is not None and job.answer.form == "text":
        message = "the text that a job prints is always in its output `log`; write `json`"
        fields.fail("outputs", "bad-value", message)
    return job


def _checked(fields: Fields, job: JobPlan, noun: str) -> JobPlan:
    if (job.script is None) == (not job.command) and not _is_faulty(fields):
        both = "has both `script` and `command`; keep one" if job.command else None
        message = f"{noun} {both or 'needs `script` or `command`: what it runs'}"
        at = fields.at("command" if job.command else "type")
        fields.reader.fail("missing-key", message, at, fields.path)
    for key in ("writable", "network"):
        if not job.confine and fields.get(key) is not None:
            message = f"`{key}` says what a confined job may do; add `confine: true`"
            fields.fail(key, "missing-key", message)
    return job


def _is_faulty(fields: Fields) -> bool:
    """Whether `script` or `command` is present, with a fault that is already a problem."""
    both = fields.get("script") is not None and fields.get("command") is not None
    return not both and any(fields.get(key) is not None for key in ("script", "command"))


def job_data(job: JobPlan) -> dict[str, Any]:
    """A job as the plain data of its mapping."""
    return part_data(job)


def seconds_of(value: object) -> float | None:
    """Seconds of a job's time limit from a template; None if the value is not a duration."""
    seconds = seconds_in(value)
    return seconds if seconds is not None and seconds > 0 else None
