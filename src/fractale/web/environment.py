"""The Jinja environment of the pages: that of the report, with the templates of this package."""

from __future__ import annotations

from typing import Any, Final

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup, escape

from fractale.report.environment import environment as of_report

NOT_SENT: Final = {0: "\ufffd", **dict.fromkeys(range(0xD800, 0xE000), "\ufffd")}
"""Characters that no page can have, and what a browser sends instead of them."""


def environment() -> Environment:
    """An environment with this package's templates before those of the report.

    Its filter `value` prints the value of a control as it is: it is sent back.
    """
    found = of_report()
    loaders = [PackageLoader("fractale.web"), *([found.loader] if found.loader else [])]
    made = found.overlay(loader=ChoiceLoader(loaders))
    of_card: dict[str, Any] = {"action": "", "asking": ""}  # other pages set them
    made.globals = {**found.globals, **of_card}
    made.filters = {**found.filters, "value": value}
    return made


def value(text: str) -> Markup:
    """The value of a control. Other texts of a page have invisible characters written out."""
    escaped = str(escape(text.translate(NOT_SENT)))
    return Markup(escaped.replace("\r", "&#13;"))  # noqa: S704 - it is escaped


def as_sent(text: str) -> str:
    """A text as a form sends it that shows it unchanged, with all line ends as LF."""
    return text.translate(NOT_SENT).replace("\r\n", "\n").replace("\r", "\n")
