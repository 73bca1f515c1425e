"""Chat models: one interface for every provider.

- `Models` (`client`): builds a model at its first use, asks it, counts what it used.
- `turn`: one turn of a model, joined, cleaned and checked before other code reads it; `thoughts`
  and `text_calls` find thoughts and tool calls in texts.
- `providers`: the list of providers, their keys, how to build their models; `openai_server`:
  servers that almost follow OpenAI's protocol.
- `runnables`: models with retries, fallbacks or a chain around them, as a caller gives them.
- `tool_schemas`: tools in the form that a model accepts.
- `retry`, `faults`: when to ask again, and a provider's errors as fractale's own.
- `structured`, `json_text`: asking for JSON, and finding it in an answer.
- `usage`: the content and the cost of an answer.
"""

from fractale.models.client import Models
from fractale.models.json_text import final_json, find_json, whole_json
from fractale.models.retry import RetryPolicy
from fractale.models.usage import Answer, Usage

__all__ = ["Answer", "Models", "RetryPolicy", "Usage", "final_json", "find_json", "whole_json"]
