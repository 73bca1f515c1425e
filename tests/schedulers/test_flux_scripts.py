"""`#FLUX:` lines: what flux batch reads in them, and what fractale writes for it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_requests import plain_requests, requests_with_chunks
from counts import examples
from flux_python import PACKAGE, WITHOUT_LIBRARY, has_flux
from fractale.schedulers.flux.directives import DIALECT, OPTIONS
from fractale.schedulers.flux.times import read_limit, write_time
from fractale.schedulers.request import Array, Chunk, Dependency, Request
from fractale.schedulers.script import Reading, Written
from fractale.schedulers.slurm.directives import DIALECT as SLURM


def reading(*lines: str) -> Reading:
    """What flux batch reads in a script with these lines below its first one."""
    return DIALECT.read(["#!/bin/sh", *lines])


def fields(*options: str) -> dict[str, object]:
    """What a script with these options, and a slot, asks for."""
    found = reading("#FLUX: -n1", *(f"#FLUX: {option}" for option in options), "true")
    assert not found.invalid, found.invalid
    assert not [each for each in found.directives if each.invalid]
    said = found.request.said()
    if said["tasks"] == 1:
        del said["tasks"]
    return said


def why_invalid(*lines: str) -> str:
    """Why flux batch refuses these lines; empty where it does not."""
    found = reading(*lines)
    return " ".join(
        [*(each.invalid for each in found.directives), *(each.why for each in found.invalid)]
    ).strip()


def script_of(written: Written) -> str:
    """A script with the lines that were written."""
    return "".join(f"{line}\n" for line in ["#!/bin/sh", *(f"#FLUX: {w}" for w in written.lines)])


def again(written: Written) -> Request:
    """What flux batch reads in lines that were written."""
    found = DIALECT.read(script_of(written).splitlines())
    assert not found.invalid, (written, found.invalid)
    assert not [each for each in found.directives if each.invalid or each.untold], written
    return found.request


def flux_reads(scripts: list[str]) -> list[dict[str, object]]:
    """What flux batch's own parser makes of scripts; the test is skipped without it."""
    if not has_flux() and not (PACKAGE / "flux").is_dir():
        pytest.skip(
            f"no Flux here, and no flux-python in {PACKAGE.name} (`make test` puts it there)"
        )
    path = "" if has_flux() else f"{WITHOUT_LIBRARY}:{PACKAGE}"
    child = Path(__file__).parents[1] / "support" / "flux_batch_parser.py"
    done = subprocess.run(
        [sys.executable, str(child)],
        input=json.dumps(scripts),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=300,
        check=True,
    )
    return json.loads(done.stdout)


