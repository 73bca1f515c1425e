"""Which variables, URLs, arguments and headers are secrets: by their names or their form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from fractale.errors import SettingsError
from fractale.masking import MASK, SHORT
from fractale.secret_names import INPUT_VARIABLE, is_secret

STORE_SCHEMES = ("postgresql://", "postgres://")
STORE_VARIABLE = "FRACTALE_STORE"

SHORTEST = 6
"""A shorter value is masked only if its owner says that it is a secret, as in a secret input.

It is too likely to be an ordinary word, too (`PASSWORD=test`).
"""


_NO_VALUES = (
    "true false none null auto basic bearer digest enabled disabled default local never always "
    "required optional kerberos negotiate secret passwd public string"
)
_ORDINARY_VALUES = frozenset(_NO_VALUES.split())

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.+?-----END [A-Z0-9 ]+-----", re.DOTALL)
_KNOWN_TOKENS = re.compile(
    r"\b(?:gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{16,}"
    r"|hf_[A-Za-z0-9]{16,}|xox[abeoprs]-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}"
    r"|npm_[A-Za-z0-9]{20,}|pypi-[\w-]{20,}|dckr_pat_[\w-]{16,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)"
)
_HEADER = re.compile(r"(?:[\w-]+=|-[A-Za-z](?=[A-Z]))?\s*([\w.-]+)\s*:(?!//)\s*(\S.*)", re.DOTALL)
"""`Name: value`, alone or in an option: `--header=Name: value`, `-HName: value`."""
_HEADER_IN_JSON = re.compile(r'"([\w.-]+)"\s*:\s*"((?:[^"\\]|\\.)+)"')
_SCHEMED = re.compile(r"\b(?:Bearer|Basic)\s+([^\s\"',;]+)", re.IGNORECASE)
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")


def is_secret_variable(name: str, value: str) -> bool:
    """Whether an environment variable is a secret, by its name or by the form of its value."""
    return name.startswith(INPUT_VARIABLE) or is_secret(name) or has_secret(value)


def has_secret(value: str) -> bool:
    """Whether a value has a secret in it, whatever its name; also one too short to be masked."""
    urls = (match[0] for match in _URL_IN_TEXT.finditer(value))
    return bool(secrets_within(value)) or any(store_password(url) for url in urls)


def secrets_of_variable(name: str, value: str) -> set[str]:
    """The secret texts of a variable, an option, a header or a field."""
    found = secrets_within(value)
    if name.startswith(INPUT_VARIABLE):
        return {value, *found} - {""}
    if is_secret(name):
        found |= {each for each in (value.strip(), _without_scheme(value)) if _is_specific(each)}
    return found


def secrets_within(value: str) -> set[str]:
    """The texts in a value that are secrets whatever its name.

    These are passwords in URLs, private keys and certificates in PEM, and tokens of a form that a
    service uses only for its own.
    """
    found = {match[0] for match in _PEM.finditer(value)}
    found |= {match[0] for match in _KNOWN_TOKENS.finditer(value)}
    for match in _URL_IN_TEXT.finditer(value):
        found |= _secrets_of_userinfo(match[0])
    return found


def secrets_of_url(url: str) -> set[str]:
    """The secret texts of a server's URL: userinfo, query, tokens in its path."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return {url}
    found = secrets_within(url)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    found |= _both_forms(password or user)
    for pair in filter(None, re.split("[&;]", parts.query)):
        name, _, value = pair.partition("=")
        if is_secret(unquote(name)) or looks_random(unquote(value)):
            found |= _both_forms(value)
    found |= {part for part in parts.path.split("/") if len(part) >= 16 and looks_random(part)}
    return {each for each in found if _is_specific(each)}


def secrets_of_arguments(arguments: Sequence[str]) -> set[str]:
    """The secret texts of a command's arguments; see `shown_arguments`."""
    found: set[str] = set()
    before = ""
    for argument in arguments:
        name, equals, value = _named(argument)
        is_option = argument.startswith("-")
        if before and not is_option:
            found |= secrets_of_variable(before, argument)
        if equals:
            found |= secrets_of_variable(name, value)
        for header, start, end in _headers(argument):
            found |= secrets_of_variable(header, argument[start:end])
        for text in (argument, value):
            found |= secrets_within(text)
            if _is_url(text):
                found |= secrets_of_url(text)
        for match in _URL_IN_TEXT.finditer(argument):
            found |= secrets_of_url(match[0])
        before = argument if is_option and not equals and is_secret(argument) else ""
    return found


def _named(argument: str) -> tuple[str, str, str]:
    """An argument as name, ``=`` and value; a URL or a header with a ``=`` in it has no name."""
    name, equals, value = argument.partition("=")
    if "://" in name or next(_headers(argument), ("", len(argument), 0))[1] <= len(name):
        return argument, "", ""
    return name, equals, value


