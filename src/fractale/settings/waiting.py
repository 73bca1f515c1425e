"""Settings of a project that the user has not trusted: which ones apply, and which ones wait.

A setting that only narrows applies: calls that are denied or need approval, and lower limits. Every
other setting starts a program, sends data or a key, allows calls, or moves files. It waits for the
user.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from fractale.errors import SettingsError
from fractale.plan.escape import escape
from fractale.settings.secrets import is_secret, shown_arguments, shown_url, without_password

MAX_SHOWN: Final = 4000
"""Characters of a value that are shown: a whole command, since its end may be important."""

UNSHOWN: Final = "only comments, layout, or values that are hidden here"
"""The line shown if a file changed but its description did not."""

NARROWING_POLICY: Final = ("deny", "ask")
"""Lists of `policy` that can only reduce the calls that models may make."""

NARROWING_SOURCES: Final = ("untrusted", "private")
"""Lists of `policy.sources` that can only make more calls need approval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """One setting that waits for the user's trust.

    Args:
        key: Such as ``servers.site``.
        value: To display: without secrets and control characters.
        effect: What it would do, as a verb phrase.
    """

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}: {self.value} ({self.effect})"


class UntrustedProject(SettingsError):
    """A project's settings would act, and the user has not trusted them.

    Args:
        path: The settings file.
        waiting: The settings that wait.
        changed: The changes since the user trusted the file, as lines of a diff; None if the user
            never did.
    """

    def __init__(
        self, path: Path, waiting: Sequence[Waiting], changed: Sequence[str] | None
    ) -> None:
        super().__init__(
            "\n".join(untrusted_lines(path, waiting, changed)),
            hint=f"review the file, then: fractale trust {shlex.quote(str(path.parent.parent))}\n"
            "or for one command: --trust-project, or FRACTALE_TRUST_PROJECT=1; to continue "
            "without these settings: FRACTALE_TRUST_PROJECT=0",
        )
        self.path = path
        self.waiting = tuple(waiting)


def untrusted_lines(
    path: Path, waiting: Sequence[Waiting], changed: Sequence[str] | None
) -> list[str]:
    """The waiting settings, and the changes since the user trusted the file, as lines."""
    since = "has changed since you trusted it" if changed is not None else "is not trusted yet"
    lines = [f"the project's settings file {since}", escape(str(path))]
    lines += [f"  {each}" for each in waiting]
    if changed is not None:
        lines += ["changed:", *(f"  {line}" for line in changed or [UNSHOWN])]
    return lines


def split(
    table: Mapping[str, Any], limits: Mapping[str, int]
) -> tuple[dict[str, Any], tuple[Waiting, ...]]:
    """Split a project's settings into those that apply without trust and those that wait.

    Args:
        limits: The limits without the project, which the project may lower.
    """
    taken: dict[str, Any] = {}
    waiting: list[Waiting] = []
    for key, value in table.items():
        if key == "policy" and isinstance(value, dict):
            narrows, rest = _split_policy(cast("dict[str, Any]", value))
            taken[key] = narrows
            waiting += [each for k, v in rest.items() for each in _policy(k, v)]
        elif key in limits and _is_lower(value, limits[key]):
            taken[key] = value
        else:
            waiting += described(key, value)
    return taken, tuple(waiting)


