"""A batch script for another scheduler: what it asks for is in it, or told as lost."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counts import examples
from fractale.schedulers.comparison import compare
from fractale.schedulers.dialects import dialect_of, read_script
from fractale.schedulers.homes import NAMES
from fractale.schedulers.request import Array, Dependency, Request, Span
from fractale.schedulers.script import Loss, Script
from fractale.schedulers.translation import NOT_SAID, Translation, translate
from fractale.tools.batch import translate_batch_script

DIRECTIONS = list(itertools.permutations(NAMES, 2))


def translated(script: str, target: str, source: str | None = None) -> Translation:
    return translate(read_script(script, source), target)


def directives(translation: Translation) -> list[str]:
    mark = dialect_of(translation.script.scheduler).mark
    lines = translation.text.splitlines()
    return [line.removeprefix(mark).strip() for line in lines if line.startswith(mark)]


def lost(translation: Translation) -> set[str]:
    return {loss.what for loss in translation.losses}


def script_of(scheduler: str, *options: str, body: str = "./solve\n") -> str:
    mark = dialect_of(scheduler).mark
    return "\n".join(["#!/bin/bash", *(f"{mark} {each}" for each in options), body])


# -- sizes --------------------------------------------------------------------------------------

ONE_TASK = {
    "slurm": ["-c 4", "--time=0:30:00"],
    "flux": ["--nslots=1", "--cores-per-slot=4", "--time-limit=30m"],
    "pbs": ["-l ncpus=4", "-l walltime=0:30:00"],
    "lsf": ['-R "affinity[core(4)]"', "-W 30"],
}


def test_every_scheduler_whose_scripts_are_written_has_a_script_here():
    missing = set(NAMES) - set(ONE_TASK)
    assert not missing, (
        f"add a script of {sorted(missing)} to ONE_TASK, and to ARRAYS if it has any"
    )


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_a_script_without_a_size_asks_for_one_task(source, target):
    """Every scheduler starts one task, chunk or slot, where the script names no number."""
    translation = translated(script_of(source, *ONE_TASK[source]), target)
    totals = translation.script.request.totals()
    assert (totals.tasks, totals.cores) in [(1, 4), (4, 4)]
    assert translation.script.request.seconds == 1800
    assert translation.script.invalid == ()
    assert lost(translation) == set()


@pytest.mark.parametrize("target", ["flux", "pbs", "lsf"])
def test_only_a_time_is_a_script(target):
    translation = translated(script_of("slurm", "--time=5"), target)
    assert translation.script.request.totals().cores == 1
    assert translation.losses == ()


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        (["-N 1 -n 1", "--gres=gpu:2,lscratch:100"], 2),
        (["-N 1 -n 1", "--gres=gpu:v100:1,tmp:40G"], 1),
        (["-N 1 -n 1", "--gres=lscratch:100,gpu:1"], 1),
        (["-N 2 -n 2", "--gres=gpu"], 2),
        (["-N 1", "--gpus=2"], 2),
        (["-N 1", "-G2"], 2),
        (["-N 2", "--tasks-per-node=16", "--gpus-per-node=4"], 8),
        (["-n 4", "--gpus-per-task=1"], 4),
        (["-n 3 -N 1", "--gres=gpu:2"], 2),
    ],
)
@pytest.mark.parametrize("target", ["flux", "pbs", "lsf"])
def test_gpus_are_as_many_in_all(options, gpus, target):
    """Also those that do not divide over the tasks."""
    translation = translated(script_of("slurm", *options), target)
    assert translation.script.request.totals().gpus == gpus
    assert not any("gpu" in what for what in lost(translation) - {"gpu_kind"})


def test_another_resource_of_a_list_is_told_and_no_gpu():
    translation = translated(script_of("slurm", "-n 1", "--gres=gpu:2,lscratch:100"), "flux")
    (loss,) = translation.losses
    assert (loss.line, loss.grave) == (3, False)
    assert "lscratch" in f"{loss.text} {loss.why}"


@pytest.mark.parametrize("target", ["flux", "slurm", "lsf"])
def test_chunks_share_hosts_unless_they_are_scattered(target):
    free = translated(script_of("pbs", "-l select=72:ncpus=1:mpiprocs=1"), target)
    assert free.script.request.totals().tasks == 72
    assert free.script.request.totals().nodes is None
    spread = translated(script_of("pbs", "-l select=4:ncpus=8", "-l place=scatter"), target)
    assert spread.script.request.totals().nodes == 4


# -- arrays, names, files -----------------------------------------------------------------------

ARRAYS = {"slurm": ["-n 1", "-a1-20%4"], "pbs": ["-J 1-20%4"], "lsf": ['-J "scan[1-20]%4"']}


@pytest.mark.parametrize(("source", "target"), [p for p in DIRECTIONS if p[0] in ARRAYS])
def test_an_array_is_an_array_or_a_grave_loss(source, target):
    translation = translated(script_of(source, *ARRAYS[source]), target)
    if target not in ARRAYS:
        (loss,) = [each for each in translation.losses if each.what == "array"]
        assert loss.grave
        assert loss.line > 1
        assert any("1-20" in each for each in translation.grave)
    else:
        array = translation.script.request.array
        assert array is not None
        assert array.indices == tuple(range(1, 21))


@pytest.mark.parametrize("target", ["flux", "pbs", "lsf"])
@pytest.mark.parametrize("name", ["heat map", "run #3", "it's", "a$b"])
def test_what_has_blanks_and_marks_is_quoted_as_its_scheduler_reads_it(target, name):
    script = script_of("slurm", "-n 2", f'--job-name="{name}"', f'--output="{name}.log"')
    translation = translated(script, target)
    told = lost(translation)
    request = translation.script.request
    assert request.name == name or "name" in told or translation.notes
    assert request.output == f"{name}.log" or "output" in told or translation.notes
    assert translation.script.invalid == ()


# -- nothing is lost without a word -------------------------------------------------------------


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Requests that a scheduler's script can have."""
    word = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
    names: dict[str, Any] = {
        "name": word,
        "account": word,
        "queues": st.tuples(word),
        "qos": word,
        "seconds": st.integers(1, 10_000).map(lambda minutes: 60.0 * minutes),
        "output": st.sampled_from(["out.{{id}}", "logs/{{name}}.log", "a b.log", "logs/"]),
        "error": st.sampled_from(["err.{{id}}", "e.log"]),
        "mail_to": st.just(("a@b.org",)),
        "mail_on": st.sampled_from([("begin",), ("end", "fail")]),
        "exclusive": st.just(True),
        "hold": st.just(True),
        "requeue": st.booleans(),
        "export": st.booleans(),
        "append": st.booleans(),
        "constraint": word,
        "gpu_kind": word,
        "comment": word,
        "licenses": word,
        "reservation": word,
        "begin": st.sampled_from(["+3600", "2027-01-30T12:00"]),
        "array": st.integers(1, 50).map(
            lambda last: Array(spans=(Span(first=1, last=last),), most=None)
        ),
        "dependencies": st.just((Dependency(kind="afterok", jobs=("123",)),)),
        "memory_per_node": st.integers(1, 64).map(lambda gigabytes: gigabytes * 2**30),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(names)), unique=True, max_size=8))
    fields = {name: draw(names[name]) for name in chosen}
    sizes = draw(
        st.sampled_from(
            [
                {},
                {"nodes": 2},
                {"tasks": 8},
                {"nodes": 2, "tasks": 8},
                {"nodes": 2, "tasks_per_node": 4},
                {"nodes": 2, "tasks": 6, "cores_per_task": 4},
                {"nodes": 1, "tasks": 3, "gpus_per_node": 2},
                {"nodes": 2, "tasks": 2, "gpus_per_task": 1, "cores_per_task": 8},
                {"tasks": 4, "gpus": 4},
            ]
        )
    )
    return Request(**fields, **sizes)


