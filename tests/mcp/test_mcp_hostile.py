"""Hostile servers: each mischief is contained, has the right error, and ends nothing else."""

from __future__ import annotations

import asyncio
import sys
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fractale.errors import ToolError, TransportError
from fractale.mcp import EmbeddedServer, McpToolbox, Timing
from fractale.settings import ServerSettings
from servers.hostile_server import MARKS
from servers.running import HttpServer, free_port, stdio
from servers.tools_server import server as low_level_server

QUICK = Timing(connect=2, handshake=10, first_delay=0.05, max_delay=0.5, attempts=10, close=0.2)
METADATA = "http://169.254.169.254/latest/meta-data/iam"


@pytest.fixture(params=["stdio", "http"])
async def boxes(request):
    """A toolbox with the hostile server and a good one, and the hostile server's carrier."""
    good = EmbeddedServer(name="tools", server=low_level_server)
    if request.param == "stdio":
        async with McpToolbox([stdio("evil", "hostile_server.py"), good], timing=QUICK) as box:
            yield box, None
    else:
        with HttpServer("hostile_server.py", "http", METADATA) as evil:
            async with McpToolbox([evil.settings("evil"), good], timing=QUICK) as box:
                yield box, evil


async def still_usable(box: McpToolbox, tool: str = "evil.marks") -> None:
    """Both the hostile server and the one beside it can be called."""
    assert (await box.call_tool(tool, {})).text
    assert (await box.call_tool("tools.echo", {"value": 1})).structured == {"result": 1}


@pytest.mark.parametrize(
    ("mischief", "word"), [("change_description", "description"), ("change_schema", "schema")]
)
async def test_a_tool_that_changes_during_the_run_is_not_called_any_more(boxes, mischief, word):
    box, _ = boxes
    first = await box.find_tool("nice")
    await box.call_tool("nice", {})
    await box.call_tool(mischief, {})
    with pytest.raises(ToolError, match=f"`nice` of server `evil` changed its {word}") as caught:
        await box.call_tool("nice", {})
    assert not caught.value.retryable
    assert (await box.find_tool("nice")).definition != first.definition, "a run asks about it"
    await still_usable(box)


async def test_a_change_that_comes_with_a_restart_is_found_too(tmp_path):
    source = "\n".join([
        "import sys; sys.path.insert(0, {folder!r})",
        "import hostile_server as h, pathlib",
        "flag = pathlib.Path({flag!r})",
        "if flag.exists(): h.call('change_schema')",
        "flag.touch(); h.over_stdio()",
    ])  # fmt: skip
    folder = stdio().args[0].rpartition("/")[0]
    code = source.format(folder=folder, flag=str(tmp_path / "flag"))
    evil = stdio("evil")
    evil = ServerSettings(name="evil", transport="stdio", command=evil.command, args=("-c", code))
    async with McpToolbox([evil], timing=QUICK) as box:
        await box.call_tool("nice", {})
        with pytest.raises(TransportError):
            await box.call_tool("crash", {})
        with pytest.raises(ToolError, match="changed its schema during the run"):
            await box.call_tool("nice", {})


async def test_no_server_can_take_the_name_of_anothers_tool(boxes):
    box, _ = boxes
    assert (await box.find_tool("echo")).server == "tools"
    await box.call_tool("shadow", {})
    await box.call_tool("nice", {})
    with pytest.raises(ToolError, match="`echo` is a tool of 2 servers") as caught:
        await box.call_tool("echo", {"value": "secret"})
    assert "`tools.echo`" in caught.value.hint
    assert (await box.find_tool("tools.pid")).server == "tools"
    assert (await box.find_tool("evil.tools.pid")).server == "evil"
    assert (await box.call_tool("tools.pid", {})).structured["pid"] > 0
    await still_usable(box)


async def test_a_result_over_the_limit_is_refused_and_the_session_goes_on(boxes):
    box, _ = boxes
    with pytest.raises(ToolError, match="over the limit of 8 MiB") as caught:
        await box.call_tool("big", {})
    assert not isinstance(caught.value, TransportError)
    assert "file" in caught.value.hint
    await still_usable(box)


