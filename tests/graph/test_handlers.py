"""`on_failure` and `finally`: steps that run at the end of a plan, and do not change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

import fractale
from fractale import Limits
from fractale.agents.draft_catalog import DraftCatalog
from fractale.errors import PlanError, UsageError
from fractale.graph.call import LabelFlow
from fractale.graph.state import Record
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.check import check_plan, plan_problems
from fractale.plan.diagram import drawn_handlers
from fractale.plan.draw import mermaid, svg, text
from fractale.plan.dump import dump_plan
from fractale.policy import Source, to_data
from fractale.record.plans import plan_hash
from fractale.settings import Settings
from fractale.testing import Reply, ScriptedModel
from fractale.toolbox import ToolInfo

PLAN = """
name: handled
inputs: {bad: false}
steps:
  - {name: one, tool: do, inputs: {what: one}}
  - {name: two, tool: do, inputs: {what: two, fail: "{{ inputs.bad }}"}}
outputs: {did: "{{ steps.two.outputs.did }}"}
on_failure:
  - name: tell
    tool: do
    inputs: {what: "tell {{ run.failed.step }}: {{ run.failed.error }}"}
finally:
  - {name: clean, tool: do, inputs: {what: "clean {{ run.outcome }}"}}
  - {name: more, tool: do, inputs: {what: "more {{ steps.one.outputs.did }}"}}
