"""Files that steps create and need: up to date as for make, by checksums, and evidence of success.

Each run is one of its own; they share the state directory.
"""

# ruff: noqa: ASYNC240 - these tests look at the files that steps make
from __future__ import annotations

import os
import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from fractale.errors import PlanError
from fractale.plan.build import parse_plan
from fractale.plan.check import check_plan
from fractale.plan.dump import dump_plan
from fractale.testing import FakeToolServer

COUNT = """
name: count
inputs: {flag: -l}
steps:
  - name: count
    script: |
      wc {{ inputs.flag }} < in.txt > out.txt
      echo ran >> ran
    needs: in.txt
    creates: out.txt
"""


@pytest.fixture
def settings(settings, tmp_path, monkeypatch):
    """Programs work in a directory of their own."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("in.txt").write_text("a\nb\n")
    return replace(settings, environment={"PATH": os.environ["PATH"]}, local_cores=4)


def ran() -> int:
    return len(Path("ran").read_text().split()) if Path("ran").exists() else 0


def problems_of(text: str) -> list[str]:
    try:
        found = check_plan(parse_plan(text, "p.yaml"))
    except PlanError as error:
        found = error.problems
    return [f"{p.position.line}:{p.position.column} {p.code} {p.message}" for p in found]


def one(step: str) -> str:
    return "name: p\nsteps:\n" + textwrap.indent("- " + textwrap.indent(step, "  ").lstrip(), "  ")


def test_files_are_read_and_written_back():
    read = parse_plan(COUNT.replace("needs: in.txt", 'needs: [in.txt, "{{ inputs.flag }}"]'))
    assert [getattr(file, "source", file) for file in read.steps[0].needs] == [
        "in.txt",
        "{{ inputs.flag }}",
    ]
    assert parse_plan(dump_plan(read)) == read
    assert problems_of(COUNT) == []
    assert "creates" not in dump_plan(parse_plan(one("name: a\nscript: x")))


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ("name: a\ntool: t\nneeds: a", r"5:12 step-as-file `needs` names files, and `a` is a step"),
        ("name: a\ntool: t\nneeds: x", r"5:12 missing-key .* only beside `creates`"),
        ("name: a\nagent: ask\nneeds: [b]", r"misplaced-key .* write `transitions`"),
        ("name: a\nagent: ask\ncreates: [b]", r"misplaced-key `creates` has no meaning"),
        ("name: a\ntool: t\ncreates: 1", r"wrong-type `creates` must be a list"),
        ("name: a\ntool: t\ncreates: [[a]]", r"wrong-type a file of `creates` must be text"),
        ("name: a\ntool: t\ncreates: '{{ nope }}'", r"5:18 undefined `nope`"),
        ("name: a\ntool: t\nforeach: range(3) | list\ncreates: x", r"same-file each item creates"),
        ("name: a\njob: {command: x, array: 1-3}\ncreates: 'x{{ index }}'", r"write a `foreach`"),
    ],
)  # fmt: skip
def test_faults_have_a_place_and_a_way_out(step, problem):
    found = problems_of(one(step))
    assert len(found) == 1, found
    assert re.search(problem, found[0])


async def test_what_is_up_to_date_is_skipped_and_the_reason_names_the_files(run_plan):
    first = await run_plan(COUNT, keep=True)
    assert (first.status, ran()) == ("success", 1)
    again = await run_plan(COUNT, keep=True)
    (finished,) = again.of("step_finished")
    assert (finished["outcome"], finished["decided_by"]) == ("skipped", "up_to_date")
    assert finished["reason"] == f"`out.txt` is up to date, made by run {first.result.run}"
    assert again.status == "success"
    assert ran() == 1
    assert not again.of("step_started")


@pytest.mark.parametrize("change", ["needs", "text", "creates", "state"])
async def test_a_step_runs_again_if_something_of_it_changed(run_plan, settings, change):
    await run_plan(COUNT)
    if change == "needs":
        Path("in.txt").write_text("a\nc\n")  # the same size
    if change == "creates":
        Path("out.txt").unlink()
    if change == "state":
        for file in (settings.state_dir / "made").iterdir():
            file.write_text("{damaged")
    await run_plan(COUNT.replace("-l", "-c") if change == "text" else COUNT)
    assert ran() == 2


async def test_a_file_that_is_touched_and_not_changed_is_up_to_date(run_plan):
    await run_plan(COUNT)
    os.utime("in.txt", (1, 1))
    await run_plan(COUNT)
    assert ran() == 1


async def test_a_file_that_exists_without_a_record_is_not_up_to_date(run_plan):
    Path("out.txt").write_text("whose?")
    await run_plan(COUNT)
    assert ran() == 1


async def test_a_run_that_failed_leaves_nothing_up_to_date(run_plan):
    """The second run breaks the file. The third has the needs and the text of the first."""
    await run_plan(COUNT)
    bad = COUNT.replace("echo ran >> ran", "echo ran >> ran; exit 1")
    assert (await run_plan(bad)).status == "failed"
    await run_plan(COUNT)
    assert ran() == 3


async def test_a_success_without_its_files_is_a_failure(run_plan):
    text = one("name: a\nscript: 'true'\ncreates: [x.txt, y.txt]")
    seen = await run_plan(text)
    assert (seen.status, seen.decided("a")) == ("failed", "creates")
    assert seen.result.error == "the step ended well, but did not create `x.txt`, `y.txt`"
    text = one("name: a\njob: {scheduler: local, command: 'true'}\ncreates: x.txt")
    assert (await run_plan(text)).decided("a") == "creates"


@pytest.mark.parametrize("made", ["", "touch x.txt; "])
async def test_an_event_of_a_rule_does_not_replace_the_files(run_plan, made):
    step = f"name: a\nscript: '{made}echo ran >> ran; cat ran'\ncreates: x.txt"
    text = one(f"{step}\nrules: {{good: \"'ran' in content\"}}\ntransitions: {{good: success}}")
    seen = await run_plan(text)
    if made:
        assert (seen.status, seen.decided("a")) == ("success", "rule")
        assert (await run_plan(text)).decided("a") == "rule"  # a skipped step has no such event
        assert ran() == 2
    else:
        assert (seen.status, seen.decided("a")) == ("failed", "creates")
        assert "did not create `x.txt`" in seen.result.error


TRIED = """
name: a
script: |
  echo ran >> ran
  test $(wc -l < ran) -lt 2 || touch x.txt
