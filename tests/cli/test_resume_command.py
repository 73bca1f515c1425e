"""`fractale resume`: what goes on, what is wrong use, and how a scheduler is told to do it."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from fractale.cli import run_command as fractale
from fractale.cli.commands.resume import command
from fractale.runs.result import RunResult, next_commands
from recording import Recording

PLAN = """
name: job
steps: [{name: a, job: {scheduler: local, command: [touch, "{{ run.dir }}/here"]}, approve: always}]
"""

JOBS = """
name: jobs
steps:
  - name: a
    foreach: [0, 1]
    job:
      scheduler: local
      script: "while [ ! -e go-{{ item }} ]; do sleep 0.05; done; exit {{ item }}"
"""
LATE = """
name: late
steps: [{name: a, timeout: 1s, job: {scheduler: local, command: [sleep, 600]}}]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "p.yaml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "state"))
    yield tmp_path
    for number in (0, 1):  # no job outlives its test
        (tmp_path / f"go-{number}").touch()


def runs(project: Path) -> list[str]:
    return [path.name for path in (project / "state" / "runs").iterdir()]


def test_a_run_goes_on_with_the_answer_that_it_waits_for(project, capsys):
    assert fractale(["run", "p.yaml", "--quiet"]) == 4
    assert fractale(["resume", "-1", "--quiet"]) == 4, "nobody has answered"
    [run] = runs(project)
    assert fractale(["resume", run, "--answer", "a=yes"]) == 0
    assert (project / "state" / "runs" / run / "here").exists()
    capsys.readouterr()
    assert fractale(["resume", run]) == 0
    assert f"run {run} has already ended; nothing was run" in capsys.readouterr().err


def test_an_answer_that_no_question_waits_for_is_told(project, capsys):
    assert fractale(["run", "p.yaml", "--quiet"]) == 4
    assert fractale(["resume", "-1", "--answer", "a=yes", "--quiet"]) == 0
    [run] = runs(project)
    capsys.readouterr()
    assert fractale(["resume", run, "--answer", "a=no"]) == 0
    assert "nothing was run; no question waits for the answer to `a`" in capsys.readouterr().err
    assert fractale(["resume", run]) == 0, "no answer is given"


def test_without_a_job_there_is_nothing_to_go_on_with(project, capsys):
    assert fractale(["run", "p.yaml", "--quiet"]) == 4
    capsys.readouterr()
    assert fractale(["resume", "--ready"]) == 0
    assert capsys.readouterr().err == "no run is waiting for a job or a time\n"
    assert fractale(["resume", "--ready", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_runs_go_on_when_their_jobs_have_ended(project, capsys):
    (project / "jobs.yaml").write_text(JOBS)
    assert fractale(["run", "jobs.yaml", "--detach", "--quiet"]) == 4
    assert fractale(["run", "p.yaml", "--quiet"]) == 4, "it waits for a person, and is left alone"
    capsys.readouterr()
    assert fractale(["resume", "--ready"]) == 0
    assert capsys.readouterr().err == "no run is ready: 1 run waiting for 2 jobs\n"
    (project / "go-0").touch()
    said, code = ready(capsys)
    assert (" completed\n" in said, code) == (True, 0), said
    (project / "go-1").touch()
    said, code = ready(capsys)
    assert (" failed\n" in said, code) == (True, 1), said
    assert fractale(["resume", "--ready"]) == 0
    assert capsys.readouterr().err == "no run is waiting for a job or a time\n"


def test_a_run_whose_time_is_up_goes_on_and_ends_its_job(project, capsys):
    (project / "late.yaml").write_text(LATE)
    assert fractale(["run", "late.yaml", "--detach", "--quiet"]) == 4
    said, code = ready(capsys)
    assert ("exceeded the timeout of its step" in said, code) == (True, 1), said


def ready(capsys) -> tuple[str, int]:
    """What `fractale resume --ready` says once some run is ready, and its exit code."""
    until = time.monotonic() + 60
    while True:
        capsys.readouterr()
        code = fractale(["resume", "--ready"])
        said = capsys.readouterr().err
        if not said.startswith("no run is ready"):
            return said, code
        assert time.monotonic() < until, said
        time.sleep(0.1)


ASKING_TOOL = """
from langgraph.types import interrupt

def ask_size(kind: str) -> dict:
    return {"nodes": interrupt({"question": f"How many nodes for {kind}?"})}
"""
ASKING_PLAN = """
name: asking
steps: [{name: s, tool: ask_size, inputs: {kind: lammps}}]
outputs: {nodes: "{{ steps.s.outputs.nodes }}"}
"""


def test_the_interrupt_of_a_tools_code_is_a_question(project, monkeypatch, capsys):
    (project / "asking_tool.py").write_text(ASKING_TOOL)
    (project / "tools.yaml").write_text("tools: [{path: asking_tool.ask_size}]")
    (project / "asking.yaml").write_text(ASKING_PLAN)
    monkeypatch.syspath_prepend(project)
    monkeypatch.setenv("FRACTALE_TRUST_PROJECT", "1")
    assert fractale(["run", "asking.yaml", "-r", "tools.yaml"]) == 4
    said = capsys.readouterr().err
    assert "the tool ask_size asks:" in said
    assert "How many nodes for lammps?" in said
    [run] = runs(project)
    assert fractale(["resume", run, "--answer", "s=4"]) == 0
    assert "nodes   4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no run was named"),
        (["k7f3a", "--ready"], "RUN and --ready exclude each other"),
        (["k7f3a"], "k7f3a"),
    ],
)
def test_what_can_not_go_on_is_told(project, capsys, words, says):
    assert fractale(["resume", *words]) == 2
    assert says in capsys.readouterr().err


