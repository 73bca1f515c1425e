"""What people see of runs, ends, problems and errors; and that foreign text stays text."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fractale.errors import LimitReached, PlanError, Position, Problem, SettingsError
from fractale.events import Event
from fractale.questions import approval, question
from fractale.render.display import JsonDisplay, PlainDisplay, QuietDisplay, open_display
from fractale.render.live import LiveDisplay
from fractale.render.phrases import ordinal
from fractale.render.problems import print_problems, show_error, show_problems
from fractale.render.run_view import RunView
from fractale.render.summary import summary
from fractale.render.text import (
    cells,
    fit,
    fold,
    inert,
    narrowed,
    plain,
    row,
    seconds,
    writable,
)
from snapshot import assert_same

STEPS = [
    {"name": "transform", "type": "prompt", "target": "transform_jobspec_expert"},
    {"name": "validate", "type": "tool", "target": "flux_validate_jobspec"},
    {"name": "report", "type": "agent", "target": None},
]
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]gone[/red]\r\x08\x9b31m \u202eevil\nsecond line"


class Script:
    """Makes a run's events, each at its time."""

    def __init__(self, run: str = "k7f3") -> None:
        self.run = run
        self.time = 1000.0

    def __call__(self, kind: Any, after: float = 0.0, **data: Any) -> Event:
        self.time += after
        return Event(kind, self.run, data, self.time)

    def begin(self, steps: list[dict[str, Any]], **data: Any) -> Event:
        known = {"plan": "p", "file": "p.yaml", "title": "A plan", "model": None}
        return self("run_started", **{**known, "resumed": False, "steps": steps, **data})

    def enter(self, step: str, attempt: int = 1, kind: str = "tool", **data: Any) -> Event:
        known = {"target": "t", "previous": None, "description": ""}
        return self("step_started", step=step, attempt=attempt, type=kind, **{**known, **data})

    def leave(self, step: str, outcome: str = "success", after: float = 1.0, **data: Any) -> Event:
        known = {
            "attempt": 1,
            "event_name": "success" if outcome == "skipped" else outcome,
            "decided_by": "default",
            "reason": "",
            "error": None,
            "seconds": after,
            "tokens": 0,
            "next": None,
            "outputs": {},
        }
        return self("step_finished", after, step=step, outcome=outcome, **{**known, **data})


def translation() -> Iterator[Event]:
    """A run that fails its validation once, goes back, and then passes."""
    do = Script()
    prompt = {"kind": "prompt", "target": "transform_jobspec_expert"}
    tool = {"target": "flux_validate_jobspec"}
    model = {"step": "transform", "model": "gemini-2.5-pro", "call": 1}
    title = "Translate a batch script, Slurm to Flux"
    yield do.begin(STEPS, title=title, model="gemini-2.5-pro", limits={"cost": 1.0})
    yield do.enter("transform", description="Asks the expert for a job specification", **prompt)
    yield do("model_started", 0.5, **model)
    yield do("model_text", 0.5, step="transform", text="Here is the ")
    yield do("model_text", 0.5, step="transform", text="\x1b[31mjobspec\x1b[0m:\n[bold]version: 1")
    yield do("model_finished", 2.0, **model, input_tokens=1000, output_tokens=204, cost=0.005)
    yield do.leave("transform", seconds=4.1, tokens=1204, next="validate")
    yield do.enter("validate", **tool)
    yield do("tool_started", step="validate", tool="flux_validate_jobspec", arguments={}, call=1)
    fault = "unknown directive -c8 (line 4)"
    wrong = {"decided_by": "exit_code", "reason": fault, "error": fault, "next": "transform"}
    yield do.leave("validate", "failure", 0.1, **wrong)
    yield do.enter("transform", 2, **prompt)
    yield do("warning", step="transform", code="retry", message="try 1 failed, trying again: 429")
    yield do("model_finished", 3.0, **model, input_tokens=1100, output_tokens=210, cost=0.006)
    yield do.leave("transform", seconds=3.8, tokens=1310, next="validate", attempt=2)
    yield do.enter("validate", 2, **tool)
    right = {"decided_by": "rule", "reason": "rule `valid`", "next": "report", "attempt": 2}
    yield do.leave("validate", after=0.1, **right)
    yield do.enter("report", kind="agent", target=None)
    save = {"step": "report", "tool": "save", "call": 1}
    yield do("tool_started", **save, arguments={"path": "out.md", "text": "long " * 30})
    yield do("tool_finished", **save, is_error=True, seconds=0.1, text="no such folder\nat all")
    yield do.leave("report", seconds=2.2, tokens=300, next="success")
    yield do("run_finished", **SUCCESS)


