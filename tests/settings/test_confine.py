"""Confined programs, with the ways that this machine has: bubblewrap, Landlock."""

# ruff: noqa: ASYNC240 - these tests look at the files that programs leave
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import forked
from fractale.agents.draft_catalog import DraftCatalog
from fractale.confine import ways
from fractale.confine.ways import Confinement, Way, confinement_of, find_way
from fractale.errors import DependencyMissing, JobError, PlanError, SettingsError, TransportError
from fractale.graph.compile import compile_plan
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.state import initial_state
from fractale.jobs import Confine, Jobs, JobSpec
from fractale.mcp import McpToolbox
from fractale.plan.build import parse_plan
from fractale.plan.check import check_plan
from fractale.plan.dump import dump_plan
from fractale.policy import Policy
from fractale.settings import PolicySettings, ServerSettings, load_settings
from fractale.testing import FakeToolServer
from fractale.toolbox import ToolInfo

SHELL_SERVER = Path(__file__).parents[1] / "support" / "servers" / "shell_server.py"
PATHS = {"bwrap": os.environ["PATH"], "landlock": "/nonexistent"}


def way_of(name: str) -> Way:
    """A way that works here; else the test is skipped, saying why."""
    try:
        found = find_way({"PATH": PATHS[name]})
    except DependencyMissing as error:
        pytest.skip(f"{name} does not work here: {error}")
    if found.name != name:
        pytest.skip(f"{name} is not on this machine")
    return found


