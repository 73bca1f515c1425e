"""Packages that import a public name when it is first used (as SPEC 1 of scientific Python does).

So `import fractale` is fast, and reading a run's record does not load the engine. Type checkers
read the same names under ``if TYPE_CHECKING``, written ``from … import Name as Name``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def lazy(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Args:
        package: Its ``__name__``.
        names: Module → the names that the package exports from it.
    """
    homes = {name: module for module, exported in names.items() for name in exported}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    def public() -> list[str]:
        return sorted({*homes, "__doc__", "__file__", "__name__", "__path__"})

    return get, public, sorted(name for name in homes if not name.startswith("_"))


@contextmanager
def importing() -> Generator[None]:
    """Import without garbage collection, which would take an eighth of the time and find nothing.

    Afterwards the collector is as it was: the process belongs to the application.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
