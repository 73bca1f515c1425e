"""Search algorithms: proposals from a table of trials, the same for the same table and seed."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from fractale.agents.search import ALGORITHMS, best_of, propose
from fractale.agents.space import faults_of, read_space, typed
from fractale.errors import DependencyMissing, ToolError

SPACE = {
    "rate": {"type": "float", "low": 0.001, "high": 1, "log": True},
    "nodes": {"type": "int", "low": 1, "high": 64, "log": True},
    "tile": {"type": "int", "low": 8, "high": 33, "step": 8},
    "skin": {"type": "float", "low": 0, "high": 1, "step": 0.1},
    "solver": {"type": "categorical", "choices": ["cg", "gmres", None, 2]},
}
STEPPED = {name: SPACE[name] for name in ("nodes", "tile", "skin", "solver")}
QUADRATIC = {
    "x": {"type": "float", "low": -10, "high": 10},
    "y": {"type": "float", "low": -10, "high": 10},
}


def space_for(algorithm: str) -> dict:
    return STEPPED if algorithm == "grid" else SPACE


def cost(params: dict) -> float:
    return params["nodes"] + params["tile"] / 8 + params["skin"] + (params["solver"] != "cg")


def search(
    space: dict, value, algorithm: str, seed: int = 0, trials: int = 12, start=(), direction=None
) -> list[dict]:
    """The table of a search; every fourth trial fails."""
    table = list(start)
    while len(table) < trials:
        params = propose(space, table, algorithm, seed, direction or "minimize")
        if params is None:
            break
        number = len(table) + 1
        table.append({"params": params, "value": None if number % 4 == 0 else value(params)})
    return table


# -- reproducible -------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_seed_gives_the_same_search_and_another_one_another(algorithm):
    space = space_for(algorithm)
    first = search(space, cost, algorithm, seed=3)
    assert first == search(space, cost, algorithm, seed=3)
    assert first != search(space, cost, algorithm, seed=4)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("after", [1, 7, 11])
def test_a_search_that_goes_on_from_its_table_as_json_is_the_uninterrupted_one(algorithm, after):
    space = space_for(algorithm)
    whole = search(space, cost, algorithm)
    kept = json.loads(json.dumps(whole[:after]))
    assert search(json.loads(json.dumps(space)), cost, algorithm, start=kept) == whole


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_process_gives_the_same_proposal(algorithm):
    table = search(space_for(algorithm), cost, algorithm, trials=8)
    code = (
        "import json, sys; from fractale.agents.search import propose; "
        "print(json.dumps(propose(*json.loads(sys.stdin.read()))))"
    )
    given = json.dumps([space_for(algorithm), table[:7], algorithm])
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == table[7]["params"]
    assert done.stderr == ""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_proposal_is_a_new_point_of_the_space_in_json(algorithm):
    space = space_for(algorithm)
    points = [trial["params"] for trial in search(space, cost, algorithm, trials=30)]
    for point in points:
        assert faults_of(read_space(space), point) == []
        assert json.loads(json.dumps(point)) == point
        assert type(point["nodes"]) is int
        assert type(point["skin"]) is float
    assert all(points.count(point) == 1 for point in points)


# -- searching ----------------------------------------------------------------------------------


def bowl(params: dict) -> float:
    return (params["x"] - 3) ** 2 + (params["y"] + 2) ** 2


@pytest.mark.parametrize("algorithm", ["tpe", "cma-es"])
def test_a_search_that_learns_beats_chance_on_a_bowl(algorithm):
    learned = [best_of(search(QUADRATIC, bowl, algorithm, s, 60))["value"] for s in range(5)]
    chance = [best_of(search(QUADRATIC, bowl, "random", s, 60))["value"] for s in range(5)]
    assert sum(learned) < sum(chance) / 2


@pytest.mark.parametrize("algorithm", ["tpe", "cma-es"])
def test_to_maximize_is_to_minimize_the_negative(algorithm):
    down = search(QUADRATIC, bowl, algorithm, trials=20)
    up = search(QUADRATIC, lambda p: -bowl(p), algorithm, trials=20, direction="maximize")
    assert [trial["params"] for trial in up] == [trial["params"] for trial in down]
    assert best_of(up, "maximize")["params"] == best_of(down)["params"]


def test_tpe_stays_away_from_where_trials_fail():
    space = {"x": {"type": "float", "low": 0, "high": 1}}

    def table(trials: int) -> list[dict]:
        rows: list[dict] = []
        while len(rows) < trials:
            params = propose(space, rows, "tpe", seed=1)
            good = params["x"] < 0.5
            rows.append({"params": params, "value": 1.0 if good else None, "ok": good})
        return rows

    failed = [not trial["ok"] for trial in table(40)]
    assert sum(failed[20:]) < sum(failed[:20])


@pytest.mark.parametrize("algorithm", ["tpe", "cma-es", "random"])
def test_points_that_others_proposed_are_learned_from_and_not_proposed_again(algorithm):
    own = [{"params": {"x": 3.0, "y": -2.0}, "value": 0.0}]
    table = search(QUADRATIC, bowl, algorithm, trials=20, start=own)
    assert best_of(table) == own[0]
    assert [trial["params"] for trial in table].count(own[0]["params"]) == 1


def test_a_grid_is_searched_whole_and_then_there_is_nothing_left():
    space = {**STEPPED, "skin": {"type": "float", "low": 0, "high": 0.1, "step": 0.1}}
    table = search(space, cost, "grid", trials=1000)
    nodes = {trial["params"]["nodes"] for trial in table}
    assert nodes == {1, 2, 4, 8, 16, 32, 64}
    assert {trial["params"]["tile"] for trial in table} == {8, 16, 24, 32}
    assert len(table) == 7 * 4 * 2 * 4
    assert propose(space, table, "grid") is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_finite_space_is_never_searched_twice(algorithm):
    space = {
        "a": {"type": "int", "low": 1, "high": 2},
        "b": {"type": "int", "low": 0, "high": 4, "step": 2},
    }
    table = search(space, lambda p: p["a"] + p["b"], algorithm, trials=20)
    assert sorted((t["params"]["a"], t["params"]["b"]) for t in table) == sorted(
        (a, b) for a in (1, 2) for b in (0, 2, 4)
    )


def test_the_highest_of_an_odd_range_is_on_its_grid():
    space = {"ranks": {"type": "int", "low": 3, "high": 20, "log": True}}
    table = search(space, lambda p: p["ranks"], "grid", trials=20)
    assert sorted(trial["params"]["ranks"] for trial in table) == [3, 6, 12, 20]


def test_decimal_steps_have_no_dust():
    space = {"skin": {"type": "float", "low": 0.1, "high": 0.75, "step": 0.1}}
    table = search(space, lambda p: p["skin"], "grid", trials=20)
    values = sorted(trial["params"]["skin"] for trial in table)
    assert values == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_the_best_trial_is_the_first_of_equals_and_one_that_succeeded():
    table = [
        {"params": {}, "value": 0.0, "ok": False},
        {"params": {}, "value": None},
        {"params": {"first": 1}, "value": 2.0},
        {"params": {}, "value": 2.0},
        {"params": {"most": 1}, "value": 7.0},
    ]
    assert best_of(table)["params"] == {"first": 1}
    assert best_of(table, "maximize")["params"] == {"most": 1}
    assert best_of(table[:2]) is None
    assert best_of([]) is None


def test_optunas_notes_are_silent_and_its_logger_is_left_as_it_was(capfd):
    logger = logging.getLogger("optuna")
    before = logger.level
    for algorithm in ALGORITHMS:
        search(space_for(algorithm), cost, algorithm, trials=9)
    assert capfd.readouterr() == ("", "")
    assert logger.level == before


def test_without_optuna_the_extra_is_named(tmp_path):
    (tmp_path / "optuna.py").write_text("raise ModuleNotFoundError('no', name='optuna')")
    code = (
        "from fractale.agents.search import propose\n"
        "from fractale.errors import DependencyMissing\n"
        "try: propose({'x': {'choices': [1, 2]}})\n"
        "except DependencyMissing as error: print(error, error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert "optuna, which is not installed" in done.stdout
    assert "fractale[optimize]" in done.stdout
    assert issubclass(DependencyMissing, Exception)


# -- what can't be searched ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "told"),
    [
        ({"type": "int", "low": 4, "high": 1}, "`low` (4) is above `high` (1)"),
        ({"type": "int", "low": 0.5, "high": 2}, "`low` is an integer"),
        ({"type": "int", "low": True, "high": 2}, "`low` is an integer"),
        ({"type": "int", "low": 1}, "`high` is an integer"),
        ({"type": "int", "low": 1, "high": 2**60}, "`high` is an integer"),
        ({"type": "float", "low": 0, "high": float("inf")}, "`high` is a number"),
        ({"type": "float", "low": "0", "high": 1}, "`low` is a number"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "`low` must be above 0"),
        ({"type": "int", "low": 0, "high": 1, "log": True}, "`low` must be at least 1"),
        ({"type": "float", "low": 1, "high": 2, "step": 0}, "`step` must be above 0"),
        ({"type": "float", "low": 1, "high": 2, "log": "y"}, "`log` must be true or false"),
        ({"type": "float", "low": 1, "high": 2, "log": True, "step": 0.5}, "don't go together"),
        ({"type": "categorical"}, "`choices` must be a list of at least one value"),
        ({"choices": []}, "`choices` must be a list of at least one value"),
        ({"choices": [[1]]}, "a choice must be text, a number"),
        ({"choices": [1, True]}, "two of the `choices` are the same"),
        ({"choices": ["a"], "low": 1}, "`low` is not one of its keys"),
        ({"type": "real", "low": 0, "high": 1}, "`type` must be int, float or categorical"),
        ({"low": 0, "high": 1}, "`type` must be int, float or categorical"),
        ([1, 2], "it must be a mapping with a `type`"),
    ],
)
def test_a_parameter_that_cannot_be_searched_is_named_with_its_fault(parameter, told):
    with pytest.raises(ToolError) as caught:
        propose({"good": {"choices": [1]}, "bad": parameter})
    assert "bad: " in str(caught.value)
    assert told in str(caught.value)
    assert "good" not in str(caught.value)
    assert "for example" in (caught.value.hint or "")


@pytest.mark.parametrize("space", [{}, [], "x", None])
def test_a_space_has_parameters(space):
    with pytest.raises(ToolError, match="at least one parameter"):
        propose(space)


def test_all_faults_of_a_space_are_told_at_once():
    with pytest.raises(ToolError) as caught:
        propose({"a": {"type": "int"}, "b": {"choices": []}})
    assert all(word in str(caught.value) for word in ("a: `low`", "a: `high`", "b: `choices`"))


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"x": 1.0}, "y: missing"),
        ({"x": 1.0, "y": 1.0, "z": 1}, "z: not a parameter"),
        ({"x": 11, "y": 1.0}, "x: 11 is outside of -10 to 10"),
        ({"x": "1", "y": 1.0}, "x: '1' is not a number"),
        ({"x": float("nan"), "y": 1.0}, "is not a number"),
        ("x=1", "`params` must be a mapping"),
    ],
)
def test_a_trial_that_is_not_of_the_space_is_told_by_number(params, told):
    good = {"params": {"x": 0, "y": 0}, "value": 1}
    with pytest.raises(ToolError) as caught:
        propose(QUADRATIC, [good, {"params": params, "value": 1}])
    assert "trial 2" in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "3", True])
def test_a_value_that_is_no_finite_number_is_not_taken(value):
    with pytest.raises(ToolError, match="not a finite number"):
        propose(QUADRATIC, [{"params": {"x": 0, "y": 0}, "value": value}])


@pytest.mark.parametrize(
    ("space", "algorithm", "told"),
    [
        (QUADRATIC, "grid", "x: a grid has no end of values"),
        ({"n": {"type": "int", "low": 0, "high": 10**9}}, "grid", "would have 1000000001 values"),
        (
            {name: {"type": "int", "low": 1, "high": 200} for name in "ab"},
            "grid",
            "has 40000 points",
        ),
        ({"x": QUADRATIC["x"], "s": {"choices": [1, 2]}}, "cma-es", "two or more parameters"),
        (QUADRATIC, "genetic", "unknown algorithm `genetic`"),
    ],
)
def test_an_algorithm_that_cannot_search_a_space_says_so(space, algorithm, told):
    with pytest.raises(ToolError, match=told):
        propose(space, [], algorithm)


def test_a_direction_is_one_of_two():
    with pytest.raises(ToolError, match="minimize or maximize"):
        propose(QUADRATIC, [], "tpe", 0, "best")


def test_points_are_held_to_steps_and_choices_and_typed_as_the_space_has_them():
    parameters = read_space(SPACE)
    point = {"rate": 1, "nodes": 4.0, "tile": 16, "skin": 0.30000000000000004, "solver": 2.0}
    assert faults_of(parameters, point) == []
    fitted = typed(parameters, point)
    assert fitted == {"rate": 1.0, "nodes": 4, "tile": 16, "skin": 0.3, "solver": 2}
    assert [type(value) for value in fitted.values()] == [float, int, int, float, int]
    off = {"rate": 0.5, "nodes": 4.5, "tile": 17, "skin": 0.25, "solver": "CG"}
    assert [fault.partition(":")[0] for fault in faults_of(parameters, off)] == list(off)[1:]
    assert faults_of(read_space({"b": {"choices": [True, False]}}), {"b": 1}) != []
