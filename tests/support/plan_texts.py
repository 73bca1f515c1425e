"""Generated plan files, as the plain data that a YAML file holds."""

import json
import re
from typing import Any

from hypothesis import strategies as st

from fractale.plan.inputs import is_input_spec

_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

texts = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t\x7f\x85"), max_size=40
)
words = st.one_of(texts.filter(lambda text: bool(text.strip())), st.just("Run it\n  twice\n"))
tricky = st.sampled_from(
    [
        *("yes", "null", "~", "true", "12", "1e5", "0x1F", "0o7", ".inf", "2026-11-22", "12:30:00"),
        *("<<", "=", "%a", "'", '"', "…", "", "- a", "a: b", "# x", " x", "x ", "\t", "\n\n"),
        *("{{ steps.a.outputs.x }}", "x {{ inputs.n }}\n", "é\u2028ü", "|\n a"),
        "#!/bin/sh\n  x \n\ny\n",
    ]
)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,11}", fullmatch=True).filter(
    lambda name: name not in ("success", "failed", "failure")
)
callables = st.from_regex(r"[A-Za-z0-9_.*/-]{1,12}", fullmatch=True)
dotted = st.from_regex(r"[a-z]{1,5}\.[a-z_]{1,5}\.[A-Z][A-Za-z]{0,5}", fullmatch=True)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts | tricky,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | tricky, inner, max_size=3),
    max_leaves=6,
)
plain_values = values.filter(lambda value: "{{" not in json.dumps(value))
expressions = st.one_of(
    st.sampled_from(["returncode == 0", "not valid", "x.y >= 3 and 'a' in b", "a\n  or b"]),
    words.filter(lambda text: not (text.strip().startswith("{{") and text.strip().endswith("}}"))),
    st.booleans(),
    st.integers(0, 9),
)
counts = st.integers(1, 1_000)
durations = st.one_of(
    counts,
    st.floats(0.001, 1e6),
    st.builds("{}{}".format, counts, st.sampled_from(["s", "m", "h", "ms"])),
    st.sampled_from(["1h30m", "1.5h", "90"]),
)


