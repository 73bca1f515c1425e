"""The PostgreSQL server goes away in the middle of a run: it stops, and goes on when it is back."""

from __future__ import annotations

from collections import Counter

import pytest

from held import ended, project, wait_until
from servers.postgres import new_database

PLAN = """
name: p
steps:
  - {name: one, tool: change, inputs: {what: one}}
  - {name: two, tool: change, inputs: {what: two}}
  - {name: many, tool: change, inputs: {what: "m{{ item }}"}, foreach: "range(3) | list"}
  - {name: last, tool: change, inputs: {what: last}}
"""
WHOLE = ["one", "two", "m0", "m1", "m2", "last"]


def cut_connections(server: str, url: str) -> None:
    """End every connection to a database, as a server that is shut down does."""
    psycopg = pytest.importorskip("psycopg")
    name = url.split("/")[3].partition("?")[0]
    with psycopg.connect(server, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        ).fetchall()
    assert rows, "nobody was connected"


@pytest.mark.parametrize("where", ["one", "two", "m2", "last"])
def test_a_connection_that_is_cut_in_a_step_stops_the_run_and_loses_nothing(
    tmp_path, processes, postgres, where
):
    url = new_database(postgres)
    with project(tmp_path, processes, url) as held:
        held.hold(where)
        process = held.run(PLAN)
        wait_until(held.is_held(where), process)
        cut_connections(postgres, url)
        held.release(where)
        last = ended(process, 75)
        assert last["status"] == "stopped"
        assert last["hint"]
        assert ended(held.start("resume", "-1", "--yes"), 0)["status"] == "success"
        assert Counter(held.changes()) == Counter(WHOLE)
