"""What a user asks for becomes rows: axes, tables, samples, and every mistake at once."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest

from fractale.errors import InputError, PlanError, SweepError
from fractale.masking import Masker
from fractale.plan.build import parse_plan
from fractale.plan.inputs import bind_inputs
from fractale.sweeps.spec import (
    MOST_ROWS,
    Rows,
    SweepSpec,
    axes_from_texts,
    axes_of,
    rows_of,
    with_options,
)
from fractale.sweeps.sweep_file import read_sweep_file

PLAN = parse_plan(
    """
name: p
inputs:
  n: {type: integer, default: 1, maximum: 1000000000000000}
  x: {type: number, default: 0.5}
  any: 3
  s: {type: string, default: a}
  flag: {type: boolean, default: false}
  l: {type: array, default: []}
  o: {type: object, default: {}}
  free: null
  key: {secret: true}
steps: [{name: one, set: {z: "{{ inputs.n }}"}}]
outputs: {z: "{{ values.z }}"}
"""
)
NEEDS = parse_plan(
    "name: q\ninputs: {who: {type: string}, n: {type: integer, default: 1}}\n"
    "steps: [{name: one, set: {z: 1}}]\n"
)


def rows(*over: str, plan=PLAN, masker: Masker | None = None, **spec: Any) -> Rows:
    return rows_of(SweepSpec(plan="p.yaml", over=axes_from_texts(over), **spec), plan, masker)


def values(*over: str, **spec: Any) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in rows(*over, **spec).rows]


def problems(*over: str, **spec: Any) -> list[str]:
    with pytest.raises(SweepError) as caught:
        rows(*over, **spec)
    return [str(problem) for problem in caught.value.problems]


# -- axes


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("n=1,2,4", [1, 2, 4]),
        ("n= 1 , 2 ", [1, 2]),
        ("x=1,2.5", [1, 2.5]),
        ("s=1,2", ["1", "2"]),
        ("s=a b,c", ["a b", "c"]),
        ("flag=yes,off", [True, False]),
        ("n=3..6", [3, 4, 5, 6]),
        ("n=1..8:3", [1, 4, 7]),
        ("n=-2..0", [-2, -1, 0]),
        ("n=1..64:*2", [1, 2, 4, 8, 16, 32, 64]),
        ("n=1..100:*10", [1, 10, 100]),
        ("x=0.1..0.5:0.1", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("x=1e-3..1:*10", [0.001, 0.01, 0.1, 1.0]),
        ("any=1..3", [1, 2, 3]),
        ('s=["a,b", "c"]', ["a,b", "c"]),
        ('s=["1..4"]', ["1..4"]),
        ("l=[[1], [2, 3], []]", [[1], [2, 3], []]),
        ('o=[{"a": 1}]', [{"a": 1}]),
        ("s=x=1,y", ["x=1", "y"]),
        ("s=a..b,c", ["a..b", "c"]),
        ("free=1,x", ["1", "x"]),
        ("free=1..2", [1, 2]),
    ],
)
def test_an_axis_is_typed_by_the_input_of_the_plan(text, wanted):
    found = [value for (value,) in values(text)]
    assert found == wanted
    assert list(map(type, found)) == list(map(type, wanted))


def test_axes_are_combined_in_their_order_the_last_one_fastest():
    found = rows("s=a,b", "n=1..3", "x=0.5,1.5")
    assert found.varied == ("s", "n", "x")
    assert [tuple(row.values()) for row in found.rows] == list(
        itertools.product(["a", "b"], [1, 2, 3], [0.5, 1.5])
    )
    assert found.constant == {"any": 3, "flag": False, "l": [], "o": {}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n=", "it has no values"),
        ("n=1,,2", "an empty value between two commas"),
        ("n=1,2,1", "value 3 is the same as value 1"),
        ("x=1,1.0", "value 2 is the same as value 1"),
        ("n=1.5,2", "must be of type integer"),
        ("flag=maybe", "must be of type boolean"),
        ("n=8..1", "which is above its end"),
        ("n=1..8:0", "must be above 0"),
        ("n=1..8:-1", "must be above 0"),
        ("n=1..8:*1", "a factor above 1"),
        ("n=0..8:*2", "a start above 0"),
        ("n=1..8:x", "after `:` comes a step"),
        ("n=1..2:0.5", "whole number as its step"),
        ("n=1.5..3", "must be of type integer"),
        ("x=0.1..2", "a range of numbers without a step"),
        ("s=1..4", "is a range, and the input is of type string"),
        ("l=1,2", "write the values as a JSON list"),
        ('s=["a"', "begins with `[` but is not a JSON list"),
        ("nn=1", "the plan has no input `nn`; did you mean `n`?"),
        ("key=a,b", "is secret, and cannot vary"),
        ("n=1..2000000000000000", "at most 1e+15"),
    ],
)
def test_an_axis_that_cannot_be_used_says_why(text, words):
    (problem,) = problems(text)
    assert words in problem


def test_all_mistakes_are_reported_at_once():
    found = problems("n=a", "nope=1", "key=1", inputs={"x": "high", "other": 1})
    assert len(found) == 5
    assert any("input other" in each for each in found)


def test_many_mistakes_are_counted_instead_of_shown():
    found = problems("n=" + ",".join(f"a{i}" for i in range(500)))
    assert len(found) == 21
    assert "480 more problems" in found[-1]


def test_a_constant_that_also_varies_is_refused():
    assert "varies, and also has one value" in problems("n=1,2", inputs={"n": 3})[0]


def test_a_default_of_null_is_no_value_that_a_run_is_given(tmp_path):
    plan = parse_plan(
        "name: q\ninputs: {who: {type: string, default: null}, n: {type: integer, default: 1}}\n"
        "steps: [{name: one, set: {z: 1}}]\n"
    )
    assert rows("n=1,2", plan=plan).constant == {}
    found = rows(table=table(tmp_path, "n,who\n1,a\n2,\n"), plan=plan)
    assert list(found.rows) == [{"n": 1, "who": "a"}, {"n": 2}]
    for row in found.rows:
        bind_inputs(plan, {**found.constant, **row})


def test_a_sweep_without_anything_that_varies_is_refused():
    with pytest.raises(InputError, match="nothing varies"):
        rows()


def test_required_inputs_must_be_given_or_vary():
    with pytest.raises(InputError, match="`who` is required"):
        rows("n=1,2", plan=NEEDS)
    assert values("who=a,b", plan=NEEDS) == [("a",), ("b",)]


def test_the_size_of_a_product_is_known_before_it_is_built():
    before = time.process_time()
    with pytest.raises(InputError, match="160,000,000 runs; a sweep has at most 100,000"):
        rows("n=1..20000", "x=0..7999:1")
    with pytest.raises(InputError, match="1,000,000,000,000 runs"):
        rows("n=1..1000000000000")
    assert time.process_time() - before < 5  # building either would take minutes
    assert len(rows("n=1..500", "x=1..200").rows) == MOST_ROWS


def test_text_pairs_need_a_name_and_name_each_input_once():
    with pytest.raises(InputError, match="write NAME=VALUES"):
        axes_from_texts(["nodes"])
    with pytest.raises(InputError, match="names `n` twice"):
        axes_from_texts(["n=1", "n=2"])


def test_python_gives_lists_ranges_and_texts():
    axes = axes_of({"n": range(3), "s": ("a", "b"), "x": "0..1:0.5"})
    assert len(rows_of(SweepSpec(plan="", over=axes), PLAN).rows) == 18
    with pytest.raises(InputError, match="cannot be the object"):
        axes_of({"n": object()})
    with pytest.raises(SweepError, match="which is not JSON"):
        rows_of(SweepSpec(plan="", over=axes_of({"s": [b"x"]})), PLAN)


# -- secrets


@pytest.mark.parametrize(
    "spec",
    [
        {"over": ("s=canary-secret-1,b",)},
        {"over": ("s=b,Bearer canary-secret-1",)},
        {"over": ("n=1234,5",)},
        {"over": ('o=[{"a": ["canary-secret-1"]}]',)},
        {"over": ('o=[{"canary-secret-1": 1}]',)},
        {"over": ("n=1,2",), "inputs": {"s": "canary-secret-1"}},
    ],
)
def test_a_row_or_an_input_that_is_a_secret_is_refused_and_not_repeated(spec):
    masker = Masker(["canary-secret-1", "1234"])
    over = spec.pop("over")
    (problem,) = problems(*over, masker=masker, **spec)
    assert "is a secret of the settings or the environment" in problem
    assert "canary" not in problem
    assert "1234" not in problem


def test_a_secret_of_the_wrong_type_is_not_repeated_either():
    (problem,) = problems("n=canary-secret-1", masker=Masker(["canary-secret-1"]))
    assert "canary" not in problem


# -- tables


def table(tmp_path: Path, text: str, name: str = "runs.csv") -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_table_has_a_row_per_run(tmp_path):
    csv = table(tmp_path, '\ufeffn,s\n1,"a,b"\n\n2,"two\nlines"\n3,\n')
    found = rows(table=csv)
    assert found.varied == ("n", "s")
    assert list(found.rows) == [
        {"n": 1, "s": "a,b"},
        {"n": 2, "s": "two\nlines"},
        {"n": 3, "s": "a"},  # left out: the plan's default
    ]


def test_tables_of_each_form_give_the_same_rows(tmp_path):
    wanted = [{"n": 1, "s": "a"}, {"n": 2, "s": "b"}]
    tsv = table(tmp_path, "n\ts\n1\ta\n2\tb\n", "runs.tsv")
    lines = table(tmp_path, "".join(f"{json.dumps(row)}\n" for row in wanted), "runs.jsonl")
    arrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    import pyarrow.parquet  # noqa: F401 - `arrow.parquet` needs it

    arrow.parquet.write_table(arrow.Table.from_pylist(wanted), tmp_path / "runs.parquet")
    for path in (tsv, lines, str(tmp_path / "runs.parquet")):
        assert list(rows(table=path).rows) == wanted


def test_rows_of_a_table_are_combined_with_axes(tmp_path):
    csv = table(tmp_path, "n\n1\n2\n")
    assert values("s=a,b", table=csv) == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert "is an axis and a column" in problems("n=1,2", table=csv)[0]


@pytest.mark.parametrize(
    ("name", "text", "where", "words"),
    [
        ("t.csv", "n,s\n1,a\nx,b\n", 3, "must be of type integer"),
        ("t.csv", 'n,s\n1,"two\nlines"\nx,b\n', 4, "must be of type integer"),
        ("t.csv", "n,s\n1\n", 2, "1 cell; the table has 2 columns"),
        ("t.csv", "n,n\n1,2\n", 1, "two columns are called `n`"),
        ("t.csv", "n,\n1,2\n", 1, "column 2 has no name"),
        ("t.csv", "n,nope\n1,2\n", 1, "the plan has no input `nope`"),
        ("t.csv", "n,key\n1,2\n", 1, "is secret, and cannot vary"),
        ("t.csv", "n,s\n1,a\n2,b\n1,a\n", 4, "the same as that of line 2"),
        ("t.csv", 'n,s\n1,"a\n', 2, "this is not CSV"),
        ("t.jsonl", '{"n": 1}\n{"n": \n', 2, "this is not JSON"),
        ("t.jsonl", "[1]\n", 1, "a mapping of inputs to values"),
        ("t.jsonl", '{"n": 1, "n": 2}\n', 1, "`n` is here twice"),
        ("t.jsonl", '{"x": NaN}\n', 1, "not finite"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(tmp_path, name, text, where, words):
    path = table(tmp_path, text, name)
    with pytest.raises(SweepError) as caught:
        rows(table=path)
    (problem,) = caught.value.problems
    assert problem.position is not None
    assert (problem.position.file, problem.position.line) == (path, where)
    assert words in problem.message


def test_all_wrong_rows_are_reported(tmp_path):
    assert len(problems(table=table(tmp_path, "n\nx\n2\ny\nz\n"))) == 3


def test_a_required_input_must_be_in_every_row(tmp_path):
    path = table(tmp_path, "who,n\na,1\n,2\n")
    with pytest.raises(SweepError, match="`who` is required"):
        rows(table=path, plan=NEEDS)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "n\n", "has no rows"),
        ("t.csv", "", "has no rows"),
        ("t.xlsx", "n\n1\n", "none of the endings"),
        ("t.parquet", "not parquet", "is not Parquet"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, name, text, words):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    with pytest.raises(InputError, match=words):
        rows(table=table(tmp_path, text, name))
    with pytest.raises(InputError, match="is not a file"):
        rows(table=str(tmp_path / "missing.csv"))


def test_a_table_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"n\n\xff\n")
    with pytest.raises(InputError, match="not UTF-8"):
        rows(table=str(tmp_path / "t.csv"))


def test_a_table_of_too_many_rows_is_refused_with_the_number(tmp_path):
    path = table(tmp_path, "n\n" + "".join(f"{i}\n" for i in range(MOST_ROWS // 20)))
    with pytest.raises(InputError, match=r"the rows of the table with these axes would be 105,000"):
        rows("x=1..21", table=path)


# -- samples


def test_a_sample_is_drawn_from_the_axes_and_repeats_with_its_seed():
    pytest.importorskip("optuna", reason="the extra `optimize` is not installed")
    spec: dict[str, Any] = {"sample": 25, "seed": 7}
    found = values("x=0.5..2.0", "n=1..4", "s=a,b", **spec)
    assert found == values("x=0.5..2.0", "n=1..4", "s=a,b", **spec)
    assert found != values("x=0.5..2.0", "n=1..4", "s=a,b", sample=25, seed=8)
    assert len(set(found)) == 25
    assert all(0.5 <= x <= 2.0 and n in (1, 2, 3, 4) and s in ("a", "b") for x, n, s in found)


def test_a_sample_may_take_every_point_and_no_more():
    everything = sorted(values("n=1..4", "s=a,b"))
    assert sorted(values("n=1..4", "s=a,b", sample=8)) == everything
    assert sorted(values("n=1..4", "s=a,b", sample=8, algorithm="grid")) == everything
    with pytest.raises(InputError, match="only 8 different rows"):
        rows("n=1..4", "s=a,b", sample=9)


def test_the_type_of_the_input_decides_whether_a_range_has_numbers_between():
    pytest.importorskip("optuna", reason="the extra `optimize` is not installed")
    assert {n for (n,) in values("n=1..3", sample=3)} == {1, 2, 3}
    assert any(x not in (0, 1) for (x,) in values("x=0..1", sample=5))


@pytest.mark.parametrize(
    ("over", "spec", "words"),
    [
        ((), {"sample": 3}, "nothing varies"),
        (("n=1,2",), {"sample": 2_000_000}, "2,000,000 runs"),
        (("l=[[1],[2]]",), {"sample": 1}, "a choice must be text"),
        (("x=0.1..2",), {"sample": 1, "algorithm": "grid"}, "a grid has no end"),
    ],
)
def test_a_sample_that_cannot_be_drawn_says_why(over, spec, words):
    with pytest.raises(InputError, match=words):
        rows(*over, **spec)


def test_a_sample_of_a_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="a table has no ranges"):
        rows("x=1,2", table=table(tmp_path, "n\n1\n"), sample=1)


# -- sweep files


def sweep_file(tmp_path: Path, text: str) -> SweepSpec:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    found = read_sweep_file(path)
    assert found is not None
    return found


def test_a_sweep_file_says_all_that_the_command_line_can(tmp_path):
    found = sweep_file(
        tmp_path,
        """
