"""Rows of text in columns."""

from __future__ import annotations

from collections.abc import Sequence


def table_lines(rows: Sequence[Sequence[str]], gap: int = 2) -> list[str]:
    """Format rows as lines; each column is as wide as its longest cell.

    Args:
        rows: The first row is the header; all rows have the same number of cells.
        gap: Spaces between two columns.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        (" " * gap).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return [line.rstrip() for line in lines]
