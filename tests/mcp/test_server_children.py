"""A started server's children end with it, however they hide; batch jobs do not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fractale.mcp import McpToolbox, Timing
from fractale.mcp.children import started_by
from fractale.settings import STARTED_BY, ServerSettings
from servers.running import FOLDER, exists

SLEEP = "[sys.executable, '-c', 'import time; time.sleep(600)']"
DEAF = (
    "[sys.executable, '-c', 'import signal, time; "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)']"
)
CHILDREN = {
    # Without the server's pipes: while a child holds them, the server's end is not seen.
    "child": f"said(subprocess.Popen({SLEEP}, **NOTHING).pid)",
    "own session": f"said(subprocess.Popen({SLEEP}, start_new_session=True, **NOTHING).pid)",
    "deaf": f"said(subprocess.Popen({DEAF}, start_new_session=True, **NOTHING).pid)",
    "daemon": f"""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        said(os.getpid())
        os.chdir("/")
        for number in range(3):
            os.close(number)
        os.execv(sys.executable, {SLEEP})
    os._exit(0)
os.wait()
""",
}
SERVER = """
import os, subprocess, sys, time
NOTHING = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
sys.path.insert(0, {folder!r})
def said(pid):
    with open({pids!r}, "w") as file:
        file.write(str(pid))
{child}
while not os.path.exists({pids!r}) or not open({pids!r}).read():
    time.sleep(0.01)
{after}
"""
QUICK = Timing(close=5, terminate=0.3)


def server(tmp_path: Path, child: str, after: str) -> ServerSettings:
    values = {"folder": str(FOLDER), "pids": str(tmp_path / "pids"), "after": after}
    script = tmp_path / "server.py"
    script.write_text(SERVER.format(child=CHILDREN[child], **values))
    return ServerSettings(
        name="made", transport="stdio", command=sys.executable, args=(str(script),)
    )


SERVES = "sys.argv = ['x']; import runpy; runpy.run_path({!r}, run_name='__main__')"


async def gone(pid: int) -> bool:
    """Whether a process ends: a killed one exists until its parent has taken notice."""
    for _ in range(100):
        if not exists(pid):
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.mark.parametrize("child", CHILDREN)
async def test_a_child_ends_with_a_server_that_ends_as_it_should(tmp_path, child):
    after = SERVES.format(str(FOLDER / "tools_server.py"))
    async with McpToolbox([server(tmp_path, child, after)], timing=QUICK) as box:
        assert (await box.call_tool("echo", {"value": 1})).structured == {"result": 1}
        pid = int((tmp_path / "pids").read_text())
        assert exists(pid)
    assert await gone(pid)


@pytest.mark.parametrize("child", CHILDREN)
async def test_a_child_ends_with_a_server_that_died(tmp_path, child):
    async with McpToolbox([server(tmp_path, child, "os._exit(3)")], timing=QUICK) as box:
        with pytest.raises(Exception, match="exit code 3"):
            await box.call_tool("made.echo", {"value": 1})
        pid = int((tmp_path / "pids").read_text())
    assert await gone(pid)


def test_a_process_that_another_program_started_is_left_alone(tmp_path):
    # As a batch job that inherited the environment of the server that submitted it.
    code = (
        "import os, subprocess, sys, time\n"
        f"mine = {{n: v for n, v in os.environ.items() if n != '{STARTED_BY}'}}\n"
        "if len(sys.argv) < 2:\n"
        "    os.execve(sys.executable, [sys.executable, __file__, os.environ.get"
        f"('{STARTED_BY}')], mine)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        f" env={{**mine, '{STARTED_BY}': sys.argv[1]}})\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    (tmp_path / "scheduler.py").write_text(code)
    mark = f"{os.getpid()}.of-a-test"
    with subprocess.Popen(
        [sys.executable, tmp_path / "scheduler.py"],
        env={**os.environ, STARTED_BY: mark},
        stdout=subprocess.PIPE,
        text=True,
    ) as scheduler:
        assert scheduler.stdout is not None
        job = int(scheduler.stdout.readline())
        try:
            assert started_by(mark) == []
        finally:
            os.kill(job, signal.SIGKILL)


async def test_a_local_job_that_a_server_submits_goes_on(tmp_path):
    registry = tmp_path / "jobs.yaml"
    registry.write_text(
        "tools: [{path: fractale.tools.jobs.job_submit}, {path: fractale.tools.jobs.job_status}]\n"
    )
    words = ("-m", "fractale.cli", "serve", str(registry), "--stdio")
    jobs = ServerSettings(
        name="jobs",
        transport="stdio",
        command=sys.executable,
        args=words,
        cwd=str(tmp_path),
        env={"HOME": str(tmp_path)},
    )
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    command = [sys.executable, "-c", f"{code}; time.sleep(600)"]
    async with McpToolbox([jobs]) as box:
        given = {"command": command, "scheduler": "local"}
        result = await box.call_tool("job_submit", given)
        assert not result.is_error, result.text
        until = time.monotonic() + 30
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
    pid = int((tmp_path / "pid").read_text())
    assert exists(pid)
    os.kill(pid, signal.SIGKILL)
