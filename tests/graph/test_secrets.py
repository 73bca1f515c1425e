"""Secrets: 20 canaries in the environment, settings, inputs and tool output; none may show."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from fractale import aresume
from fractale.settings import load_settings
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.model_server import Reply

CANARIES = {f"SITE{i}_{word}": f"canary-{word.lower()}-{i:02d}-7f3a" for i, word in enumerate(
    ["API_KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIALS"] * 4
)}  # fmt: skip


async def test_no_secret_is_in_events_results_or_anything_on_disk(run_plan, tmp_path):
    environment = {"HOME": str(tmp_path), **CANARIES}
    settings = replace(load_settings(environment, tmp_path), state_dir=tmp_path / "state")
    secret = "the-secret-input-5521"
    server = FakeToolServer()
    received = []

    @server.tool
    def leak(password: str, text: str) -> dict:
        received.append(password)
        return {"echo": password, "all": list(CANARIES.values()), "large": " ".join(text * 50)}

    @server.tool
    def crash(password: str) -> dict:
        raise RuntimeError(f"cannot log in with {password} or {CANARIES['SITE1_TOKEN']}")

    model = ScriptedModel([Reply(text=f"The password is {secret}, {CANARIES['SITE0_API_KEY']}")])
    seen = await run_plan(
        """
        name: leaks
        inputs: {password: {secret: true, required: true}}
        steps:
          - {name: a, tool: leak, inputs: {password: "{{ inputs.password }}", text: hello}}
          - {name: b, instruction: "use {{ inputs.password }}", allow_tools: false}
          - {name: c, tool: crash, inputs: {password: "{{ inputs.password }}"}}
        """,
        tools=server,
        model=model,
        secrets={"password": secret},
        settings=settings,
        keep=True,
    )
    assert received == [secret], "the tool itself gets the real value"
    assert [s["outcome"] for s in seen.result.steps] == ["success", "success", "failure"]
    shown = json.dumps([event.as_dict() for event in seen.events]) + repr(seen.result)
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert any(path.name == "checkpoints.sqlite" for path in files)
    kept = b"".join(path.read_bytes() for path in files)
    for canary in (secret, *CANARIES.values()):
        assert canary not in shown
        assert canary.encode() not in kept
    assert "***" in shown


INSIDE = {
    "a plan": "plan: ./inner.yaml\n    inputs: {token: '{{ inputs.password }}'}",
    "a block": "parallel: [{name: c, tool: take, inputs: {text: '{{ inputs.password }}'}}]",
}


@pytest.mark.parametrize("inside", INSIDE)
async def test_a_step_inside_gets_the_secret_that_it_is_given_and_nothing_keeps_it(
    run_plan, tmp_path, inside
):
    secret = "the-secret-input-5521"
    server = FakeToolServer()

    @server.tool
    def take(text: str) -> dict:
        return {"length": len(text)}

    (tmp_path / "inner.yaml").write_text(
        "name: inner\ninputs: {token: {required: true}}\nsteps:\n"
        "  - {name: c, tool: take, inputs: {text: '{{ inputs.token }}'}}\n"
        "  - {name: d, tool: take, inputs: {text: '{{ inputs.password | default(0) }}'}}\n"
    )
    plan = tmp_path / "outer.yaml"
    plan.write_text(
        "name: outer\ninputs: {password: {secret: true, required: true}}\n"
        f"steps:\n  - name: b\n    {INSIDE[inside]}\n"
    )
    seen = await run_plan(plan, tools=server, secrets={"password": secret}, keep=True)
    assert server.calls[0] == ("take", {"text": secret}), seen.result.error
    assert [arguments for _, arguments in server.calls[1:]] in ([], [{"text": 0}])
    kept = [path.read_bytes() for path in files_in(tmp_path / ".fractale")]
    assert not [data for data in kept if secret.encode() in data]


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_what_an_agent_with_tools_is_told_is_not_in_its_checkpoints(run_plan, settings):
    """Neither a secret of the plan, nor one that a tool gives away."""
    from dataclasses import replace

    from fractale.testing import FakeToolServer, ScriptedModel
    from fractale.testing.model_server import Reply

    tools = FakeToolServer()

    @tools.tool(annotations={"readOnlyHint": True})
    def look() -> dict:
        """Look around."""
        return {"env": "TOKEN=canary-of-a-tool"}

    model = ScriptedModel([Reply(tool_calls=[("look", {})]), "done"])
    seen = await run_plan(
        "name: p\ninputs: {key: {type: string, secret: true}}\n"
        "steps: [{name: s, type: agent, instruction: 'Use {{ inputs.key }}'}]\n",
        tools=tools,
        model=model,
        keep=True,
        secrets={"key": "canary-of-the-plan"},
        settings=replace(settings, secrets=("canary-of-a-tool",)),
    )
    assert seen.status == "success"
    kept = b"".join(p.read_bytes() for p in settings.state_dir.rglob("*") if p.is_file())
    assert b"canary" not in kept
    assert not any("canary" in str(message) for asked in model.requests for message in asked)


SECRET = "the-secret-input-5521"


@pytest.mark.parametrize(
    ("steps", "shown"),
    [
        ('- {name: a, wait: "{{ inputs.key }}"}', "`wait` must be a duration such as `10m`"),
        (
            '- {name: a, ask: "Use {{ inputs.key }}?", default: "no", default_after: 0.2s}\n'
            "- {name: b, wait: 0.1s}",
            "the default `no` was taken",
        ),
    ],
)
async def test_a_time_does_not_keep_a_secret(run_plan, tmp_path, steps, shown):
    settings = replace(load_settings({"HOME": str(tmp_path)}, tmp_path), state_dir=tmp_path / "s")
    plan = f"name: times\ninputs: {{key: {{secret: true}}}}\nsteps:\n{steps}\n"
    options = {"secrets": {"key": SECRET}, "settings": settings, "keep": True}
    seen = await run_plan(plan, **options)
    if seen.result.status == "waiting":
        await asyncio.sleep(0.3)
        result = await aresume(seen.result.run, secrets={"key": SECRET}, settings=settings)
    else:
        result = seen.result
    assert shown in repr(result)
    assert SECRET not in repr(result)
    assert SECRET.encode() not in b"".join(p.read_bytes() for p in files_in(tmp_path / "s"))


async def test_an_answer_that_quotes_a_secret_is_not_kept(run_plan, tmp_path):
    settings = replace(load_settings({"HOME": str(tmp_path)}, tmp_path), state_dir=tmp_path / "s")
    seen = await run_plan(
        """
        name: quoted
        inputs: {key: {secret: true}}
        steps:
          - {name: a, ask: "Stop?", choices: ["no", {stop: "Why?"}]}
          - {name: b, set: {why: "{{ steps.a.outputs.text }}"}}
        outputs: {why: "{{ values.why }}"}
        """,
        secrets={"key": SECRET},
        settings=settings,
        answers={"a": {"answer": "stop", "text": f"{SECRET} is old"}},
        keep=True,
    )
    assert seen.result.outputs == {"why": "*** is old"}
    assert SECRET.encode() not in b"".join(p.read_bytes() for p in files_in(tmp_path / "s"))
