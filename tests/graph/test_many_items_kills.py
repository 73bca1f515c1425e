"""A run that is killed in a foreach of many items continues with the items that had not ended."""

from __future__ import annotations

import time
from signal import SIGKILL
from threading import Thread

import pytest

from counts import FULL
from forked import Process
from fractale.testing import ModelServer
from kill_plan import model
from killed import Killed

MANY = 1_200
PLAN = f"""
name: many
steps:
  - name: each
    tool: change
    foreach: "range({MANY}) | list"
    max_parallel: 5
    inputs: {{what: "item {{{{ item }}}}"}}
outputs: {{changed: "{{{{ steps.each.outputs | map(attribute='changed') | list }}}}"}}
"""
TOOLS = '''
import json, os

async def change(what: str) -> dict:
    """Change something."""
    file = os.open("calls.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, (json.dumps(["change", {"what": what}]) + "\\n").encode())
    os.close(file)
    return {"returncode": 0, "changed": what}

def look(what: str) -> dict:
    """Look at something."""
    return {"seen": what}
'''
EVERY = [f"item {n}" for n in range(MANY)]


def kill_after(killed: Killed, process: Process, calls: int) -> None:
    """Kill a process once the run has made that many calls."""
    made = killed.folder / "calls.txt"
    while process.poll() is None:
        if made.exists() and made.read_bytes().count(b"\n") >= calls:
            break
        time.sleep(0.01)
    process.kill()


@pytest.mark.parametrize("kills", [(35, 800), (1, 34, 36, 600, 1_190)] if FULL else [(35, 800)])
def test_killed_runs_continue_with_the_items_that_had_not_ended(tmp_path, processes, kills):
    with ModelServer(model) as server:
        killed = Killed(tmp_path, server, processes, None)
        (tmp_path / "plan.yaml").write_text(PLAN)
        (tmp_path / "kill_tools.py").write_text(TOOLS)
        for number, calls in enumerate(kills):
            process = killed.start("resume", "-1") if number else killed.run()
            killer = Thread(target=kill_after, args=(killed, process, calls))
            killer.start()
            _, err = process.communicate(timeout=120)
            killer.join()
            assert process.returncode == -SIGKILL, "it ended before the kill"
            assert "Traceback" not in err, err
        last = killed.finish()
        assert last["outputs"] == {"changed": EVERY}
        assert sorted(killed.changes()) == sorted(EVERY)
        killed.check_journal()