SUCCESS: dict[str, Any] = {
    "status": "success",
    "error": None,
    "hint": None,
    "steps": [],
    "decided": {"step": "validate", "by": "rule", "reason": "rule `valid`"},
    "outputs": {"jobspec": "\n".join(["#FLUX: -N1"] * 12), "nodes": 3, "note": "one\ntwo"},
    "output_files": {"jobspec": ".fractale/runs/k7f3/outputs/jobspec.sh"},
    "usage": {"total_tokens": 2514, "cost": 0.011, "seconds": 8.2},
    "record": ".fractale/runs/k7f3",
    "next": ["fractale show k7f3", "fractale fork k7f3 --at transform"],
    "waiting": [],
}
GAVE_UP: dict[str, Any] = {
    "status": "failed",
    "error": "step `run` was entered 3 times, its limit",
    "decided": {
        "step": "run",
        "by": "exit_code",
        "reason": "scontrol: TIMEOUT",
        "gave_up": "run",
    },
    "steps": [
        {
            "name": "run",
            "attempt": n,
            "outcome": "failure",
            "decided_by": "exit_code",
            "error": 'job 4711 hit its time limit (10:00) on node7; last line: "Step 81000 …"',
        }
        for n in (1, 2, 3)
    ],
    "next": ["fractale fork k7f3 --at run --set inputs.time=30m"],
}
WAITING: dict[str, Any] = {
    "status": "waiting",
    "waiting": [
        {
            "kind": "approval",
            "step": "submit",
            "tool": "flux_submit_job",
            "why": "changes something; policy: ask",
            "arguments": {"command": ["lmp", "-in", "in.lj"], "nodes": 2},
        },
        question("ask", "Which?", ["a", "b"], default="b"),
    ],
    "next": ["fractale resume k7f3"],
}


def screen(written: str) -> str:
    """What stands on a terminal after `written`: line feeds, returns, erased lines, moves up."""
    lines, y, x = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\n":
            y, x = y + 1, 0
            lines += [""] * (y + 1 - len(lines))
        elif part == "\r":
            x = 0
        elif part in ("\x1b[J", "\x1b[K"):
            lines[y:] = [lines[y][:x], *(lines[y + 1 :] if part == "\x1b[K" else ())]
        elif part == "\x1b[C":
            x += 1
        elif part.startswith("\x1b[") and part.endswith("A"):
            y -= int(part[2:-1])
        elif not part.startswith("\x1b"):
            lines[y] = lines[y][:x].ljust(x) + part + lines[y][x + len(part) :]
            x += len(part)
    return "\n".join(line.rstrip() for line in lines)


def shown(events: Any) -> str:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    for event in events:
        display.listener(event)
    return stream.getvalue()