@pytest.fixture(params=["bwrap", "landlock"])
def way(request: pytest.FixtureRequest) -> Way:
    return way_of(request.param)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with keys, a project in it, and the project as the working folder."""
    home = tmp_path / "home"
    for name in (
        ".ssh/id_rsa",
        ".netrc",
        ".config/gcloud/token",
        ".config/fractale/config.yaml",
        ".bash_history",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("# CANARY\n")
    (home / ".config" / "tool.ini").write_text("plain")
    (home / "notes.txt").write_text("plain")
    project = home / "project"
    for name in ("sub", ".git/hooks", ".fractale/runs"):
        (project / name).mkdir(parents=True)
    (project / ".fractale" / "config.yaml").write_text("max_attempts: 3\n")
    (project / ".git" / "config").write_text("[core]\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(project)
    return home


@pytest.fixture
def bounds(home: Path, tmp_path: Path) -> Confinement:
    return confinement_of(home / "project", tmp_path / "own")


def run(way: Way, bounds: Confinement, *words: str, **more) -> subprocess.CompletedProcess[str]:
    more = {"capture_output": True, "text": True, "timeout": 60, "check": False, **more}
    return subprocess.run(way.words(bounds, words), **more)


def sh(way: Way, bounds: Confinement, line: str, **more) -> subprocess.CompletedProcess[str]:
    return run(way, bounds, "sh", "-c", line, **more)


# Files


def test_bubblewrap_protects_what_is_nested_in_the_project_too(home: Path, tmp_path: Path) -> None:
    way, project = way_of("bwrap"), home / "project"
    kept = [
        project / "sub/.git/config",  # one within the other, each to be kept
        project / "sub/lib/.git/config",
        project / "sub/lib/.fractale/config.yaml",
        project / "a/b/c/d/e/f/.git/config",
    ]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_text("kept\n")
    module = project / "module" / ".git"  # of a submodule: a file
    module.parent.mkdir()
    module.write_text("gitdir: ../.git/modules/module\n")
    free = project / "node_modules/x/.git/config"
    free.parent.mkdir(parents=True)
    (project / "link").symlink_to(project / "sub")
    bounds = confinement_of(project, tmp_path / "own", protected=[project / ".fractale/runs"])
    lines = [f"echo x > '{path}'; rm -f '{path}'" for path in (*kept, module)]
    lines += ["mv sub other", "mv sub/lib/.git away", "echo x > .fractale/config.yaml"]
    lines += [f"echo y > '{free}'", "echo y > sub/new", "echo y > a/b/c/new", "echo y > top"]
    done = sh(way, bounds, "\n".join(lines))
    assert [path.read_text() for path in kept] == ["kept\n"] * len(kept), done.stderr
    assert module.read_text().startswith("gitdir:")
    assert (project / ".fractale/config.yaml").read_text() == "max_attempts: 3\n"
    written = [free, project / "sub/new", project / "a/b/c/new", project / "top"]
    assert [path.read_text() for path in written] == ["y\n"] * len(written)


def test_what_is_looked_for_in_a_project_has_a_bound_that_is_told(
    home: Path, tmp_path: Path
) -> None:
    way, project = way_of("bwrap"), home / "project"
    for number in range(2100):
        (project / "many" / str(number)).mkdir(parents=True)
    (project / "zone" / ".git").mkdir(parents=True)
    bounds = confinement_of(project, tmp_path / "own")
    done = sh(way, bounds, "echo x > zone/.git/config; echo done")
    assert done.stdout == "done\n"
    assert "more than 2000 directories" in done.stderr


def test_writes_go_to_the_project_its_own_temporary_folder_and_what_is_named(
    way: Way, bounds: Confinement, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "scratch").mkdir()
    bounds = confinement_of(home / "project", tmp_path / "own", writable=[tmp_path / "scratch"])
    allowed = [home / "project/sub/a", tmp_path / "own/b", tmp_path / "scratch/c"]
    refused = [
        home / "project/.git/config",
        home / "project/.git/hooks/pre-commit",
        home / "project/.git/commondir",
        home / "project/.fractale/config.yaml",
        home / "project/.fractale/fractale.lock",
        home / "project/.fractale/runs/journal.jsonl",
        home / "notes.txt",
        home / ".bashrc",
        tmp_path / "beside",
        Path("/usr/fractale-was-here"),
        Path(ways.__file__),
    ]
    before = {path: path.read_bytes() if path.exists() else None for path in refused}
    lines = [f"echo x > '{path}' && echo '{path}'" for path in (*allowed, *refused)]
    done = sh(way, bounds, "\n".join(lines))
    # Bubblewrap's /tmp is the program's own: it may write there, and nobody else sees it.
    assert set(done.stdout.split()) >= {str(path) for path in allowed}
    assert all(path.read_text() == "x\n" for path in allowed)
    assert {p: p.read_bytes() if p.exists() else None for p in refused} == before
    moved = sh(way, bounds, "mv .git .git2; mv .fractale x; rm -rf .git/hooks; ln -s x .git/y")
    assert moved.returncode != 0
    assert (home / "project" / ".git" / "hooks").is_dir()
    assert (home / "project" / ".fractale" / "config.yaml").is_file()
    made = sh(way, bounds, "echo y > top")
    if way.name == "bwrap":
        assert (home / "project" / "top").read_text() == "y\n"
    else:
        assert "nothing new can be made directly in" in made.stderr
    (home / "project2").mkdir()  # nothing in it that is protected
    free = confinement_of(home / "project2", tmp_path / "own")
    assert sh(way, free, "echo z > top && cat top", cwd=home / "project2").stdout == "z\n"


def test_private_files_are_not_read_however_they_are_spelt(
    way: Way, bounds: Confinement, home: Path
) -> None:
    (home / "project" / "link").symlink_to(home / ".ssh")
    paths = [
        "~/.ssh/id_rsa",
        "link/id_rsa",
        "../.ssh/id_rsa",
        "~/.netrc",
        "~/.config/gcloud/token",
        "~/.config/fractale/config.yaml",
        "~/.bash_history",
        f"/proc/self/root{home}/.netrc",
        f"/proc/1/root{home}/.netrc",
        f"/proc/{os.getpid()}/cwd/../.netrc",
    ]
    done = sh(way, bounds, "; ".join(f"cat {path}" for path in paths))
    assert "CANARY" not in done.stdout + done.stderr
    seen = sh(way, bounds, "cat ~/notes.txt ~/.config/tool.ini .fractale/config.yaml .git/config")
    assert seen.stdout == "plainplainmax_attempts: 3\n[core]\n"
    hard = sh(
        way, bounds, "ln ~/.ssh/id_rsa sub/key; ln -s ~/.ssh sub/keys; cat sub/key sub/keys/*"
    )
    assert "CANARY" not in hard.stdout


def test_what_others_left_in_temporary_folders_is_not_seen(
    way: Way, bounds: Confinement, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as own:
        left = Path(own.enter_context(_temporary_folder("/tmp"))) / "token"
        left.write_text("CANARY")
        assert "CANARY" not in sh(way, bounds, f"cat {left}; ls /run/user").stdout
    done = sh(way, bounds, "echo $TMPDIR; mktemp")
    assert done.stdout.split()[0] == str(tmp_path / "own")
    assert done.stdout.split()[1].startswith(str(tmp_path / "own"))


@contextlib.contextmanager
def _temporary_folder(place: str) -> Iterator[str]:
    folder = Path(place) / f"fractale-test-{os.getpid()}"
    folder.mkdir()
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder)


def test_a_folder_that_holds_private_things_cannot_be_made_writable(
    home: Path, tmp_path: Path
) -> None:
    for project, writable, words in (
        (home, [], "the project's directory is .* your home is in it"),
        (Path("/"), [], "your home is in it"),
        (home / "project", ["~"], "`writable` is .* your home is in it"),
        (home / "project", ["~/.ssh"], "is private"),
        (home / "project", ["~/.config"], "is in it"),
        (home / "project", ["/run"], "of others are in it|it is"),
        (home / "project", ["/proc"], "it is the system's"),
        (home / "project", ["absent"], "it is not a directory"),
        (home / "project", [".git"], "decides what git runs"),
    ):
        with pytest.raises(SettingsError, match=words) as caught:
            confinement_of(project, tmp_path / "own", writable=writable, where="server `x`")
        assert "`confine: false`" in (caught.value.hint or "")


# Network, processes


LISTEN = "import socket; s = socket.create_connection(('127.0.0.1', {port}), 2); s.send(b'x')"


@contextlib.contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """A TCP port on loopback that keeps what it is sent."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    got.append(connection.recv(9))
                    connection.close()

        threading.Thread(target=take, daemon=True).start()
        yield server.getsockname()[1], got
        server.shutdown(socket.SHUT_RDWR)


