"""Checkpoints in PostgreSQL: the same guarantees as in SQLite, on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from test_store import GADGETS

import forked
from fractale.errors import RunHeld, StoreError
from fractale.record.pruning import PruneRule, prune
from fractale.store.checkpoints import open_checkpoints
from fractale.store.postgres import MOST_CONNECTIONS
from fractale.store.postgres_saver import SETUP_LOCK
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer
from servers.postgres import running_postgres
from store_runs import begin, config, finish, history, latest, unmeasured

PASSWORD = "Wal:fisch/7@Nord"


@pytest.fixture(scope="module")
def server():
    with running_postgres() as url:
        yield url


@pytest.fixture
def psql(server) -> Callable[..., list]:
    """Runs one statement as the server's owner."""
    psycopg = pytest.importorskip("psycopg")

    def run(statement: str, *values, where: str = server) -> list:
        with psycopg.connect(where, autocommit=True) as connection:
            rows = connection.execute(statement, values)
            return rows.fetchall() if rows.description else []

    return run


@pytest.fixture
def url(server, psql, request) -> str:
    """A database of the test's own."""
    name = f"db{abs(hash(request.node.nodeid))}"
    psql(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")


async def test_langgraphs_conformance_suite_passes(url):
    @checkpointer_test(name="postgres")
    async def saver():
        async with open_checkpoints(url) as made:
            yield made

    report = await validate(saver)
    assert report.passed_all_base(), report.to_dict()
    assert report.passed_all(), report.to_dict()


async def test_a_run_waits_and_goes_on(url):
    async with open_checkpoints(url) as saver:
        await begin(saver, "waits")
        shown = await latest(saver, "waits")
    async with open_checkpoints(url) as saver:
        assert await latest(saver, "waits") == shown
        assert await latest(saver, "nobody") == "None"
        assert await finish(saver, "waits") == [0, 1, 2, 3]
        assert "first" in await history(saver, "waits")


@pytest.mark.parametrize("begun", [True, False])
async def test_a_write_that_nobody_waits_for_is_made_whole_or_left_out(url, begun):
    # LangGraph starts one when a step is cancelled.
    async with open_checkpoints(url) as saver:
        await begin(saver, "waits")
        at = (await saver.aget_tuple(config("waits"))).config
        late = asyncio.create_task(saver.aput_writes(at, [("numbers", [77])], "late"))
        if begun:
            await asyncio.sleep(0)
    await late
    async with open_checkpoints(url) as saver:
        assert ("[77]" in await latest(saver, "waits")) is begun


async def test_a_plan_runs(url, run_plan):
    tools = FakeToolServer()
    tools.answer("t", {"ok": True})
    async with open_checkpoints(url) as saver:
        plan = "name: p\nsteps: [{name: s, tool: t}, {name: u, tool: t}]\n"
        seen = await run_plan(plan, tools=tools, checkpointer=saver, run_id="plan")
        assert seen.status == "success"
        assert "plan" in await saver.sizes()


@pytest.mark.parametrize("gadget", ["os.system", "subprocess", "pickle", "missing class"])
async def test_a_crafted_checkpoint_is_refused_and_runs_nothing(url, psql, gadget, tmp_path):
    mark = tmp_path / "mark"
    kind, data = GADGETS[gadget](mark)
    async with open_checkpoints(url) as saver:
        await begin(saver, "waits")
        psql("UPDATE checkpoint_blobs SET type = %s, blob = %s", kind, data, where=url)
        with pytest.raises(StoreError, match="refused"):
            await saver.aget_tuple(config("waits"))
    assert not mark.exists()


async def test_a_changed_value_is_told(url, psql):
    async with open_checkpoints(url) as saver:
        await begin(saver, "waits")
        psql(
            "UPDATE checkpoint_blobs SET blob = set_byte(blob, 20, get_byte(blob, 20) # 4)"
            " WHERE channel = 'steps'",
            where=url,
        )
        with pytest.raises(StoreError, match="changed or damaged"):
            await saver.aget_tuple(config("waits"))


@pytest.fixture
def guarded(server, psql) -> str:
    """The server's URL for a user who needs a password."""
    folder = Path(server.partition("host=")[2])
    rules = folder / "pg_hba.conf"
    if "guarded" not in rules.read_text():
        psql(f"CREATE USER guarded PASSWORD '{PASSWORD}'")
        rules.write_text(f"local all guarded scram-sha-256\n{rules.read_text()}")
        psql("SELECT pg_reload_conf()")
    return server.replace("postgres:@", f"guarded:{quote(PASSWORD, safe='')}@")


def told(error: StoreError) -> str:
    return f"{error} {error.hint}"


@pytest.mark.parametrize("wrong", ["Tin:tenfass/8@Sued", "Wal:fisch/7@Nor"])
async def test_a_wrong_password_is_told_and_not_shown(guarded, wrong):
    url = guarded.replace(quote(PASSWORD, safe=""), quote(wrong, safe=""))
    with pytest.raises(StoreError) as caught:
        async with open_checkpoints(url):
            pass
    words = told(caught.value)
    assert "FRACTALE_STORE" in words
    assert "guarded:***@" in words
    assert caught.value.__suppress_context__
    for piece in ("Tin", "tenfass", "Sued", "fisch", "Nor"):
        assert piece not in words


async def test_a_password_that_is_not_escaped_is_not_shown_in_pieces(guarded):
    url = guarded.replace(quote(PASSWORD, safe=""), PASSWORD)
    with pytest.raises(StoreError) as caught:
        async with open_checkpoints(url):
            pass
    for piece in ("Wal", "fisch", "Nord"):
        assert piece not in told(caught.value)


async def test_a_user_who_may_not_make_tables_is_told(guarded):
    with pytest.raises(StoreError, match="permission denied") as caught:
        async with open_checkpoints(guarded):
            pass
    assert "allowed to write" in (caught.value.hint or "")


async def test_a_server_that_is_not_there_is_told():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StoreError, match="refused") as caught:
        async with open_checkpoints(f"postgresql://anna:geheimnis@127.0.0.1:{port}/runs", wait=2):
            pass
    assert "geheimnis" not in told(caught.value)


