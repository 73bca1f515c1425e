"""``fractale serve``'s server: a real process, talked to by a real client and by raw HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from fractale.errors import ToolError, UsageError
from fractale.mcp import McpToolbox
from fractale.registry import Registry, ServerFileSettings, build_server
from fractale.server import ServeOptions, options_of, serve, serve_async
from fractale.server.stdio import serve_stdio
from fractale.settings import ServerSettings
from servers.certificates import make_certificate

TOKEN = "correct-horse-battery"
RUN = """
import json, sys
from fractale.errors import FractaleError
from fractale.registry import load_registry
from fractale.server import serve

try:
    options = json.loads(sys.argv[2])
    serve([load_registry(sys.argv[1])], on_ready=lambda url: print(url, flush=True), **options)
except FractaleError as error:
    print(error, error.hint, sep="|", file=sys.stderr)
    sys.exit(error.exit_code)
"""
TOOLS = '''
import subprocess, sys

print("noise when imported")

def greet(who: str) -> dict:
    """Say hello."""
    print("noise when called")
    subprocess.run(["echo", "noise of a program"], check=True)
    return {"text": f"hello {who}", "stdin": sys.stdin.read()}

def fail() -> dict:
    """Fail."""
    raise ValueError("no such queue")

def persona() -> str:
    return "You are an expert."
'''
REGISTRY = """
tools:
- path: served_tools.greet
  name: say_hello
- path: served_tools.fail
prompts:
- path: served_tools.persona
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a registry and its tools."""
    made = tmp_path_factory.mktemp("serve")
    (made / "served_tools.py").write_text(TOOLS)
    (made / "registry.yaml").write_text(REGISTRY)
    return made


class Served:
    """A server in a process of its own, on a free port of this machine."""

    def __init__(self, folder, file="registry.yaml", **options) -> None:
        options = {"port": 0, **options}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder / file), json.dumps(options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.kind = options.get("transport", "http")
        self.noise = self.process.stdout.readline()
        self.url = self.process.stdout.readline().strip()
        self.base = self.url.rpartition("/")[0]

    def settings(self, **more) -> ServerSettings:
        return ServerSettings(name="served", transport=self.kind, url=self.url, **more)

    def stop(self, number=signal.SIGTERM) -> tuple[int, str]:
        """Ask it to stop; gives its exit code and all that it wrote."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            out, err = self.process.communicate(timeout=20)
        finally:
            self.process.kill()
        return self.process.returncode, out + err

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


@pytest.fixture(scope="module")
def guarded(folder):
    """A server with a token, for tests that don't end it."""
    with Served(folder, token=TOKEN, allowed_origins=["https://lab.example"]) as served:
        yield served


@pytest.fixture(scope="module")
def open_server(folder):
    """A server without a token, for tests that don't end it."""
    with Served(folder) as served:
        yield served


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def post(served, url=None, **headers) -> httpx.Response:
    """Open an MCP session by hand."""
    accept = {"Accept": "application/json, text/event-stream"}
    return httpx.post(url or served.url, json=INITIALIZE, headers={**accept, **headers})


async def check_use(settings: ServerSettings) -> None:
    """Everything that a client does."""
    async with McpToolbox([settings]) as box:
        assert [t.name for t in await box.tools()] == ["fail", "say_hello"]
        result = await box.call_tool("say_hello", {"who": "Ada"})
        failed = await box.call_tool("fail", {})
        (message,) = await box.get_prompt("persona", {})
    assert result.structured == {"text": "hello Ada", "stdin": ""}
    assert (failed.is_error, failed.text) == (True, "ValueError: no such queue")
    assert message.text == "You are an expert."


# Using it


async def test_a_client_with_the_token_uses_it(guarded):
    await check_use(guarded.settings(token=TOKEN))


async def test_it_serves_over_sse(folder):
    with Served(folder, transport="sse", token=TOKEN) as served:
        assert served.url.endswith("/sse")
        await check_use(served.settings(token=TOKEN))


async def test_it_serves_over_stdio_whatever_tools_print_or_read(folder):
    arguments = ("-c", RUN, str(folder / "registry.yaml"), '{"transport": "stdio"}')
    settings = ServerSettings(
        name="served", transport="stdio", command=sys.executable, args=arguments
    )
    await check_use(settings)