def test_there_is_no_network_unless_it_is_asked_for(
    way: Way, bounds: Confinement, tmp_path: Path, home: Path
) -> None:
    local = home / "project" / "s"
    with listening() as (port, got), socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(local))
        unix.listen()
        tries = [
            LISTEN.format(port=port),
            f"import socket; socket.socket(socket.AF_UNIX).connect({str(local)!r})",
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        ]
        for code in tries:
            done = run(way, bounds, sys.executable, "-c", code)
            assert "PermissionError" in done.stderr, code
        assert got == []
        wide = replace(bounds, network=True)
        assert run(way, wide, sys.executable, "-c", tries[0]).returncode == 0
        assert got == [b"x"]
    pair = "import socket; a, b = socket.socketpair(); a.send(b'y'); print(b.recv(1))"
    assert run(way, bounds, sys.executable, "-c", pair).stdout == "b'y'\n"


def test_no_other_process_is_looked_into_or_signalled(way: Way, bounds: Confinement) -> None:
    other = subprocess.Popen(["sleep", "60"], env={"SECRET": "CANARY", "PATH": os.environ["PATH"]})
    try:
        line = (
            f"cat /proc/{other.pid}/environ /proc/*/environ /proc/{other.pid}/maps | tr '\\0' ' '"
        )
        done = sh(way, bounds, f"{line}; kill -9 {other.pid}; echo $?")
        assert "CANARY" not in done.stdout
        assert done.stdout.rstrip().endswith("1")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    status = sh(way, bounds, "cat /proc/self/status").stdout
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["NoNewPrivs"] == "1"
    assert facts["Seccomp"] == "2"
    assert {int(facts[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "SigBlk")} == {0}
    assert not int(facts["SigIgn"], 16) & 1 << (signal.SIGPIPE - 1)


def test_streams_arguments_and_exit_codes_are_those_of_the_program(
    way: Way, bounds: Confinement
) -> None:
    data = bytes(range(256)) * 400
    done = run(way, bounds, "cat", input=data, text=False)
    assert done.stdout == data
    odd = ["a b", "--", "'", "", "\n", "é"]
    words = "import sys, json; print(json.dumps(sys.argv[1:]))"
    said = run(way, bounds, sys.executable, "-c", words, *odd).stdout
    assert json.loads(said) == odd
    for line, code in (("exit 7", 7), ("kill -TERM $$", 143), ("kill -SEGV $$", 139)):
        assert sh(way, bounds, line).returncode in (code, 128 - code)
    absent = run(way, bounds, "no-such-program")
    assert (absent.returncode, "no-such-program" in absent.stderr) == (126, True)


def test_a_request_to_end_reaches_the_program_and_a_kill_ends_its_whole_tree(
    way: Way, bounds: Confinement, home: Path
) -> None:
    line = "trap 'echo bye > sub/bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    with started(way, bounds, line) as process:
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(20) == 3
    assert (home / "project" / "sub" / "bye").read_text() == "bye\n"
    line = "sleep 1000.25 & (setsid sleep 1000.25 &) ; echo ready; wait"
    if way.name == "landlock":  # it has no way to end what left the group
        line = "sleep 1000.25 & echo ready; wait"
    with started(way, bounds, line) as process:
        deadline = time.monotonic() + 20
        while not sleeping() and time.monotonic() < deadline:  # it is still a shell at first
            time.sleep(0.05)
        assert sleeping() > 0
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
        deadline = time.monotonic() + 20
        while sleeping() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert sleeping() == 0


@contextlib.contextmanager
def started(way: Way, bounds: Confinement, line: str) -> Iterator[subprocess.Popen[str]]:
    words = way.words(bounds, ["sh", "-c", line])
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as made:
        try:
            assert made.stdout is not None
            assert made.stdout.readline() == "ready\n"
            yield made
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(made.pid, signal.SIGKILL)


def sleeping() -> int:
    """How many of this test's sleeping processes there are."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += path.read_bytes() == b"sleep\x001000.25\x00"
    return found


# Ways


def test_a_way_that_does_not_work_here_is_passed_over(tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    way_of("landlock")
    assert find_way({"PATH": str(tmp_path)}).name == "landlock"


def test_where_no_way_works_it_is_said_why_and_what_to_do(tmp_path: Path) -> None:
    """In a process whose kernel seems to have no Landlock."""
    code = """
import ctypes, struct
from fractale.confine import launch
from fractale.confine.ways import find_way
from fractale.errors import DependencyMissing
libc = ctypes.CDLL(None, use_errno=True)
rules = [launch._load(0), launch._jump(0x15, 444, 0, 1), launch._refuse(38),
         launch._instruction(6, 0x7FFF0000)]
text = ctypes.create_string_buffer(b"".join(rules))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, struct.pack("@HP", 4, ctypes.addressof(text)), 0, 0) == 0
try:
    find_way({"PATH": "/nonexistent"})
