"""Of `flux.queue`: `QueueList`."""

from __future__ import annotations

import os
from types import SimpleNamespace as Any


class QueueList:
    """The queues of an instance."""

    def __init__(self, _handle) -> None:
        if os.environ.get("FAKE_BINDINGS") == "too new":
            # flux-core 0.88.0 has no RPC for the configuration; its fallback has no handle.
            raise AttributeError("'NoneType' object has no attribute 'conf_get'")
        every, free = Any(nnodes=4, ncores=32, ngpus=8), Any(nnodes=1, ncores=8, ngpus=2)
        resources = Any(all=every, free=free)
        common = {"is_default": False, "enabled": True, "resources": resources}
        debug = Any(name="debug", started=True, limits=Any(duration=3600.0), **common)
        batch = Any(name="batch", started=False, limits=Any(duration=float("inf")), **common)
        self._queues = [debug, batch]

    def __iter__(self):
        return iter(self._queues)