def script_asking(request: Request, scheduler: str) -> Script:
    """A script of a scheduler that asks for it, as far as the scheduler has words."""
    dialect = dialect_of(scheduler)
    written = dialect.write(request)
    lines = ["#!/bin/bash", *(f"{dialect.mark} {line}" for line in written.lines), "./solve"]
    return read_script("\n".join(lines) + "\n", scheduler)


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
@given(request=requests())
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_each_field_is_in_the_translation_or_told_as_lost(source, target, request):
    original = script_asking(request, source)
    translation = translate(original, target)
    assert [
        str(each)
        for each in translation.losses
        if each.why == NOT_SAID or each.why.startswith("it asks for")
    ] == []
    assert translation.script.invalid == (), translation.text
    for directive in original.reading.directives:
        if directive.untold:
            assert any(loss.line == directive.line for loss in translation.losses)


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
@given(request=requests())
@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_there_and_back_asks_for_the_same_in_all_that_both_can_say(source, target, request):
    original = script_asking(request, source)
    there = translate(original, target)
    back = translate(there.script, source)
    known = {loss.what for loss in (*there.losses, *back.losses)} | there.said | back.said
    if dialect_of(target).slots or dialect_of(source).slots:
        known |= {"tasks", "tasks_per_node"}
    told = [Loss(line=0, text="", what=field, why="") for field in known]
    differences = compare(original, back.script, known=told)
    assert [str(each) for each in differences if each.what and not each.minor] == []