class TestPlain:
    def test_each_line_of_a_run_is_printed_once(self):
        assert_same("plain_translation", shown(translation()))

    def test_parallel_steps_items_and_skipped_steps(self):
        do = Script()
        names = [("block", "parallel"), ("left", "tool"), ("right", "tool"), ("sweep", "tool")]
        steps = [{"name": n, "type": k, "target": None} for n, k in [*names, ("last", "tool")]]
        failing = {"decided_by": "error", "reason": "server gone", "next": "last"}
        events = [
            do.begin(steps, resumed=True),
            do.enter("block", kind="parallel"),
            do.enter("block/left"),
            do.enter("block/right"),
            do.leave("block/right", after=2.0),
            do.leave("block/left", after=75.0),
            do.leave("block", after=0.0, next="sweep"),
            do.enter("sweep"),
            *(do("item_started", step="sweep", index=i, total=100) for i in range(100)),
            do("tool_started", step="sweep[3]", tool="lmp", arguments={}, call=1),
            do.leave("sweep", "failure", after=7500.0, **failing),
            do.leave("last", "skipped", reason="its `when` does not hold", next="success"),
        ]
        assert_same("plain_parallel", shown(events))

    @pytest.mark.parametrize(("total", "lines"), [(1, 0), (3, 2), (10, 9), (12, 9), (1_000, 9)])
    def test_a_foreach_counts_its_items_at_each_tenth(self, total, lines):
        do = Script()
        events = [do.begin(STEPS), do.enter("validate")]
        for i in range(total):
            outcome = "failure" if i == 0 else "success"
            about = {"step": "validate", "index": i, "total": total}
            events += [do("item_started", **about), do("item_finished", **about, outcome=outcome)]
        printed = [line for line in shown(events).splitlines() if " done · " in line]
        assert len(printed) == lines
        for line in printed:
            assert line.endswith(" waiting · 1 failed")
            assert " 0 running · " in line

    def test_many_jobs_are_counted_every_few_seconds(self):
        do = Script()
        job = [{"name": "scan", "type": "job", "target": None}]
        events = [do.begin(job), do.enter("scan", kind="job")]
        about = {"step": "scan", "total": 1_000, "element": True}
        events += [do("item_started", index=i, **about) for i in range(1_000)]
        for state in ("pending", "running"):
            for i in range(1_000):
                told = {"job": f"q1[{i}]", "state": state, "reason": state, "scheduler": "local"}
                events.append(do("job_state", after=0.01, step=f"scan[{i}]", index=i, **told))
        printed = [line for line in shown(events).splitlines() if "waiting" in line]
        assert 2 <= len(printed) <= 5
        assert "job q1[" not in shown(events)

    def test_an_event_of_the_steps_own_is_named(self):
        do = Script()
        slow = {"event_name": "slow", "decided_by": "rule", "reason": "rule `seconds > 9`"}
        text = shown([do.begin(STEPS), do.enter("transform"), do.leave("transform", **slow)])
        assert "slow: rule `seconds > 9`" in text

    def test_servers_complaints_are_told_and_their_chatter_is_not(self):
        do = Script()
        said = [("error", "disk full"), ("info", "hello"), ("debug", "x")]
        text = shown([do("log", step="srv", level=lv, message=m) for lv, m in said])
        assert text == " ! srv: disk full\n"

    def test_why_a_job_does_not_start_is_told_once_also_where_the_reason_changes(self):
        do = Script()
        busy = "waits for nodes (squeue: Resources)"
        never = "will not start: it asks for too much time (squeue: PartitionTimeLimit)"
        job = {"step": "melt", "job": "47", "scheduler": "slurm", "state": "pending"}
        steps = [{"name": "melt", "type": "job", "target": None}]
        reasons = (busy, busy, never, busy, never)
        told = [do("job_state", **job, reason=reason) for reason in reasons]
        events = [do.begin(steps), do.enter("melt", kind="job"), *told]
        lines = [line.split("slurm ")[1] for line in shown(events).splitlines() if "47" in line]
        assert lines == [f"job 47 {busy}", f"job 47 {never}"]

    def test_an_event_of_a_later_version_is_passed_over(self):
        assert shown([Event("something_new", "r", {"step": "a"})]) == ""  # type: ignore[arg-type]

    def test_what_tools_and_models_say_is_inert(self):
        do = Script()
        wrong = {"decided_by": "error", "reason": HOSTILE, "error": HOSTILE, "next": "failed"}
        text = shown(
            [
                do.begin([{"name": "a", "type": "tool", "target": HOSTILE}], title=HOSTILE),
                do.enter("a", kind="agent", target=HOSTILE),
                do("tool_started", step="a", tool=HOSTILE, arguments={HOSTILE: HOSTILE}),
                do("tool_finished", step="a", tool=HOSTILE, is_error=True, text=HOSTILE),
                do("warning", step="a", code="x", message=HOSTILE),
                do.leave("a", "failure", **wrong),
                do("run_finished", status="failed", error=HOSTILE, outputs={HOSTILE: HOSTILE}),
            ]
        )
        assert not CONTROL.search(text)
        assert "[red]gone[/red]" in text

    def test_a_question_of_another_process_is_inert_with_the_command_that_answers_it(self):
        stream, do = io.StringIO(), Script()
        display = PlainDisplay(stream, elsewhere=True)
        call = approval("submit", HOSTILE, {HOSTILE: HOSTILE}, HOSTILE)
        asked = question("ask", HOSTILE, [HOSTILE, "b"], HOSTILE)
        for event in [
            do.begin([]),
            do("waiting", step="submit", question=call),
            do("waiting", step=HOSTILE, question={**asked, "step": HOSTILE}),
            do("answered", step="submit", question=call, answer=True, by="person"),
        ]:
            display.listener(event)
        text = stream.getvalue()
        assert not CONTROL.search(text)
        assert "fractale answer k7f3 submit=yes" in text
        assert "→ yes" in text

    def test_a_stream_without_unicode_gets_ascii(self):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii")
        display = PlainDisplay(stream)
        for event in translation():
            display.listener(event)
        text = raw.getvalue().decode("ascii")
        assert " ok transform" in text
        assert " x  validate" in text
        assert "-> back to transform" in text


