"""A container from a described need: real builds with Buildah, the log's error fed back.

The images stand in a storage of the test's own; nothing is pulled from anywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from fractale.testing import ModelServer, Reply
from fractale.tools.containers import build_container, find_builders, run_in_container
from scenarios import Reader, asked, by_turns, errors_of, path_of, path_with
from stand_ins import no_engine, write

NEED = ("run", "plans/build-container.yaml", "-r", "registries/containers.yaml")
OWN = ("run", "plans/build-dockerfile.yaml", "-r", "registries/containers.yaml")
BUILDAH = ("-i", "builder=buildah")
BUSYBOX = shutil.which("busybox")

BASE = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "/bin"]
"""
HELLO = f"{BASE}RUN printf '#!/bin/sh\\necho Hello World\\n' > /bin/hello && chmod +x /bin/hello\n"
DEPENDS = "${Package}\\t${Pre-Depends}, ${Depends}\\n"
"""What dpkg-query writes for each package."""
BROKEN = f"{BASE}RUN apt-get install hello\n"

real = pytest.mark.skipif(
    shutil.which("buildah") is None or BUSYBOX is None,
    reason="no buildah or no busybox here: apt-get install buildah busybox-static",
)


class Listener:
    """Takes the progress of a call."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def report_progress(self, progress, total=None, message=None):
        self.told.append(message)


@pytest.fixture
def storage(tmp_path) -> dict[str, str]:
    """What the environment needs so that images are kept in the test's own folder."""
    folder = tmp_path / "images"
    folder.mkdir()
    conf = folder / "storage.conf"
    conf.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    )
    context = tmp_path / "context"
    context.mkdir()
    if BUSYBOX:
        shutil.copy(BUSYBOX, context / "busybox")
    return {"CONTAINERS_STORAGE_CONF": str(conf), "BUILDAH_ISOLATION": "chroot"}


def dockerfile(reader: Reader, text: str) -> tuple[str, ...]:
    (reader.folder / "Dockerfile").write_text(text)
    return ("-i", "dockerfile=Dockerfile", "-i", "context=context")


# -- real builds --------------------------------------------------------------------------------


@real
def test_a_container_from_scratch_is_built_and_says_hello(tmp_path, storage):
    reader = Reader(tmp_path, **storage)
    end = reader.end(*OWN, *BUILDAH, *dockerfile(reader, HELLO), "-i", 'command=["hello"]')
    assert end["status"] == "success", end
    assert end["outputs"]["builder"] == "buildah"
    assert end["outputs"]["said"] == "Hello World\n"
    left = subprocess.run(
        ["buildah", "containers", "-q"], env={**os.environ, **storage}, capture_output=True
    )
    assert left.stdout == b"", "no working container is left behind"


@real
def test_a_container_from_a_local_base_image(tmp_path, storage):
    reader = Reader(tmp_path, **storage)
    base = dockerfile(reader, BASE)
    made = reader.end(*OWN, *BUILDAH, *base, "-i", "uri=localhost/base:1")
    assert made["status"] == "success", made
    above = "FROM localhost/base:1\nRUN echo above > /word\n"
    words = (*dockerfile(reader, above), "-i", 'command=["cat", "/word"]', "-i", "uri=lab/app:2")
    end = reader.end(*OWN, *BUILDAH, *words)
    assert end["status"] == "success", end
    assert end["outputs"]["said"] == "above\n"


@real
@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="this machine is no Debian")
def test_a_container_from_a_debian_base(tmp_path, storage):
    """The base is made of this machine's own packages: no mirror and no registry is asked."""
    reader = Reader(tmp_path, **storage)
    debian(tmp_path / "context" / "base.tar")
    base = dockerfile(reader, "FROM scratch\nADD base.tar /\n")
    made = reader.end(
        *OWN, *BUILDAH, *base, "-i", "uri=localhost/debian:own", "-i", 'command=["true"]'
    )
    assert made["status"] == "success", made
    above = "FROM localhost/debian:own\nRUN dpkg-query -W -f '${Version}' bash > /version\n"
    words = (*dockerfile(reader, above), "-i", "uri=app", "-i", 'command=["cat", "/version"]')
    end = reader.end(*OWN, *BUILDAH, *words)
    assert end["status"] == "success", end
    assert end["outputs"]["said"].strip() == dpkg("-W", "-f", "${Version}", "bash")


