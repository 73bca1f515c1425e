"""Spack: find, spec, install, load and run, against a program that stands in for Spack."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fractale.testing import ModelServer, Reply
from fractale.tools.spack import spack_install, spack_run
from scenarios import Reader, by_turns, errors_of, path_of, path_with
from stand_in_spack import spack

PLAN = ("run", "plans/spack.yaml", "-r", "registries/spack.yaml")
JOKE = "Why do clusters never get lonely? They have so many cores."


class Listener:
    """Takes the progress of a call."""

    async def report_progress(self, progress, total=None, message=None):
        """Nothing is done with it."""


@pytest.fixture
def reader(tmp_path):
    return Reader(tmp_path, PATH=path_with(spack(tmp_path / "spack")))


def test_a_package_is_installed_loaded_and_run(reader):
    events = reader.events(*PLAN)
    assert path_of(events) == ["find:failure", "spec:success", "install:success", "run:success"]
    end = events[-1]
    assert end["status"] == "success"
    assert f"< {JOKE} >" in end["outputs"]["said"]
    assert end["outputs"]["installed"].endswith("/opt/cowsay-3.04")
    assert "\n" not in end["outputs"]["installed"]  # what it needs is told by the step


def test_what_is_installed_is_not_installed_again(reader):
    reader.end(*PLAN)
    events = reader.events(*PLAN)
    assert path_of(events) == ["find:success", "run:success"]
    assert events[-1]["status"] == "success"
    assert events[-1]["outputs"]["installed"].endswith("/opt/cowsay-3.04")


def test_a_long_installation_says_where_it_is(reader):
    events = reader.events(*PLAN, SPACK_SLOW="0.3")
    told = [e["message"] for e in events if e["event"] == "tool_progress"]
    assert "==> perl: Executing phase: 'build'" in told
    assert "==> Installing cowsay-3.04" in told


async def test_nothing_limits_what_takes_long_unless_it_is_said(tmp_path, monkeypatch):
    """A package may take hours to build, and so may what is run with it."""
    monkeypatch.setenv("PATH", path_with(spack(tmp_path / "spack")))
    for tool in (spack_install, spack_run):
        assert inspect.signature(tool).parameters["timeout"].default is None
    monkeypatch.setenv("SPACK_SLOW", "600")
    said = await spack_install("cowsay", Listener(), timeout=1)
    assert said["success"] is False
    assert "did not end in time" in said["error"]
    assert "==> Installing perl-5.40" in said["error"]


def test_a_package_that_spack_does_not_know_fails_with_its_words(reader):
    events = reader.events(*PLAN, "-i", "spec=nothere")
    assert events[-1]["status"] == "failed"
    assert "Package 'nothere' not found in repository" in errors_of(events, "spec")[0]


def test_an_installation_that_fails_says_why(reader):
    events = reader.events(*PLAN, "-i", "spec=cowsay@9")
    assert path_of(events)[-1] == "install:failure"
    said = errors_of(events, "install")[0]
    assert "ProcessError: Command exited with status 2" in said[:200]
    assert "cow.c:1:10: fatal error: cow.h: No such file or directory" in said[:400]
    assert "build log: /tmp/spack-stage/cowsay/spack-build-out.txt" in said


async def test_what_was_installed_and_what_was_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", path_with(spack(tmp_path / "spack")))
    opt = tmp_path / "spack" / "opt"
    said = await spack_install("cowsay", Listener())
    assert said["installed"] == [str(opt / "perl-5.40"), str(opt / "cowsay-3.04")]
    said = await spack_install("cowsay", Listener())
    assert (said["prefixes"], said["installed"]) == ([str(opt / "cowsay-3.04")], [])


async def test_an_installation_that_another_process_failed_waits_for_that_and_tries_again(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", path_with(spack(tmp_path / "spack")))
    monkeypatch.setenv("SPACK_DYING", "1")
    (tmp_path / "state").mkdir()
    lock = tmp_path / "state" / "spack.lock"
    dying = await asyncio.create_subprocess_exec("flock", "-s", str(lock), "sleep", "2")
    while not lock.exists():  # noqa: ASYNC110 - there is nothing to wait for but the file
        await asyncio.sleep(0.02)
    said = await spack_install("cowsay", Listener())
    assert await asyncio.wait_for(dying.wait(), 1) == 0  # it was waited for
    assert said["success"] is True
    assert said["installed"][-1].endswith("cowsay-3.04")


def test_a_spec_with_a_shell_in_it_is_refused(reader):
    events = reader.events(*PLAN, "-i", "spec=cowsay; touch here")
    assert events[-1]["status"] == "failed"
    assert not (reader.folder / "here").exists()


def test_without_spack_it_says_what_to_do(tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "env"):
        (programs / name).symlink_to(shutil.which(name))
    events = Reader(tmp_path, PATH=str(programs)).events(*PLAN)
    assert events[-1]["status"] == "failed"
    assert "SPACK_ROOT" in errors_of(events, "find")[0]


def test_the_prompt_of_0_1_0_installs_loads_and_jokes(tmp_path):
    """A model with the registry's tools; here it is scripted."""
    words = "Install cowsay with spack, load it, and use it to tell a joke."
    agreed = (
        "--answer",
        "ask=yes",
    )  # --yes does not cover what follows on a log of an installation
    model = by_turns(
        Reply(tool_calls=[("spack_find", {"spec": "cowsay"})]),
        Reply(tool_calls=[("spack_install", {"spec": "cowsay"})]),
        Reply(tool_calls=[("spack_run", {"spec": "cowsay", "command": ["cowsay", JOKE]})]),
        lambda request: "The cow says: " + ("yes" if f"< {JOKE} >" in str(request.body) else "no"),
    )
    with ModelServer(model) as server:
        reader = Reader(tmp_path, server, PATH=path_with(spack(tmp_path / "spack")))
        end = reader.end(
            "prompt", "--direct", "--yes", *agreed, "-r", "registries/spack.yaml", *words.split()
        )
    assert end["status"] == "success", end
    assert end["outputs"]["answer"] == "The cow says: yes"


def test_a_killed_installation_leaves_no_process_and_goes_on(tmp_path):
    """Ctrl-C in the middle: what Spack had started is ended, and a resume installs it."""
    reader = Reader(tmp_path, PATH=path_with(spack(tmp_path / "spack")))
    started = subprocess.Popen(
        [sys.executable, "-m", "fractale.cli", *PLAN, "--json"],
        cwd=reader.folder,
        env={**reader.environment, "SPACK_SLOW": "30"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        for line in started.stdout:
            if '"tool_progress"' in line:
                break
        os.killpg(started.pid, signal.SIGINT)
        assert started.wait(60) in (75, 130)
    finally:
        if started.poll() is None:
            started.kill()
            started.wait()
        started.stdout.close()
    deadline = time.monotonic() + 60
    while _running(str(tmp_path / "spack" / "bin")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _running(str(tmp_path / "spack" / "bin"))
    # The tool says that it may be called again, so nobody is asked.
    assert reader("resume", "-1").returncode == 0


def _running(folder: str) -> bool:
    """Whether a process was started from there."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if folder in line.read_text(errors="replace"):
                return True
    return False