@given(body=st.text(alphabet="ab \t#$'\"\\()|&;<>-=\f\v", max_size=60))
@settings(max_examples=examples(100), deadline=None)
def test_commands_that_speak_to_nobody_stay_byte_for_byte(body):
    script = f"#!/bin/bash\n#SBATCH -n 2\necho begin\n{body}\n"
    assert translated(script, "flux").text.endswith(f"\necho begin\n{body}\n")


# -- whose it is --------------------------------------------------------------------------------


def test_of_several_the_scheduler_of_the_first_directive_counts_and_a_remark_says_so():
    script = "#!/bin/bash\n#PBS -N one\n#SBATCH -J two\n./solve\n"
    parsed = read_script(script)
    assert parsed.scheduler == "pbs"
    assert "the #SBATCH lines are comments for PBS" in str(parsed.reading.remarks[0])
    answer = translate_batch_script(script, "flux")
    assert "#FLUX: --job-name=one\n" in answer["script"]
    assert any("comments for PBS" in each for each in answer["warnings"])


def test_sbatch_reads_the_lines_of_pbs_too_and_these_count_more():
    """As sbatch 22.05 does; `--ignore-pbs` leaves them out."""
    script = "#!/bin/bash\n#SBATCH -J mine -t 5\n#PBS -N theirs -l walltime=0:30:00\n./solve\n"
    request = read_script(script, "slurm").request
    assert (request.name, request.seconds) == ("theirs", 1800)
    answer = translate_batch_script(script, "flux", from_manager="slurm")
    assert "--job-name=theirs" in answer["script"]
    assert "#PBS" not in answer["script"]
    assert any("sbatch reads it, too" in each for each in answer["warnings"])


@pytest.mark.parametrize("target", NAMES)
def test_a_script_of_the_target_already_says_so(target):
    with pytest.raises(ValueError, match=f"one of {target} already"):
        translate(read_script(script_of(target, *ONE_TASK[target])), target)


def test_a_target_that_nobody_writes():
    with pytest.raises(ValueError, match="not for `sge`"):
        translate_batch_script(script_of("slurm", "-n 1"), "sge")


# -- what is too much to lose -------------------------------------------------------------------


def test_a_lost_array_is_an_error_unless_that_is_said():
    script = script_of("slurm", "-n 1", "--array=1-10", "--nice=5")
    strict = translate_batch_script(script, "flux")
    assert "--array=1-10" in strict["errors"][0]
    lossy = translate_batch_script(script, "flux", lossy=True)
    assert "errors" not in lossy
    assert lossy["losses"] == strict["losses"]
    assert [each["grave"] for each in lossy["losses"] if each["what"] == "array"] == [True]


def test_every_other_loss_is_told_and_no_error():
    answer = translate_batch_script(script_of("slurm", "-n 1", "--mail-user=a@b.org"), "flux")
    assert "errors" not in answer
    (told,) = answer["not_translated"]
    assert told.startswith("line 3: --mail-user=a@b.org (")