@contextlib.contextmanager
def client_end():
    """The other ends of this process's stdin and stdout: a file to write to, one to read from.

    It is no fixture, since pytest puts streams of its own in place between those and the test.
    """
    kept = [os.dup(number) for number in (0, 1)]
    (stdin, to_server), (from_server, stdout) = os.pipe(), os.pipe()
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    try:
        with os.fdopen(to_server, "w", buffering=1) as told, os.fdopen(from_server) as said:
            yield told, said
    finally:
        for number, descriptor in enumerate(kept):
            os.dup2(descriptor, number)
        for descriptor in (*kept, stdin, stdout):
            os.close(descriptor)


async def test_whoever_served_over_stdio_has_its_streams_back():
    def shout() -> dict:
        """Be loud."""
        print("noise of a tool")
        os.write(1, b"noise of a program\n")
        return {"read": os.read(0, 10).decode()}

    with client_end() as (told, said):
        streams = [os.fstat(number).st_ino for number in (0, 1)]
        server = asyncio.create_task(serve_stdio(lambda: build_server([], functions=[shout])))

        async def ask(method: str, **params) -> dict:
            asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            told.write(json.dumps(asked) + "\n")
            return json.loads(await asyncio.to_thread(said.readline))["result"]

        try:
            assert (await ask("initialize", **INITIALIZE["params"]))["serverInfo"]
            told.write('{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
            answer = await ask("tools/call", name="shout", arguments={})
        finally:
            told.close()  # the server waits for it
            await asyncio.wait_for(server, 60)
        assert answer["structuredContent"] == {"read": ""}
        assert [os.fstat(number).st_ino for number in (0, 1)] == streams


def test_a_signal_ends_a_stdio_server_that_waits_for_its_client(folder):
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder / "registry.yaml"), '{"transport": "stdio"}'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        process.send_signal(number)
        process.communicate(timeout=20)
        assert answer["result"]["serverInfo"]["name"] == "fractale"
        assert process.returncode == -number


def test_health_tells_what_is_served_and_needs_no_token(guarded):
    answer = httpx.get(f"{guarded.base}/health")
    body = answer.json()
    assert answer.status_code == 200
    assert (body["status"], body["name"], body["tools"]) == ("ok", "fractale", 2)
    assert body["version"]


def test_https_with_a_certificate(folder, tmp_path):
    certificate, key = make_certificate(tmp_path)
    pair = {"ssl_keyfile": str(key), "ssl_certfile": str(certificate)}
    with Served(folder, **pair) as served:
        assert served.url.startswith("https://127.0.0.1:")
        import ssl

        trust = ssl.create_default_context(cafile=str(certificate))
        assert httpx.get(f"{served.base}/health", verify=trust).json()["status"] == "ok"


# The gates


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN}x"},
    ],
)
def test_without_the_right_token_nothing_is_answered(guarded, headers):
    answer = post(guarded, **headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert TOKEN not in answer.text


def test_no_path_but_health_is_open_without_the_token(guarded):
    paths = ("/mcp", "/", "/health/", "/health/../mcp", "//health", "/messages/", "/nowhere")
    codes = {path: httpx.get(guarded.base + path).status_code for path in paths}
    assert set(codes.values()) == {401}, codes


def test_with_the_token_a_session_opens(guarded):
    assert post(guarded, Authorization=f"Bearer {TOKEN}").status_code == 200
    assert post(guarded, authorization=f"bearer {TOKEN}").status_code == 200


async def test_a_client_with_a_wrong_token_is_told_so(guarded):
    async with McpToolbox([guarded.settings(token="wrong")]) as box:
        with pytest.raises(ToolError):
            await box.call_tool("say_hello", {"who": "Eve"})
        (status,) = await box.servers()
    assert "401" in (status.error or "")


def test_a_foreign_host_header_is_refused(open_server):
    port = open_server.base.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
        assert post(open_server, Host=host).status_code in (400, 421)
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert post(open_server, Host=host).status_code == 200
    assert httpx.get(f"{open_server.base}/health", headers={"Host": "evil.example"}).is_error


def test_a_web_page_elsewhere_is_refused(guarded):
    right = {"Authorization": f"Bearer {TOKEN}"}
    for origin in ("https://evil.example", "null", "https://lab.example.evil.example"):
        assert post(guarded, Origin=origin, **right).status_code == 403
    for origin in ("https://lab.example", guarded.base):
        assert post(guarded, Origin=origin, **right).status_code == 200


async def test_on_another_address_the_token_and_the_origin_count():
    from fractale.server.http import http_app

    app = http_app(build_server([]), ServeOptions(host="192.0.2.7", token=TOKEN))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://login1.example") as client:
        codes = [
            (await client.get("/health")).status_code,
            (await client.post("/mcp", json=INITIALIZE)).status_code,
            (await client.get("/health", headers={"Origin": "https://evil.example"})).status_code,
        ]
    assert codes == [200, 401, 403]


# What is refused before anything is served


def registry(**server) -> Registry:
    return Registry(file="f.yaml", server=ServerFileSettings(**server))


def test_flags_win_over_files_and_files_over_defaults():
    upstream = registry(transport="http", host="0.0.0.0", port=9000)
    assert options_of([registry()]) == ServeOptions(host="127.0.0.1", port=8089, path="/mcp")
    assert options_of([registry(), upstream], token="t").host == "0.0.0.0"
    flagged = options_of([upstream], host="127.0.0.1", port=0, path="tools/")
    assert (flagged.host, flagged.port, flagged.path) == ("127.0.0.1", 0, "/tools")
    assert options_of([registry(transport="sse")]).path == "/sse"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "login1.example"])
