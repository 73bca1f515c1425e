"""The graph that the development server draws, whose states it reads, and that it streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, Self

from langgraph.graph.state import CompiledStateGraph

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from fractale.graph.step import Graph

OUTPUT: Mapping[str, Any] = {
    "status": {"enum": ["success", "failed"]},
    "outputs": {"description": "What the plan returns."},
    "error": {"type": "string", "description": "Why it failed."},
}


class Performer(Protocol):
    """Does what the server asks of a graph."""

    def __call__(
        self, graph: StudioGraph, given: Any, config: RunnableConfig, stream: Mapping[str, Any]
    ) -> AsyncGenerator[Any]:
        """Start a run, or go on with one; gives its stream.

        Args:
            stream: How it is to be streamed: the other arguments of LangGraph's ``astream``.
        """
        ...


class StudioGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """The steps of a plan as the server sees them.

    It has the plan's nodes, edges and state, so that it can be drawn and its states can be read
    and edited. It never calls anything: its stream is that of the run that `performer` does.

    Args:
        performer: Does runs.
        schemas: JSON Schemas: ``input`` and ``context``.
    """

    def __init__(
        self, *, performer: Performer, schemas: Mapping[str, Any], **attributes: Any
    ) -> None:
        # By these names, since LangGraph's `copy` gives every attribute to the constructor.
        super().__init__(**attributes)
        self.performer = performer
        self.schemas = schemas

    @classmethod
    def of(
        cls, builder: Graph, name: str, *, performer: Performer, schemas: Mapping[str, Any]
    ) -> Self:
        """A plan's graph for the server."""
        attributes = dict(vars(builder.compile(name=name)))
        attributes.pop("__orig_class__", None)
        # The context of a run is no matter of the server's.
        attributes["context_schema"] = None
        return cls(**attributes, performer=performer, schemas=schemas)

    def get_input_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """What a run takes."""
        del config
        return dict(self.schemas["input"])

    def get_output_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """What a run gives: what the plan returns, or why it failed."""
        del config
        return {"title": "Output", "type": "object", "properties": dict(OUTPUT)}

    def get_context_jsonschema(self) -> dict[str, Any]:
        """What an assistant is given."""
        return dict(self.schemas["context"])

    async def astream(  # pyright: ignore[reportIncompatibleMethodOverride] - the overloads only say what versions give
        self,
        input: Any,  # noqa: A002 - LangGraph's name
        config: RunnableConfig | None = None,
        *,
        context: Any = None,
        durability: Any = None,
        control: Any = None,
        **stream: Any,
    ) -> AsyncGenerator[Any]:
        """Start a run on the thread, or go on with its run.

        Durability is always ``sync``, and a run has its own context and way to be stopped.
        """
        del context, durability, control
        async with aclosing(self.performer(self, input, config or {}, stream)) as chunks:
            async for chunk in chunks:
                yield chunk
