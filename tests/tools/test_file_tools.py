"""Which files the shipped tools never touch, however their paths are spelt."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

import forked
from fractale.mcp import EmbeddedServer, McpToolbox
from fractale.paths import PATHS, WRITES, forbidden, holds_private, is_inside, open_file
from fractale.registry import build_server, load_registry
from fractale.tools.files import read_text_file, write_text_file

DEMO = Path(__file__).parents[2] / "registries" / "demo.yaml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with keys in it."""
    home = tmp_path / "home"
    for name in (".ssh/id_rsa", ".aws/credentials", ".netrc", ".config/fractale/config.yaml"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("CANARY")
    (home / "project").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "project")
    return home


PRIVATE = ("~/.ssh/id_rsa", "~/.aws/credentials", "~/.netrc", "~/.config/fractale/config.yaml")
OF_PROCESSES = (
    "/proc/self/environ",
    "/proc/PID/environ",
    "/proc/1/cmdline",
    "/proc/self/mem",
    "/proc/self/maps",
    "/proc/thread-self/environ",
    "/proc/self/task/PID/environ",
    "/proc/../proc/self/environ",
    "/proc/1/root/etc/hostname",
    "/dev/fd/../environ",
    "/proc/kcore",
)


@pytest.mark.parametrize("path", [*PRIVATE, *OF_PROCESSES, "/etc/shadow", "/tmp/krb5cc_1000"])
def test_what_is_private_is_not_read(home: Path, path: str) -> None:
    path = path.replace("PID", str(os.getpid()))
    with pytest.raises((PermissionError, ValueError)) as caught:
        read_text_file(path)
    assert "no" in str(caught.value)
    if not path.startswith("/dev/fd"):
        assert forbidden(path)
        assert path in str(caught.value)


def test_other_spellings_of_a_private_file_lead_to_the_same_answer(home: Path) -> None:
    project = home / "project"
    (project / "notes").symlink_to(home / ".ssh" / "id_rsa")
    (project / "keys").symlink_to(home / ".ssh")
    (project / "far").symlink_to("keys")
    (project / "me").symlink_to("/proc/self")
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "token").write_text("CANARY")
    (home / ".kube").symlink_to(home / "elsewhere")  # a private place that is itself a link
    spellings = [
        "notes",
        "keys/id_rsa",
        "far/id_rsa",
        "../.ssh/id_rsa",
        f"/proc/self/root{home}/.ssh/id_rsa",
        "/proc/self/cwd/../.ssh/id_rsa",
        "me/environ",
        f"{home}/./project/..//.ssh/id_rsa",
        "~/elsewhere/token",
        "~/.kube/token",
    ]
    for path in spellings:
        with pytest.raises(PermissionError, match="not read by any tool"):
            read_text_file(path)
    with (home / ".ssh" / "id_rsa").open() as opened, pytest.raises(PermissionError):
        read_text_file(f"/dev/fd/{opened.fileno()}")


def test_what_decides_what_is_run_later_is_not_written(home: Path) -> None:
    project = home / "project"
    (project / ".git").mkdir()
    (project / ".fractale").mkdir()
    (project / "hooks").symlink_to(".git/hooks")
    (project / "records").symlink_to(".fractale/runs")
    paths = [
        ".git/config",
        ".git/hooks/pre-commit",
        "hooks/pre-commit",
        ".fractale/config.yaml",
        ".fractale/fractale.lock",
        ".fractale/audit.jsonl",
        ".fractale/checkpoints.sqlite",
        ".fractale/runs/r1/run.json",
        ".fractale/runs/r1/journal.jsonl",
        ".fractale/runs/r1/.run.json.7.7.part",
        ".fractale/runs/r1/outputs/x",
        ".fractale/runs/r1/jobs/q1/wrapper.sh",
        ".fractale/runs/r1",
        ".fractale/new",
        "records/r1/events.jsonl",
        "~/.ssh/authorized_keys",
        "~/.config/fractale/trust.json",
        "/proc/self/oom_score_adj",
        "/sys/kernel/x",
        "/dev/fractale-x",
    ]
    before = sorted(home.rglob("*"))
    for path in paths:
        with pytest.raises(PermissionError, match="not written by any tool"):
            write_text_file(path, "CANARY")
    assert sorted(home.rglob("*")) == before


