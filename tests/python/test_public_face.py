"""The public names: complete, typed, shipped with their types, and imported when used."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import fractale
from fractale import errors

ROOT = Path(__file__).parents[2]
PACKAGES = ["fractale", "fractale.plan", "fractale.runs", "fractale.studio", "fractale.testing"]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_listed_and_there(name):
    package = import_module(name)
    assert set(package.__all__) <= set(dir(package))
    for each in package.__all__:
        assert getattr(package, each) is not None
    with pytest.raises(AttributeError, match="has no attribute 'arunn'"):
        _ = package.arunn


def test_every_error_is_public():
    tree = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.FractaleError)
    }
    assert tree <= set(fractale.__all__)


def test_the_version_is_that_of_the_installed_package():
    assert fractale.__version__ == version("fractale")
    assert "__version__" in dir(fractale)


def test_to_list_the_names_imports_no_engine():
    text = (
        "import sys, fractale; dir(fractale); fractale.__version__; "
        "print([m for m in sys.modules if m.split('.')[0] in ('langgraph', 'langchain_core')])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_wheel_has_the_mark_of_types(tmp_path):
    built = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(built) as wheel:
        names = wheel.namelist()
        points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "fractale = fractale.testing.plugin" in wheel.read(points).decode()
    assert "fractale/py.typed" in names
    assert not [name for name in names if name.startswith("tests/")]


@pytest.mark.parametrize("checker", ["pyright", "mypy"])
def test_a_users_script_is_checked(checker):
    """`make check` runs both over everything; this is for a change of the public functions."""
    script = ROOT / "tests/types/user_script.py"
    done = subprocess.run(
        [sys.executable, "-m", checker, script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
