"""Batch scripts between Slurm and Flux: a model translates, a validator has the last word.

Slurm is a real one (`slurm.py`); of Flux there are its own parsers, through flux-mcp, also where
Flux itself isn't (`flux_python.py`); the model is scripted, behind real HTTP.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flux_python import python_path
from fractale.testing import ModelServer, Reply
from fractale.tools.validators import validate_jobspec
from scenarios import Reader, asked, by_turns, errors_of, path_of
from slurm import running_slurm

HERE = Path(__file__).parents[1] / "support"
SLURM = (HERE.parents[1] / "plans" / "data" / "lammps-reaxff.sbatch").read_text()
FLUX = """\
#!/bin/bash
#FLUX: --nodes=1
#FLUX: --nslots=64
#FLUX: --time-limit=100s
#FLUX: --queue=pbatch
#FLUX: --output=job.{{id}}.out
#FLUX: --error=job.{{id}}.err
#FLUX: --job-name=lammps
# --hint=nomultithread and --container-image have no counterpart in the directives

lmp -v x 8 -v y 8 -v z 8 -in in.reaxc.hns -nocite
"""
SMALL_FLUX = """\
#!/bin/bash
#FLUX: -N1 -n2
#FLUX: --time-limit=30s
#FLUX: --queue=short
echo hello
"""
SMALL_SLURM = """\
#!/bin/bash
#SBATCH --nodes=1
#SBATCH --ntasks=2
#SBATCH --time=00:00:30
#SBATCH --partition=short
echo hello
"""
RETRY = ("run", "plans/transform-retry.yaml", "-r", "registries/jobspec.yaml")
PARSER = ("run", "plans/translate.yaml", "-r", "registries/jobspec.yaml")
TO_SLURM = ("-i", "script=job.sh", "-i", "from_manager=flux", "-i", "to_manager=slurm")


@pytest.fixture(scope="module")
def slurm():
    with running_slurm() as running:
        yield running


def translation(script: str) -> Reply:
    return Reply(data={"jobspec": script})


def verdict(valid: bool, *reasons: str) -> Reply:
    return Reply(data={"valid": valid, "reasons": list(reasons), "tool_call": False})


def run(tmp_path: Path, replies: Any, *words: str, **variables: str) -> tuple[Any, Any]:
    """The events of a run of the retry plan, and what the model was asked."""
    with ModelServer(by_turns(*replies)) as server:
        reader = Reader(tmp_path, server, **variables)
        (tmp_path / "job.sh").write_text(SMALL_FLUX)
        events = reader.events(*(words or RETRY))
    return events, server.requests


# -- Slurm to Flux ------------------------------------------------------------------------------


def test_a_translation_that_flux_refuses_goes_back_with_the_reason(tmp_path):
    wrong = FLUX.replace("--nslots=64", "--nslots=64 -c8x")
    replies = [translation(wrong), verdict(True), translation(FLUX), verdict(True)]
    events, requests = run(tmp_path, replies, PYTHONPATH=python_path())
    assert path_of(events) == [
        "read:success",
        "transform:success",
        "validate:success",
        "validate_manual:failure",
        "transform:success",
        "validate:success",
        "validate_manual:success",
        "write:success",
    ]
    assert "invalid int value: '8x'" in errors_of(events, "validate_manual")[0]
    assert "invalid int value: '8x'" in asked(requests[2])
    end = events[-1]
    assert end["outputs"]["validated_by"] == "flux-mcp"
    assert end["outputs"]["tries"] == 2
    assert Path(end["outputs"]["file"]).read_text() == FLUX


def test_a_model_that_finds_it_wrong_sends_it_back_too(tmp_path):
    replies = [
        translation(FLUX),
        verdict(False, "64 slots need 64 cores"),
        translation(FLUX),
        verdict(True),
    ]
    events, requests = run(tmp_path, replies)
    assert path_of(events)[:4] == [
        "read:success",
        "transform:success",
        "validate:failure",
        "transform:success",
    ]
    assert "64 slots need 64 cores" in asked(requests[2])
    assert events[-1]["status"] == "success"


def test_an_answer_without_a_script_is_no_translation(tmp_path):
    replies = ["I can't do that.", translation(FLUX), verdict(True)]
    events, _ = run(tmp_path, replies)
    assert path_of(events)[1:3] == ["transform:failure", "transform:success"]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (SLURM, "it has no #FLUX: line"),
        (FLUX.replace("#!/bin/bash\n", "#!/bin/bash\n#SBATCH --mem=4G\n"), "directive of slurm"),
        ("#!/bin/bash\nlmp -in in.reaxc.hns\n", "it has no #FLUX: line"),
        (FLUX.replace("--nslots=64", "--nslots=32"), "it asks for 32 tasks, the original for 64"),
        (FLUX.replace("lmp -v x 8", "lmp -v x 4"), "is missing"),
        (FLUX.replace("lmp -v", "if true; then lmp -v"), "syntax error"),
    ],
)
def test_what_flux_mcp_takes_and_is_no_translation_does_not_pass(tmp_path, script, why):
    """flux-mcp calls a script without a #FLUX: directive valid."""
    replies = [answer for _ in range(5) for answer in (translation(script), verdict(True))]
    events, _ = run(tmp_path, replies, PYTHONPATH=python_path())
    assert events[-1]["status"] == "failed"
    assert why in errors_of(events, "validate_manual")[0]
    assert path_of(events).count("transform:success") == 5