class TestValues:
    @pytest.mark.parametrize(
        ("option", "said"),
        [
            ("-n4", {"tasks": 4}),
            ("-n=4", {"tasks": 4}),
            ("--nslots 4", {"tasks": 4}),
            ("-c 8", {"cores_per_task": 8}),
            ("-g2", {"gpus_per_task": 2}),
            ("-n4 -N2 -x", {"tasks": 4, "nodes": 2, "exclusive": True}),
            ("-t 5", {"seconds": 300}),
            ("-t 90s", {"seconds": 90}),
            ("-t1.5h", {"seconds": 5400}),
            ("-t 0", {"seconds": math.inf}),
            ("-B chem", {"account": "chem"}),
            ("--bank=chem", {"account": "chem"}),
            ("-q batch", {"queues": ("batch",)}),
            ("--job-name='heat map'", {"name": "heat map"}),
            ("--output='run #3.log'", {"output": "run #3.log", "join": True}),
            ("--output=x.log # the log", {"output": "x.log", "join": True}),
            ("--cwd=/w", {"workdir": "/w"}),
            ("--urgency=0", {"hold": True}),
            ("--urgency=hold", {"hold": True}),
            ("--begin-time=+1h", {"begin": "+3600"}),
            ("--begin-time='2030-01-20 12:34'", {"begin": "2030-01-20T12:34"}),
            ("--signal=TERM@2m", {"signal": "TERM@120"}),
            ("--signal=@30", {"signal": "USR1@30"}),
            ("--env=A=1", {"variables": ("A=1",), "export": True}),
            ("--env='A=$$x'", {"variables": ("A=$x",), "export": True}),
            ("--env=-* --env=HOME", {"export": False, "variables": ("HOME",)}),
            ("--env-remove=*", {"export": False}),
            ("--requires=gpu", {"constraint": "gpu"}),
            ("--require='a&b'", {"constraint": "a&b"}),
            ("--requires=hosts:n[1-3],m1", {"hosts": ("n[1-3]", "m1")}),
            ("--requires=-host:n1", {"without_hosts": ("n1",)}),
            ("--setopt=output.mode=append", {"append": True}),
            ("-S user.comment=hi", {"comment": "hi"}),
            ("--dependency=singleton", {"dependencies": (Dependency(kind="singleton"),)}),
            (
                "--dependency=afterok:f12 --dependency=afterok:f13",
                {"dependencies": (Dependency(kind="afterok", jobs=("f12", "f13")),)},
            ),
        ],
    )
    def test_one_option(self, option, said):
        assert fields(option) == said

    @pytest.mark.parametrize(
        ("written", "name"),
        [
            ("x.{{id}}", "x.{{id}}"),
            ("x.{{jobid}}", "x.{{id}}"),
            ("x.{{id.dec}}", "x.{{id}}"),
            ("{{name}}-{{id.f58plain}}", "{{name}}-{{id}}"),
            ("{{node.name}}.{{node.id}}.{{task.rank}}", "{{host}}.{{node}}.{{task}}"),
        ],
    )
    def test_marks_in_file_names(self, written, name):
        assert fields(f"--output={written}")["output"] == name

    def test_a_mark_that_only_flux_has_is_told(self):
        found = reading("#FLUX: -n1 --output=x.{{size}}")
        assert found.directives[1].untold == "`{{size}}` in it"

    @pytest.mark.parametrize(
        ("option", "words"),
        [
            ("--nodse=2", "unknown option `--nodse`"),
            ("--time=5", "no abbreviation: write --time-limit"),
            ("-n 0", "not a whole number"),
            ("-t soon", "not a time"),
            ("-t inf", "not a time"),
            ("--exclusive=yes", "takes no value"),
            ("-q -n2", "looks like an option"),
            ("--urgency=99", "not an urgency"),
            ("--output='x", "no closing quotation"),
            ("solve -n2", "`solve` is not an option"),
        ],
    )
    def test_what_flux_refuses_is_invalid(self, option, words):
        assert words in why_invalid(
            f"#FLUX: -n1 {option}" if option[0] == "-" else f"#FLUX: {option}"
        )


class TestLines:
    def test_nodes_without_slots_are_whole_nodes(self):
        request = reading("#FLUX: -N4").request
        assert request.said() == {"nodes": 4, "exclusive": True}

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ("-c4", "neither --nodes nor --nslots"),
            ("-n4 -x", "--exclusive needs --nodes"),
            ("-n2 -N4", "is more than --nslots=2"),
        ],
    )
    def test_sizes_that_flux_refuses(self, options, words):
        assert words in why_invalid(f"#FLUX: {options}")

    def test_directives_below_a_comment_count_and_below_a_command_are_refused(self):
        assert reading("#FLUX: -n2", "# a comment", "", "#FLUX: -c3").request.cores_per_task == 3
        why = why_invalid("# flux: -N4", "echo hi", "# flux: --queue=batch")
        assert "below the first command (line 3)" in why

    def test_commands_before_the_first_directive_do_not_end_them(self):
        assert reading("echo hi", "#FLUX: -n2").request.tasks == 2

    def test_another_sentinel_is_refused(self):
        assert "begin with `# flux:`" in why_invalid("# flux: -N4", "#FLUX: -c2")

    @pytest.mark.parametrize("mark", ["#FLUX:", "# flux:", "-- flux:", "flux:", "  // FLUX:"])
    def test_sentinels(self, mark):
        assert reading(f"{mark} -n3").request.tasks == 3

    def test_text_in_triple_quotes(self):
        inline = reading("#FLUX: -n1 --job-name='''it's'''")
        assert inline.request.name == "it's"
        several = reading(
            "# flux: -n1", '# flux: --conf="""', "# flux: [resource]", '# flux: """', "true"
        )
        assert not several.invalid
        assert several.directives[1].value == "\n [resource]\n".replace("\n ", "", 1)
        assert several.directives[1].untold

    def test_a_triple_quote_that_is_not_closed(self):
        assert "not closed" in why_invalid('# flux: -n1 --conf="""', "# flux: a", "true")

    def test_the_words_of_a_command_are_passed_over_with_a_remark(self):
        found = reading("#FLUX: -n2 solve -n9")
        assert found.request.tasks == 2
        assert found.remarks[0].text == "solve -n9"