def test_ids_of_runs_are_completed(project):
    for name in ("k7f3a", "k7aaa", "b2b2b"):
        Recording(project / "state", name).start()
    done = CliRunner().invoke(
        command,
        prog_name="resume",
        env={"_RESUME_COMPLETE": "bash_complete", "COMP_WORDS": "resume k7", "COMP_CWORD": "1"},
    )
    assert sorted(done.output.split()) == ["plain,k7aaa", "plain,k7f3a"]


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        ("slurm", "sbatch --dependency=afterany:4711 --output=/dev/null --wrap="),
        ("flux", "flux submit --dependency=afterany:4711 sh -c "),
        ("pbs", "echo "),
        ("lsf", "bsub -w 'ended(4711)' -o /dev/null "),
    ],
)
def test_a_scheduler_can_go_on_with_a_run_itself(tmp_path, monkeypatch, scheduler, told):
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    job = {"kind": "job", "step": "a", "scheduler": scheduler, "job": "4711"}
    record = folder / ".fractale" / "runs" / "k7f3"
    waiting = RunResult(run="k7f3", status="waiting", record=record, waiting=[job])
    *ways, after = next_commands(waiting)
    assert ways == ["fractale resume k7f3", "fractale resume --ready", "fractale cancel k7f3"]
    assert after.startswith(told)
    # What the scheduler starts has neither our PATH nor our working folder.
    words = [word.removeprefix("--wrap=") for word in shlex.split(after)]
    (command,) = [word for word in words if word.startswith("cd ")]
    program = Path(sys.executable).with_name("fractale")
    assert shlex.split(command) == [
        "cd",
        str(folder),
        "&&",
        str(program),
        "resume",
        "k7f3",
        "--detach",
    ]


def test_the_elements_of_an_array_are_one_job_to_the_scheduler(tmp_path):
    record = tmp_path / "runs" / "k7f3"

    def after(*jobs: str) -> list[str]:
        waiting = [
            {"kind": "job", "step": f"a[{i}]", "scheduler": "slurm", "job": job}
            for i, job in enumerate(jobs)
        ]
        result = RunResult(run="k7f3", status="waiting", record=record, waiting=waiting)
        return [words for words in next_commands(result) if words.startswith("sbatch")]

    (command,) = after("4711", "4711", "4711")
    assert "--dependency=afterany:4711 " in command
    assert after("4711", "4712") == []


def test_a_state_folder_elsewhere_is_named_to_the_scheduler(tmp_path):
    job = {"kind": "job", "step": "a", "scheduler": "pbs", "job": "12[].pbshost"}
    record = tmp_path / "a state" / "runs" / "k7f3"
    waiting = RunResult(run="k7f3", status="waiting", record=record, waiting=[job])
    after = next_commands(waiting)[-1]
    assert "qsub -W depend=afterany:'12[].pbshost' -j oe -o /dev/null" in after
    assert f"FRACTALE_STATE_DIR={shlex.quote(str(tmp_path / 'a state'))} " in shlex.split(after)[1]


def test_for_two_jobs_or_a_local_one_no_scheduler_is_told(tmp_path):
    job = {"kind": "job", "step": "a", "scheduler": "slurm", "job": "4711"}
    for waiting in ([job, {**job, "step": "b", "job": "4712"}], [{**job, "scheduler": "local"}]):
        result = RunResult(run="k7f3", status="stopped", record=tmp_path, waiting=waiting)
        ways = ["fractale resume k7f3", "fractale resume --ready", "fractale cancel k7f3"]
        assert next_commands(result) == ways
