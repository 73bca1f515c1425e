"""A run's result as HTML, for notebooks: no script, no style sheet, nothing from another place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fractale.runs.result import RunResult

MOST_ROWS: Final = 100
"""The most steps or outputs that are shown."""
MOST_SIGNS: Final = 4000
"""The most characters of one value that are shown."""


def result_html(result: RunResult, commands: Iterable[str]) -> str:
    """A fragment of HTML: how the run ended, its outputs, its steps, and the commands to type next.

    Texts of tools and models are shown as they are: never as markup, nor as formulas.
    """
    parts = [
        *_parts(result),
        *_listed("Next", (f"<code>{_text(each)}</code>" for each in commands)),
    ]
    return f'<div class="tex2jax_ignore mathjax_ignore">{"".join(parts)}</div>'


def _parts(result: RunResult) -> Iterator[str]:
    yield f"<p><b>{_text(result.status)}</b> · run <code>{_text(result.run)}</code></p>"
    if result.error:
        yield f"<p>{_text(result.error)}</p>"
    if result.hint:
        yield f"<p>{_text(result.hint)}</p>"
    notices = (
        f"{_text(each.get('kind'))}: {_text(each.get('message'))}" for each in result.notices
    )
    yield from _listed("Notices", notices)
    waiting = (_text(each.get("text") or each.get("reason") or each) for each in result.waiting)
    yield from _listed("Waiting for", waiting)
    yield from _table("Output", [(name, (value,)) for name, value in result.outputs.items()])
    steps = [(each["name"], (each.get("outcome"), each.get("decided_by"))) for each in result.steps]
    yield from _table("Step", steps)


def _table(title: str, rows: list[tuple[str, tuple[Any, ...]]]) -> Iterator[str]:
    if not rows:
        return
    yield f"<table><tr><th>{title}</th></tr>"
    for name, values in rows[:MOST_ROWS]:
        cells = "".join(f"<td><pre>{_text(value)}</pre></td>" for value in values)
        yield f"<tr><td>{_text(name)}</td>{cells}</tr>"
    yield "</table>"
    if len(rows) > MOST_ROWS:
        yield f"<p>The first {MOST_ROWS} of {len(rows)} are shown.</p>"


def _listed(title: str, items: Iterable[str]) -> Iterator[str]:
    lines = [f"<li>{item}</li>" for item in items]
    if lines:
        yield f"<p>{title}</p><ul>{''.join(lines)}</ul>"


def _text(value: Any) -> str:
    """A value as text of HTML, of bounded length."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    cut = text[:MOST_SIGNS]
    shown = "".join(sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in cut)
    left = len(text) - len(cut)
    return escape(shown) + (f" … {left} more characters" if left else "")