def test_what_a_person_established_is_written_and_the_rest_from_the_script():
    script = script_of("slurm", "-n 64", "--time=10")
    known = {"facts": {"tasks": 8}, "supplied_by": {"tasks": "a person"}}
    answer = translate_batch_script(script, "flux", known)
    assert "--nslots=8" in answer["script"]
    assert "line 2: tasks = 8, read by a person" in answer["credits"]


def test_a_directive_that_its_own_scheduler_refuses_is_told():
    answer = translate_batch_script(script_of("slurm", "-n 2", "--cpus_per_task=4"), "flux")
    assert any("cpus_per_task" in each for each in answer["not_translated"])
    assert any("Slurm refuses the original" in each for each in answer["warnings"])


UNREAD = [
    ("lsf", ['-w "ended(a) || exit(b,>3)"', "-n 1"], "slurm"),
    ("lsf", ['-w "done(123) && (done(4) || done(5))"', "-n 1"], "slurm"),
    ("lsf", ['-n 8 -R "2*{span[hosts=1] rusage[ngpus_physical=4]} + 6*{span[ptile=1]}"'], "slurm"),
    ("lsf", ["-J x[1-y]", "-n 1"], "slurm"),
    ("slurm", ["-n 1", "-d afterok:12?afterok:13"], "pbs"),
    ("slurm", ["-n 1", "-d expand:12"], "pbs"),
    ("slurm", ["-n 2k"], "pbs"),
    ("slurm", ["-n 1", "--array=1-k"], "pbs"),
    ("pbs", ["-l select=1:ncpus=k"], "slurm"),
    ("pbs", ["-l select=1", "-W depend=on:12"], "slurm"),
    ("flux", ["-N 1", "-n4x"], "slurm"),
    ("cobalt", ["-n 1 --attrs ngpus=1"], "pbs"),
]


@pytest.mark.parametrize(("source", "options", "target"), UNREAD)
def test_an_array_a_dependency_or_a_size_that_cannot_be_read_is_too_much_to_lose(
    source, options, target
):
    assert translated(script_of(source, *options), target).grave


READ_WITH_MORE = [
    ("slurm", ["-n 1", "--gres=gpu:2,lscratch:100"], "pbs"),
    ("slurm", ["-n 1", "--gres=none"], "pbs"),
    ("lsf", ["-n 1", '-R "span[hosts=1] select[type==any]"'], "slurm"),
    ("lsf", ["-n 1", '-R "rusage[mem=100] select[type==any]"'], "slurm"),
]


@pytest.mark.parametrize(("source", "options", "target"), READ_WITH_MORE)
def test_what_else_such_an_option_says_is_not(source, options, target):
    assert translated(script_of(source, *options), target).grave == ()


def test_a_program_that_starts_does_the_work_whatever_its_arguments_name():
    body = "srun ./a --tmp $SLURM_TMPDIR\n"
    translation = translated(script_of("slurm", "-n 1", body=body), "flux")
    assert [each.line for each in translation.remains] == [3]
    assert translation.grave == ()


def test_slots_with_room_for_the_tasks_are_no_other_tasks():
    translation = translated(script_of("slurm", "-N 3 -n 10 --gpus=3"), "flux")
    assert translation.grave == ()
    assert any("12 cores" in each for each in translation.notes)


# -- comments that another scheduler reads ------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "line"),
    [
        ("pbs", "slurm", "#SBATCH -n 64"),
        ("slurm", "flux", "#FLUX: -n 64"),
        ("slurm", "flux", "# flux: -n 64"),
        ("flux", "lsf", "#BSUB -n 64"),
        ("lsf", "pbs", "#PBS -l select=64"),
    ],
)
def test_a_comment_of_the_original_is_no_directive_of_its_translation(source, target, line):
    body = f"{line}\ncd /run\n./solve\n"
    script = script_of(source, *ONE_TASK[source], body=body)
    translation = translated(script, target, source)
    assert translation.script.request.totals().cores == 4
    assert f"\n# not read: {line}\n" in translation.text
    assert any(f"`{line}` is a comment of the original" in each for each in translation.notes)


