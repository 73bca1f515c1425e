"""The Jinja environment of the pages: that of the report, with the templates of this package."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader

from fractale.report.environment import environment as of_report


def environment() -> Environment:
    """An environment with this package's templates before those of the report."""
    found = of_report()
    loaders = [PackageLoader("fractale.web"), *([found.loader] if found.loader else [])]
    made = found.overlay(loader=ChoiceLoader(loaders))
    made.globals = {**found.globals}
    return made
