"""Rows of text in columns."""

from __future__ import annotations

from collections.abc import Sequence


def table_lines(rows: Sequence[Sequence[str]], gap: int = 2) -> list[str]:
    """Rows as lines, each column as wide as what stands in it.

    Args:
        rows: The first is the head; all have as many cells.
        gap: Blanks between two columns.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        (" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return [line.rstrip() for line in lines]