"""


@pytest.fixture
def calls() -> list[str]:
    """The calls of `do`, in order."""
    return []


@pytest.fixture
def do(calls: list[str]) -> Any:
    def do(what: str, fail: bool = False) -> dict[str, Any]:
        """Do something."""
        calls.append(what)
        if fail:
            raise ValueError(f"broken {what}")
        return {"did": what}

    return do


async def test_after_a_success_only_finally_runs(settings: Settings, do, calls):
    result = await fractale.arun(PLAN, tools=[do], settings=settings)
    assert result.status == "success"
    assert result.outputs == {"did": "two"}
    assert result.decided is not None
    assert result.decided["step"] == "two"
    assert calls == ["one", "two", "clean success", "more one"]
    assert [step["name"] for step in result.steps][2:] == ["finally/clean", "finally/more"]
    assert result.notices == []


async def test_after_a_failure_on_failure_runs_first_and_knows_why(settings, do, calls):
    result = await fractale.arun(PLAN, {"bad": True}, tools=[do], settings=settings)
    assert (result.status, result.error, result.exit_code) == (
        "failed",
        "ValueError: broken two",
        1,
    )
    assert result.decided is not None
    assert (result.decided["step"], result.decided["by"]) == ("two", "error")
    assert calls[2:] == ["tell two: ValueError: broken two", "clean failed", "more one"]


async def test_a_step_without_attempts_left_is_a_failure(settings, do, calls):
    plan = PLAN.replace(
        '"{{ inputs.bad }}"}}', "true}, max_attempts: 2, transitions: {failure: two}}"
    )
    result = await fractale.arun(plan, tools=[do], settings=settings)
    assert result.status == "failed"
    assert result.decided is not None
    assert result.decided["gave_up"] == "two"
    assert calls[3:] == [
        "tell two: step `two` was entered 2 times, its limit",
        "clean failed",
        "more one",
    ]


async def test_at_a_limit_finally_runs_and_again_at_the_next_end(settings, do, calls):
    known: dict[str, Any] = {"tools": [do], "settings": settings}
    plan = PLAN.replace("inputs: {bad", "limits: {steps: 1}\ninputs: {bad")
    result = await fractale.arun(plan, keep=True, **known)
    assert (result.status, result.exit_code) == ("limit", 5)
    assert calls == ["one", "clean limit", "more one"]
    result = await fractale.aresume(result.run, limits=Limits(steps=9), **known)
    assert result.status == "success"
    assert calls[3:] == ["two", "clean success", "more one"]
    attempts = [(s["name"], s["attempt"]) for s in result.steps if s.get("handler")]
    assert attempts == [
        ("finally/clean", 1),
        ("finally/more", 1),
        ("finally/clean", 2),
        ("finally/more", 2),
    ]
    assert (await fractale.areplay(result.run, settings=settings)).equal


async def test_a_handler_that_fails_is_a_warning_and_the_next_step_runs(settings, do, calls):
    plan = PLAN.replace('run.outcome }}"}}', 'run.outcome }}", fail: true}}')
    for bad, status in ((False, "success"), (True, "failed")):
        calls.clear()
        result = await fractale.arun(plan, {"bad": bad}, tools=[do], settings=settings, keep=True)
        assert result.status == status
        assert result.error == ("ValueError: broken two" if bad else None)
        assert calls[-1] == "more one"
        (notice,) = result.notices
        assert notice == {
            "step": "finally/clean",
            "kind": "failed",
            "message": f"ValueError: broken clean {status}",
            "handler": "finally",
        }
        assert (await fractale.areplay(result.run, settings=settings)).equal


async def test_a_handler_that_gives_up_does_not_keep_the_next_one_from_running(settings, do, calls):
    loop = "max_attempts: 2\n    transitions: {failure: tell}"
    plan = PLAN.replace(
        'run.failed.error }}"}', f'run.failed.error }}}}", fail: true}}\n    {loop}'
    )
    result = await fractale.arun(plan, {"bad": True}, tools=[do], settings=settings)
    assert result.error == "ValueError: broken two"
    assert calls[-2:] == ["clean failed", "more one"]
    messages = {notice["step"]: notice["message"] for notice in result.notices}
    assert messages["on_failure"] == "step `on_failure/tell` was entered 2 times, its limit"


async def test_transitions_of_a_handler_end_that_handler(settings, do, calls):
    plan = PLAN.replace('run.outcome }}"}}', 'run.outcome }}"}, transitions: {success: failed}}')
    result = await fractale.arun(plan, tools=[do], settings=settings)
    assert result.status == "success"
    assert calls == ["one", "two", "clean success"]


async def test_the_reason_of_a_handler_is_a_warning(settings, do, calls):
    plan = PLAN.replace(
        'clean {{ run.outcome }}"}}',
        "clean\"}, rules: {left: did == 'clean'}, transitions: {left: failed}, "
        'reason: "files are left after {{ run.outcome }}"}',
    )
    result = await fractale.arun(plan, tools=[do], settings=settings)
    assert (result.status, calls[2:]) == ("success", ["clean"])
    (notice,) = result.notices
    assert (notice["step"], notice["message"]) == ("finally/clean", "files are left after success")


async def test_questions_of_handlers_are_answered_like_others(settings, do, calls):
    known: dict[str, Any] = {"tools": [do], "settings": settings}
    plan = PLAN.replace("name: clean,", "name: clean, approve: always,")
    for bad in (False, True):
        calls.clear()
        result = await fractale.arun(plan, {"bad": bad}, keep=True, **known)
        assert result.status == "waiting"
        (question,) = result.waiting
        assert question["step"] == "finally/clean"
        result = await fractale.aresume(result.run, answers={"finally/clean": True}, **known)
        assert result.status == ("failed" if bad else "success")
        assert len(calls) == (5 if bad else 4)
        again = await fractale.aresume(result.run, **known)
        assert again.status == result.status
        assert len(calls) == (5 if bad else 4)


async def test_they_are_not_asked_about_before_the_user_gave_up_a_failure(settings, do, calls):
    class Person:
        async def answer(self, question: Any) -> Any:
            calls.append(f"asked {question['kind']}")
            return "skip"

    plan = PLAN.replace("name: two", "name: mid")
    plan = plan.replace("outputs:", "  - {name: two, tool: do, inputs: {what: two}}\noutputs:", 1)
    result = await fractale.arun(
        plan, {"bad": True}, tools=[do], settings=settings, person=Person()
    )
    assert result.status == "success"
    assert calls == ["one", "two", "asked failure", "two", "clean success", "more one"]


async def test_a_cancelled_run_without_a_process_runs_finally_once(settings, tmp_path, monkeypatch):
    (tmp_path / "noted.py").write_text(
        "def do(what: str) -> dict:\n"
        "    'Do something.'\n"
        f"    open({str(tmp_path / 'calls')!r}, 'a').write(what + '\\n')\n"
        "    return {'did': what}\n"
    )
    (tmp_path / "tools.yaml").write_text("tools: [{path: noted.do}]")
    monkeypatch.syspath_prepend(tmp_path)
    plan = PLAN.replace('what: two, fail: "{{ inputs.bad }}"}', "what: two}, approve: always")
    known: dict[str, Any] = {"registries": [tmp_path / "tools.yaml"], "settings": settings}
    result = await fractale.arun(plan, keep=True, **known)
    assert result.status == "waiting"
    cancelled = await fractale.acancel(result.run, settings=settings)
    assert cancelled.ended is not None
    assert cancelled.ended.status == "stopped"
    assert cancelled.ended.error == "cancelled by `fractale cancel`"
    again = await fractale.acancel(result.run, settings=settings)
    assert again.ended is None
    lines = (tmp_path / "calls").read_text().splitlines()
    assert lines == ["one", "clean cancelled", "more one"]
    result = await fractale.aresume(result.run, answers={"two": True}, settings=settings)
    assert result.status == "success"
    lines = (tmp_path / "calls").read_text().splitlines()
    assert lines[3:] == ["two", "clean success", "more one"]


async def test_what_keeps_finally_from_running_at_a_cancel_is_reported(settings, do):
    plan = PLAN.replace("name: two,", "name: two, approve: always,")
    result = await fractale.arun(plan, tools=[do], settings=settings, keep=True)
    cancelled = await fractale.acancel(result.run, settings=settings)
    assert cancelled.ended is None
    assert "was started with the tool `do` of your program" in cancelled.trouble


# -- included plans --------------------------------------------------------------------------------

OUTER = """
name: outer
inputs: {bad: false}
steps:
  - {name: in, plan: inner.yaml, inputs: {bad: "{{ inputs.bad }}"}, transitions: {failure: after}}
  - {name: after, tool: do, inputs: {what: after}}