def test_where_flux_is_not_it_says_that_only_the_lines_were_checked(tmp_path):
    replies = [translation(FLUX), verdict(True)]
    # A `flux` that can't be imported, whatever is installed.
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "flux.py").write_text("raise ImportError('no Flux in this test')\n")
    events, _ = run(tmp_path, replies, PYTHONPATH=str(tmp_path / "none"))
    outputs = events[-1]["outputs"]
    assert outputs["validated_by"] == "directives"
    assert "only the script's own lines were checked" in outputs["note"]


# -- Flux to Slurm ------------------------------------------------------------------------------


def test_a_real_slurm_says_what_is_wrong_until_it_is_right(tmp_path, slurm):
    queue = SMALL_SLURM.replace("--partition=short", "--partition=nowhere")
    replies = [translation(queue), verdict(True), translation(SMALL_SLURM), verdict(True)]
    events, requests = run(tmp_path, replies, *RETRY, *TO_SLURM, **slurm.environment)
    (error,) = errors_of(events, "validate_manual")
    assert "sbatch says" in error
    assert "invalid partition specified: nowhere" in error
    assert "invalid partition specified: nowhere" in asked(requests[2])
    outputs = events[-1]["outputs"]
    assert outputs["validated_by"] == "sbatch"
    assert outputs["note"] == ""
    assert slurm.jobs() == [], "nothing was submitted"


CHECKED = """
name: check
inputs: {script: "", manager: slurm, original: ""}
steps:
  - name: check
    tool: validate_jobspec
    inputs: {script: "{{ inputs.script }}", manager: "{{ inputs.manager }}"}
    rules: {success: [valid]}
outputs:
  said: "{{ steps.check.outputs }}"
"""


def checked(tmp_path: Path, script: str, manager: str = "slurm", **variables: str) -> Any:
    (tmp_path / "check.yaml").write_text(CHECKED)
    (tmp_path / "inputs.json").write_text(json.dumps({"script": script, "manager": manager}))
    reader = Reader(tmp_path, **variables)
    words = ("run", "check.yaml", "-r", "registries/jobspec.yaml", "--inputs", "inputs.json")
    events = reader.events(*words)
    told = [e for e in events if e["event"] == "tool_finished"]
    return json.loads(told[-1]["text"])


def test_what_sbatch_takes_is_taken(tmp_path, slurm):
    said = checked(tmp_path, SMALL_SLURM, **slurm.environment)
    assert said["valid"] is True
    assert said["validated_by"] == "sbatch"
    assert "sbatch --test-only" in said["checks"]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("--nodes=1", "--nodes=99", "sbatch says"),
        ("--time=00:00:30", "--time=soon", "sbatch says"),
        ("--ntasks=2", "--tasks-galore=2", "sbatch says"),
        ("#!/bin/bash\n", "", "sbatch says"),
    ],
)
def test_what_sbatch_refuses_is_refused(tmp_path, slurm, old, new, why):
    said = checked(tmp_path, SMALL_SLURM.replace(old, new), **slurm.environment)
    assert said["valid"] is False
    assert any(why in error for error in said["errors"]), said


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("echo hello", "if true; then echo hello", "syntax error: unexpected end of file"),
        ("--time=00:00:30", "--time=00:10:00", "gives 00:01:00 at most: the job would never start"),
        ("#SBATCH", "#FLUX:", "it has no #SBATCH line: it is not a script for slurm"),
    ],
)
def test_what_sbatch_lets_pass_is_refused_too(tmp_path, slurm, old, new, why):
    script = tmp_path / "as-it-is.sh"
    script.write_text(SMALL_SLURM.replace(old, new))
    environment = {**os.environ, **slurm.environment}
    words = ["sbatch", "--test-only", str(script)]
    assert subprocess.run(words, env=environment, capture_output=True).returncode == 0

    said = checked(tmp_path, script.read_text(), **slurm.environment)
    assert said["validated_by"] == "sbatch"
    assert said["valid"] is False
    assert any(why in error for error in said["errors"]), said
    assert not any("sbatch says" in error for error in said["errors"]), said


