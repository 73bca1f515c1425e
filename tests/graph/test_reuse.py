"""Steps take over the results of equal steps of earlier runs: what is equal, and what is kept."""

# ruff: noqa: ASYNC240 - these tests change files between runs
from __future__ import annotations

import base64
import itertools
import random
import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from counts import FULL, examples
from fractale.compose import plan_graph
from fractale.errors import PlanError
from fractale.plan.build import parse_plan
from fractale.plan.check import check_plan
from fractale.plan.dump import dump_plan
from fractale.store.cache import CacheStore
from fractale.testing import FakeToolServer, Reply, ScriptedModel


@pytest.fixture
def settings(settings, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return replace(settings, environment={"PATH": "/usr/bin:/bin"}, local_cores=4)


@pytest.fixture
def tools() -> FakeToolServer:
    made = FakeToolServer()

    @made.tool(read_only=True)
    def size(path: str = "", cmd: str = "", n: int = 0, items: list | None = None) -> dict:
        named = [path, *cmd.split(), *(items or [])]
        found = [Path(each).read_text() for each in named if each and Path(each).is_file()]
        return {"n": n + sum(map(len, found)), "text": "".join(found)}

    @made.tool
    def write(path: str, text: str) -> dict:
        Path(path).write_text(text)
        return {"path": str(Path(path).absolute())}

    return made


def one(step: str, inputs: str = "{}") -> str:
    step = textwrap.indent(textwrap.dedent(step).strip(), "    ").strip()
    return f"name: p\ninputs: {inputs}\nsteps:\n  - name: a\n    {step}\n"


def taken(run) -> list[str]:
    """The steps that took over a result."""
    return [each["step"] for each in run.of("step_finished") if each.get("reused")]


def problems_of(text: str) -> list[str]:
    try:
        found = check_plan(parse_plan(text, "p.yaml"))
    except PlanError as error:
        found = error.problems
    return [f"{p.position.line}:{p.position.column} {p.code} {p.message}" for p in found]


# -- the key in a plan ------------------------------


@pytest.mark.parametrize("value", ["true", "false", "{files: [a.dat, '*.in']}", "{files: a.dat}"])
def test_the_key_is_read_and_written_back(value):
    read = parse_plan(one(f"tool: t\ncache: {value}"))
    assert read.steps[0].cache is not None
    assert parse_plan(dump_plan(read)) == read
    assert problems_of(one(f"tool: t\ncache: {value}")) == []


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ("tool: t\ncache: 3", r"6:12 wrong-type .*`true`, `false`, or `\{files"),
        ("tool: t\ncache: {}", r"missing-key `cache` needs `files`"),
        ("tool: t\ncache: {file: x}", r"unknown-key .*did you mean `files`|missing-key"),
        ("tool: t\ncache: {files: ['{{ nope }}']}", r"undefined `nope`"),
        ("ask: why?\ncache: true", r"misplaced-key .*`ask`: it makes no call"),
        ("wait: 1s\ncache: true", r"misplaced-key .*`wait`: it makes no call"),
        ("set: {x: 1}\ncache: true", r"misplaced-key .*`set`: it makes no call"),
        ("type: plan\ninstruction: x\ncache: true", r"misplaced-key .* steps inside"),
        ("parallel: [{name: b, tool: t}]\ncache: true", r"misplaced-key .* steps inside"),
        ("tool: t\ntimeout: 9s\nuntil: x\ncache: true", r"misplaced-key `until` waits"),
        ("agent: ask\ninstruction: x\npersist: true\ncache: true", r"`persist` continues"),
        ("job: {command: x, array: 1-3}\ncache: true", r"elements of an `array`"),
        ("job: {command: x}\nforeach: '[1]'\ncache: true", r"jobs of a `foreach`"),
    ],
)
def test_faults_have_a_place_and_a_reason(step, problem):
    found = problems_of(one(step))
    assert any(re.search(problem, each) for each in found), found


# -- what is equal ------------------------------

SIZE = "tool: size\ninputs: {path: in.dat, n: '{{ inputs.n }}'}\ncache: true"


