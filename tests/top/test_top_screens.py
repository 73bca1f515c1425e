"""`fractale top` on a headless terminal: what its screens show, and what its keys do."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from fractale.runs.actions import Actions
from fractale.settings import Settings
from fractale.top.app import TopApp
from made_runs import MARK, hostile_run
from snapshot import assert_same
from top_runs import NOW, held, run, screen_text, until, written

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
        app = TopApp(settings.state_dir, actions, nothing_asked, **{**known, **options})
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
        await pilot.pause(0.2)
        lines = screen_text(pilot).splitlines()
        assert len(lines) <= 12
        assert "leave" in lines[-1]
        assert all(len(line) <= 40 for line in lines)


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
        await pilot.press("o")
        screen = await until(pilot, "sorted by: latest")
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
