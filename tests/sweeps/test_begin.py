"""The start of a sweep: checked as a whole, written once, or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fractale.errors import (
    AnswerError,
    FractaleError,
    InputError,
    PlanError,
    RunHeld,
    StoreError,
    SweepError,
    UsageError,
)
from fractale.plan.build import load_plan
from fractale.record.plans import plan_hash
from fractale.settings import Settings
from fractale.settings.own_runs import is_own
from fractale.sweeps.begin import Prepared, check_free, check_secrets, prepare, write_sweep
from fractale.sweeps.driver import opened_sweep
from fractale.sweeps.record import SweepLedger, SweepLock, SweepRecords
from fractale.sweeps.results import view_of
from fractale.sweeps.spec import SweepSpec, axes_from_texts

INNER = "name: inner\nsteps: [{name: in, set: {a: 1}}]\n"
PLAN = """
name: p
inputs: {n: {type: integer, default: 1}, s: a, key: {secret: true}}
steps:
  - {name: ask, ask: Really?, choices: [a, b]}
  - {name: sub, plan: ./inner.yaml}
outputs: {z: "{{ inputs.n }}"}
"""


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(PLAN)
    (tmp_path / "inner.yaml").write_text(INNER)
    environment = {"HOME": str(tmp_path / "home"), "FRACTALE_INPUT_KEY": "canary-key-1"}
    (tmp_path / "home").mkdir()
    return replace(Settings(), state_dir=tmp_path / "state", environment=environment)


def spec(*over: str, **more) -> SweepSpec:
    return SweepSpec(plan="p.yaml", over=axes_from_texts(over or ("n=1,2,3",)), **more)


@pytest.fixture
def prepared(settings) -> Prepared:
    return prepare(spec(), settings)


def everything(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


# -- what is written


def test_the_record_has_all_that_a_driver_needs(settings, prepared):
    record = write_sweep(prepared, settings, "melt")
    head = record.read_head()
    assert record.read_rows() == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert head["inputs"] == {"s": "a"}
    assert (head["rows"], head["varied"], head["executor"]) == (3, ["n"], "local")
    assert head["options"]["model"] == settings.model_spec
    assert list(record.read_ledger()) == []
    assert SweepRecords(settings.state_dir).find("-1") == record


def test_runs_use_the_plan_as_it_was_with_those_that_it_includes(settings, prepared, tmp_path):
    record = write_sweep(prepared, settings)
    (tmp_path / "p.yaml").unlink()
    (tmp_path / "inner.yaml").unlink()
    kept = load_plan(record.plan)
    assert plan_hash(kept) == record.read_head()["plan_hash"]
    assert kept.steps[1].plan is not None
    assert kept.steps[1].plan.name == "inner"


def test_the_record_is_private_and_marked_as_the_users_own(settings, prepared):
    record = write_sweep(prepared, settings)
    assert is_own(record.read_head(), settings.environment)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in everything(record.path)}
    assert modes == {0o600}
    assert stat.S_IMODE(record.path.stat().st_mode) == 0o700


def test_nothing_secret_is_written(settings, prepared):
    check_secrets(prepared, {"key": "canary-key-1"})
    record = write_sweep(prepared, settings)
    assert not any(b"canary" in path.read_bytes() for path in everything(record.path))


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"over": ("s=canary-key-1,b",)}, SweepError),
        ({"inputs": {"s": "canary-key-1"}}, SweepError),
        ({"answers": {"ask": "canary-key-1"}}, InputError),
    ],
)
def test_a_sweep_that_would_store_a_secret_is_refused(settings, more, error):
    over = more.pop("over", ("n=1,2",))
    with pytest.raises(error, match="secret of the settings or the environment") as caught:
        prepare(spec(*over, **more), settings)
    assert "canary" not in str(caught.value)


# -- what is refused


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"on": "cluster"}, UsageError, "unknown executor `cluster`"),
        ({"answers": {"asks": "a"}}, AnswerError, "no step `asks`"),
        ({"merit": "zz"}, InputError, "no output `zz`"),
        ({"limits": {"tokens": 100}}, UsageError, "limit `tokens` of each run"),
        ({"limits": {"tokens": 5}, "run_limits": {"tokens": 9}}, UsageError, "more than"),
        ({"inputs": {"n": "x", "m": 1}}, SweepError, "no input `m`"),
    ],
)
def test_a_sweep_that_cannot_run_is_refused_before_anything_is_written(
    settings, more, error, words
):
    with pytest.raises(error, match=words):
        prepare(spec(**more), settings)
    assert not settings.state_dir.exists()


def test_an_invalid_plan_is_refused(settings, tmp_path):
    (tmp_path / "p.yaml").write_text(PLAN.replace("./inner.yaml", "./gone.yaml"))
    with pytest.raises(PlanError):
        prepare(spec(), settings)
    assert not settings.state_dir.exists()


def test_a_missing_secret_input_is_named(settings, prepared):
    with pytest.raises(InputError, match="FRACTALE_INPUT_KEY"):
        check_secrets(prepared, {})


# -- IDs


@pytest.mark.parametrize("name", ["a.b", "", "-a", "a/b", "..", "a" * 49, "ä"])
def test_an_id_that_runs_could_not_extend_is_refused(settings, prepared, name):
    with pytest.raises(UsageError, match="not a valid ID"):
        write_sweep(prepared, settings, name)
    assert not (settings.state_dir / "sweeps").exists()


@pytest.mark.parametrize("run", ["melt", "melt.0", "melt.17.2", "melt.x"])
def test_an_id_whose_runs_exist_is_refused(settings, prepared, run):
    (settings.state_dir / "runs" / run).mkdir(parents=True)
    for check in (lambda: check_free(settings, "melt"), lambda: start(settings, prepared)):
        with pytest.raises(UsageError, match=f"there is a run `{run}` already"):
            check()
    assert SweepRecords(settings.state_dir).ids() == []


def start(settings: Settings, prepared: Prepared):
    return write_sweep(prepared, settings, "melt")


def test_an_id_is_used_once(settings, prepared):
    (settings.state_dir / "runs" / "melt2.0").mkdir(parents=True)  # another prefix
    record = start(settings, prepared)
    before = record.head.read_bytes()
    with pytest.raises(UsageError, match="there is a sweep `melt` already"):
        start(settings, prepared)
    assert record.head.read_bytes() == before


def test_a_start_that_was_killed_does_not_block_its_id(settings, prepared):
    left = SweepRecords(settings.state_dir).at("melt")
    left.path.mkdir(parents=True)
    left.rows.write_text("{}\n" * 9)
    assert SweepRecords(settings.state_dir).ids() == []
    assert start(settings, prepared).read_rows() == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_start_has_the_lock_until_its_head_is_written(settings, prepared):
    other = SweepRecords(settings.state_dir).at("melt")
    other.path.mkdir(parents=True)
    with SweepLock(other), pytest.raises(RunHeld, match="sweep melt is held by"):
        start(settings, prepared)
    assert not other.head.exists()


STARTS = """
import os, sys
from dataclasses import replace
from pathlib import Path
from fractale.errors import FractaleError
from fractale.settings import Settings
from fractale.sweeps.begin import prepare, write_sweep
from fractale.sweeps.spec import SweepSpec, axes_from_texts

