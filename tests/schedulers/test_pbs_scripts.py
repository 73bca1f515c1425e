"""Batch scripts of PBS: read as qsub reads them, and written so that it reads them back."""

from __future__ import annotations

import pytest

from batch_requests import ScriptsOf, read_back, refused
from fractale.schedulers.pbs.directives import DIALECT
from fractale.schedulers.pbs.times import read_time, write_time
from fractale.schedulers.request import Array, Chunk, Dependency, Request, Span

GB = 1 << 30
PBS = ScriptsOf(DIALECT)


def test_values_may_be_attached_to_their_option() -> None:
    found = PBS.request("-lselect=3:ncpus=20:mpiprocs=20", "-lwalltime=00:45:00", "-qgpu", "-joe")
    assert found.chunks == (Chunk(count=3, cores=20, tasks=20),)
    assert (found.seconds, found.queues, found.join) == (2700, ("gpu",), True)
    assert PBS.request("-lnodes=2:ppn=8").totals().tasks == 16


def test_several_resources_may_be_in_one_option() -> None:
    found = PBS.request("-l walltime=1:00:00,nodes=2:ppn=4:gpus=1,mem=8gb -N a -A b")
    assert (found.seconds, found.nodes, found.tasks_per_node, found.gpus_per_node) == (
        3600,
        2,
        4,
        1,
    )
    assert found.memory_per_node == 4 * GB  # `mem` is of the whole job
    assert (found.name, found.account) == ("a", "b")


def test_chunks_share_nodes_unless_place_says_otherwise() -> None:
    free = PBS.request("-l select=96:ncpus=1:mpiprocs=1")
    assert free.totals().as_dict() == {
        "nodes": None,
        "tasks": 96,
        "cores": 96,
        "gpus": 0,
        "memory": 0,
    }
    assert free.nodes is None
    assert PBS.request("-l select=96:ncpus=1", "-l place=scatter").nodes == 96
    assert PBS.request("-l select=96:ncpus=1", "-l place=pack").nodes == 1
    alone = PBS.request("-l select=4:ncpus=8", "-l place=scatter:excl")
    assert (alone.nodes, alone.exclusive, alone.cores_per_task) == (4, True, 8)
    (remark,) = PBS.script("#PBS -l select=96:ncpus=1").reading.remarks
    assert "how many nodes is not said" in str(remark)


def test_chunks_of_several_kinds_are_added_up() -> None:
    found = PBS.request(
        "-l select=1:ncpus=6:mem=2gb+2:ncpus=8:mpiprocs=4:ngpus=1", "-l place=scatter"
    )
    assert found.totals().as_dict() == {
        "nodes": 3,
        "tasks": 9,
        "cores": 22,
        "gpus": 2,
        "memory": 2 * GB,
    }


def test_what_a_chunk_names_beside_amounts() -> None:
    found = PBS.request("-l select=1:ncpus=4:ngpus=2:model=rome:ib=true:gpu_type=a100:host=n7")
    assert (found.gpu_kind, found.constraint, found.hosts) == ("a100", "ib", ("n7",))
    assert found.other == ("model=rome",)
    assert PBS.request("-l select=2:ncpus=8:mpiprocs=2:ompthreads=4").other == ("ompthreads=4",)


