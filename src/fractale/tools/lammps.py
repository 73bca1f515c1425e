"""The metrics of a LAMMPS run, read from its log."""

from __future__ import annotations

import re
from typing import Any

LOOP = re.compile(
    r"Loop time of (?P<seconds>[\d.e+-]+) on (?P<procs>\d+) procs"
    r" for (?P<steps>\d+) steps with (?P<atoms>\d+) atoms"
)
RATE = re.compile(r"([\d.e+-]+) ([kMG]?)atom-step/s")
STEP_RATE = re.compile(r"([\d.e+-]+) timesteps/s")
RANKS = re.compile(r"([\d.]+)% CPU use with (\d+) MPI tasks x (\d+|no) OpenMP threads")
SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
ROUNDING = 0.01


def read_lammps_log(log: str) -> dict[str, Any]:
    """Read the metrics of every run in a LAMMPS log.

    The reported rate is checked against atoms x steps / loop time, so that a torn or edited log
    does not pass.

    Args:
        log: The text of ``log.lammps`` or of the standard output.

    Returns:
        ``version``; ``runs``, each with ``atoms``, ``steps``, ``procs``, ``loop_seconds``,
        ``atom_steps_per_second``, ``evidence`` (the lines and their numbers) and, if the
        log has them, ``timesteps_per_second``, ``mpi_tasks``, ``omp_threads`` and
        ``cpu_percent``; and the last run's ``atom_steps_per_second``, the figure of merit.

    Raises:
        ValueError: The log has no finished run, reports an error, or contradicts itself.
    """
    lines = log.splitlines()
    runs = [_run(lines, index) for index, line in enumerate(lines) if LOOP.search(line)]
    errors = [line.strip() for line in lines if line.startswith("ERROR")]
    if errors:
        raise ValueError(f"the log reports an error: {errors[0]}")
    if not runs:
        raise ValueError("the log has no line `Loop time of …`: no run in it has finished")
    version = re.search(r"^LAMMPS \((.+)\)", log, re.MULTILINE)
    return {
        "version": version[1] if version else "",
        "runs": runs,
        "atom_steps_per_second": runs[-1]["atom_steps_per_second"],
    }


def _run(lines: list[str], index: int) -> dict[str, Any]:
    loop = LOOP.search(lines[index])
    if loop is None:  # the caller's search has already matched
        raise ValueError(f"line {index + 1} is not a loop time")
    atoms, steps, seconds = int(loop["atoms"]), int(loop["steps"]), float(loop["seconds"])
    run: dict[str, Any] = {
        "atoms": atoms,
        "steps": steps,
        "procs": int(loop["procs"]),
        "loop_seconds": seconds,
        "atom_steps_per_second": atoms * steps / seconds if seconds else 0.0,
        "evidence": [f"{index + 1}: {lines[index].strip()}"],
    }
    for number, line in _until_next(lines, index):
        metrics = _figures(line)
        if metrics:
            run["evidence"].append(f"{number}: {line.strip()}")
            _check_rate(run, metrics.pop("reported", None), number)
            run.update(metrics)
    return run


def _until_next(lines: list[str], index: int) -> list[tuple[int, str]]:
    """The numbered lines between one loop time and the next."""
    found: list[tuple[int, str]] = []
    for number, line in enumerate(lines[index + 1 :], index + 2):
        if LOOP.search(line):
            break
        found.append((number, line))
    return found


def _figures(line: str) -> dict[str, Any]:
    """Read the metrics in one line after a loop time."""
    metrics: dict[str, Any] = {}
    if line.startswith("Performance:"):
        if rate := RATE.search(line):
            metrics["reported"] = float(rate[1]) * SCALE[rate[2]]
        if speed := STEP_RATE.search(line):
            metrics["timesteps_per_second"] = float(speed[1])
    elif ranks := RANKS.search(line):
        metrics["cpu_percent"] = float(ranks[1])
        metrics["mpi_tasks"] = int(ranks[2])
        metrics["omp_threads"] = 1 if ranks[3] == "no" else int(ranks[3])
    return metrics


def _check_rate(run: dict[str, Any], reported: float | None, number: int) -> None:
    """Return the reported rate, if it agrees with the other metrics.

    Raises:
        ValueError: The rate is off by more than 1 %.
    """
    if reported is None:
        return
    computed = run["atom_steps_per_second"]
    if abs(reported - computed) > ROUNDING * max(reported, computed):
        raise ValueError(
            f"line {number} reports {reported:.4g} atom-steps/s, but {run['atoms']} atoms x"
            f" {run['steps']} steps in {run['loop_seconds']} s make {computed:.4g}"
        )
    run["atom_steps_per_second"] = reported