async def test_a_connection_that_breaks_is_told_and_nothing_kept_is_lost(url, psql):
    async with open_checkpoints(url) as saver:
        await begin(saver, "waits")
        psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
            " AND datname = current_database()",
            f"fractale {os.getpid()}@{socket.gethostname()}",
            where=url,
        )
        with pytest.raises(StoreError, match="cannot use the checkpoints") as caught:
            await begin(saver, "more")
        assert "resumed" in (caught.value.hint or "")
    async with open_checkpoints(url) as saver:
        assert await finish(saver, "waits") == [0, 1, 2, 3]


async def test_tables_of_a_newer_version_are_refused(url, psql):
    async with open_checkpoints(url):
        psql("INSERT INTO checkpoint_migrations (v) VALUES (99)", where=url)
    with pytest.raises(StoreError, match="version 99"):
        async with open_checkpoints(url):
            pass


async def test_several_may_open_a_new_database_at_once(url):
    async def use(number: int) -> list[int]:
        async with open_checkpoints(url) as saver:
            await begin(saver, f"run{number}")
            return await finish(saver, f"run{number}")

    assert await asyncio.gather(*map(use, range(4))) == [[0, 1, 2, 3]] * 4


async def connections(psql, url) -> int:
    """How many connections fractale has to a database."""
    database = url.partition("?")[0].rpartition("/")[2]
    query = """SELECT count(*) FROM pg_stat_activity
        WHERE datname = %s AND application_name LIKE 'fractale %%'"""
    return psql(query, database)[0][0]