def dpkg(*words: str) -> str:
    return subprocess.run(["dpkg-query", *words], capture_output=True, text=True, check=True).stdout


def debian(archive: Path) -> None:
    """A small Debian of this machine's own packages."""
    with tarfile.open(archive, "w") as tar:
        for name in ("/bin", "/sbin", "/lib", "/lib64", "/var/lib/dpkg/status"):
            if Path(name).exists():
                tar.add(name, recursive=False)
        for file in sorted(files_of(with_needed("dash", "bash", "coreutils", "dpkg"))):
            tar.add(file, recursive=False)


def with_needed(*packages: str) -> set[str]:
    """These packages and all that they depend on, as far as it is installed."""
    table = (line.split("\t") for line in dpkg("-W", "-f", DEPENDS).splitlines())
    depends = {name: re.findall(r"(?:^|, |\| )([a-z0-9][a-z0-9+.-]+)", on) for name, on in table}
    found, left = set(), list(packages)
    while left:
        name = left.pop()
        if name in depends and name not in found:
            found.add(name)
            left += depends[name]
    return found


def files_of(packages: set[str]) -> set[str]:
    """The packages' files where they really are: `/bin` may be a link to `/usr/bin`."""
    found = set()
    for line in dpkg("-L", *packages).splitlines():
        file = Path(line)
        if line.startswith("/usr/share/") or file.is_dir() or not os.access(file, os.R_OK):
            continue
        found.add(str(file.parent.resolve() / file.name))
    return found


@real
def test_the_end_of_the_log_goes_back_to_the_model_until_it_builds(tmp_path, storage):
    answers = [Reply(data={"dockerfile": text}) for text in (BROKEN, HELLO)]
    with ModelServer(by_turns(*answers)) as server:
        reader = Reader(tmp_path, server, **storage)
        need = ("-i", "need=It says Hello World.", "-i", "context=context")
        events = reader.events(*NEED, *BUILDAH, *need, "-i", 'command=["hello"]')
    assert path_of(events) == [
        "builders:success",
        "write:success",
        "build:failure",
        "write:success",
        "build:success",
        "try:success",
    ]
    assert "apt-get: not found" in errors_of(events, "build")[0]
    assert "apt-get: not found" in asked(server.requests[1])
    assert "RUN apt-get install hello" in asked(server.requests[1])
    assert events[-1]["outputs"]["said"] == "Hello World\n"
    assert events[-1]["outputs"]["tries"] == 2


@real
def test_an_image_that_builds_and_does_not_work_goes_back_too(tmp_path, storage):
    answers = [Reply(data={"dockerfile": text}) for text in (BASE, HELLO)]
    with ModelServer(by_turns(*answers)) as server:
        reader = Reader(tmp_path, server, **storage)
        words = ("-i", "need=x", "-i", "context=context", "-i", 'command=["hello"]')
        events = reader.events(*NEED, *BUILDAH, *words)
    assert path_of(events)[2:5] == ["build:success", "try:failure", "write:success"]
    assert "hello" in errors_of(events, "try")[0]
    assert events[-1]["status"] == "success"


@real
def test_a_build_tells_its_steps_while_it_runs(tmp_path, storage):
    reader = Reader(tmp_path, **storage)
    events = reader.events(*OWN, *BUILDAH, *dockerfile(reader, HELLO), "-i", 'command=["hello"]')
    told = [e["message"] for e in events if e["event"] == "tool_progress"]
    assert any(message.startswith("STEP 2/4: COPY busybox") for message in told), told


@real
def test_the_prompt_of_0_1_0_builds_a_container(tmp_path, storage):
    """A model with the registry's tools; here it is scripted."""
    words = "Build a container for lammps with an ubuntu 24.04 base"
    context = str(tmp_path / "context")
    build = {"dockerfile": HELLO.splitlines(), "uri": "lammps", "context": context}
    model = by_turns(
        Reply(tool_calls=[("build_container", {**build, "builder": "buildah"})]),
        lambda request: "built" if '"returncode":0' in str(request.body) else "not built",
    )
    with ModelServer(model) as server:
        reader = Reader(tmp_path, server, **storage)
        end = reader.end(
            "prompt", "--direct", "--yes", "-r", "registries/containers.yaml", *words.split()
        )
    assert end["status"] == "success", end
    assert end["outputs"]["answer"] == "built"