class TestLive:
    def make(self, width: int = 80, height: int = 24, **more: Any) -> tuple[Any, io.StringIO]:
        stream = io.StringIO()
        console = Console(
            file=stream, force_terminal=True, width=width, height=height, _environ={}, **more
        )
        self.time = 1000.0
        return LiveDisplay(console, now=lambda: self.time, animate=False), stream

    def frames(self, display: Any, events: Any, width: int = 80, height: int = 24) -> list[str]:
        """The moving part after each event."""
        found: list[str] = []
        for event in events:
            self.time = event.time
            display.listener(event)
            lines = display.frame(width, height)
            found.append("\n".join(plain(line) for line in lines))
        return found

    def test_the_moving_part_shows_what_is_under_way_and_to_come(self):
        display, _ = self.make()
        frames = self.frames(display, translation())
        shown = "\n\n".join(dict.fromkeys(frames[:-1])) + "\n"
        assert_same("live_translation", shown)

    def test_what_is_finished_is_printed_for_good_in_the_order_it_happened(self):
        display, stream = self.make(color_system=None)
        self.frames(display, translation())
        assert_same("live_end", screen(stream.getvalue()))

    def test_the_cursor_comes_back_at_the_end(self):
        display, stream = self.make()
        self.frames(display, translation())
        assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")

    def test_it_stands_still_while_a_person_is_asked(self):
        display, stream = self.make()
        first, second, *rest = translation()
        self.frames(display, [first, second])
        display.pause()
        length = len(stream.getvalue())
        self.frames(display, rest[:7])
        assert stream.getvalue()[length:].strip() == ""
        display.resume()
        assert "✓" in stream.getvalue()[length:], "what happened meanwhile is told afterwards"
        assert "●" in stream.getvalue()[length:]
        display.close()

    @pytest.mark.parametrize(("width", "height"), [(20, 5), (40, 10), (80, 24), (200, 60)])
    def test_it_never_takes_more_than_the_terminal(self, width: int, height: int):
        display, _ = self.make(width, height)
        do = Script()
        steps = [{"name": f"step-{i}", "type": "tool", "target": "t" * 40} for i in range(50)]
        events = [do.begin(steps), *(do.enter(f"step-{i}") for i in range(30))]
        for frame in self.frames(display, events, width, height):
            assert frame.count("\n") < height
        with io.StringIO() as out:
            Console(file=out, width=width, _environ={}).print(*display.render(), sep="\n")
            assert max(cells(line) for line in out.getvalue().split("\n")) <= width
        display.close()

    def test_a_foreach_shows_how_far_it_is(self):
        display, _ = self.make()
        do = Script()
        events = [do.begin(STEPS), do.enter("validate")]
        events += [do("item_started", step="validate", index=i, total=100) for i in range(5)]
        assert "0/100 done · 5 running · 95 waiting\n" in self.frames(display, events)[-1]
        ends = ["success", "failure", "success"]
        done = [
            do("item_finished", step="validate", index=i, total=100, outcome=outcome)
            for i, outcome in enumerate(ends)
        ]
        frame = self.frames(display, done)[-1]
        assert "  3/100  " in frame
        assert "3/100 done · 2 running · 95 waiting · 1 failed\n" in frame
        queued = do("job_state", step="validate[4]", job="7", state="pending", reason="waits")
        assert "1 running · 96 waiting" in self.frames(display, [queued])[-1]
        display.close()

    def test_progress_and_waiting_are_shown(self):
        display, _ = self.make()
        do = Script()
        progress = {"progress": 4, "total": 10, "message": "pulling layers"}
        events = [
            do.begin(STEPS),
            do.enter("validate"),
            do("tool_progress", step="validate", tool="t", call=1, **progress),
            do("waiting", step="validate", question={}),
        ]
        frames = self.frames(display, events)
        assert "40 %  pulling layers" in frames[2]
        assert "waits for you" in frames[3]
        display.close()

    def test_a_draft_and_json_are_counted_instead_of_shown(self):
        display, _ = self.make()
        do = Script()
        steps = [{"name": "tune", "type": "plan"}, {"name": "report", "type": "prompt"}]
        begin = [do.begin(steps), do.enter("tune", kind="plan", target=None)]
        asked = {"step": "tune", "model": "m", "call": 1}
        drafting = [
            *begin,
            do("model_started", **asked),
            do("model_text", step="tune", text='{"name": "tuned", '),
            do("model_text", step="tune", text='"steps": []}'),
        ]
        frame = self.frames(display, drafting)[-1]
        assert "drafting a plan, 30 characters\n" in frame
        assert "tuned" not in frame
        used = {"input_tokens": 900, "output_tokens": 300}
        frame = self.frames(display, [do("model_finished", **asked, **used)])[-1]
        assert "1,200 tokens\n" in frame
        assert "drafting" not in frame
        answers = [
            do.enter("report", kind="prompt"),
            do("model_text", step="report", text='```json\n{"a": 1}'),
        ]
        frame = self.frames(display, answers)[-1]
        assert "writing JSON, 16 characters" in frame
        assert "```" not in frame
        display.close()

    def test_the_texts_of_items_are_not_mixed(self):
        display, _ = self.make()
        do = Script()
        events = [do.begin(STEPS), do.enter("report", kind="prompt")]
        for item in ("report[0]", "report[1]"):
            events.append(do("item_started", step="report", index=int(item[-2]), total=2))
            events.append(do("model_started", step=item, model="m", call=1))
            events.append(do("model_text", step=item, text=f"of {item}"))
        events.append(do("model_text", step="report[0]", text=" and more"))
        frame = self.frames(display, events)[-1]
        assert "of report[1]\n" in frame
        assert "more" not in frame.replace("more step", "")
        display.close()

    def test_calls_that_are_made_again_have_one_line_a_minute(self, monkeypatch):
        monkeypatch.setenv("TZ", "UTC")
        time.tzset()
        view, do = RunView(), Script()
        view.take(do.begin(STEPS))
        view.take(do.enter("validate"))
        lines: list[str] = []
        for call in range(2, 43):
            due = {"until": do.time + 3, "last": 1120.0}
            reason = f"calls `t` again in 3.0 s (call {call})"
            event = do("timer", after=3, step="validate", reason=reason, due=due)
            lines += map(plain, view.take(event))
        assert [line.partition("(")[2] for line in lines] == [
            "call 2), at 1970-01-01 00:16:43; at most until 00:18:40",
            "call 22), at 1970-01-01 00:17:43; at most until 00:18:40",
            "call 42), at 1970-01-01 00:18:43",
        ]

    def test_a_thousand_visits_take_no_more_memory_than_ten(self):
        view, do = RunView(), Script()
        view.take(do.begin(STEPS))

        def loop(times: int) -> None:
            for i in range(times):
                for name in ("transform", "validate"):
                    view.take(do.enter(name, i + 1))
                    view.take(do("model_text", step=name, text="word " * 50))
                    view.take(do.leave(name, next="transform", attempt=i + 1))

        loop(10)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        loop(1000)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 20_000

    def test_markup_and_control_codes_of_a_model_are_only_text(self):
        display, stream = self.make()
        do = Script()
        events = [do.begin(STEPS), do.enter("report", kind="agent")]
        said = HOSTILE.replace("\r", " ")
        self.frames(display, [*events, do("model_text", step="report", text=said)])
        display.close()
        assert "[red]gone[/red]" in stream.getvalue()
        assert "\x1b[2J" not in stream.getvalue()
        assert "\x1b]0;" not in stream.getvalue()
        assert "\u202e" not in stream.getvalue()

    def test_a_terminal_without_unicode_gets_ascii(self):
        raw = io.BytesIO()
        console = Console(
            file=io.TextIOWrapper(raw, encoding="ascii"), force_terminal=True, _environ={}
        )
        display = LiveDisplay(console, animate=False)
        for event in translation():
            display.listener(event)
        assert b" ok " in raw.getvalue()
        assert b"->" in raw.getvalue()


