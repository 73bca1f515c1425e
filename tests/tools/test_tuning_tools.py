"""The tools for a search without a model: what to try next, and what came of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fractale.tools.tuning import next_trial, trial_report

SPACE = {
    "ranks": {"type": "int", "low": 1, "high": 4},
    "skin": {"type": "float", "low": 0.1, "high": 0.6, "step": 0.1},
}


def rate(params) -> float | None:
    """More ranks are better up to three, four do not fit."""
    return None if params["ranks"] == 4 else params["ranks"] * 1e6 - abs(params["skin"] - 0.3) * 1e5


def searched(direction="maximize", **options) -> dict:
    said = next_trial(SPACE, direction, **options)
    while not said["stop"]:
        value = rate(said["params"])
        error = None if value else "job 4711: more slots than there are"
        said = next_trial(
            SPACE, direction, said["trials"], said["params"], value, error, 1.5, **options
        )
    return said


def test_a_search_goes_on_by_what_it_was_told_and_ends_by_its_budget():
    said = searched(max_trials=12, seed=3)
    assert said["stopped_by"] == "budget"
    assert said["params"] is None
    assert [trial["number"] for trial in said["trials"]] == list(range(1, 13))
    assert said["best"]["ranks"] == 3
    assert said["best_value"] == max(t["value"] for t in said["trials"] if t["ok"])


def test_the_same_seed_is_the_same_search():
    assert searched(max_trials=6, seed=5) == searched(max_trials=6, seed=5)
    assert searched(max_trials=6, seed=5) != searched(max_trials=6, seed=6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"target": 1.0, "max_trials": 50}, "target"),
        ({"patience": 2, "max_trials": 50}, "patience"),
        ({"algorithm": "grid", "max_trials": 50, "max_failures": 50}, "exhausted"),
    ],
)
def test_a_search_says_why_it_ended(options, reason):
    assert searched(**options)["stopped_by"] == reason


def test_trials_that_fail_again_and_again_end_it():
    said = next_trial(SPACE, "minimize", max_failures=2)
    for _ in range(2):
        said = next_trial(SPACE, "minimize", said["trials"], said["params"], max_failures=2)
    assert said["stopped_by"] == "failures"
    assert said["trials"][0]["error"] == "it returned no value"
    assert said["best"] is None


def test_a_value_beside_an_error_is_none():
    said = next_trial(SPACE, "minimize", [], {"ranks": 1, "skin": 0.1}, 7.0, "it was killed")
    assert said["trials"][0]["value"] is None
    assert not said["trials"][0]["ok"]


def test_the_report_has_a_table_a_chart_and_a_picture(tmp_path):
    said = searched(max_trials=12, seed=3)
    report = trial_report(said["trials"], "maximize", "atom-steps/s", str(tmp_path / "a" / "t.png"))
    head, *rows = report["table"][:13]
    assert head.split() == ["trial", "ranks", "skin", "atom-steps/s", "seconds", "by"]
    (best,) = [row for row in rows if row.startswith("*")]
    assert report["summary"].startswith("atom-steps/s ")
    assert best.split()[0] == f"*{said['trials'].index(_best(said)) + 1}"
    good = [trial for trial in said["trials"] if trial["ok"]]
    bad = [str(trial["number"]) for trial in said["trials"] if not trial["ok"]]
    assert [row.split()[0] for row in rows if " failed " in row] == bad
    assert report["table"][13:] == [f"{', '.join(bad)} failed: job 4711: more slots than there are"]
    assert sum(line.count("x") for line in report["chart"]) == len(good)
    assert (tmp_path / "a" / "t.png").read_bytes().startswith(b"\x89PNG")
    assert report["params"] == said["best"]


def _best(said) -> dict:
    return next(trial for trial in said["trials"] if trial["params"] == said["best"])


def test_one_trial_is_a_chart_too():
    trials = next_trial(SPACE, "minimize", [], {"ranks": 1, "skin": 0.1}, 0.0)["trials"]
    assert sum(line.count("x") for line in trial_report(trials, "minimize")["chart"]) == 1


@pytest.mark.parametrize("count", [1, 2, 6, 8, 20, 500])
def test_under_the_chart_stand_numbers_of_trials(count):
    trials = [
        {"number": n, "params": {"a": n}, "value": float(n), "ok": True}
        for n in range(1, count + 1)
    ]
    *_, axis = trial_report(trials, "maximize")["chart"]
    told = [float(word) for word in axis.split()[1:]]
    assert told[0] == 0
    assert told[-1] <= count < told[-1] + told[1]
    assert all(number == int(number) for number in told)


def test_without_a_success_there_is_no_report():
    trials = next_trial(SPACE, "minimize", [], {"ranks": 1, "skin": 0.1}, None, "no slots")
    with pytest.raises(ValueError, match="none of 1 trials succeeded; the last: no slots"):
        trial_report(trials["trials"], "minimize")


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    trials = searched(max_trials=2)["trials"]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        trial_report(trials, "maximize", png=str(tmp_path / "file" / "t.png"))


@pytest.mark.parametrize("package", ["plotille", "matplotlib"])
def test_a_missing_extra_is_named(package):
    code = (
        "import sys\n"
        f"sys.modules['{package}'] = None\n"  # as where it is not installed
        "from fractale.errors import DependencyMissing\n"
        "from fractale.tools.tuning import next_trial, trial_report\n"
        "space = {'a': {'type': 'int', 'low': 1, 'high': 2}}\n"
        "trials = next_trial(space, 'minimize', [], {'a': 1}, 1.0)['trials']\n"
        "try:\n"
        "    trial_report(trials, 'minimize', png='t.png')\n"
        "except DependencyMissing as error:\n"
        "    print(error, error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert package in done.stdout, done.stderr
    assert "fractale[optimize]" in done.stdout
