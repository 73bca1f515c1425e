"""Convert the errors of a model's server to fractale's own errors.

Providers raise hundreds of classes. Three common features distinguish them: the HTTP status,
LangChain's own classes if a provider uses them, and whether the HTTP client raised the error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

from fractale.errors import FractaleError, ModelError, ModelUnavailable
from fractale.masking import MASK, Masker
from fractale.models.usage import Usage
from fractale.text import one_line

BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses after which a retry may help."""

REFUSED = frozenset({400, 404, 405, 415, 422, 501})
"""HTTP statuses of a request that the server cannot accept in this form."""

HTTP_CLIENTS = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "requests"})

MEANINGS = {
    408: "took too long",
    413: "says that the request is too large",
    429: "says that there are too many requests",
    500: "has an internal error",
    502: "is not reached by its gateway",
    503: "is overloaded",
    504: "did not answer its gateway in time",
    529: "is overloaded",
}

KEY_PATTERN = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf|pplx|nvapi)[-_][\w-]{12,}|\bAIza[\w-]{20,}"
    r"|(?<=[Bb]earer )[\w.~+/-]{8,}=*|(?<=[?&]key=)[\w-]+"
)
"""The form of well-known providers' keys, in case an error message quotes one."""

TOO_LONG = (
    "context_length",
    "context window",
    "context size",
    "maximum context",
    "maximum number of tokens",
    "prompt is too long",
    "token limit",
    "too many tokens",
)

PAGE_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
"""The title of a gateway's HTML page, which summarizes the error."""

SHOWN = 400
"""Most characters of a server's message that are shown."""


def masker_of(secrets: Iterable[str | None]) -> Callable[[str], str]:
    """Return a function that removes secrets from a text, also foreign keys of a known form."""
    masker = Masker(secrets)
    return lambda text: KEY_PATTERN.sub(MASK, masker.text(text))


def to_model_error(
    error: Exception, *, spec: str, key: str | None, mask: Callable[[str], str]
) -> FractaleError:
    """Convert a provider's exception to one of fractale's errors.

    Args:
        error: Any exception from a call of a model.
        spec: The model, ``provider:name``.
        key: The environment variable that holds the provider's key, if it has one.
        mask: Removes secrets from the shown text.

    Returns:
        The error itself if it is one of ours; a ModelUnavailable if a retry may help; otherwise a
        ModelError.
    """
    if isinstance(error, FractaleError):
        return error
    chain = list(_chain(error))
    status = _status(chain)
    said = mask(_said(chain))[:SHOWN]
    if (withheld := _withheld_by_client(chain, spec)) is not None:
        return withheld
    if _is_key_fault(status, said):
        return _key_error(spec, key, status, said)
    if any(word in said.lower() for word in TOO_LONG):
        return ModelError(
            f"what was sent is too long for {spec}: {said}",
            hint="shorten the instruction, or name a model with a longer context in `model:`",
        )
    if status is None:
        return _without_status(chain, spec, said, mask)
    if status in BUSY and not _is_final(chain, said):
        meaning = MEANINGS.get(status, "is not available")
        return ModelUnavailable(
            f"{spec} {meaning} (HTTP {status}): {said}",
            retry_after=retry_after_of(chain),
            hint="resume later, or name another model in `model:`",
        )
    return ModelError(f"{spec} refused the request (HTTP {status}): {said}", hint=_hint(status))


def truncated(spec: str) -> ModelError:
    """The error for an answer that was cut off at the length limit."""
    return ModelError(
        f"the answer of {spec} was cut off at its length limit",
        hint="ask for less at once, or name a model that may answer more in `model:`",
    )


def withheld(spec: str, reason: str) -> ModelError:
    """The error for an answer that the provider's filter withheld, fully or in part."""
    return ModelError(
        f"{spec} withheld its answer ({reason})",
        hint="change the instruction, or name another model in `model:`",
    )


def cut_off(spec: str) -> ModelUnavailable:
    """The error for an answer whose stream broke off."""
    return ModelUnavailable(
        f"the answer of {spec} broke off", hint="resume later, or check the network"
    )


def broken_call(spec: str) -> ModelUnavailable:
    """The error for a tool call without a name, or whose arguments are not a whole JSON object."""
    return ModelUnavailable(
        f"{spec} called a tool in a way that cannot be read",
        hint="resume the run, or name a more capable model in `model:`",
    )


def refuses_format(error: ModelError) -> bool:
    """Whether asking for plain text may help after a failed request."""
    return not isinstance(error, ModelUnavailable) and _status(list(_chain(error))) in REFUSED


def _hint(status: int) -> str:
    if status == 404:
        return "check the model's name and the server's address (see `fractale config`)"
    return "check the model's name and what the step sends"


def _key_error(spec: str, key: str | None, status: int | None, said: str) -> ModelError:
    refused = "may not be used with this key" if status == 403 else "does not accept the key"
    where = f"check {key}" if key else "check the provider's key"
    return ModelError(
        f"{spec} {refused}: {said}", hint=f"{where}, or use the embedded model: `--backend local`"
    )


def _is_key_fault(status: int | None, said: str) -> bool:
    # Gemini answers 400 to an unknown key.
    return status in (401, 403) or (status == 400 and "api key" in said.lower())


