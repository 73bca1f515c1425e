"""An MCP server over stdio with one tool, which runs a line of shell: for tests of confinement."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

TOOL = {
    "name": "sh",
    "description": "Run a line of shell.",
    "inputSchema": {"type": "object", "properties": {"line": {"type": "string"}}},
}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "shell", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "tools/call":
        line = params["arguments"]["line"]
        if line == "EPERM":
            raise PermissionError(1, "Operation not permitted")
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        if line.startswith("exec "):  # an error is told as such
            said = {"type": "text", "text": done.stderr}
            return {"content": [said], "isError": done.returncode != 0}
        return {"content": [{"type": "text", "text": f"{done.returncode} {done.stdout}"}]}
    return {}


for text in sys.stdin:
    message = json.loads(text)
    if "id" in message:
        result = answer(message["method"], message.get("params", {}))
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
