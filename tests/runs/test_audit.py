"""The audit log: who agreed to what, when, and from where, in lines that an admin can read."""

from __future__ import annotations

import getpass
import json
import os
import socket
import stat
import subprocess
from dataclasses import replace
from datetime import datetime

import pytest
from test_terminal import Terminal

import forked
from fractale.audit import AuditLog
from fractale.errors import StoreError
from fractale.models import Models
from fractale.plan.build import parse_plan
from fractale.policy import Policy
from fractale.questions import Answers
from fractale.runs import RunOptions, Runs
from fractale.settings import PolicySettings, load_settings
from fractale.testing import FakeToolServer, Reply, ScriptedModel

PLAN = """
name: p
steps: [{name: s, tool: wipe, approve: always, inputs: {path: /x, key: SECRET-1234567}}]
"""


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def tools():
    made = FakeToolServer()
    made.answer("wipe", {"done": True})
    return made


async def run(settings, made, **options):
    return await Runs(settings, made).start(parse_plan(PLAN), options=RunOptions(**options))


async def test_each_agreement_is_a_line_of_its_own(settings):
    settings = replace(
        settings,
        secrets=("SECRET-1234567",),
        environment={"SSH_CONNECTION": "192.0.2.7 51000 192.0.2.1 22", "SUDO_USER": "ada"},
    )
    result = await run(settings, tools(), answers=Answers({"s": "yes"}))
    assert result.status == "success"
    path = settings.state_dir / "audit.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    started, answer = lines(path)
    for line in (started, answer):
        assert line["uid"] == os.getuid()
        assert line["user"] == getpass.getuser()
        assert line["host"] == socket.gethostname()
        assert line["pid"] == os.getpid()
        assert (line["ssh_from"], line["sudo_user"]) == ("192.0.2.7", "ada")
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["run"] == result.run
    assert (started["what"], started["plan"], started["yes"]) == ("run", "p", False)
    assert (answer["what"], answer["kind"], answer["by"]) == ("answer", "approval", "answers")
    assert answer["answer"] is True
    assert answer["asked"]["tool"] == "wipe"
    assert answer["asked"]["arguments"] == {"path": "/x", "key": "***"}


async def test_yes_beforehand_and_a_resume_are_written_down(settings):
    waiting = await run(settings, tools())
    assert waiting.status == "waiting"
    runs = Runs(settings, tools())
    await runs.resume(waiting.run, RunOptions(yes=True))
    found = lines(settings.state_dir / "audit.jsonl")
    assert [(each["what"], each.get("yes"), each.get("by")) for each in found] == [
        ("run", False, None),
        ("resume", True, None),
        ("answer", None, "yes"),
    ]


async def test_a_site_has_them_in_a_file_of_its_own(settings, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    settings = replace(settings, audit=site)
    await run(settings, tools(), yes=True, keep=False)
    (path,) = site.iterdir()
    assert path.name == f"{getpass.getuser()}.jsonl"
    assert [each["what"] for each in lines(path)] == ["run", "answer"]
    assert not (settings.state_dir / "audit.jsonl").exists(), "a run that is not kept keeps none"
    settings = replace(settings, audit=site / "all.jsonl")
    await run(settings, tools(), yes=True)
    assert lines(site / "all.jsonl") == lines(settings.state_dir / "audit.jsonl")


async def test_what_cannot_be_written_down_is_not_done(settings, tmp_path):
    made = tools()
    settings = replace(settings, audit=tmp_path / "full.jsonl")
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="cannot write the audit log"):
        await run(settings, made, yes=True)
    assert made.calls == []


