"""How long the commands take, against the imports that they can't do without and against 0.1.0."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from measure import SOURCE, Row, command, commands_in_turns, fractale, python

PEER = SOURCE / ".venv-peer"


def plan_of(steps: int) -> str:
    """A plan of that many calls of the echo tool.

    Rules and transitions are written out, since 0.1.0 asks a model where there is no rule and ends
    where there is no transition.
    """
    lines = ["name: bench", "steps:"]
    for i in range(steps):
        leads = f", transitions: {{success: s{i + 1}}}" if i + 1 < steps else ""
        call = f"name: s{i}, type: tool, tool: echo, inputs: {{n: {i}}}"
        lines.append(f"  - {{{call}, rules: {{success: [returncode == 0]}}{leads}}}")
    return "\n".join(lines) + "\n"


def write_files(folder: Path) -> None:
    """Plans and a registry in the folder."""
    for steps in (1, 20, 40):
        (folder / f"plan{steps}.yaml").write_text(plan_of(steps))
    (folder / "tools.yaml").write_text("tools:\n  - path: tools.echo\n  - path: tools.second\n")


def help_row(folder: Path) -> Row:
    """``--help`` against importing click."""
    ours, peer = commands_in_turns(
        command(fractale("--help"), cwd=folder), python("import click", cwd=folder)
    )
    return Row("fractale --help", str(ours), f"import click: {peer}", ours.over(peer), 2.5)


def completion_row(folder: Path) -> Row:
    """Shell completion against importing click."""
    env = {"_FRACTALE_COMPLETE": "bash_complete", "COMP_WORDS": "fractale ru", "COMP_CWORD": "1"}
    ours, peer = commands_in_turns(
        command(fractale(), cwd=folder, **env), python("import click", cwd=folder)
    )
    return Row("completion", str(ours), f"import click: {peer}", ours.over(peer), 2.5)


def validate_row(folder: Path) -> Row:
    """``validate`` of 20 steps against the imports."""
    ours, peer = commands_in_turns(
        command(fractale("validate", "plan20.yaml"), cwd=folder),
        python("import click, yaml, jinja2, pydantic", cwd=folder),
    )
    what = "fractale validate, 20 steps"
    words = f"import click, yaml, jinja2, pydantic: {peer}"
    return Row(what, str(ours), words, ours.over(peer), 2)


def run_rows(folder: Path) -> list[Row]:
    """One tool step and one more of them, against 0.1.0 with a server that is running."""
    words = ["--quiet", "-r", "tools.yaml"]
    env = {"PYTHONPATH": str(Path(__file__).parent)}
    with serving(folder) as port:
        one, theirs_one, forty, theirs_forty = commands_in_turns(
            command(fractale("run", "plan1.yaml", *words), cwd=folder, **env),
            peer(folder, "plan1.yaml", port),
            command(fractale("run", "plan40.yaml", *words), cwd=folder, **env),
            peer(folder, "plan40.yaml", port),
            tries=5,
        )
    ours_step = (forty.median - one.median) / 39
    theirs_step = (theirs_forty.median - theirs_one.median) / 39
    return [
        Row(
            "fractale run, one tool step",
            str(one),
            f"0.1.0, its server running: {theirs_one}",
            one.over(theirs_one),
            0.5,
        ),
        Row(
            "one more tool step of the command",
            f"{ours_step * 1000:.1f} ms",
            f"0.1.0: {theirs_step * 1000:.1f} ms",
            ours_step / theirs_step,
            0.25,
        ),
    ]


def peer(folder: Path, plan: str, port: int) -> Callable[[], float]:
    """0.1.0 on a plan; it asks for a key even where no model is called."""
    env = {"FRACTALE_MCP_PORT": str(port), "OPENAI_API_KEY": "none", "GEMINI_API_KEY": "none"}
    words = [str(PEER / "bin" / "fractale"), "run", "--backend", "openai", plan]
    return command(words, cwd=folder, **env)


@contextmanager
def serving(folder: Path):
    """Our server with the bench's tools, on a free port; ended by its own process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    said = folder / "server.txt"
    with said.open("w") as stderr:  # a pipe that nobody empties would stop the server
        process = subprocess.Popen(
            fractale("serve", "tools.yaml", "--port", str(port)),
            cwd=folder,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        while "serving" not in said.read_text():
            if process.poll() is not None:
                raise RuntimeError(f"the server did not start: {said.read_text()}")
            time.sleep(0.05)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)
