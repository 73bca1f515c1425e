"""What a scheduler's package declares, it has; and everything that lists schedulers has it."""

from __future__ import annotations

from typing import get_args

import pytest

from fractale.plan.model import STEP_KEYS
from fractale.schedulers.dialects import dialect_of
from fractale.schedulers.ends import after
from fractale.schedulers.environment import environment_of
from fractale.schedulers.homes import (
    DECLARED,
    NAMES,
    READ,
    RUN,
    JobScheduler,
    ScriptScheduler,
    adapters_of,
    home,
    longest,
    optional_home,
    scheduler_named,
)
from fractale.settings import passed_on
from fractale.site import PROBES


@pytest.mark.parametrize("name", READ)
def test_a_scheduler_whose_scripts_are_read_has_directives_and_an_environment(name):
    for part in (dialect_of(name), environment_of(name)):
        assert (part.name, part.title) == (name, DECLARED[name].title)


@pytest.mark.parametrize("name", RUN)
def test_a_scheduler_that_runs_jobs_has_an_adapter_and_a_bound_on_their_time(name, tmp_path):
    adapters = adapters_of({}, {}, tmp_path, 1)
    assert list(adapters) == [*RUN]
    assert (adapters[name].name, adapters[name].title) == (name, DECLARED[name].title)
    assert longest(name, 60.0) > 60.0
    assert (after(name, "4711", "true") is None) == (name == "local")


@pytest.mark.parametrize("name", RUN)
def test_a_scheduler_that_runs_jobs_is_looked_for(name):
    assert (name in PROBES["schedulers"]) == (name != "local"), (
        f"a module `site` with `probe` is missing in fractale/schedulers/{name}"
    )


@pytest.mark.parametrize("name", DECLARED)
def test_what_a_scheduler_declares_is_known_where_it_is_needed(name):
    declared = DECLARED[name]
    assert all(scheduler_named(alias) == name for alias in declared.aliases)
    variables = {glob.replace("*", "X"): "1" for glob in declared.variables}
    assert passed_on(variables) == variables


def test_plans_and_tools_can_name_every_scheduler():
    assert STEP_KEYS["scheduler"].form.schema["anyOf"][0] == {"enum": [*RUN]}
    assert get_args(JobScheduler) == RUN
    assert get_args(ScriptScheduler) == NAMES


def test_the_order_in_which_a_scheduler_is_chosen():
    known = ("slurm", "pbs", "lsf", "flux", "local")
    assert tuple(name for name in RUN if name in known) == known
    assert RUN[-1] == "local", "any other scheduler precedes processes of this machine"


def test_an_unknown_scheduler_is_refused():
    with pytest.raises(ValueError, match="`nqs` is not a scheduler"):
        home("nqs", "jobs")
    assert optional_home("pbs", "validator") is None
