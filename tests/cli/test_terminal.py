"""A person at a terminal: what is asked, and what an answer does. On real terminals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_cli import TOOLS, environment
from test_cli import fractale as fractale_in_a_pipe

from forked import start as start_process
from fractale import questions
from fractale.testing import ModelServer
from fractale.testing.model_server import ModelRequest, Reply
from snapshot import assert_same
from tmux import Tmux, normal

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
DIALOGUE = Path(__file__).parents[1] / "support" / "dialogue.py"


class Terminal:
    """``fractale WORDS`` on a pseudo-terminal."""

    def __init__(self, project: Path, *words: str, **env: str) -> None:
        self._master, slave = pty.openpty()
        known = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", "LANG": "C.UTF-8"}
        env = {"FRACTALE_TRUST_PROJECT": "1", **env}  # the plans are their user's own
        self.process = self.started(words, project, environment(project, **known, **env), slave)
        os.close(slave)
        self.seen = ""
        self.raw = ""

    @staticmethod
    def started(words: Sequence[str], project: Path, env: dict[str, str], terminal: int) -> Any:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
        return start_process(words, cwd=project, env=env, **streams)

    def wait_for(self, text: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            assert self._read(), self.seen

    def ask_for(self, text: str) -> str:
        """Wait for a prompt below a text; returns what was seen and forgets it."""
        self.wait_for(text)
        while not self.seen.endswith("> "):
            assert self._read(), self.seen
        seen, self.seen = self.seen, ""
        return seen

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], 1.0)
        if not ready:
            return self.process.poll() is None
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self.raw += data.decode(errors="replace")
        self.seen += ANSI.sub("", data.decode(errors="replace"))
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self._master, f"{text}\n".encode())

    def key(self, byte: bytes) -> None:
        os.write(self._master, byte)

    def end(self) -> int:
        while self._read():
            pass
        code = self.process.wait(timeout=30)
        os.close(self._master)
        return code


class Script(Terminal):
    """A script on a pseudo-terminal."""

    @staticmethod
    def started(words: Sequence[str], project: Path, env: dict[str, str], terminal: int) -> Any:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
        command = [sys.executable, *words]
        return subprocess.Popen(
            command, cwd=project, env=env, start_new_session=True, preexec_fn=_take, **streams
        )


def _take() -> None:
    """Make standard input the terminal that Ctrl-C and the like are sent from."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "my_tools.py").write_text(TOOLS)
    names = ("greet", "fail", "touch")
    entries = "".join(f"  - path: my_tools.{name}\n" for name in names)
    (tmp_path / "tools.yaml").write_text(f"tools:\n{entries}")
    return tmp_path


def write(project: Path, plan: str) -> None:
    (project / "p.yaml").write_text(plan)


def run(project: Path, plan: str, *words: str, **env: str) -> Terminal:
    write(project, plan)
    return Terminal(project, "run", "p.yaml", "-r", "tools.yaml", *words, **env)


FAILS = """
name: p
steps:
  - {name: a, tool: fail}
  - {name: b, tool: touch, inputs: {path: made}}
"""


@pytest.mark.parametrize(
    ("answers", "code", "made"), [("q", 1, False), ("s", 0, True), ("rs", 0, True)]
)
def test_a_failure_asks_retry_skip_or_quit(project, answers, code, made):
    terminal = run(project, FAILS)
    for letter in answers:
        assert "no such queue" in terminal.ask_for("r retry ·")
        terminal.type(letter)
    assert terminal.end() == code
    assert (project / "made").exists() is made


APPROVE = """
name: p
steps: [{name: submit, tool: touch, inputs: {path: "made\\u001b[31m"}, approve: always}]
"""


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_an_approval_shows_the_exact_call_inert_and_does_as_told(project, answer, code):
    terminal = run(project, APPROVE)
    seen = terminal.ask_for("y once")
    assert "submit wants to call local.touch" in seen
    assert "approve: always" in seen
    assert r"made\u001b[31m" in seen
    assert "made\x1b" not in terminal.raw
    terminal.type(answer)
    if code:
        # A refused call is a failed step, and a failure asks, too.
        terminal.ask_for("r retry ·")
        terminal.type("q")
    assert terminal.end() == code
    assert len(list(project.glob("made*"))) == (0 if code else 1)


