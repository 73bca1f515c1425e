"""What you need to test plans of your own: stand-ins that are told what to answer.

- `FakeToolServer` (`fractale.testing.tools`) stands in for the tool servers of a run,
- `fractale.testing.model_server` stands in for a model's server.
"""

from fractale.testing.tools import FakeCall, FakeToolServer

__all__ = ["FakeCall", "FakeToolServer"]
