"""Records that something has damaged: each is shown as far as possible, or reported as damaged."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from fractale.cli import run_command as fractale
from fractale.errors import StoreError
from fractale.events import EventKind
from fractale.record.follow import RunFollower
from fractale.record.shape import EVENTS, wrong_event
from recording import BEGIN, Recording

ODD: tuple[Any, ...] = (
    *(None, True, -1, 7, 0.5, float("inf"), 10**30, "", "x\x1b[31m", "1e9"),
    *([], [1], ["a"], [{}], [None], {}, {"a": 1}, {"$ref": 1}, {"$ref": "sha256:" + "0" * 64}),
)
COMMANDS = (
    ("show", "k7f3a"),
    ("show", "k7f3a", "melt", "--full"),
    ("report", "k7f3a", "-o", "-"),
    ("watch", "k7f3a"),
    ("runs",),
)


def melted(state_dir) -> Recording:
    """A failed run with every kind of event."""
    parent = {"run": "p4r3n", "step": "look", "attempt": 1}
    run = Recording(state_dir, parent=parent, versions={"fractale": "0.3.0"}, tools={"look": "a1"})
    run.start("look", "each", "melt", parent={**parent, "kept": ["first"]}, model="openai:gpt-5")
    run.enter("look", type="prompt").ask_model("look").leave("look", tokens=120, next="each")
    run.enter("each", type="foreach")
    for index in range(2):
        run.add("item_started", step="each", index=index, total=2)
        run.visit(f"each[{index}]/cut")
        run.add("item_finished", step="each", index=index, total=2, outcome="success", seconds=0.5)
    run.leave("each", next="melt", inputs_ref={"n": 1}, outputs_ref=[{"n": 1}])
    run.enter("melt", type="job").call("melt", key="c1", agreed="--yes")
    run.add("tool_progress", step="melt", tool="melt", call=1, progress=1, total=2, message="half")
    question = {"id": "q1", "kind": "approval", "tool": "melt", "arguments": {"n": 1}}
    run.add("waiting", step="melt", question=question)
    run.add("answered", step="melt", question=question, answer=True, by="person", via="web")
    run.add("log", step="melt", level="warning", message="hot")
    run.add("warning", step="melt", code="hot", message="hot")
    run.add("table", step="melt", title="energies", rows=[{"step": 1, "e": 2.0}, {"step": 2}])
    began = {"wall": BEGIN, "boot": 1.0, "boot_id": "b"}
    due = {"began": began, "seconds": 2.0, "until": BEGIN + 2}
    run.add("timer", step="melt", reason="waits", due={**due, "last": None})
    handle = {"scheduler": "slurm", "native_id": "4711", "key": "k7f3a-melt-1", "job_dir": "/j"}
    run.add(
        "job_state", step="melt", job="4711", scheduler="slurm", state="failed", over=True,
        handle=handle, nodes=["n1"], submitted=BEGIN + 1, started=BEGIN + 2, ended=BEGIN + 4,
        began=began, line="step 9", reason="exit code 3",
    )  # fmt: skip
    run.leave(
        "melt", outcome="failure", decided_by="exit_code", reason="exit code 3",
        error="job 4711 failed", next="failed", notices=[{"kind": "lost", "message": "lines"}],
    )  # fmt: skip
    failed = {"step": "melt", "job": "4711", "scheduler": "slurm", "state": "failed", "log": "/l",
              "reason": "x", "seconds": 2.0, "last_lines": "boom"}  # fmt: skip
    run.end(
        "failed",
        decided={"step": "melt", "by": "exit_code", "reason": "exit code 3", "jobs": [failed]},
        steps=[{"name": "melt", "attempt": 1, "outcome": "failure", "error": "x"}],
        notices=[{"step": "melt", "kind": "lost", "message": "lines"}],
        outputs={"text": "a\nb"}, output_files={"text": "/o"}, next=["fractale show k7f3a melt"],
        error="job 4711 failed", hint="look", left_out=["other"],
        waiting=[{**question, "step": "melt", "due": due}],
    )  # fmt: skip
    return run


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values inside a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for name, each in inside:
        yield (*path, name)
        if isinstance(each, (dict, list)):
            yield from places(each, (*path, name))


def damaged(lines: list[Any], at: tuple[Any, ...], odd: Any) -> list[Any]:
    """The lines with another value in one place, or without the value."""
    lines = copy.deepcopy(lines)
    holder: Any = lines
    for name in at[:-1]:
        holder = holder[name]
    if odd is ...:
        del holder[at[-1]]
    else:
        holder[at[-1]] = odd
    return lines


def test_no_damage_of_a_field_is_a_bug(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = melted(tmp_path).folder
    whole = [json.loads(folder.head.read_text())]
    whole += [json.loads(line) for line in folder.events.read_text().splitlines()]
    draw = random.Random()  # others in each run: a failure says the place and the value
    known = [at for at in places(whole) if len(at) > 1]
    for _ in range(10):
        at, odd = draw.choice(known), draw.choice([*ODD, ...])
        head, *events = damaged(whole, at, odd)
        folder.head.write_text(json.dumps(head))
        folder.events.write_text("".join(f"{json.dumps(each)}\n" for each in events))
        for command in COMMANDS:
            code = fractale(list(command))
            _, err = capsys.readouterr()
            said = (at, odd, command, err)
            assert code in (0, 1, 2, 4, 5, 75), said
            assert "bug" not in err, said
            assert "Traceback" not in err, said


def test_a_follower_of_a_damaged_record_never_goes_on(tmp_path):
    run = Recording(tmp_path).start("a").visit("a")
    run.add("step_finished", step=7).end("success")
    follower = RunFollower(run.folder)
    for _ in range(3):
        with pytest.raises(StoreError, match=r"k7f3a is damaged: .*`step` that is not a text"):
            follower.read()
    assert follower.history.status != "success"


@pytest.mark.parametrize(
    ("event", "wrong"),
    [
        ({"event": "nothing that is known", "time": 1}, ""),
        ({"event": "step_finished", "time": 1, "step": "a"}, "has no `outcome`"),
        (
            {"event": "model_finished", "time": 1, "step": "a", "call": 1, "seconds": "x"},
            "has a `seconds` that is not a number",
        ),
        (
            {"event": "run_finished", "time": 1, "status": "gone"},
            "has a `status` that is not one of",
        ),
        (
            {"event": "run_finished", "time": 1, "status": "failed", "decided": {"jobs": [{}]}},
            "has a `decided` that has a `jobs` that has an entry that has no `step`",
        ),
        ({"event": "warning", "time": float("nan")}, "is not a possible number"),
    ],
)
def test_what_is_wrong_is_said(event, wrong):
    assert (wrong in wrong_event(event)) if wrong else not wrong_event(event)


def test_amounts_that_are_reserved_are_no_damage():
    usage = {"seconds": 1.5, "node_hours": 0.0, "reserved": {"jobs": 1, "node_hours": 0.5}}
    event = {"event": "run_finished", "time": BEGIN, "status": "stopped", "usage": usage}
    assert wrong_event(event) == ""
    assert "is not a number" in wrong_event({**event, "usage": {"reserved": {"jobs": "x"}}})


def test_every_kind_of_event_has_a_shape():
    assert set(get_args(EventKind)) - EVENTS.keys() == {"model_text"}, "which is not recorded"
