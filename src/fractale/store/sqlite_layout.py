"""The tables of the checkpoints in SQLite, and the queries beyond LangGraph's own."""

# ruff: noqa: S608 - the queries are put together from constants of this module
from __future__ import annotations

_LANGGRAPH = (
    """CREATE TABLE IF NOT EXISTS checkpoints (
        thread_id TEXT NOT NULL,
        checkpoint_ns TEXT NOT NULL DEFAULT '',
        checkpoint_id TEXT NOT NULL,
        parent_checkpoint_id TEXT,
        type TEXT,
        checkpoint BLOB,
        metadata BLOB,
        PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id))""",
    """CREATE TABLE IF NOT EXISTS writes (
        thread_id TEXT NOT NULL,
        checkpoint_ns TEXT NOT NULL DEFAULT '',
        checkpoint_id TEXT NOT NULL,
        task_id TEXT NOT NULL,
        task_path TEXT NOT NULL DEFAULT '',
        idx INTEGER NOT NULL,
        channel TEXT NOT NULL,
        type TEXT,
        value BLOB,
        PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx))""",
)
"""As LangGraph 1.2 makes them: its saver and Studio can use the file, too."""


def _thread(row: str) -> str:
    return f"thread_id = {row}.thread_id AND checkpoint_ns = {row}.checkpoint_ns"


def _writes(row: str) -> str:
    here = f"{_thread(row)} AND checkpoint_id = {row}.checkpoint_id"
    return f"(SELECT count(*) FROM writes WHERE {here})"


_HEADS = (
    """CREATE TABLE heads (
        thread_id TEXT NOT NULL,
        checkpoint_ns TEXT NOT NULL,
        checkpoint_id TEXT NOT NULL,
        writes INTEGER NOT NULL,
        PRIMARY KEY (thread_id, checkpoint_ns)) WITHOUT ROWID""",
    # Not ON CONFLICT: inside a trigger the outer statement's OR REPLACE would take its place.
    f"""CREATE TRIGGER checkpoint_kept AFTER INSERT ON checkpoints BEGIN
        DELETE FROM heads WHERE {_thread("new")} AND checkpoint_id <= new.checkpoint_id;
        INSERT INTO heads
            SELECT new.thread_id, new.checkpoint_ns, new.checkpoint_id, {_writes("new")}
            WHERE NOT EXISTS (SELECT 1 FROM heads WHERE {_thread("new")});
        END""",
    f"""CREATE TRIGGER checkpoint_dropped AFTER DELETE ON checkpoints
        WHEN EXISTS (SELECT 1 FROM heads
            WHERE {_thread("old")} AND checkpoint_id = old.checkpoint_id) BEGIN
        DELETE FROM heads WHERE {_thread("old")};
        INSERT INTO heads
            SELECT thread_id, checkpoint_ns, checkpoint_id, {_writes("c")} FROM checkpoints AS c
            WHERE {_thread("old")} ORDER BY checkpoint_id DESC LIMIT 1;
        END""",
    f"""CREATE TRIGGER write_kept AFTER INSERT ON writes BEGIN
        UPDATE heads SET writes = writes + 1
            WHERE {_thread("new")} AND checkpoint_id = new.checkpoint_id;
        END""",
    f"""CREATE TRIGGER write_dropped AFTER DELETE ON writes BEGIN
        UPDATE heads SET writes = writes - 1
            WHERE {_thread("old")} AND checkpoint_id = old.checkpoint_id;
        END""",
    f"""INSERT INTO heads
        SELECT thread_id, checkpoint_ns, checkpoint_id, {_writes("c")} FROM (
            SELECT thread_id, checkpoint_ns, max(checkpoint_id) AS checkpoint_id
            FROM checkpoints GROUP BY thread_id, checkpoint_ns) AS c""",
)

CHANGES = ((*_LANGGRAPH, *_HEADS),)
"""From a new file, or one of fractale 0.2 or LangGraph, to version 1."""

HEAD = "SELECT checkpoint_id, writes FROM heads WHERE thread_id = ? AND checkpoint_ns = ?"

REPAIR = (
    "DELETE FROM heads WHERE thread_id = ?1 AND checkpoint_ns = ?2",
    f"""INSERT INTO heads
        SELECT thread_id, checkpoint_ns, checkpoint_id, {_writes("c")} FROM checkpoints AS c
        WHERE thread_id = ?1 AND checkpoint_ns = ?2 ORDER BY checkpoint_id DESC LIMIT 1""",
)

STORED = """SELECT checkpoint FROM checkpoints WHERE thread_id = ?
    UNION ALL SELECT value FROM writes WHERE thread_id = ?"""

SIZES = """SELECT thread_id, sum(size) FROM (
        SELECT thread_id, length(checkpoint) + length(metadata) AS size FROM checkpoints
        UNION ALL SELECT thread_id, length(value) FROM writes)
    GROUP BY thread_id"""
