"""Servers that start and never answer, refuse, or forget: what waits for them, and what is told."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
from mcp.shared.memory import create_connected_server_and_client_session

import fractale
from fractale.errors import PlanError, ToolError, TransportError
from fractale.mcp import McpToolbox, Timing
from fractale.pins import Pins
from fractale.registry import build_server
from fractale.settings import ServerSettings
from fractale.testing import FakeToolServer, ScriptedModel, ToolServer

QUICK = Timing(grace=0.3, handshake=1.5, first_delay=0.02, close=0.1)
LONG = 60.0
"""Seconds of a handshake that no test waits for: one that does takes too long for pytest."""


def silent(name: str = "hang", **more) -> ServerSettings:
    code = "import time; time.sleep(600)"
    return ServerSettings(
        name=name, transport="stdio", command=sys.executable, args=("-c", code), **more
    )


@pytest.fixture
def site():
    tools = FakeToolServer("site").describe("look", annotations={"readOnlyHint": True})
    tools.answer("look", {"queue": "debug"}).prompt("expert", "Be an expert.")
    tools.resource("note://a", "42 lines")
    with ToolServer(tools) as server:
        yield server


async def soon(awaitable):
    """What takes part of the handshake's time at most."""
    return await asyncio.wait_for(awaitable, LONG / 4)


# -- a server that never answers ------------------------------------------------------------------


PLANS = {
    "a qualified tool": ("tool: site.look", False),
    "a bare tool": ("tool: look", False),
    "an agent with a list": ("type: agent, instruction: Go, tools: [look]", False),
    "an agent with a pattern": ("type: agent, instruction: Go, tools: ['site.*']", False),
    "an agent without tools": ("type: agent, instruction: Go, allow_tools: false", False),
    "a prompt": ("prompt: expert, allow_tools: false", False),
    "an agent with all tools": ("type: agent, instruction: Go", True),
    "an agent with a bare pattern": ("type: agent, instruction: Go, tools: ['l*']", True),
}


def seen_before(server: str = "hang") -> Pins:
    """The pins of somebody who saw a server before: it had no tools."""
    pins = Pins(None, {server, "site"})
    pins.see([], [server])
    return pins


async def test_a_bare_name_is_not_taken_for_the_one_of_a_server_that_happens_to_answer(
    run_plan, site
):
    async with McpToolbox([silent(handshake=1.0), site.settings()], timing=QUICK) as box:
        with pytest.raises(PlanError) as caught:
            await run_plan("name: p\nsteps: [{name: s, tool: look}]\n", tools=box)
        (problem,) = caught.value.problems
        assert problem.code == "unclear-tool"
        assert (problem.position.line, problem.position.column) == (2, 9)
        words = "`look` is on `site`, but `hang` did not answer and may have it; write `site.look`"
        assert words in problem.message


@pytest.mark.parametrize(("step", "waits"), PLANS.values(), ids=PLANS)
async def test_a_run_waits_only_for_servers_that_its_plan_needs(run_plan, site, step, waits):
    logs: list[tuple[str, str, str]] = []
    hang = silent(handshake=1.0 if waits else LONG)
    servers, named = [hang, site.settings()], {"timing": QUICK, "pins": seen_before()}
    async with McpToolbox(servers, **named, on_log=lambda *log: logs.append(log)) as box:
        plan = f"name: p\nsteps: [{{name: s, {step}}}]\n"
        seen = await soon(run_plan(plan, tools=box, model=ScriptedModel(["Done."]), keep=True))
    assert seen.path == ["s:success"]
    told = [message for name, level, message in logs if (name, level) == ("hang", "warning")]
    assert [message for message in told if "waiting for it" in message] == told[:waits]
    if waits:
        assert told[0] == (
            "has not answered after 0.3 s; waiting for it up to 1 s "
            "(`handshake` of server `hang` in the settings)"
        )


async def test_what_a_run_was_offered_has_the_tools_that_its_plan_needs(run_plan, site, tmp_path):
    servers = [silent(handshake=LONG), site.settings()]
    async with McpToolbox(servers, timing=QUICK, pins=seen_before()) as box:
        seen = await soon(
            run_plan("name: p\nsteps: [{name: s, tool: look}]\n", tools=box, keep=True)
        )
    assert seen.path == ["s:success"]
    (offered,) = (tmp_path / ".fractale" / "runs").glob("*/tools.json")
    assert [tool["name"] for tool in json.loads(offered.read_text())["tools"]] == ["look"]


async def test_a_run_waits_for_the_grace_once(run_plan, site):
    servers = [silent(handshake=LONG), site.settings()]
    steps = ", ".join(f"{{name: s{n}, tool: look}}" for n in range(9))
    logs: list[tuple[str, str, str]] = []
    named = {"timing": replace(QUICK, grace=2.0), "pins": seen_before()}
    async with McpToolbox(servers, **named, on_log=lambda *log: logs.append(log)) as box:
        started = asyncio.get_running_loop().time()
        seen = await run_plan(f"name: p\nsteps: [{steps}]\n", tools=box)
        assert asyncio.get_running_loop().time() - started < 4 * 2.0, "not once a step"
    assert seen.status == "success"
    told = [message for name, _, message in logs if name == "hang"]
    assert told == ["has not answered after 2 s; continuing: others have what is needed"]


async def test_a_silent_server_costs_its_handshake_once(site):
    async with McpToolbox([silent(handshake=1.0), site.settings()], timing=QUICK) as box:
        await box.tools()
        started = asyncio.get_running_loop().time()
        for _ in range(3):
            await box.tools()
            await box.prompts()
            with pytest.raises(TransportError, match="`nothing` is on no server that is connected"):
                await box.find_tool("nothing")
            with pytest.raises(TransportError, match="`hang` did not answer within 1 s"):
                await box.find_tool("hang.look")
        assert asyncio.get_running_loop().time() - started < 1.0, "no second handshake"


