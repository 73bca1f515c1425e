"""Every scheduler that has a name has a package, and every list of schedulers has every name."""

from __future__ import annotations

from typing import get_args

import pytest

from fractale.jobs.service import ORDER
from fractale.plan.job import SCHEDULERS
from fractale.schedulers.dialects import dialect_of
from fractale.schedulers.ends import after
from fractale.schedulers.environment import environment_of
from fractale.schedulers.homes import (
    NAMES,
    READ,
    JobScheduler,
    adapters_of,
    home,
    longest,
    optional_home,
)
from fractale.site import PROBES

RUN_JOBS = get_args(JobScheduler)


@pytest.mark.parametrize("name", READ)
def test_a_scheduler_whose_scripts_are_read_has_directives_and_an_environment(name):
    assert dialect_of(name).name == name
    assert environment_of(name).name == name


@pytest.mark.parametrize("name", RUN_JOBS)
def test_a_scheduler_that_runs_jobs_has_an_adapter_and_a_bound_on_their_time(name, tmp_path):
    adapters = adapters_of({}, tmp_path, 1)
    assert list(adapters) == [*RUN_JOBS]
    assert adapters[name].name == name
    assert longest(name, 60.0) > 60.0
    assert (after(name, "4711", "true") is None) == (name == "local")


def test_plans_jobs_and_the_doctor_know_every_scheduler():
    assert set(SCHEDULERS) == set(ORDER) == set(RUN_JOBS)
    assert set(PROBES["schedulers"]) == set(NAMES)
    assert set(NAMES) == set(RUN_JOBS) - {"local"}


def test_an_unknown_scheduler_is_refused():
    with pytest.raises(ValueError, match="`nqs` is not a scheduler"):
        home("nqs", "jobs")
    assert optional_home("pbs", "validator") is None
