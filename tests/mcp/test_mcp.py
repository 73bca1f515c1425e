"""MCP sessions against real servers: over stdio, streamable HTTP and SSE, and in the process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fastmcp import Context, FastMCP

from fractale.errors import ToolError, TransportError, UsageError
from fractale.mcp import EmbeddedServer, McpToolbox, Timing
from fractale.settings import ServerSettings
from servers.running import HttpServer, children_of, exists, stdio
from servers.tools_server import server as low_level_server

QUICK = Timing(connect=2, handshake=15, first_delay=0.05, max_delay=0.5, attempts=10)


@pytest.fixture(scope="module")
def shared():
    """A server for each kind of HTTP that all tests of this file may use, but not end."""
    with HttpServer("tools_server.py") as http, HttpServer("tools_server.py", "sse") as sse:
        yield {"http": http.settings(), "sse": sse.settings()}


@pytest.fixture(params=["stdio", "http", "sse", "memory"])
def server(request, shared):
    """The same server over each transport."""
    here = {"stdio": stdio(), "memory": EmbeddedServer(name="tools", server=low_level_server)}
    return {**shared, **here}[request.param]


@pytest.fixture
def http():
    with HttpServer("tools_server.py") as running:
        yield running


async def listed(box: McpToolbox, name: str) -> None:
    for _ in range(1_000):
        if name in {tool.name for tool in await box.tools()}:
            return
        await asyncio.sleep(0.01)


async def until(true) -> None:
    async with asyncio.timeout(15):
        while not true():  # noqa: ASYNC110  # what is waited for happens in another process
            await asyncio.sleep(0.01)


async def wait_for(path: Path) -> None:
    await until(path.exists)


# -- every transport ------------------------------------------------------------------------------


async def test_what_a_server_has_and_answers_arrives_whole_over_every_transport(server):
    logs, steps = [], []
    async with McpToolbox([server], on_log=lambda *log: logs.append(log)) as box:
        tools = {tool.name: tool for tool in await box.tools()}
        assert len(tools) >= 12, "both pages of the list"
        assert tools["echo"].annotations["readOnlyHint"] is True
        assert tools["slow"].is_agent
        assert tools["echo"].qualified_name == "tools.echo"

        plain = await box.call_tool("echo", {"value": {"deep": [1, None, "ü"]}})
        assert plain.structured == {"result": {"deep": [1, None, "ü"]}}
        assert not plain.is_error

        failed = await box.call_tool("tools.broken_part", {})
        assert (failed.is_error, failed.structured) == (True, {"returncode": 3})
        assert failed.text == "no such node"

        parts = await box.call_tool("many_parts", {})
        assert parts.text == "one\ntwo"
        assert [part["type"] for part in parts.content] == ["text", "image", "text"]

        await box.call_tool("progress", {}, on_progress=lambda *step: steps.append(step))
        assert steps == [(1, 2, "1 of 2"), (2, 2, "2 of 2")]

        await box.call_tool("log", {})
        assert ("tools", "warning", "disk is nearly full") in logs


async def test_prompts_keep_their_messages_and_take_any_json_as_text(server):
    async with McpToolbox([server]) as box:
        build = {prompt.name: prompt for prompt in await box.prompts()}["build"]
        assert [(a["name"], a["required"]) for a in build.arguments] == [
            ("application", True),
            ("nodes", False),
        ]
        messages = await box.get_prompt("build", {"application": "amg", "nodes": {"count": 2}})
        assert [m.role for m in messages] == ["user", "assistant", "user"]
        assert messages[0].text == "Build amg."
        assert json.loads(messages[2].text) == {"count": 2}
        assert [m.text for m in await box.get_prompt("tools.wrapped", {})] == ["inside"]
        with pytest.raises(ToolError, match="needs `application`"):
            await box.get_prompt("build", {"nodes": 1})
        with pytest.raises(ToolError, match="did you mean `build`"):
            await box.get_prompt("biuld", {})


async def test_resources_templates_and_their_contents(server):
    async with McpToolbox([server]) as box:
        found = [(info.uri, info.is_template) for info in await box.resources()]
        assert found == [
            ("note://picture", False),
            ("note://readme", False),
            ("job://{id}/log", True),
        ]
        assert (await box.read_resource("note://readme")).text == "text of note://readme"
        assert (await box.read_resource("tools.note://readme")).text == "text of note://readme"
        assert (await box.read_resource("job://7/log")).text == "text of job://7/log"
        assert (await box.read_resource("note://picture")).content[0]["resource"][
            "blob"
        ] == "iVBORw=="
        with pytest.raises(ToolError, match="no server has a resource `job://7/8/log`"):
            await box.read_resource("job://7/8/log")


async def test_a_hundred_calls_run_at_the_same_time_on_one_session(server, tmp_path):
    async with McpToolbox([server]) as box:
        await box.tools()
        loop = asyncio.get_running_loop()
        started = loop.time()
        answers = await asyncio.gather(
            *(box.call_tool("slow", {"seconds": 0.5}) for _ in range(100))
        )
        together = loop.time() - started
        assert all(answer.text == "slept" for answer in answers)
        assert together < 100 * 0.5 / 2, "one after another they would take 50 s"


async def test_cancelling_a_call_reaches_the_server_and_leaves_the_session(server, tmp_path):
    async with McpToolbox([server], timing=QUICK) as box:
        beside = asyncio.create_task(box.call_tool("slow", {"seconds": 1}))
        call = asyncio.create_task(box.call_tool("slow", {"seconds": 60, "folder": str(tmp_path)}))
        await wait_for(tmp_path / "started")
        before = (await box.call_tool("pid", {})).text
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await wait_for(tmp_path / "cancelled")
        assert (await beside).text == "slept"
        assert (await box.call_tool("pid", {})).text == before


async def test_tools_added_later_are_found(server):
    async with McpToolbox([server]) as box:
        with pytest.raises(ToolError, match="no server has a tool `extra`"):
            await box.find_tool("extra")
        await box.call_tool("add_tool", {"name": "extra"})
        await listed(box, "extra")
        assert (await box.call_tool("extra", {"value": 1})).structured == {"result": 1}


# -- names ----------------------------------------------------------------------------------------


async def test_a_name_that_two_servers_have_must_be_qualified():
    async with McpToolbox([stdio("one"), stdio("two.b")]) as box:
        names = {tool.name for tool in await box.tools()}
        assert {"one.echo", "two.b.echo"} <= names
        assert "echo" not in names
        with pytest.raises(ToolError, match="a tool of 2 servers") as caught:
            await box.call_tool("echo", {})
        assert "`one.echo` or `two.b.echo`" in caught.value.hint
        pids = {(await box.call_tool(f"{server}.pid", {})).text for server in ("one", "two.b")}
        assert len(pids) == 2
        assert (await box.find_tool("two.b.echo")).server == "two.b"
        with pytest.raises(ToolError, match=r"`ecko`; did you mean `one.echo` or `two.b.echo`"):
            await box.find_tool("ecko")
        with pytest.raises(ToolError, match=r"prompt of 2 servers"):
            await box.get_prompt("build", {"application": "x"})
        with pytest.raises(ToolError, match=r"resource of several"):
            await box.read_resource("note://readme")


async def test_two_servers_of_one_name_are_refused():
    with pytest.raises(UsageError, match="two servers are named `one`"):
        McpToolbox([stdio("one"), stdio("one")])


# -- servers that are not there, and that are lost ------------------------------------------------


async def test_a_server_that_is_not_there_takes_nothing_from_the_others(http):
    gone = ServerSettings(name="gone", transport="http", url="http://127.0.0.1:9/mcp")
    missing = ServerSettings(
        name="missing", transport="stdio", command="no-such-command", origin="a.yaml"
    )
    async with McpToolbox([gone, missing, http.settings()], timing=QUICK) as box:
        assert (await box.call_tool("echo", {"value": 1})).structured == {"result": 1}
        status = {each.name: each for each in await box.servers()}
        assert [status[name].connected for name in ("gone", "missing", "tools")] == [
            False,
            False,
            True,
        ]
        assert "127.0.0.1:9" in status["gone"].error
        with pytest.raises(TransportError, match="`missing` cannot be started") as caught:
            await box.call_tool("missing.anything", {})
        assert caught.value.sent is False
        assert "a.yaml" in caught.value.hint
        with pytest.raises(TransportError, match="on no server that is connected; server `gone`"):
            await box.call_tool("only_there", {})


async def test_a_server_that_comes_later_is_found_at_the_next_need():
    late = HttpServer("tools_server.py")
    async with McpToolbox([late.settings()], timing=QUICK) as box:
        assert not (await box.servers())[0].connected
        assert await box.tools() == []
        with late:
            assert (await box.call_tool("echo", {"value": 1})).structured == {"result": 1}
            assert (await box.servers())[0].connected


async def test_a_stdio_server_killed_between_calls_is_started_again():
    async with McpToolbox([stdio()], timing=QUICK) as box:
        first = (await box.call_tool("pid", {})).structured["pid"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: not exists(first))
        await asyncio.sleep(0.01)
        second = (await box.call_tool("pid", {})).structured["pid"]
        assert first != second


async def test_a_stdio_server_killed_during_calls_fails_each_once_as_sent(tmp_path):
    async with McpToolbox([stdio()], timing=QUICK) as box:
        pid = (await box.call_tool("pid", {})).structured["pid"]
        calls = [
            asyncio.create_task(box.call_tool("slow", {"seconds": 60, "folder": str(tmp_path)}))
            for _ in range(3)
        ]
        await wait_for(tmp_path / "started")
        (tmp_path / "started").unlink()
        os.kill(pid, signal.SIGKILL)
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, TransportError)
            assert error.sent is True
            assert "was ended by SIGKILL" in error.message
        assert (await box.call_tool("echo", {"value": 1})).structured == {"result": 1}
        assert not (tmp_path / "started").exists(), "no call was sent again"


async def test_a_server_that_ends_says_its_last_words():
    async with McpToolbox([stdio()], timing=QUICK) as box:
        with pytest.raises(TransportError, match="its last words: no license") as caught:
            await box.call_tool("crash", {"words": "no license"})
        assert caught.value.sent is True


async def test_an_http_server_restarted_between_calls_is_met_again(http):
    async with McpToolbox([http.settings()], timing=QUICK) as box:
        first = (await box.call_tool("pid", {})).text
        http.kill()
        http.start()
        assert (await box.call_tool("pid", {})).text != first


async def test_an_http_server_that_comes_back_while_it_is_needed_is_waited_for(http):
    async with McpToolbox([http.settings()], timing=QUICK) as box:
        await box.tools()
        http.kill()
        call = asyncio.create_task(box.call_tool("echo", {"value": 1}))
        await asyncio.to_thread(http.start)
        assert (await call).structured == {"result": 1}


async def test_an_http_server_killed_during_calls_fails_each_once_as_sent(http, tmp_path):
    async with McpToolbox([http.settings()], timing=QUICK) as box:
        call = asyncio.create_task(box.call_tool("slow", {"seconds": 60, "folder": str(tmp_path)}))
        await wait_for(tmp_path / "started")
        (tmp_path / "started").unlink()
        http.kill()
        with pytest.raises(TransportError, match="was lost before it answered") as caught:
            async with asyncio.timeout(15):
                await call
        assert caught.value.sent is True
        http.start()
        assert (await box.call_tool("echo", {"value": 1})).structured == {"result": 1}
        assert not (tmp_path / "started").exists(), "the call was not sent again"


async def test_an_http_server_that_stays_away_gives_an_unsent_error(http):
    timing = Timing(connect=1, handshake=5, first_delay=0.01, attempts=3)
    async with McpToolbox([http.settings()], timing=timing) as box:
        await box.tools()
        http.kill()
        with pytest.raises(TransportError, match="cannot be reached at http://127") as caught:
            await box.call_tool("echo", {})
        assert caught.value.sent is False
        assert "is it running?" in caught.value.hint
        assert (await box.find_tool("echo")).server == "tools", "its tools are still known"


async def test_an_sse_server_killed_during_a_call_fails_it_as_sent(tmp_path):
    with HttpServer("tools_server.py", "sse") as running:
        async with McpToolbox([running.settings()], timing=QUICK) as box:
            call = asyncio.create_task(
                box.call_tool("slow", {"seconds": 60, "folder": str(tmp_path)})
            )
            await wait_for(tmp_path / "started")
            running.kill()
            with pytest.raises(TransportError) as caught:
                async with asyncio.timeout(15):
                    await call
            assert caught.value.sent is True
            running.start()
            assert (await box.call_tool("echo", {"value": 1})).structured == {"result": 1}


async def test_a_wrong_or_missing_token_is_said_so_and_not_tried_again():
    with HttpServer("tools_server.py", "http", "right-token") as running:
        right = running.settings("right", token="right-token")
        wrong = running.settings("wrong", token="wrong-token", origin="config.yaml")
        none = running.settings("none")
        async with McpToolbox([right, wrong, none], timing=QUICK) as box:
            assert (await box.call_tool("right.echo", {"value": 1})).structured == {"result": 1}
            with pytest.raises(
                ToolError, match=r"`wrong` refused the token \(HTTP 401\)"
            ) as caught:
                await box.call_tool("wrong.echo", {})
            assert not caught.value.retryable
            assert "config.yaml" in caught.value.hint
            assert "wrong-token" not in str(caught.value)
            with pytest.raises(ToolError, match="`none` wants a token"):
                await box.call_tool("none.echo", {})


async def test_proxies_of_the_environment_are_not_for_servers_on_this_machine(shared, monkeypatch):
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    async with McpToolbox([shared["http"]], timing=QUICK) as box:
        assert (await box.call_tool("echo", {"value": 1})).structured == {"result": 1}


async def test_a_wrong_path_and_unreadable_certificates_are_said_so(shared):
    url = shared["http"].url
    path = ServerSettings(name="path", transport="http", url=url.replace("/mcp", "/other"))
    certificates = ServerSettings(
        name="tls", transport="http", url="https://127.0.0.1:9/mcp", ca_file="/nowhere/ca.pem"
    )
    plain = ServerSettings(name="plain", transport="http", url=url.replace("http:", "https:"))
    async with McpToolbox([path, certificates, plain], timing=QUICK) as box:
        errors = [status.error for status in await box.servers()]
    assert "has nothing at http://127.0.0.1" in errors[0]
    assert "cannot read certificates from /nowhere/ca.pem" in errors[1]
    assert "cannot be reached at https://127.0.0.1" in errors[2]


async def test_the_time_limit_of_a_server_ends_the_call_only(tmp_path):
    async with McpToolbox([stdio(timeout=0.3)], timing=QUICK) as box:
        before = (await box.call_tool("pid", {})).text
        with pytest.raises(TransportError, match=r"did not answer within 0.3 s") as caught:
            await box.call_tool("slow", {"seconds": 60, "folder": str(tmp_path)})
        assert caught.value.sent is True
        assert "`timeout`" in caught.value.hint
        await wait_for(tmp_path / "cancelled")
        assert (await box.call_tool("pid", {})).text == before


# -- what a started server gets and leaves --------------------------------------------------------


async def test_a_started_server_gets_no_secret_that_was_not_given(monkeypatch):
    monkeypatch.setenv("SITE_API_KEY", "sk-canary")
    async with McpToolbox([stdio(env={"GIVEN": "yes"})]) as box:
        seen = (await box.call_tool("environment", {})).structured["environment"]
        assert seen["GIVEN"] == "yes"
        assert "SITE_API_KEY" not in seen


async def test_stray_prints_of_a_server_are_logged_not_fatal():
    logs = []
    async with McpToolbox([stdio()], on_log=lambda *log: logs.append(log)) as box:
        assert (await box.call_tool("noise", {})).text == "quiet again"
    assert any("this line is no message" in message for _, _, message in logs)


async def test_closing_ends_every_started_server():
    async with McpToolbox([stdio("one"), stdio("two")]) as box:
        pids = [(await box.call_tool(f"{n}.pid", {})).structured["pid"] for n in ("one", "two")]
        assert all(exists(pid) for pid in pids)
    assert not any(exists(pid) for pid in pids)


async def test_a_server_that_ignores_every_request_to_end_is_ended_with_its_children(tmp_path):
    script = "\n".join([
        "import os, signal, subprocess, sys, time",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])",
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')",
        f"open({str(tmp_path / 'ready')!r}, 'w').close()",
        "time.sleep(600)",
    ])  # fmt: skip
    deaf = ServerSettings(
        name="deaf", transport="stdio", command=sys.executable, args=("-c", script)
    )
    async with McpToolbox([deaf], timing=Timing(close=0.1, terminate=0.2)):
        await wait_for(tmp_path / "ready")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert not any(exists(pid) for pid in pids)


async def test_cancelling_the_task_that_holds_the_toolbox_leaves_no_process():
    pids: list[int] = []

    async def work() -> None:
        async with McpToolbox([stdio()]) as box:
            pids.append((await box.call_tool("pid", {})).structured["pid"])
            await asyncio.sleep(600)

    task = asyncio.create_task(work())
    await until(lambda: pids)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not exists(pids[0])


async def test_ctrl_c_in_the_whole_program_leaves_no_process(tmp_path):
    code = "\n".join([
        "import asyncio, sys",
        f"sys.path.insert(0, {str(Path(__file__).parents[1] / 'support')!r})",
        "from servers.running import stdio",
        "from fractale.mcp import McpToolbox",
        "async def main():",
        "    async with McpToolbox([stdio()]) as box:",
        f"        await box.call_tool('slow', {{'seconds': 600, 'folder': {str(tmp_path)!r}}})",
        "asyncio.run(main())",
    ])  # fmt: skip
    program = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", code], stderr=subprocess.PIPE
    )
    await wait_for(tmp_path / "started")
    children = list(children_of(program.pid))
    assert children
    program.send_signal(signal.SIGINT)
    _, complaints = await asyncio.to_thread(program.communicate, timeout=20)
    assert b"KeyboardInterrupt" in complaints
    assert not any(exists(child) for child in children)


# -- questions, and other kinds of embedded servers -----------------------------------------------


async def test_fastmcp_servers_and_factories_are_embedded_with_slow_tools_beside():
    def make() -> FastMCP:
        server = FastMCP("embedded")

        @server.tool
        def add(a: int, b: int) -> int:
            return a + b

        @server.tool
        def rest(seconds: float) -> str:
            time.sleep(seconds)
            return "rested"

        @server.tool
        def bad() -> str:
            raise ValueError("no partition `gpu`")

        @server.tool
        async def which(context: Context) -> str:
            return str(await context.elicit("Which partition?", response_type=str))

        return server

    asked = []

    async def answer(question):
        asked.append((question.server, question.message))
        return {"action": "accept", "content": {"value": "debug"}}

    async with McpToolbox([EmbeddedServer(server=make)]) as box:
        resting = asyncio.create_task(box.call_tool("rest", {"seconds": 0.3}))
        assert (await box.call_tool("local.add", {"a": 1, "b": 2})).structured == {"result": 3}
        assert not resting.done()
        assert (await resting).text == "rested"
        failed = await box.call_tool("bad", {})
        assert failed.is_error
        assert "no partition `gpu`" in failed.text
        assert "debug" in (await box.call_tool("which", {}, on_elicit=answer)).text
    assert asked == [("local", "Which partition?")]


async def test_without_someone_to_answer_a_server_is_told_so():
    server = FastMCP("embedded")

    @server.tool
    async def which(context: Context) -> str:
        return str(await context.elicit("Which partition?", response_type=str))

    async with McpToolbox([EmbeddedServer(server=server)]) as box:
        assert (await box.call_tool("which", {})).text == "action='decline'"


def test_embedding_a_low_level_server_does_not_load_fastmcp():
    code = "\n".join([
        "import sys",
        "from fractale.mcp import McpToolbox",
        "import fractale.mcp.embedded, fractale.mcp.stdio, fractale.mcp.http",
        "assert 'fastmcp' not in sys.modules and 'langchain_core' not in sys.modules",
    ])  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)