def keys(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings with any of these keys."""
    return st.fixed_dictionaries({}, optional=optional)


pattern_texts = st.sampled_from([r"Perf: (\d+)", "x(.)y", r"(?m)^(?P<value>a|b)=(\d)$", "(.)"])
figures = st.one_of(
    pattern_texts,
    st.fixed_dictionaries(
        {"pattern": pattern_texts},
        optional={
            "type": st.sampled_from(["number", "integer", "string"]),
            "take": st.sampled_from(["last", "first", "all"]),
            "required": st.booleans(),
        },
    ),
)
templates = st.sampled_from(["{{ inputs.n }}", "{{ item }}", "{{ 2 * item.x }}"])
scalars = counts | st.floats(0, 1e6) | texts | tricky | templates | st.booleans()
resources = keys(
    **dict.fromkeys(("nodes", "tasks", "cores_per_task", "gpus_per_task"), counts | templates),
    memory=st.sampled_from(["4G", "500M", "1.5T", "4000", 4000]) | templates,
    time=durations | templates,
    queue=callables | templates,
    account=callables,
    env=st.dictionaries(st.from_regex("[A-Z_]{1,5}", fullmatch=True), scalars, max_size=3),
    folder=words | templates,
    scheduler=st.sampled_from(["local", "slurm", "flux", "pbs", "lsf"]) | templates,
    outputs=st.dictionaries(
        st.from_regex("[a-z]{1,3}", fullmatch=True).filter(lambda name: name != "log"),
        figures,
        max_size=3,
    ),
)
job_commands = st.one_of(
    st.lists(scalars, min_size=1, max_size=4),
    st.sampled_from(["lmp -in in.lj", "echo {{ inputs.n }}x 'a b'", 'x "{{ item }} y" {{ a }}']),
)
what_runs = st.one_of(
    st.fixed_dictionaries({"script": words | st.just("#!/bin/sh\n{{ item }}\n")}),
    st.fixed_dictionaries({"command": job_commands}),
)
axes = expressions | st.lists(plain_values, min_size=1, max_size=3)


def one_of_failed(mapping: dict[str, Any]) -> bool:
    return not {"failed", "failure"} <= set(mapping)


events = st.sampled_from(["success", "failed", "failure", "again", "done-2"])
flow = keys(
    description=texts,
    when=expressions,
    rules=st.dictionaries(
        events, expressions | st.lists(expressions, max_size=3), max_size=3
    ).filter(one_of_failed),
    transitions=st.dictionaries(
        events, names | st.sampled_from(["success", "failed", "failure"]), max_size=3
    ).filter(one_of_failed),
    timeout=durations,
    max_attempts=counts,
    output_schema=st.sampled_from(
        [{}, {"type": "object"}, {"properties": {"x": {"type": "string", "pattern": "^a"}}}]
    ),
)
calls = keys(
    inputs=st.dictionaries(
        texts | tricky | st.sampled_from(["goal", "prompt"]), values, max_size=3
    ),
    retry=keys(
        attempts=counts,
        delay=durations | st.just(0),
        backoff=st.floats(1, 10),
        max_delay=durations,
    ),
    approve=st.sampled_from(["never", "ask", "always"]),
    judge=st.booleans(),
    model=st.sampled_from(["openai:gpt-4.1", "local:a/b.gguf"]),
    instruction=texts | tricky,
)
sweeps = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {"foreach": axes | st.dictionaries(names, axes, min_size=1, max_size=3)},
        optional={"max_parallel": counts, "keep_going": st.booleans()},
    ),
)
tools = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"allow_tools": st.booleans()}),
    st.fixed_dictionaries({"tools": callables | st.lists(callables, max_size=3)}),
)
whats = {
    "tool": st.fixed_dictionaries({"tool": callables}),
    "prompt": st.fixed_dictionaries({"prompt": callables}),
    "agent": st.fixed_dictionaries({"agent": callables | st.none()})
    | st.just({"type": "agent"})
    | st.just({}),
    "plan": st.just({"type": "plan"}) | st.just({"plan": None}),
}


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    """What a job step says of its job, below `job` or beside its own keys."""
    job = draw(what_runs) | draw(resources)
    return draw(
        st.sampled_from([{"job": job}, {"type": "job", **job}, {"type": "job", "job": job}])
    )


@st.composite
def single_steps(draw: st.DrawFn, name: str) -> dict[str, Any]:
    kind = draw(st.sampled_from(sorted([*whats, "job"])))
    if kind == "job":
        step = {"name": name, **draw(jobs()), **draw(flow), **draw(sweeps)}
        more = draw(calls)
        return step | {key: more[key] for key in ("retry", "approve", "judge") if key in more}
    step = {"name": name, **draw(whats[kind]), **draw(flow), **draw(calls), **draw(sweeps)}
    if kind != "tool":
        step |= draw(tools)
    if kind in ("prompt", "agent"):
        step |= draw(keys(persist=st.booleans()))
    return step


@st.composite
def blocks(draw: st.DrawFn, name: str, inner: list[str]) -> dict[str, Any]:
    steps = [draw(single_steps(name)) for name in inner]
    return {"name": name, "parallel": steps, **draw(flow), **draw(keys(keep_going=st.booleans()))}


@st.composite
def described_inputs(draw: st.DrawFn) -> dict[str, Any]:
    kind, value = draw(
        st.sampled_from(
            [("integer", 3), ("number", 1.5), ("string", "x"), ("boolean", True), ("array", [1])]
        )
    )
    spec: dict[str, Any] = draw(keys(type=st.just(kind), description=texts))
    if kind in ("integer", "number"):
        spec |= draw(keys(minimum=st.integers(-9, 1), maximum=st.integers(4, 9)))
    ends = [{"required": True}, {"required": False}, {"default": value}, {"default": None}]
    secrets = [{"secret": True}, {"secret": True, "required": False}]
    spec |= draw(st.sampled_from([*ends, *secrets, {"default": value, "enum": [value]}]))
    return spec


plain_inputs = plain_values.filter(lambda value: not is_input_spec(value))
heads = keys(
    version=st.just(1),
    description=texts,
    inputs=st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True),
        plain_inputs | described_inputs(),
        max_size=3,
    ),
    agents=st.lists(
        dotted | st.fixed_dictionaries({"path": dotted}, optional={"name": callables}), max_size=2
    ),
    servers=st.lists(names, max_size=2) | names,
    limits=keys(
        steps=counts,
        attempts=counts,
        time=durations,
        tokens=counts,
        cost=st.floats(0.01, 100),
        depth=st.integers(0, 9),
    ),
    outputs=st.dictionaries(texts | tricky, values, max_size=3),
)


@st.composite
def plan_data(draw: st.DrawFn) -> dict[str, Any]:
    """The data of a plan that is right in structure."""
    unique = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    steps: list[dict[str, Any]] = []
    while unique:
        name, *unique = unique
        inside = draw(st.integers(0, min(2, len(unique))))
        if inside and draw(st.booleans()):
            steps.append(draw(blocks(name, unique[:inside])))
            unique = unique[inside:]
        else:
            steps.append(draw(single_steps(name)))
    return {"name": draw(words), **draw(heads), "steps": steps}


def yaml_text(data: Any) -> str:
    """Data as YAML text: JSON, with what YAML takes only as an escape written as one."""
    text = json.dumps(data, ensure_ascii=False, indent=1)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
