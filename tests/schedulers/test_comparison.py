"""Two batch scripts, held against each other: nothing that was asked for is gone unseen."""

from __future__ import annotations

import pytest

from fractale.schedulers.commands import compare_commands
from fractale.schedulers.comparison import Difference, compare, leftovers
from fractale.schedulers.dialects import read_script
from fractale.schedulers.script import Loss
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


def differences(original: str, script: str, *mentions: str, lost: str = "") -> list[Difference]:
    told = [Loss(line=0, text="", what=lost, why="")] if lost else []
    return compare(read_script(original), read_script(script), mentions, told)


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
    assert differences(original, less, lost="gpus_per_node") == []


def test_all_of_a_nodes_memory_is_something():
    found = differences(sized("-n 1", "--mem=0"), sized("-l select=1", mark="#PBS"))
    assert [each.what for each in found] == ["memory_per_node"]


@pytest.mark.parametrize(
    "body", ["cd sub", 'cd "$PBS_O_WORKDIR/sub"', "cd $PBS_O_WORKDIR/sub || exit"]
)
def test_a_folder_that_the_commands_go_to(body):
    original = sized("-n 1", "-D sub")
    right = sized("-l select=1", mark="#PBS").replace("./solve", f"{body}\n./solve")
    assert differences(original, right) == []
    assert differences(original, right.replace("sub", "other")) != []


# -- the other lines ----------------------------------------------------------------------------


def test_commands_that_are_gone():
    original = read_script(SLURM.replace("./solve", "srun ./solve"))
    right = read_script(FLUX.replace("./solve", "flux run -n 64 ./solve"))
    assert compare_commands(original, right).errors == []
    wrong = read_script("\n".join(right.lines).replace("cd run\n", ""))
    (found,) = compare_commands(original, wrong).errors
    assert "`cd run` is missing" in found


SLURM_4 = "#!/bin/bash\n#SBATCH -n 4\n"
FLUX_4 = "#!/bin/bash\n#FLUX: -n4\n"
PBS_4 = "#!/bin/bash\n#PBS -l select=4:ncpus=1:mpiprocs=1\n"

NOT_THE_SAME = [
    ("srun -n4 ./solver\necho done", "echo done"),
    ("srun -n4 ./b", "flux run -n1 ./b"),
    ("srun -n4 ./b", "./b"),
    ("srun ./b", "flux run ./b"),
    ("srun ./b --x", "flux run -n4 ./c"),
    ("srun ./b --x", "flux run -n4 ./b"),
    ("srun ./b > log", "flux run -n4 ./b"),
    ("srun ./b", "flux run -n4 ./b\nflux run -n4 ./b"),
    ("srun ./a\nsrun ./b", "flux run -n4 ./b\nflux run -n4 ./a"),
    ("for i in 1 2; do\nsrun ./b $i\ndone", "flux run -n4 ./b 1"),
    ("N=4\nsrun -n $N ./b", "N=4\nflux run -n 2 ./b"),
    ("mpirun -np 64 ./solver in", ""),
    ("mpirun -np 64 ./solver in", "flux run -n 8 ./solver in"),
    ("cp $SLURM_SUBMIT_DIR/results.h5 /archive/", ""),
    ("cp $SLURM_SUBMIT_DIR/results.h5 /archive/", "cp $PWD/results.h5 /tmp/"),
    ("echo $SLURM_JOB_ID > id", 'echo "$(rm -rf x)" > id'),
    ("python ml/train.py", ""),
    ("sbatch next.sh", ""),
    ("srun ./b", "flux run -n4 ./b\nrm -rf $HOME/x"),
    ("srun ./b", "cd /elsewhere\nflux run -n4 ./b"),
    ("srun ./b", "echo 1 > in.lj\nflux run -n4 ./b"),
    ("srun ./b", "export PATH=/x\nflux run -n4 ./b"),
    ("cat > in <<EOF\nunits lj\n# atoms 4\nEOF", "cat > in <<EOF\nunits lj\nEOF"),
]


@pytest.mark.parametrize(("original", "script"), NOT_THE_SAME)
def test_a_program_that_is_gone_or_another_one_or_added(original, script):
    found = compare_commands(
        read_script(f"{SLURM_4}{original}\n"), read_script(f"{FLUX_4}{script}\n")
    )
    assert found.errors


