"""MCP sessions: every tool, prompt and resource of all servers, through one `McpToolbox`.

Everything that touches the MCP libraries is in this package, in the order of a call:

- `toolbox` finds the server that a name belongs to, and returns fractale's own types;
- `session` is one server: its catalog, its sessions, their requests, and the server's questions;
- `stdio`, `http`, `memory` are the transports, and turn each failure into that call's error;
  `transport` has their common parts; `children` ends the processes that a server leaves;
- `images` converts images for models, by `langchain-mcp-adapters`.
"""

from fractale.mcp.toolbox import McpToolbox
from fractale.mcp.transport import MAX_ANSWER_BYTES, EmbeddedServer, OnLog, Timing

__all__ = ["MAX_ANSWER_BYTES", "EmbeddedServer", "McpToolbox", "OnLog", "Timing"]
