"""A stand-in for flux-python: the calls that fractale makes, with the documented answers.

It runs jobs by `scheduler.py` beside it and is no Flux.
"""

from __future__ import annotations

import os


class Flux:
    """A handle of an instance."""

    def __init__(self) -> None:
        if os.environ.get("FLUX_URI", "").endswith("down"):
            raise FileNotFoundError(2, "Unable to connect to Flux")

    def attr_get(self, _name: str) -> str:
        return "4"

    def rpc(self, topic: str, payload: dict):
        return Answer({"start": payload.get("name") != os.environ.get("FAKE_STOPPED")})


class Answer(dict):
    """The answer of an RPC."""

    def get(self, *words):
        return super().get(*words) if words else self