except DependencyMissing as error:
    print(error.message)
    print(error.hint)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    message, hint = done.stdout.splitlines()
    assert message.startswith("no program can be confined on this machine (bwrap: not found; ")
    assert "the kernel has no Landlock" in message
    assert "apt install bubblewrap" in hint
    assert "`confine: false`" in hint


@pytest.mark.parametrize("name", ["bwrap", "landlock"])
def test_it_works_for_a_user_without_privileges(name: str, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make another user")
    python = "/usr/bin/python3"
    if not Path(python).exists() or not shutil.which("useradd"):
        pytest.skip("needs the system's python3 and useradd: the tests' own Python is private")
    version = [python, "-c", "import sys; print(sys.version_info >= (3, 11))"]
    if subprocess.run(version, capture_output=True, text=True).stdout != "True\n":
        pytest.skip("the system's python3 is older than fractale's least")
    person, other = f"frt{os.getpid()}a", f"frt{os.getpid()}b"
    code = Path(f"/opt/{person}")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, code, ignore_errors=True)
        shutil.copytree(Path(ways.__file__).parents[1], code / "fractale")
        code.chmod(0o755)
        for user in (person, other):
            subprocess.run(["useradd", "-m", "-s", "/bin/sh", user], check=True)
            stack.callback(subprocess.run, ["userdel", "-r", user], capture_output=True)
            keys = Path(pwd.getpwnam(user).pw_dir) / ".ssh"
            keys.mkdir()
            (keys / "id_rsa").write_text("CANARY")
            (keys.parent / "open.txt").write_text(f"of {user}")
            for each in (keys.parent, keys, keys / "id_rsa"):
                each.chmod(0o755 if each.is_dir() else 0o644)
                os.chown(each, pwd.getpwnam(user).pw_uid, -1)
        home, theirs = (pwd.getpwnam(user).pw_dir for user in (person, other))
        program = f"""
import os, subprocess, sys
sys.path.append({str(code)!r})
from pathlib import Path
from fractale.confine.ways import *
project = Path.home() / "project"
project.mkdir()
os.chdir(project)
way = find_way({{"PATH": {PATHS[name]!r}}})
bounds = confinement_of(project, project.parent / "own")
line = "cat ~/.ssh/id_rsa {theirs}/open.txt; cat ~/open.txt; echo; echo hi > a; cat a; id -u"
print(way.name, flush=True)
subprocess.run(way.words(bounds, ["sh", "-c", line]))
"""
        done = subprocess.run(
            [python, "-IS", "-c", program],
            capture_output=True,
            text=True,
            user=person,
            group=pwd.getpwnam(person).pw_gid,
            extra_groups=[],
            env={"HOME": home, "PATH": os.environ["PATH"]},
            cwd="/",
        )
        if done.returncode and "DependencyMissing" in done.stderr:
            pytest.skip(f"not for users without privileges here: {done.stderr.splitlines()[-1]}")
        uid = str(pwd.getpwnam(person).pw_uid)
    assert done.stdout.split("\n") == [name, f"of {person}", "hi", uid, ""]
    assert done.stderr.count("No such file") + done.stderr.count("Permission denied") == 2