def test_nodes_of_torque_are_nodes() -> None:
    found = PBS.request("-l nodes=2:ppn=8:ib:fast")
    assert (found.nodes, found.tasks_per_node, found.constraint) == (2, 8, "ib&fast")
    named = PBS.request("-l nodes=n01:ppn=4+n02:ppn=4")
    assert (named.nodes, named.tasks_per_node, named.hosts) == (2, 4, ("n01", "n02"))
    mixed = PBS.request("-l nodes=1:ppn=2+3:ppn=8")
    assert (mixed.totals().nodes, mixed.totals().tasks) == (4, 26)
    old = PBS.request("-l nodes=3:ncpus=2:ppn=2")  # pbs_resources(7B): 4 cores, 2 processes
    assert (old.totals().tasks, old.totals().cores) == (6, 12)
    shared = PBS.script("#PBS -l nodes=1:ppn=1:gpus=1:shared")
    assert shared.request.gpus_per_node == 1
    assert "mode shared" in shared.reading.directives[0].untold


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (["-l procs=12"], {"tasks": 12}),
        (["-l ncpus=8", "-l mem=4gb"], {"nodes": 1, "cores_per_task": 8}),
        (["-l nodes=4", "-l ncpus=16"], {"nodes": 4, "cores_per_node": 4}),
        (["-l nodes=1:ppn=4,pmem=2gb"], {"memory_per_core": 2 * GB}),
        (["-l mem=100mb"], {"memory_per_node": 100 << 20}),
        (["-l qos=high,feature=k20"], {"qos": "high", "constraint": "k20"}),
        (["-l walltime=2:01:00:00"], {"seconds": 2 * 86400 + 3600}),
        (["-l naccesspolicy=singlejob"], {"exclusive": True}),
        (["-W x=NACCESSPOLICY:SINGLEJOB"], {"exclusive": True}),
        (["-n"], {"exclusive": True}),
        (["-l vmem=4gb,filesystems=home:a"], {"other": ("vmem=4gb", "filesystems=home:a")}),
        (["-l wd"], {"other": ("wd",)}),
        (["-q long@srv"], {"queues": ("long",), "server": "srv"}),
        (["-q @srv"], {"queues": (), "server": "srv"}),
        (["-P proj"], {"account": "proj"}),
        (["-P proj", "-A acc"], {"account": "acc"}),
        (["-m abe"], {"mail_on": ("begin", "end", "fail")}),
        (["-M a@b,c@d"], {"mail_to": ("a@b", "c@d")}),
        (["-m n"], {"mail_on": ("none",)}),
        (["-V", "-v A,B=1,'C=x,y'"], {"export": True, "variables": ("A", "B=1", "C=x", "y")}),
        (["-h", "-r n"], {"hold": True, "requeue": False}),
        (["-S /bin/csh"], {"shell": "/bin/csh"}),
        (["-d /scratch/x"], {"workdir": "/scratch/x"}),
        (["-a 203102030405.06"], {"begin": "2031-02-03T04:05:06"}),
        (["-j n"], {"join": False}),
        (["-j eo", "-e all.txt"], {"join": True, "output": "all.txt", "error": None}),
        (["-j oe", "-o a", "-e b"], {"join": True, "output": "a", "error": None}),
        (["-o only.txt"], {"join": False, "output": "only.txt"}),
    ],
)  # fmt: skip
def test_what_options_say(options: list[str], fields: dict[str, object]) -> None:
    found = PBS.request(*options)
    assert {name: getattr(found, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("written", "neutral"),
    [
        ("logs/", "logs/"),
        ("node7:/scratch/u/x.txt", "/scratch/u/x.txt"),
        ("out.$PBS_JOBID", "out.{{id}}"),
        ("${PBS_JOBNAME}.^array_index^", "{{name}}.{{index}}"),
        ("$PBS_O_WORKDIR/a.$PBS_ARRAYID", "a.{{index}}"),
        ("/dev/null", "/dev/null"),
        ("$PBS_O_WORKDIR/", "./"),
    ],
)
def test_names_of_files(written: str, neutral: str) -> None:
    assert PBS.request(f"-o {written}").output == neutral


def test_the_host_of_a_file_is_told() -> None:
    assert PBS.untold_of("-e node7:/scratch/x") == "the host node7"
    (remark,) = PBS.script("#PBS -o out.$PBS_JOBID").reading.remarks
    assert "OpenPBS replaces no variables in file names" in str(remark)


@pytest.mark.parametrize(
    ("option", "array"),
    [
        ("-J 1-10", "1-10"),
        ("-J1-10:2%4", "1-10:2%4"),
        ("-t 1-3,7%2", "1-3,7%2"),
        ("-t [0-4]%2", "0-4%2"),
        ("-t 5", "5"),
    ],
)
def test_arrays(option: str, array: str) -> None:
    assert str(PBS.request(option).array) == array


def test_how_many_elements_run_may_be_an_attribute() -> None:
    assert PBS.request("-J 1-10", "-W max_run_subjobs=3").array == Array(
        spans=(Span(first=1, last=10),), most=3
    )


def test_dependencies() -> None:
    found = PBS.request("-W depend=afterok:1:2.srv,afterany:3,group_list=g")
    assert found.dependencies == (
        Dependency(kind="afterok", jobs=("1", "2.srv")),
        Dependency(kind="afterany", jobs=("3",)),
    )
    before = PBS.script("#PBS -W depend=beforeok:4").reading.directives[0]
    assert before.untold == "beforeok:4"
    assert "dependencies" in before.sets


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["-l nodse=1"], "`nodes`"),
        (["-l select=1:ncpu=4"], "`ncpus`"),
        (["-l walltime=1h"], "not a time"),
        (["-l walltime="], "needs a value"),
        (["-l mem=4Gigs"], "not an amount"),
        (["-l select=0:ncpus=1"], "chunks"),
        (["-l select=2:ncpus=4", "-l nodes=2"], "exclude each other"),
        (["-l select=2:ncpus=4", "-l mem=4gb"], "chunks of `select`"),
        (["-l place=excl"], "needs a `select`"),
        (["-l nodes=2:ppn=x"], "ppn"),
        (["-J 5-5"], "range"),
        (["-J 1-3", "-r n"], "-r n"),
        (["-J 1-3", "-I"], "interactive"),
        (["-j o"], "oe"),
        (["-m x"], "-m x"),
        (["-r maybe"], "-r maybe"),
        (["-W depend=afterok:"], "not a dependency"),
        (["-W depend=afterok:$first"], "not a dependency"),
        (["-W block"], "name=value"),
        (["-N 'heat map'"], "not a valid name"),
        (["-a 2570"], "not a time"),
        (["-p high"], "-1024"),
        (["-walltime=1:00"], "-l walltime"),
        (["-Y"], "option"),
        (["--nodes=2"], "option"),
        (["-N"], "needs a value"),
        (["-A 'x"], "not closed"),
    ],
)
def test_what_qsub_refuses(options: list[str], word: str) -> None:
    assert word in PBS.why_invalid(*options)