async def test_an_equal_step_takes_over_the_result_and_names_its_source(run_plan, tools):
    Path("in.dat").write_text("abc")
    plan = one(SIZE, "{n: 1}")
    first = await run_plan(plan, tools=tools, keep=True)
    again = await run_plan(plan, tools=tools, keep=True)
    assert [len(tools.calls), taken(first), taken(again)] == [1, [], ["a"]]
    (event,) = again.of("step_finished")
    assert event["reused"] == {
        "run": first.result.run, "step": "a", "key": event["reused"]["key"],
    }  # fmt: skip
    assert event["outputs"] == {"n": 4, "text": "abc"}
    assert not again.of("tool_started")


@pytest.mark.parametrize(
    ("argument", "file"),
    [
        ("path: in.dat", "in.dat"),
        ("path: ./in.dat", "in.dat"),
        ("cmd: 'lmp -in in.dat'", "in.dat"),
        ("cmd: 'lmp --in=in.dat -q'", "in.dat"),
        ("cmd: 'lmp -iin.dat'", "in.dat"),
        ("cmd: 'cat *.dat'", "more.dat"),
        ("cmd: 'cat {in,b}.dat'", "b.dat"),
        ("cmd: \"cat 'my file.dat'\"", "my file.dat"),
        ("cmd: 'cd sub && cat x'", "sub/deep/x"),
        ("path: sub", "sub/deep/x"),
        ("items: [[in.dat]]", "in.dat"),
        ("items: [{deck: in.dat}]", "in.dat"),
    ],
)
@pytest.mark.parametrize("reuse", [None, True])
async def test_files_that_arguments_name_are_part_of_the_key(
    run_plan, tools, argument, file, reuse
):
    Path("sub/deep").mkdir(parents=True)
    for name in ("in.dat", "b.dat", "my file.dat", "sub/deep/x"):
        Path(name).write_text("one")
    tools.describe("look", annotations={"readOnlyHint": True}).answer("look", {"n": 1})
    plan = one(f"tool: look\ninputs: {{{argument}}}" + ("" if reuse else "\ncache: true"))
    await run_plan(plan, tools=tools, reuse=reuse)
    assert taken(await run_plan(plan, tools=tools, reuse=reuse)) == ["a"]
    Path(file).write_text("two")
    assert taken(await run_plan(plan, tools=tools, reuse=reuse)) == []
    assert taken(await run_plan(plan, tools=tools, reuse=reuse)) == ["a"]


async def test_a_file_that_appears_later_is_part_of_the_key(run_plan, tools):
    plan = one("tool: size\ninputs: {path: later.dat}\ncache: true")
    await run_plan(plan, tools=tools)
    Path("later.dat").write_text("x")
    assert taken(await run_plan(plan, tools=tools)) == []


async def test_files_of_the_step_itself_count_and_must_match_something(run_plan, tools):
    Path("hidden.cfg").write_text("1")
    plan = one("tool: size\ninputs: {n: 3}\ncache: {files: ['*.cfg']}")
    await run_plan(plan, tools=tools)
    assert taken(await run_plan(plan, tools=tools)) == ["a"]
    Path("hidden.cfg").write_text("2")
    assert taken(await run_plan(plan, tools=tools)) == []
    Path("hidden.cfg").unlink()
    failed = await run_plan(plan, tools=tools)
    assert failed.status == "failed"
    assert "no file matches `*.cfg`, which `cache` names" in failed.result.error


@pytest.mark.parametrize("what", ["version", "description", "argument", "order", "schema", "step"])
async def test_what_is_not_equal_makes_its_call(run_plan, tools, what):
    plan = one(SIZE, "{n: 1}")
    await run_plan(plan, tools=tools)
    if what == "version":
        tools.version = "2"
    if what == "description":
        tools.describe("size", description="Another.", annotations={"readOnlyHint": True})
    inputs = {"n": 2} if what == "argument" else {"n": 1.0} if what == "schema" else {}
    if what == "order":  # the order of arguments and the name of the step do not matter
        plan = plan.replace(
            "path: in.dat, n: '{{ inputs.n }}'", "n: '{{ inputs.n }}', path: in.dat"
        )
    if what == "step":
        plan = plan.replace("name: a", "name: other").replace("name: p", "name: q")
    equal = what in ("order", "step")
    assert bool(taken(await run_plan(plan, inputs, tools=tools))) is equal


