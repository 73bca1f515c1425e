"""``fractale serve``'s flags, each tried on a real socket."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys

import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

import forked
from servers.certificates import make_certificate

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a registry, its tools, and a certificate for this machine."""
    made = tmp_path_factory.mktemp("serve")
    (made / "served.py").write_text("def one() -> dict: return {}\n")
    (made / "tools.yaml").write_text("tools: [served.one]\n")
    make_certificate(made)
    return made


@pytest.fixture(scope="module")
def served(folder):
    """What a server with every flag says when it is ready."""
    flags = ["--port", "0", "--path", "/site/tools", "--token", "correct-horse"]
    flags += ["--ssl-certfile", "cert.pem", "--ssl-keyfile", "key.pem"]
    flags += ["--allowed-host", "login1.example", "--allowed-host", "login2.example"]
    flags += ["--allowed-origin", "https://lab.example", "--allowed-origin", "https://b.example"]
    process = forked.start(["serve", "tools.yaml", *flags], cwd=folder)
    try:
        yield process.stderr.readline()
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def client(folder, served):
    """A client that trusts the certificate and has the token, but sends no Origin."""
    trust = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    base = served.partition("serving at ")[2].partition("/site")[0]
    headers = {
        "Accept": "application/json, text/event-stream",
        "Authorization": "Bearer correct-horse",
    }
    with httpx.Client(base_url=base, verify=trust, headers=headers, trust_env=False) as made:
        yield made


def opened(client, path="/site/tools", **headers) -> int:
    """The status of an attempt to open an MCP session."""
    return client.post(path, json=INITIALIZE, headers=headers).status_code


def test_path_is_where_the_endpoint_is_and_health_stays_at_the_root(client, served):
    assert opened(client) == 200
    assert opened(client, "/mcp") == 404
    shown = served.partition("health ")[2].strip()
    assert shown == str(client.base_url.copy_with(path="/health"))
    assert client.get(shown).json()["tools"] == 1


def test_ssl_flags_serve_https_and_nothing_else(client):
    assert client.base_url.scheme == "https"
    assert opened(client) == 200
    plain = str(client.base_url).replace("https:", "http:")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{plain}/health", trust_env=False)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{client.base_url}/health", trust_env=False)


def test_allowed_hosts_may_be_called_by_that_name_and_others_not(client):
    port = client.base_url.port
    for host in ("login1.example", f"login2.example:{port}", f"127.0.0.1:{port}"):
        assert opened(client, Host=host) == 200
    for host in ("login3.example", "login1.example.evil.example"):
        assert opened(client, Host=host) == 421


def test_pages_of_allowed_origins_may_call_and_others_not(client):
    for origin in ("https://lab.example", "https://b.example"):
        assert opened(client, Origin=origin) == 200
    for origin in ("https://evil.example", "http://lab.example", "null"):
        assert opened(client, Origin=origin) == 403


def test_half_a_certificate_is_refused_before_anything_is_served(folder):
    words = ["serve", "tools.yaml", "--port", "0", "--ssl-certfile", "cert.pem"]
    done = forked.run(words, cwd=folder)
    assert done.returncode == 2
    assert "HTTPS needs both" in done.stderr


async def test_a_client_that_leaves_is_no_traceback(folder):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fractale.cli", "serve", "tools.yaml", "--port", "0"),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        ready = (await process.stderr.readline()).decode()
        url = ready.partition("serving at ")[2].split()[0]
        for _ in range(3):
            async with (
                streamable_http_client(url) as (read, write, _),
                ClientSession(read, write) as session,
            ):
                await session.initialize()
                await session.list_tools()
    finally:
        process.terminate()
        _, said = await process.communicate()
    assert said.decode() == ""
