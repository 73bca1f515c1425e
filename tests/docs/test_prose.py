"""The check of texts: what it finds, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "docs" / "style" / "check.py"
PAGE = """\
# A page

The run {0} with the next step. `goes on` in code is not prose.

```
It goes on, and what goes on goes on.
```

| a folder | [a link](going-on.md) |
"""


def findings(tmp_path: Path, text: str, suffix: str = ".md") -> list[str]:
    path = tmp_path / f"text{suffix}"
    path.write_text(text)
    words = [sys.executable, CHECK, path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == bool(done.stdout)
    return [line.removeprefix(f"{path}:") for line in done.stdout.splitlines()]


def test_words_are_found_in_prose_and_in_tables_and_not_in_code(tmp_path):
    assert findings(tmp_path, PAGE.format("goes on")) == [
        "3: Say 'continue, resume, keep running' instead of 'goes on'.",
        "9: Use the field's word: 'directory', not 'folder'.",
    ]


@pytest.mark.parametrize(("words", "found"), [(30, 0), (31, 1)])
def test_a_sentence_of_more_than_thirty_words_is_found(tmp_path, words, found):
    text = f"Short. The {'word ' * (words - 2)}word. fractale begins another one."
    assert len(findings(tmp_path, text)) == found


def test_docstrings_comments_and_messages_of_code_are_prose(tmp_path):
    code = '"""A module whose run goes on."""\n\nname = "goes on"  # it goes on\nfolder = 1\n'
    assert [each.split(":")[0] for each in findings(tmp_path, code, ".py")] == ["1", "3", "3"]


def test_texts_for_models_keep_their_wording(tmp_path):
    code = 'a = "it goes on"\n# Sent to models, as before.\nb = "it goes on"\n'
    assert [each.split(":")[0] for each in findings(tmp_path, code, ".py")] == ["1"]


def test_the_names_of_arguments_are_not_prose(tmp_path):
    code = '"""A function.\n\nArgs:\n    told: Known losses.\n    folder: Its folder.\n"""\n'
    assert findings(tmp_path, code, ".py") == [
        "5: Use the field's word: 'directory', not 'folder'."
    ]


def test_the_texts_of_make_check_keep_the_rules():
    """The documentation, and the docstrings, comments and messages of the packages listed."""
    command = ["make", "--no-print-directory", "--eval=prose: ; @echo $(PROSE)", "prose"]
    paths = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    words = [sys.executable, CHECK, *paths.split()]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == ""
