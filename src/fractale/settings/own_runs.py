"""Which runs a user started: a keyed hash in the record of each.

`resume` and `fork` act on a record: they import the registries that it names. A directory of
records can come with a cloned repository or an archive, and then its files are the user's own. So
each record has a hash over how the run was started, with a key that only its user has
(``~/.config/fractale/key``). The hash does not cover the record's other files.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fractale.errors import SettingsError
from fractale.plain import to_json
from fractale.private import fault_of, make_folder, open_private
from fractale.settings.files import CONFIG_VARIABLE, trust_store, user_folder

MARK: Final = "mark"
"""The key of the hash in a record's head."""

KEY_FILE: Final = "key"
KEY_BYTES: Final = 32


def marked(head: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The head of a new record with the user's mark; without one if no key can be kept."""
    key = _key(environment) or _make_key(environment)
    return {**head, MARK: _hash(key, head)} if key else dict(head)


def is_own(head: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Whether the user started the run of a record, and its head is unchanged since."""
    key, mark = _key(environment), head.get(MARK)
    return bool(key and isinstance(mark, str) and hmac.compare_digest(mark, _hash(key, head)))


def is_agreed(path: Path, head: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Whether a record may be acted on: it is the user's own, or the user agreed to it."""
    if is_own(head, environment) or environment.get(CONFIG_VARIABLE) == "1":
        return True
    return trust_store(environment).holds("run", path, digest_of_head(head))


def agree(path: Path, head: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Record that the user agrees to act on a record.

    Raises:
        SettingsError: The trust store cannot be used.
    """
    trust_store(environment).add("run", path, digest_of_head(head))


def not_own(run_id: str, environment: Mapping[str, str]) -> SettingsError:
    """The error for a record that the user did not make and did not agree to."""
    return SettingsError(
        f"you did not start run {run_id}, or its record was changed",
        hint=f"review it with `fractale show {run_id}`; then add --trust-project, "
        f"or set FRACTALE_TRUST_PROJECT=1\n{why_not_own(environment)}",
    )


def why_not_own(environment: Mapping[str, str]) -> str:
    """When a run counts as another user's although this user started it."""
    if not _has_home(environment):
        return (
            "without HOME, fractale cannot find the key ~/.config/fractale/key that marks your runs"
        )
    path = user_folder(environment) / KEY_FILE
    return (
        f"a run that you did start counts as yours only with the key that it was started with, "
        f"here {path}: not with another account, HOME or XDG_CONFIG_HOME, nor with a new key"
    )


def digest_of_head(head: Mapping[str, Any]) -> str:
    """The SHA-256 of how a run was started."""
    return hashlib.sha256(_bytes_of(head)).hexdigest()


def _bytes_of(head: Mapping[str, Any]) -> bytes:
    known = {name: value for name, value in sorted(head.items()) if name != MARK}
    return to_json(known, compact=True).encode()


def _hash(key: bytes, head: Mapping[str, Any]) -> str:
    return hmac.new(key, _bytes_of(head), hashlib.sha256).hexdigest()


def _has_home(environment: Mapping[str, str]) -> bool:
    return bool(environment.get("HOME") or environment.get("XDG_CONFIG_HOME"))


def _key(environment: Mapping[str, str]) -> bytes | None:
    """The user's key; None if there is none, or if others could have made or read it."""
    if not _has_home(environment):
        return None
    path = user_folder(environment) / KEY_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if fault_of(status) or status.st_mode & 0o077:
            return None
        key = file.read(KEY_BYTES + 1)
    return key if len(key) == KEY_BYTES else None


def _make_key(environment: Mapping[str, str]) -> bytes | None:
    """A new key; None if it cannot be kept, or if another process has just made one."""
    if not _has_home(environment):
        return None
    path = user_folder(environment) / KEY_FILE
    part = path.with_name(f"{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        make_folder(path.parent)
        descriptor = open_private(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(part, path)  # complete, and never replacing an existing one
        part.unlink()
    except OSError:
        return None
    return _key(environment)
