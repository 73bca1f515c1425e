"""The pytest plugin, in test suites of their own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

TESTS = '''
import asyncio

import pytest
from fractale.testing import Reply

PLAN = """
    name: p
    inputs: {nodes: {type: integer, default: 2}}
    outputs: {job: "{{ steps.submit.outputs.job }}"}
    steps:
      - {name: submit, tool: submit, inputs: {nodes: "{{ inputs.nodes }}"}}
"""
AGENT = """
    name: a
    servers: []
    steps:
      - {name: say, agent: ask, instruction: Say hello.}
"""


def test_a_plan_runs_and_is_seen(run_plan, fake_tools):
    fake_tools.answer("submit", {"job": 7})
    run = run_plan(PLAN, {"nodes": 4}, tools=fake_tools)
    assert (run.status, run.outputs, run.path) == ("success", {"job": 7}, ["submit:success"])
    assert fake_tools.calls == [("submit", {"nodes": 4})]
    assert [each["step"] for each in run.of("tool_started")] == ["submit"]


def test_a_listener_of_ones_own_hears_it_too(run_plan, fake_tools):
    heard = []

    async def hear(event):
        heard.append(event)

    fake_tools.answer("submit", {"job": 7})
    run = run_plan(PLAN, tools=fake_tools, on_event=hear)
    assert heard == run.events != []


def test_an_async_test_without_a_plugin_for_them(arun_plan, scripted_model):
    model = scripted_model(["Hello."])
    run = asyncio.run(arun_plan(AGENT, model=model))
    assert run.status == "success"
    assert len(model.requests) == 1


def test_servers_are_real_and_end(run_plan, fake_tools, tool_server, fractale_settings):
    from dataclasses import replace

    fake_tools.answer("submit", {"job": 7})
    server = tool_server(fake_tools)
    settings = replace(fractale_settings, servers={"fake": server.settings()})
    run = run_plan(PLAN.replace("tool: submit", "tool: fake.submit"), settings=settings, keep=True)
    assert run.status == "success"
    assert run.result.record.is_relative_to(fractale_settings.state_dir)


def test_a_models_server(run_plan, model_server, fractale_settings):
    from dataclasses import replace

    server = model_server([Reply(text="Hello.")])
    settings = replace(
        fractale_settings,
        model="openai:any", openai_api_key="x", openai_base_url=server.openai_url,
    )
    assert run_plan(AGENT, settings=settings).status == "success"
    assert len(server.requests) == 1
'''


def test_the_fixtures(pytester: pytest.Pytester):
    pytester.makepyfile(TESTS)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=5)


def test_the_fixtures_are_described(pytester: pytest.Pytester):
    found = pytester.runpytest_subprocess("--fixtures", "-p", "no:cacheprovider").stdout.str()
    section = found.split("fixtures defined from fractale.testing.plugin")[1].split("fixtures defi")
    for name in ("run_plan", "arun_plan", "fake_tools", "scripted_model", "tool_server"):
        assert f"{name} --" in section[0]


def test_a_suite_that_does_not_use_them_imports_nothing(pytester: pytest.Pytester):
    pytester.makepyfile(
        """
        import sys

        def test_other():
            loaded = {name for name in sys.modules if name.startswith("fractale.")}
            assert loaded <= {"fractale.lazy", "fractale.testing", "fractale.testing.plugin"}
            assert "langgraph" not in sys.modules
        """
    )
    pytester.runpytest_subprocess("-p", "no:langsmith").assert_outcomes(passed=1)
