"""Tables of inputs: CSV, JSON lines and Parquet files → rows with their places.

The columns are inputs of the plan. An empty cell, and ``null``, count as left out. Every row has
its line, so that an error can name it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from fractale.errors import (
    DependencyMissing,
    InputError,
    Position,
    Problem,
    ProblemList,
    SweepError,
)
from fractale.plain import to_json
from fractale.text import clip, count

EXTRA: Final = "parquet"
MOST_BYTES: Final = 64 * 2**20
MOST_PROBLEMS: Final = 20
MOST_CELL: Final = 2**20
"""The most characters of a cell of a CSV file."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of a table.

    Args:
        place: Its line in the file; of a Parquet file, which has no lines, its number from 1.
        values: Without the inputs that are left out. Those of a CSV file are texts.
    """

    place: Position
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of inputs, each row with the same columns.

    Args:
        names: The columns, in their order; of JSON lines, all keys in the order of their first use.
    """

    file: str
    names: tuple[str, ...]
    rows: tuple[TableRow, ...]


def read_table(path: Path | str, most: int) -> Table:
    """Read a table.

    Args:
        path: The ending says what it is: ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson`` or
            ``.parquet``.
        most: The most rows.

    Raises:
        InputError: The file cannot be read, has another ending, too many rows, or none.
        SweepError: Lines of it are wrong; the error has all of them.
        DependencyMissing: Parquet needs pyarrow, which is not installed.
    """
    file = Path(path)
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise InputError(
            f"the table {path} has none of the endings {', '.join(_READERS)}",
            hint="a table has one of these endings: write CSV with a line of names first",
        )
    try:
        if not file.is_file():
            raise InputError(f"the table {path} is not a file", hint="check the path")
        if file.stat().st_size > MOST_BYTES:
            raise InputError(
                f"the table {path} is larger than {MOST_BYTES // 2**20} MiB",
                hint="keep large values in files, and their paths in the table",
            )
        names, rows = read(file, most)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"cannot read the table {path}: {why}") from error
    if not rows:
        raise InputError(
            f"the table {path} has no rows", hint="write a line per run, below the names of inputs"
        )
    return Table(str(path), names, rows)


def refusal(problems: Sequence[Problem], *, hint: str | None = None) -> SweepError:
    """The error for wrong rows or axes, with at most `MOST_PROBLEMS` of them."""
    if len(problems) <= MOST_PROBLEMS:
        return SweepError(problems, hint=hint)
    left = count(len(problems) - MOST_PROBLEMS, "more problem")
    return SweepError([*problems[:MOST_PROBLEMS], Problem("too-many-problems", left)], hint=hint)


def too_many(what: str, rows: int, most: int) -> InputError:
    """The error for a sweep of too many rows.

    Args:
        what: What has them, such as ``these axes``.
    """
    return InputError(
        f"{what} would be {count(rows, 'run')}; a sweep has at most {most:,}",
        hint="leave out values, draw some of the rows with --sample N, or start several sweeps",
    )


_Read = tuple[tuple[str, ...], tuple[TableRow, ...]]


def _csv(file: Path, most: int, *, delimiter: str = ",") -> _Read:
    csv.field_size_limit(MOST_CELL)
    with file.open(encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            return _cells(str(file), lines, most)
        except csv.Error as error:
            place = Position(str(file), max(1, lines.line_num), 1)
            raise SweepError([Problem("bad-table", f"this is not CSV: {error}", place)]) from error


def _tsv(file: Path, most: int) -> _Read:
    return _csv(file, most, delimiter="\t")


def _cells(file: str, lines: Any, most: int) -> _Read:
    """The rows of a CSV file. A cell may contain line breaks, so a row may have several lines."""
    names: tuple[str, ...] | None = None
    rows: list[TableRow] = []
    problems = ProblemList()
    before = 0
    for cells in cast("Iterator[list[str]]", lines):
        place = Position(file, before + 1, 1)
        before = lines.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if names is None:
            names = _names(cells, place, problems)
        elif len(cells) != len(names):
            message = f"{count(len(cells), 'cell')}; the table has {count(len(names), 'column')}"
            problems.add(Problem("bad-row", message, place))
        else:
            _refuse_more(file, len(rows) + 1, most)
            pairs = zip(names, cells, strict=True)
            rows.append(TableRow(place, {name: cell for name, cell in pairs if cell.strip()}))
    if problems.problems:
        raise refusal(problems.problems)
    return names or (), tuple(rows)


def _names(cells: list[str], place: Position, problems: ProblemList) -> tuple[str, ...]:
    names = tuple(cell.strip() for cell in cells)
    for number, name in enumerate(names, 1):
        if not name:
            problems.add(Problem("bad-name", f"column {number} has no name", place))
        elif names.index(name) < number - 1:
            problems.add(Problem("bad-name", f"two columns are called `{clip(name)}`", place))
    return names


def _json_lines(file: Path, most: int) -> _Read:
    rows: list[TableRow] = []
    names: dict[str, None] = {}
    problems = ProblemList()
    with file.open(encoding="utf-8-sig") as text:
        for number, line in enumerate(text, 1):
            place = Position(str(file), number, 1)
            if not line.strip():
                continue
            try:
                found: Any = json.loads(line, object_pairs_hook=_once)
            except (ValueError, RecursionError) as error:
                problems.add(Problem("bad-row", f"this is not JSON: {error}", place))
                continue
            if not isinstance(found, dict):
                message = "a line is a mapping of inputs to values, in braces"
                problems.add(Problem("bad-row", message, place))
                continue
            _refuse_more(str(file), len(rows) + 1, most)
            row = cast("dict[str, Any]", found)
            names.update(dict.fromkeys(row))
            rows.append(TableRow(place, _without_nulls(row)))
    if problems.problems:
        raise refusal(problems.problems)
    return tuple(names), tuple(rows)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping; JSON itself lets the last of two equal keys win.

    Raises:
        ValueError: Two keys are equal.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"`{clip(name)}` is here twice")
        found[name] = value
    return found


def _parquet(file: Path, most: int) -> _Read:
    try:
        import pyarrow
        import pyarrow.parquet as parquet_files
    except ImportError as error:
        raise DependencyMissing(
            f"the table {file} needs {error.name or 'pyarrow'}, which is not installed",
            hint=f"`pip install 'fractale[{EXTRA}]'`, or save the table as CSV",
        ) from error
    arrow: Any = pyarrow
    files: Any = parquet_files
    try:
        opened = files.ParquetFile(file)
        _refuse_more(str(file), opened.metadata.num_rows, most)
        table = opened.read()
    except arrow.ArrowException as error:
        raise InputError(f"the table {file} is not Parquet: {clip(str(error), 200)}") from error
    names: list[str] = table.column_names
    problems = ProblemList()
    _names(names, Position(str(file), 1, 1), problems)
    rows: list[TableRow] = []
    for number, row in enumerate(table.to_pylist(), 1):
        place = Position(str(file), number, 1)
        values = _without_nulls(row)
        for name, value in values.items():
            try:
                to_json(value)
            except (TypeError, ValueError):
                message = f"`{clip(name)}` has a {type(value).__name__}; an input is JSON"
                problems.add(Problem("bad-row", message, place))
        rows.append(TableRow(place, values))
    if problems.problems:
        raise refusal(problems.problems)
    return tuple(names), tuple(rows)


def _without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _refuse_more(file: str, rows: int, most: int) -> None:
    if rows > most:
        raise InputError(
            f"the table {file} has more than {most:,} rows",
            hint="split it, and start several sweeps",
        )


_READERS: Final[Mapping[str, Callable[[Path, int], _Read]]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