async def test_an_answer_without_end_does_not_fill_the_memory(boxes):
    box, _ = boxes
    await box.tools()
    tracemalloc.start()
    with pytest.raises(ToolError):
        await box.call_tool("endless", {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 25_000_000, "40 MB and more were sent"
    await still_usable(box)


async def test_a_call_that_hangs_can_be_given_up_and_blocks_nothing(boxes):
    box, _ = boxes
    hanging = asyncio.create_task(box.call_tool("hang", {}))
    await still_usable(box)
    assert not hanging.done()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await hanging
    await still_usable(box)


async def test_a_server_that_hangs_is_bounded_by_its_own_timeout():
    evil = stdio("evil", "hostile_server.py", timeout=0.5)
    async with McpToolbox([evil], timing=QUICK) as box:
        with pytest.raises(TransportError, match=r"did not answer within 0.5 s") as caught:
            await box.call_tool("hang", {})
        assert caught.value.sent
        assert (await box.call_tool("nice", {})).text == "nice"


async def test_a_crash_during_a_call_is_a_loss_and_never_sent_again(boxes):
    box, evil = boxes
    with pytest.raises(TransportError) as caught:
        await box.call_tool("evil.crash", {})
    assert caught.value.sent is True
    if evil is not None:
        await asyncio.to_thread(evil.start)
    await usable_again(box)


async def usable_again(box) -> None:
    """Usable, if not by the first call: one can still be lost with the connection that broke."""
    for _ in range(20):
        try:
            return await still_usable(box)
        except TransportError:
            await asyncio.sleep(0.25)
    return await still_usable(box)


async def test_control_characters_and_markup_are_data(boxes):
    box, _ = boxes
    result = await box.call_tool("marks", {})
    assert result.text == MARKS
    assert result.content[0]["text"] == MARKS


@pytest.mark.parametrize("mischief", ["broken", "nonsense"])
async def test_a_broken_message_fails_its_call_only(boxes, mischief):
    box, _ = boxes
    hanging = asyncio.create_task(box.call_tool("hang", {}))
    await box.call_tool("nice", {})
    with pytest.raises(TransportError, match=r"is broken|not MCP") as caught:
        await box.call_tool(mischief, {})
    assert caught.value.sent is True
    assert not hanging.done()
    hanging.cancel()
    await asyncio.wait({hanging})
    await still_usable(box)


@pytest.fixture(scope="module")
def raw():
    """The hostile server over HTTP, for mischief that only HTTP knows."""
    with HttpServer("hostile_server.py", "http", METADATA) as running:
        yield running.settings("evil")


@pytest.mark.parametrize(
    ("tool", "kind", "sent", "words"),
    [
        ("status_303", ToolError, None, "redirects to http://127"),
        ("status_403", ToolError, None, "wants a token"),
        ("status_418", ToolError, None, "refused the request"),
        ("status_404", TransportError, False, "has nothing at"),
        ("status_429", TransportError, False, "HTTP 429"),
        ("status_500", TransportError, True, "HTTP 500"),
        ("page", TransportError, True, "which is not MCP"),
        ("resume_never", TransportError, True, "was lost before it answered"),
    ],
)
async def test_each_wrong_http_answer_fails_its_call_only(raw, tool, kind, sent, words):
    async with McpToolbox([raw], timing=QUICK) as box:
        with pytest.raises(ToolError, match=words) as caught:
            await box.call_tool(tool, {})
        assert type(caught.value) is kind
        assert getattr(caught.value, "sent", None) is sent
        assert (await box.call_tool("nice", {})).text == "nice"


async def test_an_answer_that_the_server_asks_to_be_fetched_later_arrives(raw):
    async with McpToolbox([raw], timing=QUICK) as box:
        assert (await box.call_tool("resume", {})).text == "resume"


class Canary(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.visits.append(self.path)
        self.send_response(204)
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def canary():
    """A server that no request may reach."""
    server = HTTPServer(("127.0.0.1", free_port()), Canary)
    server.visits = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_redirect_to_a_metadata_address_is_refused():
    with HttpServer("hostile_server.py", "http", METADATA) as evil:
        async with McpToolbox([evil.settings("evil")], timing=QUICK) as box:
            with pytest.raises(
                ToolError, match=r"redirects to http://169\.254\.169\.254"
            ) as caught:
                await box.call_tool("redirect", {})
            assert "was not followed" in caught.value.message
            assert not caught.value.retryable
            assert (await box.call_tool("nice", {})).text == "nice"


async def test_no_request_follows_a_redirect_to_another_origin(canary):
    target = f"http://127.0.0.1:{canary.server_port}/latest"
    with HttpServer("hostile_server.py", "http", target) as evil:
        settings = evil.settings("evil", token="secret-token")
        async with McpToolbox([settings], timing=QUICK) as box:
            with pytest.raises(ToolError, match="was not followed"):
                await box.call_tool("redirect", {})
    assert canary.visits == []


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_a_server_that_redirects_from_the_start_is_refused(canary, transport):
    class Redirecting(Canary):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(302)
            self.send_header("location", f"http://127.0.0.1:{canary.server_port}/")
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815

    server = HTTPServer(("127.0.0.1", 0), Redirecting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/mcp"
    evil = ServerSettings(name="evil", transport=transport, url=url)
    async with McpToolbox([evil], timing=QUICK) as box:
        (status,) = await box.servers()
        assert not status.connected
        assert "was not followed" in status.error
    await asyncio.to_thread(server.shutdown)
    thread.join()
    server.server_close()
    assert canary.visits == []


def by_hand(name: str, *answers: str) -> ServerSettings:
    """A server of a few lines: each of `answers` sets `r`, the response to the request `m`."""
    code = "\n".join([
        "import sys, json",
        "for line in sys.stdin:",
        "    m = json.loads(line)",
        "    if 'id' not in m: continue",
        "    r = {'jsonrpc': '2.0', 'id': m['id'], 'result': {}}",
        "    tool = {'name': 't', 'inputSchema': {'type': 'object'}}",
        "    if m['method'] == 'initialize': r['result'] = {'protocolVersion': '2025-06-18',",
        "        'capabilities': {'tools': {}, 'resources': {}},",
        "        'serverInfo': {'name': 'x', 'version': '1'}}",
        "    if m['method'] == 'tools/list': r['result'] = {'tools': [tool]}",
        *(f"    {answer}" for answer in answers),
        "    print(json.dumps(r), flush=True)",
    ])  # fmt: skip
    return ServerSettings(name=name, transport="stdio", command=sys.executable, args=("-c", code))


async def test_forged_fault_tokens_are_only_the_servers_own_error():
    """A server that answers with our own error code cannot make a call count as unsent."""
    error = "{'code': -32099, 'message': 'no', 'data': '0' * 32}"
    evil = by_hand("evil", f"if m['method'] == 'tools/call': del r['result']; r['error'] = {error}")
    async with McpToolbox([evil], timing=QUICK) as box:
        with pytest.raises(ToolError, match="`evil` refused: no") as caught:
            await box.call_tool("t", {})
        assert not isinstance(caught.value, TransportError)


async def test_lists_without_end_or_sense_are_told_and_take_nothing_from_others():
    logs = []
    evil = [
        by_hand("endless", "if 'list' in m['method']: r['result'].update("
            "nextCursor='a', resources=[], resourceTemplates=[])"),
        by_hand("senseless", "if 'list' in m['method']: r['result'] = {'tools': 7}"),
        by_hand("refusing", "if 'list' in m['method']: r = {'jsonrpc': '2.0', 'id': m['id'],"
            " 'error': {'code': -32603, 'message': 'not today'}}"),
        by_hand("poor", "if 'resources' in m['method']: r = {'jsonrpc': '2.0', 'id': m['id'],"
            " 'error': {'code': -32601, 'message': 'no such method'}}"),
    ]  # fmt: skip
    good = EmbeddedServer(name="tools", server=low_level_server)
    async with McpToolbox([*evil, good], on_log=lambda *log: logs.append(log)) as box:
        assert (await box.call_tool("echo", {"value": 1})).structured == {"result": 1}
        servers = {info.server for info in await box.resources()}
    assert servers == {"tools"}
    told = {server: message for server, level, message in logs if level == "error"}
    assert "without end" in told["endless"]
    assert "not MCP" in told["senseless"]
    assert "not today" in told["refusing"]
    assert "poor" not in told, "a server may have no resources"
