"""Stand-ins for tests of your own plans, with answers that you choose.

- `FakeToolServer` (`tools`) replaces the tool servers of a run.
- `ToolServer` (`tool_server`) serves it over real HTTP, with the errors of real servers.
- `ScriptedModel` (`scripted_model`) is a chat model in this process.
- `ModelServer` (`model_server`) is a model's server: the same scripts over real HTTP, with every
  error that a real one shows. Both models accept `Reply` (`replies`).
- `PlanRun` (`plan_run`) is a run with its events; the fixtures of the pytest plugin (`plugin`)
  return it.
- `QUIRKS` (`quirks`) are the deviations of real servers from their protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractale.lazy import lazy

if TYPE_CHECKING:
    from fractale.testing.model_server import ModelRequest as ModelRequest
    from fractale.testing.model_server import ModelServer as ModelServer
    from fractale.testing.plan_run import PlanRun as PlanRun
    from fractale.testing.quirks import QUIRKS as QUIRKS
    from fractale.testing.replies import Reply as Reply
    from fractale.testing.scripted_model import ScriptedModel as ScriptedModel
    from fractale.testing.tool_server import ToolServer as ToolServer
    from fractale.testing.tools import FakeCall as FakeCall
    from fractale.testing.tools import FakeToolServer as FakeToolServer
else:  # not for type checkers: they would accept any name
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "fractale.testing.model_server": ("ModelRequest", "ModelServer"),
            "fractale.testing.plan_run": ("PlanRun",),
            "fractale.testing.quirks": ("QUIRKS",),
            "fractale.testing.replies": ("Reply",),
            "fractale.testing.scripted_model": ("ScriptedModel",),
            "fractale.testing.tool_server": ("ToolServer",),
            "fractale.testing.tools": ("FakeCall", "FakeToolServer"),
        },
    )
