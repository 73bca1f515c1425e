"""Resuming without the tools and agents of one's own program: refused before an answer is used."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent

import fractale
from fractale.errors import UsageError
from fractale.settings import Settings
from fractale.testing import FakeToolServer, Reply, ScriptedModel, ToolServer

PLAN = """
name: asks
steps:
  - {name: make, tool: make}
  - {name: send, tool: send, inputs: {text: "{{ steps.make.outputs.text }}"}, approve: always}
outputs: {size: "{{ steps.send.outputs.size }}"}
"""
CHOSEN = "{name: p, steps: [{name: s, agent: ask, instruction: Send tea.}]}"
CLERK = "{name: p, steps: [{name: buy, agent: clerk, instruction: Order tea.}]}"


def make() -> dict[str, Any]:
    """Make a text."""
    return {"text": "made"}


def send(text: str) -> dict[str, Any]:
    """Send a text."""
    return {"size": len(text)}


def order(what: str) -> str:
    """Order something."""
    return f"ordered {what}"


def record_of(settings: Settings, run: str) -> dict[str, bytes]:
    """The files of a run."""
    folder = settings.state_dir / "runs" / run
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def clerk() -> Any:
    """A LangChain agent that orders tea."""
    calls = Reply(tool_calls=[("order", {"what": "tea"})])
    model = ScriptedModel([calls, "I ordered tea."])
    return create_agent(model, tools=[order], name="clerk")


@pytest.mark.parametrize("tool", ["send", "local.send"])
@pytest.mark.parametrize("given", [{}, {"tools": [make]}, {"tools": FakeToolServer("other")}])
@pytest.mark.parametrize("answers", [{"send": True}, None])
async def test_without_a_tool_nothing_is_changed(settings, tool, given, answers):
    plan = PLAN.replace("tool: send", f"tool: {tool}")
    run = (await fractale.arun(plan, tools=[make, send], keep=True, settings=settings)).run
    before = record_of(settings, run)
    with pytest.raises(UsageError, match="the tool `send` of your program, which is not") as error:
        await fractale.aresume(run, answers=answers, settings=settings, **given)
    assert error.value.hint == f"give `tools` again: fractale.resume('{run}', tools=…)"
    assert record_of(settings, run) == before
    # `make` is not needed any more.
    done = await fractale.aresume(run, tools=[send], answers={"send": True}, settings=settings)
    assert done.outputs == {"size": 4}
    assert (await fractale.aresume(run, settings=settings)).status == "success"


@pytest.mark.parametrize("given", [{}, {"tools": [make]}, {"tools": FakeToolServer("other")}])
async def test_without_the_toolbox_nothing_is_changed(settings, given):
    def desk() -> FakeToolServer:
        server = FakeToolServer("desk")
        server.tool(make)
        server.tool(send)
        return server

    run = (await fractale.arun(PLAN, tools=desk(), keep=True, settings=settings)).run
    before = record_of(settings, run)
    with pytest.raises(UsageError, match="the tool `send` of your program, which is not") as error:
        await fractale.aresume(run, answers={"send": True}, settings=settings, **given)
    assert error.value.hint == f"give `tools` again: fractale.resume('{run}', tools=…)"
    assert record_of(settings, run) == before
    done = await fractale.aresume(run, tools=desk(), answers={"send": True}, settings=settings)
    assert done.outputs == {"size": 4}


async def test_every_missing_tool_that_is_still_needed_is_named(settings):
    plan = PLAN.replace("steps:\n", "steps:\n  - {name: buy, tool: order, inputs: {what: tea}}\n")
    known: dict[str, Any] = {"settings": settings, "limits": fractale.Limits(steps=1)}
    left = await fractale.arun(plan, tools=[make, send, order], keep=True, **known)
    assert left.status == "limit"
    more: dict[str, Any] = {"settings": settings, "limits": fractale.Limits(steps=9), "yes": True}
    with pytest.raises(UsageError, match=r"the tool `make` and the tool `send` .* are not here"):
        await fractale.aresume(left.run, **more)
    assert (await fractale.aresume(left.run, tools=[make, send], **more)).status == "success"


async def test_a_tool_that_a_model_chose_is_needed_by_its_question(settings):
    calls = Reply(tool_calls=[("send", {"text": "tea"})])
    known: dict[str, Any] = {"settings": settings, "model": ScriptedModel([calls, "Sent."])}
    run = (await fractale.arun(CHOSEN, tools=[send], keep=True, **known)).run
    with pytest.raises(UsageError, match="the tool `send` of your program"):
        await fractale.aresume(run, answers={"s": True}, **known)
    done = await fractale.aresume(run, tools=[send], answers={"s": True}, **known)
    assert done.status == "success", done.error


async def test_without_an_agent_nothing_is_changed(settings):
    known: dict[str, Any] = {"settings": settings, "answers": {"buy": True}}
    first = await fractale.arun(CLERK, agents=[clerk()], keep=True, settings=settings)
    assert first.status == "waiting", first.error
    before = record_of(settings, first.run)
    with pytest.raises(UsageError, match="the sub-agent `clerk` of your program") as error:
        await fractale.aresume(first.run, **known)
    assert error.value.hint == f"give `agents` again: fractale.resume('{first.run}', agents=…)"
    assert record_of(settings, first.run) == before
    done = await fractale.aresume(first.run, agents=[clerk()], **known)
    assert done.status == "success", done.error


async def test_an_agent_is_missed_beside_a_server_that_is_down_and_never_had_it(settings):
    with ToolServer(FakeToolServer("site").answer("look", "ok")) as server:
        settings = replace(settings, servers={"site": server.settings()})
        other = await fractale.arun(PLAN, tools=[make, send], settings=settings)
        assert other.status == "waiting"  # from now on, the tools of the server are known
        first = await fractale.arun(CLERK, agents=[clerk()], keep=True, settings=settings)
        assert first.status == "waiting", first.error
    with pytest.raises(UsageError, match="`clerk`"):
        await fractale.aresume(first.run, answers={"buy": True}, settings=settings)


async def test_a_server_that_is_down_is_the_affair_of_the_step(settings):
    plan = PLAN.replace("tool: send", "tool: site.send")
    with ToolServer(FakeToolServer("site").answer("send", {"size": 1})) as server:
        known = replace(settings, servers={"site": server.settings()})
        first = await fractale.arun(plan, tools=[make], keep=True, settings=known)
        assert first.status == "waiting", first.error
    done = await fractale.aresume(first.run, answers={"send": True}, settings=known)
    assert done.status == "failed"
    assert "site" in str(done.error)


def test_the_command_line_refuses_too_and_continues_runs_of_registries(tmp_path, monkeypatch):
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "sendings.py").write_text(
        "def send(text: str) -> dict:\n    \"Send.\"\n    return {'size': len(text)}\n\n\n"
        "def sent() -> str:\n    \"Sent.\"\n    return ''\n"
    )
    (tmp_path / "tools.yaml").write_text("tools: [sendings.send]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / ".fractale"))
    run = fractale.run("plan.yaml", tools=[make, send], keep=True).run
    refused = resume(tmp_path, run)
    assert refused.returncode == 2, refused.stderr
    assert "the tool `send` of your program, which is not here" in refused.stderr
    assert f"give `tools` again: fractale.resume('{run}', tools=…)" in refused.stderr
    run = fractale.run("plan.yaml", tools=[make], registries=["tools.yaml"], keep=True).run
    (tmp_path / "tools.yaml").write_text("tools: [sendings.sent]\n")
    assert "of your program or registries" in resume(tmp_path, run).stderr
    (tmp_path / "tools.yaml").write_text("tools: [sendings.send]\n")
    done = resume(tmp_path, run)
    assert done.returncode == 0, done.stderr


def resume(folder: Path, run: str) -> subprocess.CompletedProcess[str]:
    words = ["resume", run, "--answer", "send=yes", "--json"]
    return subprocess.run(
        [sys.executable, "-m", "fractale.cli", *words],
        cwd=folder,
        env={**os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