class TestJson:
    def test_one_event_a_line(self):
        stream = io.StringIO()
        display = JsonDisplay(stream)
        for event in translation():
            display.listener(event)
        lines = stream.getvalue().rstrip("\n").split("\n")
        assert [json.loads(line) for line in lines] == [e.as_dict() for e in translation()]

    def test_lines_are_ascii_whatever_was_said(self):
        stream = io.StringIO()
        JsonDisplay(stream).listener(Event("log", "r", {"message": HOSTILE + "\ud800é"}))
        assert stream.getvalue().isascii()
        assert not CONTROL.search(stream.getvalue())

    def test_a_closed_stdout_is_told_once(self):
        reader, writer = os.pipe()
        os.close(reader)
        stream = os.fdopen(writer, "w")
        display = JsonDisplay(stream)
        with pytest.raises(BrokenPipeError):
            display.listener(Event("log", "r", {}))
        display.listener(Event("log", "r", {}))
        with pytest.raises(BrokenPipeError):
            stream.close()


class TestChoice:
    def choose(self, **options: Any) -> Any:
        with open_display(io.StringIO(), io.StringIO(), **options) as display:
            return display

    def test_a_pipe_gets_plain_lines(self):
        assert type(self.choose()) is PlainDisplay

    def test_json_and_quiet_are_as_asked(self):
        assert type(self.choose(as_json=True)) is JsonDisplay
        assert type(self.choose(quiet=True)) is QuietDisplay

    def test_quiet_only_tells_the_end(self):
        stream = io.StringIO()
        display = QuietDisplay(stream)
        for event in translation():
            display.listener(event)
        assert stream.getvalue() == summary(SUCCESS, color=False)

    def test_without_a_terminal_rich_is_not_even_imported(self):
        modules = "fractale.render.display, fractale.render.problems"
        code = f"import sys, {modules}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert not {"rich", "langgraph", "pydantic", "jinja2"} & set(done.stdout.split())

    @pytest.mark.parametrize(
        ("environment", "has_color", "moves"),
        [
            ({"TERM": "xterm-256color"}, True, True),
            ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False, True),
            ({"TERM": "dumb"}, False, False),
        ],
    )
    def test_on_a_real_terminal(self, environment: dict[str, str], has_color: bool, moves: bool):
        told = on_a_terminal("d.listener(e('run_finished', status='failed'))", environment)
        assert ("\x1b[31m" in told) is has_color
        assert ("\x1b[?25l" in told) is moves
        assert "failed" in told

    def test_an_interrupt_gives_the_terminal_back(self):
        told = on_a_terminal("raise KeyboardInterrupt", {"TERM": "xterm"})
        assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l")


