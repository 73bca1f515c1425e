"""The outputs of a run on stdout: for a pipe, a file, a terminal, and other programs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
import yaml

import forked
from fractale.errors import UsageError
from fractale.render.outputs import check_output, outputs_bytes, outputs_text

TOOLS = '''
def measure(text: str = "") -> dict:
    """Measure."""
    print("noise on stdout from inside a tool")
    return {"text": text, "n": 3, "rows": [1, {"a": None}]}
'''
ONE = """
name: one
inputs: {text: hello}
steps: [{name: measure, tool: measure, inputs: {text: "{{ inputs.text }}"}}]
outputs: {text: "{{ steps.measure.outputs.text }}"}
"""
ALL = """
name: all
inputs: {text: hello}
steps: [{name: measure, tool: measure, inputs: {text: "{{ inputs.text }}"}}]
outputs:
  text: "{{ steps.measure.outputs.text }}"
  n: "{{ steps.measure.outputs.n }}"
  rows: "{{ steps.measure.outputs.rows }}"
"""
FAILS = """
name: fails
steps:
  - {name: measure, tool: measure}
  - {name: absent, tool: measure, rules: {failure: outputs.n == 3}}
outputs: {n: "{{ steps.measure.outputs.n }}"}
"""
SECRET = "canary-5d41402abc4b2a76"
HOSTILE = "a\x1b[31mred\x1b[0m\x00b"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "my_tools.py").write_text(TOOLS)
    (folder / "tools.yaml").write_text("tools: [{path: my_tools.measure}]\n")
    (folder / "hostile.yaml").write_text(f"text: {json.dumps(HOSTILE)}\n")
    for name, plan in (("one", ONE), ("all", ALL), ("fails", FAILS)):
        (folder / f"{name}.yaml").write_text(plan)
    return folder


def environment(project: Path) -> dict[str, str]:
    own = {"HOME": str(project), "PYTHONPATH": str(project), "SITE_TOKEN": SECRET}
    return {**own, "PATH": os.environ["PATH"], "TERM": "xterm", forked.TRUSTED: "1"}


def fractale(project: Path, *words: str, **options) -> subprocess.CompletedProcess[str]:
    return forked.run(words, cwd=project, env=environment(project), timeout=60, **options)


def run(project: Path, plan: str, *words: str, **options) -> subprocess.CompletedProcess[str]:
    return fractale(project, "run", f"{plan}.yaml", "-r", "tools.yaml", *words, **options)


def test_a_text_in_a_pipe_is_the_text_with_one_line_end(project):
    assert run(project, "one").stdout == "hello\n"
    assert run(project, "one", "-q", "-i", "text=two\nlines\n").stdout == "two\nlines\n"


def test_several_outputs_in_a_pipe_are_yaml(project):
    done = run(project, "all")
    assert done.stdout.startswith("text: hello\nn: 3\n")
    assert yaml.safe_load(done.stdout) == {"text": "hello", "n": 3, "rows": [1, {"a": None}]}
    assert "success" in done.stderr


def test_one_output_is_chosen_by_its_name(project):
    assert run(project, "all", "--output", "rows").stdout == '[1, {"a": null}]\n'
    assert fractale(project, "show", "-1", "--output", "n").stdout == "3\n"
    assert fractale(project, "resume", "-1", "--output", "text").stdout == "hello\n"
    forked_run = fractale(project, "fork", "-1", "--at", "measure", "--output", "n")
    assert forked_run.stdout == "3\n"


def test_an_unknown_output_is_an_error_before_the_run_starts(project):
    before = fractale(project, "runs", "--json").stdout
    done = run(project, "all", "--output", "row")
    assert done.returncode == 2
    assert "plan `all` has no output `row`" in done.stderr
    assert "did you mean `rows`?" in done.stderr
    assert fractale(project, "runs", "--json").stdout == before
    both = run(project, "all", "--output", "n", "--json")
    assert both.returncode == 2
    assert "exclude each other" in both.stderr


def test_a_run_that_fails_writes_nothing_but_keeps_its_outputs(project):
    done = run(project, "fails")
    assert done.returncode == 1
    assert done.stdout == ""
    assert fractale(project, "show", "-1", "--output", "n").stdout == "3\n"


def test_json_is_events_alone(project):
    lines = run(project, "all", "--json").stdout.splitlines()
    assert [json.loads(line)["event"] for line in lines][-1] == "run_finished"


def test_a_pipe_gets_the_value_and_a_terminal_gets_it_inert(project):
    assert run(project, "one", "--inputs", "hostile.yaml").stdout == f"{HOSTILE}\n"
    seen = on_a_terminal(project, "--output", "text")
    assert "\\x1b[31mred" in seen
    assert "\x1b[31m" not in seen
    assert "\x00" not in seen


def test_a_terminal_that_shows_the_summary_shows_the_outputs_once(project):
    assert "red" not in on_a_terminal(project)
    with Path(os.devnull).open("w") as nowhere:
        assert "red" in on_a_terminal(project, stderr=nowhere.fileno())


def on_a_terminal(project: Path, *words: str, stderr: int | None = None) -> str:
    """All that stdout gets, which is a terminal; stderr is another one by default."""
    master, slave = pty.openpty()
    other, others = pty.openpty()
    given = ("run", "one.yaml", "-r", "tools.yaml", "--inputs", "hostile.yaml", *words)
    options = {"stdout": slave, "stderr": others if stderr is None else stderr}
    process = forked.start(given, cwd=project, env=environment(project), **options)
    os.close(slave)
    os.close(others)
    seen = b""
    try:
        while data := os.read(master, 1 << 16):
            seen += data
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0
    os.close(master)
    os.close(other)
    return seen.decode()


def test_secrets_are_masked(project):
    done = run(project, "one", "-i", f"text=the token is {SECRET}")
    assert done.stdout == "the token is ***\n"


def test_a_full_disk_says_where_the_outputs_are(project):
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = forked.start(
            ("run", "one.yaml", "-r", "tools.yaml", "--run-id", "full"),
            cwd=project,
            env=environment(project),
            stdout=full,
        )
        _, said = done.communicate()
    finally:
        os.close(full)
    assert done.returncode == 1
    assert "run full succeeded, but cannot write its outputs: No space left on device" in said
    assert fractale(project, "show", "full", "--output", "text").stdout == "hello\n"


def test_any_value_can_be_written():
    assert outputs_text({}) == ""
    assert outputs_text({"n": float("nan")}) == '"NaN"\n'
    assert outputs_text({"a": "x\n", "b": 1}, "a") == "x\n"
    long = {"a": "word " * 100, "b": "two\nlines\n", "c": "yes", "d": float("inf")}
    text = outputs_text(long)
    assert yaml.safe_load(text) == {**long, "d": "Infinity"}
    assert "b: |\n  two\n  lines\n" in text
    assert outputs_bytes("\udcff") == b"\xff"  # a byte of a file name
    assert outputs_bytes("\ud83d") == "\ufffd".encode()  # half an emoji


def test_a_plan_without_outputs_says_so():
    check_output(None, [], "plan `p`")
    with pytest.raises(UsageError) as caught:
        check_output("n", [], "plan `p`")
    assert caught.value.hint == "it declares no `outputs`"
