"""`#SBATCH` lines: what sbatch reads in them, and what fractale writes for it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_requests import plain_requests, requests_with_chunks
from counts import examples
from fractale.schedulers.dialects import read_script
from fractale.schedulers.request import Array, Chunk, Dependency, Request
from fractale.schedulers.script import Reading, Written
from fractale.schedulers.slurm.directives import DIALECT
from fractale.schedulers.slurm.times import read_limit, write_time
from fractale.schedulers.slurm.values import OPTIONS


def reading(*lines: str, body: str = "true") -> Reading:
    """What sbatch reads in a script with these lines below its first one."""
    return DIALECT.read(["#!/bin/bash", *lines, *body.splitlines()])


def fields(*options: str) -> dict[str, object]:
    """What a script with these options asks for."""
    found = reading(*(f"#SBATCH {option}" for option in options))
    assert not found.invalid, found.invalid
    assert not [each for each in found.directives if each.invalid]
    return found.request.said()


def why_invalid(*options: str) -> str:
    """Why sbatch refuses a script with these options; empty where it does not."""
    found = reading(*(f"#SBATCH {option}" for option in options))
    return " ".join(
        [*(each.invalid for each in found.directives), *(each.why for each in found.invalid)]
    ).strip()


def again(written: Written) -> Request:
    """What sbatch reads in lines that were written."""
    found = reading(*(f"#SBATCH {line}" for line in written.lines))
    assert not found.invalid, (written, found.invalid)
    assert not [each for each in found.directives if each.invalid or each.untold], written
    return found.request


GB = 2**30
MB = 2**20


class TestValues:
    @pytest.mark.parametrize(
        ("option", "said"),
        [
            ("-n 4", {"tasks": 4}),
            ("-n4", {"tasks": 4}),
            ("--ntasks 4", {"tasks": 4}),
            ("--nt=4", None),
            ("--tasks-per-node=16", {"tasks_per_node": 16}),
            ("--ntasks-per-n=16", {"tasks_per_node": 16}),
            ("--nodes=1-1", {"nodes": 1}),
            ("-N 2-4", {"nodes": 2, "most_nodes": 4}),
            ("-N -4", {"nodes": 1, "most_nodes": 4}),
            ("-N1k", {"nodes": 1024}),
            ("-t 90", {"seconds": 5400}),
            ("-t 1:30", {"seconds": 90}),
            ("-t 2-", {"seconds": 172800}),
            ("-t 2-12", {"seconds": 216000}),
            ("-t 1:00:00", {"seconds": 3600}),
            ("-t UNLIMITED", {"seconds": math.inf}),
            ("-t infinite", {"seconds": math.inf}),
            ("-t 0", {"seconds": math.inf}),
            ("--mem=4G", {"memory_per_node": 4 * GB}),
            ("--mem=4GB", {"memory_per_node": 4 * GB}),
            ("--mem=512", {"memory_per_node": 512 * MB}),
            ("--mem=0", {"memory_per_node": 0}),
            ("--mem-per-cpu=100k", {"memory_per_core": 102400}),
            ("--mem-per-gpu=1T", {"memory_per_gpu": 2**40}),
            ("-p a,b", {"queues": ("a", "b")}),
            ("-M other", {"server": "other"}),
            ("--exclusive", {"exclusive": True}),
            ("-s", {"exclusive": False}),
            ("--requeue", {"requeue": True}),
            ("--no-requeue", {"requeue": False}),
            ("-H", {"hold": True}),
            ("--open-mode=append", {"append": True}),
            ("--open-mode=truncate", {"append": False}),
            ("--mail-type=END,FAIL", {"mail_on": ("end", "fail")}),
            ("--mail-type=ALL", {"mail_on": ("begin", "end", "fail", "requeue")}),
            ("--mail-user=a@b.c", {"mail_to": ("a@b.c",)}),
            ("-a1-3", {"array": Array.parse("1-3")}),
            ("--arr=1-10:3%2", {"array": Array.parse("1-10:3%2")}),
            ("--array=[1-3]", {"array": Array.parse("1-3")}),
            ("-d afterok:1:2", {"dependencies": (Dependency(kind="afterok", jobs=("1", "2")),)}),
            ("-d 7", {"dependencies": (Dependency(kind="afterany", jobs=("7",)),)}),
            ("-d after:3_4", {"dependencies": (Dependency(kind="after", jobs=("3_4",)),)}),
            ("-d singleton", {"dependencies": (Dependency(kind="singleton"),)}),
            ("--export=ALL", {"export": True}),
            ("--export=NONE", {"export": False}),
            ("--export=A='1,2',B", {"export": False, "variables": ("A=1", "2", "B")}),
            ("\"--export=ALL,A='1,2'\"", {"export": True, "variables": ("A=1,2",)}),
            ("--begin=now+1hour", {"begin": "+3600"}),
            ("--begin=2030-01-20T12:34:00", {"begin": "2030-01-20T12:34:00"}),
            ("--begin=2030-01-20", {"begin": "2030-01-20T00:00"}),
            ("--signal=USR1@120", {"signal": "USR1@120"}),
            ("--signal=SIGTERM", {"signal": "TERM@60"}),
            ("-w n[1-3],m1", {"hosts": ("n[1-3]", "m1"), "nodes": 4}),
            ("-x n1,n2", {"without_hosts": ("n1", "n2")}),
            ("-C intel&gpu", {"constraint": "intel&gpu"}),
            ("-L a:2,b", {"licenses": "a:2,b"}),
            ("--mincpus=8", {"cores_per_node": 8}),
            ("--out=o.txt", {"output": "o.txt", "join": True}),
            ("--err=e.txt", {"error": "e.txt"}),
        ],
    )
    def test_one_option(self, option, said):
        if said is None:
            assert "ambiguous" in why_invalid(option)
        else:
            assert fields(option) == said

    @pytest.mark.parametrize(
        ("option", "said"),
        [
            ("--gres=gpu:2,lscratch:100", {"gpus_per_node": 2, "other": ("gres/lscratch=100",)}),
            ("--gres=lscratch:100,gpu:1", {"gpus_per_node": 1, "other": ("gres/lscratch=100",)}),
            (
                "--gres=gpu:v100:1,tmp:40G",
                {"gpus_per_node": 1, "gpu_kind": "v100", "other": ("gres/tmp=40G",)},
            ),
            ("--gres=gres/gpu:2", {"gpus_per_node": 2}),
            ("--gres=gpu", {"gpus_per_node": 1}),
            ("--gres=gpu:a100", {"gpus_per_node": 1, "gpu_kind": "a100"}),
            ("--gres=gpu:0", {"gpus_per_node": 0}),
            ("--gres=lscratch:100", {"other": ("gres/lscratch=100",)}),
            ("--gpus=2", {"gpus": 2}),
            ("-G a100:2", {"gpus": 2, "gpu_kind": "a100"}),
            ("--gpus-per-node=4", {"gpus_per_node": 4}),
            ("--gpus-per-task=1", {"gpus_per_task": 1}),
            ("--gpus-per-socket=2 --sockets-per-node=2", {"gpus_per_node": 4}),
            ("--gpus=4 --ntasks-per-gpu=2", {"gpus": 4, "tasks": 8}),
            ("-n 4 --gpus=4 --cpus-per-gpu=6", {"tasks": 4, "gpus": 4, "cores_per_task": 6}),
            (
                "--tres-per-task=cpu:4,gres/gpu:1",
                {"cores_per_task": 4, "gpus_per_task": 1},
            ),
        ],
    )
    def test_gpus_and_other_resources(self, option, said):
        assert fields(option) == said

    def test_gpus_of_several_kinds_are_counted_and_the_kinds_are_told(self):
        (directive,) = reading("#SBATCH --gres=gpu:a100:1,gpu:v100:2").directives
        assert "a100, v100" in directive.untold
        assert fields("--gres=gpu:a100:1,gpu:v100:2") == {"gpus_per_node": 3}

    @pytest.mark.parametrize(
        ("written", "name"),
        [
            ("%A_%a.out", "{{array_id}}_{{index}}.out"),
            ("%x-%j.out", "{{name}}-{{id}}.out"),
            ("%u/%N.%n.%t", "{{user}}/{{host}}.{{node}}.{{task}}"),
            ("100%%.out", "100%.out"),
            ("none", "/dev/null"),
        ],
    )
    def test_marks_in_file_names(self, written, name):
        assert fields(f"--output={written}")["output"] == name

    @pytest.mark.parametrize(
        ("option", "words"),
        [
            ("--cpus_per_task=4", "unknown option `--cpus_per_task`"),
            ("--ntaks=2", "unknown option `--ntaks`: did you mean --ntasks?"),
            ("--foo", "unknown option `--foo`"),
            ("-Z", "unknown option `-Z`"),
            ("-n=4", "`=4` is not a whole number"),
            ("-n 0", "not a whole number from 1 up"),
            ("--mem=4Gigs", "not an amount of memory"),
            ("--mem=1.5G", "not an amount of memory"),
            ("-t 1h", "not a time"),
            ("-t 1:2:3:4", "not a time"),
            ("-N 2-", "not a number of nodes"),
            ("-N 4-2", "less than the least"),
            ("--array=3-1", "has no index"),
            ("--array=a-b", "not an array"),
            ("--gpus=$N", "not a number of GPUs"),
            ("--exclusive=mine", "not one of user"),
            ("--exclu", "ambiguous: --exclude, --exclusive"),
            ("--hold=3", "takes no value"),
            ("--job-name", "needs a value"),
            ("--mail-type=SOON", "not one of BEGIN"),
            ("--begin=soon", "not a time"),
            ("--signal=USR9@60", "not a signal"),
            ("--open-mode=x", "not append or truncate"),
            ("--dependency=afterok:$JOB", "not a dependency"),
            ("-n 4 solve", "`solve` is not an option"),
            ("--cpu-bind=cores", "an option of srun"),
            ("--mem=1G --mem-per-cpu=1G", "only one of --mem"),
            ("-w a,b -N 1", "2 hosts are named"),
            ('--job-name="x', "not closed"),
        ],
    )
    def test_what_sbatch_refuses_is_invalid(self, option, words):
        assert words in why_invalid(option)

    @pytest.mark.parametrize(
        "option",
        [
            "--exclusive=user",
            "--gres-flags=enforce-binding",
            "--hint=nomultithread",
            "--nice",
            "--nice=100",
            "--ntasks-per-socket=2",
            "--tmp=4G",
            "--switches=1@10",
            "--begin=16:00",
            "--begin=tomorrow",
            "--output=x%4t",
            "--container-image=x",
            "--signal=B:USR1@60",
            "--dependency=afterok:1?afterok:2",
            "--gpus-per-socket=1",
            "--get-user-env",
            "--parsable",
            "--array=1-4000000",
        ],
    )
    def test_what_no_field_says_is_told_and_not_invalid(self, option):
        assert why_invalid(option) == ""
        assert any(each.untold for each in reading(f"#SBATCH {option}").directives)


class TestLines:
    def test_the_default_size_is_left_to_the_scheduler(self):
        said = fields("--job-name=relax", "-c 4", "--time=0:30:00")
        assert said == {"name": "relax", "cores_per_task": 4, "seconds": 1800}
        assert reading("#SBATCH -c 4").request.totals().cores == 4

    def test_an_indented_comment_and_an_empty_line_do_not_end_the_header(self):
        found = reading(
            "#SBATCH --nodes=2   # two of them,",
            "      # because one is small",
            "",
            "#SBATCH --ntasks=64",
        )
        assert found.request.said() == {"nodes": 2, "tasks": 64}
        assert found.lines == {2, 5}

    def test_a_directive_below_the_first_command_is_passed_over_with_a_remark(self):
        found = reading("#SBATCH -n 2", "module load x", "#SBATCH -n 9")
        assert found.request.tasks == 2
        assert found.lines == {2}
        assert [
            (each.line, "below the first command, line 3" in each.why) for each in found.remarks
        ] == [(4, True)]

    @pytest.mark.parametrize("line", [" #SBATCH -n 9", "# SBATCH -n 9", "#sbatch -n 9"])
    def test_what_only_looks_like_a_directive_is_a_comment_with_a_remark(self, line):
        found = reading(line, "#SBATCH -N 2")
        assert found.request.said() == {"nodes": 2}
        assert "comment for sbatch" in found.remarks[0].why

    def test_quotes_backslashes_and_comments_within_a_line(self):
        assert fields('--job-name="heat map" -n 2 # three') == {"name": "heat map", "tasks": 2}
        assert fields("--job-name=heat\\ map") == {"name": "heat map"}
        assert fields('--comment="say \\"a\\" # b"') == {"comment": 'say "a" # b'}
        assert fields("--output=run#3 -n 4") == {"output": "run", "join": True}
        assert fields("-n2 \\") == {"tasks": 2}
        assert fields("-n 1 # -a is not used", '--comment=" -a "') == {
            "tasks": 1,
            "comment": " -a ",
        }

    def test_a_value_may_stand_on_the_next_line_and_the_mark_may_touch_the_option(self):
        assert fields("-n", "4") == {"tasks": 4}
        assert reading("#SBATCH--ntasks=3").request.tasks == 3

    def test_the_last_of_two_counts_and_mail_types_add_up(self):
        assert fields("-n 2", "--ntasks=3") == {"tasks": 3}
        assert fields("--gres=gpu:2", "--gres=tmp:1") == {"other": ("gres/tmp=1",)}
        assert fields("--mail-type=END", "--mail-type=FAIL") == {"mail_on": ("end", "fail")}

    def test_parts_of_a_heterogeneous_job(self):
        found = reading("#SBATCH -n 2 -t 5", "#SBATCH hetjob", "#SBATCH -n 8 --foo")
        assert found.request.tasks == 2
        assert found.request.components == ("-n 2 -t 5", "-n 8 --foo")
        assert [each.sets for each in found.directives[2:]] == [{"components"}] * 3
        assert any(each.invalid for each in found.directives)

    def test_more_nodes_than_tasks_are_not_asked_for(self):
        found = reading("#SBATCH -N 4 -n 2")
        assert found.request.nodes == 2
        assert "there are no more tasks" in found.remarks[0].why

    def test_a_script_without_its_first_line(self):
        found = DIALECT.read(["#SBATCH -n 2", "true"])
        assert found.request.tasks == 2
        assert "does not begin with #!" in found.invalid[0].why

    def test_the_old_mark_counts_with_a_remark(self):
        found = reading("#SLURM -n 3")
        assert found.request.tasks == 3
        assert "write #SBATCH" in found.remarks[0].why


class TestLinesOfOtherSchedulers:
    def test_pbs_lines_are_read_after_its_own_and_said_so(self):
        text = (
            "#!/bin/bash\n#SBATCH -n 2\n#PBS -l nodes=2:ppn=4,walltime=1:00:00,mem=4gb\n"
            "#PBS -N x -j oe -m ae\ntrue\n"
        )
        found = read_script(text, "slurm").reading
        assert found.request.said() == {
            "nodes": 2,
            "tasks": 8,
            "seconds": 3600,
            "memory_per_node": 4 * GB,
            "name": "x",
            "mail_on": ("end", "fail"),
        }
        told = [str(each) for each in found.remarks]
        line = "#PBS -l nodes=2:ppn=4,walltime=1:00:00,mem=4gb"
        assert f"line 3: `{line}`: sbatch reads it, too, as --ntasks=8" in told
        assert "line 4: `#PBS -j oe`: sbatch passes over it" in told

    def test_they_count_below_the_first_command_and_stay_there(self):
        found = reading("#SBATCH -n 2", body="cat > x <<END\n#PBS -N inner\nEND")
        assert found.request.name == "inner"
        assert found.lines == {2}

    def test_options_that_sbatch_does_not_know_there_are_refused(self):
        found = reading("#SBATCH -n 2", '#BSUB -R "span[ptile=4]"')
        assert "unknown option `-R`" in found.directives[1].invalid

    def test_bsub_lines(self):
        said = reading("#SBATCH -n 2", "#BSUB -n 4,8 -W 10 -M 1024 -cwd /tmp").request.said()
        assert said == {
            "tasks": 8,
            "seconds": 600,
            "memory_per_core": MB,
            "workdir": "/tmp",
        }

    def test_they_can_be_turned_off(self):
        found = reading("#SBATCH -n 2 --ignore-pbs", "#PBS -N x")
        assert found.request.said() == {"tasks": 2}


class TestWriting:
    def test_a_job_without_a_size_is_one_task(self):
        assert DIALECT.write(Request(cores_per_task=4)).lines == ("--ntasks=1", "--cpus-per-task=4")

    def test_what_slurm_has_of_other_schedulers(self):
        request = Request(
            name="heat map",
            queues=("long",),
            output="logs/",
            error="{{host}}.{{id}}",
            append=True,
            mail_on=("begin", "end"),
            mail_to=("a@b.c", "d@e.f"),
            array=Array.parse("1-20%4"),
            memory=8 * GB,
            nodes=2,
            tasks=4,
            export=True,
            variables=("A=1,2",),
            dependencies=(Dependency(kind="afterok", jobs=("7",)),),
            begin="+3600",
            hold=True,
            other=("gres/tmp=1",),
        )
        written = DIALECT.write(request)
        assert set(written.lines) == {
            '--job-name="heat map"',
            "--partition=long",
            "--output=logs/%x.o%A.%a",
            "--error=%N.%j",
            "--open-mode=append",
            "--mail-type=BEGIN,END",
            "--mail-user=a@b.c,d@e.f",
            "--array=1-20%4",
            "--mem=4G",
            "--nodes=2",
            "--ntasks=4",
            "--export=\"ALL,A='1,2'\"",
            "--dependency=afterok:7",
            "--begin=now+3600",
            "--hold",
            "--gres=tmp:1",
        }
        assert written.lost == {}
        assert "other scheduler's jobs" in written.notes[0]

    def test_streams_that_are_kept_apart_stay_apart(self):
        assert "--error=%x.e%j" in DIALECT.write(Request(output="o", join=False)).lines
        joined = DIALECT.write(Request(output="o", error="e", join=True))
        assert not [line for line in joined.lines if line.startswith("--error")]
        assert joined.lost == {"error": "stderr goes into stdout's file"}

    @pytest.mark.parametrize(
        ("request_", "lines"),
        [
            (
                Request(chunks=(Chunk(count=72, cores=1, tasks=1),)),
                {"--ntasks=72", "--cpus-per-task=1"},
            ),
            (
                Request(chunks=(Chunk(count=2, cores=36, tasks=36),), place="scatter"),
                {"--nodes=2", "--ntasks=72", "--ntasks-per-node=36", "--cpus-per-task=1"},
            ),
            (
                Request(chunks=(Chunk(count=2, cores=4, gpus=1, memory=GB),), place="pack"),
                {"--nodes=1", "--ntasks=2", "--cpus-per-task=4", "--gpus-per-node=2", "--mem=2G"},
            ),
            (
                Request(chunks=(Chunk(cores=8, tasks=2, gpus=1, memory=8 * GB),)),
                {"--nodes=1", "--ntasks=2", "--cpus-per-task=4", "--gpus-per-node=1", "--mem=8G"},
            ),
            (
                Request(chunks=(Chunk(count=4, cores=4, memory=8 * GB, gpus=2),)),
                {"--ntasks=4", "--cpus-per-task=4", "--mem-per-cpu=2G", "--gpus-per-task=2"},
            ),
        ],
    )
    def test_chunks(self, request_, lines):
        written = DIALECT.write(request_)
        assert set(written.lines) == lines
        assert written.lost == {}

    def test_chunks_of_several_sizes_tell_what_becomes_of_them(self):
        chunks = (Chunk(count=1, cores=4), Chunk(count=3, cores=8))
        written = DIALECT.write(Request(chunks=chunks))
        assert written.lines == ("--ntasks=4", "--cpus-per-task=8")
        assert written.lost == {
            "chunks": "1 of 4 cores for 1 tasks and 3 of 8 cores for 1 tasks: "
            "they become 4 tasks of 8 cores each"
        }

    def test_tasks_that_share_cores_get_one_each_and_it_is_told(self):
        written = DIALECT.write(Request(chunks=(Chunk(cores=2, tasks=10),)))
        assert set(written.lines) == {"--nodes=1", "--ntasks=10", "--cpus-per-task=1"}
        assert written.lost == {"chunks": "10 tasks share 2 cores: here each has a core"}
        assert DIALECT.write(Request(chunks=(Chunk(tasks=10),))).lost == {}

    def test_cores_of_a_node_that_do_not_divide_over_its_tasks(self):
        written = DIALECT.write(Request(nodes=2, tasks_per_node=3, cores_per_node=16))
        assert "--mincpus=16" in written.lines

    def test_a_mark_or_a_resource_that_slurm_lacks_is_lost(self):
        written = DIALECT.write(Request(shell="/bin/csh", server="pbs2", other=("scratch=10gb",)))
        assert written.lost.keys() == {"shell", "server", "other"}

    def test_ids_that_are_not_slurms_are_lost(self):
        jobs = ("12.pbs1", "7")
        written = DIALECT.write(Request(dependencies=(Dependency(kind="afterok", jobs=jobs),)))
        assert "--dependency=afterok:7" in written.lines
        assert written.lost == {"dependencies": "12.pbs1: not the id of a Slurm job"}

    def test_text_of_several_lines_is_lost(self):
        assert DIALECT.write(Request(comment="a\nb")).lost == {"comment": "it has several lines"}


NOT_IN_SLURM = {"server", "shell", "components", "place", "chunks"}
SIZES = {
    *("nodes", "most_nodes", "tasks", "tasks_per_node", "cores_per_task", "cores_per_node"),
    *("gpus", "gpus_per_node", "gpus_per_task"),
}
MEMORY = {"memory", "memory_per_node", "memory_per_core", "memory_per_gpu"}


class TestProperties:
    @settings(max_examples=examples(300), deadline=None)
    @given(plain_requests())
    def test_what_is_written_is_read_back_or_lost(self, request_):
        written = DIALECT.write(request_)
        back = again(written)
        for name, value in request_.said().items():
            if name in SIZES | MEMORY or name in written.lost:
                continue
            if name == "join":
                assert (back.error is None) == value
            elif name == "error" and request_.join:
                assert back.error is None
            else:
                assert getattr(back, name) == value, (name, written)
        assert written.lost.keys() <= NOT_IN_SLURM | MEMORY | {"gpu_kind", "variables", "error"}
        ours, theirs = request_.totals(), back.totals()
        assert (ours.tasks, ours.cores, ours.gpus) == (theirs.tasks, theirs.cores, theirs.gpus)
        assert ours.nodes == theirs.nodes
        if not written.lost.keys() & MEMORY:
            assert ours.memory <= theirs.memory

    @settings(max_examples=examples(200), deadline=None)
    @given(requests_with_chunks())
    def test_chunks_are_written_with_their_totals_or_lost(self, request_):
        written = DIALECT.write(request_)
        ours, theirs = request_.totals(), again(written).totals()
        assert (ours.tasks, ours.gpus) == (theirs.tasks, theirs.gpus)
        assert ours.cores <= theirs.cores
        assert ours.memory <= theirs.memory
        if not written.lost:
            assert ours.cores == theirs.cores
        assert ours.nodes == theirs.nodes

    @settings(max_examples=examples(300), deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([option.name for option in OPTIONS]),
                st.sampled_from(["", "=", "=1", "=x", "=1-3", "=a:1", "=10G", '="a b"', " 2"]),
            ),
            max_size=6,
        )
    )
    def test_each_directive_is_told_by_fields_or_says_what_is_not(self, options):
        found = reading(*(f"#SBATCH --{name}{value}" for name, value in options))
        for each in found.directives:
            assert each.sets or each.untold or each.invalid or each.option == "ignore-pbs"

    @settings(max_examples=examples(300), deadline=None)
    @given(st.lists(st.text("#SBATCH -n=a12\"'\\: \thetjobPU", max_size=30), max_size=8))
    def test_any_lines_are_read(self, lines):
        found = DIALECT.read(lines)
        assert found.lines <= set(range(1, len(lines) + 1))

    @settings(max_examples=examples(200), deadline=None)
    @given(st.integers(1, 10**8))
    def test_times(self, seconds):
        assert read_limit(write_time(seconds)) == seconds
