"""The command line as programs and people meet it: a real process, its streams and exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest

import forked
from fractale.cli import COMMANDS, cli, run_command

ANSI = re.compile(r"\x1b\[")
PLAN = """
name: hello
description: Say hello
inputs: {who: world}
steps:
  - {name: greet, tool: greet, inputs: {who: "{{ inputs.who }}"}}
outputs: {text: "{{ steps.greet.outputs.text }}"}
"""
APPROVE = "name: p\nsteps: [{name: s, tool: touch, inputs: {path: x}, approve: always}]\n"
ENDLESS = "name: p\nsteps: [{name: a, tool: fail, transitions: {failure: a}}]\n"
TOOLS = '''
import time

def greet(who: str) -> dict:
    """Say hello."""
    print("noise on stdout from inside a tool")
    return {"text": f"hello {who}"}

def fail() -> dict:
    """Fail with an exit code."""
    return {"returncode": 3, "stderr": "no such queue"}

def wait(seconds: float = 30) -> dict:
    """Wait."""
    print("waiting", flush=True)
    time.sleep(seconds)
    return {}

def touch(path: str) -> dict:
    """Make a file."""
    open(path, "w").close()
    return {}
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with plans, tools and a registry, as a person would have it."""
    (tmp_path / "my_tools.py").write_text(TOOLS)
    tools = "".join(f"  - path: my_tools.{name}\n" for name in ("greet", "fail", "wait", "touch"))
    (tmp_path / "tools.yaml").write_text(f"tools:\n{tools}")
    (tmp_path / "hello.yaml").write_text(PLAN)
    return tmp_path


def environment(project: Path, **more: str) -> dict[str, str]:
    names = ("PATH", "LANG", "TMPDIR")
    kept = {k: v for k, v in os.environ.items() if k in names or k.startswith("COVERAGE_")}
    own = {"HOME": str(project), "PYTHONPATH": str(project), forked.TRUSTED: "1"}
    return {**kept, **own, **more}


def fractale(project: Path, *words: str, **options) -> subprocess.CompletedProcess[str]:
    env = environment(project, **options.pop("env", {}))
    return forked.run(words, cwd=project, env=env, timeout=60, **options)


def started(project: Path, *words: str, until: str, **env: str) -> tuple[forked.Process, str]:
    """A process of the command line that has said something on stderr, and the line of it."""
    process = forked.start(words, cwd=project, env=environment(project, **env))
    assert process.stderr is not None
    while until not in (line := process.stderr.readline()):
        assert line, f"it ended before it said `{until}`"
    return process, line


def run(project: Path, *words: str, **options) -> subprocess.CompletedProcess[str]:
    return fractale(project, "run", words[0], "-r", "tools.yaml", *words[1:], **options)


def write(project: Path, name: str, text: str) -> str:
    (project / name).write_text(textwrap.dedent(text))
    return name


def test_a_run_in_a_pipe_is_plain_text(project):
    done = run(project, "hello.yaml", "-i", "who=Ada")
    assert done.returncode == 0, done.stderr
    assert "hello Ada" in done.stderr
    assert done.stdout == "hello Ada\n"
    assert not ANSI.search(done.stdout + done.stderr)