@pytest.mark.parametrize(
    ("manager", "script"),
    [
        ("pbs", "#!/bin/sh\n#PBS -l select=2:ncpus=4,walltime=1:00:00\nhostname\n"),
        ("lsf", "#!/bin/sh\n#BSUB -n 4\n#BSUB -W 1:00\nhostname\n"),
    ],
)
def test_where_no_validator_exists_it_says_that_only_the_lines_were_checked(
    tmp_path, manager, script
):
    said = checked(tmp_path, script, manager)
    assert said["valid"] is True
    assert said["validated_by"] == "directives"
    assert "only the script's own lines were checked" in said["note"]
    assert f"no {manager.upper()} answered here" in said["note"]


IN_WORDS_OF = {
    "slurm": "#!/bin/sh\n#SBATCH --nodes=2\n#SBATCH --ntasks=8\n#SBATCH --time=60\nhostname\n",
    "flux": "#!/bin/sh\n#FLUX: --nodes=2\n#FLUX: --nslots=8\n#FLUX: -t 1h\nhostname\n",
    "pbs": "#!/bin/sh\n#PBS -l select=2:ncpus=4:mpiprocs=4,walltime=1:00:00\nhostname\n",
    "lsf": "#!/bin/sh\n#BSUB -n 8\n#BSUB -R span[ptile=4]\n#BSUB -W 1:00\nhostname\n",
}


@pytest.mark.parametrize(
    ("source", "target"), [(a, b) for a in IN_WORDS_OF for b in IN_WORDS_OF if a != b]
)
async def test_a_translation_has_its_targets_directives_and_none_of_the_source(source, target):
    original, script = IN_WORDS_OF[source], IN_WORDS_OF[target]
    left = original.splitlines()[1]
    assert (await validate_jobspec(script, target, original))["valid"] is True

    left_above = script.replace("hostname", f"{left}\nhostname")
    left_below = f"{script}{left}\n"
    for faulty, why in [
        ("#!/bin/sh\nhostname\n", f"it is not a script for {target}"),
        (original, f"it is not a script for {target}"),
        (left_above, f"`{left}` is a directive of {source}"),
        (left_below, f"`{left}`"),
    ]:
        said = await validate_jobspec(faulty, target, original)
        assert said["valid"] is False
        assert any(why in error for error in said["errors"]), said


@pytest.mark.parametrize("target", IN_WORDS_OF)
async def test_without_an_original_another_managers_directive_is_what_the_manager_makes_of_it(
    target,
):
    """A comment; sbatch reads those of PBS, too. It is told."""
    other = "#PBS -N two" if target != "pbs" else "#SBATCH -J two"
    script = IN_WORDS_OF[target].replace("hostname", f"{other}\nhostname")
    said = await validate_jobspec(script, target)
    assert said["valid"] is True, said
    assert any(other in each for each in said["warnings"])


# -- without a model, and by the agent ----------------------------------------------------------


def test_a_parser_translates_without_a_model(tmp_path, slurm):
    reader = Reader(tmp_path, **slurm.environment)
    (tmp_path / "job.sh").write_text(SMALL_FLUX)
    end = reader.end(*PARSER, "-i", "script=job.sh", "-i", "to_manager=slurm")
    assert end["status"] == "success", end
    assert end["outputs"]["validated_by"] == "sbatch"
    assert "#SBATCH --partition=short" in end["outputs"]["jobspec"]


ARRAY = "#!/bin/bash\n#SBATCH -n 1 --array=1-3 --nice=5\necho hello\n"


def test_a_lost_array_is_a_failure_that_says_why(tmp_path):
    (tmp_path / "job.sh").write_text(ARRAY)
    end = Reader(tmp_path).end(*PARSER, "-i", "script=job.sh")
    assert end["status"] == "failed"
    assert "line 2: --array=1-3 (" in end["error"]
    assert "lossy: true" in end["error"]


def test_with_lossy_it_is_written_and_the_verdict_names_the_losses(tmp_path):
    (tmp_path / "job.sh").write_text(ARRAY)
    words = ("-i", "script=job.sh", "-i", "lossy=true", "-i", "output=new/flux.sh")
    end = Reader(tmp_path).end(*PARSER, *words)
    assert end["status"] == "success", end
    assert "#FLUX: --nslots=1\n" in (tmp_path / "new" / "flux.sh").read_text()
    lost = [each["message"] for each in end["notices"] if each["kind"] == "lost"]
    assert any(each.startswith("line 2: --array=1-3") for each in lost)
    assert any(each.startswith("line 2: --nice=5") for each in lost)
    assert "--array=1-3" in end["outputs"]["not_translated"]