def on_a_terminal(last: str, environment: dict[str, str]) -> str:
    """What a short run writes to a pseudo-terminal; `last` is what it does at its end."""
    code = textwrap.dedent(
        """
        import sys
        from fractale.render.display import open_display
        from fractale.events import Event
        def e(kind, **data): return Event(kind, "r", data)
        with open_display(sys.stdout, sys.stderr) as d:
            steps = [{"name": "a", "type": "tool", "target": "t"}]
            d.listener(e("run_started", title="T", steps=steps))
            d.listener(e("step_started", step="a", type="tool", target="t", attempt=1))
        """
    )
    main, side = os.openpty()
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM", "COLORTERM")}
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}    {last}\n"],
        stdin=side,
        stderr=side,
        stdout=subprocess.DEVNULL,
        env={**clean, "PYTHONIOENCODING": "utf-8", **environment},
    )
    os.close(side)
    told = b""
    while True:
        try:
            piece = os.read(main, 4096)
        except OSError:  # the last holder of the other side is gone
            break
        if not piece:
            break
        told += piece
    process.wait()
    os.close(main)
    return told.decode()


class TestSummary:
    @pytest.mark.parametrize(
        ("name", "data"),
        [("success", SUCCESS), ("gave_up", GAVE_UP), ("waiting", WAITING)],
    )
    def test_the_end_says_what_why_and_what_next(self, name: str, data: dict[str, Any]):
        assert_same(f"summary_{name}", summary(data, color=False))

    def test_colour_marks_the_outcome_only(self):
        coloured = summary(SUCCESS, color=True)
        assert coloured.startswith("\x1b[32msuccess\x1b[0m ")
        assert coloured.count("\x1b") == 2

    def test_a_failure_names_its_step_and_evidence(self):
        decided = {"step": "run", "by": "error", "reason": "no such host"}
        steps = [{"name": "run", "outcome": "failure", "error": "no such host"}]
        text = summary(
            {"status": "failed", "error": "no such host", "decided": decided, "steps": steps},
            color=False,
        )
        assert text == (
            "failed · step `run` failed\n  last error  no such host\n  decided by  error\n"
        )

    def test_a_failure_outside_of_steps_says_what_it_was(self):
        decided = {"step": "a", "by": "default", "reason": ""}
        data = {"error": "outputs.x is undefined", "hint": "define it", "decided": decided}
        text = summary({"status": "failed", "steps": [], **data}, color=False)
        assert text == "failed · outputs.x is undefined\n  to do  define it\n"

    @pytest.mark.parametrize(
        ("status", "head"), [("limit", "stopped at a limit · why"), ("stopped", "stopped · why")]
    )
    def test_a_run_that_can_go_on_says_why_it_stands(self, status: str, head: str):
        assert summary({"status": status, "error": "why"}, color=False) == f"{head}\n"

    def test_a_success_that_nothing_speaks_against_is_called_so(self):
        decided = {"step": "a", "by": "default", "reason": ""}
        text = summary({"status": "success", "decided": decided}, color=False)
        assert text == "success · all steps completed; last step: `a`\n"

    def test_a_long_output_without_a_file_is_cut_and_says_so(self):
        outputs = {"log": "\n".join(str(i) for i in range(30))}
        text = summary({"status": "success", "outputs": outputs}, color=False)
        assert "… 20 more lines" in text

    @pytest.mark.parametrize(
        ("name", "lines", "shown", "last"),
        [
            ("answer", 19, 19, "line 18"),
            ("answer", 200, 200, "line 199"),
            ("answer", 1000, 200, "… 1,000 lines, kept/answer.txt"),
            ("log", 19, 0, "19 lines, kept/log.txt"),
        ],
    )
    def test_an_answer_is_shown_whole_up_to_many_lines(
        self, name: str, lines: int, shown: int, last: str
    ):
        """It was asked for to be read; what else a run gives is named, with its place."""
        outputs = {name: "\n".join(f"line {i}" for i in range(lines))}
        files = {name: f"kept/{name}.txt"}
        data = {"status": "success", "outputs": outputs, "output_files": files}
        text = summary(data, color=False)
        assert text.count("line ") == shown
        assert text.rstrip().endswith(last)