finally:
  - {name: last, tool: do, inputs: {what: "last {{ run.outcome }}"}}
"""


@pytest.fixture
def outer(tmp_path: Path) -> Path:
    (tmp_path / "inner.yaml").write_text(PLAN)
    (tmp_path / "outer.yaml").write_text(OUTER)
    return tmp_path / "outer.yaml"


async def test_those_of_an_included_plan_run_at_its_own_end(settings, do, calls, outer):
    result = await fractale.arun(outer, tools=[do], settings=settings)
    assert result.status == "success"
    assert calls == ["one", "two", "clean success", "more one", "after", "last success"]
    calls.clear()
    result = await fractale.arun(outer, {"bad": True}, tools=[do], settings=settings)
    assert calls[2:5] == ["tell two: ValueError: broken two", "clean failed", "more one"]
    assert calls[5:] == ["after", "last success"]
    names = [step["name"] for step in result.steps]
    assert names[2:5] == ["in/on_failure/tell", "in/finally/clean", "in/finally/more"]


@pytest.mark.parametrize("keep", [True, False])
async def test_a_question_of_an_included_handler_repeats_nothing(settings, do, calls, outer, keep):
    inner = outer.with_name("inner.yaml")
    inner.write_text(PLAN.replace("name: clean,", "name: clean, approve: always,"))

    class Person:
        async def answer(self, question: Any) -> Any:
            calls.append(f"asked {question['step']}")
            return True

    result = await fractale.arun(outer, tools=[do], settings=settings, keep=keep, person=Person())
    assert result.status == "success"
    assert calls[:4] == ["one", "two", "asked in/finally/clean", "clean success"]
    assert len(calls) == 7


JOBS = """
finally:
  - name: job
    foreach: [1, 2, 3]
    max_parallel: 1
    job: {scheduler: local, command: [echo, "{{ item }}"], time: 1m}
