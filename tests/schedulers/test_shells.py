"""Which shell reads a script, and what it says about the syntax."""

import os
import shutil
from pathlib import Path

import pytest

from fractale.schedulers.shell import SyntaxCheck, check_syntax, shell_of

ZSH = "#!/bin/zsh\nfor i (1 2) echo $i\n"


@pytest.mark.parametrize(
    ("shebang", "shell"),
    [
        ("#!/bin/bash", "bash"),
        ("#! /bin/bash -l", "bash"),
        ("#!/usr/bin/env bash", "bash"),
        ("#!/usr/bin/env -S A=1 zsh -f", "zsh"),
        ("#!/bin/tcsh -f", "tcsh"),
        ("#!/usr/bin/python3", "python3"),
        ("#!", "sh"),
    ],
)
def test_the_shebang_says_which(shebang: str, shell: str) -> None:
    for scheduler in ("slurm", "flux", "pbs", "lsf"):
        assert shell_of(shebang, scheduler) == shell


def test_without_a_shebang_it_is_the_schedulers_own_rule() -> None:
    assert shell_of("", "slurm") is None
    assert shell_of("", "pbs") == "bash"
    assert shell_of("", "pbs", login="/bin/tcsh") == "tcsh"
    assert shell_of("", "lsf") == "sh"
    # -S of PBS counts before the shebang; of several, each is one host's.
    assert shell_of("#!/bin/bash", "pbs", "/bin/csh") == "csh"
    assert shell_of("", "pbs", "/bin/zsh@h1,/bin/sh") == "zsh"


@pytest.mark.parametrize("shell", ["sh", "bash", "dash"])
def test_a_syntax_error_is_told_by_the_scripts_own_shell(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    good = check_syntax("if true; then :; fi\n", shell)
    assert good == SyntaxCheck(shell=shell)
    bad = check_syntax("if true; then :\n", shell)
    assert bad.errors
    assert not bad.errors[0].startswith("/")


def test_a_script_is_parsed_and_not_run(tmp_path: Path) -> None:
    there = tmp_path / "there"
    assert not check_syntax(f"touch {there}\n", "bash").errors
    assert not there.exists()


def test_a_warning_of_bash_is_no_error() -> None:
    checked = check_syntax("cat <<EOF\nhello\n", "bash")
    assert checked.errors == ()
    assert "here-document" in checked.warnings[0]


def test_bash_does_not_judge_other_shells(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash
    (tmp_path / "bash").symlink_to(bash)
    for shell in ("zsh", "csh", "tcsh", "ksh", "fish"):
        checked = check_syntax(ZSH, shell, path=str(tmp_path))
        assert checked.errors == ()
        assert checked.skipped == f"`{shell}` was not found on this machine"


def test_another_shell_judges_its_own(tmp_path: Path) -> None:
    """Its own `-n` is asked, csh without start-up files, with the script as input."""
    for shell in ("zsh", "tcsh"):
        program = tmp_path / shell
        program.write_text(
            f'#!/bin/sh\necho "{program}: line 2: bad $1: $(cat | wc -l)" >&2\nexit 1\n'
        )
        program.chmod(0o755)
        path = f"{tmp_path}{os.pathsep}/usr/bin"
        checked = check_syntax(ZSH, shell, path=path)
        option = "-fn" if shell == "tcsh" else "-n"
        assert checked.errors == (f"line 2: bad {option}: 2",)


def test_what_is_no_shell_is_not_checked() -> None:
    assert check_syntax("import os\n", "python3").skipped == "`python3` is not a shell"
    assert check_syntax("true\n", None).skipped == "the script does not begin with #!"