plan: plans/p.yaml
description: why
inputs: {s: hello}
over: {n: 1..4, x: [0.5, 1], any: {low: 1, high: 9, step: 4}}
limits: {tokens: 1000, node_hours: 4}
run_limits: {time: 10m, tokens: 10}
on: cluster
max_parallel: 3
answers: {submit: yes}
merit: z
""",
    )
    assert found.plan == str(tmp_path / "plans/p.yaml")
    assert [axis.name for axis in found.over] == ["n", "x", "any"]
    assert len(rows_of(found, PLAN).rows) == 4 * 2 * 3
    assert found.limits == {"tokens": 1000, "node_hours": 4}
    assert found.run_limits == {"time": 600, "tokens": 10}
    assert (found.on, found.max_parallel, found.merit) == ("cluster", 3, "z")
    assert found.answers == {"submit": "yes"}


def test_options_replace_single_entries_of_a_sweep_file(tmp_path):
    found = sweep_file(
        tmp_path, "plan: p.yaml\nover: {n: [1, 2], s: [a]}\ninputs: {x: 1, any: 2}\n"
    )
    changed = with_options(
        found, over=axes_from_texts(["n=7", "flag=yes,no"]), inputs={"x": 9}, max_parallel=None
    )
    assert {axis.name: axis.given for axis in changed.over} == {
        "n": "7",
        "s": ["a"],
        "flag": "yes,no",
    }
    assert changed.inputs == {"x": 9, "any": 2}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("plan: p.yaml\novr: {n: [1]}\n", 2, "no key `ovr`; did you mean `over`?"),
        ("over: {n: [1]}\n", 1, "a sweep needs `plan`"),
        ("plan: p.yaml\n", 1, "nothing varies"),
        ("plan: p.yaml\nover: {n: 4}\n", 2, "an axis is a list of values or a range"),
        ("plan: p.yaml\nover: {n: {low: 1, hi: 4}}\n", 2, "a range has no key `hi`"),
        ("plan: p.yaml\nover: {n: [1]}\nlimits: {steps: 4}\n", 3, "write it below `run_limits`"),
        ("plan: p.yaml\nover: {n: [1]}\nlimits: {tokens: many}\n", 3, "must be a whole number"),
        ("plan: p.yaml\nover: {n: [1]}\nmax_parallel: 0\n", 3, "must be at least 1"),
        ("plan: p.yaml\nover: {n: [1]}\njobs: 4\n", 3, "write `max_parallel`"),
        ("plan: p.yaml\nover: {n: [1]}\nexecutors: {a: {}}\n", 3, "set up in the settings"),
        ("plan: p.yaml\ntable: t.csv\nsample: 3\n", 3, "draws from the axes"),
    ],
)
def test_a_mistake_in_a_sweep_file_has_its_place(tmp_path, text, line, words):
    with pytest.raises(PlanError) as caught:
        sweep_file(tmp_path, text)
    lines = [(p.position.line if p.position else 0, str(p)) for p in caught.value.problems]
    assert any(at == line and words in said for at, said in lines), lines


def test_a_wrong_value_of_a_sweep_file_is_named_by_its_place(tmp_path):
    found = sweep_file(tmp_path, "plan: p.yaml\nover:\n  n: [1, two]\ninputs:\n  x: high\n")
    with pytest.raises(SweepError) as caught:
        rows_of(found, PLAN)
    assert [p.position.line for p in caught.value.problems if p.position] == [5, 3]


@pytest.mark.parametrize(
    "text", ["name: p\nsteps: []\n", "plan: x\nsteps: []\n", "name: p\n", "- 1\n"]
)
def test_a_plan_is_not_a_sweep_file(tmp_path, text):
    assert read_sweep_file("/dev/null") is None
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    assert read_sweep_file(path) is None