def test_losses_are_json():
    answer = translate_batch_script(script_of("slurm", "-n 1", "--nice=5"), "flux")
    (loss,) = answer["losses"]
    assert dataclasses.is_dataclass(translated(script_of("slurm", "-n 1"), "flux"))
    assert set(loss) == {"line", "text", "what", "why", "grave"}


WHOLE_NODES = {
    "lsf": "#BSUB -P x -W 2:00 -nnodes 4\njsrun -n 24 -a 1 -c 7 -g 1 -r 6 ./a",
    "cobalt": "#COBALT -A x -t 120 -n 4\naprun -n 256 -N 64 ./a",
    "slurm": "#SBATCH -A x -t 120 -N 4 --exclusive\nsrun -n 256 ./a",
}


@pytest.mark.parametrize("source", WHOLE_NODES)
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("slurm", ("#SBATCH --nodes=4", "#SBATCH --exclusive")),
        ("flux", ("#FLUX: --nodes=4",)),
        ("pbs", ("#PBS -l select=4:ncpus=1:mpiprocs=1", "#PBS -l place=scatter:excl")),
        ("lsf", ("#BSUB -n 4", "#BSUB -x")),
    ],
)
def test_whole_nodes_stay_whole(source: str, target: str, words: tuple[str, ...]) -> None:
    if source == target:
        return
    found = translate(read_script(f"#!/bin/bash\n{WHOLE_NODES[source]}\n", source), target)
    assert set(words) <= set(found.script.lines)
    assert found.script.request.exclusive
    if target in ("slurm", "flux"):
        assert not found.grave
    else:  # these count cores and GPUs, also on nodes that the job has to itself
        assert "the original has all that is in its nodes" in " ".join(found.grave)
        assert any("write how many cores" in each for each in found.notes)


@pytest.mark.parametrize("launch", ["srun -n 64 ./a", "mpirun -np 64 ./a", "time mpirun -n 64 ./a"])
def test_a_launch_beyond_what_the_original_asks_for_is_a_note(launch: str) -> None:
    found = translate(read_script(f"#!/bin/bash\n#SBATCH -N 2\n{launch}\n", "slurm"), "pbs")
    assert not found.grave
    assert "64 tasks on 64 cores, and the original's directives ask for 2" in " ".join(found.notes)
    enough = read_script(f"#!/bin/bash\n#SBATCH -N 2 -n 64\n{launch}\n", "slurm")
    assert "64 tasks" not in " ".join(translate(enough, "pbs").notes)


def test_mpi_on_whole_nodes_is_a_grave_loss_where_cores_are_counted() -> None:
    text = "#!/bin/bash\n#COBALT -n 2 -t 5\nmpirun -np 64 ./a\n"
    assert translate(read_script(text, "cobalt"), "pbs").grave
    assert not translate(read_script(text, "cobalt"), "slurm").grave


@pytest.mark.parametrize(
    ("options", "appends"),
    [
        ("-oo s.%J.log", False),
        ("-oo s.%J.log -eo s.%J.err", False),
        ("-o s.%J.log -eo s.err", False),
        ("-o s.log", True),
        ("-o s.%J.log -e s.err", True),
    ],
)
def test_a_file_that_lsf_overwrites_is_overwritten(options: str, appends: bool) -> None:
    found = translate(read_script(f"#!/bin/bash\n#BSUB {options}\n./a\n", "lsf"), "slurm")
    mode = "append" if appends else "truncate"
    assert f"#SBATCH --open-mode={mode}" in found.script.lines


@pytest.mark.parametrize(
    ("header", "right"),
    [
        ("#SBATCH -D sub -o run.log -e err/run.err", ("-o sub/run.log", "-e sub/err/run.err")),
        ("#SBATCH -D /data/ -o run.log", ("-o /data/run.log",)),
        ("#SBATCH -D sub -o /data/run.log", ("-o /data/run.log",)),
        ("#SBATCH -D sub -o logs/%j.out", ("-o sub/logs/",)),
    ],
)
def test_files_of_a_job_with_a_folder_are_in_it_under_pbs(
    header: str, right: tuple[str, ...]
) -> None:
    found = translate(read_script(f"#!/bin/bash\n{header}\n./a\n", "slurm"), "pbs")
    assert {f"#PBS {each}" for each in right} <= set(found.script.lines)