def test_yes_agrees_beforehand(project):
    terminal = run(project, APPROVE, "--yes")
    assert terminal.end() == 0
    assert "wants to call" not in terminal.seen


EACH = """
name: p
steps:
  - {name: make, tool: touch, foreach: "['a', 'b', 'c']", inputs: {path: "{{ item }}"},
     approve: always}
"""


def test_several_questions_at_once_are_asked_one_after_the_other(project):
    terminal = run(project, EACH)
    for number in (1, 2, 3):
        seen = terminal.ask_for("y once")
        assert f"question {number} of 3" in seen
        terminal.type("n" if "make[1] wants" in seen else "y")
    terminal.ask_for("r retry ·")
    terminal.type("q")
    assert terminal.end() == 1
    assert [(project / name).exists() for name in "abc"] == [True, False, True]


def test_what_is_typed_before_a_question_is_no_answer_to_it(project):
    slow = "import time\n\ndef slow() -> dict:\n    time.sleep(2)\n    return {}\n"
    (project / "my_tools.py").write_text(TOOLS + slow)
    with (project / "tools.yaml").open("a") as file:
        file.write("  - path: my_tools.slow\n")
    terminal = run(project, APPROVE.replace("steps: [", "steps: [{name: first, tool: slow}, "))
    terminal.wait_for("first")
    terminal.type("y")
    terminal.ask_for("y once")
    terminal.type("n")
    terminal.ask_for("r retry ·")
    terminal.type("q")
    assert terminal.end() == 1
    assert not list(project.glob("made*"))


@pytest.mark.parametrize(("byte", "code"), [(b"\x03", 130), (b"\x04", 4)])
def test_ctrl_c_and_the_end_of_input_leave_a_run_that_goes_on_later(project, byte, code):
    terminal = run(project, APPROVE)
    terminal.ask_for("y once")
    terminal.key(byte)
    assert terminal.end() == code
    assert "Traceback" not in terminal.seen
    assert "fractale resume" in terminal.seen
    again = Terminal(project, "resume", "-1")
    again.ask_for("y once")
    again.type("y")
    assert again.end() == 0
    assert len(list(project.glob("made*"))) == 1


