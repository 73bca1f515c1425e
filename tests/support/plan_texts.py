"""Generated plan files, as the plain data that a YAML file holds."""

import json
import re
from typing import Any

from hypothesis import strategies as st

from fractale.plan.inputs import is_input_spec
from fractale.plan.kinds import KINDS

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
plain_texts = words.filter(lambda text: "{{" not in text)
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
    )
    | st.sampled_from(["json", {"file": "out.json"}]),
    stdin=values,
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
zipped = st.integers(1, 3).flatmap(  # lists that are written out have the same length
    lambda n: st.dictionaries(
        names, expressions | st.lists(plain_values, min_size=n, max_size=n), min_size=1, max_size=3
    )
)


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
    reason=words | templates,
)
calls = keys(
    inputs=st.dictionaries(
        texts | tricky | st.sampled_from(["goal", "prompt"]), values, max_size=3
    ),
    retry=keys(
        on=st.sampled_from(["transport", "failure"]),
        attempts=counts,
        delay=durations | st.just(0),
        backoff=st.floats(1, 10),
        max_delay=durations,
    ),
    approve=st.sampled_from(["never", "ask", "always"]),
    judge=st.booleans() | words | templates,
    model=st.sampled_from(["openai:gpt-4.1", "local:a/b.gguf"]),
    instruction=texts | tricky,
)
sweeps = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {
            "foreach": axes
            | st.dictionaries(names.filter(lambda n: n != "zip"), axes, min_size=1, max_size=3)
            | st.fixed_dictionaries({"zip": zipped})
        },
        optional={"max_parallel": counts, "keep_going": st.booleans()},
    ),
)
tools = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"allow_tools": st.booleans()}),
    st.fixed_dictionaries({"tools": callables | st.lists(callables, max_size=3)}),
)
words_of_choice = st.from_regex("[a-z]{1,6}", fullmatch=True)
choices = st.lists(words_of_choice, min_size=1, max_size=3, unique=True).flatmap(
    lambda found: st.tuples(
        *(st.just(word) | st.builds(lambda asked, w=word: {w: asked}, words) for word in found)
    ).map(list)
)
forms = st.sampled_from(
    [
        {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
        {"type": "object", "properties": {"x": {"type": "string", "enum": ["a", "b"]}}},
    ]
)
named = st.from_regex("[a-z_]{1,5}", fullmatch=True)
sets = st.dictionaries(named, values, min_size=1, max_size=3)
waits = durations | st.just("{{ inputs.n }}")
files = words | templates | st.lists(words | templates, min_size=1, max_size=3)
made = st.one_of(st.just({}), st.fixed_dictionaries({"creates": files}, optional={"needs": files}))
polled = st.fixed_dictionaries(
    {"until": expressions, "timeout": durations}, optional={"every": durations}
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
def scripts(draw: st.DrawFn) -> dict[str, Any]:
    """Keys of a step that runs a program on this machine."""
    said = draw(
        st.fixed_dictionaries({"script": words}) | st.fixed_dictionaries({"command": job_commands})
    )
    env = st.dictionaries(st.from_regex("[A-Z_]{1,5}", fullmatch=True), scalars, max_size=3)
    more = keys(
        stdin=values, env=env, outputs=st.sampled_from(["json", "text"]), folder=words | templates
    )
    return {**said, **draw(more)}


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    """Keys of a step that asks the user."""
    asked = {"ask": draw(words)}
    way = draw(st.sampled_from(["text", "choices", "expression", "form"]))
    if way == "choices":
        asked["choices"] = draw(choices)
    elif way == "expression":
        asked["choices"] = "inputs.n"
    elif way == "form":
        asked["form"] = draw(forms)
    if way in ("text", "expression"):
        asked |= draw(keys(default=templates))
        if "default" in asked:
            asked |= draw(keys(default_after=durations))
    return asked


@st.composite
def single_steps(draw: st.DrawFn, name: str) -> dict[str, Any]:
    kind = draw(st.sampled_from(sorted([*whats, "job", "script", "ask", "set", "wait"])))
    step: dict[str, Any] = {"name": name, **draw(flow), **draw(sweeps)}
    if kind in ("ask", "set", "wait"):
        said = {
            "ask": questions(),
            "set": st.fixed_dictionaries({"set": sets}),
            "wait": st.fixed_dictionaries({"wait": waits}),
        }
        return _fitting({**step, **draw(said[kind])}, kind)
    more = draw(calls)
    if kind in ("job", "script"):
        step |= draw(jobs() if kind == "job" else scripts()) | draw(made)
        return step | {key: more[key] for key in ("retry", "approve", "judge") if key in more}
    step |= draw(whats[kind]) | more
    if kind == "plan":
        step.get("retry", {}).pop("on", None)
    if kind == "tool":
        step |= draw(made) | draw(polled | st.just({}))
    else:
        step |= draw(tools)
    if kind in ("prompt", "agent"):
        step |= draw(keys(persist=st.booleans()))
    return step


def _fitting(step: dict[str, Any], kind: str) -> dict[str, Any]:
    """A step without the keys that its kind does not have."""
    lacks = KINDS[kind].lacks | ({"keep_going"} if "foreach" in KINDS[kind].lacks else set())
    return {key: value for key, value in step.items() if key not in lacks}


@st.composite
def chains(draw: st.DrawFn, name: str, inner: list[str]) -> dict[str, Any]:
    steps = [draw(single_steps(name)) for name in inner]
    return _fitting({"name": name, "steps": steps, **draw(flow), **draw(sweeps)}, "steps")


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


own_agents = st.fixed_dictionaries(
    {"name": names, "instruction": plain_texts},
    optional={
        "description": texts,
        "model": st.just("openai:gpt-4.1"),
        "tools": st.lists(callables, max_size=3),
        "output_schema": st.just({"type": "object"}),
    },
)
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
    )
    | own_agents.map(lambda found: [found]),
    defaults=st.fixed_dictionaries(
        {},
        optional={
            "tool": keys(timeout=durations, approve=st.sampled_from(["never", "ask", "always"])),
            "script": keys(
                timeout=durations,
                env=st.dictionaries(st.from_regex("[A-Z_]{1,5}", fullmatch=True), scalars),
            ),
            "agent": keys(model=st.just("openai:gpt-4.1"), judge=st.booleans()),
            "job": keys(queue=callables, time=durations, nodes=counts),
        },
    ),
    servers=st.lists(names, max_size=2) | names,
    limits=keys(
        steps=counts,
        attempts=counts,
        time=durations,
        tokens=counts,
        cost=st.floats(0.01, 100),
        depth=st.integers(4, 9),  # generated chains nest
    ),
    outputs=st.dictionaries(texts | tricky, values, max_size=3),
)


@st.composite
def plan_data(draw: st.DrawFn) -> dict[str, Any]:
    """The data of a plan that is right in structure."""
    unique = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    ends: dict[str, Any] = {}
    for key in ("on_failure", "finally"):
        if len(unique) > 1 and draw(st.integers(0, 3)) == 0:
            ends[key] = [draw(single_steps(unique.pop()))]
    steps: list[dict[str, Any]] = []
    while unique:
        name, *unique = unique
        inside = draw(st.integers(0, min(2, len(unique))))
        if inside and draw(st.booleans()):
            steps.append(draw(draw(st.sampled_from([blocks, chains]))(name, unique[:inside])))
            unique = unique[inside:]
        else:
            steps.append(draw(single_steps(name)))
    return {"name": draw(words), **draw(heads), "steps": steps, **ends}


def yaml_text(data: Any) -> str:
    """Data as YAML text: JSON, with what YAML takes only as an escape written as one."""
    text = json.dumps(data, ensure_ascii=False, indent=1)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