class TestWriting:
    def test_a_job_without_a_size_is_one_slot(self):
        request = Request(cores_per_task=4, seconds=1800)
        assert DIALECT.write(request).lines == (
            "--nslots=1",
            "--cores-per-slot=4",
            "--time-limit=30m",
        )

    @pytest.mark.parametrize(
        ("request_", "lines"),
        [
            (Request(nodes=2, tasks_per_node=16), ["--nodes=2", "--nslots=32"]),
            (Request(tasks_per_node=4), ["--nodes=1", "--nslots=4"]),
            (Request(tasks=40, tasks_per_node=20), ["--nodes=2", "--nslots=40"]),
            (Request(nodes=1, gpus=2), ["--nodes=1", "--nslots=1", "--gpus-per-slot=2"]),
            (
                Request(nodes=2, tasks=8, gpus_per_node=4),
                ["--nodes=2", "--nslots=8", "--gpus-per-slot=1"],
            ),
            (
                Request(nodes=2, tasks=64, gpus_per_node=4),
                ["--nodes=2", "--nslots=8", "--cores-per-slot=8", "--gpus-per-slot=1"],
            ),
            (
                Request(tasks=64, gpus=1, cores_per_task=2),
                ["--nslots=1", "--cores-per-slot=128", "--gpus-per-slot=1"],
            ),
            (Request(nodes=2, exclusive=True), ["--nodes=2"]),
            (Request(tasks=1, exclusive=True), ["--nodes=1", "--nslots=1", "--exclusive"]),
            (
                Request(nodes=2, tasks=2, exclusive=True),
                ["--nodes=2", "--nslots=2", "--exclusive"],
            ),
            (
                Request(nodes=2, tasks_per_node=4, cores_per_node=32),
                ["--nodes=2", "--nslots=8", "--cores-per-slot=8"],
            ),
            (
                Request(chunks=(Chunk(count=72, cores=1, tasks=1),)),
                ["--nslots=72", "--cores-per-slot=1"],
            ),
        ],
    )
    def test_sizes(self, request_, lines):
        written = DIALECT.write(request_)
        assert list(written.lines) == lines
        assert not written.lost
        assert again(written).totals().gpus == request_.totals().gpus

    def test_slots_that_are_not_the_tasks_are_told(self):
        written = DIALECT.write(Request(nodes=2, tasks=64, gpus_per_node=4))
        assert "flux run -N2 -n64 --exclusive" in written.notes[0]

    def test_more_gpus_than_asked_for_are_told(self):
        written = DIALECT.write(Request(nodes=3, tasks=3, gpus=1))
        assert "--gpus-per-slot=1" in written.lines
        assert written.lost == {"gpus": "1 do not divide over the nodes: 3 are asked for"}

    def test_whole_nodes_of_unknown_number_are_lost(self):
        written = DIALECT.write(Request(tasks=32, exclusive=True))
        assert written.lines == ("--nslots=32",)
        assert written.lost.keys() == {"exclusive"}

    def test_what_flux_lacks_is_lost_with_its_reason(self):
        request = Request(
            array=Array.parse("1-20"),
            output="o_%s_{{array_id}}_{{index}}",
            memory_per_node=2**30,
            mail_on=("end",),
            qos="high",
            queues=("a", "b"),
            nodes=2,
            most_nodes=4,
            gpus=2,
            gpu_kind="a100",
            constraint="[rack1|rack2]",
            dependencies=(Dependency(kind="aftercorr", jobs=("1",)),),
            licenses="a:1",
            reservation="r",
        )
        written = DIALECT.write(request)
        assert written.lost.keys() == {
            *("array", "output", "memory_per_node", "mail_on", "qos", "queues", "most_nodes"),
            *("gpu_kind", "constraint", "dependencies", "licenses", "reservation"),
        }
        assert "bulksubmit" in written.lost["array"]
        assert "--queue=a" in written.lines
        assert "--output=o_%s_{{id}}_" in written.lines

    def test_values_with_blanks_quotes_and_hashes_are_quoted(self):
        request = Request(name='it\'s "a" map', output="run #3.log", workdir="/a b/c\\d")
        written = DIALECT.write(request)
        assert "--output='run #3.log'" in written.lines
        back = again(written)
        assert (back.name, back.output, back.workdir) == (
            request.name,
            request.output,
            request.workdir,
        )

    def test_a_folder_becomes_a_file_in_it(self):
        written = DIALECT.write(Request(output="logs/", array=Array.parse("1-3")))
        assert "--output=logs/{{name}}.o{{id}}" in written.lines
        assert "--error={{name}}.e{{id}}" in DIALECT.write(Request(join=False)).lines

    def test_what_it_does_anyway_is_a_note(self):
        written = DIALECT.write(Request(requeue=False, exclusive=False))
        assert written.lines == ("--nslots=1",)
        assert len(written.notes) == 2
        assert not written.lost


