"""The Makefile's environments: which Python they are made of, and what a failed install leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))

# Stands in for a Python: it has a version, and makes environments whose pip fails if told to.
PYTHON = """\
#!/bin/sh
echo "$0 $*" >> {log}
case "$*" in
--version) echo "Python {version}.0";;
"-c import"*exit*) test {minor} -ge 11;;
"-c import"*) echo "{version} {prefix}";;
"-m venv "*)
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp {pip} "$3/bin/pip"
  printf '#!/bin/sh\\n' > "$3/bin/fractale" && chmod +x "$3/bin/fractale";;
*) exit 1;;
esac
"""
PIP = """\
#!/bin/sh
echo "pip $*" >> {log}
test ! -e {broken}
"""


class Site:
    """A clone with stand-ins for Python, in which `make` is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log, self.broken = folder / "log", folder / "broken"
        shutil.copy(ROOT / "Makefile", folder)
        for name in ("pyproject.toml", "plans", "registries", "requirements"):
            (folder / name).symlink_to(ROOT / name)
        self._write("pip", PIP.format(log=self.log, broken=self.broken))

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def python(self, version: str) -> Path:
        values = {"version": version, "minor": version.split(".")[1], "prefix": self.folder}
        text = PYTHON.format(log=self.log, pip=self.folder / "pip", **values)
        return self._write(f"python{version}", text)

    def make(self, *words: str) -> tuple[int, list[str], str]:
        """The exit code, what the stand-ins were called with, and what make says on stderr."""
        self.log.write_text("")
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        done = subprocess.run(
            ["make", *words], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )
        return done.returncode, self.log.read_text().splitlines(), done.stderr

    @property
    def made_of(self) -> str:
        """The version of the Python that `.venv` is made of."""
        text = (self.folder / ".venv/bin/python").read_text()
        return text.split('echo "Python ')[1].split(".0")[0]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def installs(calls: list[str]) -> int:
    return sum(call.startswith("pip install") for call in calls)


@pytest.mark.parametrize("goal", ["demo", "test"])
def test_an_old_python_is_refused_before_anything_is_made(site, goal):
    code, calls, told = site.make(f"PYTHON={site.python('3.9')}", goal)
    assert code != 0
    assert "python3.9: Python 3.9.0. fractale needs Python 3.11 or newer." in told
    assert f"make PYTHON=python3.11 {goal}" in told
    assert installs(calls) == 0
    assert not (site.folder / ".venv").exists()


def test_a_python_that_is_not_there_is_refused_too(site):
    code, _, told = site.make("PYTHON=no-such-python", "demo")
    assert code != 0
    assert "no-such-python: not found. fractale needs Python 3.11 or newer." in told
    assert not (site.folder / ".venv").exists()


def test_what_is_set_up_is_not_set_up_again(site):
    python = f"PYTHON={site.python('3.12')}"
    code, calls, told = site.make(python, "demo")
    assert code == 0, told
    assert installs(calls) > 0
    for words in ([python, "demo"], ["demo"]):  # the second finds its Python in .venv
        code, calls, told = site.make(*words)
        assert (code, installs(calls)) == (0, 0), told


def test_an_installation_that_failed_is_begun_anew(site):
    python = f"PYTHON={site.python('3.12')}"
    site.broken.touch()
    assert site.make(python, "demo")[0] != 0
    (site.folder / ".venv/left-half-made").touch()
    site.broken.unlink()
    code, _, told = site.make(python, "demo")
    assert code == 0, told
    assert not (site.folder / ".venv/left-half-made").exists()


def test_what_is_added_and_fails_leaves_the_demo_as_it_was(site):
    python = f"PYTHON={site.python('3.12')}"
    assert site.make(python, "demo")[0] == 0
    site.broken.touch()
    assert site.make(python, "test")[0] != 0
    assert site.make(python, "demo")[0] == 0


def test_another_python_makes_the_environment_anew(site):
    assert site.make(f"PYTHON={site.python('3.12')}", "demo")[0] == 0
    assert site.made_of == "3.12"
    code, calls, told = site.make(f"PYTHON={site.python('3.13')}", "demo")
    assert code == 0, told
    assert installs(calls) > 0
    assert site.made_of == "3.13"


def test_an_environment_whose_python_is_gone_is_made_anew(site):
    python = f"PYTHON={site.python('3.12')}"
    assert site.make(python, "demo")[0] == 0
    (site.folder / ".venv/bin/python").unlink()
    code, calls, told = site.make(python, "demo")
    assert code == 0, told
    assert installs(calls) > 0


def test_the_lock_is_used_unless_the_newest_are_asked_for(site):
    python = f"PYTHON={site.python('3.12')}"
    _, locked, _ = site.make(python, "demo")
    assert any("--require-hashes -r requirements/demo.txt" in call for call in locked)
    _, newest, _ = site.make(python, "NEWEST=yes", "demo")
    assert not any("requirements/demo.txt" in call for call in newest)
    assert any(call.endswith("-e .[hpc,draw,local]") for call in newest)
    assert (site.folder / ".venv").exists(), "the newest are installed beside the locked ones"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_names_no_host_and_has_a_hash_for_each_release(path):
    text = path.read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--extra-index" not in text
    releases = [line for line in text.splitlines() if "==" in line]
    assert releases
    assert all(line.endswith("\\") for line in releases), "a release without a hash"


def test_the_locks_agree_with_the_ranges_and_with_each_other():
    """What is installed here obeys them: the tests run with the lock, or with newer releases."""
    found = {path.stem: set(releases(path)) for path in LOCKS}
    for name in ("build", "demo", "lammps"):
        assert found[name] <= found["test"], f"requirements/{name}.txt has other releases"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    locked = dict(found["test"])
    for text in wanted:
        asked = Requirement(text)
        version = locked[asked.name.lower().replace("_", "-")]
        assert asked.specifier.contains(version, prereleases=True), text


def releases(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text().splitlines() if "==" in line]
    return [tuple(line.split(" ")[0].split("==")) for line in lines]
