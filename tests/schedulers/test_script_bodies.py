"""The commands of a batch script in the words of another scheduler."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flux_python
from counts import examples
from fractale.schedulers.body import Body, translate_body
from fractale.schedulers.environment import environment_of, mentions_in, mentions_of
from fractale.schedulers.homes import READ as NAMES
from fractale.schedulers.request import Array, Request, Span
from fractale.schedulers.shell_text import read_shell

TARGETS = ("slurm", "flux", "pbs", "lsf")
JOB = Request(name="md", nodes=2, tasks=8, cores_per_task=4, queues=("batch",))


def translated(
    text: str, source: str, target: str, request: Request = JOB, shell: str = "bash"
) -> Body:
    lines = list(enumerate(textwrap.dedent(text).strip("\n").split("\n"), 1))
    return translate_body(lines, source, target, request, shell=shell)


def one(text: str, source: str, target: str, request: Request = JOB) -> str:
    """A line, translated in whole."""
    body = translated(text, source, target, request)
    assert not body.remains, body.remains
    assert not body.left_out, body.left_out
    return "\n".join(body.lines)


# Launchers.


@pytest.mark.parametrize(
    ("source", "line", "target", "right"),
    [
        ("slurm", "srun -n 4 ./a", "flux", "flux run -n 4 -c 4 ./a"),
        ("slurm", "srun -N 2 -n8 -c 4 ./a -n 3", "flux", "flux run -N 2 -n 8 -c 4 ./a -n 3"),
        ("slurm", "srun --ntasks=8 --cpus-per-t 2 ./a", "flux", "flux run -N 2 -n 8 -c 2 ./a"),
        ("slurm", "srun --ntasks-per-node=4 ./a", "flux", "flux run -N 2 -n 8 -c 4 ./a"),
        ("slurm", "srun -n $N ./a", "flux", "flux run -n $N -c 4 ./a"),
        (
            "slurm",
            "srun -N$M --ntasks-per-node=4 ./a",
            "flux",
            "flux run -N $M -n $(($M * 4)) -c 4 ./a",
        ),
        ("slurm", "srun -n 8 --cpu-bind=none ./a", "lsf", "mpiexec -n 8 ./a"),
        ("slurm", "time srun ./a | tee b", "pbs", "time mpiexec -n 8 ./a | tee b"),
        ("slurm", "exec /usr/bin/srun ./a", "lsf", "exec mpiexec -n 8 ./a"),
        ("slurm", "A=1 srun -l -u ./a &", "flux", "A=1 flux run -N 2 -n 8 -c 4 -l -u ./a &"),
        ("slurm", "ibrun ./a", "pbs", "mpiexec -n 8 ./a"),
        ("flux", "flux run -n 8 -c 4 -g 1 ./a", "slurm", "srun -n 8 -c 4 --gpus-per-task=1 ./a"),
        ("flux", "flux run ./a", "slurm", "srun -n 1 ./a"),
        ("flux", "flux run -N 2 ./a", "pbs", "mpiexec -n 2 ./a"),
        ("flux", "flux mini run -n4 ./a", "lsf", "mpiexec -n 4 ./a"),
        ("flux", "flux run -n 8 -o cpu-affinity=off ./a", "slurm", "srun -n 8 --cpu-bind=none ./a"),
        ("lsf", "jsrun -n 4 -a 1 -c 7 -g 1 ./a", "slurm", "srun -n 4 -c 7 --gpus-per-task=1 ./a"),
        ("lsf", "jsrun -n4 -a2 -c4 -r2 ./a", "flux", "flux run -N 2 -n 8 -c 2 ./a"),
        ("slurm", "srun --mpi=pmix_v3 -n 1 ./a", "flux", "flux run -n 1 -c 4 -o pmi=pmix ./a"),
        ("lsf", "jsrun -n 2 -b none ./a", "flux", "flux run -n 2 -o cpu-affinity=off ./a"),
        ("lsf", "jsrun -n $N -a 6 ./a", "slurm", "srun -n $(($N * 6)) ./a"),
        ("lsf", "mpirun.lsf ./a", "slurm", "srun ./a"),
        ("lsf", "lrun -T4 ./a", "slurm", "srun -n 8 --ntasks-per-node=4 ./a"),
        ("pbs", "aprun -n 8 -N 4 -d 2 ./a", "slurm", "srun -n 8 --ntasks-per-node=4 -c 2 ./a"),
        ("pbs", "aprun -n 8 -N 4 ./a", "flux", "flux run -N 2 -n 8 ./a"),
        ("cobalt", "aprun -n 64 -N 32 -e A=1 ./a", "pbs", "mpiexec -n 64 env A=1 ./a"),
        ("cobalt", "aprun -n 8 -e A=1 -e B=2 ./a", "slurm", "srun -n 8 --export=ALL,A=1,B=2 ./a"),
    ],
)
def test_launcher_keeps_its_sizes(source: str, line: str, target: str, right: str) -> None:
    body = translated(line, source, target)
    assert "\n".join(body.lines) == right
    assert not body.remains
    assert [c.new for c in body.changes if c.line] == [right]


def test_the_jobs_gpus_are_given_to_the_programs_of_flux() -> None:
    four = Request(nodes=1, tasks=4, gpus_per_node=4)
    assert one("srun ./a", "slurm", "flux", four) == "flux run -n 4 -g 1 ./a"
    each = Request(tasks=2, gpus_per_task=2)
    assert one("srun ./a", "slurm", "flux", each) == "flux run -n 2 -g 2 ./a"
    uneven = Request(nodes=2, tasks=3, gpus=2)
    assert one("srun ./a", "slurm", "flux", uneven) == "flux run -N 2 -n 3 --exclusive ./a"
    wide = Request(nodes=2, tasks=8, gpus_per_node=4)
    assert one("srun -n 1 hostname", "slurm", "flux", wide) == "flux run -n 1 -g 4 hostname"
    assert one("srun -n $N ./a", "slurm", "flux", wide) == "flux run -n $N -g 1 ./a"
    step = "srun -N 1 -n 1 --gres=gpu:a100:4 ./a"
    assert one(step, "slurm", "flux", four) == "flux run -N 1 -n 1 -g 4 ./a"
    unclear = translated("srun -n $N ./a", "slurm", "flux", uneven)
    assert [(each.what, each.grave) for each in unclear.losses] == [("gpus", True)]
    shared = Request(tasks=4, gpus_per_node=1)  # one slot, which is on one node
    right = "flux run -N 1 -n {} --exclusive ./a"
    assert one("srun -n4 ./a", "slurm", "flux", shared) == right.format(4)
    assert one("srun -n 3 ./a", "slurm", "flux", shared) == right.format(3)
    assert one("srun -n $N ./a", "slurm", "flux", shared) == right.format("$N")
    spread = translated("srun -n6 ./a", "slurm", "flux", Request(tasks=6, gpus=4))
    assert [each.what for each in spread.losses] == ["gpus"]
    assert not translated("srun -n $N ./a", "slurm", "pbs", uneven).losses


@pytest.mark.parametrize(
    ("source", "options", "target", "right"),
    [
        (
            *("slurm", 'srun -o out.%j.%t -e "err.%N"', "flux"),
            "flux run -n 8 --output=out.${FLUX_ENCLOSING_ID}.{{task.rank}}"
            ' --error="err.{{node.name}}"',
        ),
        ("slurm", "srun -o %x-%n", "flux", "flux run -n 8 --output=md-{{node.id}}"),
        ("slurm", "srun -o none -e 5%%", "flux", "flux run -n 8 --output=/dev/null --error=5%"),
        ("slurm", "srun -o all", "flux", "flux run -n 8"),
        (
            *("flux", "flux run -n 8 --output=o.{{taskid}}.{{id}} --error=5%", "slurm"),
            "srun -n 8 --output=o.%t.%J --error=5%%",
        ),
        ("lsf", "jsrun -n 8 -o out", "slurm", "srun -n 8 --output=out"),
    ],
)
def test_marks_in_a_launchers_file_names_are_translated(
    source: str, options: str, target: str, right: str
) -> None:
    job = Request(name="md", tasks=8)
    assert one(f"{options} ./a", source, target, job) == f"{right} ./a"


@pytest.mark.parametrize(
    ("source", "options", "target"),
    [
        ("slurm", "srun -n 8 -o o.%s", "flux"),
        ("slurm", "srun -n 8 -o o.%3t", "flux"),
        ("slurm", "srun -n 8 -o 'o.%j'", "flux"),
        ("slurm", "srun -n 8 -o o.{{x}}", "flux"),
        ("slurm", "srun -n 8 -o o.%A", "flux"),
        ("flux", "flux run -n 8 --output={{name}}", "slurm"),
        ("flux", "flux run -n 8 --output={{id.f58}}", "slurm"),
        ("lsf", "jsrun -n 8 -o o.%t", "slurm"),
    ],
)
def test_a_mark_without_a_counterpart_is_told(source: str, options: str, target: str) -> None:
    body = translated(f"{options} ./a", source, target, Request(tasks=8))
    launcher = {"flux": "flux run", "slurm": "srun"}[target]
    assert body.lines == (f"{launcher} -n 8 ./a",)
    assert len(body.left_out) == 1


def test_why_an_option_of_a_launcher_is_left_out_is_true() -> None:
    body = translated("flux run -n 8 -t 5m -q debug -o a=b ./a", "flux", "slurm")
    why = {each.text: each.why for each in body.left_out}
    assert (
        why["-t 5m"]
        == why["-q debug"]
        == "left out: it belongs to the job, whose directives say it"
    )
    assert why["-o a=b"] == "left out: fractale knows no option of Slurm's `srun` that says it"
    body = translated("srun -n $N --ntasks-per-node=4 -p x -A y -t 5 ./a", "slurm", "flux")
    why = {each.text: each.why for each in body.left_out}
    assert "`--tasks-per-node` without `-n` only" in why["--ntasks-per-node=4"]
    assert {why[each] for each in ("-p x", "-A y", "-t 5")} == {
        "left out: it belongs to the job, whose directives say it"
    }
    for target, launcher in (("pbs", "mpiexec"), ("lsf", "mpiexec"), ("flux", "flux run")):
        body = translated("srun --multi-prog -n 4 a.conf", "slurm", target)
        assert "aprun" not in body.remains[0].why
        assert launcher in translated('echo "srun ./a" > x.sh', "slurm", target).remains[0].why


def test_an_option_that_the_other_launcher_lacks_is_left_out_and_told() -> None:
    body = translated("srun -n 8 --hint=nomultithread --gpus-per-task=1 ./a", "slurm", "lsf")
    assert body.lines == ("mpiexec -n 8 ./a",)
    assert [each.text for each in body.left_out] == ["--hint=nomultithread", "--gpus-per-task=1"]
    assert "LSF's `mpiexec` has no such option" in str(body.left_out[1])
    bound = translated("jsrun -n 2 -b rs ./a", "lsf", "flux")
    assert (bound.lines, [e.text for e in bound.left_out]) == (("flux run -n 2 ./a",), ["-b rs"])
    # What the directives say already is no loss …
    assert not translated("srun -N 2 -n 8 -c 4 ./a", "slurm", "pbs").left_out
    # … and what they do not is one.
    assert [e.text for e in translated("srun -n 8 -c 2 ./a", "slurm", "pbs").left_out] == ["-c 2"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("srun --multi-prog -n 4 a.conf", "has no counterpart"),
        ("srun --container-image=a ./a", "has no counterpart"),
        ("srun --no-such-option 3 ./a", "does not know"),
        ("srun -N 1 ./a", "depends on the version"),
        ("srun --jobid=7 ./a", "starts in job 7"),
        ("srun -n 4 ./a : -n 2 ./b", "several programs"),
        ("srun", "no program follows"),
        ('OPT="-n 4 -N 2"; srun $OPT ./a', "holds options"),
        ('RUN="srun --mpi=pmix"; $RUN -n 4 ./a', "gives it more options"),
    ],
)
def test_a_launch_that_is_not_sure_stays_and_is_told(line: str, why: str) -> None:
    body = translated(line, "slurm", "flux")
    assert body.lines == (line,)
    assert why in "; ".join(each.why for each in body.remains)
    assert body.not_launched == {1}


def test_a_step_of_the_own_job_is_one_of_the_job() -> None:
    text = "srun --jobid $SLURM_JOB_ID -n 2 ./a"
    assert one(text, "slurm", "flux") == "flux run -n 2 -c 4 ./a"


def test_a_launcher_in_a_string_that_runs_is_a_launcher() -> None:
    text = 'MPI="srun -n 4 -c 2"\nexport RUN=srun\n$MPI ./a && $RUN ./b\neval "srun -n 1 ./c"'
    assert one(text, "slurm", "flux").split("\n") == [
        'MPI="flux run -n 4 -c 2"',
        'export RUN="flux run -N 2 -n 8 -c 4"',  # quoted, now that it is several words
        "$MPI ./a && $RUN ./b",
        'eval "flux run -n 1 -c 4 ./c"',
    ]
    assert one("bash -c 'srun -n 1 ./a'", "slurm", "pbs") == "bash -c 'mpiexec -n 1 ./a'"


def test_options_over_several_lines_and_in_functions_and_loops() -> None:
    text = """
        step() {
          srun -n 2 \\
               --cpus-per-task=4 \\
               ./a "$1" > out 2>&1
        }
        for i in 1 2; do step $i & done; wait
        if [ -e b ]; then ( cd b && srun -n 1 ./b ); fi
        x=$(srun -n 1 hostname)
    """
    body = translated(text, "slurm", "flux")
    assert not body.remains
    new = "\n".join(body.lines)
    assert "  flux run -n 2 -c 4 \\\n" in new
    assert '       ./a "$1" > out 2>&1' in new
    assert "( cd b && flux run -n 1 -c 4 ./b )" in new
    assert "x=$(flux run -n 1 -c 4 hostname)" in new
    assert subprocess.run(["bash", "-n"], input=new, text=True, check=False).returncode == 0


# Variables.


@pytest.mark.parametrize(
    ("source", "text", "target", "right"),
    [
        ("slurm", 'cd "$SLURM_SUBMIT_DIR"', "pbs", 'cd "$PBS_O_WORKDIR"'),
        ("pbs", "cd $PBS_O_WORKDIR", "slurm", "cd $SLURM_SUBMIT_DIR"),
        ("pbs", "cd ${PBS_O_WORKDIR}/x", "lsf", "cd ${LS_SUBCWD}/x"),
        ("pbs", "echo ${PBS_JOBID%%.*}", "slurm", "echo ${SLURM_JOB_ID%%.*}"),
        ("slurm", "echo ${SLURM_JOBID:-none}", "lsf", "echo ${LSB_JOBID:-none}"),
        ("flux", "echo $FLUX_JOB_ID", "slurm", "echo $SLURM_JOB_ID"),
        ("slurm", "echo $SLURM_JOB_ID", "flux", "echo $FLUX_ENCLOSING_ID"),
        ("slurm", "x=$((SLURM_ARRAY_TASK_ID + 1))", "pbs", "x=$((PBS_ARRAY_INDEX + 1))"),
        ("slurm", "x=$(($SLURM_NTASKS / 2))", "flux", "x=$((8 / 2))"),
        ("slurm", "n=${SLURM_CPUS_PER_TASK:-1}", "flux", "n=4"),
        ("slurm", "echo $SLURM_TASKS_PER_NODE", "flux", "echo '4(x2)'"),
        ("slurm", 'echo "$SLURM_TASKS_PER_NODE"', "flux", 'echo "4(x2)"'),
        ("slurm", "h=$SLURM_JOB_NODELIST", "flux", "h=$(flux getattr hostlist)"),
        (
            "slurm",
            "for h in $(scontrol show hostnames $SLURM_JOB_NODELIST); do :; done",
            "pbs",
            'for h in $(sort -u "$PBS_NODEFILE"); do :; done',
        ),
        (
            "slurm",
            'for h in `scontrol show hostnames "${SLURM_NODELIST}"`; do :; done',
            "flux",
            r"for h in `flux hostlist -led'\n'`; do :; done",
        ),
        ("pbs", "wc -l < $PBS_NODEFILE", "lsf", "wc -l < $LSB_DJOB_HOSTFILE"),
        ("slurm", "scancel $SLURM_JOB_ID", "lsf", "bkill $LSB_JOBID"),
        ("pbs", 'qdel "${PBS_JOBID}"', "flux", "flux --parent cancel $FLUX_ENCLOSING_ID"),
        (
            "flux",
            "n=$(flux resource list -n -o {nnodes})",
            "slurm",
            'n=$(echo "$SLURM_JOB_NUM_NODES")',
        ),
        ("pbs", "echo $PBS_O_HOME $PBS_O_LOGNAME", "slurm", "echo $HOME $SLURM_JOB_USER"),
        ("slurm", "echo SLURM_JOB_ID=$SLURM_JOB_ID", "pbs", "echo PBS_JOBID=$PBS_JOBID"),
    ],
)
def test_variable_has_its_counterpart(source: str, text: str, target: str, right: str) -> None:
    assert one(text, source, target) == right


def test_a_variable_of_slurm_is_used_only_if_slurm_will_set_it() -> None:
    assert one("echo $PBS_NP", "pbs", "slurm", Request(tasks=4)) == "echo $SLURM_NTASKS"
    assert one("echo $PBS_NP", "pbs", "slurm", Request()) == "echo 1"


def test_a_default_counts_where_slurm_would_not_have_set_the_variable() -> None:
    text = "n=${SLURM_CPUS_PER_TASK:-6}"
    assert one(text, "slurm", "flux", Request(tasks=1)) == "n=6"
    assert one(text, "slurm", "flux", Request(cores_per_task=2)) == "n=2"


def test_a_number_of_nodes_that_nobody_asked_for_is_asked_of_the_scheduler() -> None:
    some = Request(tasks=8)
    assert one("n=$SLURM_NNODES", "slurm", "flux", some) == "n=$(flux getattr size)"
    assert one("n=$SLURM_NNODES", "slurm", "pbs", some) == 'n=$(sort -u "$PBS_NODEFILE" | wc -l)'


def test_array_bounds_are_those_of_the_request() -> None:
    array = Request(array=Array(spans=(Span(first=2, last=10, step=2),)))
    text = "echo $SLURM_ARRAY_TASK_ID $SLURM_ARRAY_TASK_COUNT $SLURM_ARRAY_TASK_MAX"
    assert one(text, "slurm", "pbs", array) == "echo $PBS_ARRAY_INDEX 5 10"
    assert one(text, "slurm", "lsf", array) == "echo $LSB_JOBINDEX 5 $LSB_JOBINDEX_END"
    assert one(text, "slurm", "flux", array) == "echo $FLUX_JOB_CC 5 10"


def test_words_that_are_no_expansion_stay() -> None:
    text = r"""
        # srun -n 8 $SLURM_JOB_ID is not used
        echo $MY_SLURM_JOB_ID ${SLURM_JOB_IDX} # $SLURM_JOB_ID
        ls my-srun srun.log ./srun_old
        echo '$SLURM_JOB_ID'
    """
    body = translated(text, "slurm", "flux")
    assert body.lines == tuple(textwrap.dedent(text).strip("\n").split("\n"))
    # Only a variable of Slurm's that nobody knows is told.
    assert [each.line for each in body.remains] == [2]


def test_here_documents_are_expanded_unless_their_word_is_quoted() -> None:
    text = """
        cat > in <<EOF
        job $SLURM_JOB_ID
        later \\$SLURM_JOB_ID
        EOF
        cat > run.sh <<'END'
        echo $SLURM_JOB_ID
        END
        echo $SLURM_JOB_ID
    """
    body = translated(text, "slurm", "lsf")
    assert body.lines[1] == "job $LSB_JOBID"
    assert body.lines[5] == "echo $SLURM_JOB_ID"
    assert body.lines[7] == "echo $LSB_JOBID"
    assert [each.line for each in body.remains] == [3, 6]


def test_a_process_has_its_rank_from_its_own_launcher() -> None:
    text = "srun -n 2 bash -c 'echo $SLURM_PROCID'"
    assert one(text, "slurm", "flux") == "flux run -n 2 -c 4 bash -c 'echo $FLUX_TASK_RANK'"
    body = translated(text, "slurm", "pbs")
    assert body.lines == ("mpiexec -n 2 bash -c 'echo $SLURM_PROCID'",)
    assert "up to the MPI" in body.remains[0].why
    # In the script itself it is not set for a process.
    assert translated("echo $SLURM_PROCID", "slurm", "flux").remains


def test_what_the_script_sets_itself_stays() -> None:
    text = "export SLURM_CPU_BIND=cores\nNCPUS=4\necho $NCPUS"
    body = translated(text, "slurm", "flux")
    assert body.lines == tuple(text.split("\n"))
    assert [each.line for each in body.remains] == [1]
    assert "is set here" in body.remains[0].why
    assert translated("NCPUS=4\necho $NCPUS", "pbs", "slurm").lines == ("NCPUS=4", "echo $NCPUS")


def test_a_file_of_hosts_is_made_where_the_scheduler_has_none() -> None:
    text = "mpirun -np 8 -machinefile $PBS_NODEFILE ./a"
    body = translated(text, "pbs", "slurm")
    assert body.lines == ("mpirun -np 8 -machinefile $JOB_NODEFILE ./a",)
    assert body.before == (
        "cd",
        "export JOB_NODEFILE=$(mktemp)",
        'srun hostname -s | sort > "$JOB_NODEFILE"',
    )
    flux = translated(text, "pbs", "flux")
    assert 'flux run -N 2 -n 8 hostname -s | sort > "$JOB_NODEFILE"' in flux.before
    lsf = translated(text, "pbs", "lsf")
    assert lsf.lines == ("mpirun -np 8 -machinefile $LSB_DJOB_HOSTFILE ./a",)
    taken = translated("JOB_NODEFILE=x\n" + text, "pbs", "slurm")
    assert taken.lines[1] == "mpirun -np 8 -machinefile $JOB_NODEFILE_ ./a"


# Where a job begins.


def test_a_pbs_job_begins_at_home_and_the_others_where_they_were_submitted() -> None:
    assert translated("./a", "slurm", "pbs").before == ('cd "$PBS_O_WORKDIR"',)
    assert translated("./a", "pbs", "slurm").before == ("cd",)
    for text in (
        "cd $PBS_O_WORKDIR\n./a",
        "module load a\ncd /data/x\n./a",
        "N=`wc -l < $NODES`; # hosts\nif [ ! -d $T ]; then\n  mkdir -p $T\nfi\ncd $T",
        'echo "in $(pwd)"\nsource activate x\ncd ~/run',
    ):
        before = translated(text, "pbs", "slurm").before
        assert before == () or "pwd" in text, text
    for text in (
        "X=$(cat in)\ncd /a",
        "echo a; ./b\ncd /a",
        "source ./env\ncd /a",
        "cd a",
        "ls\n>x",
    ):
        assert translated(text, "pbs", "slurm").before == ("cd",), text
    assert translated("cd $SLURM_SUBMIT_DIR\n./a", "slurm", "pbs").before == ()
    assert translated("cd run\n./a", "slurm", "pbs").before == ('cd "$PBS_O_WORKDIR"',)
    assert translated("./a", "slurm", "lsf").before == ()
    there = translated("./a", "slurm", "pbs", Request(workdir="/data/my run"))
    assert there.before == ("cd '/data/my run'",)
    assert there.says == {"workdir"}


def test_flux_has_no_variable_for_the_submit_folder_but_begins_there() -> None:
    body = translated("mkdir t; cd t\ncp $PBS_O_WORKDIR/in .", "pbs", "flux")
    assert body.before == ("export JOB_SUBMIT_DIR=$PWD", "cd")
    assert body.lines[1] == "cp $JOB_SUBMIT_DIR/in ."
    elsewhere = translated("ls $SLURM_SUBMIT_DIR", "slurm", "flux", Request(workdir="/data"))
    assert [each.line for each in elsewhere.remains] == [1]


# What is not translated.


@pytest.mark.parametrize(
    ("source", "line", "names"),
    [
        ("slurm", "sbatch next.sh", "flux batch"),
        ("slurm", "squeue -u $USER", "flux jobs"),
        ("slurm", "module load slurm/22", "loads Slurm itself"),
        ("slurm", "ls $SLURM_TMPDIR", "has none for it"),
        ("slurm", "LAUNCHER=${LAUNCHER:-srun}", "flux run"),
        ("slurm", 'ssh h "srun ./a"', "flux run"),
        ("pbs", "qsub -v A=1 next.pbs", "flux batch"),
        ("pbs", "pbsdsh ./a", "flux exec"),
        ("pbs", 'if [ -n "$PBS_ENVIRONMENT" ]; then :; fi', "has none for it"),
        ("lsf", "bsub < next.bsub", "flux batch"),
        ("lsf", "blaunch h1 ./a", "a program of LSF's"),
        ("cobalt", "runjob --np 8 : ./a", "a program of Cobalt's"),
    ],
)
def test_what_is_not_mechanical_is_told_with_its_line(source: str, line: str, names: str) -> None:
    body = translated(f"true\n{line}", source, "flux")
    assert body.lines[1] == line
    assert [each.line for each in body.remains] == [2]
    assert names in body.remains[0].why


def test_flux_words_in_a_slurm_script_are_told() -> None:
    body = translated("flux submit ./a\nflux kvs get x\nflux = 3", "flux", "slurm")
    assert [each.line for each in body.remains] == [1, 2]
    assert "Slurm has `sbatch`" not in body.remains[1].why


def test_a_text_that_is_printed_is_a_note_and_one_for_a_file_is_not() -> None:
    body = translated('echo "srun begins"\necho "srun ./a" > next.sh', "slurm", "flux")
    assert [each.line for each in body.notes] == [1]
    assert [each.line for each in body.remains] == [2]


def test_an_mpi_launcher_that_cannot_find_the_hosts_is_noted() -> None:
    body = translated("mpirun -np 8 ./a\nmpirun -hostfile h ./a", "pbs", "flux")
    assert [each.line for each in body.notes] == [1]
    assert translated("mpirun -np 8 ./a", "slurm", "pbs").notes == ()


def test_python_is_not_translated_and_told() -> None:
    text = 'import os\n# SLURM_JOB_ID\ni = os.environ["SLURM_ARRAY_TASK_ID"]'
    body = translated(text, "slurm", "pbs", shell="python3")
    assert body.lines == tuple(text.split("\n"))
    assert [each.line for each in body.remains] == [3]
    assert "PBS_ARRAY_INDEX" in body.remains[0].why
    assert [str(note) for note in body.notes] == [
        "PBS starts a job in the home directory, not in the directory of the submission"
    ]


def test_csh_is_translated_in_its_own_words() -> None:
    text = """
        if ( $?PBS_JOBID ) then
          setenv ID $PBS_JOBID
        endif
        set n = `cat $PBS_NODEFILE | wc -l`
        cd $PBS_O_WORKDIR
    """
    body = translated(text, "pbs", "slurm", shell="tcsh")
    assert not body.remains
    assert body.lines[0] == "if ( $?SLURM_JOB_ID ) then"
    assert body.lines[3] == "set n = `cat $JOB_NODEFILE | wc -l`"
    assert "setenv JOB_NODEFILE `mktemp`" in body.before
    product = translated("srun -N $M --ntasks-per-node=2 ./a", "slurm", "flux", shell="csh")
    assert "csh cannot multiply" in product.remains[0].why


def test_a_script_for_its_own_scheduler_stays() -> None:
    text = "srun ./a\nsbatch b"
    assert translated(text, "slurm", "slurm") == Body(lines=tuple(text.split("\n")))


def test_an_unknown_scheduler_is_refused() -> None:
    with pytest.raises(ValueError, match="`sge` is not a scheduler"):
        translated("true", "slurm", "sge")


# The translated commands run.

STAND_IN = """#!/bin/sh
# Starts the program as often as -n says, after `run` where that is a word of its own.
[ "$1" = run ] && shift
n=1
while :; do
  case $1 in
    -n) n=$2; shift 2;; -N|-c|-g) shift 2;; -*) shift;; *) break;;
  esac
