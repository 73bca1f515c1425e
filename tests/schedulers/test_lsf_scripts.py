"""Batch scripts of LSF: read as bsub reads them, and written so that it reads them back."""

from __future__ import annotations

import pytest

from batch_requests import ScriptsOf, read_back, refused
from fractale.schedulers.lsf.directives import DIALECT
from fractale.schedulers.lsf.times import read_time, write_time
from fractale.schedulers.request import Array, Chunk, Dependency, Request

GB, MB = 1 << 30, 1 << 20
LSF = ScriptsOf(DIALECT)


def test_a_name_with_indices_is_an_array() -> None:
    found = LSF.request('-J "sweep[1-40]%8"', "-n 2")
    assert (found.name, str(found.array)) == ("sweep", "1-40%8")
    assert str(LSF.request("-J 'a[1-9:2, 12]'").array) == "1-9:2,12"
    assert LSF.request("-J plain").array is None


def test_values_may_be_attached_to_their_option() -> None:
    found = LSF.request("-n12", "-W1:00", "-qgpu", "-Jname", '-R"span[hosts=1]"')
    assert (found.tasks, found.seconds, found.queues, found.name) == (12, 3600, ("gpu",), "name")
    assert found.nodes == 1
    assert "64000" in LSF.script("#BSUB -M64000").reading.directives[0].value


def test_what_bsub_would_read_otherwise_is_lost_and_told() -> None:
    quoted_value = DIALECT.write(Request(variables=('A=say "hi"',)))
    assert "quotes" in quoted_value.lost["variables"]
    assert "workdir" in DIALECT.write(Request(workdir="/data/%J")).lost
    assert "comment" in DIALECT.write(Request(comment="  ")).lost


def test_tasks_hosts_and_cores() -> None:
    assert LSF.request("-n 16", '-R "span[hosts=1]"').totals().nodes == 1
    tiled = LSF.request("-n 16", '-R "span[ptile=4] affinity[core(2)]"')
    assert (tiled.nodes, tiled.tasks, tiled.tasks_per_node, tiled.cores_per_task) == (4, 16, 4, 2)
    assert LSF.request("-n 8", "-R span[block=4]").chunks == (Chunk(count=2, tasks=4, cores=4),)
    assert LSF.request("-n 4,16").tasks == 4
    assert LSF.untold_of("-n 4,16") == "up to 16 tasks"
    assert LSF.request("-nnodes 8", "-alloc_flags smt4").nodes == 8


def test_gpus() -> None:
    per_host = LSF.request("-n 4", '-gpu "num=2:mode=shared:j_exclusive=yes"')
    assert (per_host.gpus_per_node, LSF.untold_of("-gpu num=2:mode=shared")) == (2, "")
    assert LSF.request("-n 4", "-gpu num=1/task:gmodel=A100").gpus_per_task == 1
    assert LSF.request("-gpu num=1:gmodel=A100").gpu_kind == "A100"
    assert LSF.request("-gpu -").gpus_per_node == 1
    assert LSF.request('-R "rusage[ngpus_excl_p=3]"').gpus_per_node == 3
    assert LSF.untold_of("-gpu num=1:mode=exclusive_process") == "the GPUs' mode=exclusive_process"


def test_memory_is_of_a_host_and_in_megabytes_unless_it_says_otherwise() -> None:
    assert LSF.request('-R "rusage[mem=2000]"').memory_per_node == 2000 * MB
    assert LSF.request('-R "rusage[mem=4GB]"').memory_per_node == 4 * GB
    per_task = LSF.request("-n 4", '-R "affinity[core(2)] rusage[mem=4GB/task]"')
    assert (per_task.memory_per_core, per_task.totals().memory) == (2 * GB, 16 * GB)
    assert LSF.request("-n 4", '-R "rusage[mem=4GB/job]"').memory == 4 * GB
    assert "read in MB" in LSF.remarks_of("#BSUB -R rusage[mem=2000]")
    assert "per host" in LSF.remarks_of("#BSUB -n 2 -R rusage[mem=2GB]")


def test_a_limit_of_memory_is_in_kilobytes_and_counts_if_nothing_is_reserved() -> None:
    assert LSF.request("-M 2048000").memory == 2048000 << 10
    assert LSF.request("-M 4GB").memory == 4 * GB
    assert "in KB" in LSF.remarks_of("#BSUB -M 2048000")
    both = LSF.request('-R "rusage[mem=4000]"', "-M 4000")  # many sites count both in MB
    assert (both.memory, both.memory_per_node) == (None, 4000 * MB)
    assert LSF.untold_of("-R rusage[mem=4000]", "-M 8GB").startswith("the limit of memory")