@pytest.mark.parametrize("token", [None, ""])
def test_another_address_without_a_token_is_refused(host, token):
    with pytest.raises(UsageError, match="without a token is refused") as caught:
        serve([registry(host=host)], port=0, token=token)
    assert "FRACTALE_MCP_TOKEN" in caught.value.hint
    assert "--host 127.0.0.1" in caught.value.hint


def test_local_addresses_and_stdio_need_no_token():
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert options_of([registry(host=host)]).host == host
    assert options_of([registry(host="0.0.0.0")], transport="stdio").token is None


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "clé"])
def test_a_token_that_no_header_carries_is_refused(token):
    with pytest.raises(UsageError, match="can't carry") as caught:
        options_of([], token=token)
    assert token not in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize("path", ["/health", "health/", "/{anything}"])
def test_a_path_that_would_open_the_endpoint_to_everybody_is_refused(path):
    with pytest.raises(UsageError, match="path"):
        options_of([], path=path, token=TOKEN)
    assert options_of([], path=path, transport="stdio").transport == "stdio"


def test_half_or_bad_certificates_are_refused(tmp_path):
    with pytest.raises(UsageError, match="needs both"):
        options_of([registry(ssl_keyfile="key.pem")])
    with pytest.raises(UsageError, match="isn't there"):
        options_of([], ssl_keyfile="no.pem", ssl_certfile="no.pem")
    bad = tmp_path / "bad.pem"
    bad.write_text("not a certificate")
    with pytest.raises(UsageError, match="can't be used"):
        serve([], port=0, ssl_keyfile=str(bad), ssl_certfile=str(bad))


def test_a_port_in_use_is_told():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 is in use") as caught:
            serve([], port=port)
    assert "--port 0" in caught.value.hint


def test_an_address_of_another_machine_is_told():
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.7"):
        serve([], host="192.0.2.7", port=0, token=TOKEN)


def test_a_wrong_entry_stops_the_start(folder):
    (folder / "wrong.yaml").write_text("tools:\n- served_tools.gret\n")
    with Served(folder, "wrong.yaml") as served:
        code, written = served.stop()
    assert code == 3
    assert "wrong.yaml:2:3  unknown-name" in written
    assert "did you mean `greet`" in written


# Stopping


async def test_inside_a_program_it_ends_by_returning_and_gives_the_signals_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    ready = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve_async([], port=0, on_ready=ready.set_result))
    async with httpx.AsyncClient() as client:
        answer = await client.get((await ready).replace("/mcp", "/health"))
    signal.raise_signal(signal.SIGTERM)
    await task
    assert answer.json()["tools"] == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_in_order_with_clients_connected(folder, number):
    with Served(folder, token=TOKEN) as served:
        async with McpToolbox([served.settings(token=TOKEN)]) as box:
            await box.call_tool("say_hello", {"who": "Ada"})
            code, written = served.stop(number)
    with socket.create_server(("127.0.0.1", int(served.base.rpartition(":")[2]))) as again:
        assert again.getsockname()  # the port is free
    assert code == 0
    assert written == "noise when called\nnoise of a program\n"
    assert TOKEN not in written + repr(ServeOptions(token=TOKEN))


# What others may use up


LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)){RUN}"


@pytest.fixture
def limited(folder, monkeypatch):
    """A server with a token that may open 128 files."""
    monkeypatch.setitem(globals(), "RUN", LIMITED)
    with Served(folder, token=TOKEN) as served:
        yield served