settings = replace(Settings(), state_dir=Path("state"), environment={"HOME": "home"})
prepared = prepare(SweepSpec(plan="p.yaml", over=axes_from_texts(["n=1..300"])), settings)
begin, open_ = os.pipe()
for _ in range(8):
    if os.fork() == 0:
        os.close(open_)
        os.read(begin, 1)  # until all are there
        try:
            write_sweep(prepared, settings, "race")
            os.write(1, b"started\\n")
        except FractaleError as error:
            os.write(1, f"{error.code}\\n".encode())
        os._exit(0)
os.close(open_)
for _ in range(8):
    os.wait()
"""


def test_of_several_starts_with_one_id_one_goes_on(settings, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STARTS], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    ends = done.stdout.split()
    assert len(ends) == 8
    assert ends.count("started") == 1, ends
    assert set(ends) <= {"started", "usage", "run-held"}
    assert len(SweepRecords(tmp_path / "state").at("race").read_rows()) == 300


def test_a_record_that_cannot_be_written_is_not_left(settings, prepared, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "sweeps").write_text("a file")
    with pytest.raises(StoreError, match="cannot make"):
        start(settings, prepared)
    with pytest.raises(FractaleError, match="is not a directory"):
        SweepRecords(settings.state_dir).ids()


# -- the ledger


def test_a_line_that_a_crash_cut_has_no_effect_and_the_next_one_is_whole(settings, prepared):
    record = start(settings, prepared)
    with SweepLedger(record) as ledger:
        ledger.add({"row": 0, "is": "started"}, {"row": 1, "is": "started"})
    with record.ledger.open("ab") as file:
        file.write(b'{"row":0,"is":"en')
    assert [line["row"] for line in record.read_ledger()] == [0, 1]
    with SweepLedger(record) as ledger:
        ledger.add({"row": 1, "is": "ended"})
    assert [line["is"] for line in record.read_ledger()] == ["started", "started", "ended"]


@pytest.mark.parametrize(
    "line",
    [
        b"{]\n",
        b"[1]\n",
        b"\xff\n",
        b'{"row":0}\n',
        b'{"row":0,"is":"ended","outputs":[1]}\n',
        b'{"row":0,"is":"ended","used":{"tokens":"many"}}\n',
        b'{"row":0,"is":"started","reserved":{"tokens":NaN}}\n',
        b'{"row":0,"is":"lost","losses":"x"}\n',
    ],
)
def test_a_damaged_ledger_is_an_error_that_names_the_line(settings, prepared, line):
    record = start(settings, prepared)
    record.ledger.write_bytes(b'{"row":0,"is":"started"}\n' + line)
    with pytest.raises(StoreError, match="line 2, is damaged"):
        list(record.read_ledger())


@pytest.mark.parametrize("content", ["", "[]", "{", None])
def test_a_damaged_head_is_an_error(settings, prepared, content):
    record = start(settings, prepared)
    record.head.unlink() if content is None else record.head.write_text(content)
    with pytest.raises(StoreError, match="the record of sweep melt cannot be read"):
        record.read_head()


@pytest.mark.parametrize("left", [0, 2, 4])
async def test_a_file_of_rows_that_lost_some_is_an_error(settings, prepared, left):
    record = start(settings, prepared)
    lines = [*record.rows.read_bytes().splitlines(keepends=True), b'{"n":4}\n']
    record.rows.write_bytes(b"".join(lines[:left]))
    words = f"{left} rows, and it began with 3"
    with pytest.raises(StoreError, match=words):
        view_of(record)
    with pytest.raises(StoreError, match=words):
        async with opened_sweep(record):
            pass


def test_a_process_that_only_looks_does_not_keep_another_from_the_sweep(settings, prepared):
    """As `sweep show` does: it has the lock for a moment, to see whether another has it."""
    record = start(settings, prepared)
    with SweepLock(record):
        pass
    descriptor = os.open(record.lock, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    looking = threading.Timer(0.05, os.close, (descriptor,))
    looking.start()
    with SweepLock(record):
        pass
    looking.join()


def test_rows_are_json_lines(settings, prepared):
    record = start(settings, prepared)
    lines = record.rows.read_text().splitlines()
    assert [json.loads(line) for line in lines] == record.read_rows()
    record.rows.unlink()
    with pytest.raises(StoreError, match=r"rows\.jsonl is missing"):
        record.read_rows()
