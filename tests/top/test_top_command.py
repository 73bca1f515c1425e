"""`fractale top` as a command: on a real terminal, without one, and without its extra."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import forked
from fractale.settings import Settings
from made_runs import MadeRuns
from tmux import Tmux
from top_runs import answered, written

COLOR = re.compile(r"\x1b\[[0-9;]*3[0-7]m|\x1b\[[0-9;]*38;")
WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None
sys.stdin.isatty = sys.stderr.isatty = lambda: True
from fractale.cli import main
main(["top"])
"""


def words(*more: str) -> list[str]:
    return [sys.executable, "-m", "fractale.cli", "top", *more]


def test_a_real_terminal_refuses_a_call_and_leaves(made: MadeRuns) -> None:
    record = made.make("approval", "tmux-no", code=4)
    with Tmux(made.folder, *words(), env=made.env, size=(80, 24)) as terminal:
        terminal.wait_for("fractale  ")
        terminal.wait_for("tmux-no")
        terminal.type("/tmux-no")
        terminal.wait_for("Esc all (tmux-no)")
        terminal.key("a")
        screen = terminal.wait_for("y once")
        assert "#FLUX: -N2" in screen
        terminal.wait_for("\n>\n")  # a line can be typed
        terminal.type("n")
        terminal.wait_for("answered: run tmux-no")
        terminal.key("q")
        assert terminal.end() == 0
    assert [event["answer"] for event in answered(record)] == [False]


def test_an_editor_ends_when_the_question_is_answered_elsewhere(made: MadeRuns) -> None:
    record = made.make("approval", "tmux-edit", code=4)
    env = {**made.env, "EDITOR": "sh -c 'echo the editor is open; exec sleep 600'"}
    with Tmux(made.folder, *words(), env=env, size=(80, 24)) as terminal:
        terminal.wait_for("tmux-edit")
        terminal.type("/tmux-edit")
        terminal.wait_for("Esc all (tmux-edit)")
        terminal.key("a")
        terminal.wait_for("\n>\n")
        terminal.type("e")
        terminal.wait_for("the editor is open")
        made.call("answer", "tmux-edit", "review=no", codes=(0, 1, 3))
        terminal.wait_for("not done: it was answered elsewhere")
        terminal.key("Escape")
        terminal.wait_for("RUN ")
        terminal.key("C-c")
        assert terminal.end() == 0
    assert [event["answer"] for event in answered(record)] == [False]


def test_a_call_is_made_as_it_was_changed_in_an_editor(made: MadeRuns) -> None:
    record = made.make("approval", "tmux-changed", code=4)
    env = {**made.env, "EDITOR": "sed -i s/N2/N4/"}
    with Tmux(made.folder, *words(), env=env, size=(80, 24)) as terminal:
        terminal.wait_for("tmux-changed")
        terminal.type("/tmux-changed")
        terminal.wait_for("Esc all (tmux-changed)")
        terminal.key("a")
        terminal.wait_for("\n>\n")
        terminal.type("e")
        asks = "y call it with these arguments"
        screen = terminal.until(lambda screen: asks in screen and "\n>\n" in screen)
        assert "#FLUX: -N4" in screen
        terminal.type("y")
        terminal.wait_for("answered: run tmux-changed")
        terminal.key("q")
        assert terminal.end() == 0
    (answer,) = [event["answer"] for event in answered(record)]
    assert "#FLUX: -N4" in str(answer)


@pytest.mark.parametrize("term", ["vt100", "xterm-256color"])
def test_without_color_nothing_is_colored(settings: Settings, tmp_path: Path, term: str) -> None:
    written(settings.state_dir)
    out = tmp_path / "out"
    command = f"env NO_COLOR=1 TERM={term} {' '.join(words())}"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C"}
    with Tmux(tmp_path, "script", "-qc", command, str(out), env=env, size=(80, 24)) as terminal:
        screen = terminal.wait_for("m2q9 translate")
        assert ">m2q9" in screen
        terminal.key("C-c")
        terminal.end()
    written_out = out.read_text(encoding="utf-8")
    assert not COLOR.search(written_out)
    assert "translate" in written_out


def test_it_needs_a_terminal(tmp_path: Path, processes: forked.Forking) -> None:
    process = forked.start(["top"], cwd=tmp_path, env={"HOME": str(tmp_path)})
    out, err = process.communicate()
    assert process.returncode == 2
    assert not out
    assert "needs a terminal" in err
    assert "fractale watch RUN" in err


@pytest.mark.parametrize("missing", ["textual", "fractale.top.letters"])
def test_without_the_extra_it_says_what_to_install(tmp_path: Path, missing: str) -> None:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, missing],
        cwd=tmp_path,
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    is_extra = missing == "textual"
    assert done.returncode == (2 if is_extra else 1)
    assert ("pip install 'fractale[top]'" in done.stderr) is is_extra
    assert ("fractale watch" in done.stderr) is is_extra
