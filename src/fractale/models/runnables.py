"""Chat models as LangChain combines them: retries, fallbacks, bindings, chains, configurable ones.

Such a combination is a `Runnable` whose answer is a message. Its parts keep their meaning: each
chat model inside is given the tools and the schema, and LangChain's own code runs around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from fractale.errors import UsageError
from fractale.text import shown_value

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import Runnable

    Chat: TypeAlias = Runnable[Any, Any]
    """A chat model, or a runnable that has some inside."""

HINT = (
    "give a LangChain chat model, a runnable whose answer is a message, or a text such as "
    "`openai:gpt-5`"
)


def check_chat(given: Any) -> None:
    """Check that an object can be asked like a chat model.

    Raises:
        UsageError: It cannot.
    """
    from langchain_core.language_models import BaseChatModel, BaseLanguageModel
    from langchain_core.runnables import Runnable

    model: Any = given
    if not isinstance(given, Runnable):
        raise UsageError(f"`model` cannot be {shown_value(model)}", hint=HINT)
    if isinstance(given, BaseLanguageModel) and not isinstance(given, BaseChatModel):
        raise UsageError(
            f"`model` cannot be {type(model).__name__}, which completes text and does not chat",
            hint=HINT,
        )
    if hasattr(model.__class__, "get_state"):
        raise UsageError(
            "`model` cannot be a graph", hint="name it in `agent`, or pass it in `agents`"
        )


def chat_models(chat: Chat) -> list[BaseChatModel]:
    """The chat models inside; the one that is asked first is the first."""
    return list(_inside(chat))


def _inside(chat: Any) -> Iterator[BaseChatModel]:
    from langchain_core.language_models import BaseChatModel

    if isinstance(chat, BaseChatModel):
        yield chat
        return
    for part in _parts(chat):
        yield from _inside(part)


def _parts(chat: Any) -> list[Any]:
    """The runnables inside a combination."""
    from langchain_core.runnables import RunnableSequence, RunnableWithFallbacks
    from langchain_core.runnables.base import RunnableBindingBase
    from langchain_core.runnables.configurable import DynamicRunnable

    if isinstance(chat, RunnableBindingBase):  # `bind`, `with_config`, `with_retry`
        return [cast("Any", chat).bound]
    if isinstance(chat, RunnableWithFallbacks):
        return list(cast("Any", chat).runnables)
    if isinstance(chat, RunnableSequence):
        return list(cast("Any", chat).steps)
    if isinstance(chat, DynamicRunnable):
        return [cast("Any", chat).default]
    if is_configurable(chat):
        # With the values of the run's config only if it has no default; without a key, neither.
        configs: list[dict[str, Any] | None] = [{"configurable": {}}, None]
        for config in configs:
            with suppress(Exception):
                return [chat._model(config)]
    return []


def is_configurable(chat: Any) -> bool:
    """Whether `init_chat_model` made it for models that a config names; its class is private."""
    return type(chat).__name__ == "_ConfigurableModel"


def profile_of(chat: Chat) -> dict[str, Any]:
    """The parts of LangChain's profile that are true of all chat models inside."""
    profiles = [cast("Mapping[str, Any]", each.profile or {}) for each in chat_models(chat)]
    if not profiles:
        return {}
    first, *others = profiles
    return {
        name: value
        for name, value in first.items()
        if all(other.get(name) == value for other in others)
    }


def is_asked_whole(chat: Chat) -> bool:
    """Whether a stream would lose what the model was given for: `with_retry`, or a cache."""
    from langchain_core.globals import get_llm_cache
    from langchain_core.runnables.retry import RunnableRetry

    def retries(part: Any) -> bool:
        return isinstance(part, RunnableRetry) or any(retries(each) for each in _parts(part))

    if retries(chat):
        return True
    has_cache = get_llm_cache() is not None
    return any(
        has_cache if each.cache is None else each.cache is not False for each in chat_models(chat)
    )


def applied(
    chat: Chat, method: Literal["bind", "bind_tools"], *arguments: Any, **keywords: Any
) -> Chat:
    """Call a method of each chat model inside, and return the same combination of the results.

    Raises:
        UsageError: No chat model is inside.
    """
    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import RunnableBinding, RunnableSequence, RunnableWithFallbacks
    from langchain_core.runnables.base import RunnableBindingBase
    from langchain_core.runnables.configurable import (
        DynamicRunnable,
        RunnableConfigurableAlternatives,
    )

    def of(part: Any) -> Any:
        return applied(part, method, *arguments, **keywords)

    each: Any = chat
    if isinstance(chat, BaseChatModel) or is_configurable(chat):
        return cast("Chat", getattr(chat, method)(*arguments, **keywords))
    if isinstance(chat, RunnableBindingBase):
        return cast("Chat", _with_bound(each, of(each.bound)))
    if isinstance(chat, RunnableWithFallbacks):
        changes = {"runnable": of(each.runnable), "fallbacks": [of(f) for f in each.fallbacks]}
        return cast("Chat", each.model_copy(update=changes))
    if isinstance(chat, RunnableSequence) and chat_models(each):
        steps = [of(step) if chat_models(step) else step for step in each.steps]
        return cast("Chat", RunnableSequence(*steps, name=each.name))
    if isinstance(chat, RunnableConfigurableAlternatives):
        changes = {"default": of(each.default), "alternatives": _later(each.alternatives, of)}
        return cast("Chat", each.model_copy(update=changes))
    if isinstance(chat, DynamicRunnable):  # it makes the model itself from its class
        bound: Any = of(each.default)
        if isinstance(bound, RunnableBinding):
            return cast("Chat", each.bind(**cast("Any", bound).kwargs))
    wanted = "tools" if method == "bind_tools" else "a schema"
    raise UsageError(
        f"`model` cannot be given {wanted}: no chat model was found in its {type(each).__name__}",
        hint="use the chat model itself, or one with `with_retry`, `with_fallbacks` or `bind`",
    )


def _with_bound(binding: Any, bound: Any) -> Any:
    """The same binding of another runnable, whose own keywords win."""
    from langchain_core.runnables import RunnableBinding

    set_inside: Mapping[str, Any] = bound.kwargs if isinstance(bound, RunnableBinding) else {}
    kwargs = {name: value for name, value in binding.kwargs.items() if name not in set_inside}
    return binding.model_copy(update={"bound": bound, "kwargs": kwargs})


def _later(alternatives: Mapping[str, Any], of: Any) -> dict[str, Any]:
    """The alternatives, changed. One that is a function is made, and changed, at its first use."""
    from langchain_core.runnables import Runnable

    def made_by(function: Any) -> Any:
        return lambda: of(function())

    return {
        name: of(each) if isinstance(each, Runnable) else made_by(each)
        for name, each in alternatives.items()
    }
