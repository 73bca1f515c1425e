"""Requests of another user of this machine; only root can make them."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import pytest

STRANGER, OTHER = 54_321, 54_322
"""User ids that no user of the machine has."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def request(
    uid: int,
    port: int,
    path: str = "/ok",
    *,
    host: str = "127.0.0.1",
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Send one request as a user; gives the status and the text.

    With a body it is a POST of JSON, else a GET.
    """
    said = as_user(uid, lambda: _ask(port, path, host, body, dict(headers or {})))
    if isinstance(said, str):
        return 0, said
    status, text = said
    return status, text


def as_user(uid: int, do: Callable[[], Any]) -> Any:
    """What a function gives in a process of another user, as JSON; of an error, its text."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if uid:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            said = do()
        except BaseException as error:  # noqa: BLE001 - told to the test
            said = repr(error)
        os.write(write, json.dumps(said).encode()[:60_000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return json.loads(data)


def _ask(port: int, path: str, host: str, body: Any, headers: dict[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    if body is None:
        connection.request("GET", path, headers=headers)
    else:
        told = {"Content-Type": "application/json", **headers}
        connection.request("POST", path, json.dumps(body), told)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace")


def send_and_close(uid: int, port: int, data: bytes) -> None:
    """Send bytes as a user, and close the connection before an answer can come."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(data)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
