"""Two batch scripts, held against each other: nothing that was asked for is gone unseen."""

from __future__ import annotations

import pytest

from fractale.schedulers.comparison import compare, leftovers, lost_commands
from fractale.schedulers.dialects import read_script
from fractale.tools.batch import translate_batch_script, validate_batch_script
from fractale.tools.validators import validate_jobspec

SLURM = """\
#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks=64
#SBATCH --time=00:10:00
#SBATCH --partition=batch
#SBATCH --job-name=lammps

cd run
./solve -in in.lj
"""

FLUX = """\
#!/bin/bash
#FLUX: --nodes=2
#FLUX: --nslots=64
#FLUX: --time-limit=10m
#FLUX: --queue=batch
#FLUX: --job-name=lammps

cd run
./solve -in in.lj
"""


def differences(original: str, script: str, *mentions: str, lost: tuple[str, ...] = ()) -> list:
    return compare(read_script(original), read_script(script), mentions, lost)


def texts(original: str, script: str, *mentions: str) -> list[str]:
    return [str(each) for each in differences(original, script, *mentions)]


def test_the_same_request_is_the_same():
    assert differences(SLURM, FLUX) == []
    assert differences(FLUX, SLURM) == []


# -- what was left out --------------------------------------------------------------------------

LEFT_OUT = {
    "slurm": [
        "--gpus=2",
        "--gres=gpu:2",
        "--gres=fpga:1",
        "--array=1-10",
        "-a1-3",
        "--mem=4G",
        "--mem-per-cpu=1G",
        "--dependency=afterok:123",
        "--constraint=haswell",
        "--qos=high",
        "--reservation=maint",
        "--cpu-bind=cores",
        "--container-image=x.sif",
        "--mail-user=a@b.org",
        "--licenses=ansys:2",
        "--begin=now+1hour",
        "--signal=B:USR1@60",
        "--exclusive",
        "--account=chem",
        "--nice=5",
    ],
    "flux": ["--bank=chem", "-B chem", "--requires=hosts:n1", "-o cpu-affinity=per-task"],
    "pbs": [
        "-l select=1:ncpus=4:ngpus=2",
        "-l nodes=1:ppn=4:gpus=2",
        "-l mem=4gb",
        "-J 1-10",
        "-t 1-10",
        "-m abe",
        "-A chem",
        "-W depend=afterok:123",
    ],
    "lsf": [
        '-J "scan[1-20]"',
        '-gpu "num=2"',
        '-R "rusage[mem=2000]"',
        '-R "select[type==any]"',
        "-P chem",
        '-w "done(123)"',
    ],
}


@pytest.mark.parametrize(
    ("source", "option"), [(source, each) for source in LEFT_OUT for each in LEFT_OUT[source]]
)
def test_every_directive_that_was_left_out_is_found(source, option):
    """Also those that fractale has no translation for: a model may have dropped any of them."""
    mark = {"slurm": "#SBATCH", "flux": "#FLUX:", "pbs": "#PBS", "lsf": "#BSUB"}[source]
    original = f"#!/bin/bash\n{mark} {option}\n./solve\n"
    bare = "#!/bin/bash\n#FLUX: --nslots=1\n./solve\n"
    if source == "flux":
        bare = "#!/bin/bash\n#SBATCH --ntasks=1\n./solve\n"
    found = differences(original, bare)
    assert [each for each in found if not each.minor], option


@pytest.mark.parametrize("option", LEFT_OUT["slurm"])
async def test_what_the_translator_lost_is_a_fault_unless_it_is_told(option):
    original = f"#!/bin/bash\n#SBATCH -N 1 -n 4\n#SBATCH {option}\n./solve\n"
    answer = translate_batch_script(original, "flux", lossy=True)
    silent = await validate_jobspec(answer["script"], "flux", original)
    told = await validate_jobspec(answer["script"], "flux", original, answer["losses"])
    assert told["valid"], told
    assert silent["valid"] is (not answer["losses"]), (option, silent)


def test_a_comment_that_names_an_option_says_that_it_was_meant():
    original = SLURM.replace("--partition=batch", "--constraint=haswell")
    bare = FLUX.replace("#FLUX: --queue=batch\n", "")
    assert "--constraint=haswell, is neither translated nor in" in texts(original, bare)[0]
    said = bare.replace("\ncd run", "# --constraint has no counterpart\ncd run")
    assert validate_batch_script(said, original)["valid"]
    assert not validate_batch_script(bare, original)["valid"]


