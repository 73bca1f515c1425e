"""The audit log: who agreed to what, when, and from where.

Each line is one JSON object. It records one thing that the user, or an option that the user gave,
agreed to or refused:

- a run that was started, forked or resumed, with ``--yes`` or without;
- an answer to an approval or a review, or about a call whose outcome is unknown;
- a run that was started, resumed, forked or cancelled from another process (``act``);
- a server or file that is trusted from then on.

Each line can be read without the others. The log is ``audit.jsonl`` in the state directory. If the
setting `audit` names a file or a directory, each line is written there, too. fractale does not act
on an approval that it cannot record.

The file is opened for appending only, so that a site can make it append-only (``chattr +a``). A
process of the user writes it. It shows what fractale did, but it proves nothing against a user who
changes fractale itself.
"""

from __future__ import annotations

import json
import os
import pwd
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from fractale.errors import StoreError
from fractale.private import make_folder, open_private

if TYPE_CHECKING:
    from fractale.events import Event
    from fractale.settings import Settings

VERSION: Final = 1
FILE: Final = "audit.jsonl"

LONGEST_TEXT: Final = 500
"""Characters of a text that a line keeps; the system appends a short line in one piece."""

_SECRET_KINDS: Final = frozenset({"elicitation"})
"""Questions whose answers may be passwords: only the chosen option is recorded."""


@dataclass(frozen=True, slots=True)
class AuditLog:
    """Records what the user agreed to.

    Args:
        files: Each gets every line.
        environment: Says where the user came from.
        mask: Removes secrets from a JSON value.
    """

    files: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    mask: Callable[[Any], Any] = lambda value: value

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        kept: bool = True,
        mask: Callable[[Any], Any] = lambda value: value,
    ) -> AuditLog:
        """The log that the settings ask for.

        Args:
            kept: Whether the state directory is written to.
        """
        files = [settings.state_dir / FILE] if kept else []
        if settings.audit:
            files.append(_site_file(settings.audit))
        return cls(tuple(files), settings.environment, mask)

    def record(self, what: str, **details: Any) -> None:
        """Write one line.

        Args:
            what: The kind of line, such as ``answer`` or ``trust``.
            details: JSON values; long texts are cut.

        Raises:
            StoreError: A file cannot be written.
        """
        if not self.files:
            return
        now = time.time()
        line = {
            "version": VERSION,
            "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
            "what": what,
            **_who(self.environment),
            **cast("dict[str, Any]", _short(self.mask(details))),
        }
        data = json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n"
        for file in self.files:
            _append(file, data)

    def listen(self, event: Event) -> None:
        """Write a line if an event of a run says that something was agreed to.

        Raises:
            StoreError: A file cannot be written.
        """
        data = event.data
        if event.kind == "answered":
            question = cast("Mapping[str, Any]", data["question"])
            where = {name: data[name] for name in ("via", "user") if data.get(name)}
            answered = {"by": data["by"], **_answered(question, data)}
            self.record("answer", run=event.run, **answered, **where)
        elif event.kind == "tool_started" and data.get("agreed"):
            known = {name: data.get(name) for name in ("step", "tool", "arguments", "agreed")}
            self.record("call", run=event.run, **known)


def _answered(question: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The question and its answer."""
    kind = str(question.get("kind"))
    answer = data["answer"]
    if kind in _SECRET_KINDS:
        given = cast("Mapping[str, Any]", answer if isinstance(answer, Mapping) else {})
        answer = given.get("action", "***")
    names = ("tool", "server", "arguments", "why", "job", "scheduler", "plan", "message", "text")
    asked = {name: question[name] for name in names if name in question}
    return {"step": data.get("step"), "kind": kind, "answer": answer, "asked": asked}


def _who(environment: Mapping[str, str]) -> dict[str, Any]:
    """Who acts, and from where."""
    uid = os.getuid()
    known = {
        "host": socket.gethostname(),
        "uid": uid,
        "user": _name_of(uid),
        "login_uid": _login_uid(),
        "sudo_user": environment.get("SUDO_USER"),
        "terminal": _terminal(),
        "ssh_from": (environment.get("SSH_CONNECTION") or "").partition(" ")[0] or None,
        "job": environment.get("SLURM_JOB_ID") or environment.get("PBS_JOBID"),
        "pid": os.getpid(),
        "folder": _folder(),
    }
    return {name: value for name, value in known.items() if value is not None}


def _name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _login_uid() -> int | None:
    """Who logged in: the kernel keeps this ID through su and sudo."""
    try:
        uid = int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return uid if uid != 0xFFFFFFFF else None


def _terminal() -> str | None:
    for descriptor in (0, 1, 2):
        try:
            return os.ttyname(descriptor)
        except OSError:
            continue
    return None


def _folder() -> str | None:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return None


def _short(value: Any) -> Any:
    if isinstance(value, str):
        left = len(value) - LONGEST_TEXT
        return value if left <= 0 else f"{value[:LONGEST_TEXT]}… ({left} more characters)"
    if isinstance(value, Mapping):
        return {str(k): _short(v) for k, v in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_short(each) for each in cast("list[Any]", value)]
    return value


def _site_file(path: Path) -> Path:
    """The file itself; in a directory, one file per user."""
    uid = os.getuid()
    return path / f"{_name_of(uid) or uid}.jsonl" if path.is_dir() else path


def _opened(file: Path) -> int:
    """The file's descriptor; an existing file keeps its mode (a group may read it)."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(file, flags)
    except FileNotFoundError:
        make_folder(file.parent)
        return open_private(file, flags | os.O_CREAT)


def _append(file: Path, data: bytes) -> None:
    try:
        descriptor = _opened(file)
        try:
            if os.write(descriptor, data) < len(data):
                raise OSError("no space is left")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(
            f"cannot write the audit log {file}: {error.strerror or error}",
            hint="nothing was done; check space and permissions, and the setting `audit`",
        ) from error