@pytest.mark.parametrize(
    ("hints", "reused"),
    [
        ({"readOnlyHint": True, "openWorldHint": False}, True),
        ({"readOnlyHint": True, "openWorldHint": True}, False),
        ({"readOnlyHint": True, "openWorldHint": None}, False),
        ({"readOnlyHint": False, "openWorldHint": False}, False),
        ({"openWorldHint": False, "idempotentHint": True}, False),
        ({"readOnlyHint": True, "openWorldHint": False, "fractale.jobs": "looks"}, False),
    ],
)
async def test_reuse_takes_only_tools_that_say_that_they_read_in_a_closed_world(
    run_plan, hints, reused
):
    tools = FakeToolServer()
    tools.describe("now", annotations=hints).answer("now", {"t": 1})
    plan = one("tool: now")
    await run_plan(plan, tools=tools, reuse=True)
    assert bool(taken(await run_plan(plan, tools=tools, reuse=True))) is reused


async def test_a_step_may_refuse_and_a_run_may_refuse(run_plan, tools):
    refusing = one("tool: size\ninputs: {n: 1}\ncache: false")
    await run_plan(refusing, tools=tools, reuse=True)
    assert taken(await run_plan(refusing, tools=tools, reuse=True)) == []
    plan = one("tool: size\ninputs: {n: 1}\ncache: true")
    for _ in range(2):
        assert taken(await run_plan(plan, tools=tools, reuse=False)) == []
    assert not list(CacheStore(Path("none")).near("x"))


async def test_secrets_are_in_no_key_and_no_result(run_plan, tools, settings):
    plan = one(
        "tool: size\ninputs: {cmd: '{{ inputs.key }}'}\ncache: true", "{key: {secret: true}}"
    )
    for _ in range(2):
        run = await run_plan(plan, tools=tools, secrets={"key": "s3cr3t-value"})
        assert taken(run) == []
    assert "secret" in run.of("warning")[-1]["message"]
    tools.answer("leak", {"text": "the key is s3cr3t-value"})
    leak = "name: p\ninputs: {key: {secret: true}}\nsteps: [{name: a, tool: leak, cache: true}]"
    await run_plan(leak, tools=tools, secrets={"key": "s3cr3t-value"})
    kept = b"".join(f.read_bytes() for f in settings.state_dir.rglob("*") if f.is_file())
    assert b"s3cr3t" not in kept


# -- what is kept ------------------------------


async def test_failures_are_never_kept(run_plan):
    tools = FakeToolServer().fail("t", "no").answer("t", {"returncode": 2}, {"returncode": 0})
    plan = one("tool: t\ncache: true")
    runs = [await run_plan(plan, tools=tools) for _ in range(4)]
    assert [run.status for run in runs] == ["failed", "failed", "success", "success"]
    assert [bool(taken(run)) for run in runs] == [False, False, False, True]


async def test_warnings_are_taken_over_with_the_result(run_plan):
    tools = FakeToolServer().answer("t", {"n": 1, "warnings": ["old units"]})
    plan = one("tool: t\ncache: true")
    runs = [await run_plan(plan, tools=tools) for _ in range(2)]
    (first,), (again,) = (run.of("step_finished") for run in runs)
    assert first["notices"] == again["notices"] == [{"kind": "warning", "message": "old units"}]
    assert taken(runs[1]) == ["a"]


async def test_rules_are_evaluated_anew_and_a_failure_makes_the_call(run_plan):
    tools = FakeToolServer().answer("t", {"n": 1}, {"n": 5})
    await run_plan(one("tool: t\ncache: true"), tools=tools)
    stricter = one("tool: t\ncache: true\nrules: {success: [n > 3]}")
    run = await run_plan(stricter, tools=tools)
    assert (run.status, taken(run), len(tools.calls)) == ("success", [], 2)
    own = one("tool: t\ncache: true\nrules: {big: [n > 3]}\ntransitions: {big: success}")
    run = await run_plan(own, tools=tools)
    assert (taken(run), run.of("step_finished")[0]["event_name"]) == (["a"], "big")