# -- which builder ------------------------------------------------------------------------------


@real
def test_a_client_without_an_engine_is_not_taken(tmp_path, storage):
    no_engine(tmp_path / "programs")
    reader = Reader(tmp_path, **storage, PATH=path_with(tmp_path / "programs"))
    end = reader.end(*OWN, *dockerfile(reader, HELLO), "-i", 'command=["hello"]')
    assert end["status"] == "success", end
    assert end["outputs"]["builder"] in ("podman", "buildah")


def only(tmp_path: Path, **programs: str) -> dict[str, str]:
    """An environment that has the shell and these programs."""
    folder = tmp_path / "only"
    folder.mkdir()
    for name in ("sh", "cat"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, body in programs.items():
        write(folder, name, body)
    return {"PATH": str(folder)}


def test_where_nothing_works_the_reason_of_each_is_told(tmp_path):
    environment = only(tmp_path)
    no_engine(tmp_path / "only")
    reader = Reader(tmp_path, **environment)
    (reader.folder / "context").mkdir()
    events = reader.events(*OWN, *dockerfile(reader, HELLO))
    assert path_of(events) == ["builders:failure"]
    (looked,) = [e for e in events if e["event"] == "tool_finished"]
    assert "a client without an engine: Cannot connect to the Docker daemon" in looked["text"]
    assert "no `buildah` on PATH" in looked["text"]


CONFINED = """case "$1" in
--version) echo 'buildah version 1.28.2';;
info) echo '{}';;
*) echo 'STEP 1/1: FROM scratch'
   echo 'error running container: from crun creating container for [/bin/sh]: cgroups' >&2; exit 1;;
esac"""


def test_a_machine_that_confines_containers_is_no_fault_of_the_dockerfile(tmp_path):
    """It doesn't go back to the model, which could do nothing about it."""
    answers = [Reply(data={"dockerfile": HELLO})]
    with ModelServer(by_turns(*answers)) as server:
        reader = Reader(tmp_path, server, **only(tmp_path, buildah=CONFINED))
        events = reader.events(*NEED, "-i", "need=x")
    assert path_of(events) == ["builders:success", "write:success", "build:failure"]
    assert "BUILDAH_ISOLATION=chroot" in errors_of(events, "build")[0]
    assert len(server.requests) == 1


# -- the tools alone ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"dockerfile": "RUN true", "uri": "a"}, "no FROM line"),
        ({"dockerfile": HELLO, "uri": "--help"}, "not a valid image name"),
        ({"dockerfile": HELLO, "uri": "a", "context": "/no/such/folder"}, "not found"),
    ],
)
async def test_what_cannot_be_built_is_refused_before_anything_runs(given, why):
    with pytest.raises(ValueError, match=why):
        await build_container(**given, progress=Listener())


async def test_a_command_must_be_there_to_be_run():
    with pytest.raises(ValueError, match="`command` is empty"):
        await run_in_container("a", [], progress=Listener())


async def test_a_build_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    slow = 'case "$1" in --version) echo 1.0;; info) echo "{}";; *) echo begun; sleep 600;; esac'
    (tmp_path / "only").mkdir()
    write(tmp_path / "only", "buildah", slow)
    monkeypatch.setenv("PATH", path_with(tmp_path / "only"))
    listener = Listener()
    said = await build_container(
        f"```Dockerfile\n{HELLO}```", "a", listener, builder="buildah", timeout=1
    )
    assert said["success"] is False
    assert said["returncode"] is None
    assert "did not end in time" in said["error"]
    assert listener.told == ["begun"]


async def test_every_builder_is_looked_at():
    found = await find_builders()
    assert [each["name"] for each in found["builders"]] == ["docker", "podman", "buildah"]
    works = [each["name"] for each in found["builders"] if each["state"] == "works"]
    assert found["use"] == (works[0] if works else None)