# Servers


def server(**more) -> ServerSettings:
    return ServerSettings(
        name="shell", transport="stdio", command=sys.executable, args=(str(SHELL_SERVER),), **more
    )


async def test_a_started_server_is_confined(home: Path, tmp_path: Path) -> None:
    try:
        find_way(os.environ)
    except DependencyMissing as error:
        pytest.skip(str(error))
    script = shutil.copy(SHELL_SERVER, home / "project" / "sub")
    logs: list[str] = []
    before = set(Path(tmp_path).iterdir())
    plain = replace(
        server(), args=(str(script),), env={"HOME": str(home), "PATH": os.environ["PATH"]}
    )
    line = "cat ~/.netrc; echo x > sub/out; echo x > ~/out; cat sub/out; echo $TMPDIR"
    settings = replace(plain, confine=True, project=home / "project")
    async with McpToolbox([settings], on_log=lambda *words: logs.append(str(words))) as toolbox:
        result = await toolbox.call_tool("sh", {"line": line})
    temporary = result.text.split()[-1]
    assert result.text.split()[:-1] == ["0", "x"]
    assert not (home / "out").exists()
    assert not Path(temporary).exists()
    assert any("confined: " in words for words in logs)
    assert set(Path(tmp_path).iterdir()) == before
    async with McpToolbox([plain]) as toolbox:
        assert "CANARY" in (await toolbox.call_tool("sh", {"line": line})).text


