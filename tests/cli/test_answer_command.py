"""``fractale answer``: answers for runs that ask at a terminal, and for those without a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forked import Forking
from fractale.settings import Settings
from tmux import Tmux

PATIENCE = 60.0
TOOLS = '''
import os

def note(what: str) -> dict:
    """Note something."""
    file = os.open("calls.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, (what + "\\n").encode())
    os.close(file)
    return {"returncode": 0}
'''
PLAN = """
name: asks
inputs: {word: last}
steps:
  - name: queue
    ask: Which queue?
    choices: [debug, batch]
    default: batch
  - {name: submit, tool: note, inputs: {what: job}, approve: always}
  - {name: name, ask: Under which name?}
  - {name: last, tool: note, inputs: {what: "{{ inputs.word }}"}}
outputs: {queue: "{{ steps.queue.outputs.answer }}", name: "{{ steps.name.outputs.answer }}"}
"""
STARTS = """
import asyncio, sys, time
from fractale.runs.actions import Actions, RunFlags
from fractale.settings import load_settings

async def start():
    actions = Actions(load_settings(), by="a face", patience=60.0)
    flags = RunFlags(registries=["tools.yaml"])
    begun = await actions.start("plan.yaml", {"word": "by a file, 5"}, flags)
    print(begun.run, begun.pid, begun.begun, flush=True)

