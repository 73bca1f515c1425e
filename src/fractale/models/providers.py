"""The providers of models: their keys, their packages, and how to build their models.

This module builds `gemini`, `openai` and `local` from fractale's settings. LangChain's
`init_chat_model` builds the others that it knows; of the rest, the table names the class. Their
packages read their own environment variables.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fractale.errors import DependencyMissing, SettingsError, UsageError
from fractale.models.faults import SHOWN, masker_of
from fractale.settings import DEFAULT_MODELS, Settings
from fractale.text import did_you_mean, one_line

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

OPENAI_URL = "https://api.openai.com/v1"

ALIASES = {"google_genai": "gemini", "google": "gemini"}
"""Other names of the providers that this module builds."""

TIMEOUT = 600.0
"""Seconds per request."""


@dataclass(frozen=True, slots=True)
class Provider:
    """What models of a provider need.

    Args:
        package: The name to install with pip.
        keys: The environment variables of its key; you must set one of them.
        chat_model: The class of its chat models in the package; empty for a provider that
            LangChain's `init_chat_model` knows.
    """

    package: str
    keys: tuple[str, ...] = ()
    chat_model: str = ""

    @property
    def module(self) -> str:
        """The import name of the package."""
        return self.package.replace("-", "_")


PROVIDERS: Mapping[str, Provider] = {
    "gemini": Provider("langchain-google-genai", ("GEMINI_API_KEY",)),
    "openai": Provider("langchain-openai", ("OPENAI_API_KEY",)),
    "local": Provider("langchain-openai"),
    "anthropic": Provider("langchain-anthropic", ("ANTHROPIC_API_KEY",)),
    "anthropic_bedrock": Provider("langchain-aws"),
    "azure_ai": Provider("langchain-azure-ai"),
    "azure_openai": Provider("langchain-openai", ("AZURE_OPENAI_API_KEY",)),
    "baseten": Provider("langchain-baseten", ("BASETEN_API_KEY",)),
    "bedrock": Provider("langchain-aws"),
    "bedrock_converse": Provider("langchain-aws"),
    "bedrock_mantle_anthropic": Provider("langchain-aws"),
    "bedrock_mantle_openai": Provider("langchain-aws"),
    "cerebras": Provider("langchain-cerebras", ("CEREBRAS_API_KEY",), chat_model="ChatCerebras"),
    "cohere": Provider("langchain-cohere", ("COHERE_API_KEY",)),
    "deepseek": Provider("langchain-deepseek", ("DEEPSEEK_API_KEY",)),
    "fireworks": Provider("langchain-fireworks", ("FIREWORKS_API_KEY",)),
    "google_anthropic_vertex": Provider("langchain-google-vertexai"),
    "google_vertexai": Provider("langchain-google-vertexai"),
    "groq": Provider("langchain-groq", ("GROQ_API_KEY",)),
    "huggingface": Provider("langchain-huggingface", ("HUGGINGFACEHUB_API_TOKEN", "HF_TOKEN")),
    "ibm": Provider("langchain-ibm", ("WATSONX_APIKEY", "WATSONX_API_KEY")),
    "langsmith": Provider("langchain-openai"),
    "litellm": Provider("langchain-litellm"),
    "meta": Provider("langchain-meta"),
    "mistralai": Provider("langchain-mistralai", ("MISTRAL_API_KEY",)),
    "nvidia": Provider("langchain-nvidia-ai-endpoints", ("NVIDIA_API_KEY",)),
    "ollama": Provider("langchain-ollama"),
    "openrouter": Provider("langchain-openrouter", ("OPENROUTER_API_KEY",)),
    "perplexity": Provider("langchain-perplexity", ("PPLX_API_KEY", "PERPLEXITY_API_KEY")),
    "together": Provider("langchain-together", ("TOGETHER_API_KEY",)),
    "upstage": Provider("langchain-upstage", ("UPSTAGE_API_KEY",)),
    "xai": Provider("langchain-xai", ("XAI_API_KEY",)),
}


def split_spec(settings: Settings, name: str | None) -> tuple[str, str]:
    """Split a step's `model:`, or the default, into provider and model name.

    Args:
        name: ``provider:name``, a model name of the default provider, or None.

    Raises:
        UsageError: Provider unknown, or model name missing.
    """
    spec = name or settings.model_spec
    if ":" not in spec:
        spec = f"{settings.provider}:{spec}"
    provider, _, model = spec.partition(":")
    provider = provider.strip().replace("-", "_").lower()
    known = ALIASES.get(provider, provider)
    if known not in PROVIDERS:
        raise _unknown_provider(spec, provider)
    if not model.strip():
        raise UsageError(
            f"`{spec}` names no model",
            hint=f"write `{provider}:NAME`, with --model or in FRACTALE_LLM_MODEL",
        )
    return known, model.strip()


def _unknown_provider(spec: str, provider: str) -> UsageError:
    guess = did_you_mean(provider, PROVIDERS, after=" ")
    return UsageError(
        f"`{spec}` is not a model: no provider is called `{provider}`",
        hint=f"{guess}write `provider:name`, with one of: {', '.join(sorted(PROVIDERS))}",
    )


def key_variable(provider: str) -> str | None:
    """The environment variable that contains the provider's key, if it has one."""
    found = PROVIDERS.get(provider)
    return found.keys[0] if found and found.keys else None


