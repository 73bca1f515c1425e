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
