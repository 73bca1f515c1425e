"""What works when a tool of a server is called: its code, its environment, its version.

A cached result is taken over only if all of this is the same (`fractale.graph.reuse_key`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fractale.code_files import (
    UnknownCode,
    check_unchanged_since,
    code_of_object,
    identity,
    program_code,
)
from fractale.mcp.transport import AnyServer, EmbeddedServer
from fractale.settings import ServerSettings
from fractale.settings.environment import lasting
from fractale.toolbox import Provenance


class KnownProvenance:
    """A provenance that was found before. It is current while its session and its files are.

    Args:
        since: When the session began.
    """

    def __init__(self, found: Provenance, since: float) -> None:
        self.found = found
        self._since = since
        files: Mapping[str, str] = found.parts.get("code", {}).get("files", {})
        self._files = {file: identity(Path(file)) for file in files}

    def is_current(self, since: float) -> bool:
        """Whether it is of the session that began then, and no file of its code was changed."""
        if self.found.unknown or since != self._since:
            return False
        return all(identity(Path(file)) == known for file, known in self._files.items())


def provenance_of(
    server: AnyServer, tool: str | None, version: str | None, since: float
) -> Provenance:
    """What works when a tool is called. It reads files.

    Args:
        tool: The tool's name on the server; None: anything there.
        version: The server's name and version, as it said; None if it has no session.
        since: When it was started, in Unix time.
    """
    if isinstance(server, EmbeddedServer):
        return _of_object(server, tool)
    parts: dict[str, Any] = {"server": [server.name, version or ""]}
    unknown = "" if version else f"server `{server.name}` is not connected"
    if server.transport != "stdio":
        parts["address"] = server.url
        return Provenance(parts=parts, unknown=unknown, remote=True)
    directory = Path(server.cwd).expanduser() if server.cwd else Path.cwd()
    parts |= _of_program(server, directory)
    names: tuple[str, ...] = ()
    try:
        code = program_code(server.command or "", server.args, server.env, directory)
        check_unchanged_since(code.files, since)
        parts["code"], names = code.as_dict(), tuple(sorted(code.names))
    except UnknownCode as error:
        unknown = unknown or str(error)
    return Provenance(parts=parts, unknown=unknown, directory=directory, names=names)


def _of_program(server: ServerSettings, directory: Path) -> dict[str, Any]:
    return {
        "command": [server.command, *server.args],
        "directory": str(directory),
        "environment": lasting(server.env, server.named),
        "confinement": [server.confine, list(server.writable), server.network],
    }


def _of_object(server: EmbeddedServer, tool: str | None) -> Provenance:
    """What works when a tool of this process is called."""
    parts: dict[str, Any] = {"server": [server.name]}
    parts["environment"] = lasting(server.environment)
    directory = Path.cwd()
    parts["directory"] = str(directory)
    if tool is None or tool not in server.objects:
        return Provenance(parts=parts, unknown="its code is not known", directory=directory)
    found, folder = server.objects[tool]
    try:
        code = code_of_object(found, folder)
    except UnknownCode as error:
        return Provenance(parts=parts, unknown=str(error), directory=directory)
    parts["code"] = code.as_dict()
    return Provenance(parts=parts, directory=directory, names=tuple(sorted(code.names)))
