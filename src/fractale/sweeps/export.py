"""The results of a sweep as a table for other programs: CSV, JSON lines, or Parquet.

One row per row of the sweep. The columns are, in this order:

- ``row``, ``run``, ``attempt``, ``state``;
- ``inputs.NAME`` for each input that varies;
- ``outputs.NAME`` for each output, and ``outputs.NAME.KEY`` for the values of a table;
- ``failed_at``, ``error``;
- ``tokens``, ``cost``, ``node_hours``, ``core_hours``, ``gpu_hours``, ``jobs``, ``seconds``.

Numbers, texts, true and false stay what they are; a list is a text of JSON. Numbers that are not
finite are ``NaN``, ``Infinity`` and ``-Infinity``.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from fractale.errors import UsageError
from fractale.plain import readable, to_json
from fractale.sweeps.analysis import NOT_FINITE, USAGE, flat, flat_outputs
from fractale.sweeps.results import SweepView

FORMS: Final = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""The ending of a file → its form."""
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet runs a cell that begins with one of these."""
INT64: Final = 2**63

Row = dict[str, Any]


def form_of(name: str) -> str:
    """The form of a file by its ending.

    Raises:
        UsageError: The ending is not known.
    """
    for ending, form in FORMS.items():
        if name.lower().endswith(ending):
            return form
    raise UsageError(
        f"{name}: the ending does not name a table's form",
        hint="use FILE.csv, FILE.jsonl or FILE.parquet, or --format",
    )


def table_of(view: SweepView) -> tuple[list[str], Iterator[Row]]:
    """The columns, and the rows, each with a value for each column; None is empty."""
    outputs, names = flat_outputs(view)
    inputs = [flat(row.inputs) for row in view.rows]
    given = list(dict.fromkeys([*view.varied, *(name for row in inputs for name in row)]))
    given = [name for name in given if any(name in row for row in inputs)]
    columns = [
        *("row", "run", "attempt", "state"),
        *(f"inputs.{name}" for name in given),
        *(f"outputs.{name}" for name in names),
        *("failed_at", "error"),
        *(*USAGE, "seconds"),
    ]

    def rows() -> Iterator[Row]:
        for row, mine, made in zip(view.rows, inputs, outputs, strict=True):
            begun = bool(row.run)
            yield {
                "row": row.row,
                "run": row.run or None,
                "attempt": row.attempt if begun else None,
                "state": row.state,
                **{f"inputs.{name}": mine.get(name) for name in given},
                **{f"outputs.{name}": made.get(name) for name in names},
                "failed_at": row.failed_at or None,
                "error": row.error,
                **{name: row.used.get(name, 0) if begun else None for name in USAGE},
                "seconds": row.seconds if begun else None,
            }

    return columns, rows()


def csv_lines(view: SweepView) -> Iterator[str]:
    """The table as CSV (RFC 4180), with a heading.

    A text, or a heading, that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    columns, rows = table_of(view)
    line = io.StringIO()
    writer = csv.writer(line)
    for cells in ([_text_cell(name) for name in columns], *_csv_rows(columns, rows)):
        writer.writerow(cells)
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def _csv_rows(columns: Sequence[str], rows: Iterator[Row]) -> Iterator[list[Any]]:
    for row in rows:
        yield [_csv_cell(row[name]) for name in columns]


def _csv_cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, str):
        return value if value in NOT_FINITE else _text_cell(value)
    return _text_cell(to_json(value, default=str))


def _text_cell(text: str) -> str:
    text = readable(text)
    return f"'{text}" if text.startswith(FORMULA) else text


def json_lines(view: SweepView) -> Iterator[str]:
    """The table as one JSON object per line; all lines have the same keys."""
    _, rows = table_of(view)
    for row in rows:
        yield f"{to_json(row, default=str)}\n"


def parquet_bytes(view: SweepView) -> bytes:
    """The table as a Parquet file. A column has the one type that all its values fit.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow, which is not installed",
            hint="pip install 'fractale[parquet]', or write FILE.csv",
        ) from error
    columns, rows = table_of(view)
    values: dict[str, list[Any]] = {name: [] for name in columns}
    for row in rows:
        for name in columns:
            values[name].append(row[name])
    arrow: Any = pyarrow
    arrays = {name: _array(arrow, name, column) for name, column in values.items()}
    sink = io.BytesIO()
    parquet.write_table(arrow.table(arrays), sink)
    return sink.getvalue()


OWN_TYPES: Final = {
    "row": "int64",
    "attempt": "int64",
    "tokens": "int64",
    "jobs": "int64",
    **dict.fromkeys(("run", "state", "failed_at", "error"), "string"),
    **dict.fromkeys(("cost", "node_hours", "core_hours", "gpu_hours", "seconds"), "float64"),
}
"""The type of fractale's own columns, also if no row has a value."""


def _array(arrow: Any, name: str, values: Sequence[Any]) -> Any:
    kind = OWN_TYPES.get(name) or _type_of(values)
    if kind == "bool":
        return arrow.array(values, arrow.bool_())
    if kind == "int64":
        return arrow.array([None if v is None else int(v) for v in values], arrow.int64())
    if kind == "float64":
        return arrow.array([_float(v) for v in values], arrow.float64())
    return arrow.array([_string(v) for v in values], arrow.string())


def _type_of(values: Sequence[Any]) -> str:
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, bool) for value in there):
        return "bool"
    if there and all(_is_whole(value) for value in there):
        return "int64"
    if there and all(_is_number(value) for value in there):
        numbers = any(isinstance(value, (int, float)) for value in there)
        return "float64" if numbers else "string"
    return "string"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -INT64 <= value < INT64


def _is_number(value: Any) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= 2**53  # a greater one would be changed
    return isinstance(value, float) or (isinstance(value, str) and value in NOT_FINITE)


def _float(value: Any) -> float | None:
    if value is None:
        return None
    found = NOT_FINITE[value] if isinstance(value, str) else float(value)
    return math.nan if math.isnan(found) else found


def _string(value: Any) -> str | None:
    if value is None:
        return None
    return readable(value) if isinstance(value, str) else to_json(value, default=str)
