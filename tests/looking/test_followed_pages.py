"""The feed of a run's page: each change reaches each viewer, whoever read it first."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fractale.web.live import Feed, Part
from recording import Recording


async def test_a_change_that_another_request_read_reaches_the_viewers(tmp_path: Path) -> None:
    run = Recording(tmp_path).start("one")
    feed = Feed(run.folder, lambda history, _: {"p": Part(f"<p>{len(history.attempts)}</p>")})
    _, at = feed.parts()
    changes = feed.changes(at)
    waiting = asyncio.ensure_future(anext(changes))
    for number in range(1, 21):  # whichever moment of the feed's own look it falls into
        await asyncio.sleep(0.01)
        run.visit("one", number)
        feed.update()  # as a page does, or an attempt that is opened
        html, _ = await asyncio.wait_for(waiting, timeout=30)
        assert f"<p>{len(feed.history.attempts)}</p>" in html
        waiting = asyncio.ensure_future(anext(changes))
    waiting.cancel()
    feed.stop()
