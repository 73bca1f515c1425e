"""Scripts of schedulers that fractale does not run jobs on: Cobalt's are read, others named."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from batch_requests import scripts
from fractale.schedulers.cobalt.directives import DIALECT
from fractale.schedulers.dialects import dialect_of, read_script, schedulers_of
from fractale.schedulers.lsf.directives import DIALECT as LSF
from fractale.schedulers.pbs.directives import DIALECT as PBS
from fractale.schedulers.request import Dependency, Request
from fractale.schedulers.script import Script


def script(*lines: str) -> Script:
    return read_script("\n".join(("#!/bin/sh", *lines)), "cobalt")


def test_what_cobalt_asks_for() -> None:
    found = script(
        "#COBALT -A proj -n 4 -t 30 -q full --attrs filesystems=home,eagle:location=n1",
        "#COBALT --jobname heat --mode c16 -O runs/$COBALT_JOBID -M me@there",
        "#COBALT --env A=1:B=x:y --dependencies 12:13 --cwd=/work -h",
        "aprun ./heat",
        "#COBALT -n 8",
    )
    assert found.invalid == ()
    assert found.request == Request(
        account="proj",
        nodes=4,
        exclusive=True,
        seconds=1800,
        queues=("full",),
        other=("filesystems=home,eagle",),
        hosts=("n1",),
        name="heat",
        tasks_per_node=16,
        output="runs/{{id}}.output",
        error="runs/{{id}}.error",
        mail_to=("me@there",),
        variables=("A=1", "B=x:y"),
        dependencies=(Dependency(kind="afterok", jobs=("12", "13")),),
        workdir="/work",
        hold=True,
    )
    assert "below the first command" in str(found.reading.remarks[0])
    assert found.body == ((5, "aprun ./heat"), (6, "#COBALT -n 8"))


@pytest.mark.parametrize(("text", "seconds"), [("30", 1800), ("1:10", 4200), ("01:10:20", 4220)])
def test_a_time_alone_is_in_minutes(text: str, seconds: int) -> None:
    assert script(f"#COBALT -t {text} -n 1").request.seconds == seconds


def test_what_cobalt_refuses_and_what_no_field_says() -> None:
    assert script("#COBALT -n none -t 5").invalid[0].why.startswith("`none`")
    assert script("#COBALT --nonsense -t 5").invalid
    assert script("#COBALT -n 1 -t soon").invalid
    mode = script("#COBALT --mode script").reading.directives[0]
    assert (mode.invalid, bool(mode.untold)) == ("", True)


def test_cobalt_is_translated_and_not_written() -> None:
    asked = script("#COBALT -n 2 -t 60 --mode c4 -A proj").request
    assert PBS.write(asked).lines == (
        "-A proj",
        "-l select=2:ncpus=4:mpiprocs=4",
        "-l place=scatter:excl",
        "-l walltime=01:00:00",
    )
    assert LSF.write(asked).lines == ("-P proj", "-n 8", '-R "span[ptile=4]"', "-x", "-W 1:00")
    with pytest.raises(ValueError, match="does not write"):
        DIALECT.write(asked)
    assert dialect_of("cobalt") is DIALECT


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("#$ -pe mpi 16", "Grid Engine"),
        ("#OAR -l nodes=2", "OAR"),
        ('#PJM -L "node=4"', "PJM"),
        ("#MSUB -l nodes=2", "Moab"),
        ("# @ job_type = parallel", "LoadLeveler"),
        ("#QSUB -l p_num=2", "NQS"),
    ],
)
def test_other_schedulers_are_named(line: str, title: str) -> None:
    lines = ("#!/bin/sh", line, "hostname")
    assert schedulers_of(lines) == ()
    with pytest.raises(ValueError, match=title):
        read_script("\n".join(lines))


def test_a_script_of_none_is_said_to_be_of_none() -> None:
    with pytest.raises(ValueError, match="#COBALT"):
        read_script("#!/bin/sh\nhostname\n")
    with pytest.raises(ValueError, match="`sge` is not a scheduler"):
        dialect_of("sge")


def test_a_scheduler_is_found_by_its_directives() -> None:
    assert read_script("#COBALT -n 2 -t 5\naprun x\n").scheduler == "cobalt"
    assert read_script("#PBS -l nodes=2\nx\n").scheduler == "pbs"
    assert read_script("x\n#BSUB -n 2\n").scheduler == "lsf"


@given(scripts("#COBALT"))
@settings(deadline=None)
def test_whatever_is_in_the_lines_is_read(lines: list[str]) -> None:
    reading = DIALECT.read(lines)
    assert all(each.sets or each.untold or each.invalid for each in reading.directives)
    assert reading.request.totals().tasks >= 1