async def test_what_is_refused_to_a_confined_server_is_told_with_what_to_do(home: Path) -> None:
    try:
        find_way(os.environ)
    except DependencyMissing as error:
        pytest.skip(str(error))
    hint = "`network: true` or `writable: [...]` under `servers: shell` in your own settings"
    script = shutil.copy(SHELL_SERVER, home / "project" / "sub")
    plain = replace(
        server(), args=(str(script),), env={"HOME": str(home), "PATH": os.environ["PATH"]}
    )
    confined = replace(plain, confine=True, project=home / "project")
    async with McpToolbox([confined]) as toolbox:
        assert [status.confined for status in await toolbox.servers()] == [True]
        result = await toolbox.call_tool("sh", {"line": "exec touch /usr/fractale-was-here"})
        assert result.is_error
        assert hint in result.text
        assert "confined" not in (await toolbox.call_tool("sh", {"line": "exec cat absent"})).text
        with pytest.raises(TransportError) as ended:
            await toolbox.call_tool("sh", {"line": "EPERM"})
        assert hint in (ended.value.hint or "")
    async with McpToolbox([plain]) as toolbox:
        assert [status.confined for status in await toolbox.servers()] == [False]
        told = await toolbox.call_tool("sh", {"line": "exec touch /proc/1/x"})
        assert told.is_error
        assert "confined" not in told.text


async def test_a_server_that_cannot_be_confined_is_not_started(home: Path) -> None:
    settings = server(confine=True, project=home)
    async with McpToolbox([settings]) as toolbox:
        with pytest.raises(TransportError, match=r"cannot be confined: .*your home") as caught:
            await toolbox.call_tool("sh", {"line": "touch ran"})
    assert "`confine: false`" in (caught.value.hint or "")
    absent = replace(server(confine=True, project=home / "project"), command="no-such-server")
    async with McpToolbox([absent]) as toolbox:
        with pytest.raises(TransportError, match=r"`shell` cannot be started: .*no-such-server"):
            await toolbox.call_tool("sh", {"line": "touch ran"})


def test_the_servers_of_a_project_are_confined_and_only_the_person_lifts_that(
    home: Path,
) -> None:
    project = home / "project" / ".fractale" / "config.yaml"
    own = home / ".config" / "fractale" / "config.yaml"
    project.write_text(
        "servers:\n"
        "  one: {command: a}\n"
        "  two: {command: a, confine: false}\n"
        "  three: {command: a, writable: [data], network: true}\n"
        "  far: http://127.0.0.1:1/mcp\n"
    )
    own.write_text(
        "servers:\n"
        "  mine: {command: b}\n"
        "  careful: {command: b, confine: true}\n"
        "  three: {network: false}\n"
        "  one: {confine: false}\n"
        "  nowhere: {confine: false}\n"
    )
    environment = {"HOME": str(home), "FRACTALE_TRUST_PROJECT": "1"}
    found = load_settings(environment, home / "project").servers
    assert {name: each.confine for name, each in found.items()} == {
        "mine": False,
        "careful": True,
        "one": False,
        "two": True,
        "three": True,
        "far": False,
    }
    assert (found["three"].writable, found["three"].network) == (("data",), False)
    assert {each.project for each in found.values()} == {home / "project"}
    assert (found["mine"].origin, found["one"].origin) == (str(own), str(project))
    for entry, words in (
        ("{url: 'http://x/mcp', confine: true}", "`confine` is only for servers with a `command`"),
        ("{command: a, confine: maybe}", "`confine` must be true or false"),
        ("{command: a, writable: [1]}", "`writable` must be a list of directories"),
    ):
        project.write_text(f"servers: {{x: {entry}}}\n")
        with pytest.raises(SettingsError, match=words):
            load_settings(environment, home / "project")