def test_a_file_that_may_only_grow_is_enough(tmp_path):
    path = tmp_path / "audit.jsonl"
    path.touch()
    if subprocess.run(["chattr", "+a", path], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no append-only files, or this is not root")
    try:
        AuditLog((path,)).record("trust", path="/project")
        AuditLog((path,)).record("trust", path="/other")
        assert [each["path"] for each in lines(path)] == ["/project", "/other"]
    finally:
        subprocess.run(["chattr", "-a", path], check=True)


def test_a_password_that_a_server_asked_for_is_not_in_it(tmp_path):
    from fractale.events import Event

    question = {"kind": "elicitation", "step": "s", "server": "x", "message": "pass word?"}
    answer = {"action": "accept", "content": {"password": "hunter22"}}
    event = Event("answered", "r", {"question": question, "answer": answer, "by": "person"})
    AuditLog((tmp_path / "a.jsonl",)).listen(event)
    assert "hunter22" not in (tmp_path / "a.jsonl").read_text()
    assert lines(tmp_path / "a.jsonl")[0]["answer"] == "accept"


def test_lines_stay_short(tmp_path):
    AuditLog((tmp_path / "a.jsonl",)).record("call", arguments={"text": "x" * 100_000})
    (line,) = lines(tmp_path / "a.jsonl")
    assert line["arguments"]["text"].endswith("(99500 more characters)")


def test_the_settings_say_where(tmp_path):
    (tmp_path / ".fractale").mkdir()
    (tmp_path / ".fractale" / "config.yaml").write_text("audit: log.jsonl\npoll_seconds: 30\n")
    trusting = {"HOME": str(tmp_path), "FRACTALE_TRUST_PROJECT": "1"}
    settings = load_settings(trusting, tmp_path)
    assert settings.audit == tmp_path / "log.jsonl"
    assert settings.poll_seconds == 30
    assert load_settings({**trusting, "FRACTALE_AUDIT": "/a"}, tmp_path).audit is not None
    for wrong in ("-1", "soon", "1e9", "nan"):
        with pytest.raises(Exception, match="poll_seconds must be a number"):
            load_settings({**trusting, "FRACTALE_POLL_SECONDS": wrong}, tmp_path)


PLANNED = """
name: p
steps: [{name: s, agent: ask, tools: [wipe], instruction: Wipe.}]
"""


@pytest.mark.parametrize(
    ("yes", "allow", "agreed"),
    [
        (True, (), "--yes"),
        (False, ("wipe",), "the settings allow it: wipe"),
        (True, ("x",), "--yes"),
    ],
)
async def test_each_call_that_was_agreed_to_beforehand_is_a_line(settings, yes, allow, agreed):
    settings = replace(settings, policy=PolicySettings(allow=allow))
    model = ScriptedModel([Reply(tool_calls=[("wipe", {"path": "/x"})]), "done"])
    runs = Runs(
        settings,
        tools(),
        models=Models(settings, given=model),
        policy=Policy(settings=settings.policy, yes=yes),
    )
    result = await runs.start(parse_plan(PLANNED), options=RunOptions(yes=yes))
    assert result.status == "success"
    [call] = [each for each in lines(settings.state_dir / "audit.jsonl") if each["what"] == "call"]
    assert (call["tool"], call["arguments"]) == ("wipe", {"path": "/x"})
    assert agreed in call["agreed"]


# -- what was trusted ----------------------------------------------------------------------------

JOB = "name: j\nsteps: [{name: s, job: {scheduler: local, command: [touch, ran.txt]}}]\n"
ACTS = {"servers": {"x": {"command": "false"}}}


@pytest.fixture
def project(tmp_path):
    """A project with settings that wait, and a plan, both not trusted."""
    work = tmp_path / "work"
    (work / ".fractale").mkdir(parents=True, mode=0o700)
    (work / ".fractale" / "config.yaml").write_text(json.dumps(ACTS))
    (work / "job.yaml").write_text(JOB)
    return work


def command(work, *words, home="home", **env):
    folder = work.parent / home
    folder.mkdir(exist_ok=True)
    own = {"HOME": str(folder), forked.TRUSTED: "", **env}
    return forked.run([*words], cwd=work, env={**os.environ, **own})


def trusted(work):
    found = lines(work / ".fractale" / "audit.jsonl")
    return [
        {name: line.get(name) for name in ("kind", "path", "by")}
        for line in found
        if line["what"] == "trust"
    ]


def test_what_fractale_trust_agrees_to_and_takes_back_is_written_down(project):
    for words in (("trust", "."), ("trust", "job.yaml"), ("trust", "--plans", ".")):
        assert command(project, *words).returncode == 0
    assert trusted(project) == [
        {"kind": "project", "path": str(project / ".fractale" / "config.yaml"), "by": "command"},
        {"kind": "plan", "path": str(project / "job.yaml"), "by": "command"},
        {"kind": "plans", "path": str(project), "by": "command"},
    ]
    assert command(project, "trust", "--remove", ".").returncode == 0
    last = lines(project / ".fractale" / "audit.jsonl")[-1]
    assert (last["what"], last["removed"], last["path"]) == ("trust", 3, str(project))


def test_without_a_state_folder_the_line_is_beside_the_trust_store(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "job.yaml").write_text(JOB)
    assert command(work, "trust", "job.yaml").returncode == 0
    assert not (work / ".fractale").exists()
    [line] = lines(tmp_path / "home" / ".config" / "fractale" / "audit.jsonl")
    assert (line["what"], line["path"]) == ("trust", str(work / "job.yaml"))


def test_trust_that_cannot_be_written_down_is_not_given(project):
    (project / ".fractale" / "audit.jsonl").symlink_to("/dev/full")
    for words in (("trust", "."), ("trust", "job.yaml"), ("trust", "--plans", ".")):
        done = command(project, *words)
        assert done.returncode == 1, done.stderr
        assert "cannot write the audit log" in done.stderr
    assert "nothing" in command(project, "trust", "--show").stdout


def test_what_is_agreed_to_at_the_terminal_is_written_down(project):
    known = {forked.TRUSTED: "", "HOME": str(project.parent)}
    screen = Terminal(project, "run", "job.yaml", **known)
    screen.wait_for("Do you trust this file? [y/N]")
    screen.type("n")
    screen.wait_for("Run it? [y/a/N]")
    screen.type("a")
    assert screen.end() == 0, screen.seen
    assert [(each["kind"], each["by"]) for each in trusted(project)] == [
        ("plans", "person"),
        ("plan", "person"),
    ]
    screen = Terminal(project, "list", "servers", **known)
    screen.wait_for("Do you trust this file? [y/N]")
    screen.type("y")
    assert screen.end() == 0, screen.seen
    assert trusted(project)[-1] == {
        "kind": "project",
        "path": str(project / ".fractale" / "config.yaml"),
        "by": "person",
    }


def test_a_run_says_that_an_option_trusted_all(project):
    assert command(project, "run", "job.yaml", FRACTALE_TRUST_PROJECT="0").returncode == 0
    assert command(project, "run", "job.yaml", FRACTALE_TRUST_PROJECT="1").returncode == 0
    assert command(project, "run", "job.yaml", "--trust-project").returncode == 0
    found = lines(project / ".fractale" / "audit.jsonl")
    runs = [line["trusted"] for line in found if line["what"] == "run"]
    assert runs == [False, True, True]
    assert [each["by"] for each in trusted(project)] == ["--trust-project"]


def test_agreeing_to_a_run_of_somebody_else_and_forks_are_written_down(project):
    assert command(project, "run", "job.yaml", FRACTALE_TRUST_PROJECT="0").returncode == 0
    fork = ("fork", "-1", "--at", "s")
    assert command(project, *fork, FRACTALE_TRUST_PROJECT="0").returncode == 0
    path = project / ".fractale" / "audit.jsonl"
    assert [line["what"] for line in lines(path)] == ["run", "fork"]
    assert lines(path)[1]["parent"]["run"] == lines(path)[0]["run"]
    assert command(project, *fork, home="other", FRACTALE_TRUST_PROJECT="1").returncode == 0
    [line] = trusted(project)
    assert (line["kind"], line["by"]) == ("run", "FRACTALE_TRUST_PROJECT")
    known = {forked.TRUSTED: "0", "HOME": str(project.parent / "third")}
    (project.parent / "third").mkdir()
    screen = Terminal(project, *fork, **known)
    screen.wait_for("Continue with it? [y/N]")
    screen.type("y")
    assert screen.end() == 0, screen.seen
    assert [(each["kind"], each["by"]) for each in trusted(project)][1:] == [("run", "person")]
    assert lines(path)[-1]["trusted"] is False


def test_the_python_that_studio_imports_is_written_down(project):
    (project / "langgraph.json").write_text('{"graphs": {"a": "./a.py:a"}}')
    assert command(project, "trust", "langgraph.json").returncode == 0
    assert trusted(project) == [
        {"kind": "registry", "path": str(project / "langgraph.json"), "by": "command"}
    ]