def _headers(argument: str) -> Iterator[tuple[str, int, int]]:
    """The secret headers in an argument: the name, and where the value is."""
    if (header := _HEADER.match(argument)) and is_secret(header[1]):
        yield header[1], *header.span(2)
        return
    for pair in _HEADER_IN_JSON.finditer(argument):
        if is_secret(pair[1]):
            yield pair[1], *pair.span(2)
    for token in _SCHEMED.finditer(argument):
        if looks_random(token[1]):
            yield "Authorization", *token.span(1)


def _is_url(text: str) -> bool:
    return _URL_IN_TEXT.match(text) is not None


def looks_random(text: str) -> bool:
    """Whether a text looks like a token: not a word, number, path, URL or machine name."""
    if len(text) < 8 or "://" in text or re.search(r"\s", text) or text[:1] in "/~.":
        return False
    return any(_is_random(part) for part in re.split(r"[^A-Za-z0-9]+", text))


def _is_random(part: str) -> bool:
    """Whether it is not a word, a number, or a word and a number (`node01`, `64GB`)."""
    if len(part) < 4 or re.fullmatch(r"[A-Za-z]*\d{0,4}|\d{1,10}[A-Za-z]{0,3}", part):
        return len(part) >= 24
    return True


def _is_specific(value: str) -> bool:
    """Whether the value of a secret's name is a secret: not a number or a short, ordinary word."""
    if len(value) >= SHORT:
        return value.lower() not in _ORDINARY_VALUES
    if len(value) < SHORTEST or value.lower() in _ORDINARY_VALUES:
        return False
    return not re.fullmatch(r"[-+]?[\d.]+", value)


def _without_scheme(value: str) -> str:
    """The text after the first word, as in ``Bearer abc``."""
    scheme, _, rest = value.strip().partition(" ")
    return rest.strip() if scheme.isalpha() and " " not in rest.strip() else ""


def _both_forms(written: str) -> set[str]:
    return {written, unquote(written)} - {""}


def _secrets_of_userinfo(url: str) -> set[str]:
    password = store_password(url) or ""
    return {each for each in _both_forms(password) if len(each) >= SHORTEST and each != MASK}


def shown_url(url: str) -> str:
    """A URL to display: without a password, and without the values of its query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    who = f"{name}:{MASK}" if colon else name and MASK  # a lone name may be a token
    query = "&".join(f"{pair.partition('=')[0]}={MASK}" for pair in parts.query.split("&") if pair)
    return urlunsplit((parts.scheme, f"{who}{at}{host}", parts.path, query, ""))


def shown_arguments(arguments: Sequence[str]) -> list[str]:
    """A command's arguments to display: without texts that look like secrets.

    Hidden are the text after an option, or after a name and ``=`` or ``:``, for which `is_secret`
    is true; and in URLs, the parts that `shown_url` hides.
    """
    shown: list[str] = []
    follows_secret = False
    for argument in arguments:
        name, equals, value = _named(argument)
        is_option = argument.startswith("-")
        if follows_secret and not is_option:
            shown.append(MASK)
        elif equals and is_secret(name):
            shown.append(f"{name}={MASK}")
        elif equals and _is_url(value):
            shown.append(f"{name}={shown_url(value)}")
        else:
            shown.append(shown_url(argument) if _is_url(argument) else _without(argument))
        follows_secret = is_option and not equals and is_secret(argument)
    return shown


def _without(argument: str) -> str:
    """An argument without its headers, and without texts that are secrets whatever their name."""
    spans = sorted({(start, end) for _, start, end in _headers(argument)}, reverse=True)
    for start, end in spans:
        argument = argument[:start] + MASK + argument[end:]
    for secret in sorted(secrets_within(argument), key=len, reverse=True):
        argument = argument.replace(secret, MASK)
    return _URL_IN_TEXT.sub(lambda url: shown_url(url[0]), argument)


def store_password(store: str | None) -> str | None:
    """The password in the URL of a store, as written in the URL; None if it has none.

    It ends at the last ``@`` that can end it. So a password that should have been escaped is found
    completely, too.
    """
    parts = _URL_PASSWORD.search(store or "")
    return next((part for part in parts.groups() if part), None) if parts else None


def without_password(store: str | None) -> str | None:
    """The URL of a store to display."""
    password = store_password(store)
    return store.replace(password, MASK) if store and password else store


_URL_PASSWORD = re.compile(r"://[^:/?#@]*:(.+)@|[?&]password=([^&]+)")


def with_password(secrets: tuple[str, ...], store: str | None) -> tuple[str, ...]:
    """The secrets, and the password of a store's URL, both as written and unescaped."""
    written = store_password(store) or ""
    return tuple(
        sorted({*secrets, *(each for each in _both_forms(written) if len(each) >= SHORTEST)})
    )


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
        hint="to move the SQLite files, set FRACTALE_STATE_DIR",
    )
