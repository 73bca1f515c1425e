"""The code and the data of a tool that its key must have, in the forms in which code names them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fractale.code_files import UnknownCode, program_code, python_code


def _write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_py", ".py").replace("_csv", ".csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("code", "file"),
    [
        ("import statistics", "statistics.py"),  # hides the module of Python
        ("from importlib import import_module as load\nload('helper')", "helper.py"),
        ("import importlib\nimportlib.import_module(name='helper')", "helper.py"),
        ("import importlib\nimportlib.import_module('.helper', __package__)", "helper.py"),
        ("open(HERE / 'table.csv')", "table.csv"),
        ("open(HERE / 'data' / name)", "data/x.csv"),
        ("import subprocess, sys\nsubprocess.run([sys.executable, 'helper.py'])", "helper.py"),
    ],
)
def test_what_code_names_is_part_of_it(tmp_path, code, file):
    folder = tmp_path / "pkg"
    _write(folder, tool_py=code, statistics_py="", helper_py="", table_csv="1", data__x_csv="1")
    before = python_code(folder / "tool.py", [folder], tmp_path)
    assert str(folder / file) in before.files
    (folder / file).write_text("y = 2\n")
    assert python_code(folder / "tool.py", [folder], tmp_path).as_dict() != before.as_dict()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys\nsys.path.insert(0, 'lib')\nimport elsewhere", "changes `sys.path`"),
        ("import importlib\nimportlib.import_module(name=x)", "name is computed"),
        ("import importlib\nimportlib.import_module('.helper', p)", "package is computed"),
        ("import runpy\nrunpy.run_path(x)", "may run any code"),
        ("exec(open(x).read())", "may run any code"),
        ("match = = 3", "cannot be read as Python"),
    ],
)
def test_code_that_runs_what_it_does_not_name_is_unknown(tmp_path, code, words):
    _write(tmp_path, tool_py=code)
    with pytest.raises(UnknownCode, match=words):
        python_code(tmp_path / "tool.py", [tmp_path])


def test_a_program_that_code_starts_is_part_of_it(tmp_path):
    program = tmp_path / "bin" / "simulate"
    _write(tmp_path, bin__simulate="1", tool_py="import subprocess\nsubprocess.run(['simulate'])")
    program.chmod(0o755)
    environment = {"PATH": str(program.parent)}

    def code():
        return program_code(sys.executable, ["tool.py"], environment, tmp_path).as_dict()

    before = code()
    assert code() == before
    program.write_text("another build")
    assert code() != before


def test_a_name_in_the_working_directory_is_noted_whether_the_file_is_there_or_not(tmp_path):
    _write(tmp_path, tool_py="open('later.dat'), open('plain'), 'no file'", plain="1")
    found = python_code(tmp_path / "tool.py", [tmp_path], tmp_path)
    assert found.names == {"later.dat", "plain"}


@pytest.mark.parametrize(
    "code",
    [
        "open('log.txt', 'a')",
        "open('log.txt', mode='w')",
        "Path('log.txt').open('a')",
        "Path('log.txt').write_text(x)",
    ],
)
def test_a_file_that_code_only_writes_is_not_part_of_it(tmp_path, code):
    _write(tmp_path / "pkg", tool_py=code)
    (tmp_path / "pkg" / "log.txt").write_text("1")
    found = python_code(tmp_path / "pkg" / "tool.py", [tmp_path], tmp_path)
    assert "log.txt" not in found.names
    assert len(found.files) == 1
    (tmp_path / "pkg" / "tool.py").write_text(f"{code}\nopen('log.txt')")
    found = python_code(tmp_path / "pkg" / "tool.py", [tmp_path], tmp_path)
    assert len(found.files) == 2