def find_fault(settings: Settings, provider: str) -> SettingsError | DependencyMissing | None:
    """The reason why a model of the provider cannot be built, or None. Imports no package."""
    if not _has_key(settings, provider):
        variable = key_variable(provider)
        return SettingsError(
            f"{provider} needs a key, and {variable} is not set",
            hint=f"set {variable}, or use the embedded model: `--backend local`",
        )
    if provider == "local":
        return _local_fault(settings)
    if not _is_installed(PROVIDERS[provider].module):
        return _missing_package(provider)
    return None


def _has_key(settings: Settings, provider: str) -> bool:
    if provider == "gemini":
        return bool(settings.gemini_api_key)
    if provider == "openai":
        # A self-hosted server seldom needs a key.
        return bool(settings.openai_api_key) or not _is_openai_itself(settings)
    keys = PROVIDERS[provider].keys
    return not keys or any(settings.environment.get(key) for key in keys)


def _is_openai_itself(settings: Settings) -> bool:
    host = urlsplit(settings.openai_base_url or OPENAI_URL).hostname or ""
    return host == "openai.com" or host.endswith(".openai.com")


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _missing_package(provider: str) -> DependencyMissing:
    package = PROVIDERS[provider].package
    return DependencyMissing(
        f"models of `{provider}` need the package {package}", hint=f"pip install {package}"
    )


def _local_fault(settings: Settings) -> SettingsError | DependencyMissing | None:
    from fractale.models import local as local_model

    if not _is_installed("xllamacpp"):
        return DependencyMissing("the local model is not installed", hint=local_model.INSTALL)
    try:
        file = Path(settings.local_model or local_model.bundled_model()).expanduser()
        local_model.check_file(file)
    except (SettingsError, DependencyMissing) as error:
        return error
    return None


def build(settings: Settings, provider: str, model: str) -> BaseChatModel:
    """Build a chat model that makes each request once; the caller retries.

    Raises:
        SettingsError: The key is missing, or the provider refuses the settings.
        DependencyMissing: The provider's package is not installed.
    """
    if (fault := find_fault(settings, provider)) is not None:
        raise fault
    if provider == "gemini":
        return _build_gemini(settings, model)
    if provider == "openai":
        url = settings.openai_base_url or OPENAI_URL
        return _build_openai(url, settings.openai_api_key or "none", model)
    if provider == "local":
        from fractale.models import local as local_model

        return _build_openai(local_model.serve(settings.local_model), local_model.API_KEY, model)
    return _build_other(settings, provider, model)


def _build_gemini(settings: Settings, model: str) -> BaseChatModel:
    import logging

    from langchain_google_genai import ChatGoogleGenerativeAI
    from pydantic import SecretStr

    # The package warns about JSON Schema words that Gemini does not know, and about empty answers,
    # which `turn` reports. Google's SDK does not read the body of a failed stream.
    logging.getLogger("langchain_google_genai").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", r"coroutine 'ClientResponse\.json'", RuntimeWarning)
    return ChatGoogleGenerativeAI(
        model=model,
        api_key=SecretStr(settings.gemini_api_key or ""),
        base_url=settings.gemini_base_url,
        timeout=TIMEOUT,
        max_retries=1,  # Google's SDK counts the first request as one
    )


def _build_openai(url: str, key: str, model: str) -> BaseChatModel:
    from fractale.models import openai_server

    # The site's proxy must not receive requests for this machine.
    proxied = not _is_loopback(url)
    return openai_server.build(url, key, model, proxied=proxied, timeout=TIMEOUT)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _build_other(settings: Settings, provider: str, model: str) -> BaseChatModel:
    known = PROVIDERS[provider]
    try:
        if known.chat_model:
            chat_model = getattr(importlib.import_module(known.module), known.chat_model)
            return chat_model(model=model)
        from langchain.chat_models import init_chat_model

        return init_chat_model(model, model_provider=provider)
    except ImportError as error:
        raise _missing_package(provider) from error
    except Exception as error:
        # Each provider has its own exception class for a missing setting.
        said = masker_of(settings.secrets)(one_line(str(error)))[:SHOWN]
        raise SettingsError(
            f"cannot build {provider}:{model}: {said}",
            hint="see the provider's page in LangChain's documentation for what it needs",
        ) from error


def listed(settings: Settings) -> list[str]:
    """The models to show to the user: the default and one per backend."""
    specs = [settings.model_spec, *(f"{p}:{name}" for p, name in DEFAULT_MODELS.items())]
    return list(dict.fromkeys(specs))