retry: {attempts: 3, delay: 0.1, on: failure}
creates: x.txt
"""


@pytest.mark.parametrize("foreach", [False, True])
async def test_an_attempt_without_its_files_is_made_again(run_plan, foreach):
    text = one(TRIED.strip())
    if foreach:
        text = one(TRIED.strip().replace("x.txt", '"{{ item }}.txt"') + "\nforeach: [x]")
    seen = await run_plan(text)
    assert seen.status == "success", seen.result.error
    assert ran() == 2
    (warning,) = [w["message"] for w in seen.of("warning") if w["code"] == "retry"]
    assert "the step ended well, but did not create `x.txt`" in warning
    assert (await run_plan(text)).status == "success"
    assert ran() == 2  # up to date


async def test_the_last_try_without_its_files_is_the_failure(run_plan):
    seen = await run_plan(one(TRIED.strip().replace("-lt 2", "-lt 9")))
    assert (seen.status, seen.decided("a"), ran()) == ("failed", "creates", 3)
    assert seen.result.error.endswith("did not create `x.txt` (after 3 tries)")


async def test_the_last_call_of_an_until_must_have_made_the_files(run_plan):
    server = FakeToolServer()

    @server.tool
    def look() -> dict[str, int]:
        """Count the calls."""
        return {"calls": len(server.calls)}

    step = "name: a\ntool: look\nuntil: calls > 1\nevery: 0.1\ntimeout: 30\ncreates: x.txt"
    for rules in ("", "\nrules: {success: calls > 0}"):
        seen = await run_plan(one(step + rules), tools=server)
        assert (seen.status, seen.decided("a")) == ("failed", "creates"), seen.result.error


@pytest.mark.parametrize("change", ["cut", "touched", "directory"])
async def test_a_file_that_was_changed_since_is_made_again(run_plan, change):
    """As a file that another run writes at this moment, or that a user edited."""
    text = one("name: a\nscript: 'mkdir -p d; echo made > d/x; echo ran >> ran'\ncreates: [d, d/x]")
    await run_plan(text)
    if change == "cut":
        Path("d/x").write_text("ma")
    if change == "touched":
        os.utime("d/x", (1, 1))
    if change == "directory":  # a later step put another file there
        Path("d/y").write_text("")
    seen = await run_plan(text)
    assert seen.status == "success"
    assert ran() == (1 if change == "directory" else 2)
    assert Path("d/x").read_text() == "made\n"


@pytest.mark.parametrize("key", ["creates", "needs"])
async def test_a_secret_in_a_path_is_refused_and_stored_nowhere(run_plan, settings, key):
    Path("sesame-7781.txt").write_text("")
    given = {"creates": "x.txt", "needs": "in.txt", key: '"{{ inputs.token }}.txt"'}
    step = f"name: a\nscript: echo ran >> ran; touch x.txt\ncreates: {given['creates']}"
    text = one(f"{step}\nneeds: {given['needs']}") + (
        "\ninputs: {token: {type: string, secret: true, required: true}}\n"
    )
    seen = await run_plan(text, secrets={"token": "sesame-7781"})
    assert (seen.status, ran()) == ("failed", 0)
    assert f"a file of `{key}` has a secret in its path" in seen.result.error
    stored = b"".join(f.read_bytes() for f in settings.state_dir.rglob("*") if f.is_file())
    assert b"sesame-7781" not in stored


@pytest.mark.parametrize(
    ("key", "name"), [("creates", "n" * 300), ("needs", "n" * 300), ("needs", ".")]
)
async def test_a_file_that_cannot_be_read_fails_the_step(run_plan, key, name):
    given = {"creates": "x.txt", "needs": "in.txt", key: name}
    step = "name: a\nscript: echo ran >> ran; touch x.txt"
    text = one(f"{step}\ncreates: {given['creates']}\nneeds: {given['needs']}")
    seen = await run_plan(text)
    assert (seen.status, seen.decided("a"), ran()) == ("failed", "error", 0)
    line = 5 if key == "creates" else 6
    assert re.search(rf":{line}:\d+  a file of `{key}` cannot be read: `", seen.result.error)
    assert len(seen.result.error) < 400


async def test_a_file_that_cannot_be_read_after_a_success_is_a_failure(run_plan):
    """The link leads to a name that is too long."""
    seen = await run_plan(one(f"name: a\nscript: ln -s {'n' * 300} x\ncreates: x/y"))
    assert (seen.status, seen.decided("a")) == ("failed", "creates")
    assert "ended well, but a file of `creates` cannot be read: `" in seen.result.error


async def test_items_left_out_are_told_beside_those_that_are_up_to_date(run_plan):
    text = one(
        "name: a\nforeach: [x, y, z]\nwhen: item != 'y'\n"
        "script: touch {{ item }}.txt\ncreates: '{{ item }}.txt'"
    )
    await run_plan(text)
    (finished,) = (await run_plan(text)).of("step_finished")
    assert finished["reason"] == "1 of 3 items left out by `when`; 2 of 2 items are up to date"


async def test_a_file_that_a_step_needs_must_exist(run_plan):
    Path("in.txt").unlink()
    seen = await run_plan(COUNT)
    assert (seen.status, seen.decided("count")) == ("failed", "error")
    assert "the step needs `in.txt`, which does not exist" in seen.result.error
    assert ran() == 0


async def test_a_tool_is_not_called_if_its_files_are_up_to_date(run_plan):
    server = FakeToolServer()

    @server.tool
    def write(text: str, file: str) -> dict[str, str]:
        """Write a file."""
        Path(file).write_text(text)
        return {"file": file}

    step = "name: a\ntool: write\ninputs: {text: '{{ inputs.t }}', file: out.md}\ncreates: out.md"
    for text in ("a", "a", "b"):
        await run_plan(one(step) + f"\ninputs: {{t: {text}}}\n", tools=server)
    assert [call.arguments["text"] for call in server.calls] == ["a", "b"]


@pytest.mark.parametrize(
    "kind", ["script: 'COMMAND'", "job: {scheduler: local, command: [sh, -c, 'COMMAND']}"]
)
async def test_each_item_of_a_foreach_is_up_to_date_by_itself(run_plan, kind):
    command = "cat {{ item }}.in > {{ item }}.out; echo {{ item }} >> ran"
    step = (
        f"name: a\nforeach: inputs.names\n{kind.replace('COMMAND', command)}\n"
        "needs: '{{ item }}.in'\ncreates: '{{ item }}.out'"
    )
    text = one(step) + "\ninputs: {names: [x, y, z]}\n"
    for name in "xyz":
        Path(f"{name}.in").write_text(name)
    assert (await run_plan(text)).status == "success"
    Path("y.in").write_text("new")
    seen = await run_plan(text, keep=True)
    assert seen.status == "success", seen.result.error
    outcomes = {each["index"]: each["outcome"] for each in seen.of("item_finished")}
    assert outcomes == {0: "skipped", 1: "success", 2: "skipped"}
    assert sorted(Path("ran").read_text().split()) == ["x", "y", "y", "z"]
    assert Path("y.out").read_text() == "new"


async def test_resources_of_a_job_do_not_make_it_another(run_plan):
    text = one(
        "name: a\njob: {scheduler: local, command: [sh, -c, 'echo ran >> ran; touch o'], time: 5m}"
        "\ncreates: o"
    )
    await run_plan(text)
    await run_plan(text.replace("5m", "9m"))
    assert ran() == 1


CHAINS = """
name: variants
inputs: {samples: [A, B, C]}
steps:
  - name: samples
    foreach: inputs.samples
    steps:
      - name: map
        script: echo "map $S" >> ran; cat genome "$S.fastq" > "$S.bam"
        env: {S: "{{ item }}"}
        needs: [genome, "{{ item }}.fastq"]
        creates: "{{ item }}.bam"
      - name: sort
        script: echo "sort $S" >> ran; sort "$S.bam" > "$S.sorted"
        env: {S: "{{ item }}"}
        needs: "{{ item }}.bam"
        creates: "{{ item }}.sorted"
  - name: call
    script: echo call >> ran; cat *.sorted > all.vcf
    needs: [A.sorted, B.sorted, C.sorted]
    creates: all.vcf
"""


async def test_in_a_chain_per_item_only_what_follows_from_a_change_is_made_again(run_plan):
    Path("genome").write_text("g\n")
    for name in "ABC":
        Path(f"{name}.fastq").write_text(f"{name}\n")
    assert (await run_plan(CHAINS)).status == "success"
    Path("ran").unlink()
    Path("B.fastq").write_text("new\n")
    seen = await run_plan(CHAINS)
    assert seen.status == "success", seen.result.error
    assert sorted(Path("ran").read_text().splitlines()) == ["call", "map B", "sort B"]
    assert Path("all.vcf").read_text() == "A\ng\ng\nnew\nC\ng\n"
