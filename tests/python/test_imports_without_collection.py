"""fractale imports its engine without garbage collection, and leaves the collector as it was."""

from __future__ import annotations

import gc
from importlib import import_module

import pytest

from fractale.lazy import importing


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was_also_after_an_import_that_fails(enabled):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ImportError), importing():
            import_module("fractale.nothing_of_this_name")
        assert gc.isenabled() is enabled
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