def test_conditions_on_hosts() -> None:
    assert LSF.request('-R "select[gpu32gb && ib] span[hosts=1]"').constraint == "gpu32gb&ib"
    assert LSF.request("-R 'bighost'").constraint == "bighost"
    assert LSF.request('-R "rhel6 || rhel7"').constraint == "rhel6|rhel7"
    assert LSF.untold_of('-R "select[mem>4000] order[ut]"') == "select[mem>4000]; order[ut]"
    found = LSF.script('#BSUB -R "2*{select[a]}+1*{select[b]}"')
    assert found.invalid == ()
    assert "alternative or compound" in found.reading.directives[0].untold


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (["-W 90"], {"seconds": 5400}),
        (["-W 1:30/bighost"], {"seconds": 5400}),
        (['-q "short long"'], {"queues": ("short", "long")}),
        (["-P proj"], {"account": "proj"}),
        (["-G bank"], {"account": "bank"}),
        (["-G bank", "-P proj"], {"account": "proj"}),
        (["-U res"], {"reservation": "res"}),
        (["-x"], {"exclusive": True}),
        (["-H", "-rn"], {"hold": True, "requeue": False}),
        (["-r"], {"requeue": True}),
        (["-B", "-N", "-u a@b"], {"mail_on": ("begin", "end"), "mail_to": ("a@b",)}),
        (["-cwd /x"], {"workdir": "/x"}),
        (["-L /bin/csh"], {"shell": "/bin/csh"}),
        (["-b 2031:2:3:4:05"], {"begin": "2031-02-03T04:05"}),
        (["-env all,A=1,B"], {"export": True, "variables": ("A=1", "B")}),
        (["-env none"], {"export": False}),
        (["-m n7"], {"hosts": ("n7",)}),
        (["-wa USR1", "-wt 2"], {"signal": "USR1@120"}),
        (['-Jd "what it is"'], {"comment": "what it is"}),
        (["-o out.%J"], {"output": "out.{{id}}", "join": True, "append": None}),
        (["-o a", "-e b"], {"output": "a", "error": "b", "join": None, "append": True}),
        (["-oo a", "-eo a"], {"output": "a", "error": None, "join": True, "append": False}),
        (["-o d/", "-e d/"], {"output": "d/", "error": "d/", "join": None}),
        (["-J a[1-3]", "-o %J.%I"], {"output": "{{array_id}}.{{index}}"}),
    ],
)
def test_what_options_say(options: list[str], fields: dict[str, object]) -> None:
    found = LSF.request(*options)
    assert {name: getattr(found, name) for name in fields} == fields


def test_dependencies() -> None:
    found = LSF.request("-w 'done(1) && done(\"prep\") && ended(3) && done(7[*])'")
    assert found.dependencies == (
        Dependency(kind="afterok", jobs=("1", "prep")),
        Dependency(kind="afterany", jobs=("3",)),
        Dependency(kind="aftercorr", jobs=("7",)),
    )
    assert LSF.request("-w 12").dependencies == (Dependency(kind="afterok", jobs=("12",)),)
    either = LSF.script("#BSUB -w 'done(1) || exit(2)'").reading.directives[0]
    assert "done(1) || exit(2)" in either.untold
    assert "dependencies" in either.sets


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("-n 0", "whole number"),
        ("-n many", "whole number"),
        ("-n 8,4", "whole number"),
        ("-W 1h", "not a time"),
        ("-W 1:00:00", "not a time"),
        ("-J 'a[1-]'", "array"),
        ("-J a[0-3]", "from 1"),
        ("-J a[1-3", "array"),
        ("-M lots", "not an amount"),
        ("-R span[host=1]", "hosts=1"),
        ("-R 'rusage[mem]'", "resource=value"),
        ("-R 'rusage[mem=x]'", "not an amount"),
        ("-R 'span[hosts=1'", "not closed"),
        ("-gpu num=none", "whole number"),
        ("-gpu cores=2", "num"),
        ("-b 25:00", "time of a day"),
        ("-b noon", "not a time"),
        ("-y", "option"),
        ("--nodes=2", "option"),
        ("-n", "needs a value"),
    ],
)
def test_what_bsub_refuses(option: str, word: str) -> None:
    assert word in LSF.why_invalid(option)


def test_what_no_field_says_is_valid_and_told() -> None:
    for option in (
        "-sp 10",
        "-app x",
        "-We 10",
        "-g /a",
        "-a openmpi",
        "-K",
        "-Is",
        "-E pre",
        "-c 5",
    ):
        found = LSF.script(f"#BSUB {option}")
        assert found.invalid == ()
        assert all(each.untold for each in found.reading.directives), option


def test_the_whole_script_is_read() -> None:
    found = LSF.script(
        "#!/bin/sh",
        "  #BSUB -n 4   # how many",
        "#BSUB is what begins a line of LSF",
        "# BSUB -q comment",
        "##BSUB -x",
        "hostname",
        "#BSUB -P late",
    )
    assert (found.request.tasks, found.request.account) == (4, "late")
    assert (found.request.queues, found.request.exclusive) == ((), None)
    assert found.reading.lines == {2, 7}
    assert "although it is below the first command" in LSF.remarks_of("hostname", "#BSUB -P late")


