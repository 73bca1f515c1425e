"""Whether a scheduler takes a script: the scheduler's own word where it answers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from flux_python import python_path
from fractale.schedulers.dialects import read_script
from fractale.schedulers.programs import Programs
from fractale.schedulers.validation import validate, validate_lines
from fractale.tools.batch import validate_batch_script
from fractale.tools.validators import validate_jobspec
from slurm import running_slurm

NOTHING = Programs({"PATH": "/nonexistent"})


@pytest.fixture(scope="module")
def slurm():
    with running_slurm() as running:
        yield running


def sbatch(file: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = ["sbatch", "-v", "--test-only", str(file)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def slurm_script(*options: str) -> str:
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {each}" for each in options), "true\n"])


TAKEN = [
    "--nodes=1-1",
    "--output=%A_%a.out",
    "--output=%N.%u.log",
    "--exclusive=user",
    "-t UNLIMITED",
    "-t 1-",
    "--gres=none",
    "-n 2 --exclusive",
    "-n1 -c2",
    "-a1-3",
    "--arr=1-3",
    "--out=x --err=y",
    "--tasks-per-node=2",
    "--mem=100",
    "--mail-type=END --mail-user=a@b.org",
    "--export=ALL,A=1",
    "--nice",
    "--signal=B:USR1@60",
    "--comment=' -a '",
    "-n 1 # -a is not used",
    "--hint=nomultithread",
    "--open-mode=append",
]
REFUSED = [
    "--cpus_per_task=4",
    "--ntaks=2",
    "--foo",
    "-n=4",
    "--mem=4Gigs",
    "--time=soon",
    "--ntasks=0x",
    "nodes",
    "--array=a-b",
]


@pytest.mark.parametrize("options", TAKEN)
async def test_what_sbatch_takes_is_valid_and_by_the_lines_too(tmp_path, slurm, options):
    script = slurm_script(options)
    file = tmp_path / "job.sh"
    file.write_text(script)
    assert sbatch(file, slurm.environment).returncode == 0
    found = await validate(script, "slurm", Programs(slurm.environment))
    assert (found.valid, found.by) == (True, "sbatch"), found.errors
    assert validate_lines(script, "slurm").errors == []


@pytest.mark.parametrize("options", REFUSED)
async def test_what_sbatch_refuses_is_invalid_and_by_the_lines_too(slurm, options):
    script = slurm_script(options)
    found = await validate(script, "slurm", Programs(slurm.environment))
    assert (found.valid, found.by) == (False, "sbatch")
    assert any(each.startswith("sbatch says: ") for each in found.errors)
    assert any("line 2" in each for each in validate_lines(script, "slurm").errors)


async def test_lines_of_pbs_in_a_slurm_script_are_no_error_but_told(slurm):
    script = slurm_script("-n 1") + "#PBS -N theirs\n"
    found = await validate(script, "slurm", Programs(slurm.environment))
    assert found.valid
    assert any("sbatch reads it, too" in each for each in found.warnings)


async def test_sbatch_itself_reads_the_lines_of_pbs(tmp_path, slurm):
    """The reading that `fractale` has of such a script is the one of the sbatch that is here."""
    file = tmp_path / "job.sh"
    file.write_text("#!/bin/bash\n#SBATCH -J mine\ntrue\n#PBS -N theirs\n")
    said = sbatch(file, slurm.environment).stderr
    (name,) = [line for line in said.splitlines() if "job-name" in line]
    assert name.endswith(read_script(file.read_text(), "slurm").request.name or "?")


async def test_a_slurm_that_is_out_of_reach_leaves_the_lines_and_says_so(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "sinfo"):
        program = tmp_path / "bin" / name
        program.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
        program.chmod(0o755)
    programs = Programs({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    found = await validate(slurm_script("-n 1"), "slurm", programs)
    assert (found.valid, found.by) == (True, "directives")
    assert "no Slurm answered here" in found.note


# -- Flux ---------------------------------------------------------------------------------------

FLUX_TAKEN = [
    ["--nslots=4"],
    ["-N2 -n8", "--time-limit=10m"],
    ["--nodes=2"],
    ["-n1 --output='a b.{{id}}.log'"],
    ["-n1 -o cpu-affinity=per-task --setattr=user.a=1"],
    ["-B bank -n1"],
]
FLUX_REFUSED = [
    (["--queue=batch"], "slots"),
    (["-N4 -n2"], "node count"),
    (["-n2 --exclusive"], "exclusive"),
    (["-n2 --foo=1"], "--foo"),
    (["-n2 -t 1:30"], "duration"),
    (["-n two"], "two"),
]


def flux_programs() -> Programs:
    return Programs({"PATH": os.environ["PATH"], "PYTHONPATH": python_path()})


def flux_script(*lines: str) -> str:
    return "\n".join(["#!/bin/bash", *(f"#FLUX: {each}" for each in lines), "hostname\n"])


@pytest.mark.parametrize("lines", FLUX_TAKEN)
async def test_what_flux_takes_is_valid_and_by_the_lines_too(lines):
    script = flux_script(*lines)
    assert validate_lines(script, "flux").errors == []
    found = await validate(script, "flux", flux_programs())
    assert found.valid, found.errors
    assert found.by in ("flux", "flux-python", "flux-mcp")


@pytest.mark.parametrize(("lines", "why"), FLUX_REFUSED)
async def test_what_flux_refuses_is_invalid_and_by_the_lines_too(lines, why):
    script = flux_script(*lines)
    found = await validate(script, "flux", flux_programs())
    assert any(each.startswith("Flux says: ") and why in each for each in found.errors), found
    assert validate_lines(script, "flux").errors


async def test_two_sentinels_are_refused():
    script = "#!/bin/bash\n# flux: -N4\n#FLUX: -c2\necho hi\n"
    assert validate_lines(script, "flux").errors
    found = await validate(script, "flux", flux_programs())
    assert any("sentinel changed" in each for each in found.errors)


# -- by the lines -------------------------------------------------------------------------------

VALID_LINES = {
    "slurm": ["-t 5", "--gres=gpu", "--gres=gpu:0"],
    "pbs": ["-l walltime=10", "-l nodes=n01:ppn=4", "-l select=1:ncpus=4+3:ncpus=8", "-V"],
    "lsf": ["-W 10", '-R "select[type==any]"', "-n 4,16", "-o out.%J.%I"],
}


@pytest.mark.parametrize(
    ("scheduler", "option"), [(s, each) for s in VALID_LINES for each in VALID_LINES[s]]
)
async def test_what_fractale_cannot_translate_is_not_invalid(scheduler, option):
    mark = {"slurm": "#SBATCH", "pbs": "#PBS", "lsf": "#BSUB"}[scheduler]
    found = await validate(f"#!/bin/sh\n{mark} {option}\ntrue\n", scheduler, NOTHING)
    assert found.errors == []
    assert found.by == "directives"
    assert "only the script's own lines were checked" in found.note


@pytest.mark.parametrize("scheduler", ["pbs", "lsf"])
async def test_where_no_first_line_is_needed_none_is_asked_for(scheduler):
    mark = {"pbs": "#PBS -N x", "lsf": "#BSUB -J x"}[scheduler]
    assert (await validate(f"{mark}\ntrue\n", scheduler, NOTHING)).errors == []


@pytest.mark.parametrize("scheduler", ["slurm", "flux"])
async def test_where_a_first_line_is_needed(scheduler):
    mark = {"slurm": "#SBATCH", "flux": "#FLUX:"}[scheduler]
    found = await validate(f"{mark} -n1\ntrue\n", scheduler, NOTHING)
    assert any("#!" in each for each in found.errors)


def test_an_option_of_pbs_that_qsub_refuses():
    assert validate_lines("#!/bin/sh\n#PBS -l nodse=1\ntrue\n", "pbs").errors


def test_a_translation_that_did_not_happen():
    found = validate_lines("#!/bin/bash\n#SBATCH -n 1\ntrue\n", "flux")
    assert found.errors == [
        "it has no #FLUX: line: it is not a script for flux",
        "line 2: `#SBATCH -n 1` is a directive of slurm",
    ]


@pytest.mark.parametrize(("scheduler", "valid"), [("lsf", True), ("flux", False)])
async def test_a_translation_that_asks_for_the_default_needs_no_directive(scheduler, valid):
    """But for Flux, which starts no script without a size."""
    original = "#!/bin/bash\n#PBS -j oe\n./solve\n"
    script = "#!/bin/bash\n./solve\n"
    assert (await validate_jobspec(script, scheduler, original))["valid"] is valid
    assert not (await validate_jobspec(script, scheduler))["valid"]
    more = original.replace("oe\n", "oe -l ncpus=4\n")
    assert not (await validate_jobspec(script, scheduler, more))["valid"]


# -- shells -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shell", "body"),
    [
        ("/bin/zsh", "for i (1 2) echo $i"),
        ("/bin/csh", "foreach i (1 2)\necho $i\nend"),
        ("/usr/bin/env python3", "print('(')"),
        ("/bin/bash", "cat <<EOF\nnever ends"),
    ],
)
def test_what_its_shell_reads_is_no_error(shell, body):
    """Bash reads none of the first three; of the last it only warns."""
    script = f"#!{shell}\n#SBATCH -n 1\n{body}\n"
    assert validate_lines(script, "slurm").errors == []


def test_a_body_that_bash_cannot_read_is_an_error():
    found = validate_batch_script(f"{slurm_script('-n 1')}if true; then\n")
    assert any("syntax error" in each for each in found["errors"])


def test_commands_of_another_scheduler_are_told_with_their_line():
    script = flux_script("-n4").replace("hostname", "srun ./solve $SLURM_JOB_ID")
    warnings = validate_lines(script, "flux").warnings
    assert any("line 3" in each and "srun" in each for each in warnings)
    assert validate_lines(flux_script("-n4"), "flux").warnings == []
