"""`fractale top` on a headless terminal: what its screens show, and what its keys do."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot

from fractale.cli.commands.top import ask
from fractale.runs.actions import Actions
from fractale.settings import Settings
from fractale.top.app import TopApp
from fractale.top.conversation import Conversation
from fractale.top.dialogues import Done
from fractale.top.screens import TalkScreen
from made_runs import MARK, hostile_run
from snapshot import assert_same
from top_runs import (
    NOW,
    QUESTION,
    answered,
    finished,
    held,
    run,
    screen_text,
    step,
    until,
    until_true,
    written,
)

ALLOWED = re.compile("[\n\u200c\u200d]")  # scripts and emoji need the joiners


async def nothing_asked(talk: object, question: Mapping[str, Any]) -> Any:
    raise AssertionError("nothing is answered here")


Screens = Callable[..., Awaitable[Pilot[Any]]]


@pytest.fixture
async def top(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    """Opens `fractale top` on the written runs, at a fixed time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()

    @asynccontextmanager
    async def opened(size: tuple[int, int] = (80, 24), **options: Any) -> AsyncIterator[Any]:
        actions = Actions(settings, by="fractale top")
        known = {"place": "~/melt", "environment": {}, "now": lambda: NOW, "color": False}
        asks = options.pop("ask", nothing_asked)
        app = TopApp(settings.state_dir, actions, asks, **{**known, **options})
        async with app.run_test(size=size) as pilot:
            yield pilot

    yield opened
    monkeypatch.undo()
    time.tzset()


async def test_the_list_and_a_run_at_80_columns(top: Any, settings: Settings) -> None:
    written(settings.state_dir)
    with held(settings.state_dir, "k7f3"):
        async with top() as pilot:
            assert_same("top-list", await until(pilot, "m2q9 translate", "exit 127"))
            await pilot.press("down")
            assert_same("top-list-running", await until(pilot, "k7f3 lammps", "Step 81000"))
            await pilot.press("enter")
            assert_same("top-run", await until(pilot, "Step 81000", "0.2.0"))
            await pilot.press("q", "up", "enter")
            assert_same("top-run-asks", await until(pilot, "came from: model", "0.2.0"))
            await pilot.press("question_mark")
            assert_same("top-help", await until(pilot, "States"))


@pytest.mark.parametrize("columns", [40, 60, 200])
async def test_other_widths_keep_each_run_on_a_line(
    top: Any, settings: Settings, columns: int
) -> None:
    written(settings.state_dir)
    async with top((columns, 24)) as pilot:
        screen = await until(pilot, "asks", "m2q9 translate")
        lines = screen.splitlines()
        assert all(len(line) <= columns for line in lines)
        assert sum(line[1:5] in ("k7f3", "m2q9", "c0de", "d0ne", "w41t", "st0p") for line in lines)
        assert "leave" in lines[-1]
        assert_same(f"top-list-{columns}", screen)
        await pilot.press("enter")
        await until(pilot, "translate", "waiting")


async def test_a_resize_draws_everything_again(top: Any, settings: Settings) -> None:
    written(settings.state_dir)
    async with top((80, 24)) as pilot:
        await until(pilot, "m2q9 translate")
        await pilot.resize_terminal(40, 12)

        def is_small() -> bool:
            lines = screen_text(pilot).splitlines()
            narrow = all(len(line) <= 40 for line in lines)
            return len(lines) <= 12 and "leave" in lines[-1] and narrow

        await until_true(pilot, is_small)


async def test_a_terminal_without_utf8_gets_ascii(top: Any, settings: Settings) -> None:
    written(settings.state_dir)
    run(settings.state_dir, "wide", "Schmelze 熔体 ü", 5.0)
    async with top(unicode=False) as pilot:
        screen = await until(pilot, "m2q9 translate")
        assert screen.isascii()
        await pilot.press("enter")
        assert (await until(pilot, "review")).isascii()
        await pilot.press("question_mark")
        assert (await until(pilot, "States")).isascii()