asyncio.run(start())
time.sleep(600)
"""


class Place:
    """A directory with a plan, its tools, and its runs."""

    def __init__(self, folder: Path, processes: Forking) -> None:
        self.folder, self._processes = folder, processes
        (folder / "plan.yaml").write_text(PLAN)
        (folder / "answer_tools.py").write_text(TOOLS)
        (folder / "tools.yaml").write_text("tools: [answer_tools.note]\n")
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.env = {**kept, "HOME": str(folder), "PYTHONPATH": str(folder)}
        self.env["FRACTALE_TRUST_PROJECT"] = "1"

    def start(self, *words: str) -> Any:
        return self._processes.start(words, cwd=self.folder, env=self.env)

    def call(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in err, err
        assert process.returncode is not None
        return process.returncode, out + err

    def terminal(self, *more: str) -> Tmux:
        words = (sys.executable, "-m", "fractale.cli", "run", "plan.yaml", "-r", "tools.yaml")
        return Tmux(self.folder, *words, *more, "--run-id", "one", env=self.env, size=(90, 45))

    def events(self, kind: str, step: str | None = None) -> list[dict[str, Any]]:
        path = self.folder / ".fractale" / "runs" / "one" / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        found = [each for line in lines if (each := json.loads(line))["event"] == kind]
        return [each for each in found if step in (None, each.get("step"))]

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls.txt"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def answers(self) -> Path:
        return self.folder / ".fractale" / "runs" / "one" / "answers"

    @property
    def holder(self) -> int:
        return json.loads((self.answers.parent / "lock").read_text())["pid"]


@pytest.fixture
def place(tmp_path: Path, processes: Forking) -> Place:
    return Place(tmp_path, processes)


def until(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_terminal_takes_answers_from_another_and_the_first_of_many_wins(place):
    with place.terminal() as terminal:
        terminal.ask_for("Which queue?")
        code, said = place.call("answer", "one")
        assert code == 0
        assert re.sub(r"process \d+ on \S+ since \d\d:\d\d", "PROCESS", said) == (
            "run one waits for 1 answer; PROCESS asks now\n\n"
            "queue\n  Which queue?\n    1  debug\n    2  batch   (default)\n"
            "  answer with: debug, batch\n\n"
            "next    fractale answer one queue=debug\n"
        )
        code, said = place.call("answer", "one", "queue=banana")
        assert (code, "is not a valid answer" in said) == (2, True)
        terminal.key("d")  # the user is in the middle of a word
        code, said = place.call("answer", "one", "queue=debug")
        assert (code, said) == (
            0,
            'answered queue: "debug"\nrun one has it and continues\nnext    fractale watch one\n',
        )
        terminal.key("Enter")
        screen = terminal.ask_for("submit wants to call local.note")
        assert re.search(r"> d\s+answered elsewhere; what you type here is not used\n", screen)
        assert re.search(r'\n   queue: \S+ answered in fractale answer: "debug"\n', screen)
        assert place.calls == []
        assert place.call("answer", "one", "submit=y")[0] == 0
        terminal.ask_for("Under which name?")
        race = [place.start("answer", "one", f"name=name {number}") for number in range(6)]
        codes = [(each.communicate(timeout=PATIENCE), each.returncode)[1] for each in race]
        assert sorted(codes) == [0, *[1] * 5]
        assert terminal.end() == 0
        assert re.search(rf"\n  name +name {codes.index(0)}\n", terminal.screen())
    (answered,) = place.events("answered", "name")
    assert answered["answer"] == f"name {codes.index(0)}"
    assert place.calls == ["job", "last"]
    code, said = place.call("answer", "one", "name=late")
    assert code == 1
    assert re.search(r"`name` was answered before, by \S+ in fractale answer at", said)


def test_an_answer_can_wait_for_the_process_that_has_the_run(place):
    given = ("--answer", "submit=yes", "--answer", "name=last")
    with place.terminal(*given) as terminal:
        terminal.ask_for("Which queue?")
        code, said = place.call("answer", "one", "queue=debug", "--wait")
        assert terminal.end() == 0
    assert code == 0, said
    assert 'answered queue: "debug"\nrun one has it and continues\n' in said
    assert re.search(r"^success", said, re.MULTILINE)
    assert place.calls == ["job", "last"]


def test_an_answer_that_was_not_taken_before_a_kill_is_used_once(place):
    with place.terminal() as terminal:
        terminal.ask_for("Which queue?")
        process = place.holder
        os.kill(process, signal.SIGSTOP)
        answering = place.start("answer", "one", "queue=debug")
        until(lambda: [p for p in place.answers.glob("*.json") if p.name != "asking.json"])
        os.kill(process, signal.SIGKILL)
    out, err = answering.communicate(timeout=PATIENCE)
    assert "run one continues in the background" in out, err
    until(lambda: place.events("waiting", "submit"))
    (answered,) = place.events("answered", "queue")
    assert (answered["answer"], answered["via"]) == ("debug", "fractale answer")
    until(lambda: len(place.events("run_finished")) == 1)
    code, said = place.call("answer", "one", "submit=y", "--wait")
    assert code == 4, said
    assert "Under which name?" in said
    assert place.calls == ["job"]


async def test_one_process_for_one_answer_and_another_answer_does_not_start_it(place, monkeypatch):
    """The process that resumes the run is slow, so that the answer waits for it."""
    from fractale.runs.actions import Actions, AlreadyAnswered
    from fractale.settings import load_settings

    monkeypatch.chdir(place.folder)
    words = ("run", "plan.yaml", "-r", "tools.yaml", "--run-id", "one", "--yes")
    assert place.call(*words)[0] == 4
    gate = place.folder / "gate"
    slow = f"\nimport time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)\n"
    (place.folder / "answer_tools.py").write_text(TOOLS + slow)
    actions = Actions(load_settings(place.env), by="a face", patience=0.5)
    given = await actions.answer("one", "name", "yes")
    assert given.started is not None
    assert (given.taken, given.started.begun) == (False, False)
    for words in (
        ("answer", "one", "name=no"),
        ("answer", "one", "name=no", "--wait"),
        ("resume", "one", "--answer", "name=no"),
    ):
        code, said = place.call(*words)
        assert code == 1
        assert re.search(r'before, by \S+ in a face at \S+: "yes"; run one has not used that', said)
        assert "continue with that answer: fractale resume one" in said
        assert re.search(r"take it back first: rm \S+/answers/\w+\.json", said)
    with pytest.raises(AlreadyAnswered):
        await actions.answer("one", "name", "no")
    gate.touch()
    until(lambda: [each for each in place.events("run_finished") if each["status"] == "success"])
    (answered,) = place.events("answered", "name")
    assert answered["answer"] == "yes"
    assert [each["resumed"] for each in place.events("run_started")] == [False, True]
    audit = (place.folder / ".fractale" / "audit.jsonl").read_text()
    assert audit.count('"action": "resume"') == 1


def test_a_run_without_a_process_continues_in_the_background(place):
    (place.folder / "answers.yaml").write_text("queue: debug\nsubmit: yes\n")
    words = ("run", "plan.yaml", "-r", "tools.yaml", "--run-id", "one", "--answers", "answers.yaml")
    assert place.call(*words)[0] == 4
    (place.folder / "plan.yaml").write_text(PLAN.replace("what: job", "what: other"))
    code, said = place.call("answer", "one", "name=melt")
    assert code == 1
    first, *below = said.splitlines()
    assert first.startswith("error  the answer was dropped: the plan ")
    assert first.endswith(" has changed since run one was started: step `submit` (inputs.what)")
    assert below == [
        "       continue with the changed plan: fractale fork one --at submit; or restore the plan",
        f"       the plan as it was: {place.answers.parent / 'plan.yaml'}",
    ]
    assert list(place.answers.glob("*.json")) == []
    (place.folder / "plan.yaml").write_text(PLAN)
    code, said = place.call("answer", "one", "name=melt", "--json")
    assert code == 0, said
    (answer,) = json.loads(said)["answers"]
    assert (answer["answer"], answer["started"]["begun"]) == ("melt", True)
    until(lambda: [each for each in place.events("run_finished") if each["status"] == "success"])
    assert place.calls == ["job", "last"]
    log = Path(answer["started"]["log"])
    until(lambda: re.search(r"\n  name +melt\n", log.read_text()))
    code, said = place.call("show", "one")
    assert re.search(r'question: Under which name\? → "melt" \(\S+ in fractale answer\)', said)


def test_a_run_in_the_background_outlives_who_started_it(place):
    face = subprocess.Popen(
        [sys.executable, "-c", STARTS],
        cwd=place.folder,
        env=place.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert face.stdout is not None
        run, pid, begun = face.stdout.readline().split()
        words = Path(f"/proc/{pid}/cmdline")
        shown = words.read_bytes() if words.exists() else b""
    finally:
        face.kill()
        face.wait()
    assert begun == "True"
    assert b"by a file" not in shown
    folder = place.folder / ".fractale" / "runs" / run
    until(lambda: '"status": "waiting"' in (folder / "events.jsonl").read_text())
    assert not (folder / "inputs.json").exists()
    assert json.loads((folder / "run.json").read_text())["inputs"] == {"word": "by a file, 5"}
    audit = (place.folder / ".fractale" / "audit.jsonl").read_text()
    (act,) = [each for line in audit.splitlines() if (each := json.loads(line))["what"] == "act"]
    assert (act["action"], act["via"], act["run"]) == ("run", "a face", run)


async def test_a_fork_and_a_plan_that_is_refused(place, monkeypatch):
    from fractale.errors import InputError, PlanError, UsageError
    from fractale.plan.build import load_plan
    from fractale.record.plans import plan_hash
    from fractale.runs.actions import Actions, NotStarted, RunFlags
    from fractale.settings import load_settings

    monkeypatch.chdir(place.folder)
    settings: Settings = load_settings(place.env)
    actions = Actions(settings, by="a face", patience=PATIENCE)
    assert place.call("run", "plan.yaml", "-r", "tools.yaml", "--run-id", "one")[0] == 4
    with pytest.raises(InputError, match="wrod"):
        await actions.fork("one", "queue", {"wrod": "x"})
    with pytest.raises(NotStarted, match="`nowhere`") as refused:
        await actions.fork("one", "nowhere", {"word": "x"})
    assert refused.value.log is None, "the run that was not begun has no record"
    started = await actions.fork("one", "queue", {"word": "forked"})
    head = json.loads((started.log.parent / "run.json").read_text())
    assert (head["parent"]["run"], head["inputs"]["word"]) == ("one", "forked")
    shown = plan_hash(load_plan("plan.yaml"))
    (place.folder / "plan.yaml").write_text(PLAN.replace("what: job", "what: other"))
    with pytest.raises(UsageError, match="has changed since you saw"):
        await actions.start("plan.yaml", {}, shown=shown)
    code, said = place.call("run", "plan.yaml", "-r", "tools.yaml", "--plan-hash", shown)
    assert (code, "has changed since you saw" in said) == (2, True)
    monkeypatch.setenv("FRACTALE_TRUST_PROJECT", "0")
    with pytest.raises(UsageError, match="not agreed to what it does now") as unseen:
        await actions.fork("one", "queue", {"word": "a b"})
    assert "fractale fork one --at queue --set 'inputs.word=a b'" in str(unseen.value.hint)
    monkeypatch.setenv("FRACTALE_TRUST_PROJECT", "1")
    assert place.calls == []
    (place.folder / "plan.yaml").write_text(PLAN)
    (place.folder / "bad.yaml").write_text("name: p\nsteps: [{name: s, tool: 3}]\n")
    with pytest.raises(PlanError):
        await actions.start("bad.yaml")
    effects = await actions.dry_run("plan.yaml", {"word": "w"}, RunFlags(registries=["tools.yaml"]))
    _, said = place.call(
        "run", "plan.yaml", "-r", "tools.yaml", "-i", "word=w", "--dry-run", "--json"
    )
    assert json.loads(said) == json.loads(json.dumps(effects, default=str))
    assert len(list((place.folder / ".fractale" / "runs").iterdir())) == 2