def test_the_verdict_shows_what_the_directives_say_otherwise(tmp_path):
    (tmp_path / "job.sh").write_text("#!/bin/bash\n#PBS -W depend=afterok:12\necho hello\n")
    words = ("-i", "script=job.sh", "-i", "to_manager=slurm")
    end = Reader(tmp_path).end(*PARSER, *words)
    assert end["status"] == "success", end
    assert "ids in --dependency are those of the other scheduler's" in end["outputs"]["notes"]


def test_the_folder_of_a_job_that_pbs_has_no_option_for(tmp_path):
    (tmp_path / "job.sh").write_text("#!/bin/bash\n#SBATCH -n 1 -D sub\necho hello\n")
    end = Reader(tmp_path).end(*PARSER, "-i", "script=job.sh", "-i", "to_manager=pbs")
    assert end["status"] == "success", end
    assert 'cd "$PBS_O_WORKDIR"/sub' in end["outputs"]["jobspec"]


def test_a_line_of_the_body_that_will_not_run_is_a_failure(tmp_path):
    script = ARRAY.replace("--array=1-3 ", "").replace(
        "echo hello", "srun --container-image=x.sif ./solve"
    )
    (tmp_path / "job.sh").write_text(script)
    end = Reader(tmp_path).end(*PARSER, "-i", "script=job.sh")
    assert end["status"] == "failed"
    assert "line 3: `srun --container-image=x.sif ./solve`" in end["error"]


def test_many_scripts_have_a_result_each_and_a_summary(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a.sbatch").write_text(SMALL_SLURM)
    (tmp_path / "jobs" / "b.sbatch").write_text(ARRAY)
    (tmp_path / "jobs" / "c.sbatch").write_text(SMALL_SLURM.replace("hello", "you"))
    words = ("-i", "script=jobs/*.sbatch", "-i", "to_manager=flux", "-i", "output=new/")
    end = Reader(tmp_path).end(*PARSER, *words)
    assert end["status"] == "success", end
    first, second, third, total = end["outputs"]["scripts"]
    assert first.startswith("jobs/a.sbatch → new/a.flux.sh: valid")
    assert second.startswith("jobs/b.sbatch: failed: line 2: --array=1-3")
    assert third.startswith("jobs/c.sbatch → new/c.flux.sh: valid")
    assert total == "2 of 3 translated, 0 with losses, 1 failed"
    assert "echo you" in (tmp_path / "new" / "c.flux.sh").read_text()
    assert sorted(each.name for each in (tmp_path / "new").iterdir()) == ["a.flux.sh", "c.flux.sh"]


@pytest.mark.parametrize("target", ["pbs", "lsf"])
def test_pbs_and_lsf_are_written(tmp_path, target):
    (tmp_path / "job.sh").write_text(SMALL_SLURM)
    end = Reader(tmp_path).end(*PARSER, "-i", "script=job.sh", "-i", f"to_manager={target}")
    assert end["status"] == "success", end
    assert {"pbs": "#PBS -", "lsf": "#BSUB -"}[target] in end["outputs"]["jobspec"]


def test_the_agent_takes_the_validator_that_fits(tmp_path, slurm):
    words = ("run", "agent.yaml", "-r", "registries/jobspec.yaml")
    (tmp_path / "agent.yaml").write_text(
        "name: a\nsteps:\n  - name: t\n    agent: transform_jobspec\n    inputs:\n"
        f"      script: {json.dumps(SMALL_FLUX)}\n      target: slurm\n"
        "outputs: {by: '{{ steps.t.outputs.validated_by }}'}\n"
    )
    answer = Reply(data={"script": SMALL_SLURM, "notes": "", "no_analogue": []})
    events, _ = run(tmp_path, [answer], *words, **slurm.environment)
    assert events[-1]["outputs"]["by"] == "validate_slurm"


# -- the plan of 0.1.0, as it is ----------------------------------------------------------------


def test_the_retry_plan_of_0_1_0_runs_unchanged(tmp_path):
    """Its last step is `flux_validate_jobspec`, which here lets no Slurm script pass."""
    plan = str(HERE / "of_0_1_0" / "plans" / "transform-retry.yaml")
    replies = [translation(SLURM), verdict(True), translation(FLUX), verdict(True)]
    words = ("run", plan, "-r", "registries/jobspec.yaml", "--yes")
    events, requests = run(tmp_path, replies, *words, PYTHONPATH=python_path())
    assert events[-1]["status"] == "success", events[-1]
    assert path_of(events).count("validate_manual:failure") == 1
    assert "it has no #FLUX: line" in asked(requests[2])