# Jobs


@pytest.fixture
def jobs(home: Path, way: Way) -> Jobs:
    path = os.environ["PATH"]
    if way.name == "landlock":
        path = ":".join(p for p in path.split(":") if not (Path(p) / "bwrap").exists())
        if not shutil.which("sh", path=path):
            folder = home / "bin"
            folder.mkdir()
            for name in ("sh", "cat", "sleep", "touch", "uname", "date", "ln", "rm", "mv", "head"):
                (folder / name).symlink_to(shutil.which(name) or name)
            path = str(folder)
    project = home / "project"
    state = project / ".fractale"
    environment = {"PATH": path, "HOME": str(home)}
    root = state / "runs" / "r" / "jobs"
    return Jobs(root, environment, "local", project=project, state=state)


async def done(jobs: Jobs, script: str, key: str, confine: Confine | None = None, **more):
    spec = JobSpec(name="j", folder=Path.cwd(), script=script, confine=confine or Confine(), **more)
    handle = await jobs.submit(spec, key=key)
    status = await jobs.wait(handle, intervals=(0.1,))
    return handle, status, (await jobs.logs(handle)).text


async def test_a_confined_job_ends_as_any_other(jobs: Jobs, way: Way, home: Path) -> None:
    handle, status, log = await done(jobs, "echo out; cat ~/.netrc; echo x > sub/x; exit 5", "a")
    assert handle.confined == way.name
    assert (status.state, status.exit_code, status.evidence) == ("failed", 5, "exit-code file")
    assert "CANARY" not in log
    assert "out\n" in log
    assert (home / "project" / "sub" / "x").read_text() == "x\n"
    again = await jobs.find("a")
    assert again == handle
    _, status, log = await done(jobs, "#!/bin/sh\ncat <<X > $TMPDIR/f\nhi\nX\ncat $TMPDIR/f", "b")
    assert (status.state, log.rpartition("\nfractale")[0] or log[-3:]) == ("completed", "hi\n")
    _, status, _ = await done(jobs, "sleep 100", "c", time=0.5)
    assert status.state == "timeout"


async def test_a_confined_job_cannot_write_its_own_evidence(jobs: Jobs, home: Path) -> None:
    script = """
        for each in ended.0 minded.completed.0 handle.json started wrapper.sh queued.json; do
          echo forged >> "$FRACTALE_JOB_DIR/$each"; done
        echo forged >> "$FRACTALE_JOB_DIR/../../run.json"
        exit 9
    """
    handle, status, _ = await done(jobs, script, "a")
    assert (status.state, status.exit_code) == ("failed", 9)
    kept = [p for p in (home / "project" / ".fractale").rglob("*") if p.is_file()]
    forged = [p.name for p in kept if p.name not in ("script",) and b"forged\n" in p.read_bytes()]
    assert forged == []
    assert (handle.job_dir / "confined").read_text() in ("bwrap", "landlock")


async def test_cancelling_a_confined_job_ends_its_whole_tree(jobs: Jobs) -> None:
    spec = JobSpec(
        name="j",
        folder=Path.cwd(),
        script="sleep 1000.25 & sleep 1000.25; echo late",
        confine=Confine(),
    )
    handle = await jobs.submit(spec, key="k")
    while sleeping() < 2:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.05)
    status = await jobs.cancel(handle)
    assert (await jobs.wait(handle, intervals=(0.1,))).state == "cancelled", status
    assert sleeping() == 0


async def test_only_local_jobs_can_be_confined(home: Path) -> None:
    class Batch:
        name, title = "slurm", "Slurm"

        def found(self) -> bool:
            return True

    jobs = Jobs(home / "jobs", {"PATH": os.environ["PATH"]}, adapters={"slurm": Batch()})  # pyright: ignore
    spec = JobSpec(name="j", folder=home, script="true", confine=Confine())
    with pytest.raises(JobError, match="only local jobs can") as caught:
        await jobs.submit(spec, key="k")
    assert "`scheduler: local`" in (caught.value.hint or "")