async def test_120_runs_of_one_process_share_a_few_connections(url, psql):
    """The server has 100 for all its clients."""
    all_open = asyncio.Barrier(120)
    seen: list[int] = []

    async def start(number: int) -> list[int]:
        async with open_checkpoints(url) as saver, saver.holding(f"run{number}"):
            await begin(saver, f"run{number}")
            await all_open.wait()
            if number == 0:
                seen.append(await connections(psql, url))
            return await finish(saver, f"run{number}")

    assert await asyncio.gather(*map(start, range(120))) == [[0, 1, 2, 3]] * 120
    assert seen == [MOST_CONNECTIONS]
    assert await connections(psql, url) == 0, "each closes its share"


async def test_a_database_that_is_up_to_date_is_opened_without_a_lock(url, psql):
    async with open_checkpoints(url):
        pass
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (SETUP_LOCK,))
        async with asyncio.timeout(20), open_checkpoints(url) as saver:
            await begin(saver, "waits")


async def test_a_run_waits_until_the_server_has_a_connection_left(url, psql):
    """As many processes as a sweep has workers, on a server with room for fewer."""
    psycopg = pytest.importorskip("psycopg")
    database = url.partition("?")[0].rpartition("/")[2]
    async with open_checkpoints(url) as saver:
        await begin(saver, "waits")
    psql(f"CREATE ROLE few LOGIN CONNECTION LIMIT 1; GRANT ALL ON DATABASE {database} TO few")
    psql("GRANT ALL ON ALL TABLES IN SCHEMA public TO few", where=url)
    theirs = url.replace("postgres:@", "few:@")
    assert theirs != url
    other = psycopg.connect(theirs, autocommit=True)
    opened = asyncio.create_task(latest_in(theirs))
    await asyncio.sleep(0.5)
    assert not opened.done()
    other.close()
    async with asyncio.timeout(30):
        assert "first" in await opened


async def latest_in(url: str) -> str:
    async with open_checkpoints(url) as saver:
        return await latest(saver, "waits")


