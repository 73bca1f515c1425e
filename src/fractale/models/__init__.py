"""Chat models: any provider's, asked in one way.

- `Models` (`client`): builds a model when it is needed, asks it, counts what it used.
- `turn`: one turn of a model, joined, cleaned and checked before anything else reads it;
  `thoughts` and `text_calls` are what it finds in texts.
- `providers`: which providers there are, their keys, how their models are built;
  `openai_server`: servers that speak OpenAI's protocol almost.
- `conversation`, `tool_schemas`: messages and tools as a model takes them.
- `retry`, `faults`: when to ask again, and what went wrong in fractale's own errors.
- `structured`, `json_text`: asking for JSON, and finding it in what came back.
- `usage`: what an answer holds and what it cost.
"""

from fractale.models.client import Models
from fractale.models.json_text import final_json, find_json, whole_json
from fractale.models.retry import RetryPolicy
from fractale.models.usage import Answer, Usage

__all__ = ["Answer", "Models", "RetryPolicy", "Usage", "final_json", "find_json", "whole_json"]
