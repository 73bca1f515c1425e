"""One HTML file of one or several runs, which opens from a disk and loads nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from fractale.masking import Masker
from fractale.plan.picture import PAGE_STYLE
from fractale.render.text import count, exactly
from fractale.report.compare import compare
from fractale.report.environment import asset, environment, source_hash
from fractale.report.images import Pictures
from fractale.report.page import Paging, run_page
from fractale.report.texts import Bounds
from fractale.version import __version__

if TYPE_CHECKING:
    from fractale.record.history import RunHistory

MOST_WHOLE: Final = 20
"""The most runs of one file that have a part of their own; the table has all."""


def report(histories: Sequence[RunHistory], mask: Masker | None = None) -> str:
    """A report as HTML.

    Args:
        histories: The runs; several are compared.
        mask: Masks secrets in logs, drafts and plans; the rest of a record is masked already.

    Raises:
        StoreError: A part of a record cannot be read.
    """
    several = len(histories) > 1
    whole = histories[:MOST_WHOLE]
    prefixes = {history.run: f"{history.run}-" for history in whole} if several else {}
    attempts = sum(len(history.attempts) for history in whole)
    common = Paging(mask=mask or Masker(), bounds=Bounds().shared_by(attempts), pictures=Pictures())
    pages = [
        run_page(history, replace(common, prefix=prefixes.get(history.run, "")))
        for history in whole
    ]
    comparison = compare(histories, prefixes) if several else None
    if comparison and len(whole) < len(histories):
        note = f"The first {MOST_WHOLE} of {count(len(histories), 'run')} are below in detail."
        comparison = replace(comparison, note=note)
    style, script = asset("style.css") + PAGE_STYLE, asset("script.js")
    return (
        environment()
        .get_template("report.html")
        .render(
            pages=pages,
            comparison=comparison,
            title=f"{len(histories)} runs compared"
            if several
            else f"{pages[0].title} · run {pages[0].run}",
            style=style,
            script=script,
            policy=policy(style, script),
            version=__version__,
            written=exactly(time.time()),
            zone=time.strftime("%Z"),
        )
    )


def policy(style: str, script: str) -> str:
    """The Content Security Policy of a file: its own style, its own script, and no source else."""
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src '{source_hash(style)}'",
            f"script-src '{source_hash(script)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