def test_what_qsub_refuses_is_told_as_a_loss_too() -> None:
    (directive,) = PBS.script("#PBS -l walltime=soon").reading.directives
    assert directive.untold == f"qsub refuses it: {directive.invalid}"


def test_what_no_field_says_is_valid_and_told() -> None:
    for option in ("-p 10", "-c s", "-k oe", "-W umask=022", "-W group_list=g", "-T pro", "-X -I"):
        found = PBS.script(f"#PBS {option}")
        assert found.invalid == ()
        assert all(each.untold for each in found.reading.directives), option


def test_lines_below_the_first_command_are_not_read() -> None:
    found = PBS.script(
        "#!/bin/sh",
        "   # an indented comment ends no header",
        ":  a line that begins with a colon does not either",
        "  #PBS -N early",
        "#PBS-q gpu",
        "# PBS -A comment",
        "#PBSX -A other",
        "set -e",
        "#PBS -A late",
    )
    assert (found.request.name, found.request.queues) == ("early", ("gpu",))
    assert found.request.account is None
    assert found.reading.lines == {4, 5}
    (remark,) = found.reading.remarks
    assert (remark.line, "below the first command" in remark.why) == (9, True)
    assert found.body[-1] == (9, "#PBS -A late")


def test_a_directive_may_go_on_in_the_next_line() -> None:
    found = PBS.script("#PBS -l select=1:\\", "ncpus=4 -N long", "hostname")
    assert (found.request.cores_per_task, found.request.name) == (4, "long")
    assert found.body == ((3, "hostname"),)


def test_words_after_the_options_are_remarked() -> None:
    found = PBS.script("#PBS -N name # my name")
    assert (found.request.name, found.invalid) == ("name", ())
    assert "OpenPBS refuses" in str(found.reading.remarks[0])


def test_of_two_amounts_the_first_counts_and_both_are_told() -> None:
    found = PBS.script("#PBS -l walltime=1:00:00", "#PBS -l walltime=2:00:00")
    assert found.request.seconds == 3600
    assert found.reading.directives[1].untold == "line 1 has it already"


def test_scripts_of_nqsv_have_the_same_mark() -> None:
    found = PBS.request(
        "-b 4", "-l elapstim_req=0:30:00", "-l gpunum_job=2", "--group=grp", "--venode=8"
    )
    assert (found.nodes, found.seconds, found.gpus_per_node, found.account) == (4, 1800, 2, "grp")


def test_no_size_is_one_task_on_one_core() -> None:
    assert PBS.request("-N x").totals().as_dict() == Request().totals().as_dict()