def press_at_once(pilot: Pilot[Any], *keys: str) -> None:
    """Press keys faster than anything can be drawn."""
    names = {"/": "slash", "-": "minus", " ": "space"}
    for key in keys:
        character = key if len(key) == 1 else "\r" if key == "enter" else None
        pilot.app.post_message(events.Key(names.get(key, key), character))


async def test_a_filter_takes_the_keys_that_follow_at_once(top: Any, settings: Settings) -> None:
    written(settings.state_dir)
    async with top() as pilot:
        await until(pilot, "m2q9 translate")
        press_at_once(pilot, *"/qhoc farl", "backspace")
        await until(pilot, " /qhoc far▏", "no run has 'qhoc far'")
        press_at_once(pilot, "ctrl+u", *"lammps", "enter", "o")
        await until(pilot, "Esc all (lammps)", "\u203ak7f3", "sorted by: latest")


async def until_a_line_is_open(pilot: Pilot[Any]) -> Any:
    while pilot.app.focused is None:
        await pilot.pause(0.05)
    return pilot.app.focused


async def test_keys_typed_ahead_agree_to_nothing(top: Any, settings: Settings) -> None:
    other = {**QUESTION, "id": "f" * 16, "step": "erase", "arguments": {"path": "all"}}
    asked = [(0.1, "waiting", {"step": q["step"], "question": q}) for q in (QUESTION, other)]
    end = (0.2, "run_finished", finished("waiting", waiting=[QUESTION, other]))
    record = run(settings.state_dir, "two", "two", 9.0, *asked, end)
    async with top(ask=ask) as pilot:
        await until(pilot, "asks")
        for key, first, then in (
            ("a", "which one?", ("2", "enter", "y", "enter", *"nay")),
            ("c", "cancel run two?", ()),
            ("r", "resume it?", ()),
        ):
            press_at_once(pilot, key, "y", "enter")
            await until(pilot, first)
            entry = await until_a_line_is_open(pilot)
            assert entry.value == ""
            if then:
                press_at_once(pilot, *then)
                await until(pilot, "call local.write_text_file", "y once")
                entry = await until_a_line_is_open(pilot)
                assert entry.value == ""
            await pilot.press("escape")
            await until(pilot, "RUN ")
    assert not answered(record)
    assert not record.answers.exists() or not list(record.answers.iterdir())


async def test_a_conversation_that_was_left_agrees_to_nothing(top: Any, settings: Settings) -> None:
    written(settings.state_dir)
    go_on, ends = asyncio.Event(), list[Done | None]()
    agreed: list[bool] = []

    async def slow(talk: Conversation) -> Done:
        await go_on.wait()  # such as a large record that is read
        talk.show([("read", "")])
        talk.agreed("cancelling")
        agreed.append(True)
        return Done(words="cancelled")

    async with top() as pilot:
        await until(pilot, "m2q9 translate")
        palette = pilot.app.screen.palette
        pilot.app.push_screen(TalkScreen(palette, "slow", slow, ends.append), ends.append)
        await until(pilot, "leaves it unanswered")
        await pilot.press("escape")
        await until(pilot, "m2q9 translate")
        go_on.set()
        while len(ends) < 2:
            await pilot.pause(0.05)
        assert ends == [Done(), Done()]
        assert not agreed
        assert pilot.app.failure is None


async def test_filter_and_order(top: Any, settings: Settings) -> None:
    written(settings.state_dir)
    async with top() as pilot:
        await until(pilot, "m2q9 translate")
        await pilot.press("slash", *"failed")
        screen = await until(pilot, "c0de build")
        assert "m2q9" not in screen
        await pilot.press("enter")
        await until(pilot, "Esc all (failed)")
        await pilot.press("escape")
        await until(pilot, "m2q9")
        await pilot.press("slash", *"lammps.yaml", "enter")
        assert "m2q9" not in await until(pilot, "Esc all (lammps.yaml)", "k7f3 lammps")
        await pilot.press("escape", "o")
        screen = await until(pilot, "sorted by: latest", "m2q9")
        shown = [line[1:5] for line in screen.splitlines()[2:8]]
        assert shown == ["m2q9", "k7f3", "w41t", "st0p", "d0ne", "c0de"]