"""


def jobs_of(result: Any) -> list[dict[str, Any]]:
    return [step for step in result.steps if step["name"].startswith("in/finally/job[")]


async def test_those_of_an_included_plan_keep_within_the_limits_of_the_run(
    settings, do, calls, outer
):
    outer.write_text(OUTER.replace("inputs:", "limits: {jobs: 1}\ninputs:", 1))
    inner = PLAN[: PLAN.index("finally:")]
    outer.with_name("inner.yaml").write_text(inner + JOBS)
    known: dict[str, Any] = {"tools": [do], "settings": settings}
    result = await fractale.arun(outer, keep=True, **known)
    assert (result.status, result.usage["jobs"]) == ("limit", 1), result.error
    assert calls == ["one", "two", "last limit"]
    result = await fractale.aresume(result.run, limits=Limits(jobs=3), **known)
    assert (result.status, result.usage["jobs"]) == ("success", 3), result.error
    assert calls[3:] == ["after", "last success"]


async def test_those_of_an_included_plan_count_for_the_limit_of_steps(settings, do, calls, outer):
    outer.write_text(OUTER.replace("inputs:", "limits: {steps: 4}\ninputs:", 1))
    result = await fractale.arun(outer, tools=[do], settings=settings)
    assert result.status == "limit"
    assert calls == ["one", "two", "clean success", "last limit"]


async def test_those_of_a_draft_keep_within_the_limits_of_the_run(run_plan):
    job = {"scheduler": "local", "command": ["echo"], "time": "1m"}
    draft = {
        "steps": [{"name": "a", "wait": "10ms"}],
        "finally": [{"name": f"j{number}", "job": job} for number in range(3)],
    }
    plan = "name: p\nlimits: {jobs: 1}\nsteps: [{name: made, type: plan, instruction: Do it}]\n"
    model, jobs = (
        ScriptedModel([Reply(data=draft)]),
        Path(__file__).parents[2] / "registries/jobs.yaml",
    )
    model = ScriptedModel(
        lambda asked: Reply(data=draft) if "Write the steps." in str(asked) else "nothing"
    )
    seen = await run_plan(plan, model=model, registries=[str(jobs)], yes=True)
    assert (seen.status, seen.result.usage["jobs"]) == ("limit", 1), seen.result.error


async def test_a_missing_program_is_a_warning_of_the_handler(settings, do, calls):
    job = "job: {scheduler: pbs, script: 'true', time: 1m}"
    plan = PLAN.replace("on_failure:", f"on_failure: [{{name: job, {job}}}]\nunused:")
    plan = plan[: plan.index("unused:")] + plan[plan.index("finally:") :]
    plan += f"  - {{name: job2, {job}}}\n"
    for bad, status in ((False, "success"), (True, "failed")):
        calls.clear()
        result = await fractale.arun(plan, {"bad": bad}, tools=[do], settings=settings)
        assert result.status == status
        assert calls[-1] == "more one"
        assert "finally" in [notice["step"] for notice in result.notices], result.notices


# -- LangGraph applications ------------------------------------------------------------------------


async def test_in_an_application_they_run_at_each_end(do, calls):
    graph = fractale.plan_graph(PLAN, tools=[do])
    assert (await graph.ainvoke({}))["status"] == "success"
    assert calls[2:] == ["clean success", "more one"]
    calls.clear()
    result = await graph.ainvoke({"bad": True})
    assert (result["status"], result["error"]) == ("failed", "ValueError: broken two")
    assert calls[2:] == ["tell two: ValueError: broken two", "clean failed", "more one"]


async def test_in_an_application_a_limit_leaves_the_thread_as_it_is(do, calls):
    graph = fractale.plan_graph(PLAN, tools=[do], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    result = await graph.ainvoke({}, config, context={"limits": {"steps": 1}})
    assert result["status"] == "limit"
    assert calls == ["one", "clean limit", "more one"]
    assert (await graph.aget_state(config)).next == ("two",)
    result = await graph.ainvoke(None, config, context={"limits": {"steps": 9}})
    assert result["status"] == "success"
    assert calls[3:] == ["two", "clean success", "more one"]


@pytest.mark.parametrize("asks", [False, True])
async def test_in_an_application_a_limit_streams_them(do, calls, asks):
    plan = PLAN.replace("name: clean,", "name: clean, approve: always,") if asks else PLAN
    graph = fractale.plan_graph(plan, tools=[do], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    limit: Any = {"limits": {"steps": 1}}
    events: list[Any] = []
    nodes: list[str] = []
    async for mode, chunk in graph.astream(
        {}, config, context=limit, stream_mode=["custom", "updates"]
    ):
        nodes += chunk if mode == "updates" else ()
        events += [(chunk["event"], chunk.get("step"))] if mode == "custom" else ()
    assert ("step_started", "finally/clean") in events
    assert (("step_finished", "finally/more") in events) is not asks
    ends = [] if asks else ["finally"]
    assert nodes == ["one", "on_failure", *ends, "__end__"]
    result = await graph.ainvoke(None, config, context=limit)
    assert (result["status"], result.get("__interrupt__")) == ("limit", None)
    assert "steps, and its limit is 1" in result["error"]  # those of the handlers count
    options: Any = {"stream_mode": ["custom", "updates"], "version": "v2"}
    async for each in graph.astream(None, config, context=limit, **options):
        assert each["ns"] == ()
    last = [each async for each in graph.astream(None, config, context=limit)][-1]
    assert last["__end__"]["status"] == "limit"


async def test_in_an_application_their_questions_are_interrupts(do, calls):
    plan = PLAN.replace("name: clean,", "name: clean, approve: always,")
    graph = fractale.plan_graph(plan, tools=[do], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    result = await graph.ainvoke({}, config)
    assert [each.value["step"] for each in result["__interrupt__"]] == ["finally/clean"]
    result = await graph.ainvoke(Command(resume="yes"), config)
    assert result["status"] == "success"
    assert calls == ["one", "two", "clean success", "more one"]


async def test_in_a_node_of_another_graph_they_run_once(do, calls):
    class State(TypedDict, total=False):
        bad: bool
        status: str

    builder = StateGraph(State)
    builder.add_node("plan", fractale.plan_graph(PLAN, tools=[do]))
    builder.add_edge(START, "plan")
    builder.add_edge("plan", END)
    result = await builder.compile().ainvoke({"bad": True})
    assert result["status"] == "failed"
    assert calls[2:] == ["tell two: ValueError: broken two", "clean failed", "more one"]


@pytest.mark.parametrize("included", [False, True])
async def test_they_run_at_the_end_of_a_plan_of_many_steps(settings, do, calls, outer, included):
    more = "".join(f"  - {{name: s{i}, tool: do, inputs: {{what: s{i}}}}}\n" for i in range(40))
    plan = PLAN.replace("  - {name: two", f"{more}  - {{name: two")
    outer.with_name("inner.yaml").write_text(plan)
    for bad in (False, True):
        calls.clear()
        graph = fractale.plan_graph(outer if included else plan, tools=[do])
        await graph.ainvoke({"bad": bad})
        ends = ["clean failed" if bad else "clean success", "more one"]
        tells = ["tell two: ValueError: broken two"] if bad else []
        assert calls[42 : 44 + len(tells)] == [*tells, *ends]


def test_the_words_of_a_failure_have_the_labels_of_the_steps():
    plan = parse_plan(PLAN)
    source = Source(kind="tool", name="web", untrusted=True)
    records = {"two": Record(sources=to_data([source]))}
    flow = LabelFlow(records=records)
    assert flow.of(plan.on_failure[0].inputs["what"]) == {source}
    assert flow.of(plan.finally_[0].inputs["what"]) == set()


# -- the language ----------------------------------------------------------------------------------


def test_they_are_dumped_and_count_in_the_hash():
    plan = parse_plan(PLAN)
    assert parse_plan(dump_plan(plan)) == plan
    without = parse_plan(PLAN.partition("on_failure:")[0])
    assert "finally" not in dump_plan(without)
    assert plan_hash(plan) != plan_hash(without)
    assert [step.name for step in plan.walk()] == ["one", "two", "tell", "clean", "more"]


FAULTS = [
    (
        "  - {name: two,",
        "  - {name: two, transitions: {failure: clean},",
        "`clean` is in `finally`, whose steps only run at the end of the plan",
    ),
    (
        "  - {name: more,",
        "  - {name: more, transitions: {success: one},",
        "`one` is a step of the plan: `finally` runs when the plan has ended",
    ),
    ("what: one}", 'what: "{{ run.outcome }}"}', "known only in the steps of"),
    ("{{ steps.two.outputs.did }}", "{{ steps.tell.outputs.did }}", "`on_failure`, which runs"),
    ("run.failed.step", "run.failed.stp", "did you mean `step`?"),
    ("clean {{ run.outcome }}", "{{ steps.more.outputs.did }}", "cannot have run before `clean`"),
    ("name: more", "name: one", "has a step `one` already"),
    ("name: one", "name: finally", "`finally` cannot name a step of a plan with `finally:`"),
    ("  - {name: more", "  - {nam: more", "a step has no key `nam`"),
    ("on_failure:", "on_error:", "a plan has no key `on_error`; write `on_failure`"),
]


@pytest.mark.parametrize(("old", "new", "message"), FAULTS)
def test_faults_are_found_before_the_run(old, new, message):
    wrong = PLAN.replace(old, new, 1)
    assert wrong != PLAN
    _, problems = plan_problems(lambda: parse_plan(wrong))
    assert message in "\n".join(map(str, problems))


def test_a_failure_that_may_not_be_there_is_a_warning():
    text = PLAN.replace("clean {{ run.outcome }}", "{{ run.failed.error }}")
    (problem,) = check_plan(parse_plan(text))
    assert (problem.code, problem.severity) == ("only-if-failed", "warning")
    fixed = text.replace("name: clean,", "name: clean, when: run.outcome == 'failed',")
    assert check_plan(parse_plan(fixed)) == []
    assert check_plan(parse_plan(text.replace("failed.error", "failed.error | default('')"))) == []


def test_they_are_drawn_below_the_plan(tmp_path):
    plan = parse_plan(PLAN)
    drawn = text(plan)
    assert drawn.index("◆ success") < drawn.index("on_failure  after the plan failed")
    assert "finally  at every end\n● clean" in drawn
    assert '["on_failure: after the plan failed"]' in mermaid(plan)
    assert list(drawn_handlers(plan)) == ["on_failure", "finally"]


def test_only_the_plan_itself_ends_in_success_in_a_drawing():
    drawn = mermaid(parse_plan(PLAN))
    assert (drawn.count('(["success"])'), drawn.count('(["end"])')) == (1, 2)
    picture = svg(parse_plan(PLAN))
    assert (picture.count(">success<"), picture.count(">end<")) == (1, 2)
    assert picture.count('class="is-success"') == 1


def test_a_draft_can_have_them_within_its_own_bounds():
    takes = {"type": "object", "properties": {"what": {"type": "string"}}}
    catalog = DraftCatalog(tools=[ToolInfo(name="do", server="local", input_schema=takes)])
    assert {"on_failure", "finally"} <= catalog.schema()["properties"].keys()
    steps = [{"name": "work", "tool": "do", "inputs": {"what": "work"}}]
    clean: dict[str, Any] = {"name": "clean", "tool": "do", "inputs": {"what": "clean"}}
    plan, _ = catalog.read("made", {"steps": steps, "finally": [clean]})
    assert [step.name for step in plan.finally_] == ["clean"]
    with pytest.raises(PlanError, match="approve: never"):
        catalog.read("made", {"steps": steps, "finally": [{**clean, "approve": "never"}]})


async def test_a_fork_cannot_begin_in_a_handler(settings, do):
    result = await fractale.arun(PLAN, tools=[do], settings=settings, keep=True)
    with pytest.raises(UsageError, match="runs at the end of a plan; a fork cannot begin there"):
        await fractale.afork(result.run, "finally/clean", tools=[do], settings=settings)
    fork = await fractale.afork(result.run, "two", plan=PLAN, tools=[do], settings=settings)
    assert fork.status == "success"
    assert [step["name"] for step in fork.steps] == ["two", "finally/clean", "finally/more"]


def test_an_included_plan_that_has_some_is_read(outer):
    plan = load_plan(outer)
    assert check_plan(plan) == []
    assert list(plan.handlers) == ["finally"]


@pytest.mark.parametrize("keep", [True, False])
async def test_a_step_that_asks_is_entered_once(settings, do, keep):
    heard: list[tuple[str, Any]] = []

    def hear(event: fractale.Event) -> None:
        if "step" in event.data:
            heard.append((event.kind, event.data["step"]))

    plan = PLAN.replace("{name: clean,", "{name: clean, approve: always,")
    answers = {"finally/clean": "yes"}
    result = await fractale.arun(
        plan, settings=settings, tools=[do], answers=answers, keep=keep, on_event=hear
    )
    assert result.status == "success"
    assert heard.count(("step_started", "finally/clean")) == 1


# -- named values ----------------------------------------------------------------------------------

NAMED = """
name: named
inputs: {bad: false}
steps:
  - {name: first, set: {done: [first]}}
  - {name: two, tool: do, inputs: {what: two, fail: "{{ inputs.bad }}"}}
  - {name: second, set: {done: "{{ values.done + ['second'] }}"}}
