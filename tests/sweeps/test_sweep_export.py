"""Results as CSV, JSON lines and Parquet: typed, complete, and safe in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractale.errors import UsageError
from fractale.sweeps.export import csv_lines, form_of, json_lines, parquet_bytes
from made_sweeps import row_view, view

ROWS = [
    row_view(
        0,
        inputs={"x": -1, "command": "=SUM(A1)"},
        outputs={"y": -2.5, "fit": {"slope": 3, "rows": [1, 2]}, "ok": True},
        used={"tokens": 10, "node_hours": 0.5},
        seconds=1.5,
    ),
    row_view(1, "failed", inputs={"x": 2, "command": "@cmd"}, error='-bad,\n"it"', failed_at="run"),
    row_view(2, "pending", inputs={"x": 3, "command": "plain"}),
]


def as_csv(of) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO("".join(csv_lines(of)), newline="")))


def test_a_line_per_row_with_inputs_outputs_error_and_usage():
    first, failed, pending = as_csv(view(ROWS, varied=("x", "command")))
    assert (first["row"], first["run"], first["state"]) == ("0", "s.0", "success")
    assert (first["inputs.x"], first["outputs.y"], first["outputs.fit.slope"]) == (
        "-1",
        "-2.5",
        "3",
    )
    assert (first["outputs.fit.rows"], first["outputs.ok"]) == ("[1, 2]", "true")
    assert (first["tokens"], first["node_hours"], first["seconds"]) == ("10", "0.5", "1.5")
    assert (failed["failed_at"], failed["outputs.y"]) == ("run", "")
    assert (pending["run"], pending["tokens"], pending["state"]) == ("", "", "pending")


def test_a_text_that_a_spreadsheet_would_run_is_quoted_and_numbers_stay_numbers():
    first, failed, _ = as_csv(view(ROWS, varied=("x", "command")))
    assert first["inputs.command"] == "'=SUM(A1)"
    assert failed["inputs.command"] == "'@cmd"
    assert failed["error"] == '\'-bad,\n"it"'
    assert first["inputs.x"] == "-1"


@given(st.text() | st.dictionaries(st.text(), st.text()) | st.lists(st.text()))
def test_no_text_cell_begins_a_formula(value):
    of = view([row_view(0, inputs={"x": value}, outputs={"=y": value}, error=str(value))])
    rows = list(csv.reader(io.StringIO("".join(csv_lines(of)), newline="")))
    assert len(rows) == 2
    for cell in [cell for row in rows for cell in row]:
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def test_json_lines_keep_every_type():
    lines = [json.loads(line) for line in json_lines(view(ROWS, varied=("x", "command")))]
    assert lines[0]["outputs.y"] == -2.5
    assert lines[0]["outputs.fit.rows"] == [1, 2]
    assert lines[0]["outputs.ok"] is True
    assert lines[1]["error"] == '-bad,\n"it"'
    assert {tuple(line) for line in lines} == {tuple(lines[0])}


def test_parquet_has_typed_columns():
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    rows = [
        *ROWS,
        row_view(3, inputs={"x": 4, "command": "c"}, outputs={"y": "Infinity", "big": 2**70}),
        row_view(4, inputs={"x": 5, "command": "c"}, outputs={"mixed": 1}),
        row_view(5, inputs={"x": 5, "command": "c"}, outputs={"mixed": "one"}),
    ]
    table = parquet.read_table(io.BytesIO(parquet_bytes(view(rows, varied=("x", "command")))))
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert types["row"] == types["inputs.x"] == types["outputs.fit.slope"] == "int64"
    assert types["outputs.y"] == types["node_hours"] == "double"
    assert types["outputs.ok"] == "bool"
    assert types["outputs.mixed"] == types["outputs.big"] == types["error"] == "string"
    assert table["outputs.y"].to_pylist() == [-2.5, None, None, float("inf"), None, None]
    assert table["inputs.command"].to_pylist()[0] == "=SUM(A1)"
    assert table["outputs.mixed"].to_pylist()[4:] == ["1", "one"]


def test_tables_with_very_many_keys_are_one_column():
    outputs = {"found": {f"key{i}": i for i in range(600)}}
    (row,) = (json.loads(line) for line in json_lines(view([row_view(0, outputs=outputs)])))
    assert row["outputs.found"] == outputs["found"]


@pytest.mark.parametrize(
    ("name", "form"), [("a.csv", "csv"), ("a.PARQUET", "parquet"), ("a.jsonl", "jsonl")]
)
def test_the_ending_names_the_form(name, form):
    assert form_of(name) == form


def test_an_unknown_ending_is_refused():
    with pytest.raises(UsageError, match=r"results\.xlsx"):
        form_of("results.xlsx")
