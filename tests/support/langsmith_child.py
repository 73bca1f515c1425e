"""Plans with a secret under ``LANGSMITH_TRACING=true``: ``python langsmith_child.py DIR URL …``.

For each address of a LangSmith there is a process of its own, forked once all is imported.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from deepagents import create_deep_agent
from langgraph.graph import START, StateGraph
from langsmith import traceable
from typing_extensions import TypedDict

import fractale
from fractale.settings import Settings
from fractale.testing import Reply, ScriptedModel

sys.path.append(str(Path(__file__).parents[1] / "graph"))

DEEP = """
name: with_deep
inputs: {token: {secret: true}}
steps:
  - {name: s, agent: deep, instruction: "Use {{ inputs.token }}."}
  - {name: t, tool: reports, inputs: {token: "{{ inputs.token }}"}}
"""


@traceable
def reported(token: str) -> str:
    return f"reported {token}"


def reports(token: str) -> dict[str, Any]:
    """Call a function that LangSmith traces without LangChain."""
    return {"said": reported(token)}


class Mine(TypedDict, total=False):
    token: str


async def main(directory: str) -> None:
    from test_traces import PLAN, SECRET, TOOLS, model, run

    settings = Settings(state_dir=Path(directory) / "state")
    for way in ("arun", "plan_graph"):
        assert await run(way, settings, []) == ("success", None)
    node = fractale.as_node(
        PLAN, inputs={}, outputs={}, tools=TOOLS, model=model(), settings=settings, yes=True
    )
    outer: Any = StateGraph(Mine, context_schema=dict).add_node("plan", node)
    context = {"secrets": {"token": SECRET}}
    await outer.add_edge(START, "plan").compile().ainvoke({}, context=context)
    given = {"subagent_type": "general-purpose", "description": f"Look after {SECRET}."}
    replies = [Reply(tool_calls=[("task", given)]), f"It is {SECRET}.", f"Used {SECRET}."]
    deep = create_deep_agent(ScriptedModel(replies), tools=[])
    graph = fractale.plan_graph(
        DEEP, agents={"deep": deep}, tools=[reports], settings=settings, yes=True
    )
    after = await graph.ainvoke({"token": SECRET})
    assert after["status"] == "success", after


def fork(directory: Path, url: str) -> int:
    """Start a process that sends its traces to an address; returns its pid."""
    if child := os.fork():
        return child
    os.environ["LANGSMITH_ENDPOINT"] = url
    directory.mkdir()
    asyncio.run(main(str(directory)))
    sys.exit()


if __name__ == "__main__":
    import test_traces  # noqa: F401 - as all else, before the first fork

    folder = Path(sys.argv[1])
    children = [fork(folder / str(number), url) for number, url in enumerate(sys.argv[2:])]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(max(map(abs, codes)))
