"""The Jinja environment of all pages: texts are always escaped, and a missing name is an error."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fractale.render.questions import exact

HERE = Path(__file__).parent
TEMPLATES = HERE / "templates"


@cache
def environment() -> Environment:
    """The environment with the templates of this package.

    Filters: `fragment` makes the address of an id on the page. `drawn` marks an SVG that fractale
    drew as markup; nothing else may pass through it.
    """
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["fragment"] = fragment
    made.filters["drawn"] = drawn
    return made


def visible(value: Any) -> Any:
    """A printed value, with any control character that reached it written out."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return exact(value)


def fragment(name: str) -> str:
    """The address of an id on the page."""
    return f"#{name}"


def drawn(svg: str) -> Markup:
    """A picture of the plan as markup."""
    return Markup(svg)  # noqa: S704 - made by fractale.plan.picture, which escapes every text


@cache
def asset(name: str) -> str:
    """The text of ``style.css`` or ``script.js``."""
    return (HERE / name).read_text(encoding="utf-8")


def source_hash(text: str) -> str:
    """The hash of an inline style or script for a Content Security Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
