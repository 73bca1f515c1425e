"""What fractale reads in a Slurm script is what a real sbatch reads in it."""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings

from batch_requests import plain_requests
from counts import examples
from fractale.schedulers.dialects import read_script
from fractale.schedulers.slurm.directives import DIALECT
from slurm import Slurm, running_slurm

TAKEN = [
    "#SBATCH -n4 -c 2 -t 1:30:00 -J md -p debug -A chem",
    "#SBATCH --ntasks-per-n=2 --nodes=2-4 --out=o.txt --err=e.txt",
    "#SBATCH --nodes=2   # two of them,\n      # one is small\n\n#SBATCH --ntasks=64",
    '#SBATCH --job-name="heat map" -n 2 # three',
    "#SBATCH --comment='a # b' --job-name=a\\#b",
    "#SBATCH --job-name=run#3 -n 4",
    "#SBATCH -n\n#SBATCH 4",
    "#SBATCH--ntasks=3",
    "#SLURM -n 3",
    " #SBATCH -n 9\n#SBATCH -c 2",
    "#SBATCH -n 2\ntrue\n#SBATCH -n 9",
    "#SBATCH -n2 \\",
    "#SBATCH -a1-3%2 -t UNLIMITED --mem=4GB",
    "#SBATCH -t 2- --mem-per-cpu=2G",
    "#SBATCH --tasks-per-node=16 -N 2",
    "#SBATCH -N 4 -n 2",
    "#SBATCH --gpus=2 --gpus-per-node=a:1",
    "#SBATCH --gres=gpu:2,lscratch:100",
    "#SBATCH --gres=gpu:v100:1,tmp:40G",
    "#SBATCH --gres=gpu",
    "#SBATCH --exclusive --mail-type=END --mail-type=FAIL",
    "#SBATCH -n 2\n#PBS -l nodes=2:ppn=4,walltime=1:00:00,mem=4gb\n#PBS -N x -q debug",
    "#SBATCH -n 2\n#BSUB -n 4,8 -W 10 -q debug",
    "#SBATCH -n 2 --ignore-pbs\n#PBS -N x",
    "#SBATCH -C a&b --qos=high -L x:2 --reservation=r",
]
REFUSED = [
    "#SBATCH --cpus_per_task=4",
    "#SBATCH --foo",
    "#SBATCH -n=4",
    "#SBATCH --mem=4Gigs",
    "#SBATCH -t 1h",
    "#SBATCH -N 2-",
    "#SBATCH --exclu",
    "#SBATCH --hold=3",
    "#SBATCH --job-name",
    "#SBATCH --mail-type=SOON",
    "#SBATCH --begin=soon",
    "#SBATCH --signal=USR9@60",
    "#SBATCH --open-mode=x",
    "#SBATCH -n 4 solve",
    "#SBATCH --cpu-bind=cores",
    "#SBATCH --mem=1G --mem-per-cpu=1G",
    "#SBATCH -w a,b -N 1",
    '#SBATCH --job-name="x',
    "#SBATCH -n 2\n#BSUB -R x",
]


@pytest.fixture(scope="module")
def slurm():
    """A Slurm without jobs."""
    with running_slurm() as found:
        yield found


