"""The gate before the development server: who may pass, over real connections."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from fractale.errors import SettingsError, UsageError
from fractale.studio import make_app
from fractale.studio.app import load_app
from fractale.studio.gate import Gate, peer_uid, read_token, required_token
from other_user import OTHER, STRANGER, needs_root, request, send_and_close

SECRET = "a-token-that-is-long-enough"


class Counting:
    """A server that counts what gets to it."""

    def __init__(self, **gate: Any) -> None:
        self.seen: list[str] = []
        routes = [Route("/{rest:path}", self.answer), WebSocketRoute("/ws", self.talk)]
        app = Starlette(routes=routes, middleware=[Middleware(Gate, **gate)])
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
        work = self.server.serve([self.listening])
        self.thread = threading.Thread(target=lambda: asyncio.run(work))

    async def answer(self, request: Request) -> PlainTextResponse:
        self.seen.append(request.url.path)
        return PlainTextResponse("here")

    async def talk(self, websocket: WebSocket) -> None:
        self.seen.append("ws")
        await websocket.accept()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(**gate: Any) -> Iterator[Counting]:
    made = Counting(**gate)
    made.thread.start()
    try:
        yield made
    finally:
        made.server.should_exit = True
        made.thread.join()


@needs_root
def test_only_its_user_and_root_pass():
    with serving(uid=STRANGER) as server:
        assert request(STRANGER, server.port)[0] == 200
        assert request(0, server.port)[0] == 200
        status, text = request(OTHER, server.port)
        assert status == 403
        assert "only the user who started it" in text
        assert server.seen == ["/ok", "/ok"]


@needs_root
def test_no_header_makes_a_user_another():
    with serving() as server:
        with socket.create_connection(("127.0.0.1", server.port)) as mine:
            mine.sendall(b"GET /mine HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" in mine.recv(1000)
            address = "{}:{}".format(*mine.getsockname())
            for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Client-IP"):
                for value in (address, "127.0.0.1", "0"):
                    assert request(OTHER, server.port, headers={name: value})[0] == 403
        for headers in ({"Origin": "https://smith.langchain.com"}, {"x-api-key": SECRET}):
            assert request(OTHER, server.port, headers=headers)[0] == 403
        for path in (f"/{SECRET}/ok", "/noauth/ok", "//noauth", "/../noauth"):
            assert request(OTHER, server.port, path)[0] == 403
        assert server.seen == ["/mine"]


@needs_root
def test_who_closes_at_once_is_not_taken_for_root():
    # A socket that its process has closed is listed as root's.
    data = b"POST /run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    with serving() as server:
        for _ in range(50):
            send_and_close(OTHER, server.port, data)
        assert request(0, server.port, "/last")[0] == 200
        time.sleep(0.2)
        assert server.seen == ["/last"]


def test_a_connection_is_told_in_both_kinds_of_address():
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as listening:
            listening.bind((host, 0))
            listening.listen()
            with socket.create_connection(listening.getsockname()[:2]):
                ours, _ = listening.accept()
                with ours:
                    assert peer_uid(ours) == os.geteuid()
            assert peer_uid(ours) is None
    both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with both, socket.create_connection(("127.0.0.1", both.getsockname()[1])):
        ours, _ = both.accept()
        with ours:
            assert peer_uid(ours) == os.geteuid()
    assert peer_uid(None) is None


def test_where_the_connection_cannot_be_seen_nobody_passes():
    transport = httpx.ASGITransport(Starlette(middleware=[Middleware(Gate)]))

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get("/")

    answer = asyncio.run(ask())
    assert answer.status_code == 403
    assert "FRACTALE_STUDIO_TOKEN" in answer.text


def test_with_a_token_it_is_needed_from_everybody():
    with serving(token=SECRET) as server:
        ask = httpx.Client(base_url=server.url, trust_env=False)
        assert ask.get("/ok").status_code == 401
        assert ask.get("/ok", headers={"x-api-key": SECRET[:-1]}).status_code == 401
        assert ask.get(f"/{SECRET}x/ok").status_code == 401
        assert (
            ask.get("/ok", headers={"Authorization": "Bearer \u00fc".encode()}).status_code == 401
        )
        assert server.seen == []
        assert ask.get("/ok", headers={"x-api-key": SECRET}).status_code == 200
        assert ask.get("/ok", headers={"Authorization": f"Bearer {SECRET}"}).status_code == 200
        assert ask.get(f"/{SECRET}/a%20b/c").status_code == 200
        assert ask.get(f"/{SECRET}").status_code == 200
        assert server.seen == ["/ok", "/ok", "/a b/c", "/"]


@needs_root
def test_with_a_token_another_user_passes():
    with serving(token=SECRET) as server:
        assert request(OTHER, server.port, headers={"x-api-key": SECRET})[0] == 200
        assert request(OTHER, server.port)[0] == 401


@pytest.mark.parametrize("token", [None, SECRET])
def test_strange_web_pages_are_kept_out(token):
    with serving(token=token) as server:

        def status(**headers: str) -> int:
            known = {"x-api-key": token or "", **headers}
            return httpx.get(f"{server.url}/ok", headers=known, trust_env=False).status_code

        assert status() == 200
        for origin in ("https://smith.langchain.com", "http://localhost:3000", server.url):
            assert status(Origin=origin) == 200
        pages = ("https://evil.example", "null", "http://203.0.113.7", "http://[", "file://")
        for origin in (*pages, "https://smith.langchain.com.evil.example"):
            assert status(Origin=origin) == 403
        # Without a token, a name of the web's may not lead here.
        assert status(Host="evil.example") == (200 if token else 403)


def test_the_token_is_one_that_can_be_shown():
    assert read_token({}) is None
    assert read_token({"FRACTALE_STUDIO_TOKEN": SECRET}) == SECRET
    for wrong in ("short", "with/slash/that/is/long/enough", "x" * 200, "with space in it 12345"):
        with pytest.raises(SettingsError, match="must have 16 to 128 characters"):
            read_token({"FRACTALE_STUDIO_TOKEN": wrong})


def test_a_machine_that_does_not_tell_its_users_apart_needs_a_token():
    assert required_token({}, tells_users=True) is None
    assert required_token({"FRACTALE_STUDIO_TOKEN": SECRET}, tells_users=False) == SECRET
    with pytest.raises(SettingsError, match="has no token") as caught:
        required_token({}, tells_users=False)
    assert "FRACTALE_STUDIO_TOKEN" in str(caught.value.hint)


def test_the_gate_is_put_before_an_app_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from starlette.applications import Starlette\na = Starlette()\nb = 1\n"
    )
    app = make_app(around=load_app("./mine.py:a"))
    assert app.user_middleware[0].cls is Gate
    assert make_app(around=app) is app
    assert sum(each.cls is Gate for each in app.user_middleware) == 1
    for place in ("./mine.py:b", "./mine.py:none", "./gone.py:a", "no_such_module_here:a"):
        with pytest.raises(UsageError, match=r"langgraph\.json"):
            load_app(place)