THE_SAME = [
    ("srun ./b --x", "flux run -n 4 -o cpu-affinity=per-task ./b --x", ""),
    ("srun -n $SLURM_NTASKS ./b", "flux run --ntasks=4 ./b", ""),
    ("srun -n1 ./b", "./b", ""),
    ("RUN='srun -n 4'\n$RUN ./a", "RUN='flux run -n 4'\n$RUN ./a", ""),
    ("srun \\\n  -n 4 ./a  # a\n\n", "# b\nflux run -n4 ./a", ""),
    ("if true; then\n  srun ./b\nfi", "if true; then\n    flux run -n4 ./b\nfi", ""),
    ("srun ./b $SLURM_JOB_ID > l", 'flux run -n4 ./b "$(flux getattr jobid)" > l', ""),
    ("srun ./b > l.$SLURM_JOB_ID 2>&1 &", 'flux run -n4 ./b > "l.${FLUX_JOB_ID}" 2>&1 &', ""),
    ("export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK", "export OMP_NUM_THREADS=1", ""),
    ("mpirun -np 4 -x A --mca btl tcp ./b", "flux run -n4 ./b", ""),
    ("srun ./b", "module load flux\nflux run -n4 ./b", "module load flux"),
    ("module load slurm a\nsrun ./b", "flux run -n4 ./b", "module load slurm a"),
    ("srun ./b", "export OMP_NUM_THREADS=1\nflux run -n4 ./b", "export OMP_NUM_THREADS=1"),
    ("squeue -u me\nsrun ./b", "flux run -n4 ./b", "squeue -u me"),
    ("srun $OPTIONS ./b x", "flux run -n4 ./b x", "is unknown"),
    ("lmp -in x", "flux run -n4 lmp -in x", "has no launcher"),
]


@pytest.mark.parametrize(("original", "script", "warning"), THE_SAME)
def test_other_words_for_the_same_are_the_same(original, script, warning):
    found = compare_commands(
        read_script(f"{SLURM_4}{original}\n"), read_script(f"{FLUX_4}{script}\n")
    )
    assert found.errors == []
    assert [each for each in found.warnings if warning not in each] == []
    assert bool(found.warnings) is bool(warning)


@pytest.mark.parametrize(
    ("original", "script"),
    [
        ("cd $PBS_O_WORKDIR\nmpiexec ./a", "srun ./a"),
        ("cd $PBS_O_WORKDIR\nmpiexec -n 4 ./a", 'cd "$SLURM_SUBMIT_DIR"\nsrun ./a'),
        ("sort -u $PBS_NODEFILE > hosts", "scontrol show hostnames > hosts"),
    ],
)
def test_from_another_manager_too(original, script):
    found = compare_commands(
        read_script(f"{PBS_4}{original}\n"), read_script(f"{SLURM_4}{script}\n")
    )
    assert found.errors == []


def test_a_directive_that_the_script_writes_is_kept():
    """LSF reads it as its own."""
    body = "cat > job <<EOF\n#BSUB -J x\nEOF\n"
    found = compare_commands(
        read_script(f"{SLURM_4}{body}", "slurm"), read_script(f"#!/bin/bash\n#BSUB -n 4\n{body}")
    )
    assert found.errors == []


def test_a_launch_of_other_size_is_told_with_both():
    (found,) = compare_commands(
        read_script(f"{SLURM_4}srun -n4 ./b\n"), read_script(f"{FLUX_4}flux run -n1 ./b\n")
    ).errors
    assert found == (
        "line 3 of the original, `srun -n4 ./b`, starts 4 tasks, the translation's "
        "`flux run -n1 ./b` 1 task"
    )


def test_a_directive_of_another_that_is_still_there():
    left = read_script(FLUX.replace("\ncd", "#SBATCH -N2\ncd"), "flux")
    (found,) = leftovers(read_script(SLURM), left)
    assert found == "still in it: `#SBATCH -N2` is a directive of slurm"
    printed = "cat > job.sh <<EOF\n#SBATCH -N1\nEOF\n"
    assert leftovers(read_script(SLURM + printed), read_script(FLUX + printed, "flux")) == []
