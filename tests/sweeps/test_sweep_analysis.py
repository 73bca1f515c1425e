"""What a sweep's results say: merit, failures by reason, questions by step."""

from __future__ import annotations

import pytest

from fractale.errors import UsageError
from fractale.sweeps.analysis import (
    failures,
    flat,
    merit_of,
    numeric_inputs,
    questions,
    row_ranges,
    scaled,
)
from made_sweeps import row_view, view


def names(groups) -> list[tuple[str, str, list[int]]]:
    return [(each.step, each.words, [row.row for row in each.rows]) for each in groups]


def test_the_only_numeric_output_is_the_merit():
    rows = [row_view(i, outputs={"energy": i * 0.5, "log": "text", "done": True}) for i in range(3)]
    merit = merit_of(view(rows))
    assert merit is not None
    assert merit.name == "energy"
    assert [value for _, value in merit.points] == [0.0, 0.5, 1.0]
    assert (merit.least[0].row, merit.greatest[0].row) == (0, 2)


def test_two_numeric_outputs_need_a_choice():
    rows = [row_view(i, outputs={"a": 1, "b": 2 - i}) for i in range(2)]
    assert merit_of(view(rows)) is None
    assert merit_of(view(rows, merit="b")).name == "b"
    assert merit_of(view(rows, merit="b"), "a").name == "a"


@pytest.mark.parametrize(("name", "values"), [("tokens", [10, 20]), ("seconds", [1.5, 2.5])])
def test_what_a_run_used_may_be_the_merit(name, values):
    rows = [row_view(i, used={"tokens": 10 + 10 * i}, seconds=1.5 + i) for i in range(2)]
    assert [value for _, value in merit_of(view(rows), name).points] == values


def test_a_value_of_a_table_is_an_output_of_its_own():
    rows = [row_view(0, outputs={"fit": {"slope": 2.0, "of": "x"}})]
    assert merit_of(view(rows)).name == "fit.slope"


def test_an_unknown_output_is_refused_with_the_similar_one():
    with pytest.raises(UsageError, match="no output `energi`") as caught:
        merit_of(view([row_view(0, outputs={"energy": 1.0})]), "energi")
    assert "energy" in str(caught.value.hint)


def test_only_finite_numbers_of_successful_rows_count():
    values = [1.0, "NaN", "Infinity", 10**400, True, None, 3.0]
    rows = [row_view(i, outputs={"y": value}) for i, value in enumerate(values)]
    rows.append(row_view(7, "failed", outputs={"y": -99.0}))
    assert [value for _, value in merit_of(view(rows), "y").points] == [1.0, 3.0]


def test_before_any_row_has_ended_there_is_no_merit():
    assert merit_of(view([row_view(0, "pending")]), "energy") is None


def test_failures_that_differ_in_numbers_are_one_group():
    rows = [
        row_view(0, "failed", failed_at="relax", error="job 4711 timed out after 0:30 (s.0)"),
        row_view(1, "failed", failed_at="relax", error="job 4712 timed out after 1:30 (s.1)"),
        row_view(2, "failed", failed_at="relax", error="no such potential"),
        row_view(3, "failed", failed_at="build", error="no such potential"),
        row_view(4),
    ]
    found = failures(view(rows))
    assert names(found) == [
        ("relax", "job 4711 timed out after 0:30 (RUN)", [0, 1]),
        ("relax", "no such potential", [2]),
        ("build", "no such potential", [3]),
    ]
    assert [each.alike for each in found] == [False, True, True]


def test_waiting_rows_are_grouped_by_the_steps_that_ask():
    rows = [
        row_view(0, "waiting", asks=("review",)),
        row_view(1, "waiting"),
        row_view(2, "waiting", asks=("review",)),
    ]
    assert names(questions(view(rows))) == [("review", "", [0, 2]), ("", "", [1])]


def test_inputs_that_are_numbers_and_vary():
    rows = [row_view(i, inputs={"x": i, "name": "a", "same": 1, "flag": True}) for i in range(2)]
    assert numeric_inputs(view(rows, varied=("x", "name", "same", "flag"))) == ["x"]


@pytest.mark.parametrize(
    ("rows", "text"),
    [([0, 1, 2, 5, 9], "0-2, 5, 9"), ([3], "3"), ([], ""), (range(0, 40, 2), None)],
)
def test_numbers_of_rows_are_short(rows, text):
    found = row_ranges([row_view(row) for row in rows])
    assert found == (text if text is not None else "0, 2, 4, 6, 8, 10, 12, 14 and 12 more")


def test_a_table_whose_keys_would_hide_another_output_stays_whole():
    assert flat({"a.b": 1, "a": {"b": 2}}) == {"a.b": 1, "a": {"b": 2}}
    assert flat({"a": {"b": {"c": 2}, "d": []}, "e": {}}) == {"a.b.c": 2, "a.d": [], "e": {}}


@pytest.mark.parametrize(
    ("values", "name", "shown"),
    [
        ([1.0, 100.0, 10_000.0], "log10 y", [0.0, 2.0, 4.0]),
        ([1.0, 1000.0], "y", [1.0, 1000.0]),
        ([-1.0, 1e9], "y", [-1.0, 1e9]),
        ([0.0, 1e9], "y", [0.0, 1e9]),
        ([], "y", []),
    ],
)
def test_numbers_that_span_many_orders_are_plotted_by_their_logarithm(values, name, shown):
    assert scaled("y", values) == (name, shown)