def _split_policy(rules: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of a policy that only narrow, and the others."""
    narrows = {k: v for k, v in rules.items() if k in NARROWING_POLICY}
    rest = {k: v for k, v in rules.items() if k not in NARROWING_POLICY}
    if isinstance(sources := rest.get("sources"), dict):
        named = cast("dict[str, Any]", sources)
        narrows["sources"] = {k: v for k, v in named.items() if k in NARROWING_SOURCES}
        widens = {k: v for k, v in named.items() if k not in NARROWING_SOURCES}
        del rest["sources"]
        rest |= {"sources": widens} if widens else {}
    return narrows, rest


def described(key: str, value: Any) -> Iterator[Waiting]:
    """A setting to display, in parts, with the effect of each part."""
    if key in ("servers", "prices", "policy", "executors") and isinstance(value, dict):
        for name, entry in cast("dict[str, Any]", value).items():
            if key == "servers":
                yield _server(name, entry)
            elif key == "policy":
                yield from _policy(name, entry)
            elif key == "executors":
                yield _executor(name, entry)
            else:
                yield _waiting(f"prices.{name}", _text(entry), "changes how cost is counted")
        return
    if key == "notify" and isinstance(value, list):
        for entry in cast("list[Any]", value):
            yield _notification(entry)
        return
    show, effect = _EFFECTS.get(key, (_text, "takes effect"))
    yield _waiting(key, show(value), effect)


def changes(before: str, after: str) -> list[str]:
    """The changes between two descriptions, as lines of a unified diff without its header."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def description(table: Mapping[str, Any]) -> str:
    """All settings of a file to display, one per line, so that changes can be reported later."""
    return "\n".join(str(each) for key, value in table.items() for each in described(key, value))


def _is_lower(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value <= limit


def _policy(name: str, rules: Any) -> Iterator[Waiting]:
    effects = {
        "allow": "lets models call these tools without asking you",
        "deny": "refuses these calls",
        "ask": "asks before these calls",
        "sources": "changes which data counts as trusted, or as public",
        "yes_covers": "lets --yes approve calls with untrusted arguments",
    }
    entries = cast("list[Any]", rules) if isinstance(rules, list) else [rules]
    for entry in entries:
        effect = effects.get(name, "changes which calls are allowed")
        yield _waiting(f"policy.{name}", _text(entry), effect)


def _server(name: str, entry: Any) -> Waiting:
    key = f"servers.{name}"
    if isinstance(entry, str):
        return _waiting(key, shown_url(entry), "connects to this address")
    if not isinstance(entry, dict):
        return _waiting(key, _text(entry), "connects to a server")
    data = cast("dict[str, Any]", entry)
    more: list[str] = []
    effects: list[str] = []
    if command := data.get("command"):
        given = data.get("args")
        words = [str(each) for each in cast("list[Any]", given)] if isinstance(given, list) else []
        more.append(" ".join([str(command), *map(shlex.quote, shown_arguments(words))]))
        effects.append("starts this program, confined unless your own settings say otherwise")
    if url := data.get("url"):
        more.append(shown_url(str(url)))
        effects.append("connects to this address")
    if variable := data.get("token_env"):
        effects.append(f"sends it your variable {variable}")
    if data.get("token"):
        effects.append("sends it a token from the file")
    if sent := _variables(data.get("headers")):
        effects.append(f"sends it your variables {', '.join(sent)}")
    if data.get("verify") is False:
        effects.append("does not check its certificate")
    shown = ("command", "args", "url", "token", "token_env", "verify")
    more += [f"{k}={_nested(k, v)}" for k, v in data.items() if k not in shown]
    return _waiting(key, "  ".join(more), "; ".join(effects) or "connects to a server")


def _executor(name: str, entry: Any) -> Waiting:
    data = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
    effects = ["submits batch jobs that perform runs, if `--on` names it"]
    if data.get("worker_init"):
        effects.append("runs these shell commands in them")
    if data.get("python"):
        effects.append("starts this program in them")
    return _waiting(f"executors.{name}", _text(entry), "; ".join(effects))


def _notification(entry: Any) -> Waiting:
    from fractale.settings.notify import shown_webhook

    if not isinstance(entry, dict):
        return _waiting("notify", _text(entry), "sends notifications of runs")
    data = cast("dict[str, Any]", entry)
    sent: list[str] = []
    effects: list[str] = []
    if isinstance(words := data.get("command"), list):
        named = [str(word) for word in cast("list[Any]", words)]
        sent.append(" ".join(map(shlex.quote, shown_arguments(named))))
        effects.append("starts this program, not confined, with the summary of a run")
    if url := data.get("webhook"):
        sent.append(shown_webhook(str(url)))
        effects.append("sends the summary of runs to this address")
    texts = [str(url or ""), *_texts_of(data.get("headers"))]
    variables = [name for text in texts for name in _variables({"": text})]
    variables += [str(data[key]) for key in ("token_env",) if data.get(key)]
    if variables:
        effects.append(f"sends it your variables {', '.join(variables)}")
    if names := data.get("env_from"):
        effects.append(f"gives it your variables {_text(names)}")
    more = [f"{k}={_text(v)}" for k, v in data.items() if k in ("on", "ca_file", "timeout")]
    return _waiting("notify", "  ".join([*sent, *more]), "; ".join(effects))


def _texts_of(headers: Any) -> list[str]:
    table = cast("dict[str, Any]", headers) if isinstance(headers, dict) else {}
    return [str(text) for text in table.values()]


def _variables(headers: Any) -> list[str]:
    from fractale.settings.servers import VARIABLE

    texts = cast("dict[str, Any]", headers).values() if isinstance(headers, dict) else ()
    return [name for text in texts for name in VARIABLE.findall(str(text))]


def _nested(key: str, value: Any) -> str:
    """A part of a server's entry: values with the names of secrets are hidden, headers always."""
    if not isinstance(value, dict):
        return _text(value)
    table = cast("dict[str, Any]", value)
    hidden = {k for k in table if key == "headers" or is_secret(k)}
    return _text({k: _variable_or_hidden(v) if k in hidden else v for k, v in table.items()})


def _variable_or_hidden(value: Any) -> str:
    names = _variables({"": value})
    return " ".join(f"${{{name}}}" for name in names) or "***"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _url(value: Any) -> str:
    return shown_url(str(value))


def _store(value: Any) -> str:
    return str(without_password(str(value)))


def _waiting(key: str, value: str, effect: str) -> Waiting:
    shown = escape(value)
    if len(shown) > MAX_SHOWN:
        shown = f"{shown[:MAX_SHOWN]}… [{len(shown) - MAX_SHOWN} more characters in the file]"
    return Waiting(key=escape(key, 100), value=shown, effect=escape(effect, MAX_SHOWN))


_EFFECTS: Final[Mapping[str, tuple[Callable[[Any], str], str]]] = {
    "provider": (_text, "sends prompts and data to this model provider"),
    "model": (_text, "sends prompts and data to this model"),
    "fallback_models": (_text, "sends prompts and data to these models"),
    "local_model": (_text, "loads this model file"),
    "openai_base_url": (_url, "sends prompts, data and your OPENAI_API_KEY to this address"),
    "gemini_base_url": (_url, "sends prompts, data and your GEMINI_API_KEY to this address"),
    "store": (_store, "keeps checkpoints in this database"),
    "state_dir": (_text, "reads and writes runs in this directory"),
    "max_attempts": (_text, "raises this limit"),
    "local_cores": (_text, "raises this limit"),
    "audit": (_text, "writes the audit log to this file"),
    "poll_seconds": (_text, "changes how often a scheduler is asked"),
}
