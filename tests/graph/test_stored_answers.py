"""A secret in an answer is in no store of a plan's graph, down to its bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

import fractale
from fractale import Dependencies, compile_plan
from fractale.errors import AnswerError
from fractale.testing import FakeToolServer
from servers.postgres import new_database

THREAD: dict[str, Any] = {"configurable": {"thread_id": "t"}}
SECRET = "hunter2-is-secret"
SCHEMA = {
    "type": "object",
    "properties": {"password": {"type": "string", "format": "password"}},
    "required": ["password"],
}
PLAN = """
name: p
inputs: {token: {type: string, secret: true}}
steps: [{name: s, tool: log_in, approve: POLICY, inputs: {user: "{{ inputs.token }}"}}]
"""


@asynccontextmanager
async def stored(
    kind: str, folder: Path, request: pytest.FixtureRequest
) -> AsyncGenerator[tuple[Any, Any]]:
    """A saver, and a function that returns all bytes that it has stored."""
    if kind == "sqlite":
        async with AsyncSqliteSaver.from_conn_string(str(folder / "db")) as saver:

            def files() -> bytes:
                return b"".join(path.read_bytes() for path in folder.glob("db*"))

            yield saver, files
        return
    url = new_database(request.getfixturevalue("postgres"))
    psycopg = pytest.importorskip("psycopg")
    postgres = pytest.importorskip("langgraph.checkpoint.postgres.aio")

    def dumped() -> bytes:
        found = b""
        with psycopg.connect(url, autocommit=True) as connection:
            for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes"):
                with connection.cursor().copy(f"COPY {table} TO STDOUT (FORMAT binary)") as copy:
                    found += b"".join(bytes(piece) for piece in copy)
        return found

    async with postgres.AsyncPostgresSaver.from_conn_string(url) as saver:
        await saver.setup()
        yield saver, dumped


KINDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.real)]
ANSWERS = [
    {"action": "accept", "content": {"password": SECRET}},
    {"password": SECRET},
    SECRET,
    f'{{"password": "{SECRET}"}}',
]


@pytest.mark.parametrize("by_id", [True, False])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_secret_that_a_server_asks_for_is_refused_before_it_is_stored(
    tmp_path, request, kind, by_id
):
    server = FakeToolServer()

    @server.tool
    async def log_in(user: str) -> dict:
        """Log in."""
        answer = await server.elicit("The password?", SCHEMA)
        return {"action": answer["action"]}

    async with stored(kind, tmp_path, request) as (saver, contents):
        deps = Dependencies(toolbox=server)
        plan = fractale.load(PLAN.replace("POLICY", "never"))
        graph = compile_plan(plan, deps).compile(checkpointer=saver)
        context: Any = {"secrets": {"token": "some-other-secret"}}
        waiting = await graph.ainvoke({}, THREAD, context=context)
        for answer in ANSWERS:
            (asked,) = waiting["__interrupt__"]
            assert asked.value["kind"] == "elicitation"
            resume = {asked.id: answer} if by_id else answer
            waiting = await graph.ainvoke(Command(resume=resume), THREAD, context=context)
            problem = waiting["__interrupt__"][0].value["problem"]
            assert "a secret is not taken from a resume" in problem
        after = await graph.ainvoke(Command(resume="decline"), THREAD, context=context)
        assert after["status"] == "success", after
        data = contents()
        assert b"decline" in data, "the answers are among these bytes"
        assert SECRET.encode() not in data


@pytest.mark.parametrize("kind", KINDS)
async def test_a_secret_of_the_run_in_an_answer_is_refused_before_it_is_stored(
    tmp_path, request, kind
):
    server = FakeToolServer().answer("log_in", {"in": True})
    async with stored(kind, tmp_path, request) as (saver, contents):
        plan = fractale.load(PLAN.replace("POLICY", "always"))
        graph = compile_plan(plan, Dependencies(toolbox=server)).compile(checkpointer=saver)
        context: Any = {"secrets": {"token": SECRET}}
        waiting = await graph.ainvoke({}, THREAD, context=context)
        assert waiting["__interrupt__"][0].value["arguments"] == {"user": "***"}
        answer = Command(resume={"arguments": {"user": SECRET}})
        with pytest.raises(AnswerError, match="has a secret of the run"):
            await graph.ainvoke(answer, THREAD, context=context)
        answer = Command(resume={"arguments": {"user": "***"}})
        after = await graph.ainvoke(answer, THREAD, context=context)
        assert after["status"] == "success", after
        assert [call.arguments for call in server.calls] == [{"user": SECRET}]
        data = contents()
        assert b"arguments" in data
        assert SECRET.encode() not in data
