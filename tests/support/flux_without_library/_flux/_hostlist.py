"""As `_core`."""

from _flux._core import ffi, lib  # noqa: F401