def test_words_that_are_no_options_are_remarked() -> None:
    assert "it is not an option" in LSF.remarks_of("#BSUB -N me@there -q long")
    assert LSF.request("-N me@there -q long").queues == ("long",)


def test_an_option_that_is_given_again_replaces_the_first() -> None:
    found = LSF.script("#BSUB -M 1GB", "#BSUB -M 2GB")
    assert found.request.memory == 2 * GB
    assert all(each.sets or each.untold for each in found.reading.directives)


def test_hosts_to_choose_from_are_not_hosts_that_the_job_needs() -> None:
    assert LSF.untold_of('-m "a b c"') == "which hosts may be chosen from"
    assert LSF.request('-m "a b"', "-nnodes 2").hosts == ("a", "b")


def test_the_profile_of_another_shell_is_told() -> None:
    assert LSF.script("#!/bin/bash", "#BSUB -L /bin/bash").request.shell == "/bin/bash"
    other = LSF.script("#!/bin/zsh", "#BSUB -L /bin/bash")
    assert (other.request.shell, other.reading.directives[0].untold != "") == (None, True)


# writing


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        (Request(name="scan", array=Array.parse("1-20:2,30%4")), ('-J "scan[1-20:2,30]%4"',)),
        (
            Request(nodes=2, tasks_per_node=16, gpus_per_node=4, memory_per_node=8 * GB),
            ("-n 32", '-gpu "num=4"', '-R "span[ptile=16] rusage[mem=8GB]"'),
        ),
        (
            Request(tasks=8, cores_per_task=2, memory_per_core=GB),
            ("-n 8", '-R "affinity[core(2)] rusage[mem=2GB/task]"'),
        ),
        (Request(nodes=1, tasks=4), ("-n 4", '-R "span[hosts=1]"')),
        (
            Request(tasks=8, gpus_per_task=1, gpu_kind="A100"),
            ("-n 8", '-gpu "num=1/task:gmodel=A100"'),
        ),
        (
            Request(chunks=(Chunk(count=2, cores=4, tasks=4),)),
            ("-n 8", '-R "span[block=4] affinity[core(1)]"'),
        ),
        (Request(seconds=5430, output="a/{{id}}"), ("-W 1:31", "-o a/%J")),
        (
            Request(output="a", error="b", append=False, exclusive=True),
            ("-x", "-oo a", "-eo b"),
        ),
        (
            Request(mail_on=("begin", "end"), mail_to=("a@b",), queues=("x", "y")),
            ('-q "x y"', "-B", "-N", "-u a@b"),
        ),
        (
            Request(dependencies=(Dependency(kind="afterok", jobs=("1", "2")),)),
            ('-w "done(1) && done(2)"',),
        ),
        (Request(export=True, variables=("A=x y",)), ("-env \"all, A='x y'\"",)),
        (Request(comment='say "hi"'), ("-Jd 'say \"hi\"'",)),
        (Request(constraint="a&b"), ('-R "select[a && b]"',)),
        (Request(begin="2031-02-03T04:05"), ("-b 2031:02:03:04:05",)),
    ],
)
def test_what_is_written(asked: Request, lines: tuple[str, ...]) -> None:
    written = DIALECT.write(asked)
    assert written.lines == lines
    assert written.lost == {}


@pytest.mark.parametrize(
    ("asked", "lost"),
    [
        (Request(name="a", array=Array.parse("0-3")), "array"),
        (Request(nodes=3, tasks=4), "nodes"),
        (Request(chunks=(Chunk(cores=4), Chunk(count=3, cores=8))), "chunks"),
        (Request(output="x.{{user}}"), "output"),
        (Request(name="a[1]"), "name"),
        (Request(comment="""both ' and " quotes"""), "comment"),
        (Request(output="a", join=False), "join"),
        (Request(nodes=2, tasks=3, gpus=5), "gpus"),
        (Request(qos="high"), "qos"),
        (Request(without_hosts=("n1",)), "without_hosts"),
        (Request(constraint="a&b|c"), "constraint"),
        (Request(nodes=2, hosts=("gn[1-2]",)), "hosts"),
    ],
)
def test_what_lsf_cannot_say_is_told(asked: Request, lost: str) -> None:
    written = DIALECT.write(asked)
    assert set(written.lost) == {lost}
    assert refused(read_back(DIALECT, written)) == []


def test_gpus_that_do_not_divide_put_all_tasks_on_one_host() -> None:
    written = DIALECT.write(Request(tasks=3, gpus=4))
    assert written.lines == ("-n 3", '-gpu "num=4"', '-R "span[hosts=1]"')
    assert "do not divide" in written.notes[0]


def test_times() -> None:
    assert [read_time(text) for text in ("90", "1:30", "0:90")] == [5400, 5400, 5400]
    assert (write_time(90061), write_time(59)) == ("25:02", "0:01")
    with pytest.raises(ValueError, match="not a time"):
        read_time("1:00:00")
