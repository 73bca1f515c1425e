"""``fractale sweep`` as people type it: start, dry run, list, and what it says when it can't."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

import forked
from fractale.cli import run_command
from fractale.plan.build import load_plan
from fractale.runs.agreement import sweep_digest
from fractale.sweeps.record import SweepRecords

ROOT = Path(__file__).parents[2]
PLAN = """
name: doubles
inputs:
  n: {type: integer, default: 1}
  x: {type: number, default: 0.5}
  s: a
  key: {secret: true}
steps: [{name: one, set: {z: "{{ inputs.n * 2 }}"}}]
outputs: {z: "{{ values.z }}"}
"""
MODEL = """
name: asks a model
inputs: {n: 1}
limits: {tokens: 2000}
steps: [{name: one, type: agent, instruction: "Say {{ inputs.n }}"}]
"""
JOB = """
name: submits
inputs: {n: 1}
steps: [{name: one, job: {command: [echo, "{{ inputs.n }}"], nodes: 1, time: 1h}}]
"""
SWEEP = """
plan: p.yaml
over: {n: 1..3}
answers: {one: no}
merit: z
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("FRACTALE_INPUT_KEY", "canary-key-1")
    monkeypatch.setenv("FRACTALE_LOCAL_CORES", "2")
    (tmp_path / "home").mkdir()
    for name, text in (("p", PLAN), ("m", MODEL), ("j", JOB), ("sweep", SWEEP)):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.fixture