IN_SLOTS = {
    *("nodes", "tasks", "tasks_per_node", "cores_per_task", "cores_per_node"),
    *("gpus", "gpus_per_node", "gpus_per_task"),
}
ANYWAY = {"requeue", "exclusive", "join"}


class TestProperties:
    @settings(max_examples=examples(300), deadline=None)
    @given(plain_requests())
    def test_what_is_written_is_read_back_or_lost(self, request_):
        written = DIALECT.write(request_)
        back = again(written)
        for name, value in request_.said().items():
            if name in IN_SLOTS or name in written.lost:
                continue
            if name in ANYWAY and not value:
                continue
            if name in ("join", "error") and request_.join:
                assert back.error is None
            elif name == "dependencies" or name == "constraint":
                assert getattr(back, name)
            else:
                assert getattr(back, name) == value, (name, written)
        ours, theirs = request_.totals(), back.totals()
        if "gpus" not in written.lost:
            assert ours.gpus == theirs.gpus
        if not any("cores are asked for" in note for note in written.notes):
            assert ours.cores == theirs.cores

    @settings(max_examples=examples(200), deadline=None)
    @given(requests_with_chunks())
    def test_chunks_are_written_with_their_totals_or_lost(self, request_):
        written = DIALECT.write(request_)
        ours, theirs = request_.totals(), again(written).totals()
        assert ours.cores <= theirs.cores
        assert ours.gpus <= theirs.gpus
        if "gpus" not in written.lost:
            assert ours.gpus == theirs.gpus

    @settings(max_examples=examples(300), deadline=None)
    @given(plain_requests())
    def test_from_slurm_and_back(self, request_):
        asked = SLURM.read(
            ["#!/bin/sh", *(f"#SBATCH {line}" for line in SLURM.write(request_).lines)]
        ).request
        there = DIALECT.write(asked)
        back = SLURM.write(again(there))
        found = SLURM.read(["#!/bin/sh", *(f"#SBATCH {line}" for line in back.lines)]).request
        for name, value in asked.said().items():
            if name in IN_SLOTS | ANYWAY or name in there.lost or name in back.lost:
                continue
            assert getattr(found, name) == value, name

    @settings(max_examples=examples(300), deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([option.name for option in OPTIONS]),
                st.sampled_from(["", "=", "=1", "=x", "=a:1", '="a b"', " 2", "=-*"]),
            ),
            max_size=6,
        )
    )
    def test_each_directive_is_told_by_fields_or_says_what_is_not(self, options):
        for each in reading(*(f"#FLUX: --{name}{value}" for name, value in options)).directives:
            assert each.sets or each.untold or each.invalid

    @settings(max_examples=examples(300), deadline=None)
    @given(st.lists(st.text("#FLUX: -n=a12\"'\\&|", max_size=30), max_size=8))
    def test_any_lines_are_read(self, lines):
        assert DIALECT.read(lines).lines <= set(range(1, len(lines) + 1))

    @settings(max_examples=examples(200), deadline=None)
    @given(st.integers(1, 10**8))
    def test_times(self, seconds):
        assert read_limit(write_time(seconds)) == seconds