def test_a_plan_s_tools_write_into_the_folder_of_a_run_but_not_over_its_records(
    home: Path,
) -> None:
    written = {"path": "{{ run.dir }}/job.flux.sh", "text": "#!/bin/sh\n"}
    plan = {"name": "p", "steps": [{"name": "a", "tool": "write_text_file", "inputs": written}]}
    (home / "project" / "p.yaml").write_text(json.dumps(plan))
    words = ["run", "p.yaml", "-r", str(DEMO), "--yes"]
    env = {"HOME": str(home / "project"), "PATH": os.environ["PATH"]}
    ran = forked.run(words, cwd=home / "project", env=env)
    assert ran.returncode == 0, ran.stderr
    (folder,) = (home / "project" / ".fractale" / "runs").iterdir()
    assert (folder / "job.flux.sh").read_text() == "#!/bin/sh\n"
    (folder / "job.flux.sh").unlink()
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {path.name for path in kept} >= {"run.json", "journal.jsonl", "events.jsonl"}
    for path in folder.iterdir():
        assert forbidden(path, writing=True)
        assert not forbidden(path)
    write_text_file(str(folder / "job.flux.sh"), "#!/bin/sh\n")
    assert (folder / "job.flux.sh").read_text() == "#!/bin/sh\n"
    assert not forbidden(folder, writing=True)  # where a job may run
    assert {path: path.read_bytes() for path in kept} == kept


def test_ordinary_files_are_read_and_written_as_before(home: Path) -> None:
    assert write_text_file("new/deep/a.txt", "one\ntwo\n")["lines"] == 2
    assert read_text_file("new/deep/a.txt") == {"text": "one\ntwo\n", "lines": 2}
    write_text_file("new/deep/a.txt", "x")
    assert read_text_file(str(home / "project/new/deep/a.txt"))["text"] == "x"
    (home / "project" / "link").symlink_to("new/deep/a.txt")
    write_text_file("link", "through the link")
    assert (home / "project" / "link").is_symlink()
    assert read_text_file("new/deep/a.txt")["text"] == "through the link"
    assert "MemTotal" in read_text_file("/proc/meminfo")["text"]
    assert not forbidden("/proc/self/status")
    with pytest.raises(ValueError, match="not a regular file"):
        read_text_file("new")
    with pytest.raises(ValueError, match="not found"):
        read_text_file("absent/x")
    os.mkfifo("pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        read_text_file("pipe")


def test_a_link_that_changes_while_a_file_is_opened_gains_nothing(home: Path) -> None:
    """Hundreds of opens while another thread turns a folder into a link to the keys and back."""
    project = home / "project"
    (project / "a").mkdir()
    (project / "a" / "id_rsa").write_text("public")
    (project / "b").symlink_to(home / ".ssh")
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            (project / "a").rename(project / "t")
            (project / "b").rename(project / "a")
            (project / "a").rename(project / "b")
            (project / "t").rename(project / "a")

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set[str]()
    try:
        for _ in range(400):
            try:
                descriptor = open_file(project / "a" / "id_rsa")
            except OSError as error:
                seen.add(type(error).__name__)
            else:
                with os.fdopen(descriptor) as opened:
                    seen.add(opened.read())
    finally:
        over.set()
        thread.join()
    assert "CANARY" not in seen
    assert "public" in seen
    assert stat.S_ISREG((home / ".ssh" / "id_rsa").stat().st_mode)


def test_inside_means_where_a_path_really_leads(home: Path) -> None:
    project = home / "project"
    (project / "out").symlink_to(home)
    assert is_inside("x/y", [project])
    assert is_inside(project, [project])
    assert not is_inside("out/x", [project])
    assert not is_inside("../project2", [project])
    assert not is_inside("/etc/hosts", [project, home])
    assert is_inside("out/x", [project, home])
    assert holds_private(home) is not None
    assert holds_private("/") is not None
    assert holds_private(project) is None


async def test_shipped_tools_say_which_arguments_are_paths() -> None:
    root = Path(__file__).parents[2] / "registries"
    expected = {
        "read_text_file": (["path"], None),
        "write_text_file": (["path"], ["path"]),
        "build_container": (["context"], None),
        "job_submit": (["folder"], ["folder"]),
        "trial_report": (["png"], ["png"]),
    }
    found = {}
    for name in ("demo", "containers", "jobs", "lammps"):
        server = build_server([load_registry(root / f"{name}.yaml")])
        async with McpToolbox([EmbeddedServer(server=server)]) as toolbox:
            for tool in await toolbox.tools():
                if PATHS in (notes := tool.annotations):
                    found[tool.name] = (notes[PATHS], notes.get(WRITES))
    assert {name: found[name] for name in expected} == expected
