"""`fractale graph`: where a drawing goes, and in which form."""

from __future__ import annotations

import pytest

from fractale.cli import run_command as fractale

PLAN = """
name: tuned
inputs: {nodes: 2}
steps:
  - name: build
    job: {command: [make, -j, 4], tasks: 1, time: 10m}
  - name: run
    job:
      script: |
        #!/bin/bash

        srun lmp -in in.lj
      nodes: "{{ inputs.nodes }}"
      time: "{{ inputs.nodes }}m"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "p.yaml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "start"),
    [
        ("p.svg", b"<svg"),
        ("p.PNG", b"\x89PNG"),
        ("p.mmd", b"---\ntitle:"),
        ("p.txt", b"tuned"),
    ],
)
def test_a_file_is_of_the_form_that_its_name_says(folder, capsys, file, start):
    assert fractale(["graph", "p.yaml", "-o", file]) == 0
    assert capsys.readouterr() == ("", f"wrote {file}\n")
    assert (folder / file).read_bytes().startswith(start)


def test_a_form_that_is_named_counts_more_than_the_file(folder):
    assert fractale(["graph", "p.yaml", "-f", "svg", "-o", "p.txt"]) == 0
    assert (folder / "p.txt").read_bytes().startswith(b"<svg")


def test_a_file_that_can_not_be_written_is_told(folder, capsys):
    assert fractale(["graph", "p.yaml", "-o", "nowhere/p.svg"]) == 2
    assert "cannot write nowhere/p.svg" in capsys.readouterr().err


def test_a_job_is_drawn_with_what_it_runs_and_takes(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert fractale(["graph", "p.yaml"]) == 0
    said = capsys.readouterr().out
    assert "make -j 4, 1 task, 10m" in said
    assert "srun lmp -in in.lj\n" in said  # its nodes and its time are known only at run time