class TestProblems:
    SOURCE = ("name: p", "steps:", "  - name: a", "\t  tool: 日本 \x1b[31mx " + "y" * 200)

    def show(self, *problems: Problem, color: bool = False) -> str:
        return show_problems(problems, {"p.yaml": list(self.SOURCE)}.get, color=color)

    def test_place_line_carets_message_and_count(self):
        found = [
            Problem(
                "unknown-tool",
                "no server has this tool",
                Position("p.yaml", 4, 10),
                "steps[0].tool",
                2,
                "日本語",
            ),
            Problem("unused", "never used", Position("p.yaml", 3, 11), severity="warning"),
            Problem("no-file", "cannot be read", Position("gone.yaml", 1, 1)),
            Problem("long", "word " * 40, Position("p.yaml", 1, 7), "name", 1),
        ]
        assert_same("problems", self.show(*found))

    def test_carets_stand_below_the_fault(self):
        text = self.show(Problem("c", "m", Position("p.yaml", 4, 10), length=2))
        line, carets = text.split("\n")[1:3]
        start = carets.index("^")
        assert cells(line[: line.index("日本")]) == start
        assert carets.count("^") == 4

    @given(st.text(), st.integers(-5, 300), st.integers(-5, 300))
    def test_any_line_and_place_can_be_shown(self, line: str, column: int, length: int):
        problem = Problem("c", line, Position(line, 1, column), line, length, line)
        text = show_problems([problem], lambda _: [line], color=False)
        assert not CONTROL.search(text)
        assert "1 error\n" in text

    @pytest.mark.parametrize(
        ("severities", "count"),
        [("e", "1 error"), ("eew", "2 errors, 1 warning"), ("ww", "2 warnings")],
    )
    def test_the_count(self, severities: str, count: str):
        kinds = {"e": "error", "w": "warning"}
        found = [Problem("c", "m", severity=kinds[s]) for s in severities]
        assert self.show(*found).rstrip("\n").split("\n")[-1] == count

    def test_no_problems_are_no_text(self):
        assert self.show() == ""

    def test_colour_only_marks(self):
        problem = Problem("c", "m", Position("p.yaml", 3, 11))
        coloured = self.show(problem, color=True)
        assert "\x1b[31mc\x1b[0m" in coloured
        assert inert(coloured, lines=True) == self.show(problem)

    def test_an_error_is_shown_with_what_to_do(self, capsys: pytest.CaptureFixture[str]):
        assert show_error(SettingsError("no key", hint="set OPENAI_API_KEY")) == 2
        told = capsys.readouterr()
        assert told.err == "error  no key\n       set OPENAI_API_KEY\n"
        assert told.out == ""

    def test_the_lines_at_fault_are_read_from_their_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        file = tmp_path / "p.yaml"
        file.write_text("\ufeffname: p\r\nsteps: []\r\n", encoding="utf-8", newline="")
        problems = [Problem("c", "m", Position(str(file), line, 1), length=5) for line in (1, 9)]
        print_problems(problems)
        told = capsys.readouterr()
        assert "    1 | name: p\n      | ^^^^^ m\n" in told.err
        assert f"{file}:9:1  c\n      m\n2 errors\n" in told.err
        assert told.out == ""

    def test_wrong_use_of_a_command_is_told_by_click(self, capsys: pytest.CaptureFixture[str]):
        assert show_error(click.UsageError("no such option")) == 2
        assert "no such option" in capsys.readouterr().err

    def test_errors_keep_their_exit_codes(self, capsys: pytest.CaptureFixture[str]):
        assert show_error(PlanError([Problem("c", "m")])) == 3
        assert show_error(LimitReached("tokens", "used up")) == 5
        assert show_error(ValueError("\x1b[2Joops")) == 1
        told = capsys.readouterr().err
        assert "unexpected ValueError: oops" in told
        assert "Traceback" not in told


