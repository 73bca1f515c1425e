"""Tables that agents show: the trials of a search, on a screen of any width."""

from __future__ import annotations

from fractale.render.text import table_lines


def shown(rows, width=80):
    return ["".join(text for text, _ in line) for line in table_lines("Trials", rows, width)]


def test_nothing_is_shown_of_an_empty_table():
    assert shown([]) == []


def test_values_are_in_columns_and_short():
    rows = [
        {"number": 1, "params": {"x": 2, "name": "a\x1b[31m"}, "value": 0.123456789},
        {"number": 10, "params": [1, 2], "value": None},
    ]
    assert [line.rstrip() for line in shown(rows)] == [
        "   Trials",
        "     number  params       value",
        "     1       x=2, name=a  0.123457",
        "     10      [1, 2]       -",
    ]


def test_of_a_long_table_the_last_rows_are_shown():
    lines = shown([{"number": n} for n in range(40)])
    assert "(the last 12 of 40)" in lines[0]
    assert [line.strip() for line in lines[2:]] == [str(n) for n in range(28, 40)]


def test_what_is_too_wide_is_cut():
    lines = shown([{"why": "x" * 500, "more": "y" * 500}], width=60)
    assert all(len(line) <= 60 for line in lines)
    assert "…" in lines[-1]