async def test_the_selected_run_stays_selected_when_the_list_changes(
    top: Any, settings: Settings
) -> None:
    written(settings.state_dir)
    async with top() as pilot:
        await until(pilot, "m2q9 translate")
        await pilot.press("down")
        selected = pilot.app.screen.run_id
        run(settings.state_dir, "new1", "newer", 1.0, (0.5, "step_started", {"step": "a"}))
        with held(settings.state_dir, "new1"):
            pilot.app.look()
            await until(pilot, "new1")
            assert pilot.app.screen.run_id == selected
            assert f"\u203a{selected}" in screen_text(pilot)


async def test_no_runs_and_a_damaged_record(top: Any, settings: Settings) -> None:
    async with top() as pilot:
        await until(pilot, "no runs here yet", "fractale run PLAN")
        record = run(settings.state_dir, "bad1", "broken", 1.0)
        with record.events.open("a") as file:
            file.write('{"event": "step_started", "time": 1}\n')
        pilot.app.look()
        await until(pilot, "bad1", "damaged")
        await pilot.press("enter", "l", "q", "q")
        await until(pilot, "bad1")


async def test_damage_inside_an_event_does_not_end_the_list(top: Any, settings: Settings) -> None:
    written(settings.state_dir)
    odd = finished("waiting", waiting=[{"kind": "job", "job": "4712", "state": "pending"}])
    run(settings.state_dir, "odd1", "odd", 1.0, (0.5, "run_finished", odd))
    live = (0.5, "waiting", {"step": "a", "question": {"kind": "approval"}})
    run(settings.state_dir, "odd2", "odd", 1.0, live, (0.6, "job_state", {"step": 7, "job": []}))
    with held(settings.state_dir, "odd2"):
        async with top() as pilot:
            for run_id in ("odd1", "odd2"):
                await pilot.press("slash", *run_id, "enter", "enter")
                await until(pilot, f" {run_id}  odd", "back")
                await pilot.press("q", "escape")
            await until(pilot, "m2q9  translate", "\u203aodd2", "d0ne")


async def test_one_question_of_a_run_in_progress_counts_once(top: Any, settings: Settings) -> None:
    begun = (0.1, "step_started", step("review", target="write_text_file"))
    asked = (0.2, "waiting", {"step": "review", "question": QUESTION})
    run(settings.state_dir, "once", "one", 9.0, begun, asked)
    with held(settings.state_dir, "once"):
        async with top() as pilot:
            screen = await until(pilot, "asks", "approve local.write_text_file?")
            assert "more" not in screen.splitlines()[2]


async def test_a_run_screen_reads_no_more_often_than_runs_change(
    top: Any, settings: Settings
) -> None:
    written(settings.state_dir)
    async with top() as pilot:
        await until(pilot, "m2q9 translate")
        await pilot.press("enter")
        await until(pilot, "came from: model", "0.2.0")
        taken: list[Any] = []
        listed = pilot.app.screen_stack[0]
        take = listed.take
        listed.take = lambda frame: (taken.append(frame), take(frame))
        await pilot.pause(1.0)
        assert len(taken) <= 4


async def test_a_hostile_run_is_only_text(top: Any, settings: Settings) -> None:
    hostile_run(settings.state_dir, long_line=100_000)
    async with top((100, 30)) as pilot:
        await until(pilot, "hostile")
        for keys in (["enter"], ["end"], ["l"], ["home"], ["left"], ["left"], ["q"], ["q"]):
            await pilot.press(*keys)
            await pilot.pause(0.3)
            screen = screen_text(pilot)
            assert ALLOWED.sub("", screen).isprintable(), keys
            assert MARK not in (pilot.app.title, pilot.app.sub_title)
        await pilot.press("slash", *"[red]", "enter")
        await until(pilot, "no run has", "[red]")