async def test_a_run_that_is_cancelled_leaves_the_others_their_connection(url):
    """A cancelled query would close the connection that several runs use."""
    async with contextlib.AsyncExitStack() as stack:
        savers = [await stack.enter_async_context(open_checkpoints(url)) for _ in range(8)]
        for number, saver in enumerate(savers):
            await begin(saver, f"run{number}")
        for _ in range(20):
            task = asyncio.create_task(latest(savers[0], "run0"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert [await finish(saver, f"run{n}") for n, saver in enumerate(savers)] == [
            [0, 1, 2, 3]
        ] * 8


async def test_two_runs_that_share_a_connection_do_not_hold_the_same_run(url):
    async with contextlib.AsyncExitStack() as stack:
        savers = [await stack.enter_async_context(open_checkpoints(url)) for _ in range(8)]
        async with savers[0].holding("one"):
            for other in savers[1:]:
                with pytest.raises(RunHeld, match=f"process {os.getpid()}"):
                    async with other.holding("one"):
                        pytest.fail("it was held")
        async with savers[4].holding("one"):
            pass


async def test_a_run_is_held_by_one_connection_at_a_time(url):
    async with open_checkpoints(url) as first, open_checkpoints(url) as second:
        async with first.holding("k7f3"):
            with pytest.raises(RunHeld, match=f"k7f3 is held by process {os.getpid()} on ") as no:
                async with second.holding("k7f3"):
                    pass
            assert "since 20" in str(no.value)
            async with second.holding("other"):
                pass
        async with second.holding("k7f3"):
            pass


HOLD = """
import asyncio, sys
from fractale.store.checkpoints import open_checkpoints
async def main():
    async with open_checkpoints(sys.argv[1]) as saver, saver.holding("k7f3"):
        print("has it", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def hold(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, text=True, env=unmeasured()
    )


async def test_a_crash_releases_the_run(url):
    process = hold(url)
    try:
        assert await asyncio.to_thread(process.stdout.readline) == "has it\n"
        async with open_checkpoints(url) as saver:
            with pytest.raises(RunHeld, match=f"process {process.pid} on {socket.gethostname()}"):
                async with saver.holding("k7f3"):
                    pass
            process.kill()
            process.wait()
            await until_free(saver)
    finally:
        process.kill()
        process.communicate()


async def until_free(saver) -> None:
    """The server notices the end of a process a little later."""
    for _ in range(100):
        try:
            async with saver.holding("k7f3"):
                return
        except RunHeld:
            await asyncio.sleep(0.05)
    pytest.fail("the lock was never released")


async def test_runs_are_pruned(url, run_plan, settings):
    tools = FakeToolServer()
    tools.answer("t", {"text": "x" * 5000})
    plan = "name: p\nsteps: [{name: s, tool: t}]\n"
    async with open_checkpoints(url) as saver:
        for name in ("one", "two"):
            seen = await run_plan(plan, tools=tools, checkpointer=saver, run_id=name, keep=True)
            assert seen.status == "success"
            assert await saver.references(name)
    report = await prune(replace(settings, store=url), PruneRule(keep=1))
    assert [run.id for run in report.removed] == ["one"]
    async with open_checkpoints(url) as saver:
        assert set(await saver.sizes()) == {"two"}
        assert await saver.references("one") == set()


def fractale(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k == "PATH" or k.startswith("COVERAGE_")}
    return forked.run(
        words, cwd=folder, env={**kept, "HOME": str(folder), "PYTHONPATH": str(folder)}, timeout=120
    )


def test_the_command_line_keeps_a_run_there_and_finds_it_again(url, tmp_path):
    (tmp_path / "my_tools.py").write_text('def touch() -> dict:\n    """Make."""\n    return {}\n')
    (tmp_path / "tools.yaml").write_text("tools: [{path: my_tools.touch}]\n")
    (tmp_path / "p.yaml").write_text(
        "name: p\nsteps: [{name: s, tool: touch, approve: always}, {name: two, tool: touch}]\n"
    )
    done = fractale(tmp_path, "run", "p.yaml", "-r", "tools.yaml", "--store", url)
    assert done.returncode == 4, done.stderr
    assert not (tmp_path / ".fractale" / "checkpoints.sqlite").exists()
    (run_id,) = RunRecords(tmp_path / ".fractale").names()
    assert len(run_id) == 10, "other folders' runs are in that database, too"
    # Where the run's checkpoints are need not be said again.
    done = fractale(tmp_path, "resume", "-1", "--answer", "s=yes")
    assert done.returncode == 0, done.stderr
    # Where its password is needed again, `fork` takes it as `resume` does.
    folder = RunRecords(tmp_path / ".fractale").at(run_id)
    folder.write_head({**folder.read_head(), "store": "postgresql://anna:***@db/runs"})
    assert "--store" in fractale(tmp_path, "fork", "-1", "--at", "two").stderr
    done = fractale(tmp_path, "fork", "-1", "--at", "two", "--store", url)
    assert done.returncode == 0, done.stderr
    done = fractale(tmp_path, "runs", "prune", "--keep", "0", "--store", url)
    assert "2 runs removed" in done.stdout, done.stderr


def test_a_password_that_was_on_the_command_line_is_asked_for_again(url, tmp_path):
    (tmp_path / "p.yaml").write_text("name: p\nsteps: [{name: s, tool: t}]\n")
    folder = RunRecords(tmp_path / ".fractale").new("k7f3")
    there = "postgresql://anna:***@db/runs"
    folder.write_head({"file": str(tmp_path / "p.yaml"), "store": there, "inputs": {}})
    done = fractale(tmp_path, "resume", "k7f3")
    assert done.returncode == 2
    assert f"keeps its checkpoints in {there}" in done.stderr
    assert "--store" in done.stderr


def test_a_missing_extra_is_named():
    code = (
        "import asyncio, sys\n"
        "sys.modules['psycopg'] = None\n"  # as where it is not installed
        "from fractale.errors import DependencyMissing\n"
        "from fractale.store.checkpoints import open_checkpoints\n"
        "async def main():\n"
        "    async with open_checkpoints('postgresql://h/d'):\n"
        "        pass\n"
        "try:\n"
        "    asyncio.run(main())\n"
        "except DependencyMissing as error:\n"
        "    print(error.exit_code, error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "2 pip install 'fractale[postgres]'\n", done.stderr