def half_open(served, number: int, said: bytes) -> list[socket.socket]:
    """Connections that have sent a part of a request, as far as they are taken."""
    port = int(served.base.rpartition(":")[2])
    made = []
    for _ in range(number):
        each = socket.create_connection(("127.0.0.1", port), timeout=5)
        made.append(each)
        with contextlib.suppress(OSError):
            each.sendall(said)
    return made


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nG",
    ],
    ids=["silent", "head", "second"],
)
def test_half_open_connections_lock_nobody_out_and_fill_no_log(limited, said):
    right = {"Authorization": f"Bearer {TOKEN}"}
    made = half_open(limited, 200, said)
    try:
        for _ in range(5):
            assert post(limited, **right).status_code == 200
    finally:
        for each in made:
            each.close()
    assert post(limited, **right).status_code == 200
    code, log = limited.stop()
    assert code == 0
    assert len(log) < 5000, log[:5000]
    assert "Traceback" not in log


def test_half_open_handshakes_lock_nobody_out(folder, tmp_path, monkeypatch):
    import ssl

    certificate, key = make_certificate(tmp_path)
    monkeypatch.setitem(globals(), "RUN", LIMITED)
    trust = ssl.create_default_context(cafile=str(certificate))
    pair = {"ssl_keyfile": str(key), "ssl_certfile": str(certificate)}
    with Served(folder, token=TOKEN, **pair) as served:
        made = half_open(served, 200, b"\x16\x03\x01")
        for _ in range(3):
            assert httpx.get(f"{served.base}/health", verify=trust).status_code == 200
        for each in made:
            each.close()
        code, log = served.stop()
    assert code == 0
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"", b""),
        (b"POST /mcp HTTP/1.1\r\nX: ", b"a"),
        (b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n\r\n", b"a"),
    ],
    ids=["silent", "head", "body of a refused request"],
)
def test_a_request_that_never_ends_is_cut_off(guarded, first, more):
    (slow,) = half_open(guarded, 1, first)
    with slow:
        slow.settimeout(0.5)
        until = time.monotonic() + 60
        is_open = True
        while is_open:
            assert time.monotonic() < until, "it was never cut off"
            try:
                slow.sendall(more)
                is_open = bool(slow.recv(4096))
            except TimeoutError:
                continue
            except OSError:
                is_open = False


def test_floods_of_bad_requests_fill_no_log(folder):
    with Served(folder) as served:
        for _ in range(300):
            for each in half_open(served, 1, b"\x00\x01\x02\r\n\r\n"):
                each.close()
        assert len(served.stop()[1]) < 2000


def test_deep_json_is_a_bad_request(open_server):
    accept = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    deep = {"[": b"[" * 100_000, "{": b'{"a":' * 100_000}
    for body in (*deep.values(), b'{"a": "' + b"[" * 1000 + b'", "b": ' + b"[" * 1000):
        answer = httpx.post(open_server.url, content=body, headers=accept)
        assert answer.status_code == 400
        assert "levels" in answer.json()["message"]
    text = json.dumps({**INITIALIZE, "text": '\\"[{' * 1000})
    assert httpx.post(open_server.url, content=text, headers=accept).status_code == 200


@pytest.mark.parametrize(
    "hosts",
    [
        "127.0.0.1:{port}, evil",
        "127.0.0.1:{port} evil",
        "a@127.0.0.1",
        "127.0.0.1:{port}/x",
        "[::1",
    ],
)
def test_a_host_header_names_one_host(open_server, hosts):
    host = hosts.format(port=open_server.base.rpartition(":")[2])
    assert post(open_server, Host=host).status_code in (400, 421)
    (raw,) = half_open(
        open_server, 1, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n"
    )
    with raw:
        assert raw.recv(100).startswith(b"HTTP/1.1 400")


async def test_sessions_are_bounded(monkeypatch):
    from sse_starlette.sse import AppStatus

    from fractale.server.http import http_app

    # The library keeps for the whole process that a server of an earlier test ended.
    monkeypatch.setattr(AppStatus, "should_exit", False)

    app = http_app(build_server([]), ServeOptions(host="192.0.2.7", token=TOKEN), most_sessions=3)
    headers = {
        "Accept": "application/json, text/event-stream",
        "Authorization": f"Bearer {TOKEN}",
    }
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://login1") as client,
    ):
        codes = [
            (await client.post("/mcp", json=INITIALIZE, headers=headers)).status_code
            for _ in range(5)
        ]
    assert codes == [200, 200, 200, 503, 503]
