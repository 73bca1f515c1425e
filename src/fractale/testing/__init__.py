"""What you need to test plans of your own: stand-ins that are told what to answer.

- `FakeToolServer` (`tools`) stands in for the tool servers of a run,
- `ToolServer` (`tool_server`) serves it over real HTTP, with the faults of real servers,
- `ScriptedModel` (`scripted_model`) is a chat model in this process,
- `ModelServer` (`model_server`) is a model's server: the same scripts over real HTTP, with every
  fault that a real one shows. Both models take `Reply` (`replies`),
- `QUIRKS` (`quirks`) are what real servers do beside the protocol that they speak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fractale.testing.model_server import ModelRequest, ModelServer
from fractale.testing.quirks import QUIRKS
from fractale.testing.replies import Reply
from fractale.testing.tool_server import ToolServer
from fractale.testing.tools import FakeCall, FakeToolServer

if TYPE_CHECKING:
    from fractale.testing.scripted_model import ScriptedModel

__all__ = [
    "QUIRKS",
    "FakeCall",
    "FakeToolServer",
    "ModelRequest",
    "ModelServer",
    "Reply",
    "ScriptedModel",
    "ToolServer",
]


def __getattr__(name: str) -> Any:
    """Import the scripted model when it is first used: it needs LangChain."""
    if name != "ScriptedModel":
        raise AttributeError(f"module 'fractale.testing' has no attribute {name!r}")
    from fractale.testing.scripted_model import ScriptedModel

    return ScriptedModel
