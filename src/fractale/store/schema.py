"""The version of a SQLite file: brought up to date when it is opened, refused when it is newer.

SQLite keeps a number for its user in the file's header (``PRAGMA user_version``). A file has the
version n once the first n changes of its list were made to it; a new file has the version 0.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from fractale.errors import StoreError

Change = Sequence[str]
"""The statements that bring a file from one version to the next."""


def migrate(connection: sqlite3.Connection, changes: Sequence[Change], what: str) -> int:
    """Make the changes that a file does not have yet, all of them or none.

    Args:
        connection: To the file; in no transaction.
        changes: The first brings version 0 to 1.
        what: The file, for messages.

    Returns:
        How many changes were made.

    Raises:
        StoreError: A newer fractale wrote the file.
        sqlite3.Error: The file cannot be written, or is damaged.
    """
    if (version := _version(connection, what, len(changes))) == len(changes):
        return 0
    connection.isolation_level = None
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been quicker.
        version = _version(connection, what, len(changes))
        for change in changes[version:]:
            for statement in change:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(changes)}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return len(changes) - version


def _version(connection: sqlite3.Connection, what: str, newest: int) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if not 0 <= version <= newest:
        raise StoreError(
            f"{what} has version {version} of its layout, this fractale knows up to {newest}",
            hint="install the newer fractale, or set FRACTALE_STATE_DIR to another folder",
        )
    return version