done
i=0; while [ $i -lt $n ]; do "$@"; i=$((i+1)); done
"""


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "flux", "mpiexec"):
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    return folder


def ran(body: tuple[str, ...], folder: Path, **variables: str) -> str:
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": "/", **variables}
    done = subprocess.run(
        ["bash", "-eu"],
        input="\n".join(body) + "\n",
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_translated_commands_do_what_the_original_did(bin_folder: Path) -> None:
    text = """
        cd $SLURM_SUBMIT_DIR; basename "$PWD"
        export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
        run="srun -n 3"
        cat <<EOF
        job ${SLURM_JOB_ID} has $((SLURM_NTASKS * 2)) halves, $SLURM_ARRAY_TASK_ID
        EOF
        $run echo threads=$OMP_NUM_THREADS
        srun \\
            -n 2 echo "a b"
        srun echo all
    """
    lines = tuple(textwrap.dedent(text).strip("\n").split("\n"))
    job = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(bin_folder), "SLURM_ARRAY_TASK_ID": "5"}
    sizes = {"SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "4"}
    # The stand-in starts one process without a size, where srun starts one per task.
    original = ran(lines, bin_folder, **job, **sizes).replace("all\n", "all\n" * 8)
    environments = {
        "flux": {"FLUX_ENCLOSING_ID": "7", "FLUX_JOB_CC": "5"},
        "pbs": {"PBS_JOBID": "7", "PBS_O_WORKDIR": str(bin_folder), "PBS_ARRAY_INDEX": "5"},
        "lsf": {"LSB_JOBID": "7", "LS_SUBCWD": str(bin_folder), "LSB_JOBINDEX": "5"},
    }
    for target, variables in environments.items():
        body = translated(text, "slurm", target)
        assert not body.remains
        assert ran((*body.before, *body.lines), bin_folder, **variables) == original, target


# Properties.

PIECES = st.lists(
    st.sampled_from(
        [
            *(
                "ls",
                "-l",
                "$HOME",
                "${X:-y}",
                "$(date)",
                "`pwd`",
                "'a b'",
                '"$Y z"',
                "|",
                "&&",
                ";",
            ),
            *("\n", "\\\n", "#", "<<EOF\n", "EOF\n", "((", "))", "(", ")", "{", "}", "'", '"', "$"),
            *("case", "in", "esac", "for", "done", ">", "2>&1", "=", "x=", "\\", "é", "\t"),
        ]
    ),
    max_size=40,
)
WORDS = st.sampled_from(
    [
        *("srun", "-n", "4", "./a", "$SLURM_JOB_ID", "${SLURM_NTASKS:-2}", "$SLURM_SUBMIT_DIR"),
        *("sbatch", "x.sh", "$PBS_JOBID", "$PBS_NODEFILE", "aprun", "jsrun", "flux run"),
        *("$LSB_JOBINDEX", "$FLUX_JOB_ID", "echo", "cd", "$(($SLURM_NTASKS*2))"),
    ]
)
MIXED = st.tuples(PIECES, st.lists(WORDS, max_size=15)).flatmap(
    lambda both: st.permutations([*both[0], *both[1]])
)


@settings(max_examples=examples(200), deadline=None)
@given(PIECES, st.sampled_from(NAMES), st.sampled_from(TARGETS))
def test_commands_without_a_word_of_a_scheduler_stay_as_they_are(
    pieces: list[str], source: str, target: str
) -> None:
    lines = list(enumerate(" ".join(pieces).split("\n"), 3))
    body = translate_body(lines, source, target, JOB, shell="bash")
    assert body.lines == tuple(line for _, line in lines)
    assert not body.remains
    assert not body.left_out


@settings(max_examples=examples(300), deadline=None)
@given(MIXED, st.sampled_from(NAMES), st.sampled_from(TARGETS), st.sampled_from(["sh", "csh"]))
def test_nothing_of_the_source_remains_untold(
    pieces: list[str], source: str, target: str, shell: str
) -> None:
    lines = list(enumerate(" ".join(pieces).split("\n"), 3))
    body = translate_body(lines, source, target, JOB, shell=shell)
    if source == target:
        return
    told = {each.line for each in (*body.remains, *body.notes)}
    changed = {each.line: len(each.old.split("\n")) for each in body.changes if each.line}
    # Lines that are neither told nor changed say nothing to the source, outside of comments.
    covered = {n + i for n, count in changed.items() for i in range(count)}
    text = "\n".join(line for _, line in lines)
    comments = read_shell(text, csh=shell == "csh").comments
    at = 0
    for number, line in lines:
        for mention in mentions_of(source).finditer(line):
            start = at + mention.start()
            in_comment = any(first <= start < last for first, last in comments)
            assert in_comment or number in told or number in covered, (line, mention[0])
        at += len(line) + 1
    # And what changed says nothing to it either, unless it is told.
    for change in body.changes:
        lines_of = range(change.line, change.line + len(change.old.split("\n")))
        if change.line and not told & set(lines_of):
            left = mentions_of(source).search(change.new.split("#")[0])
            assert left is None or source in ("pbs", "cobalt"), (change, left)


@settings(max_examples=examples(300), deadline=None)
@given(MIXED, st.sampled_from(NAMES))
def test_each_mention_of_a_scheduler_is_found(pieces: list[str], source: str) -> None:
    text = "".join(pieces)
    found = [each.regs for each in mentions_in(text, source)]
    assert found == [each.regs for each in mentions_of(source).finditer(text)]


LINES = st.lists(
    st.text("ax1 \t'\"\\`$(){}<>#|&;=?-_", max_size=8)
    | st.sampled_from(
        [
            *("echo 'it' # it's", 'echo "$a ${b} c"', 'x="${y:-"z"}"', "a=$(b c | d)", "if [ a ]"),
            *("cat <<E", "E", "a < b", "(", ")", "$(", '"', "'", "case a in", "b) c;;", "esac"),
            *("f() {", "}", "echo \\", "((", "))", "${x", "`a", "$'b\\'", "# $(", "a#'b"),
        ]
    ),
    max_size=8,
)


@settings(max_examples=examples(1500), deadline=None)
@given(LINES, LINES, st.booleans())
def test_what_a_shell_reads_at_a_place_is_the_same_without_the_lines_that_are_passed_over(
    above: list[str], below: list[str], csh: bool
) -> None:
    text = "\n".join([*above, "srun -n $SLURM_NTASKS a", *below])
    place = sum(len(each) + 1 for each in above)
    spans = range(place, place + len("srun -n $SLURM_NTASKS a"))
    whole, part = read_shell(text, csh=csh), read_shell(text, csh=csh, places=[place])
    for found in zip(
        *(
            (
                [each for each in read.commands if any(w.start in spans for w in each.words)],
                [each for each in read.variables if each.start in spans],
                [each for each in read.comments if each[0] <= place < each[1]],
                [each for each in read.quiet if each[0] <= place < each[1]],
                [each for each in read.documents if each[0] <= place < each[1]],
            )
            for read in (whole, part)
        ),
        strict=True,
    ):
        assert found[0] == found[1]


@settings(max_examples=examples(200), deadline=None)
@given(MIXED, st.sampled_from(NAMES), st.sampled_from(TARGETS))
def test_simple_lines_above_change_nothing(pieces: list[str], source: str, target: str) -> None:
    lines = " ".join(pieces).split("\n")
    above = ["ls -l", "# it's", "if x; then", "  cd ${Y} | z )", "fi", "ls <a>", ""]
    alone = translate_body(list(enumerate(lines, 1)), source, target, JOB, shell="bash")
    below = translate_body(list(enumerate([*above, *lines], 1)), source, target, JOB, shell="bash")
    assert below.lines == (*above, *alone.lines)
    assert [each.why for each in below.left_out] == [each.why for each in alone.left_out]
    assert [each.text for each in below.remains] == [each.text for each in alone.remains]


@settings(max_examples=examples(200), deadline=None)
@given(MIXED, st.sampled_from(NAMES), st.sampled_from(TARGETS))
def test_translating_twice_adds_nothing(pieces: list[str], source: str, target: str) -> None:
    lines = list(enumerate(" ".join(pieces).split("\n"), 1))
    once = translate_body(lines, source, target, JOB, shell="bash")
    again = translate_body(
        list(enumerate((*once.before, *once.lines), 1)), source, target, JOB, shell="bash"
    )
    assert (*again.before, *again.lines) == (*once.before, *once.lines)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "(",
            "$(",
            "${",
            "$((",
            "`",
            '"',
            "'",
            "${X:-",
            "$(echo `",
            '"$(',
            "((",
            "<<E\n",
            "case x in ",
        ),
        *("srun -n 2 ./a\n", 'X="srun ', "echo $SLURM_JOB_ID\n", "echo srun $(srun x)\n", "\\\n"),
        *("srun $X -n 2 ", "$SLURM_NTASKS ", "srun -n $((1*", "bash -c 'srun ", "#", "\0", "é"),
    ],
)
def test_a_text_that_no_shell_reads_is_answered_too(piece: str) -> None:
    """In time that grows as the text does."""
    for end in ("", "\nsrun -n 3 ./a\necho $SLURM_JOB_ID\n"):
        text = piece * 5_000 + end
        body = translate_body(
            [(1, line) for line in text.split("\n")], "slurm", "flux", JOB, shell="bash"
        )
        assert body.lines


def test_each_fact_that_is_written_is_one_that_can_be_read() -> None:
    read = {fact for name in NAMES for fact in environment_of(name).variables.values()}
    for name in TARGETS:
        home = environment_of(name)
        assert set(home.names) <= read
        for fact, variable in home.names.items():
            assert home.variables.get(variable.name) in (fact, "job_id"), (name, fact)


# The launchers' own option tables.

FLUX_PROGRAM = """
import json, sys
import flux.cli.run as run
parser = run.RunCmd("flux run").parser
options = {name: action.nargs == 0 for action in parser._actions for name in action.option_strings}
said = [vars(parser.parse_args(words)) for words in json.load(sys.stdin)]
json.dump([options, said], sys.stdout)
"""


def flux_says(launches: list[list[str]]) -> tuple[dict[str, bool], list[dict[str, object]]]:
    """The options of `flux run` (and whether they are switches), and how it reads some words."""
    path = flux_python.python_path()
    done = subprocess.run(
        [sys.executable, "-c", FLUX_PROGRAM],
        input=json.dumps(launches),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    options, said = json.loads(done.stdout)
    return options, said


def test_flux_has_the_options_that_are_read() -> None:
    options, _ = flux_says([])
    known = environment_of("flux").launchers["flux run"].options
    for name, switch in options.items():
        if name in ("-h", "--help", "--list-plugins", "--dry"):
            continue
        assert name in known, name
        assert (known[name].argument == "none") == switch, name
    assert set(known) - set(options) <= {"-vv"}


def test_flux_reads_the_launches_that_are_written_as_they_are_meant() -> None:
    lines = [
        "srun -N 2 -n 8 -c 4 --gres=gpu:4 --mpi=pmix --cpu-bind=cores ./a -n 3",
        "srun -l -u -o out -e err -D /tmp -J name -K -m cyclic -w n1 --export=ALL,A=1,B=2 ./a",
        "srun ./a",
    ]
    uneven = Request(nodes=2, tasks=3, gpus=2)
    written = [shlex.split(one(line, "slurm", "flux", uneven))[2:] for line in lines]
    first, second, third = flux_says(written)[1]
    sizes = ("nodes", "ntasks", "cores_per_task", "gpus_per_task")
    assert [first[size] for size in sizes] == ["2", "8", "4", "1"]
    assert first["setopt"] == ["pmi=pmix", "cpu-affinity=per-task"]
    assert first["command"] == ["./a", "-n", "3"]
    assert (second["label_io"], second["unbuffered"], second["cwd"]) == (True, True, "/tmp")
    assert (second["output"], second["error"], second["job_name"]) == ("out", "err", "name")
    assert (second["env"], second["taskmap"]) == (["A=1", "B=2"], "cyclic")
    assert (second["requires"], second["setopt"]) == (["host:n1"], ["exit-on-error"])
    assert (third["nodes"], third["ntasks"], third["exclusive"]) == ("2", "3", True)


def test_srun_has_the_options_that_are_written_and_those_it_has_are_read(tmp_path: Path) -> None:
    srun = shutil.which("srun")
    if srun is None:
        pytest.skip("there is no srun here")
    settings_file = tmp_path / "slurm.conf"
    settings_file.write_text("ClusterName=a\nSlurmctldHost=localhost\nNodeName=localhost\n")
    asked = subprocess.run(
        [srun, "--help"],
        env={"SLURM_CONF": str(settings_file)},
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        pytest.skip(f"srun does not show its options here: {asked.stderr.strip()[:200]}")
    text = asked.stdout
    theirs = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text))
    listed = re.findall(r"^ +(?:-\w, )?(--[a-z][\w-]*[\w])(?![\w-])(\[?=)?", text, re.MULTILINE)
    home = environment_of("slurm")
    assert home.launch
    options = home.launchers["srun"].options
    assert theirs - set(options) == set()
    assert len(listed) > 80
    values = dict(sorted(listed))  # what is explained is named again
    for name, value in values.items():
        argument = options[name].argument
        if value == "[=":
            assert argument == "optional", name
        elif value:
            assert argument != "none", name
        elif name not in ("--container", "--nodefile"):  # whose values srun --help leaves out
            assert argument != "required", name
    written = " ".join(home.launch.options.values())
    # srun shows --cpu-bind only with the plugin task/affinity.
    assert set(re.findall(r"--[a-z][\w-]+", written)) - {"--cpu-bind"} <= theirs


@pytest.mark.parametrize("target", ["pbs", "lsf"])
def test_launches_at_a_time_are_told_where_all_would_begin_on_the_first_host(target: str) -> None:
    loop = "for i in 1 2; do srun -N1 -n1 --exclusive ./job $i > out.$i & done; wait"
    many = Request(nodes=2, tasks=8)
    (note,) = (each.why for each in translated(loop, "slurm", target, many).notes)
    assert "would begin on the job's first host" in note
    for plain, job in (
        ("srun -N1 -n1 ./job && wait", many),
        ("srun ./job & wait", many),
        (loop, Request(nodes=1, tasks=8)),
    ):
        assert not translated(plain, "slurm", target, job).notes
    assert not translated(loop, "slurm", "flux", many).notes
