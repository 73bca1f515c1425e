"""MCP sessions: every tool, prompt and resource of all servers, through one `McpToolbox`.

Everything that touches the MCP libraries is in this package, in the order in which a call goes:

- `toolbox` takes a call by name and gives back fractale's own types,
- `routes` finds the server that a name belongs to,
- `owner` keeps one server: connects, and connects again where it was lost,
- `lists` is what it lists, watched for changes,
- `connection` is one live session and the task that holds it; `session` is the library's,
- `asking` brings what a server asks meanwhile to the call that it belongs to,
- `stdio`, `http`, `memory` carry the messages, and turn each fault into that call's error,
- `wire` is what those three and the connection say to each other,
- `convert` translates between MCP's types and ours,
- `images` converts images for models, by `langchain-mcp-adapters`,
- `logs` leaves out what the library logs as an error and is none.
"""

from fractale.mcp.toolbox import McpToolbox
from fractale.mcp.wire import MAX_ANSWER_BYTES, EmbeddedServer, OnLog, Timing

__all__ = ["MAX_ANSWER_BYTES", "EmbeddedServer", "McpToolbox", "OnLog", "Timing"]
