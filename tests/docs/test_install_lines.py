"""How to install fractale is written the same everywhere, and is right before and after a release.

An index may have only fractale 0.1.0, another program: pip must then refuse, and not install it.
"""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
INSTALL = re.compile(r"\bpip install (?:-\S+ )*'?(fractale(?:\[[\w,-]+\])?[^\s'`)]*)")
FROM_GIT = re.compile(r"pip install 'fractale(?:\[[\w,-]+\])? @ git\+")


def lines() -> list[tuple[str, str]]:
    """Page and requirement of each line that installs fractale."""
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    return [
        (page.relative_to(ROOT).as_posix(), found[1])
        for page, text in texts.items()
        for found in INSTALL.finditer(FROM_GIT.sub("from git", text))
    ]


def test_no_line_can_install_the_other_program():
    found = lines()
    assert found
    wrong = [each for each in found if Requirement(each[1]).specifier.contains("0.1.0")]
    assert not wrong, f"write >=0.2 in these: {wrong}"


def test_the_readme_shows_the_three_ways():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install 'fractale>=0.2'" in text
    assert FROM_GIT.search(text)
    assert re.search(r"git clone \S+ fractale", text)
    assert "pip install ." in text


def test_the_extras_that_the_pages_name_exist():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {extra for _, text in lines() for extra in Requirement(text).extras}
    assert named <= set(project["optional-dependencies"])