# writing


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        (
            Request(nodes=2, tasks_per_node=16, gpus_per_node=4, memory_per_node=8 * GB),
            ("-l select=2:ncpus=16:mpiprocs=16:ngpus=4:mem=8gb", "-l place=scatter"),
        ),
        (Request(tasks=8, cores_per_task=2), ("-l select=8:ncpus=2:mpiprocs=1",)),
        (
            Request(nodes=2, tasks=5, exclusive=True),
            ("-l select=1:ncpus=3:mpiprocs=3+1:ncpus=2:mpiprocs=2", "-l place=scatter:excl"),
        ),
        (Request(seconds=90061), ("-l walltime=25:01:01",)),
        (Request(array=Array.parse("2-20:3%5")), ("-J 2-20:3%5",)),
        (Request(array=Array.parse("7")), ("-J 7-8:2",)),  # PBS refuses 7-7
        (Request(array=Array.parse("1,3,5")), ("-J 1-5:2",)),
        (Request(output="o/{{index}}.txt", join=True), ("-o o/^array_index^.txt", "-j oe")),
        (Request(variables=("A=x y",), export=True), ("-V", '-v "A=x y"')),
        (Request(name="heat", output="{{name}}.txt"), ("-N heat", "-o heat.txt")),
        (Request(output="a:b"), ("-o ./a:b",)),
        (
            Request(dependencies=(Dependency(kind="afterok", jobs=("1", "2")),)),
            ("-W depend=afterok:1:2",),
        ),
        (
            Request(mail_on=("end", "fail"), mail_to=("a@b", "c@d"), queues=("q",)),
            ("-q q", "-m ae", "-M a@b,c@d"),
        ),
        (Request(begin="2031-02-03T04:05"), ("-a 203102030405",)),
        (Request(nodes=1, constraint="a&b"), ("-l select=1:ncpus=1:mpiprocs=1:a=true:b=true",)),
    ],
)  # fmt: skip
def test_what_is_written(asked: Request, lines: tuple[str, ...]) -> None:
    written = DIALECT.write(asked)
    assert written.lines == lines
    assert written.lost == {}


def test_gpus_that_do_not_divide_are_put_into_one_chunk() -> None:
    written = DIALECT.write(Request(tasks=3, gpus=4))
    assert written.lines == ("-l select=1:ncpus=3:mpiprocs=3:ngpus=4",)
    assert "do not divide" in written.notes[0]


@pytest.mark.parametrize(
    ("asked", "lost"),
    [
        (Request(array=Array.parse("1,2,9")), "array"),
        (Request(output="logs/run-{{id}}.txt"), "output"),
        (Request(name="heat map"), "name"),
        (Request(seconds=float("inf")), "seconds"),
        (Request(begin="+3600"), "begin"),
        (Request(workdir="/x"), "workdir"),
        (Request(queues=("a", "b")), "queues"),
        (Request(dependencies=(Dependency(kind="singleton"),)), "dependencies"),
        (Request(dependencies=(Dependency(kind="afterok", jobs=("prep",)),)), "dependencies"),
        (Request(constraint="a|b"), "constraint"),
        (Request(constraint="partition"), "constraint"),  # a resource of PBS's own
        (Request(nodes=2, hosts=("gn[1-2]",)), "hosts"),
        (Request(most_nodes=4, nodes=2), "most_nodes"),
        (Request(other=("lscratch:100",)), "other"),
    ],
)
def test_what_pbs_cannot_say_is_told(asked: Request, lost: str) -> None:
    written = DIALECT.write(asked)
    assert set(written.lost) == {lost}
    assert refused(read_back(DIALECT, written)) == []


def test_a_file_with_the_jobs_id_goes_where_pbs_names_it_so() -> None:
    written = DIALECT.write(Request(output="logs/run-{{id}}.txt", error="run-{{id}}.err"))
    assert written.lines == ("-o logs/",)  # `-e` is left to PBS: NAME.eID
    assert "{{id}}" in written.lost["output"]


def test_times() -> None:
    assert [read_time(text) for text in ("90", "1:30", "1:00:00.7", "1:0:0:0")] == [
        90,
        90,
        3601,
        86400,
    ]
    assert write_time(86400.5) == "24:00:01"
    with pytest.raises(ValueError, match="not a time"):
        read_time("1h")
