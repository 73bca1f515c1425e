"""A run on a checkpointer of one's own, begun or continued by a process of its own.

``python python_runs.py URL ID begin|resume``: prints the status and the length of the text as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

LARGE = "x" * 50_000
HUGE = 2**70
ASKS = """
name: asks
inputs: {big: {default: ""}}
steps:
  - {name: make, tool: make}
  - {name: send, tool: send, inputs: {text: "{{ steps.make.outputs.text }}"}, approve: always}
outputs:
  size: "{{ steps.send.outputs.size }}"
  text: "{{ steps.make.outputs.text }}"
  huge: "{{ steps.make.outputs.huge }}"
  big: "{{ inputs.big | length }}"
"""


def make() -> dict[str, Any]:
    """Make a text."""
    return {"text": LARGE, "huge": HUGE}


def send(text: str) -> dict[str, Any]:
    """Send a text."""
    return {"size": len(text)}


@asynccontextmanager
async def open_saver(url: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """LangGraph's own savers: PostgreSQL by its URL, or SQLite by a path."""
    if url.startswith("postgresql"):
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        async with AsyncPostgresSaver.from_conn_string(url) as saver:
            await saver.setup()
            yield saver
        return
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    async with AsyncSqliteSaver.from_conn_string(url) as saver:
        yield saver


async def main(url: str, run_id: str, what: str) -> None:
    import fractale
    from fractale.settings import Settings

    settings = Settings(state_dir=Path(url).parent / "state") if "://" not in url else Settings()
    async with open_saver(url) as saver:
        if what == "begin":
            result = await fractale.arun(
                ASKS,
                {"big": LARGE},
                tools=[make, send],
                checkpointer=saver,
                run_id=run_id,
                settings=settings,
            )
        else:
            result = await fractale.aresume(
                run_id,
                plan=ASKS,
                tools=[make, send],
                checkpointer=saver,
                answers={"send": True},
                settings=settings,
            )
    print(json.dumps({"status": result.status, "outputs": result.outputs, "steps": result.steps}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