ODD = [
    ["#FLUX: -n=4 -c2"],
    ["# flux: -N4", "#FLUX: -c2"],
    ["# flux: -N4", "echo hi", "# flux: -c2"],
    ["-- flux: -n2", "", "-- a comment", "-- flux: -c2"],
    ["#FLUX: --time=5 -n1"],
    ["#FLUX: -n2 solve -n9"],
    ["#FLUX: solve"],
    ["#FLUX: -n1 -q -x"],
    ["#FLUX: -n1 --job-name='a"],
    ["#FLUX: -n4 -x"],
    ["#FLUX: -n2 -N4"],
    ["#FLUX: -c4"],
    ["#FLUX: -n1 -t inf"],
    ["#FLUX: -n1 --job-name='''it's'''"],
    ["#FLUX: -n1 --output=run #3.log"],
    ["#FLUX: -n1 --requires=a&b"],
]


@pytest.fixture(scope="module")
def odd():
    """Scripts with odd directives, each with what flux batch makes of it."""
    scripts = ["\n".join(["#!/bin/sh", *lines]) + "\n" for lines in ODD]
    return list(zip(scripts, flux_reads(scripts), strict=True))


class TestFluxItself:
    """The same scripts through flux batch's own parser, down to the jobspec."""

    def test_what_is_written_is_read_as_it_is_meant(self):
        found: list[Written] = []

        @settings(max_examples=examples(200), deadline=None, database=None)
        @given(plain_requests())
        def collect(request_):
            found.append(DIALECT.write(request_))

        collect()
        scripts = [script_of(written) for written in found]
        for script, options in zip(scripts, flux_reads(scripts), strict=True):
            assert "refused" not in options, (script, options)
            request = DIALECT.read(script.splitlines()).request
            assert options["job_name"] == request.name
            assert options["bank"] == request.account
            assert options["cwd"] == request.workdir
            assert options["nodes"] == request.nodes
            assert options["nslots"] in (request.tasks, None)
            assert options["cores_per_slot"] == (request.cores_per_task or 1)
            assert options["gpus_per_slot"] == request.gpus_per_task
            seconds = 0 if request.seconds in (None, math.inf) else request.seconds
            assert options["duration"] == seconds

    @pytest.mark.parametrize("number", range(len(ODD)))
    def test_odd_scripts_are_refused_by_both_or_by_none(self, number, odd):
        script, options = odd[number]
        found = DIALECT.read(script.splitlines())
        refused = bool(found.invalid) or any(each.invalid for each in found.directives)
        assert refused == ("refused" in options), options
        if not refused:
            assert found.request.tasks == options["nslots"]
            assert found.request.name == options["job_name"]