outputs: {done: "{{ values.done }}"}
on_failure:
  - {name: mark, set: {done: "{{ values.done + ['mark'] }}", why: "{{ run.failed.step }}"}}
finally:
  - {name: clean, tool: do, inputs: {what: "{{ values.done }} {{ values.why | default('-') }}"}}
"""


@pytest.mark.parametrize(
    ("bad", "seen", "outputs"),
    [
        (False, '["first","second"] -', ["first", "second"]),
        (True, '["first","mark"] two', ["first"]),
    ],
)
async def test_they_see_and_set_named_values(settings, do, calls, bad, seen, outputs):
    result = await fractale.arun(NAMED, {"bad": bad}, settings=settings, tools=[do])
    assert (calls, result.outputs) == (["two", seen], {"done": outputs})
    calls.clear()
    after = await fractale.plan_graph(NAMED, settings=settings, tools=[do]).ainvoke({"bad": bad})
    assert (calls, after["outputs"]) == (["two", seen], {"done": outputs})


LATE_VALUES = [
    ('outputs: {done: "{{ values.done', 'outputs: {done: "{{ values.why', "is set in `on_failure`"),
    ("{what: two,", '{what: "{{ values.why }}",', "cannot have been set when"),
    ("{{ values.done + ['mark'] }}", "{{ values.why }}", "cannot have been set when"),
]


@pytest.mark.parametrize(("old", "new", "message"), LATE_VALUES)
def test_values_that_a_later_handler_sets_are_told(old, new, message):
    assert check_plan(parse_plan(NAMED)) == []
    (problem,) = check_plan(parse_plan(NAMED.replace(old, new, 1)))
    assert message in str(problem)
