"""What is secret, and what hides it: variables, texts, and a password in a store's URL."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from fractale.errors import SettingsError

STORE_SCHEMES = ("postgresql://", "postgres://")
STORE_VARIABLE = "FRACTALE_STORE"

SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL")
"""An environment variable with one of these words in its name holds a secret."""
MASKED = "***"
SECRET_LENGTH = 8
"""A shorter secret is not looked for in texts: it would be found where it is none."""


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that a started server gets: all of it but what looks like a secret.

    A server on a cluster needs what the scheduler, modules and Spack have set; a key that it
    needs is named under its `env`.
    """
    return {
        key: value
        for key, value in environment.items()
        if not is_secret(key) and not (key == STORE_VARIABLE and store_password(value))
    }


def is_secret(variable: str) -> bool:
    """Whether an environment variable holds a secret, going by its name."""
    return any(word in variable.upper() for word in SECRET_WORDS)


def shown_url(url: str) -> str:
    """A URL for people to read: without a password, and without the values of its query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    who = f"{name}:{MASKED}" if colon else name and MASKED  # a lone name may be a token
    query = "&".join(
        f"{pair.partition('=')[0]}={MASKED}" for pair in parts.query.split("&") if pair
    )
    return urlunsplit((parts.scheme, f"{who}{at}{host}", parts.path, query, ""))


def shown_arguments(arguments: Sequence[str]) -> list[str]:
    """A command's arguments for people to read: without what looks like a secret.

    That is what follows an option, or a name and ``=``, that `is_secret`; and in URLs what
    `shown_url` hides.
    """
    shown: list[str] = []
    follows_secret = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        is_option = argument.startswith("-")
        if follows_secret and not is_option:
            shown.append(MASKED)
        elif equals and _names_secret(name):
            shown.append(f"{name}={MASKED}")
        elif equals and "://" in value and "://" not in name:
            shown.append(f"{name}={shown_url(value)}")
        else:
            shown.append(shown_url(argument) if "://" in argument else argument)
        follows_secret = is_option and not equals and _names_secret(argument)
    return shown


def _names_secret(option: str) -> bool:
    return is_secret(option.lstrip("-").replace("-", "_"))


def store_password(store: str | None) -> str | None:
    """The password in the URL of a store, as it stands there; None where there is none.

    It ends at the last ``@`` that can be it, so that also a password that should have been
    escaped is found as a whole.
    """
    parts = _URL_PASSWORD.search(store or "")
    return next((part for part in parts.groups() if part), None) if parts else None


def without_password(store: str | None) -> str | None:
    """The URL of a store for people to read."""
    password = store_password(store)
    return store.replace(password, "***") if store and password else store


_URL_PASSWORD = re.compile(r"://[^:/?#@]*:(.+)@|[?&]password=([^&]+)")


def with_password(secrets: tuple[str, ...], store: str | None) -> tuple[str, ...]:
    """The secrets with the password of a store's URL, as it is written and as it is meant."""
    written = store_password(store) or ""
    forms = {form for form in (written, unquote(written)) if len(form) >= SECRET_LENGTH}
    return tuple(sorted({*secrets, *forms}))


def read_store(value: Any) -> str | None:
    """Where checkpoints are kept: a PostgreSQL server's URL, or None for SQLite.

    Raises:
        SettingsError: It is neither.
    """
    if value is None or value == "sqlite":
        return None
    if isinstance(value, str) and value.startswith(STORE_SCHEMES):
        return value
    raise SettingsError(
        f"store must be `sqlite` or postgresql://user@host/database, not "
        f"`{without_password(str(value))}`",
        hint="another place for SQLite's file is set with FRACTALE_STATE_DIR",
    )
