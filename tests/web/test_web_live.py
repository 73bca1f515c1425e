"""The feed of a run's page: a damaged record, cards that go, and feeds that are not needed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fractale.errors import StoreError
from fractale.record.history import RunHistory
from fractale.web.live import MOST_FEEDS, Feed, Feeds, Part
from fractale.web.plans import plan_files
from recording import Recording


def steps(history: RunHistory, texts: Mapping[str, Any]) -> dict[str, Part]:
    """A part for the page, and one for each attempt; a second attempt cannot be shown."""
    if len(history.attempts) == 2:
        raise KeyError("step")
    cards = {
        f"card-{each.number}": Part("<i></i>", "cards", "<u>gone</u>")
        for each in history.attempts
        if len(history.attempts) < 4
    }
    return {"p": Part(f"<p>{len(history.attempts)}</p>"), **cards}


async def test_a_page_says_that_its_record_cannot_be_shown_and_goes_on(tmp_path: Path) -> None:
    run = Recording(tmp_path).start("one")
    run.visit("one", 1)
    feed = Feed(run.folder, steps)
    _, at = feed.parts()
    changes = feed.changes(at)
    waiting = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0.05)
    run.visit("one", 2)
    html, _ = await asyncio.wait_for(waiting, timeout=30)
    assert "cannot be shown: KeyError" in html
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot be shown"):
            feed.parts()
    run.visit("one", 3)
    html, _ = await asyncio.wait_for(anext(changes), timeout=30)
    assert "<p>3</p>" in html
    assert "cannot be shown" not in feed.parts()[0]["part-trouble"].html
    feed.stop()
    await changes.aclose()


def test_a_card_that_is_gone_is_replaced_where_a_page_has_it(tmp_path: Path) -> None:
    run = Recording(tmp_path).start("one")
    feed = Feed(run.folder, steps)
    _, without = feed.parts()
    run.visit("one", 1)
    _, having = feed.parts()
    assert 'hx-swap="beforeend"><i>' in feed.since(without)[0]
    for number in (2, 3, 4):
        run.visit("one", number)
        with contextlib.suppress(StoreError):
            feed.parts()
    assert "<u>gone</u>" in feed.since(having)[0]
    assert "<u>gone</u>" not in feed.since(without)[0]
    assert feed.since(feed.version)[0] == ""


async def test_a_change_is_sent_while_the_next_is_rendered(tmp_path: Path) -> None:
    run = Recording(tmp_path).start("one")
    feed = Feed(run.folder, steps)
    feed.parts()
    with feed.lock:  # as a thread that renders
        done = threading.Event()
        thread = threading.Thread(target=lambda: (feed.since(""), done.set()))
        thread.start()
        assert await asyncio.to_thread(done.wait, 30)
    thread.join()


async def test_a_feed_with_viewers_is_kept_and_all_of_them_end(tmp_path: Path) -> None:
    feeds = Feeds(steps)
    first = Recording(tmp_path).start("one")
    stream = feeds.stream(feed := feeds.of(first.folder), "")
    assert (await anext(stream))["data"]
    for number in range(MOST_FEEDS + 2):
        feeds.of(Recording(tmp_path, f"other{number}").start("one").folder)
    assert feeds.of(first.folder) is feed
    feeds.stop()
    assert [each async for each in stream] == []


def test_the_subject_of_a_file_with_many_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("steps:\nname: |" + "\n" * 500_000 + "description: it\n")
    (tmp_path / "b.yaml").write_text("name: B\ndescription: >-\n\n  what it does\nsteps: []\n")
    found = plan_files(tmp_path)
    assert found["b.yaml"].title == "what it does"
    assert "a.yaml" in found
