"""A stranger's plan: what it would do is shown in full, and asked about before its first run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_cli import fractale
from test_terminal import Terminal

from fractale.cli.consent import plan_digest
from fractale.plan.build import load_plan

HIDDEN = "echo the-end-of-a-long-script"
PLAN = """\
name: stranger
inputs: {who: world}
servers: []
agents: [some.module.Agent]
steps:
  - name: run
    job: {scheduler: local, command: [sh, -c, "echo {{ inputs.who }} > ran.txt"]}
"""
LONG, WORD, GAP = "x" * 400, "y" * 300, " " * 3000
SHOWN = """\
name: stranger
inputs: {who: world, pw: {secret: true}}
agents: [some.module.Agent]
steps:
  - name: script
    job:
      scheduler: slurm
      script: "#!/bin/sh\\n# \\e]0;nothing\\acomment\\nLONG\\n"
  - name: word
    job: {scheduler: local, command: [sh, -c, "echo a\\nrm -rf it", "GAP;touch x"], env: {A: b}}
  - name: mail
    tool: send
    inputs: {to: "{{ inputs.who }}@x.example", text: "WORD!", pw: "{{ inputs.pw }}", n: [1, 2]}
  - {name: more, plan: sub/inner.yaml}
  - {name: think, prompt: judge, model: "openai:gpt-5", instruction: "Think of {{ steps.mail }}."}
"""
for name, text in {"LONG": LONG + HIDDEN, "WORD": WORD, "GAP": GAP}.items():
    SHOWN = SHOWN.replace(name, text)
INNER = 'name: inner\nsteps: [{name: deep, tool: wipe, inputs: {path: "/home"}}]\n'
SETTINGS = {
    "openai_base_url": "http://user:pass@proxy.example/v1?key=abc",
    "servers": {
        "mail": {"url": "https://mail.example/mcp?token=t0p"},
        "own": {"command": "serve-it", "args": ["--fast", "--api-key=12345678"]},
    },
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    folder = tmp_path / "theirs"
    (folder / "sub").mkdir(parents=True)
    (folder / "plan.yaml").write_text(PLAN.replace("agents: [some.module.Agent]\n", ""))
    (folder / "shown.yaml").write_text(SHOWN)
    (folder / "sub" / "inner.yaml").write_text(INNER)
    return tmp_path


def test_a_dry_run_shows_everything_in_full(project):
    work = project / "work"
    (work / ".fractale").mkdir()
    (work / ".fractale" / "config.yaml").write_text(json.dumps(SETTINGS))
    env = {"FRACTALE_TRUST_PROJECT": "1", "HOME": str(project)}
    (work / "r.yaml").write_text("tools: [{path: my_tools.send, optional: true}]\n")
    done = fractale(work, "run", "../theirs/shown.yaml", "--dry-run", env=env)
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert "\x1b" not in out
    for words in (
        "script  job  submitted to slurm",
        r"│ # \x1b]0;nothing\x07comment",
        f"│ {LONG}{HIDDEN}",
        "command  sh -c 'echo a\n",
        "│ rm -rf it' ' [3000 blanks] ;touch x'",
        'env  {"A": "b"}',
        '"world@x.example"',
        f'"{WORD}!"',
        'pw    "***"',
        "more/deep  tool  wipe",
        '"/home"',
        '"Think of {{ steps.mail }}."',
        f"includes   {project / 'theirs' / 'sub' / 'inner.yaml'}",
        "imports    some.module.Agent   named by the plan (only if it is a registered sub-agent)",
        "connects   mail: https://mail.example/mcp?token=***",
        "starts     own: serve-it --fast --api-key=***",
        "sends      prompts to openai:gpt-5: http://user:***@proxy.example/v1?key=***",
    ):
        assert words in out, words
    data = json.loads(
        fractale(work, "run", "../theirs/shown.yaml", "--dry-run", "--json", env=env).stdout
    )
    assert data["included"] == [str(project / "theirs" / "sub" / "inner.yaml")]
    steps = {step["name"]: step for step in data["steps"]}
    assert steps["mail"]["inputs"]["to"] == "world@x.example"
    assert HIDDEN in steps["script"]["job"]["script"]
    assert steps["more/deep"]["inputs"] == {"path": "/home"}
    assert data["imports"][0]["path"] == "some.module.Agent"
    assert [each["starts"] for each in data["server_addresses"]][1].startswith("serve-it")
    assert data["sent_to"] == [
        {"model": "openai:gpt-5", "address": "http://user:***@proxy.example/v1?key=***"}
    ]


DECIDED = """\
name: decided
inputs: {out: results}
servers: []
steps:
  - name: make
    script: "echo 1 > {{ inputs.out }}/a"
    creates: ["{{ inputs.out }}/a"]
    needs: "in-{{ run.id }}.txt"
    judge: "Is WORDS in {{ inputs.out }} good?"
  - name: poll
    tool: look
    inputs: {key: k, approve: always}
    until: "state == 'WORDS'"
    timeout: 1h
    retry: {attempts: 4, on: failure}
  - {name: sure, ask: "Sure?", choices: [go, stop], default: go, default_after: 90m}
