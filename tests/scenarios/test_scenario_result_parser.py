"""A job tells a joke, and `result_parse` derives the expression of its punchline."""

from __future__ import annotations

import time

import pytest

from fractale.testing import ModelServer, Reply
from scenarios import Reader, asked, by_turns, errors_of, path_of
from slurm import running_slurm

PLAN = ("run", "plans/result-parser.yaml", "-r", "registries/result-parser.yaml")
OWN = ("-i", "script=plans/data/joke.sh")
LOCAL = ("-i", "scheduler=local")
SCRIPT = "#!/bin/sh\necho 'Why did the job wait?'\necho 'Punchline: it was in line.'\n"
WRONG = Reply(data={"why": "the last line", "regex": r"Punch: (.*)"})
RIGHT = Reply(data={"why": "the last line", "regex": r"(?m)^Punchline: (.+)$"})
SECONDS = "wait=120"


def test_a_jobs_punchline_is_found(tmp_path):
    """The first expression finds nothing, which goes back to the model."""
    with ModelServer(by_turns(WRONG, RIGHT)) as server:
        words = (*PLAN, *OWN, *LOCAL, "-i", SECONDS, "--yes", "--answer", "parse=yes")
        events = Reader(tmp_path, server).events(*words)
    assert path_of(events)[2:] == [f"{s}:success" for s in ("submit", "wait", "log", "parse")]
    outputs = events[-1]["outputs"]
    assert outputs["punchline"] == "Because light attracts bugs."
    assert outputs["regex"] == r"(?m)^Punchline: (.+)$"
    assert "Setup: Why do programmers" in outputs["log"]
    assert r"Punch: (.*)" in asked(server.requests[1]).replace("\\\\", "\\")


def test_a_script_that_a_model_wrote_runs_only_if_a_person_agrees(tmp_path):
    with ModelServer(by_turns(Reply(data={"script": SCRIPT}), RIGHT)) as server:
        reader = Reader(tmp_path, server)
        waits = reader(*PLAN, *LOCAL, "-i", SECONDS)
        assert waits.returncode == 4, waits.stderr
        assert "it was in line" in waits.stderr, "the whole call is shown"
        assert not list((tmp_path / ".fractale").glob("jobs/*/log"))
        agreed = reader("resume", "-1", "--answer", "submit=yes")
        assert agreed.returncode == 4, agreed.stderr
        assert "Is this the punchline of the log?" in agreed.stderr
        end = reader.end("resume", "-1", "--answer", "parse=yes")
    assert end["outputs"]["punchline"] == "it was in line."


def test_a_job_that_fails_tells_no_joke(tmp_path):
    (tmp_path / "job.sh").write_text("#!/bin/sh\necho no jokes today\nexit 3\n")
    with ModelServer([]) as server:
        words = ("-i", "script=job.sh", *LOCAL, "-i", SECONDS, "--yes")
        events = Reader(tmp_path, server).events(*PLAN, *words)
    assert path_of(events)[-1] == "wait:failure"
    assert "exit code 3" in errors_of(events, "wait")[0]
    assert "last line: no jokes today" in errors_of(events, "wait")[0]
    assert server.requests == []


def test_a_job_that_has_not_ended_yet_tells_none_either(tmp_path):
    (tmp_path / "job.sh").write_text("#!/bin/sh\nsleep 8\n")
    with ModelServer([]) as server:
        words = ("-i", "script=job.sh", *LOCAL, "-i", "wait=1", "--yes")
        events = Reader(tmp_path, server).events(*PLAN, *words)
    assert path_of(events)[-1] == "wait:failure"
    assert "not over" in errors_of(events, "wait")[0]
    deadline = time.monotonic() + 60
    while not list((tmp_path / ".fractale").glob("jobs/*/ended.*")):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.real
def test_the_same_under_slurm(tmp_path):
    with running_slurm() as slurm, ModelServer(by_turns(RIGHT)) as server:
        reader = Reader(tmp_path, server, **slurm.environment)
        words = (*OWN, "-i", "scheduler=slurm", "-i", SECONDS, "--yes", "--answer", "parse=yes")
        end = reader.end(*PLAN, *words)
    assert end["status"] == "success", end
    assert end["outputs"]["punchline"] == "Because light attracts bugs."
    assert end["outputs"]["job"].startswith("slurm ")


def test_the_prompt_of_0_1_0_writes_runs_and_parses(tmp_path):
    """The agent goes to work at once: it has the job's tools, and asks the parser."""
    words = (
        "Write me a job that tells a joke, and then ask the result parser tool to derive a "
        "regular expression for the punchline."
    )
    job = {"script": SCRIPT, "key": "a-joke", "scheduler": "local"}
    log = "Why did the job wait?\nPunchline: it was in line.\n"
    parse = {"name": "result_parse", "inputs": {"metric_name": "punchline", "log_text": log}}
    model = by_turns(
        Reply(tool_calls=[("job_submit", job)]),
        Reply(tool_calls=[("job_wait", {"key": "a-joke", "seconds": 120})]),
        Reply(tool_calls=[("job_logs", {"key": "a-joke"})]),
        Reply(tool_calls=[("ask_expert", parse)]),
        RIGHT,
        lambda request: "derived" if "it was in line." in asked(request)[-600:] else "nothing",
    )
    with ModelServer(model) as server:
        reader = Reader(tmp_path, server)
        registry = ("--yes", "-r", "registries/result-parser.yaml")
        done = reader("prompt", *registry, words)
        if done.returncode == 4:
            done = reader("resume", "-1", "--yes", "--answer", "ask=yes")
        assert done.returncode == 0, done.stderr
    assert "derived" in done.stderr + done.stdout