async def test_a_step_that_the_run_comes_back_to_makes_its_call(run_plan):
    tools = FakeToolServer().answer("t", {"n": 1}, {"n": 2}, {"n": 3})
    plan = """
    name: p
    steps:
      - {name: a, tool: t, cache: true, rules: {more: [n < 3]}, transitions: {more: a}}
    """
    run = await run_plan(plan, tools=tools)
    assert (run.status, len(tools.calls)) == ("success", 3)


async def test_a_file_that_the_step_made_must_be_as_it_left_it(run_plan, tools):
    plan = one("tool: write\ninputs: {path: out.txt, text: hello}\ncache: true")
    await run_plan(plan, tools=tools)
    assert taken(await run_plan(plan, tools=tools)) == ["a"]
    for change in (Path("out.txt").unlink, lambda: Path("out.txt").write_text("hullo")):
        change()
        await run_plan(plan, tools=tools)
        assert Path("out.txt").read_text() == "hello"


async def test_a_result_whose_input_was_changed_meanwhile_is_not_kept(run_plan):
    tools = FakeToolServer()

    @tools.tool
    def grow(path: str) -> dict:
        Path(path).write_text(Path(path).read_text() + "x")
        return {"n": len(Path(path).read_text())}

    Path("f").write_text("")
    plan = one("tool: grow\ninputs: {path: f}\ncache: true")
    for n in (1, 2, 3):
        run = await run_plan(plan, tools=tools)
        assert run.of("step_finished")[0]["outputs"] == {"n": n}
    assert "was changed while it ran" in run.of("warning")[0]["message"]


async def test_files_of_an_answer_are_copied_to_the_run_that_takes_them_over(run_plan):
    image = base64.b64encode(b"\x89PNG-bytes").decode()
    tools = FakeToolServer()
    tools.parts("plot", {"type": "image", "data": image, "mimeType": "image/png"})
    plan = one("tool: plot\ncache: true") + "outputs: {p: '{{ steps.a.outputs.files[0].path }}'}"
    first = await run_plan(plan, tools=tools, keep=True)
    again = await run_plan(plan, tools=tools, keep=True)
    assert taken(again) == ["a"]
    assert Path(again.outputs["p"]) != Path(first.outputs["p"])
    assert Path(again.outputs["p"]).read_bytes() == b"\x89PNG-bytes"
    assert again.result.run in again.outputs["p"]
    Path(first.outputs["p"]).write_bytes(b"damaged")
    third = await run_plan(plan, tools=tools, keep=True)
    assert (taken(third), len(tools.calls)) == ([], 2)


async def test_items_of_a_foreach_are_looked_up_one_by_one(run_plan, tools):
    plan = one(
        "tool: size\nforeach: inputs.over\ninputs: {n: '{{ item }}'}\ncache: true", "{over: [1, 2]}"
    )
    await run_plan(plan, tools=tools)
    run = await run_plan(plan, {"over": [2, 3, 1]}, tools=tools)
    assert len(tools.calls) == 3
    assert [bool(each.get("reused")) for each in run.of("item_finished")].count(True) == 2
    (event,) = run.of("step_finished")
    assert event["reason"] == "2 of 3 items were taken over from earlier runs"


async def test_sources_of_a_result_are_taken_over(run_plan):
    tools = FakeToolServer()
    tools.describe("mail", annotations={"openWorldHint": True, "readOnlyHint": True})
    tools.answer("mail", {"text": "from a stranger"}).answer("send", "ok")
    plan = """
    name: p
    steps:
      - {name: a, tool: mail, cache: true}
      - {name: b, tool: send, inputs: {to: "{{ steps.a.outputs.text }}"}}
    """
    runs = [await run_plan(plan, tools=tools) for _ in range(2)]
    assert taken(runs[1]) == ["a"]
    asked = [run.result.waiting[0]["origins"] for run in runs]
    assert asked[0] == asked[1]
    assert asked[0][0]["from"] == ["fake.mail"]


# -- models, scripts ------------------------------