def fractale(place, capsys):
    """Runs a command line in this process: its exit code, stdout and stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        code = run_command(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


# -- a dry run


def test_a_dry_run_shows_the_rows_and_writes_nothing(fractale, place):
    code, out, err = fractale("sweep", "p.yaml", "--over", "n=1..9", "--over", "x=1,2", "--dry-run")
    assert (code, err) == (0, "")
    assert "18 runs of doubles (p.yaml)" in out
    assert "on         local, 2 at a time" in out
    for line in ("row 0      n=1, x=1", "…          13 more", "row 17     n=9, x=2"):
        assert line in out
    assert "nothing was run and no connection was opened" in out
    assert not (place / "state").exists()


def test_a_dry_run_names_missing_secret_inputs(fractale, monkeypatch):
    monkeypatch.delenv("FRACTALE_INPUT_KEY")
    code, out, _ = fractale("sweep", "p.yaml", "--over", "n=1,2", "--dry-run")
    assert (code, "set FRACTALE_INPUT_KEY before you start it" in out) == (0, True)


def costs(fractale, plan: str, *words: str) -> dict[str, float | None]:
    code, out, err = fractale("sweep", plan, "--over", "n=1..4", *words, "--dry-run", "--json")
    assert code == 0, err
    return {name: each["most"] for name, each in json.loads(out)["most"].items()}


def test_the_cost_at_most_is_a_bound_or_nothing(fractale):
    found = costs(fractale, "m.yaml")
    assert found["tokens"] == 8000  # the plan's limit, four times
    assert found["cost"] is None
    assert found["node_hours"] is None  # a model may submit jobs
    assert costs(fractale, "m.yaml", "--run-limit", "tokens=100")["tokens"] == 400
    cut = costs(fractale, "m.yaml", "--limit", "tokens=3000", "--run-limit", "cost=0.5")
    assert (cut["tokens"], cut["cost"]) == (3000, 2.0)
    assert set(costs(fractale, "p.yaml").values()) == {0}
    hours = costs(fractale, "j.yaml", "--run-limit", "node_hours=1.5")
    assert (hours["node_hours"], hours["tokens"], hours["core_hours"]) == (6.0, 0, None)


def test_the_text_of_a_dry_run_says_what_nothing_bounds(fractale):
    _, out, _ = fractale("sweep", "m.yaml", "--over", "n=1..4", "--dry-run")
    assert "tokens      8,000  (4 runs x 2,000 = 8,000)" in out
    assert "no bound: dollars, node-hours" in out
    assert "A model call that is in progress" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("p.yaml", "--over", "n=1,2", "--on", "clster"), "unknown executor `clster`"),
        (("p.yaml", "--over", "s=canary-key-1"), "is a secret of the settings"),
        (("p.yaml", "--over", "n=1,2", "--limit", "tokens=5"), "limit `tokens` of each run"),
        (("p.yaml", "--over", "n=1,2", "--limit", "steps=5"), "not a limit of a sweep"),
        (("p.yaml", "--over", "n=1,2", "--run-limit", "stps=5"), "unknown limit `stps`"),
        (("p.yaml", "--over", "n=1,2", "--sweep-id", "a.b"), "not a valid ID"),
        (("p.yaml", "--over", "n=1..400", "--over", "x=1..400"), "160,000 runs"),
        (("p.yaml", "--over", "m=1"), "no input `m`"),
        (("p.yaml", "--table", "none.csv"), "is not a file"),
        (("p.yaml",), "nothing varies"),
        (("p.yaml", "--over", "n=1,2", "--merit", "energy"), "no output `energy`"),
    ],
)
@pytest.mark.parametrize("more", [("--dry-run",), ()])
def test_what_cannot_start_is_refused_with_exit_code_2_in_a_dry_run_too(
    fractale, place, words, said, more
):
    code, out, err = fractale("sweep", *words, *more)
    assert (code, out) == (2, "")
    assert said in err
    assert "canary" not in err
    assert "Traceback" not in err
    assert not (place / "state").exists()


def test_a_wrong_row_of_a_table_is_shown_with_its_line(fractale, place):
    (place / "runs.csv").write_text("n,x\n1,2\ntwo,3\n")
    code, _, err = fractale("sweep", "p.yaml", "--table", "runs.csv")
    assert code == 2
    assert "runs.csv:3:1" in err
    assert "two,3" in err


def test_a_mistake_in_a_sweep_file_has_the_exit_code_of_an_invalid_plan(fractale, place):
    (place / "sweep.yaml").write_text(f"{SWEEP}jbos: 3\n")
    code, _, err = fractale("sweep", "sweep.yaml", "--dry-run")
    assert code == 3
    assert "sweep.yaml:6:1" in err


def test_hostile_texts_of_a_sweep_file_are_shown_inert(fractale, place):
    (place / "sweep.yaml").write_text(
        'plan: p.yaml\ndescription: "\\e[2Jgone"\nover: {s: ["\\e[31mred", b]}\n'
        'answers: {one: "\\e]0;title\\a"}\n'
    )
    code, out, _ = fractale("sweep", "sweep.yaml", "--dry-run")
    assert code == 0
    assert "\x1b" not in out
    assert "gone" in out


# -- the group


def test_help_shows_the_options_of_a_start_and_the_commands(fractale):
    for words in (("sweep", "--help"), ("sweep",)):
        _, out, err = fractale(*words)
        assert "--over NAME=VALUES" in out + err
        assert "list " in out + err
        assert "Usage: fractale sweep [OPTIONS] PLAN" in out + err
    _, out, _ = fractale("sweep", "p.yaml", "--help")
    assert out.startswith("Usage: fractale sweep [OPTIONS] PLAN")


def test_a_plan_with_the_name_of_a_subcommand_is_given_by_its_path(fractale, place):
    (place / "list").write_text(PLAN)
    assert fractale("sweep", "list")[:2] == (0, "")
    code, out, _ = fractale("sweep", "./list", "--over", "n=1,2", "--dry-run")
    assert (code, "2 runs of doubles (list)" in out) == (0, True)
    code, out, _ = fractale("sweep", "--over", "n=1,2", "--dry-run", "./list")
    assert code == 0


def test_a_command_for_runs_says_that_an_id_is_a_sweeps(fractale, place):
    from dataclasses import replace

    from fractale.settings import Settings
    from fractale.sweeps.begin import prepare, write_sweep
    from fractale.sweeps.spec import SweepSpec, axes_from_texts

    settings = replace(Settings(), state_dir=place / "state")
    spec = SweepSpec(plan="p.yaml", over=axes_from_texts(["n=1,2"]))
    write_sweep(prepare(spec, settings), settings, "melt")
    for words in (("show",), ("watch",), ("resume",), ("cancel",), ("fork", "--at", "one")):
        code, _, err = fractale(words[0], "melt", *words[1:])
        assert code == 2, words
        assert "`melt` is a sweep, not a run" in err
        assert "fractale sweep show melt" in err
    assert "run `nope` not found" in fractale("show", "nope")[2]
    assert "sweep `nope` not found" in fractale("sweep", "show", "nope")[2]


def test_the_list_of_sweeps_has_damaged_ones_too(fractale, place):
    assert fractale("sweep", "list") == (0, "", "no sweeps\n")
    sweeps = place / "state" / "sweeps"
    (sweeps / "broken").mkdir(parents=True)
    (sweeps / "broken" / "sweep.json").write_text("{")
    code, out, err = fractale("sweep", "list")
    assert (code, out) == (1, "")
    assert "the record of sweep broken cannot be read" in err


# -- consent


def test_an_agreement_is_for_the_sweep_file_its_table_and_its_plan(place):
    table = place / "runs.csv"
    table.write_text("n\n1\n")

    def digest(text: str = "t", file: str = "sweep.yaml", table: str | None = "runs.csv") -> str:
        return sweep_digest(file, text, table, load_plan("p.yaml"))

    seen = {digest(), digest(text="u"), digest(file="other.yaml"), digest(table=None)}
    table.write_text("n\n2\n")
    seen.add(digest())
    (place / "p.yaml").write_text(PLAN.replace("* 2", "* 3"))
    seen.add(digest())
    assert len(seen) == 6


def test_a_sweep_file_is_trusted_as_a_plan_is(fractale, place):
    code, out, err = fractale("trust", "sweep.yaml")
    assert code == 0, err
    assert "3 runs of doubles" in out
    assert 'answer     one: "no"' in out
    assert f"trusted: {place}/sweep.yaml" in out
    _, out, _ = fractale("trust", "--show")
    assert f"plan     {place}/sweep.yaml" in out


# -- real starts: processes of the command line, and their workers


@pytest.fixture
def started(place):
    """Starts a process of the command line in the place."""
    with forked.forking().ending() as processes:
        yield lambda *words: processes.start(words, cwd=place)


def test_a_sweep_runs_every_row_and_ends_with_its_verdict(fractale, started, place):
    process = started("sweep", "sweep.yaml", "--sweep-id", "melt", "--over", "x=1,2", "--json")
    out, err = process.communicate()
    assert process.returncode == 0, err
    data = json.loads(out)
    assert (data["status"], data["merit"]) == ("success", "z")
    assert [row["outputs"]["z"] for row in data["rows"]] == [2, 2, 4, 4, 6, 6]
    record = SweepRecords(place / "state").find("melt")
    runs = {path.name for path in (place / "state" / "runs").iterdir()}
    assert {f"melt.{row}" for row in range(6)} <= runs
    for folder in (record.path, *(place / "state" / "runs").glob("melt.*")):
        for path in folder.rglob("*"):
            assert not path.is_file() or b"canary-key-1" not in path.read_bytes(), path
    code, out, _ = fractale("sweep", "list")
    assert code == 0
    assert out.splitlines()[1].split()[:4] == ["melt", "doubles", "success", "6/6"]
    assert fractale("sweep", "p.yaml", "--over", "n=1,2", "--sweep-id", "melt")[0] == 2


SLOW = """
name: slow
inputs: {n: 1}
steps:
  - {name: nap, script: "#!/bin/sh\\nsleep 0.3"}
  - {name: again, script: "#!/bin/sh\\nsleep 0.3"}
"""


def test_the_first_signal_stops_a_sweep_that_can_be_resumed(fractale, started, place):
    (place / "slow.yaml").write_text(SLOW)
    process = started("sweep", "slow.yaml", "--over", "n=1..40", "--sweep-id", "slow")
    record = SweepRecords(place / "state").at("slow")
    began = time.monotonic()
    while sum(line["is"] == "ended" for line in record.read_ledger()) < 2:
        assert process.poll() is None
        assert time.monotonic() - began < 100
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 75, err
    assert "sweep slow stops" in err
    assert "stopped" in out
    assert "next: fractale sweep resume slow" in out
    _, out, _ = fractale("sweep", "show", "slow", "--json")
    counts = json.loads(out)["counts"]
    assert counts["success"] >= 2
    assert counts["pending"] > 0
    assert "failed" not in counts
