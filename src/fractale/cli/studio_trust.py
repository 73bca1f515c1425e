"""A directory's ``langgraph.json``: the user agrees to the Python that Studio's server imports."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import click

from fractale.audit import AuditLog
from fractale.cli import options
from fractale.cli.render.questions import exact
from fractale.errors import UsageError
from fractale.settings import Settings, trust_store
from fractale.settings.trust import digest_of
from fractale.studio.launch import CONFIG, read_config

_PLACE: Final = re.compile(r"[^\s:]+:[A-Za-z_]\w*")


def look_at(settings: Settings) -> None:
    """Ask about the folder's ``langgraph.json``, unless the user agreed to it as it is.

    Raises:
        UsageError: The user does not agree, or there is no terminal to ask on.
        SettingsError: The user's trust store cannot be used.
    """
    file = Path(CONFIG)
    if not file.is_file():
        return
    log, place = AuditLog.of(settings), str(file.resolve())
    if by := options.trust_given(settings.environment):
        log.record("trust", kind="registry", path=place, by=by)
        return
    store, digest = trust_store(settings.environment), digest_of_imports(file)
    if store.holds("registry", file, digest):
        return
    lines = shown_lines(file)
    refused = UsageError(
        "\n".join([*lines, "you have not agreed to this yet"]),
        hint=f"look at these files, then: fractale trust {CONFIG}\nor for once: --trust-project",
    )
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise refused
    click.echo("\n".join(lines), err=True)
    click.echo("Do you trust these files? [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("the server was not started", hint=refused.hint)
    log.record("trust", kind="registry", path=place, digest=digest, by="person")
    store.add("registry", file, digest, shown="\n".join(lines))


def agree(file: Path, settings: Settings) -> list[str]:
    """Keep that the user agrees to a ``langgraph.json`` as it is; what it imports, in lines.

    Raises:
        UsageError: The file is damaged.
        SettingsError: The user's trust store cannot be used.
    """
    lines, digest = shown_lines(file), digest_of_imports(file)
    trust_store(settings.environment).add("registry", file, digest, shown="\n".join(lines))
    return lines


def shown_lines(file: Path) -> list[str]:
    """What a ``langgraph.json`` has the server import and read, for people."""
    config = read_config(file)
    named = [f"  imports {exact(place)}" for place in _places(config)]
    named += [f"  takes variables from {exact(name)}" for name in _variables(config)]
    return [f"for Studio's server, {exact(str(file.resolve()))}", *named]


def digest_of_imports(file: Path) -> str:
    """A hash of a ``langgraph.json`` and of the files that it names."""
    config = read_config(file)
    files = {place.rpartition(":")[0] for place in _places(config)} | set(_variables(config))
    parts = [file.read_bytes()]
    for name in sorted(files):
        path = file.parent / name
        parts.append(name.encode() + b"\0" + (path.read_bytes() if path.is_file() else b""))
    return digest_of(b"\0\0".join(parts))


def _places(value: Any) -> list[str]:
    """Every ``FILE.py:NAME`` or ``MODULE:NAME`` in it, wherever it is."""
    if isinstance(value, str):
        return [value] if _PLACE.fullmatch(value) else []
    if isinstance(value, dict):
        inner = list(cast("dict[str, Any]", value).values())
    else:
        inner = cast("list[Any]", value) if isinstance(value, list) else []
    return sorted({place for each in inner for place in _places(each)})


def _variables(config: Mapping[str, Any]) -> list[str]:
    """The file of environment variables that the server reads."""
    return [config["env"]] if isinstance(config.get("env"), str) else []