PLAN = """
name: p
steps:
  - name: a
    job:
      command: [sh, -c, "cat ~/.netrc; echo x > sub/x"]
      scheduler: local
"""


async def test_jobs_of_drafted_steps_are_confined_and_others_if_they_say_so(
    home: Path, way: Way, jobs: Jobs
) -> None:
    async def state_of(text: str, *, drafted: bool) -> tuple[dict, list[dict]]:
        told: list[dict] = []
        deps = Dependencies(
            toolbox=FakeToolServer(),
            jobs=lambda _name: jobs,
            policy=Policy(settings=PolicySettings(), yes=True),
        )
        context = RunContext(
            run_id=f"r{time.monotonic_ns()}",
            drafted=drafted,
            emit_event=lambda event: told.append({"kind": event.kind, **event.data}),
        )
        graph = compile_plan(parse_plan(text), deps).compile()
        after = await graph.ainvoke(initial_state({}), context=context)
        return after, [each for each in told if each["kind"] == "job_state"]

    for text, drafted, confined in (
        (PLAN, True, way.name),
        (PLAN, False, None),
        (PLAN.replace("local", "local\n      confine: true"), False, way.name),
    ):
        after, told = await state_of(text, drafted=drafted)
        assert after["status"] == "success", after["error"]
        assert {each.get("confined") for each in told} == {confined}
        log = Path(told[-1]["handle"]["job_dir"]) / "log"
        assert ("CANARY" in log.read_text()) is (confined is None)
    wider = PLAN.replace("local", "local\n      confine: false")
    after, _ = await state_of(wider, drafted=True)
    assert "may not widen what its job may do" in after["error"]


def test_a_draft_cannot_lift_what_confines_its_jobs() -> None:
    offers = DraftCatalog(tools=[ToolInfo(name="job_submit", server="local")])
    job = {"script": "x"}
    offers.read("b", {"steps": [{"name": "a", "job": job}]})
    offers.read("b", {"steps": [{"name": "a", "job": {**job, "confine": True}}]})
    for more in ({"confine": False}, {"confine": True, "network": True}, {"writable": ["/x"]}):
        with pytest.raises(PlanError, match="confine"):
            offers.read("b", {"steps": [{"name": "a", "job": {**job, **more}}]})


def test_the_keys_of_a_plan_are_read_checked_and_written_back() -> None:
    text = PLAN.replace(
        "scheduler: local",
        "confine: true\n      writable: [a, '{{ run.dir }}']\n      network: true",
    )
    plan = parse_plan(text)
    assert check_plan(plan) == []
    job = plan.steps[0].job
    assert job is not None
    assert (job.confine, job.network, len(job.writable)) == (True, True, 2)
    assert parse_plan(dump_plan(plan)) == plan
    for keys, words in (
        ("network: true", "`network` says what a confined job may do; add `confine: true`"),
        ("confine: maybe", "`confine` must be `true` or `false`"),
        ("confine: true\n      writable: [1]", "a directory of `writable` must be text"),
        ("sandbox: true", "write `confine`"),
    ):
        with pytest.raises(PlanError) as caught:
            parse_plan(PLAN.replace("scheduler: local", keys))
        assert words in str(caught.value)


def test_a_dry_run_says_what_would_be_confined_and_how(home: Path) -> None:
    plan = home / "project" / "p.yaml"
    plan.write_text(PLAN.replace("local", "local\n      confine: true"))
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    words = ["run", str(plan), "--dry-run"]
    done = forked.run([*words, "--json"], cwd=home / "project", env=environment)
    assert done.returncode == 0, done.stderr
    how = json.loads(done.stdout)["confined"]["a"]
    assert how in ("bwrap", "landlock") or how.startswith("not possible")
    done = forked.run(words, cwd=home / "project", env=environment)
    assert f"confined   a: {how}" in done.stdout
