"""Ask chat models: build them at first use, retry if that helps, always count usage."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fractale.errors import DependencyMissing, ModelError, UsageError
from fractale.models import faults, providers
from fractale.models.exchange import Exchange
from fractale.models.retry import RetryPolicy
from fractale.models.runnables import (
    applied,
    chat_models,
    check_chat,
    is_asked_whole,
    is_configurable,
    profile_of,
)
from fractale.models.turn import Turns, fault_of_turn, word_about
from fractale.models.usage import Answer, Usage, earlier_tries, tokens_of, with_earlier_tries
from fractale.plain import readable_values
from fractale.settings import Settings

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.tools import BaseTool

    from fractale.models.runnables import Chat

IMAGES = "The images that the tools answered with:"

T = TypeVar("T")

_PerLoop = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, "BaseChatModel"]]

NATIVE = frozenset({"gemini", "openai", "local"})
"""Providers that accept a JSON Schema with the request."""


class Models:
    """All chat models of a process, by ``provider:name``.

    Args:
        settings: Keys, addresses, the default model, prices.
        given: The caller's own model for all requests, or several by their spec: chat models, or
            what LangChain makes of them (`with_retry`, `with_fallbacks`, `bind`, chains …).
        retry: When to ask again a model that is busy or unreachable.

    Raises:
        UsageError: A given model is not one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        given: Mapping[str, Chat] | Chat | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.retry = retry or RetryPolicy()
        self._settings = settings
        several = isinstance(given, Mapping)
        self._for_all = None if several else given
        self._given: dict[str, Chat] = dict(given) if several else {}
        for chat in [*self._given.values(), *([] if self._for_all is None else [self._for_all])]:
            check_chat(chat)
        self._spec_for_all: str | None = None
        # A client keeps connections, which belong to one event loop and end with it.
        self._built: _PerLoop = weakref.WeakKeyDictionary()
        self._built_outside: dict[str, BaseChatModel] = {}
        self._building = threading.Lock()
        self._without_format: set[str] = set()
        self._unmarked: set[str] = set()
        keys = (settings.openai_api_key, settings.gemini_api_key)
        self._mask = faults.masker_of((*settings.secrets, *keys))

    # -- the choice of a model ------------------------------------------------------------------

    @property
    def given_for_all(self) -> str | None:
        """``provider:name`` of the caller's own model, if one is given for all requests."""
        if self._for_all is None:
            return None
        if self._spec_for_all is None:
            self._spec_for_all = _spec_of(self._for_all)
        return self._spec_for_all

    @property
    def given(self) -> list[str]:
        """The specs of the caller's own models, if several are given."""
        return list(self._given)

    def spec(self, name: str | None) -> str:
        """``provider:name`` of a step's `model:`, or of the default.

        Raises:
            UsageError: Provider unknown, or model name missing.
        """
        if (for_all := self.given_for_all) is not None:
            return for_all
        if name is not None and name in self._given:
            return name
        return ":".join(providers.split_spec(self._settings, name))

    def identity(self, name: str | None) -> dict[str, Any]:
        """What decides how a step's model answers, as JSON: itself, its fallbacks, its address.

        Of the caller's own model, this is its class with the parameters that identify it.

        Raises:
            UsageError: Provider unknown, or model name missing.
        """
        specs = [self.spec(each) for each in self.chain(name)]
        settings = self._settings
        addresses = [settings.openai_base_url, settings.gemini_base_url, settings.local_model]
        given = self._for_all if self._for_all is not None else self._given.get(specs[0])
        if given is None:
            return {"models": specs, "addresses": [str(each or "") for each in addresses]}
        own: list[str] = []
        for chat in chat_models(given):
            kind = type(chat)
            known: Any = chat._identifying_params  # pyright: ignore[reportPrivateUsage] - LangChain's own caches use it
            own.append(f"{kind.__module__}.{kind.__qualname__} {sorted(known.items(), key=str)}")
        return {"models": specs, "given": own}

    def chain(self, name: str | None) -> list[str | None]:
        """A step's `model:` and its fallbacks, to use in turn if a model is unreachable."""
        fallbacks = () if self._for_all is not None else self._settings.fallback_models
        return [name, *(model for model in fallbacks if model != self.spec(name))]

    def check(self, name: str | None) -> None:
        """Check that the model can be built, without building it.

        Raises:
            UsageError: Provider unknown, or model name missing.
            SettingsError: The key is missing.
            DependencyMissing: The provider's package is not installed.
        """
        spec = self.spec(name)
        if self._for_all is not None or spec in self._given:
            return
        fault = providers.find_fault(self._settings, _provider_of(spec))
        if fault is not None:
            raise fault

    def get(self, name: str | None) -> BaseChatModel:
        """Return the chat model itself; the first call builds it.

        The model makes each request once; `ask` and `turn` add the retries. Of a given combination
        of models, it is the one that is asked first.

        Raises:
            UsageError: Provider unknown, or model name missing.
            SettingsError: The key is missing, or the provider refuses the settings.
            DependencyMissing: The provider's package is not installed.
        """
        chat = self._get(name, _running_loop())
        if models := chat_models(chat):
            return models[0]
        raise UsageError(f"no chat model was found in `model`, a {type(chat).__name__}")

    def _get(self, name: str | None, loop: asyncio.AbstractEventLoop | None) -> Chat:
        if self._for_all is not None:
            return self._for_all
        spec = self.spec(name)
        if spec in self._given:
            return self._given[spec]
        with self._building:
            built = self._built_outside if loop is None else self._built.setdefault(loop, {})
            if spec not in built:
                provider, _, model = spec.partition(":")
                built[spec] = providers.build(self._settings, provider, model)
            return built[spec]

    def known(self) -> list[dict[str, Any]]:
        """Return the default and each backend's model: ``{spec, ready, why}``. Asks no server."""
        if self._for_all is not None:
            return [{"spec": self.spec(None), "ready": True, "why": ""}]
        specs = dict.fromkeys([*self._given, *providers.listed(self._settings)])
        return [self._state_of(spec) for spec in specs]

    def _state_of(self, spec: str) -> dict[str, Any]:
        why = ""
        try:
            self.check(spec)
        except DependencyMissing as error:
            why = f"{error}: {error.hint}"
        except UsageError as error:
            why = str(error)
        return {"spec": spec, "ready": not why, "why": why}

    # -- cost -----------------------------------------------------------------------------------

    def cost(self, spec: str, input_tokens: int, output_tokens: int) -> float | None:
        """US dollars by the settings' `prices`; None if the model's price is unknown."""
        price = self._settings.prices.get(spec)
        if price is None:
            return 0.0 if _provider_of(spec) == "local" else None
        return (price.input * input_tokens + price.output * output_tokens) / 1e6

    def usage_of(self, message: BaseMessage, name: str | None) -> Usage:
        """The usage of one answer of a step's model, with all attempts for it."""
        inputs, outputs = tokens_of(message)
        usage = Usage(input_tokens=inputs, output_tokens=outputs, calls=1)
        return self._priced(usage + earlier_tries(message), self._answering(message, name))

    def _answering(self, message: BaseMessage, name: str | None) -> str:
        """The spec of the model that answered: of several in one, its answer names it."""
        spec = self.spec(name)
        chat = self._for_all or self._given.get(spec)
        metadata = cast("Mapping[str, Any]", message.response_metadata)
        answered = str(metadata.get("model_name") or metadata.get("model") or "")
        if chat is None or not answered:
            return spec
        inside = [_spec_of(model) for model in chat_models(chat)]
        own = [each for each in inside if answered.startswith(each.partition(":")[2] or "?")]
        if own:  # of two models of which one's name begins with the other's, the longer
            return max(own, key=len)
        known = [each for each in self._settings.prices if each.partition(":")[2] == answered]
        return known[0] if known else spec

    # -- asking ---------------------------------------------------------------------------------

    async def ask(
        self,
        messages: Sequence[BaseMessage],
        *,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        correct: bool = True,
        on_text: Callable[[str], None] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - per attempt, not for the whole call
    ) -> Answer:
        """Ask a model and return its whole answer.

        Args:
            messages: The conversation, at least one message.
            model: A step's `model:`; None for the default.
            schema: JSON Schema of the answer. JSON that does not fit after one correction is
                returned anyway: the step's evidence decides about it.
            correct: Whether to send back an answer that does not fit, once. Pass false if the
                caller writes a better correction.
            on_text: Receives the text in pieces as they arrive, also from a failed attempt.
            timeout: Seconds per attempt.

        Raises:
            ModelError: The answer is empty, cut off, or not the requested JSON; or the model
                refused. The error's `usage` has the paid tokens.
            ModelUnavailable: The model was busy or unreachable at every attempt.
            SettingsError: The key is missing.
        """
        started = time.monotonic()
        spec = self.spec(model)
        chat = await self._build(model)
        turns = self._turns(chat, model, on_text, timeout)
        asking = Exchange(
            chat=chat,
            turns=turns,
            native=self._takes_format(spec, chat),
            protect=lambda attempt: self._protect(attempt, spec),
            correct=correct,
        )
        try:
            text, data = await asking.answer(_for(chat, messages), schema)
        except ModelError as error:
            self._charge(error, turns)
            raise
        finally:
            if schema is not None and not asking.native:
                self._without_format.add(spec)
        seconds = time.monotonic() - started
        return Answer(
            text=text,
            data=data,
            usage=turns.usage,
            model=spec,
            seconds=seconds,
            snapshot=turns.snapshot,
        )

    async def turn(
        self,
        messages: Sequence[BaseMessage],
        *,
        model: str | None = None,
        tools: Sequence[BaseTool] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> AIMessage:
        """Take one turn of an agent's model, which may call tools.

        If a turn is empty, or has a tool call in its text, the model gets one more request with an
        explanation.

        Args:
            messages: The conversation, at least one message.
            model: The step's `model:`; None for the default.
            tools: The tools that the model may call.
            on_text: Receives the text in pieces as they arrive, also from a failed attempt.

        Returns:
            The turn, with text or with whole tool calls. `usage_of` counts all its attempts.

        Raises:
            ModelError: The model refused, its answer is empty or cut off, or it writes tool calls
                as text. The error's `usage` has the paid tokens.
            ModelUnavailable: At every attempt, the model was busy or unreachable, or called a
                tool in a way that cannot be read.
        """
        spec = self.spec(model)
        chat = await self._build(model)
        turns = self._turns(chat, model, on_text)
        bound = applied(chat, "bind_tools", list(tools)) if tools else chat
        names = [tool.name for tool in tools]
        prepared = _for(chat, messages)
        try:
            message = await self._protect(lambda: turns.take(bound, prepared), spec)
            if fault_of_turn(message, names, spec):
                again = [*prepared, *word_about(message, names)]
                message = await self._protect(lambda: turns.take(bound, again), spec)
            if fault := fault_of_turn(message, names, spec):
                raise fault
        except ModelError as error:
            self._charge(error, turns)
            raise
        return with_earlier_tries(message, turns.usage)

    async def _build(self, model: str | None) -> Chat:
        loop = asyncio.get_running_loop()
        spec = self.spec(model)
        if self._for_all is not None or spec in {**self._given, **self._built.get(loop, {})}:
            return self._get(model, loop)
        # Building a model imports its provider's package, which takes seconds.
        return await asyncio.to_thread(self._get, model, loop)

    def _turns(
        self,
        chat: Chat,
        model: str | None,
        on_text: Callable[[str], None] | None,
        timeout: float | None = None,
    ) -> Turns:
        return Turns(
            spec=self.spec(model),
            price=lambda message: self.usage_of(message, model),
            on_text=on_text,
            timeout=timeout,
            whole=is_asked_whole(chat),
            unmarked=self._unmarked,
        )

    def _charge(self, error: ModelError, turns: Turns) -> None:
        """Add the usage of all attempts to the error that ends them."""
        paid = turns.usage + (error.usage or Usage())
        error.usage = self._priced(paid, turns.spec) if paid.calls else None

    def _priced(self, usage: Usage, spec: str) -> Usage:
        cost = self.cost(spec, usage.input_tokens, usage.output_tokens)
        return replace(usage, cost=cost or 0.0)

    def _takes_format(self, spec: str, chat: Chat) -> bool:
        if spec in self._without_format:
            return False
        models = chat_models(chat)
        # The class of a model that fractale builds does not always show its provider.
        specs = [spec] if len(models) == 1 else [_spec_of(each) for each in models]
        return bool(models) and all(
            _provider_of(name) in NATIVE or (each.profile or {}).get("structured_output")
            for name, each in zip(specs, models, strict=True)
        )

    async def _protect(self, attempt: Callable[[], Awaitable[T]], spec: str) -> T:
        """Make an attempt, retry it if that may help, and raise only fractale's own errors."""
        key = providers.key_variable(_provider_of(spec))

        async def converted() -> T:
            try:
                return await attempt()
            except Exception as error:
                known = faults.to_model_error(error, spec=spec, key=key, mask=self._mask)
                if known is error:
                    raise
                raise known from error

        return await self.retry.run(converted)


def _for(chat: Chat, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    return for_model(messages, profile_of(chat))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _provider_of(spec: str) -> str:
    return spec.partition(":")[0]


def _spec_of(given: Chat) -> str:
    """The spec of a caller's own model, with the provider's name if its class shows it.

    Of several models in one, it is the spec of the one that is asked first.
    """
    chat = next(iter(chat_models(given)), given)
    if is_configurable(chat):  # and has no default
        return "given:configurable"
    package = type(chat).__module__.partition(".")[0]
    provider = package.removeprefix("langchain_") if package.startswith("langchain_") else "given"
    name = getattr(chat, "model_name", None) or getattr(chat, "model", None)
    plain = str(name or type(chat).__name__).removeprefix("models/")
    return f"{providers.ALIASES.get(provider, provider)}:{plain}"


def for_model(messages: Sequence[BaseMessage], profile: Mapping[str, Any]) -> list[BaseMessage]:
    """Return the messages, with the images of tool results if the model accepts images.

    Providers accept images in a user's message, and few accept them in a tool's. So images follow
    the tool results. A model without known image support gets the text only, which names the files.

    Args:
        profile: LangChain's profile of the model.
    """
    from langchain_core.messages import HumanMessage, ToolMessage

    sees = bool(profile.get("image_inputs"))
    adapted: list[BaseMessage] = []
    images: list[Any] = []
    for message in [*messages, None]:
        if images and not isinstance(message, ToolMessage):
            adapted.append(HumanMessage([{"type": "text", "text": IMAGES}, *images]))
            images = []
        if isinstance(message, ToolMessage):
            content = cast("str | list[Any]", message.content)  # pyright: ignore[reportUnknownMemberType] - LangChain's list of anything
            if not isinstance(content, str):
                images += [part for part in content if sees and _is_image(part)]
                message = message.model_copy(update={"content": message.text})
        if message is not None:
            adapted.append(message)
    return [_in_unicode(message) for message in adapted]


def _in_unicode(message: BaseMessage) -> BaseMessage:
    """Replace text that is not valid Unicode, such as a byte of a file name, with U+FFFD.

    A request is JSON in UTF-8 and cannot contain a lone surrogate.
    """
    said: dict[str, Any] = {"content": message.content}  # pyright: ignore[reportUnknownMemberType] - LangChain's list of anything
    if calls := getattr(message, "tool_calls", None):
        said["tool_calls"] = calls
    clean = readable_values(said)
    return message if clean == said else message.model_copy(update=clean)


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and cast("dict[str, Any]", part).get("type") == "image"