SLEEPS = "#!/bin/sh\necho $$ > editor.pid\nexec sleep 300\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("plan", ["a question", "three questions", "an editor"])
def test_a_signal_while_a_question_is_open_ends_the_run_at_once(project, plan, number):
    (project / "sleeps").write_text(SLEEPS)
    (project / "sleeps").chmod(0o755)
    terminal = run(project, EACH if plan == "three questions" else APPROVE, VISUAL="./sleeps")
    terminal.ask_for("y once")
    editor = project / "editor.pid"
    if plan == "an editor":
        terminal.type("e")
        deadline = time.monotonic() + 60
        while not (editor.exists() and editor.read_text().strip()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    terminal.process.send_signal(number)
    assert terminal.end() == 4, terminal.seen
    assert "Traceback" not in terminal.seen
    assert "fractale resume" in terminal.seen
    if plan == "an editor":
        assert not Path(f"/proc/{editor.read_text().strip()}").exists()
    there = set(project.iterdir())
    done = fractale_in_a_pipe(project, "resume", "-1", "--yes")
    assert done.returncode == 0, done.stderr
    assert len(set(project.iterdir()) - there) == (3 if plan == "three questions" else 1)


# -- an agent that asks, and servers that do ------------------------------------------------------

JOKE = """
name: joke
description: Tell a joke
steps:
  - name: ask
    type: agent
    instruction: Tell a joke about what the person likes.
    model: "openai:scripted"
outputs: {joke: "{{ steps.ask.outputs.content }}"}
"""
CATEGORY = {
    "question": "Which category should the joke be about?",
    "choices": ["supercomputers", "penguins"],
    "default": "supercomputers",
}


def said(request: ModelRequest) -> list[str]:
    """What the tools have answered so far."""
    return [m["content"] for m in request.body["messages"] if m["role"] == "tool"]


class Joker:
    """Asks for a category, then for a length, then tells the joke."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, request: ModelRequest) -> Reply:
        answers = said(request)
        self.asked += 1
        if len(answers) == 0:
            return Reply(tool_calls=[("ask_person", CATEGORY)])
        if len(answers) == 1:
            return Reply(tool_calls=[("ask_person", {"question": "How long may it be?"})])
        return Reply(text=f"A {answers[1]} joke about {answers[0]}.")


@pytest.fixture
def model(project):
    script = Joker()
    write(project, JOKE)
    with ModelServer(script) as server:
        script.env = {"OPENAI_BASE_URL": server.openai_url, "OPENAI_API_KEY": "k-1234567890"}
        yield script


def tmux(project: Path, *words: str, **env: str) -> Tmux:
    command = (sys.executable, "-m", "fractale.cli", *words)
    env = {"FRACTALE_TRUST_PROJECT": "1", **env}
    return Tmux(project, *command, env=environment(project, **env))


def test_a_question_of_an_agent_on_a_terminal(project, model):
    with tmux(project, "run", "p.yaml", **model.env) as screen:
        first = screen.ask_for("something else")
        screen.type("9")
        screen.ask_for("is not a valid answer")
        screen.type("2")
        screen.ask_for("How long may it be?")
        screen.type("very short")
        assert screen.end() == 0
        last = screen.screen()
    assert_same("terminal_question", normal(first))
    assert_same("terminal_question_answered", normal(last))
    assert "A very short joke about penguins." in last
    assert model.asked == 3


def test_something_else_is_asked_for_in_words(project, model):
    with tmux(project, "run", "p.yaml", **model.env) as screen:
        screen.ask_for("something else")
        screen.type("3")
        screen.ask_for("what?")
        screen.type("7")
        screen.ask_for("How long may it be?")
        screen.type("")
        screen.ask_for("an empty answer is not valid")
        screen.type("long")
        assert screen.end() == 0
        assert "A long joke about 7." in screen.screen()


def test_an_interrupted_question_is_asked_again_and_earlier_ones_are_not(project, model):
    with tmux(project, "run", "p.yaml", **model.env) as screen:
        screen.ask_for("something else")
        screen.type("")
        screen.ask_for("How long may it be?")
        screen.key("C-c")
        assert screen.end() == 130
    with tmux(project, "resume", "-1", **model.env) as screen:
        shown = screen.ask_for("How long may it be?")
        assert "category" not in shown
        screen.type("short")
        assert screen.end() == 0
        assert "A short joke about supercomputers." in screen.screen()
    assert model.asked == 3


def test_an_approval_on_a_terminal_explained_edited_and_given(project):
    script = "#!/bin/bash\\n\\e[2Jecho \\u202ehi\\n"
    write(
        project,
        'name: p\nsteps: [{name: submit, tool: touch, approve: always, inputs: {path: "'
        + script
        + '"}}]\n',
    )
    editor = project / "editor"
    editor.write_text("#!/bin/sh\necho 'path: edited.sh' > $1\n")
    editor.chmod(0o755)
    words = ("run", "p.yaml", "-r", "tools.yaml")
    with tmux(project, *words, EDITOR=str(editor)) as screen:
        screen.ask_for("y once")
        screen.type("?")
        screen.ask_for("with exactly these arguments")
        screen.type("x")
        screen.ask_for("one of: y, a, n, e, ?")
        screen.type("e")
        shown = screen.ask_for("y call it with these")
        screen.type("n")
        screen.ask_for("y once")
        screen.type("e")
        screen.ask_for("y call it with these")
        screen.type("y")
        assert screen.end() == 0
    assert_same("terminal_approval", normal(shown))
    assert (project / "edited.sh").exists()


# -- the moving part ------------------------------------------------------------------------------

PAUSED = '''
import pathlib
import time


def paused() -> dict:
    """Wait for a file."""
    print("said by a tool")
    while not pathlib.Path("go").exists():
        time.sleep(0.02)
    return {}
'''
CLOCK = re.compile(r"\b\d:\d\d\b")
TWO_STEPS = """
name: p
description: A plan with a title that is long enough to be broken on a narrow terminal
steps:
  - {name: first, tool: paused, description: "Waits for a file, which takes a while, as you see"}
  - {name: second, tool: greet, inputs: {who: you}}
"""


@pytest.fixture
def paused(project):
    (project / "my_tools.py").write_text(TOOLS + PAUSED)
    with (project / "tools.yaml").open("a") as file:
        file.write("  - path: my_tools.paused\n")
    write(project, TWO_STEPS)
    return project


def test_keys_and_a_new_width_leave_no_old_lines_of_a_running_step(paused):
    with tmux(paused, "run", "p.yaml", "-r", "tools.yaml") as screen:
        screen.wait_for("● first")
        for key in ("x", "Enter", "Enter", "y", "Enter", "Up"):
            screen.key(key)
        for size in ((40, 45), (60, 20), (110, 30), (40, 12), (100, 45)):
            screen.resize(*size)
            # What is left of an old frame stays. Two clocks: of the step, and of the run.
            screen.until(
                lambda shown: (
                    [shown.count("●"), shown.count("   second"), len(CLOCK.findall(shown))]
                    == [1, 1, 2]
                )
            )
        screen.until(lambda shown: shown.count("said by a tool") == 1)
        (paused / "go").touch()
        assert screen.end() == 0
        last = screen.screen()
    assert "●" not in last
    assert "xy" not in last.replace("\n", ""), "typed keys are not shown"
    assert last.count("✓ first") == 1
    assert last.count("success") == 1


def test_the_terminal_shows_keys_again_after_a_run(paused):
    (paused / "go").touch()
    line = f"{sys.executable} -m fractale.cli run p.yaml -r tools.yaml; stty -a; read x"
    with Tmux(
        paused, "sh", "-c", line, env=environment(paused, FRACTALE_TRUST_PROJECT="1")
    ) as screen:
        shown = screen.wait_for("echoe")
    assert " echo " in shown


# -- one question at a time, without a run --------------------------------------------------------


def dialogue(project: Path, *asked: dict, **env: str) -> Terminal:
    (project / "questions.json").write_text(json.dumps(asked))
    return Script(project, str(DIALOGUE), "questions.json", **env)


def answer_of(terminal: Terminal) -> object:
    terminal.wait_for("answer: ")
    assert terminal.end() == 0
    return json.loads(terminal.seen.rpartition("answer: ")[2])


DRAFT = "name: tune\nsteps:\n  - name: run\n    tool: flux_submit_job\n    inputs: {nodes: 4}\n"
CHANGES = "--- 1\n+++ 2\n@@ -5 +5 @@\n-    inputs: {nodes: 8}\n+    inputs: {nodes: 4}\n"
REVIEW = questions.review("tune", DRAFT, CHANGES, 2)


def test_a_drafted_plan_on_a_terminal(project):
    (project / "questions.json").write_text(json.dumps([REVIEW]))
    words = (sys.executable, str(DIALOGUE), "questions.json")
    with Tmux(project, *words, env=environment(project)) as screen:
        shown = screen.ask_for("a accept")
        screen.type("f")
        screen.ask_for("what should change?")
        screen.type("two nodes will do")
        screen.wait_for('answer: {"feedback": "two nodes will do"}')
    assert_same("terminal_review", normal(shown))


@pytest.mark.parametrize(("key", "answer"), [("a", "accept"), ("r", "reject")])
def test_a_drafted_plan_is_accepted_or_rejected(project, key, answer):
    terminal = dialogue(project, REVIEW)
    terminal.ask_for("a accept")
    assert "\x1b[" in terminal.raw, "the YAML is highlighted"
    terminal.type("")
    terminal.ask_for("one of")
    terminal.type(key)
    assert answer_of(terminal) == answer


def test_a_drafted_plan_is_edited_in_the_persons_editor(project):
    editor = project / "editor"
    editor.write_text("#!/bin/sh\nsed -i s/4/2/ $1\n")
    editor.chmod(0o755)
    terminal = dialogue(project, REVIEW, VISUAL=str(editor))
    terminal.ask_for("a accept")
    terminal.type("e")
    assert answer_of(terminal) == {"plan": DRAFT.replace("4", "2")}


def test_without_an_editor_a_plan_is_read_from_a_file_and_arguments_from_a_line(project):
    (project / "new.yaml").write_text("name: new\n")
    (project / "bin").mkdir()
    call = questions.approval("s", "submit", {"nodes": 4}, "")
    terminal = dialogue(project, REVIEW, call, PATH=str(project / "bin"))
    terminal.ask_for("a accept")
    terminal.type("e")
    terminal.ask_for("a file with the changed plan")
    terminal.type("missing.yaml")
    terminal.ask_for("missing.yaml")
    terminal.type("e")
    terminal.ask_for("a file with the changed plan")
    terminal.type("new.yaml")
    terminal.wait_for('answer: {"plan": "name: new\\n"}')
    terminal.ask_for("y once")
    for wrong in ("[1]", "{bad", ""):
        terminal.type("e")
        terminal.ask_for("the arguments as JSON")
        terminal.type(wrong)
        terminal.ask_for("y once")
    terminal.type("e")
    terminal.ask_for("the arguments as JSON")
    terminal.type('{"nodes": 2}')
    terminal.ask_for("y call it with these")
    terminal.type("y")
    assert answer_of(terminal) == {"arguments": {"nodes": 2}}


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("", {"always": {"fix": "all"}}),
        ("to, text", {"always": {"fix": {"to": "ann", "text": "hi"}}}),
        ("none", "always"),
    ],
)
def test_always_says_which_arguments_must_stay(project, typed, answer):
    arguments = {"to": "ann", "text": "hi"}
    call = questions.approval("s", "send", arguments, "", server="mail", definition="1" * 64)
    terminal = dialogue(project, call)
    assert "s wants to call mail.send" in terminal.ask_for("y once")
    terminal.type("a")
    terminal.ask_for("these arguments stay the same: to,text")
    terminal.type("cc")
    assert "no argument `cc`" in terminal.ask_for("y once")
    terminal.type("a")
    terminal.ask_for("Enter all of them")
    terminal.type("back")
    terminal.ask_for("y once")
    terminal.type("a")
    terminal.ask_for("Enter all of them")
    terminal.type(typed)
    assert answer_of(terminal) == answer


@pytest.mark.parametrize(("key", "answer"), [("a", "accept"), ("r", "reject")])
def test_a_tool_that_changed_is_shown_and_accepted_or_rejected(project, key, answer):
    diff = "--- description before\n+++ description now\n@@ -1 +1 @@\n-Send.\n+Send \x1b[2J keys."
    terminal = dialogue(project, questions.tool_changed("s", "mail", {"send": "1" * 64}, diff))
    shown = terminal.ask_for("a accept the change")
    assert "server mail changed its tool send; s would use it" in shown
    assert "+Send \\x1b[2J keys." in shown
    terminal.type("y")
    terminal.ask_for("one of: a, r")
    terminal.type(key)
    assert answer_of(terminal) == answer


def test_an_editor_that_fails_leaves_the_question_as_it_was(project):
    terminal = dialogue(project, REVIEW, EDITOR="false")
    terminal.ask_for("a accept")
    terminal.type("e")
    terminal.ask_for("failed with exit code")
    terminal.type("r")
    assert answer_of(terminal) == "reject"


FORM = {
    "type": "object",
    "properties": {
        "nodes": {"type": "integer", "minimum": 1, "maximum": 8, "description": "How many"},
        "queue": {"enum": ["debug", "long"], "default": "debug", "title": "Queue"},
        "mail": {"type": "string"},
        "exclusive": {"type": "boolean", "default": False},
    },
    "required": ["nodes"],
}


def test_a_servers_question_is_asked_field_by_field(project):
    asked = questions.elicitation("submit", "hpc", "The job needs a size.\x1b[2J", FORM)
    (project / "questions.json").write_text(json.dumps([asked]))
    words = (sys.executable, str(DIALOGUE), "questions.json")
    with Tmux(project, *words, env=environment(project)) as screen:
        screen.ask_for("nodes (integer from 1 to 8)")
        screen.type("many")
        screen.ask_for("not a whole number")
        screen.type("")
        screen.ask_for("this field is required")
        screen.type("4")
        screen.ask_for("Queue")
        screen.type("2")
        screen.ask_for("mail (string, optional)")
        screen.type("")
        screen.ask_for("exclusive")
        screen.type("")
        shown = screen.ask_for("y send it")
        screen.type("y")
        screen.wait_for("answer: ")
        last = screen.screen()
    assert_same("terminal_elicitation", normal(shown))
    content = '{"queue": "long", "exclusive": false, "nodes": 4}'
    assert f'answer: {{"action": "accept", "content": {content}}}' in last


def test_a_servers_question_that_breaks_its_schema_is_asked_again(project):
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 8}}}
    terminal = dialogue(project, questions.elicitation("submit", "hpc", "?", schema))
    terminal.ask_for("n (integer to 8, optional)")
    terminal.type("9")
    terminal.ask_for("greater than the maximum")
    terminal.type("8")
    assert answer_of(terminal) == {"action": "accept", "content": {"n": 8}}


@pytest.mark.parametrize(
    ("schema", "typed", "answer"),
    [
        (FORM, ["/decline"], {"action": "decline"}),
        (FORM, ["3", "/cancel"], {"action": "cancel"}),
        (FORM, ["3", "1", "", "", "n"], {"action": "decline"}),
        ({"type": "object", "properties": {}}, ["x", "c"], {"action": "cancel"}),
        ({"type": "object", "properties": {}}, ["y"], {"action": "accept", "content": {}}),
    ],
)
def test_a_servers_question_can_be_declined(project, schema, typed, answer):
    terminal = dialogue(project, questions.elicitation("submit", "hpc", "Agree?", schema))
    for text in typed:
        terminal.ask_for("")
        terminal.type(text)
    assert answer_of(terminal) == answer


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["a"], "again"),
        (["f"], "failed"),
        (["d", ""], {"outputs": {}}),
        (["d", "[1]", '{"id": 3}'], {"outputs": {"id": 3}}),
    ],
)
def test_a_call_that_the_run_was_killed_in(project, typed, answer):
    terminal = dialogue(project, questions.in_doubt("submit", "submit_job", {"nodes": 2}))
    assert "may or may not have run" in terminal.ask_for("a call it again")
    for number, text in enumerate(typed):
        if number:
            terminal.ask_for("")
        terminal.type(text)
    assert answer_of(terminal) == answer


@pytest.mark.parametrize(
    ("value", "typed", "answer"),
    [
        ({"question": "Which color?"}, ["", "green"], "green"),
        ("How many?", ["3"], 3),
        (
            {"action_requests": [{"name": "order", "args": {"what": "tea"}}]},
            ["perhaps", "yes"],
            {"decisions": [{"type": "approve"}]},
        ),
    ],
)
def test_a_question_of_a_langgraph_agent(project, value, typed, answer):
    terminal = dialogue(project, questions.interrupt("buy", "clerk", value))
    assert "the agent clerk asks" in terminal.ask_for("answer with")
    for text in typed:
        terminal.type(text)
    assert answer_of(terminal) == answer


def test_nobody_who_types_any_more_leaves_every_question_unanswered(project):
    terminal = dialogue(project, REVIEW, REVIEW)
    terminal.ask_for("a accept")
    terminal.key(b"\x04")
    assert terminal.end() == 0
    assert terminal.seen.count("answer: MISSING") == 2


# -- without a person -----------------------------------------------------------------------------


def pipe(project: Path, model: Joker, *words: str) -> subprocess.CompletedProcess[str]:
    return fractale_in_a_pipe(project, *words, env=model.env)


def test_answers_of_a_file_take_a_run_in_a_pipe_to_its_end(project, model):
    (project / "answers.yaml").write_text(
        f'ask:\n  "{CATEGORY["question"]}": 2\n  How long may it be?: short\n'
    )
    done = pipe(project, model, "run", "p.yaml", "--answers", "answers.yaml", "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["outputs"] == {"joke": "A short joke about penguins."}
    given = [(e["answer"], e["by"]) for e in events if e["event"] == "answered"]
    assert given == [("penguins", "answers"), ("short", "answers")]


def test_a_run_in_a_pipe_waits_and_is_answered_question_by_question(project, model):
    first = pipe(project, model, "run", "p.yaml")
    assert first.returncode == 4
    assert_same("pipe_waiting", normal(first.stderr))
    command = re.search(r"fractale (answer \w+ ask=1)", first.stderr)
    second = pipe(project, model, *command[1].split(), "--wait")
    assert second.returncode == 4, second.stderr
    assert "How long may it be?" in second.stderr
    third = pipe(project, model, "resume", "-1", "--answer", "ask=short", "--json")
    assert third.returncode == 0, third.stderr
    outputs = json.loads(third.stdout.splitlines()[-1])["outputs"]
    assert outputs == {"joke": "A short joke about supercomputers."}
    assert model.asked == 3


WRONG = [
    (("--answer", "ask"), "STEP=ANSWER"),
    (("--answer", "ask=9"), "is not a valid answer"),
    (("--answer", "aks=1"), "did you mean `ask`?"),
    (("--answers", "none.yaml"), "none.yaml"),
    (("--answers", "list.yaml"), "mapping of steps"),
]


def test_a_wrong_answer_is_wrong_use_and_nothing_is_lost(project, model):
    (project / "list.yaml").write_text("- a\n")
    assert pipe(project, model, "run", "p.yaml").returncode == 4
    for words, says in WRONG:
        wrong = pipe(project, model, "resume", "-1", *words)
        assert wrong.returncode == 2, wrong.stderr
        assert says in wrong.stderr
    right = pipe(project, model, "resume", "-1", "--answer", "ask=1")
    assert right.returncode == 4, right.stderr
    assert "How long may it be?" in right.stderr


SERVER = """
from fastmcp import Context, FastMCP

server = FastMCP("hpc")


@server.tool
async def submit(ctx: Context) -> dict:
    with open("calls.txt", "a") as file:
        file.write("called\\n")
    size = await ctx.elicit("How many nodes shall it have?", int)
    return {"action": size.action, "nodes": getattr(size, "data", None)}


server.run(show_banner=False)
"""
ELICITS = """
name: p
steps: [{name: submit, tool: hpc.submit}]
outputs: {nodes: "{{ steps.submit.outputs.nodes }}"}
"""


@pytest.fixture
def asking_server(project):
    (project / "server.py").write_text(SERVER)
    own = project / ".config" / "fractale"  # a project's servers are confined
    own.mkdir(parents=True)
    server = {"command": sys.executable, "args": ["server.py"]}
    (own / "config.yaml").write_text(json.dumps({"servers": {"hpc": server}}))
    write(project, ELICITS)


def test_a_server_asks_in_the_middle_of_a_call(project, asking_server):
    terminal = Terminal(project, "run", "p.yaml")
    assert "the server hpc asks, in step submit" in terminal.ask_for("How many nodes")
    terminal.type("4")
    assert terminal.end() == 0
    assert re.search(r"nodes +4", terminal.seen)
    assert (project / "calls.txt").read_text() == "called\n"


def test_what_a_server_asks_waits_for_an_answer_from_elsewhere(project, asking_server):
    first = fractale_in_a_pipe(project, "run", "p.yaml")
    assert first.returncode == 4, first.stderr
    assert "How many nodes shall it have?" in first.stderr
    assert re.search(r"fractale answer \w+ submit=VALUE", first.stderr)
    wrong = fractale_in_a_pipe(project, "resume", "-1", "--answer", "submit=many")
    assert wrong.returncode == 2, wrong.stderr
    second = fractale_in_a_pipe(project, "resume", "-1", "--answer", "submit=4", "--json")
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout.splitlines()[-1])["outputs"] == {"nodes": 4}


def test_items_of_a_foreach_are_answered_one_by_one(project):
    write(project, EACH)
    call: Callable[..., subprocess.CompletedProcess[str]] = fractale_in_a_pipe
    first = call(project, "run", "p.yaml", "-r", "tools.yaml")
    assert first.returncode == 4
    answers = " ".join(f"'make[{n}]=yes'" for n in range(3))
    assert re.search(rf"fractale answer \w+ {re.escape(answers)}", first.stderr)
    second = call(project, "resume", "-1", "--answer", "make[1]=yes")
    assert second.returncode == 4
    assert [(project / name).exists() for name in "abc"] == [False, True, False]
    assert "make[1]=yes" not in second.stderr
    third = call(project, "resume", "-1", "--answer", "make=yes")
    assert third.returncode == 0, third.stderr
    assert all((project / name).exists() for name in "abc")