class TestInert:
    @given(st.text(), st.integers(1, 50))
    def test_one_line_without_control_within_the_limit(self, text: str, limit: int):
        for result in (inert(text), inert(text, limit)):
            assert not CONTROL.search(result)
            assert "\n" not in result
            result.encode()
        assert len(inert(text, limit)) <= limit

    @given(st.text())
    def test_line_breaks_stay_where_they_may(self, text: str):
        assert not CONTROL.search(inert(text, lines=True))

    @given(st.lists(st.sampled_from(["a", "b c", "\x1b[31m", "\x1b[0K", "\x1b]8;;x\x1b\\"])))
    def test_terminal_sequences_leave_no_trace(self, parts: list[str]):
        words = "".join(part for part in parts if not part.startswith("\x1b"))
        assert inert("".join(parts)) == words

    def test_what_would_hide_text_is_shown(self):
        assert inert("a\x08\x00b\u202ec\u200bd") == r"a\x08\x00b\u202ec\u200bd"
        assert inert("e\u0301 👨\u200d👩 日本") == "e\u0301 👨\u200d👩 日本"

    def test_markup_is_left_as_it_is(self):
        assert inert("[red]x[/red] {{ y }}") == "[red]x[/red] {{ y }}"

    def test_ten_megabytes_are_cut_at_once(self):
        assert inert("x" * 10_000_000, 10) == "x" * 9 + "…"

    @given(st.text(), st.integers(1, 40))
    def test_fitting_keeps_to_the_width(self, text: str, width: int):
        text = inert(text)
        assert cells(fit(text, width)) <= width
        assert fit(text, 10_000) == text

    @given(st.text(), st.integers(10, 60), st.integers(1, 4))
    def test_folding_keeps_to_the_number_of_lines(self, text: str, width: int, most: int):
        assert 1 <= len(fold(inert(text), width, most)) <= most

    @given(st.text())
    def test_any_text_can_be_written_anywhere(self, text: str):
        for encoding in ("ascii", "latin-1", "utf-8", "no-such-encoding"):
            assert writable(text, encoding).isascii() or encoding in ("latin-1", "utf-8")

    def test_durations_and_ordinals_as_people_say_them(self):
        times = [0, 0.06, 9.94, 9.96, 59.6, 200, 7500]
        said = ["0.0 s", "0.1 s", "9.9 s", "10 s", "1 min 00 s", "3 min 20 s", "2 h 05 min"]
        assert [seconds(t) for t in times] == said
        assert [ordinal(n) for n in (1, 2, 3, 4, 11, 22, 113)] == [
            "1st",
            "2nd",
            "3rd",
            "4th",
            "11th",
            "22nd",
            "113th",
        ]


def test_lines_are_broken_in_their_column_where_the_terminal_is_narrower():
    words = "it went wrong " * 12
    path = "/a/" + "long" * 30
    lines = [
        [("failed", "bad"), (f" · {words}", "")],
        row(f"  last error  {words}"),
        row(f"  │ {'x' * 150}"),
        row(f"  log         {path}"),
        row(f"  next        fractale resume k7f3a {'-i x=1 ' * 12}"),
        row("    {words} end".format(words="界 " * 60)),
    ]
    found = narrowed(lines, 80)
    texts = [plain(line) for line in found]
    whole = [path, "fractale resume"]
    assert all(cells(text) <= 80 or any(each in text for each in whole) for text in texts)
    said = [text for text in texts if text.startswith(" " * 14) and "went" in text]
    assert len(said) >= 2
    assert [text for text in texts if text.startswith("  │ ")] == [
        f"  │ {'x' * 76}",
        f"  │ {'x' * 74}",
    ]
    assert "".join("".join(texts).split()).replace("│", "") == "".join(
        "".join(map(plain, lines)).split()
    ).replace("│", "")
    assert found[0][0] == ("failed", "bad")
    assert narrowed(lines, None) == lines


@pytest.mark.parametrize("width", [50, 80, 99])
def test_long_texts_of_the_summary_are_broken_once(width):
    room, words = min(width - 11, 84), " ".join(["eleven cells"] * 14)
    data: dict[str, Any] = {
        "status": "success",
        "outputs": {"why": words, "list": [words]},
        "notices": [{"step": "s", "kind": "warning", "message": words}],
        "hint": words,
        "waiting": [{**question("gate", words), "id": "1"}],
    }
    lines = summary(data, color=False, width=width).splitlines()
    for label in ("why", "list", "warning", "to do", "gate"):
        begin = next(i for i, line in enumerate(lines) if line.startswith(f"  {label} "))
        block = [lines[begin]]
        block += itertools.takewhile(lambda line: line.startswith(" " * 11), lines[begin + 1 :])
        texts = [line[11:] for line in block if "answer with" not in line]
        assert all(cells(line) <= width for line in block)
        assert all(len(text) > room - len("eleven ") for text in texts[:-1]), texts
        assert " ".join(texts).removeprefix("s: ") == words