async def test_an_agent_without_tools_is_cached_by_its_model_and_its_task(run_plan):
    plan = one(
        "agent: ask\ninstruction: 'Say {{ inputs.w }}.'\nallow_tools: false\ncache: true", "{w: hi}"
    )
    model = ScriptedModel(["hi", "ho", "hu", "he"])
    runs = [await run_plan(plan, model=model) for _ in range(2)]
    runs += [await run_plan(plan, {"w": "ho"}, model=model)]
    other = ScriptedModel(["new"], model_name="other")
    runs += [await run_plan(plan, model=other)]
    said = [run.of("step_finished")[0]["outputs"]["content"] for run in runs]
    assert said == ["hi", "hi", "ho", "new"]
    assert [bool(taken(run)) for run in runs] == [False, True, False, False]


async def test_an_agent_that_may_call_tools_must_name_its_files(run_plan, tools):
    replies = [Reply(tool_calls=[("size", {"n": 1})]), "one"]
    unnamed = one("agent: ask\ninstruction: Do it.\ncache: true")
    run = await run_plan(unnamed, tools=tools, model=ScriptedModel(replies))
    assert "may call tools and read any file" in run.of("warning")[0]["message"]
    Path("d").write_text("1")
    named = one("agent: ask\ninstruction: Do it.\ncache: {files: d}")
    await run_plan(named, tools=tools, model=ScriptedModel(replies))
    assert taken(await run_plan(named, tools=tools, model=ScriptedModel(replies))) == ["a"]
    tools.version = "2"
    assert taken(await run_plan(named, tools=tools, model=ScriptedModel(replies))) == []


async def test_the_verdict_of_a_judge_is_taken_over(run_plan, tools):
    plan = one("tool: size\ninputs: {n: 1}\njudge: Is it one?\ncache: true")
    model = ScriptedModel(['{"reason": "it is one", "success": true}'])
    await run_plan(plan, tools=tools, model=model)
    run = await run_plan(plan, tools=tools, model=model)
    assert (run.status, taken(run), len(model.requests)) == ("success", ["a"], 1)
    assert run.of("step_finished")[0]["reason"] == "it is one"


async def test_a_prompt_is_cached_as_its_server_renders_it(run_plan):
    plan = one("prompt: tell\ninputs: {what: a joke}\nallow_tools: false\ncache: true")
    model, tools = ScriptedModel(["ha", "ho"]), FakeToolServer()
    tools.prompt("tell", "Tell {what}.", arguments=[{"name": "what"}])
    await run_plan(plan, tools=tools, model=model)
    assert taken(await run_plan(plan, tools=tools, model=model)) == ["a"]
    tools.prompt("tell", "Tell me {what}.", arguments=[{"name": "what"}])
    assert taken(await run_plan(plan, tools=tools, model=model)) == []


async def test_a_script_is_cached_with_its_files_and_its_exit_code(run_plan):
    Path("in.txt").write_text("a\n")
    clean = one(
        "script: wc -l < in.txt 2> /dev/null\ncache: true\nrules: {success: [exit_code == 0]}"
    )
    runs = [await run_plan(clean) for _ in range(2)]
    assert taken(runs[1]) == ["a"]
    assert runs[1].of("step_finished")[0]["outputs"] == {"content": "1\n"}
    Path("in.txt").write_text("a\nb\n")
    run = await run_plan(clean)
    assert (taken(run), run.of("step_finished")[0]["outputs"]) == ([], {"content": "2\n"})


async def test_a_plan_in_an_application_takes_over_results_too(settings, tools):
    graph = plan_graph(
        one("tool: size\ninputs: {n: 4}\ncache: true"), tools=tools, settings=settings
    )
    for _ in range(2):
        assert (await graph.ainvoke({}))["status"] == "success"
    assert len(tools.calls) == 1


# -- at random ------------------------------

RANDOM = """
name: p
inputs: {x: 1, y: 2}
steps:
  - {name: a, tool: size, inputs: {path: f0, n: "{{ inputs.x }}"}, cache: true}
  - {name: b, tool: size, inputs: {cmd: "go -in f1 --all", n: "{{ steps.a.outputs.n }}"}}
  - {name: c, tool: size, inputs: {n: "{{ inputs.y }}", items: [f2, "{{ steps.a.outputs.text }}"]}}
  - name: d
    tool: size
    foreach: "[inputs.x, inputs.y, steps.b.outputs.n]"
    inputs: {n: "{{ item }}", path: d}
    cache: {files: ["f*"]}
outputs: {a: "{{ steps.a.outputs }}", c: "{{ steps.c.outputs }}", d: "{{ steps.d.outputs }}"}
"""