async def test_a_server_that_is_late_is_waited_for_where_only_it_may_have_the_tool(site):
    late = FakeToolServer("late").answer("rare", 1)
    with ToolServer(late) as other:
        other.hangs = True
        async with McpToolbox([site.settings(), other.settings()], timing=QUICK) as box:
            asyncio.get_running_loop().call_later(0.6, setattr, other, "hangs", False)
            assert (await soon(box.find_tool("rare"))).server == "late"


async def test_a_bare_name_keeps_its_server_when_a_late_one_has_it_too(site):
    late = FakeToolServer("late").answer("look", 1)
    with ToolServer(late) as other:
        other.hangs = True
        async with McpToolbox([site.settings(), other.settings()], timing=QUICK) as box:
            assert (await soon(box.find_tool("look"))).server == "site"
            other.hangs = False
            for _ in range(200):
                if all(s.connected for s in await box.servers(())):
                    break
                await asyncio.sleep(0.02)
            await box.tools()
            assert (await box.find_tool("look")).qualified_name == "site.look"
            assert (await box.call_tool("look", {})).structured == {"queue": "debug"}


async def test_two_servers_with_a_tool_of_one_name_are_told_before_the_run(site, settings):
    other = FakeToolServer("other").answer("look", 1)
    with ToolServer(other) as second:
        async with McpToolbox([site.settings(), second.settings()]) as box:
            plan = "name: p\nsteps: [{name: s, tool: look}]\n"
            with pytest.raises(fractale.errors.PlanError) as caught:
                await fractale.arun(plan, tools=box, settings=settings)
    (problem,) = caught.value.problems
    assert problem.code == "ambiguous-tool"
    assert problem.message == "`look` is a tool of 2 servers: write `other.look` or `site.look`"


# -- a server that refuses ------------------------------------------------------------------------


REFUSALS = {
    "no token": (401, None, 0, "server `site` wants a token (HTTP 401)"),
    "forbidden": (403, "read only", -32000, "server `site` wants a token (HTTP 403): read only"),
    "a reason": (400, "no such tenant", -32000, "(HTTP 400): no such tenant"),
    "another protocol": (
        400,
        "Unsupported protocol version, supported: [2026-07-28]",
        -32022,
        "does not speak a protocol version that fractale speaks (2024-11-05 to 2025-11-25)",
    ),
    "an empty refusal": (400, None, 0, "server `site` refused the request (HTTP 400)"),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("name", ["look", "site.look"])
async def test_a_server_that_refuses_is_told_with_its_reason(run_plan, site, refusal, name):
    status, message, code, words = refusal
    site.refuse(status, message, code)
    async with McpToolbox([site.settings()], timing=QUICK) as box:
        seen = await run_plan(f"name: p\nsteps: [{{name: s, tool: {name}}}]\n", tools=box)
    assert seen.path == ["s:failure"]
    assert words in seen.result.error
    assert message is None or message in seen.result.error


async def test_a_refusal_in_the_middle_of_a_run_keeps_its_reason(site):
    async with McpToolbox([site.settings()], timing=QUICK) as box:
        await box.tools()
        site.refuse(400, "the disk is full", -32000)
        with pytest.raises(ToolError, match=r"\(HTTP 400\): the disk is full"):
            await box.call_tool("look", {})


# -- a server that forgets its sessions -----------------------------------------------------------


@pytest.mark.parametrize("status", [404, 400])
async def test_a_session_that_the_server_forgot_is_opened_again(site, status):
    async with McpToolbox([site.settings()], timing=QUICK) as box:
        assert (await box.call_tool("look", {})).structured == {"queue": "debug"}
        for round_ in (2, 3):
            site.forget_sessions(status)
            assert (await box.call_tool("look", {})).structured == {"queue": "debug"}
            assert site.sessions == round_
    assert len(site.tools.calls) == 3, "no call was made twice"


async def test_a_request_that_a_known_session_is_refused_is_not_sent_again(site):
    # The same code means other things, too: only the words for a session do.
    async with McpToolbox([site.settings()], timing=QUICK) as box:
        await box.tools()
        site.refuse(400, "bad arguments", -32000)
        with pytest.raises(ToolError, match="bad arguments"):
            await box.call_tool("look", {})
        assert site.sessions == 1


# -- a server that ends ---------------------------------------------------------------------------


async def test_the_last_line_of_a_server_that_crashed_comes_first():
    code = "import sys; sys.stderr.write('Traceback\\n' + 'x' * 300 + '\\n'); import no_such_module"
    crashes = ServerSettings(
        name="bad", transport="stdio", command=sys.executable, args=("-c", code)
    )
    async with McpToolbox([crashes], timing=replace(QUICK, handshake=60)) as box:
        (status,) = await box.servers()
    words = status.error.partition("its last words: ")[2]
    assert words.startswith("ModuleNotFoundError: No module named 'no_such_module' | ")


async def test_client_and_server_say_fractales_own_version():
    server = build_server([])

    async with create_connected_server_and_client_session(server) as session:
        answer = await session.initialize()
    assert answer.serverInfo.version == version("fractale")
    asked = FakeToolServer()
    with ToolServer(asked) as running:
        async with McpToolbox([running.settings()], timing=QUICK) as box:
            await box.tools()
        assert running.client == {"name": "fractale", "version": version("fractale")}
