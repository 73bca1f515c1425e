"""Which names are names of secrets: of a variable, an option, a header or a form field."""

from __future__ import annotations

import re

INPUT_VARIABLE = "FRACTALE_INPUT_"
"""Prefix of the variables of secret inputs; `fractale.plan.inputs` reads them."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ANYWHERE = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|SECRET(?!AR)|TOKEN(?!I[SZ])|APIKEY|WEBHOOK"
)
_WORDS = _words(
    "KEY PASS PAT PWD PW JWT COOKIE AUTH OAUTH AUTHORIZATION CREDS DSN SIGNATURE SIG SALT "
    "OTP TOTP PASSCODE BEARER"
)
_ENDINGS = ("KEY", "PASS")
_ORDINARY_WORDS = _words(
    "MONKEY DONKEY TURKEY HOCKEY WHISKEY JOCKEY LACKEY HOTKEY SMOKEY BYPASS COMPASS TRESPASS "
    "ENCOMPASS OVERPASS UNDERPASS SURPASS"
)
_ABOUT = _words(
    "FILE PATH DIR SOCK SOCKET TYPE METHOD MODE VERSION ENABLED PORT HOST REALM SCOPE "
    "ALGORITHM LENGTH SIZE COUNT LIMIT TTL TIMEOUT EXPIRY"
)
"""A name with one of these ends describes a secret but does not hold one."""
_PIN = re.compile(r"(?!I_MPI_)(?:.*_)?PINS?(?:_(?:CODE|NUMBER|VALUE))?")
"""Names about pinning threads to cores are not secrets: `I_MPI_PIN`, `PIN_MEMORY`."""
_IN_SENTENCE = re.compile(
    r"\bPIN\b|(?i:\byour pin\b|\b(?:password|passwd|passphrase|passcode"
    r"|otp|totp|credentials?|client secret|(?:one-?time|verification|security) code"
    r"|(?:api|access|secret|private)[ -]?key"
    r"|(?:access|bearer|api|auth\w*|refresh|security|your) token)"
    r"\b(?! (?:file|path|type|length)))"
)
_NO_SECRETS = frozenset({"PWD", "OLDPWD"})


def is_secret(name: str) -> bool:
    """Whether a variable, an option, a header or a field with this name is a secret.

    Words are split at underscores, other signs and capitals. `API_KEY`, `--api-key`, `X-Auth` and
    `dbPassword` are secrets; `KEYBOARD`, `MONKEY`, `AUTHOR` and `PATH` are not.
    """
    if name in _NO_SECRETS:
        return False
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[^A-Za-z0-9]+", apart.upper())]
    words = [word for word in words if word]
    if not words or words[-1] in _ABOUT:
        return False
    return bool(_PIN.fullmatch("_".join(words))) or any(_is_secret_word(word) for word in words)


def asks_for_secret(sentence: str) -> bool:
    """Whether a sentence asks for a secret: `Enter your PIN`.

    The test is stricter than for a name, in which `KEY` is enough: `the primary key` is not a
    secret.
    """
    return _IN_SENTENCE.search(sentence) is not None


def _is_secret_word(word: str) -> bool:
    if _ANYWHERE.search(word):
        return True
    each = word[:-1] if word.endswith("S") and not word.endswith("SS") else word
    if each in _WORDS or word in _WORDS:
        return True
    return each.endswith(_ENDINGS) and each not in _ORDINARY_WORDS