def options_of(slurm: Slurm, folder: Path, header: str) -> dict[str, str] | None:
    """The options that sbatch has after a script's lines; None if it refuses them."""
    script = folder / "job.sh"
    script.write_text(f"#!/bin/bash\n{header}\ntrue\n")
    done = subprocess.run(
        ["sbatch", "-v", "--test-only", str(script)],
        env=slurm.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "defined options" not in done.stderr or "invalid number of nodes" in done.stderr:
        return None
    return dict(re.findall(r"^sbatch: ([a-z-]+)\s+: (.*?)\s*$", done.stderr, re.MULTILINE))


def seconds_of(text: str | None) -> float | None:
    if text is None or text == "UNLIMITED":
        return math.inf if text else None
    days, _, clock = text.rpartition("-")
    hours, minutes, seconds = map(int, clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def megabytes_of(text: str | None) -> int | None:
    if text is None:
        return None
    return int(text.rstrip("MG")) * (1024 if text.endswith("G") else 1)


def gpus_of(text: str | None) -> int | None:
    """GPUs in sbatch's own form of a list of resources."""
    for each in (text or "").split(","):
        words = each.removeprefix("gres:").split(":")
        if words[0] == "gpu":
            return int(words[-1]) if words[-1].isdecimal() else 1
    return None


def number(text: str | None) -> int | None:
    return int(text.rpartition(":")[2]) if text else None


@pytest.mark.parametrize("header", TAKEN)
def test_what_sbatch_takes(slurm, tmp_path, header):
    theirs = options_of(slurm, tmp_path, header)
    assert theirs is not None
    found = DIALECT.read(["#!/bin/bash", *header.splitlines(), "true"])
    assert not found.invalid
    assert not [each for each in found.directives if each.invalid]
    ours = found.request
    least, _, most = theirs.get("nodes", "").partition("-")
    assert ours.nodes == number(least)
    assert ours.most_nodes == (number(most) if most != least else None)
    assert ours.tasks == number(theirs.get("ntasks"))
    assert ours.tasks_per_node == number(theirs.get("ntasks-per-node"))
    assert ours.cores_per_task == number(theirs.get("cpus-per-task"))
    assert ours.gpus == number(theirs.get("gpus"))
    assert ours.gpus_per_node in (number(theirs.get("gpus-per-node")), gpus_of(theirs.get("gres")))
    assert ours.seconds == seconds_of(theirs.get("time"))
    for name, option in (("memory_per_node", "mem"), ("memory_per_core", "mem-per-cpu")):
        amount = getattr(ours, name)
        assert (amount and amount // 2**20) == megabytes_of(theirs.get(option))
    assert ours.name in (theirs.get("job-name"), None)
    assert (",".join(ours.queues) or None) == theirs.get("partition")
    assert ours.account == theirs.get("account")
    assert ours.comment == theirs.get("comment")
    assert ours.constraint == theirs.get("constraint")
    assert ours.qos == theirs.get("qos")
    assert ours.licenses == theirs.get("licenses")
    assert ours.reservation == theirs.get("reservation")
    assert str(ours.array or "") == theirs.get("array", "")
    assert bool(ours.exclusive) == ("exclusive" in theirs)
    assert {each.upper() for each in ours.mail_on} == set(
        filter(None, theirs.get("mail-type", "").split(","))
    )


@pytest.mark.parametrize("header", REFUSED)
def test_what_sbatch_refuses(slurm, tmp_path, header):
    assert options_of(slurm, tmp_path, header) is None
    found = DIALECT.read(["#!/bin/bash", *header.splitlines(), "true"])
    assert found.invalid or any(each.invalid for each in found.directives)


ARRAYS = [
    *("1-3%1,5", "1-100:10%4,200", "1-3%1,5%2", "1%0", "1-3%", "1-3%x,7", "[1-3,7]%2", "[1-3%2]"),
    *("1,[3-5]", "1, 2", "1 ,2", "1-3:0", "3-1", "5:2", "1,,3", "1-3%1:2", "0x3", "1]]", "1-3,2"),
]


@pytest.mark.parametrize("text", ARRAYS)
def test_arrays_have_the_elements_that_sbatch_makes(slurm, tmp_path, text):
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/bash\ntrue\n")
    submit = ("sbatch", "-H", "--parsable", f"--array={text}", str(script))
    job = slurm.run(*submit, check=False).strip()
    found = DIALECT.read(["#!/bin/bash", f'#SBATCH --array="{text}"', "true"])
    assert bool(found.directives[0].invalid) == (not job)
    if not job:
        return
    facts = slurm.run("scontrol", "show", "job", job)
    elements = slurm.run("squeue", "-r", "-h", "-j", job, "-o", "%K").split()
    slurm.run("scancel", job)
    array = found.request.array
    assert array is not None
    assert array.indices == tuple(sorted(map(int, elements)))
    throttle = re.search(r"ArrayTaskThrottle=(\d+)", facts)
    assert array.most == (int(throttle[1]) if throttle else None)


def test_what_is_written_is_taken_as_it_is_meant(slurm, tmp_path):
    @settings(max_examples=examples(40), deadline=None, database=None)
    @given(plain_requests())
    def check(request_):
        header = "\n".join(f"#SBATCH {line}" for line in DIALECT.write(request_).lines)
        theirs = options_of(slurm, tmp_path, header)
        assert theirs is not None, header
        assert theirs.get("job-name", "").strip() in ((request_.name or "").strip(), "job.sh")
        assert theirs.get("comment", "").strip() == (request_.comment or "").strip()
        seconds = request_.seconds
        if seconds is not None and not math.isinf(seconds):
            seconds = math.ceil(seconds / 60) * 60  # sbatch counts in minutes
        assert seconds_of(theirs.get("time")) == seconds
        if request_.tasks:
            assert number(theirs["ntasks"]) == request_.tasks

    check()


@pytest.mark.parametrize("text", ["#!/bin/bash\r\n#SBATCH -n 1\r\ntrue\r\n", "#!/bin/sh\ntrue\r\n"])
def test_dos_line_breaks_are_refused(slurm, tmp_path, text):
    script = tmp_path / "job.sh"
    script.write_bytes(text.encode())
    assert slurm.run("sbatch", "-H", str(script), check=False) == ""
    assert "DOS line breaks" in str(read_script(text, "slurm").invalid[-1])
    assert not read_script(text.replace("\r\n", "\n"), "slurm").invalid
