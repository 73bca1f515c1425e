"""Chat models: any provider's, asked in one way.

- `Models` (`client`): builds a model when it is needed, asks it, counts what it used.
- `providers`: which providers there are, their keys, how their models are built.
- `retry`, `faults`: when to ask again, and what went wrong in fractale's own errors.
- `structured`, `json_text`: asking for JSON, and finding it in what came back.
- `sendable`: messages without what no request can hold.
- `usage`: what an answer holds and what it cost.
"""

from fractale.models.client import Models
from fractale.models.json_text import find_json
from fractale.models.retry import RetryPolicy
from fractale.models.sendable import sendable
from fractale.models.usage import Answer, Usage

__all__ = ["Answer", "Models", "RetryPolicy", "Usage", "find_json", "sendable"]