@pytest.mark.parametrize("target", ["pbs", "lsf"])
@pytest.mark.parametrize("option", ["--mem=0", "--mem-per-cpu=0"])
def test_all_of_a_nodes_memory_is_told_where_it_cannot_be_said(target: str, option: str) -> None:
    script = read_script(f"#!/bin/bash\n#SBATCH -N 2\n#SBATCH {option}\n./a\n", "slurm")
    losses = [each for each in translate(script, target).losses if each.line == 3]
    assert ["0 is all the memory of each node" in each.why for each in losses] == [True]


@pytest.mark.parametrize(
    ("line", "source"), [("#BSUB -R rusage[mem=0]", "lsf"), ("#PBS -l mem=0", "pbs")]
)
def test_no_memory_is_not_all_memory(line: str, source: str) -> None:
    found = translate(read_script(f"#!/bin/bash\n{line}\n./a\n", source), "slurm")
    assert "mem" not in "\n".join(found.script.lines)
    assert [each.line for each in found.losses] == [2]


def test_clusters_of_slurm_are_no_server_of_pbs() -> None:
    script = read_script("#!/bin/bash\n#SBATCH -M c1,c2 -p long\n./a\n", "slurm")
    found = translate(script, "pbs")
    assert "#PBS -q long" in found.script.lines
    assert [(each.text, each.what) for each in found.losses] == [("-M c1,c2", "server")]


@pytest.mark.parametrize(
    ("source", "line", "target", "right"),
    [
        ("pbs", "#PBS -j oe", "lsf", "#BSUB -n 1"),
        ("cobalt", "#COBALT --debuglog=x", "pbs", "#PBS -l select=1:ncpus=1"),
    ],
)
def test_a_script_that_asks_for_nothing_has_a_directive_all_the_same(
    source: str, line: str, target: str, right: str
) -> None:
    found = translate(read_script(f"#!/bin/bash\n{line}\n./a\n", source), target)
    assert found.script.lines[1] == right
    assert read_script(found.text).scheduler == target


@pytest.mark.parametrize(
    ("select", "right"),
    [
        ("3:mpiprocs=4:mem=2gw", ("--ntasks=12", "--mem-per-cpu=4G")),
        ("3:ncpus=4:mpiprocs=4:mem=16gb", ("--ntasks=12", "--cpus-per-task=1", "--mem-per-cpu=4G")),
        ("3:ncpus=8:mpiprocs=4:mem=16gb", ("--ntasks=12", "--cpus-per-task=2", "--mem-per-cpu=2G")),
        ("3:ncpus=2:mpiprocs=4:mem=16gb", ("--ntasks=12", "--cpus-per-task=1", "--mem-per-cpu=4G")),
        ("3:mem=16gb", ("--ntasks=3", "--mem-per-cpu=16G")),
    ],
)
def test_the_memory_of_chunks_is_that_of_their_tasks(select: str, right: tuple[str, ...]) -> None:
    script = read_script(f"#!/bin/bash\n#PBS -l select={select}\n./a\n", "pbs")
    lines = translate(script, "slurm").script.lines
    assert [each for each in lines if "--mem" in each or "task" in each] == [
        f"#SBATCH {each}" for each in right
    ]
    assert script.request.totals().memory == 48 << 30


@pytest.mark.parametrize(("source", "mark"), [("slurm", "#SBATCH"), ("pbs", "#PBS")])
@pytest.mark.parametrize("line", ["#BB create_persistent name=a capacity=1TB", "#DW jobdw type=x"])
def test_a_burst_buffer_is_a_loss(source: str, mark: str, line: str) -> None:
    text = f"#!/bin/bash\n{mark} -A x\n{line}\n./a\n#DW late\n"
    found = translate(read_script(text, source), "lsf")
    assert [(each.line, each.text) for each in found.losses] == [(3, line)]
    assert line not in found.script.lines


def test_a_feature_of_nodes_must_be_a_resource_of_pbs() -> None:
    found = translate(read_script("#!/bin/bash\n#SBATCH -C gpu80\n./a\n", "slurm"), "pbs")
    assert "`gpu80` must be a resource of the site's nodes, of yes or no" in found.notes
