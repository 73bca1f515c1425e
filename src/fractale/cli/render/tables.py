"""A table that an agent shows, such as the trials of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fractale.cli.render.text import Line, cells, fit, inert, pad, row
from fractale.plain import to_json

WIDEST = 40
MOST_ROWS = 12


def table_lines(title: str, rows: Sequence[Mapping[str, Any]], width: int) -> list[Line]:
    """A table as lines: the last rows of it, what is too wide cut.

    Args:
        rows: Column → value; columns are those of the first row.
        width: Columns of the screen.
    """
    shown = rows[-MOST_ROWS:]
    if not shown:
        return []
    names = list(shown[0])
    texts = [[fit(_cell(each.get(name)), WIDEST) for name in names] for each in shown]
    heads = [inert(str(name)) for name in names]
    widths = [max(cells(text) for text in column) for column in zip(heads, *texts, strict=True)]
    lines = [heads, *texts]
    left_out = f" (the last {len(shown)} of {len(rows)})" if len(shown) < len(rows) else ""
    told = [row(f"   {inert(title)}{left_out}", "dim")]
    for line in lines:
        words = "  ".join(pad(text, wide) for text, wide in zip(line, widths, strict=True))
        told.append(row(fit(f"     {words}".rstrip(), width), "dim"))
    return told


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return inert(value, 200)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{inert(str(k))}={_cell(v)}" for k, v in value.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - JSON
    return inert(to_json(value, default=str), 200)
