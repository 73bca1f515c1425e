"""A FastMCP server whose tools ask the person: over stdio, or `http PORT`."""

import asyncio
import sys
from pathlib import Path
from typing import Literal

from fastmcp import Context, FastMCP
from pydantic import BaseModel, Field

server = FastMCP("asking")


class Place(BaseModel):
    partition: Literal["debug", "batch"]
    nodes: int = Field(ge=1)


def leave(folder: str, name: str) -> None:
    Path(folder, name).touch()


@server.tool
async def submit(context: Context) -> dict:
    """Ask where to run a job."""
    answer = await context.elicit("Where should the job run?", Place)
    if answer.action != "accept":
        return {"action": answer.action}
    return {"action": "accept", **answer.data.model_dump()}


@server.tool
async def twice(context: Context) -> dict:
    """Ask two questions, one after the other."""
    first = await context.elicit("First?", response_type=str)
    second = await context.elicit("Second?", response_type=str)
    return {"first": first.data, "second": second.data}


@server.tool
async def marked(folder: str, context: Context) -> str:
    """Ask, and leave a file that says how that ended."""
    try:
        answer = await context.elicit("Go on?", response_type=str)
    except BaseException:
        leave(folder, "ended")
        raise
    leave(folder, "went-on")
    return answer.action


@server.tool
async def rest(seconds: float) -> str:
    """Take a while."""
    await asyncio.sleep(seconds)
    return "rested"


if __name__ == "__main__":
    if len(sys.argv) > 2:
        server.run("http", host="127.0.0.1", port=int(sys.argv[2]), show_banner=False)
    else:
        server.run("stdio", show_banner=False)
