"""Build and run containers with Docker, Podman or Buildah, if one works on this machine.

A client alone is not enough: Docker's may be installed without an engine. So the tools ask each
builder first, and report its answer.
"""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fractale.paths import checked, holds_private, takes_paths
from fractale.registry.calls import Progress
from fractale.tools.processes import OnLine, ProcessEnd, run_program, teller

Builder = Literal["docker", "podman", "buildah"]

BUILDERS: tuple[Builder, ...] = ("docker", "podman", "buildah")
"""The builders, in the order of preference."""

SHARING: Mapping[str, tuple[Builder, ...]] = {"podman": ("buildah",), "buildah": ("podman",)}
"""Builder → the builders that see its images."""

FENCE = re.compile(r"```[\w.+-]*\n(.*?)\n?```", re.DOTALL)
IMAGE = re.compile(r"[a-z0-9]+(?:[._/:@-]+[A-Za-z0-9]+)*")
CONFINED = re.compile(
    r"creating container for|did not get container create message|OCI permission denied"
    r"|OCI runtime error|error setting cgroup|newuidmap|cannot set up namespace"
)
"""Errors in a container's log if the machine does not allow it to start."""
CONFINED_HINT = (
    "this machine did not let {name} start a container, and no other Dockerfile can change that; "
    "where containers are confined, BUILDAH_ISOLATION=chroot and STORAGE_DRIVER=vfs in the "
    "environment may help podman and buildah"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A builder that works.

    Args:
        name: The name of the builder.
        path: The path of its program.
    """

    name: Builder
    path: str

    def build(self, file: str, image: str, context: str, arguments: Sequence[str]) -> list[str]:
        """Return the command that builds an image."""
        verb = ["bud"] if self.name == "buildah" else ["build"]
        given = [word for argument in arguments for word in ("--build-arg", argument)]
        return [self.path, *verb, *given, "-f", file, "-t", image, context]


async def find_builders() -> dict[str, Any]:
    """Report which of Docker, Podman and Buildah can build a container here; changes nothing.

    Returns:
        `use`: the builder that `build_container` uses, or null; `builders`: each with its state
        (`works`, `broken`, `absent`), version, path and, if it does not work, `problem`.
    """
    found = [each.as_dict() for each in await _look()]
    works = [each["name"] for each in found if each["state"] == "works"]
    return {"use": works[0] if works else None, "builders": found}


@takes_paths("context")
async def build_container(
    dockerfile: str | list[str],
    uri: str,
    progress: Progress,
    context: str | None = None,
    build_args: dict[str, str] | None = None,
    builder: Literal["auto", "docker", "podman", "buildah"] = "auto",
    timeout: float | None = None,  # noqa: ASYNC109 - a tool's argument
) -> dict[str, Any]:
    """Build a container image from a Dockerfile.

    Args:
        dockerfile: The Dockerfile's text, or its lines.
        uri: The image's name, such as `lammps:latest`.
        context: The directory that COPY and ADD copy files from; by default an empty one.
        build_args: Values of the Dockerfile's ARGs.
        builder: The builder to use; `auto` uses the first that works.
        timeout: The time limit in seconds; null for no limit.

    Returns:
        `returncode`; `success`; `builder`; `image` and `seconds`; `log`, its end; and, after a
        failure, `error`, the last lines of the log, for the author of the Dockerfile,
        and `cause`: `machine` if no Dockerfile would build, else `dockerfile`.

    Raises:
        ValueError: No builder works here, or an argument can't be used.
        PermissionError: The context contains a private path.
    """
    text = _dockerfile(dockerfile)
    image = _image(uri)
    directory = _folder(context)
    tool = (await _working(builder))[0]
    arguments = [f"{name}={value}" for name, value in (build_args or {}).items()]
    with tempfile.TemporaryDirectory(prefix="fractale-build-") as own:
        file = Path(own) / "Dockerfile"
        file.write_text(text, encoding="utf-8")
        empty = Path(own) / "context"
        empty.mkdir()
        words = tool.build(str(file), image, str(directory or empty), arguments)
        ended = await run_program(words, timeout=timeout, on_line=teller(progress))
    answer = {**ended.answer(f"{tool.name} build"), "builder": tool.name, "image": image}
    if answer["success"]:
        return answer
    if not _is_confined(ended):
        return {**answer, "cause": "dockerfile"}
    hint = CONFINED_HINT.format(name=tool.name)
    return {**answer, "cause": "machine", "error": f"{hint}. {answer['error']}"}


async def run_in_container(
    uri: str,
    command: list[str],
    progress: Progress,
    builder: Literal["auto", "docker", "podman", "buildah"] = "auto",
    timeout: float | None = 600,  # noqa: ASYNC109 - a tool's argument
) -> dict[str, Any]:
    """Run a command in a container image of this machine, and remove the container afterwards.

    Args:
        uri: The image's name.
        command: The program in the image, and its arguments.
        builder: The builder of the image, or `auto`. Podman and Buildah share their images: if one
            may not start containers on this machine, the other is tried.
        timeout: The time limit in seconds; null for no limit.

    Returns:
        `returncode`, `success`, `builder`, `log` and, after a failure, `error`.

    Raises:
        ValueError: No program here can run containers, or an argument can't be used.
    """
    image = _image(uri)
    if not command:
        raise ValueError("`command` is empty: name the program to run")
    tool, *others = await _working(builder, *SHARING.get(builder, ()))
    ended = await _run(tool, image, command, teller(progress), timeout)
    while others and _is_confined(ended):
        tool = others.pop(0)
        ended = await _run(tool, image, command, teller(progress), timeout)
    return {**ended.answer(command[0]), "builder": tool.name, "image": image}


async def _run(
    tool: Tool,
    image: str,
    command: Sequence[str],
    told: OnLine,
    timeout: float | None,  # noqa: ASYNC109
) -> ProcessEnd:
    if tool.name == "buildah":
        return await _buildah_run(tool, image, command, told, timeout)
    words = [tool.path, "run", "--rm", "--entrypoint", command[0], image, *command[1:]]
    return await run_program(words, timeout=timeout, on_line=told)


async def _buildah_run(
    tool: Tool,
    image: str,
    command: Sequence[str],
    told: OnLine,
    timeout: float | None,  # noqa: ASYNC109
) -> ProcessEnd:
    """Run a command with Buildah, which has no `run` for images: use a temporary container."""
    name = f"fractale-{uuid.uuid4().hex[:12]}"
    made = await run_program(
        [tool.path, "from", "--pull-never", "--name", name, image], timeout=timeout
    )
    if made.returncode != 0:
        return made
    try:
        words = [tool.path, "run", name, "--", *command]
        return await run_program(words, timeout=timeout, on_line=told)
    finally:
        await run_program([tool.path, "rm", name], timeout=60)


# -- the builders -------------------------------------------------------------------------------


async def _look() -> list[Any]:
    """The findings about each builder, as in `fractale discover`."""
    from fractale.settings import load_settings
    from fractale.site.discover import machine_of
    from fractale.site.probes import containers

    machine = machine_of(load_settings(untrusted="narrow"))
    return [await getattr(containers, name)(machine) for name in BUILDERS]


async def _working(wanted: str, *others: str) -> list[Tool]:
    """The working builders: the wanted one and the others, or all for ``auto``.

    Raises:
        ValueError: None of them works; the message has the reason for each.
    """
    names = BUILDERS if wanted == "auto" else (wanted, *others)
    found = [each for each in await _look() if each.name in names]
    works = [Tool(name=each.name, path=each.path) for each in found if each.state == "works"]
    if works:
        return sorted(works, key=lambda tool: names.index(tool.name))
    why = "; ".join(f"{each.name}: {each.problem}" for each in found)
    raise ValueError(f"no program on this machine can build or run containers ({why})")


# -- arguments ----------------------------------------------------------------------------------


def _dockerfile(given: str | list[str]) -> str:
    """Return the Dockerfile's text, without a Markdown fence that a model put around it."""
    text = "\n".join(given) if isinstance(given, list) else given
    if fenced := FENCE.search(text):
        text = fenced[1]
    if not re.search(r"(?im)^\s*FROM\s+\S", text):
        raise ValueError("the Dockerfile has no FROM line: it builds nothing")
    return text.rstrip("\n") + "\n"


def _image(uri: str) -> str:
    if not IMAGE.fullmatch(uri.strip()):
        raise ValueError(f"`{uri}` is not a valid image name, such as `lab/lammps:latest`")
    return uri.strip()


def _folder(context: str | None) -> Path | None:
    if not context:
        return None
    directory = checked(context)
    if not directory.is_dir():
        raise ValueError(f"context directory {directory} not found")
    if private := holds_private(directory):
        raise PermissionError(
            f"no image is built from {directory}: it contains {private}, which COPY would copy"
        )
    return directory


def _is_confined(ended: ProcessEnd) -> bool:
    """Whether the machine did not allow a container to start, by the end of the log."""
    return ended.returncode not in (0, None) and bool(CONFINED.search(ended.log[-1000:]))