def server(version: int) -> FakeToolServer:
    """A server whose answers depend on its version, on its arguments and on files."""
    made = FakeToolServer()
    made.version = str(version)

    @made.tool(read_only=True)
    def size(path: str = "", cmd: str = "", n: int = 0, items: list | None = None) -> dict:
        named = [path, *cmd.split(), *(items or [])]
        files = [f for each in named if each and Path(each).exists() for f in _files(Path(each))]
        text = "".join(f"{f}={f.read_text()};" for f in files)
        hidden = "".join(f.read_text() for f in sorted(Path().glob("f*"))) if path == "d" else ""
        return {"n": (n * 7 + len(text) + version) % 50, "text": text + hidden}

    return made


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


async def test_after_any_change_the_outputs_are_those_of_a_run_without_results(run_plan):
    draw = random.Random(None if FULL else 7)
    Path("d").mkdir()
    for name in ("f0", "f1", "f2", "d/x"):
        Path(name).write_text(name)
    plan, inputs, version, reused = RANDOM, {"x": 1, "y": 2}, 1, 0
    for _ in range(1000 if FULL else examples(40)):
        match draw.randrange(7):
            case 0:
                inputs = {**inputs, draw.choice("xy"): draw.randrange(3)}
            case 1 | 2:
                Path(draw.choice(["f0", "f1", "f2", "d/x"])).write_text(draw.choice("pq"))
            case 3:
                Path(draw.choice(["d/y", "f3"])).write_text(draw.choice("rs"))
            case 4:
                version = draw.randrange(1, 3)
            case 5:
                for extra in (Path("d/y"), Path("f3")):
                    extra.unlink(missing_ok=True)
            case _:
                plan = draw.choice([RANDOM, RANDOM.replace("--all", "--some"),
                                    RANDOM.replace("path: f0", "path: f1")])  # fmt: skip
        run = await run_plan(plan, inputs, tools=server(version), reuse=True, keep=False)
        reused += len(taken(run))
        fresh = await run_plan(plan, inputs, tools=server(version), reuse=False, keep=False)
        assert run.outputs == fresh.outputs
    assert reused > 5  # else the test shows nothing


async def test_a_long_plan_with_one_change_runs_exactly_the_dependents(run_plan):
    count = 1000 if FULL else 60
    draw = random.Random(3)
    steps, reads = [], {}
    for i in range(count):
        reads[i] = sorted(draw.sample(range(i), min(i, draw.randrange(3))))
        n = " + ".join([f"inputs.x{i % 10}", *(f"steps.s{j}.outputs.n" for j in reads[i])])
        steps.append(f"- {{name: s{i}, tool: id, inputs: {{n: '{{{{ {n} }}}}', i: {i}}}}}")
    inputs = ", ".join(f"x{k}: {k}" for k in range(10))
    plan = "\n".join(["name: p", f"inputs: {{{inputs}}}", "steps:", *steps])
    tools = FakeToolServer()
    tools.tool(read_only=True, name="id")(lambda n, i: {"n": n})
    await run_plan(plan, tools=tools, reuse=True, keep=False)
    before = len(tools.calls)
    assert before == count
    await run_plan(plan, {"x3": 1003}, tools=tools, reuse=True, keep=False)
    dependents = {i for i in range(count) if i % 10 == 3}
    for i in range(count):
        if dependents & set(reads[i]):
            dependents.add(i)
    assert {call.arguments["i"] for call in tools.calls[before:]} == dependents
    assert len(tools.calls) - before == len(dependents)


async def test_equal_items_at_the_same_time_are_computed_once(run_plan):
    tools = FakeToolServer()
    numbers = itertools.count()

    @tools.tool(read_only=True)
    async def slow(n: int) -> dict:
        return {"n": n, "call": next(numbers)}

    plan = one("tool: slow\nforeach: '[1, 1, 1, 2, 2, 1]'\ninputs: {n: '{{ item }}'}\ncache: true")
    run = await run_plan(plan, tools=tools, keep=False)
    assert run.status == "success"
    assert len(tools.calls) == 2