def _is_final(chain: list[BaseException], said: str) -> bool:
    """Whether the server says that a retry will not help."""
    return "insufficient_quota" in said or _header(chain, "x-should-retry") == "false"


def _without_status(
    chain: list[BaseException], spec: str, said: str, mask: Callable[[str], str]
) -> ModelError:
    if _is_timeout(chain):
        return ModelUnavailable(
            f"{spec} did not answer in time",
            hint="resume later, or name a faster model in `model:`",
        )
    if type(chain[0]).__name__ == "ValidationError":
        # pydantic's error about LangChain's message: the arguments are JSON, but not an object.
        return broken_call(spec) if "tool_calls" in str(chain[0]) else cut_off(spec)
    if _is_transport(chain):
        # A client's outer error says less than the error that caused it.
        deepest = mask(_said(chain[-1:]))[:SHOWN]
        return ModelUnavailable(
            f"{spec} cannot be reached, or its answer broke off: {deepest}",
            hint="check the network and the server's address (see `fractale config`)",
        )
    return ModelUnavailable(
        f"{spec} sent something that is not an answer: {type(chain[0]).__name__}: {said}",
        hint="check that the address is one of a model's server (see `fractale config`)",
    )


def _withheld_by_client(chain: list[BaseException], spec: str) -> ModelError | None:
    """Convert the error that OpenAI's client raises for an unfinished answer of a schema.

    The exception keeps the answer with its usage.
    """
    for error in chain:
        name = type(error).__name__
        if name == "ContentFilterFinishReasonError":
            return withheld(spec, "content_filter")
        if name == "LengthFinishReasonError":
            fault = truncated(spec)
            counts: Any = getattr(getattr(error, "completion", None), "usage", None)
            fault.usage = Usage(
                input_tokens=getattr(counts, "prompt_tokens", 0),
                output_tokens=getattr(counts, "completion_tokens", 0),
                calls=1,
            )
            return fault
    return None


def _is_timeout(chain: list[BaseException]) -> bool:
    return any(isinstance(e, TimeoutError) or "Timeout" in type(e).__name__ for e in chain)


def _is_transport(chain: list[BaseException]) -> bool:
    return any(
        isinstance(e, OSError)
        or "ConnectionError" in type(e).__name__
        or any(base.__module__.partition(".")[0] in HTTP_CLIENTS for base in type(e).__mro__)
        for e in chain
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        behind = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or behind


def _status(chain: list[BaseException]) -> int | None:
    for error in chain:
        if type(error).__module__ == "aiohttp.http_exceptions":
            continue  # the client itself reports an interrupted answer as a 400
        for name in ("status_code", "code"):
            value = getattr(error, name, None)
            if isinstance(value, int) and 400 <= value < 600:
                return value
    return None


def _said(chain: list[BaseException]) -> str:
    """The server's message, on one line."""
    for error in chain:
        message = _message_in(getattr(error, "body", None) or getattr(error, "details", None))
        if message:
            return one_line(message)
    return one_line(str(chain[0])) or type(chain[0]).__name__


def _message_in(body: Any) -> str | None:
    """The message in a server's error body.

    OpenAI sends ``{"error": {"message": …}}``, Ollama ``{"error": "…"}``, Gemini's endpoint for
    OpenAI's clients a list of such errors, and FastAPI, the base of vLLM, ``{"detail": …}``.
    """
    if isinstance(body, str):
        page = PAGE_TITLE.search(body)
        return (page[1] if page else body).strip() or None
    if isinstance(body, list):
        found = (_message_in(each) for each in cast("list[Any]", body))
        return "; ".join(message for message in found if message) or None
    if not isinstance(body, dict):
        return None
    table = cast("dict[str, Any]", body)
    for key in ("error", "detail"):
        if (message := _message_in(table.get(key))) is not None:
            return message
    message = table.get("message", table.get("msg"))
    if not isinstance(message, str):
        return None
    code = table.get("code")
    return f"{message} [{code}]" if isinstance(code, str) else message


def retry_after_of(chain: list[BaseException]) -> float | None:
    """Seconds that the server asked to wait, from a header or from Gemini's error body."""
    milliseconds = _seconds(_header(chain, "retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    seconds = _seconds(_header(chain, "retry-after"))
    if seconds is not None:
        return seconds
    for error in chain:
        own = getattr(error, "retry_after", None)
        if isinstance(own, (int, float)):
            return float(own)
        if (found := _retry_info(getattr(error, "details", None))) is not None:
            return found
    return None


def _header(chain: list[BaseException], name: str) -> str | None:
    for error in chain:
        headers = getattr(getattr(error, "response", None), "headers", None)
        if isinstance(headers, Mapping) and name in headers:
            return str(cast("Mapping[str, Any]", headers)[name])
    return None


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _retry_info(details: Any) -> float | None:
    """``retryDelay: "17s"`` of a google.rpc.RetryInfo, anywhere in the details."""
    if not isinstance(details, (dict, list)):
        return None
    found = re.search(r'"retryDelay":\s*"([\d.]+)s"', json.dumps(details, default=str))
    return float(found[1]) if found else None