on_failure: [{name: tell, tool: send, approve: never}]
finally: [{name: wipe, tool: wipe, inputs: {path: "/home"}, approve: always}]
""".replace("WORDS", LONG)


def test_a_dry_run_shows_in_full_what_decides_about_a_step(project):
    (project / "theirs" / "decided.yaml").write_text(DECIDED)
    env = {"FRACTALE_TRUST_PROJECT": "1", "HOME": str(project)}
    work, words = project / "work", ("run", "../theirs/decided.yaml", "--dry-run")
    done = fractale(work, *words, env=env)
    assert done.returncode == 0, done.stderr
    shown = [re.sub(" +", " ", line).strip() for line in done.stdout.splitlines()]
    for line in (
        'creates ["results/a"]',
        'needs ["in-{{ run.id }}.txt"]',
        f'judge "Is {LONG} in results good?"',
        f"until \"state == '{LONG}'\"",
        'inputs.approve "always"',  # an argument with the name of a key
        'default_after "1h30m"',
    ):
        assert line in shown, line
    assert any('"on": "failure"' in line for line in shown)
    handlers = shown[shown.index("tell tool send") :]
    assert handlers[1] == 'approve "never"'
    assert handlers[handlers.index("wipe tool wipe") + 2] == 'approve "always"'
    data = json.loads(fractale(work, *words, "--json", env=env).stdout)
    steps = {step["name"]: step for step in data["steps"]}
    assert steps["make"]["creates"] == ["results/a"]
    assert steps["make"]["needs"] == ["in-{{ run.id }}.txt"]
    assert steps["make"]["judge"].endswith("in results good?")
    assert steps["poll"]["until"] == f"state == '{LONG}'"
    assert (steps["poll"]["timeout"], steps["poll"]["retry"]["on"]) == ("1h", "failure")
    assert steps["sure"]["default_after"] == "1h30m"
    assert (steps["tell"]["approve"], steps["wipe"]["approve"]) == ("never", "always")


def test_a_dry_run_names_what_registries_import(project):
    work = project / "work"
    (work / "my_tools.py").write_text('def send() -> dict:\n    """Send."""\n    return {}\n')
    (work / "r.yaml").write_text("tools: [my_tools.send]\n")
    words = ("run", "../theirs/plan.yaml", "--dry-run", "-r", "r.yaml")
    assert "imports    my_tools.send   named by r.yaml" in fractale(work, *words).stdout


@pytest.mark.parametrize("words", [("run", "--dry-run"), ("validate",), ("graph",)])
def test_only_what_the_person_names_is_imported_to_look_at_a_plan(project, words):
    work, marker = project / "work", project / "marker"
    (work / "my_tools.py").write_text(
        f'open({str(marker)!r}, "w")\n\ndef send() -> dict:\n    """Send."""\n    return {{}}\n'
    )
    (work / "r.yaml").write_text("tools: [my_tools.send]\n")
    (work / "p.yaml").write_text(
        "name: p\nagents: [my_tools.Agent]\nsteps: [{name: s, tool: my_tools.send}]\n"
    )
    env = {"PYTHONPATH": str(work), "HOME": str(project)}
    fractale(work, words[0], "p.yaml", *words[1:], env=env)
    assert not marker.exists()
    if words[0] != "graph":  # it takes none
        (work / "p.yaml").write_text("name: p\nsteps: [{name: s, tool: send}]\n")
        fractale(work, words[0], "p.yaml", *words[1:], "-r", "r.yaml", env=env)
        assert marker.exists()


# -- the first run on a terminal ------------------------------------------------------------------

ASKS = "Run it? [y/a/N]"


def on_terminal(
    project: Path, *words: str, answer: str | None = None, **env: str
) -> tuple[int, str]:
    known = {"FRACTALE_TRUST_PROJECT": "", "HOME": str(project), **env}
    screen = Terminal(project / "work", *words, **known)
    if answer is not None:
        screen.wait_for(ASKS)
        screen.type(answer)
    code = screen.end()
    return code, screen.seen


RUN = ("run", "../theirs/plan.yaml")


def ran(project: Path) -> bool:
    made = project / "work" / "ran.txt"
    there = made.exists()
    made.unlink(missing_ok=True)
    return there


def test_it_is_shown_and_asked_about_once(project):
    for answer in ("", "n", "no", "x", "yess"):
        code, seen = on_terminal(project, *RUN, answer=answer)
        assert code == 2, seen
        assert "sh -c 'echo world > ran.txt'" in seen
        assert "was not run" in seen
        assert "fractale trust ../theirs/plan.yaml" in seen
        assert not ran(project)
    code, seen = on_terminal(project, *RUN, answer="y")
    assert (code, ran(project)) == (0, True), seen
    code, seen = on_terminal(project, *RUN)
    assert (code, ran(project)) == (0, True), seen
    assert ASKS not in seen
    path = str(project / "theirs" / "plan.yaml")
    assert on_terminal(project, "run", path)[0] == 0
    assert ran(project)
    code, seen = on_terminal(project, *RUN, "-i", "who=you")  # the inputs are one's own
    assert (code, ran(project), ASKS in seen) == (0, True, False), seen


def test_a_change_is_asked_about_and_shown(project):
    assert on_terminal(project, *RUN, answer="y")[0] == 0
    plan = project / "theirs" / "plan.yaml"
    plan.write_text(plan.read_text().replace("> ran.txt", "> ran.txt; rm it"))
    code, seen = on_terminal(project, *RUN, answer="n")
    assert code == 2
    assert "changed since you agreed to it" in seen
    assert "+    command  sh -c 'echo {{ inputs.who }} > ran.txt; rm it'" in seen.replace("\r", "")


def test_a_change_of_an_included_plan_is_asked_about(project):
    outer = project / "theirs" / "outer.yaml"
    outer.write_text("name: outer\nservers: []\nsteps: [{name: all, plan: plan.yaml}]\n")
    words = ("run", "../theirs/outer.yaml")
    code, seen = on_terminal(project, *words, answer="y")
    assert code == 0, seen
    assert "> ran.txt'" in seen or '> ran.txt"' in seen
    before = plan_digest(load_plan(outer))
    plan = project / "theirs" / "plan.yaml"
    plan.write_text(plan.read_text().replace("> ran.txt", "> ran.txt; touch more"))
    assert plan_digest(load_plan(outer)) != before
    code, seen = on_terminal(project, *words, answer="n")
    assert (code, "touch more" in seen) == (2, True)


def test_what_is_wrong_is_told_before_anything_is_asked(project):
    code, seen = on_terminal(project, *RUN, "-i", "nobody=x")
    assert (code, ASKS in seen, "nobody" in seen) == (2, False, True)
    plan = project / "theirs" / "plan.yaml"
    plan.write_text(plan.read_text().replace("inputs.who", "inputs.whom"))
    code, seen = on_terminal(project, *RUN)
    assert (code, ASKS in seen, "whom" in seen) == (3, False, True)


def test_yes_shows_and_does_not_ask(project):
    code, seen = on_terminal(project, *RUN, "--yes")
    assert (code, ran(project)) == (0, True), seen
    assert "sh -c 'echo world > ran.txt'" in seen
    assert ASKS not in seen


def test_without_a_terminal_it_runs_as_ever(project):
    env = {"FRACTALE_TRUST_PROJECT": "", "HOME": str(project)}
    done = fractale(project / "work", *RUN, env=env)
    assert (done.returncode, ran(project)) == (0, True), done.stderr
    assert "sh -c" not in done.stderr


def test_trusted_folders_are_not_asked_about(project):
    work = project / "work"
    env = {"HOME": str(project), "FRACTALE_TRUST_PROJECT": ""}
    assert on_terminal(project, *RUN, "--trust-project")[0] == 0
    assert on_terminal(project, *RUN, FRACTALE_TRUST_PROJECT="1")[0] == 0
    assert ran(project)
    # A plan in the working directory is as strange as any, until the directory is trusted.
    mine = work / "mine.yaml"
    mine.write_text((project / "theirs" / "plan.yaml").read_text())
    assert on_terminal(project, "run", "mine.yaml", answer="n")[0] == 2
    done = fractale(work, "trust", "--plans", ".", env=env)
    assert done.returncode == 0, done.stderr
    assert on_terminal(project, "run", "mine.yaml")[0] == 0
    mine.write_text(mine.read_text() + "# changed\n")
    assert on_terminal(project, "run", "mine.yaml")[0] == 0
    outside = mine.read_text().replace("steps:", "steps:\n  - {name: o, plan: ../theirs/plan.yaml}")
    mine.write_text(outside)
    assert on_terminal(project, "run", "mine.yaml", answer="n")[0] == 2  # it includes another's
    assert on_terminal(project, *RUN, answer="n")[0] == 2
    assert fractale(work, "trust", "--remove", ".", env=env).returncode == 0
    mine.write_text((project / "theirs" / "plan.yaml").read_text())
    assert on_terminal(project, "run", "mine.yaml", answer="n")[0] == 2


def test_all_plans_of_a_directory_can_be_agreed_to_at_the_question(project):
    assert on_terminal(project, *RUN, answer="a")[0] == 0
    plan = project / "theirs" / "plan.yaml"
    plan.write_text(plan.read_text() + "# changed\n")
    code, seen = on_terminal(project, *RUN)
    assert (code, ASKS in seen) == (0, False), seen


def test_a_plan_in_a_trusted_project_is_not_asked_about(project):
    work = project / "work"
    env = {"HOME": str(project), "FRACTALE_TRUST_PROJECT": ""}
    (work / ".fractale").mkdir()
    (work / ".fractale" / "config.yaml").write_text("max_attempts: 500\n")
    (work / "mine.yaml").write_text((project / "theirs" / "plan.yaml").read_text())
    assert fractale(work, "trust", env=env).returncode == 0
    assert on_terminal(project, "run", "mine.yaml")[0] == 0
    assert on_terminal(project, *RUN, answer="n")[0] == 2
    (work / "mine.yaml").chmod(0o666)  # whoever may write to it may change what is run
    assert on_terminal(project, "run", "mine.yaml", answer="n")[0] == 2


def test_trust_shows_a_plan_and_keeps_it_as_it_is(project):
    env = {"HOME": str(project), "FRACTALE_TRUST_PROJECT": ""}
    work = project / "work"
    done = fractale(work, "trust", "../theirs/plan.yaml", env=env)
    assert done.returncode == 0, done.stderr
    assert "command  sh -c 'echo {{ inputs.who }} > ran.txt'" in done.stdout
    assert f"trusted: {project / 'theirs' / 'plan.yaml'}" in done.stdout
    assert on_terminal(project, *RUN)[0] == 0
    shown = fractale(work, "trust", "--show", env=env).stdout
    assert f"plan     {project / 'theirs' / 'plan.yaml'}" in shown
    assert fractale(work, "trust", "--remove", "../theirs/plan.yaml", env=env).returncode == 0
    assert on_terminal(project, *RUN, answer="n")[0] == 2
    assert fractale(work, "trust", "--plans", "../theirs/plan.yaml", env=env).returncode == 2


def test_a_fork_to_another_plan_is_asked_about(project):
    assert on_terminal(project, *RUN, answer="y")[0] == 0
    other = project / "theirs" / "other.yaml"
    other.write_text(
        (project / "theirs" / "plan.yaml").read_text().replace("> ran.txt", "> ran.txt; id")
    )
    code, seen = on_terminal(project, "fork", "-1", "--at", "run", answer=None)
    assert code == 0, seen
    words = ("fork", "-1", "--at", "run", "--plan", "../theirs/other.yaml")
    ran(project)
    code, seen = on_terminal(project, *words, answer="n")
    assert (code, ran(project)) == (2, False), seen
    assert "ran.txt; id" in seen