# -- sizes --------------------------------------------------------------------------------------


def sized(*options: str, mark: str = "#SBATCH") -> str:
    return "\n".join(["#!/bin/bash", *(f"{mark} {each}" for each in options), "./solve\n"])


@pytest.mark.parametrize(
    "slots",
    [
        ["-N2", "--nslots=2", "--cores-per-slot=32", "--gpus-per-slot=4"],
        ["-N2", "--nslots=8", "--cores-per-slot=8", "--gpus-per-slot=1"],
    ],
)
def test_slots_are_room_for_tasks(slots):
    original = sized("--nodes=2", "--ntasks=64", "--gpus-per-node=4")
    assert differences(original, sized(*slots, mark="#FLUX:")) == []


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        (
            ["-N2", "--nslots=2", "--cores-per-slot=32"],
            "line 4 of the original, --gpus-per-node=4",
        ),
        (
            ["-N2", "--nslots=2", "--cores-per-slot=16", "--gpus-per-slot=4"],
            "it asks for 32 cores, the original for 64",
        ),
        (
            ["-N2", "--nslots=2", "--cores-per-slot=32", "--gpus-per-slot=2"],
            "it asks for 4 GPUs, the original for 8",
        ),
        (
            ["-N4", "--nslots=4", "--cores-per-slot=16", "--gpus-per-slot=2"],
            "it asks for 4 nodes, the original for 2",
        ),
        (["-N2", "--nslots=32"], "it asks for 32 tasks, the original for 64"),
    ],
)
def test_other_sizes_are_differences(slots, words):
    original = sized("--nodes=2", "--ntasks=64", "--gpus-per-node=4")
    assert any(words in each for each in texts(original, sized(*slots, mark="#FLUX:")))


def test_between_others_the_number_of_processes_counts():
    """`srun` starts as many as there are tasks."""
    original = sized("-l select=1:ncpus=64:mpiprocs=64", mark="#PBS")
    assert differences(original, sized("--ntasks=64", "--nodes=1")) == []
    one = sized("--ntasks=1", "--cpus-per-task=64", "--nodes=1")
    assert "it asks for 1 tasks, the original for 64" in texts(original, one)


def test_gpus_that_nobody_asked_for():
    given = FLUX.replace("#FLUX: --nodes", "#FLUX: --gpus-per-slot=1\n#FLUX: --nodes")
    assert "it asks for 64 GPUs, the original for none" in texts(SLURM, given)


@pytest.mark.parametrize(
    ("written", "same"), [("10m", True), ("630s", True), ("9m", False), ("1h", False)]
)
def test_minutes_are_as_fine_as_some_count(written, same):
    assert (texts(SLURM, FLUX.replace("=10m", f"={written}")) == []) is same


def test_an_array_that_is_another_one():
    one, other = sized("-n 1", "--array=1-10"), sized("-J 1-20", mark="#PBS")
    assert "it is the array 1-20, the original 1-10" in texts(one, other)
    assert "it is an array (1-20), the original is one job" in texts(sized("-n 1"), other)


def test_another_name_is_told_as_minor():
    (found,) = differences(SLURM, FLUX.replace("queue=batch", "queue=debug"))
    assert (found.what, found.minor) == ("queues", True)
    assert str(found) == "queue is debug, but the original asks for batch"


def test_what_is_known_to_be_lost_is_no_difference():
    original = sized("-N 1", "-n 3", "--gres=gpu:2")
    less = sized("-N1", "-n3", mark="#FLUX:")
    assert differences(original, less) != []
    assert differences(original, less, lost=("gpus_per_node",)) == []


# -- the other lines ----------------------------------------------------------------------------


def test_commands_that_are_gone():
    original = read_script(SLURM.replace("./solve", "srun ./solve"))
    right = read_script(FLUX.replace("./solve", "flux run -n 64 ./solve"))
    assert lost_commands(original, right) == []
    wrong = read_script(FLUX.replace("cd run\n", ""))
    (found,) = lost_commands(original, wrong)
    assert "`cd run` is missing" in found


def test_a_directive_of_another_that_is_still_there():
    left = read_script(FLUX.replace("\ncd", "#SBATCH -N2\ncd"), "flux")
    assert leftovers(read_script(SLURM), left) == ["still in it: `#SBATCH -N2`"]
    printed = "cat > job.sh <<EOF\n#SBATCH -N1\nEOF\n"
    assert leftovers(read_script(SLURM + printed), read_script(FLUX + printed, "flux")) == []