def test_json_is_one_event_a_line_and_nothing_else_on_stdout(project):
    done = run(project, "hello.yaml", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    last = events[-1]
    assert done.returncode == 0
    assert last["event"] == "run_finished"
    assert last["status"] == "success"
    assert last["outputs"] == {"text": "hello world"}
    assert last["steps"] == [
        {
            "name": "greet",
            "attempt": 1,
            "outcome": "success",
            "event": "success",
            "decided_by": "default",
            "error": None,
        }
    ]
    assert set(last["usage"]) >= {"input_tokens", "output_tokens", "total_tokens", "cost"}
    assert all(event["run"] == last["run"] for event in events if event["event"] != "log")


def test_quiet_tells_only_how_it_ended(project):
    loud, quiet = run(project, "hello.yaml"), run(project, "hello.yaml", "--quiet")
    assert quiet.returncode == 0
    assert 0 < len(quiet.stderr.splitlines()) < len(loud.stderr.splitlines())


@pytest.mark.parametrize(
    ("plan", "words", "code", "says"),
    [
        ("name: p\nsteps: [{name: s, tool: fail}]\n", [], 1, "no such queue"),
        ("name: p\nsteps: [{name: s, tool: greet}]\n", [], 3, "who"),
        ("name: p\nsteps: [{name: s, tool: great, inputs: {who: x}}]\n", [], 3, "greet"),
        ("name: p\nsteps: [{nam: s, tool: greet}]\n", [], 3, "did you mean `name`"),
        (PLAN, ["-i", "whom=x"], 2, "did you mean `who`"),
        (PLAN, ["-i", "who"], 2, "NAME=VALUE"),
        (PLAN, ["--limit", "tokns=3"], 2, "unknown limit"),
        (PLAN, ["--no-such-option"], 2, "--no-such-option"),
        (APPROVE, [], 4, "resume"),
        (ENDLESS, ["--limit", "steps=1"], 5, "limit"),
    ],
)  # fmt: skip
def test_every_end_has_its_exit_code_and_says_why(project, plan, words, code, says):
    write(project, "p.yaml", plan)
    done = run(project, "p.yaml", *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_plan_that_is_not_there(project):
    done = run(project, "nowhere.yaml")
    assert done.returncode in (2, 3)
    assert "nowhere.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_key_names_the_variable_and_a_way_without_one(project):
    write(project, "p.yaml", "name: p\nsteps: [{name: s, instruction: hi, allow_tools: false}]\n")
    done = run(project, "p.yaml")
    assert done.returncode == 2
    assert "GEMINI_API_KEY" in done.stderr
    assert "--backend local" in done.stderr


def test_debug_shows_the_traceback_wherever_it_stands(project):
    done = run(project, "hello.yaml", "-i", "whom=x", "--debug")
    assert "Traceback" in done.stderr


def test_an_unknown_command_names_the_nearest(project):
    done = fractale(project, "vaildate")
    assert done.returncode == 2
    assert "validate" in done.stderr


def test_dry_run_says_what_would_run_and_calls_nothing(project):
    write(project, "p.yaml", "name: p\nsteps: [{name: s, tool: touch, inputs: {path: made}}]\n")
    done = run(project, "p.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "touch" in done.stdout
    assert not (project / "made").exists()
    assert not (project / ".fractale").exists()
    found = json.loads(run(project, "p.yaml", "--dry-run", "--json").stdout)
    assert found["tools"] == ["touch"]


def test_a_dry_run_shows_the_values_that_a_set_step_names(project):
    steps = "steps: [{name: s, set: {nodes: '{{ inputs.n }}', queue: debug}}]"
    write(project, "p.yaml", f"name: p\ninputs: {{n: 2}}\n{steps}\n")
    found = json.loads(run(project, "p.yaml", "--dry-run", "--json").stdout)
    assert found["steps"][0]["inputs"] == {"nodes": 2, "queue": "debug"}


def test_validate_reports_every_error_of_every_file(project):
    write(project, "a.yaml", "name: p\nsteps: [{name: s, tool: t, transitions: {success: x}}]\n")
    write(project, "b.yaml", "steps: [{name: s, tool: t, colour: red}]\n")
    done = fractale(project, "validate", "hello.yaml", "a.yaml", "b.yaml")
    assert done.returncode == 3
    assert "a.yaml:2:" in done.stderr
    assert "colour" in done.stderr
    assert "3 errors" in done.stderr
    found = json.loads(fractale(project, "validate", "a.yaml", "b.yaml", "--json").stdout)
    assert found["problems"][0]["code"] == "unknown-step"


def test_validate_online_checks_tools_and_arguments(project):
    write(project, "p.yaml", "name: p\nsteps: [{name: s, tool: greet, inputs: {whom: x}}]\n")
    assert fractale(project, "validate", "p.yaml").returncode == 0
    done = fractale(project, "validate", "p.yaml", "--online", "-r", "tools.yaml")
    assert done.returncode == 3
    assert "whom" in done.stderr


WRONG = """\
name: p
steps:
  - {name: a, tool: greeet, inputs: {name: x}}
  - {name: b, tool: greet, inputs: {whom: x}, transitions: {success: nowhere}}
  - {name: c, agent: optimise, instruction: x}
"""


@pytest.mark.parametrize("how", [("validate",), ("run",), ("run", "--dry-run")])
def test_what_needs_no_network_is_checked_with_everything_else(project, how):
    write(project, "p.yaml", WRONG)
    command, *flags = how
    done = fractale(project, command, "p.yaml", *flags, "-r", "tools.yaml")
    assert done.returncode == 3
    for words in (
        "`greeet`; did you mean `greet`?",
        "has no argument `whom`",
        "no step is named `nowhere`",
        "`optimise`; did you mean `optimize`?",
    ):
        assert words in done.stderr
    assert not (project / ".fractale").exists()


def test_what_is_missing_in_a_registry_may_be_of_a_server(project):
    words = ("validate", "p.yaml", "-r", "tools.yaml")
    write(project, "p.yaml", "name: p\nsteps: [{name: s, tool: elsewhere}]\n")
    done = fractale(project, *words, env={"FRACTALE_MCP_PORT": "9"})
    assert done.returncode == 0
    assert (
        "no registry on the command line has `elsewhere`; check the servers with --online"
        in done.stderr
    )
    write(project, "p.yaml", "name: p\nservers: [no]\nsteps: [{name: s, tool: greet}]\n")
    done = fractale(project, *words, env={"FRACTALE_MCP_PORT": "9"})
    assert done.returncode == 3
    assert "unknown-server" in done.stderr


def test_a_registry_that_is_wrong_is_told_with_what_is_wrong_with_the_plan(project):
    write(project, "p.yaml", "name: p\nsteps: [{name: s, tool: t, transitions: {success: x}}]\n")
    write(project, "r.yaml", "tools: [{path: no_such_module.t}]\n")
    done = fractale(project, "validate", "p.yaml", "-r", "r.yaml")
    assert done.returncode == 3
    assert "unknown-step" in done.stderr
    assert "no_such_module" in done.stderr


def test_schema_is_json_and_version_is_a_line(project):
    assert json.loads(fractale(project, "schema").stdout)["$schema"]
    assert re.match(r"\d+\.\d+\.\d+\n$", fractale(project, "version").stdout)


def test_list_works_without_a_key_and_without_a_server(project):
    found = json.loads(fractale(project, "list", "--json").stdout)
    assert found["tools"] == []
    assert "ask" in [agent["name"] for agent in found["agents"]]
    assert {agent["server"] for agent in found["agents"]} == {"fractale"}
    with_tools = json.loads(fractale(project, "list", "--json", "-r", "tools.yaml").stdout)
    assert "greet" in [tool["name"] for tool in with_tools["tools"]]


def test_list_tells_a_server_that_is_not_there(project):
    done = fractale(project, "list", env={"FRACTALE_MCP_PORT": "9"})
    assert done.returncode == 0
    assert "not connected" in done.stdout


def test_config_shows_where_a_value_is_from_and_no_secret(project):
    env = {"OPENAI_API_KEY": "sk-canary-0123456789", "FRACTALE_LLM_PROVIDER": "openai"}
    done = fractale(project, "config", env=env)
    assert "environment FRACTALE_LLM_PROVIDER" in done.stdout
    assert "canary" not in done.stdout + done.stderr


@pytest.mark.parametrize("form", ["text", "mermaid", "svg", "png"])
def test_graph_draws_without_a_network(project, form):
    words, env = ["graph", "hello.yaml", "-f", form], environment(project)
    with (project / "drawn").open("wb") as file:
        process = forked.start(words, cwd=project, env=env, stdout=file.fileno())
        assert process.wait() == 0, process.communicate()
    drawn = (project / "drawn").read_bytes()
    starts = {"mermaid": b"", "svg": b"<svg", "png": b"\x89PNG", "text": b""}[form]
    assert starts in drawn[:200]
    if form != "png":
        assert b"greet" in drawn


@pytest.mark.parametrize(
    "words",
    [["--help"], ["run", "--help"], ["list"], ["validate", "hello.yaml"], ["config"], ["schema"]],
)
def test_a_closed_stdout_gives_no_traceback(project, words):
    reader, writer = os.pipe()
    os.close(reader)
    process = forked.start(words, cwd=project, env=environment(project), stdout=writer)
    os.close(writer)
    _, told = process.communicate(timeout=60)
    assert "Traceback" not in told
    assert "Exception ignored" not in told


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)]
)
def test_a_stopped_run_can_be_resumed(project, number, code):
    seconds = 30 if number == signal.SIGINT else 2
    write(
        project,
        "p.yaml",
        f"""
        name: p
        steps:
          - {{name: first, tool: touch, inputs: {{path: first}}}}
          - {{name: long, tool: wait, inputs: {{seconds: {seconds}}}}}
          - {{name: last, tool: touch, inputs: {{path: last}}}}
        """,
    )
    process, _ = started(project, "run", "p.yaml", "-r", "tools.yaml", until="waiting")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stdout + stderr
    assert "Traceback" not in stdout + stderr
    assert "fractale resume" in stdout + stderr
    assert not (project / "last").exists()
    if number == signal.SIGINT:
        # The call that was cut may have done its work: it is not made again without being asked.
        (project / "my_tools.py").write_text(TOOLS.replace("time.sleep(seconds)", "pass"))
        asked = fractale(project, "resume", "-1")
        assert asked.returncode == 4, asked.stderr
        done = fractale(project, "resume", "-1", "--answer", "long=again")
    else:
        done = fractale(project, "resume", "-1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "last").exists()


def test_a_run_in_the_background_ignores_ctrl_c(project):
    """A shell without job control and `nohup` start it so; Ctrl-C is meant for others then."""
    step = "{name: long, tool: wait, inputs: {seconds: 1}}"
    write(project, "p.yaml", f"name: p\nsteps: [{step}]\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "fractale.cli", "run", "p.yaml", "-r", "tools.yaml"],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert process.stderr is not None
    while "waiting" not in (line := process.stderr.readline()):
        assert line, "it ended before its step began"
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr


def test_a_run_that_was_killed_goes_on_where_it_was(project):
    write(
        project,
        "p.yaml",
        """
        name: p
        steps:
          - {name: first, tool: touch, inputs: {path: first}}
          - {name: long, tool: wait}
        """,
    )
    process, _ = started(project, "run", "p.yaml", "-r", "tools.yaml", until="waiting")
    process.kill()
    process.communicate(timeout=30)
    (project / "first").unlink()
    (project / "my_tools.py").write_text(TOOLS.replace("time.sleep(seconds)", "pass"))
    asked = fractale(project, "resume", "-1")
    assert asked.returncode == 4, asked.stderr
    done = fractale(project, "resume", "-1", "--answer", "long=again", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads(done.stdout.splitlines()[-1])["steps"]
    assert [step["name"] for step in steps] == ["first", "long"]
    assert not (project / "first").exists(), "a finished step ran again"


def test_help_and_completion_import_nothing_heavy():
    heavy = ("langgraph", "langchain_core", "mcp", "fastmcp", "pydantic", "jinja2", "yaml", "rich")
    code = (
        "import sys\n"
        "from fractale.cli import run_command\n"
        "assert run_command(['--help']) == 0\n"
        f"found = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_one_process_can_run_any_number_of_commands(capsys):
    assert run_command(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in COMMANDS:  # each is a module that stands in the package by its name
        assert run_command([name, "--help"]) == 0
        assert f"Usage: fractale {name}" in capsys.readouterr().out
    assert run_command(["--help"]) == 0
    assert capsys.readouterr().out == listed
    assert [each.value for each in cli.shell_complete(click.Context(cli), "re")] == [
        "resume",
        "report",
        "replay",
    ]


def test_validate_graph_and_dry_run_import_no_engine(project):
    heavy = ("langgraph", "langchain_core", "mcp", "fastmcp")
    code = (
        "import sys\n"
        "from fractale.cli import run_command\n"
        "assert run_command(['validate', 'hello.yaml']) == 0\n"
        "assert run_command(['graph', 'hello.yaml']) == 0\n"
        "assert run_command(['run', 'hello.yaml', '--dry-run']) == 0\n"
        "assert run_command(['list', '--help']) == 0\n"
        f"found = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_completion_offers_plans(project):
    done = subprocess.run(
        ["fractale"],
        executable=str(Path(sys.executable).parent / "fractale"),
        cwd=project,
        env=environment(
            project,
            _FRACTALE_COMPLETE="bash_complete",
            COMP_WORDS="fractale run he",
            COMP_CWORD="2",
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "hello.yaml" in done.stdout


def test_no_credential_is_in_the_process_list(project):
    write(project, "p.yaml", "name: p\nsteps: [{name: long, tool: wait, inputs: {seconds: 5}}]\n")
    secret = "canary-in-the-environment-99"
    words = ("run", "p.yaml", "-r", "tools.yaml")
    process, _ = started(project, *words, until="waiting", OPENAI_API_KEY=secret)
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    process.kill()
    process.communicate(timeout=30)
    assert not [line for line in lines if secret.encode() in line]


def test_serve_serves_a_registry_until_it_is_told_to_stop(project):
    import httpx

    words = ("serve", "tools.yaml", "--port", "0")
    process, line = started(project, *words, until="serving at")
    url = line.split("serving at ")[1].split()[0]
    health = httpx.get(f"{url.rpartition('/')[0]}/health", trust_env=False)
    found = fractale(
        project,
        "list",
        "tools",
        "--json",
        env={"FRACTALE_MCP_PORT": url.split(":")[2].split("/")[0]},
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert health.json()["tools"] == 4
    assert "default" in [tool["server"] for tool in json.loads(found.stdout)["tools"]]


def test_serve_tells_every_wrong_file_at_once(project):
    write(project, "a.yaml", "tools: [{path: my_tools.nothing}]\n")
    write(project, "b.yaml", "tols: []\n")
    done = fractale(project, "serve", "a.yaml", "b.yaml")
    assert done.returncode == 3
    assert "b.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_version_and_config_as_json(project):
    assert json.loads(fractale(project, "version", "--json").stdout)["langgraph"]
    rows = json.loads(fractale(project, "config", "--json").stdout)
    assert "provider" in [row["setting"] for row in rows]
