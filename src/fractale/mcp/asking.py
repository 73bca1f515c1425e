"""What a server asks in the middle of a call (MCP's elicitation), and who answers it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mcp import types
from pydantic import ValidationError

from fractale.errors import ToolError
from fractale.toolbox import Elicitation, OnElicit

OnQuestion = Callable[[types.ElicitRequestFormParams], Awaitable[types.ElicitResult]]


class Unanswered(Exception):
    """The call that asked has ended: MCP wants no answer to what was cancelled."""


class Asker:
    """One call as the one that a server's questions may belong to.

    Args:
        server: The server's name.
        call: The task that waits for the call's answer.
        on_elicit: Answers questions; None: this call is not asked.
    """

    def __init__(self, server: str, call: asyncio.Task[Any], on_elicit: OnElicit | None) -> None:
        self._server = server
        self._call = call
        self._on_elicit = on_elicit
        # What the caller has set for itself (such as its place in a run) holds for the answer, too.
        self._context = contextvars.copy_context()
        self._failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._answering: set[asyncio.Task[Mapping[str, Any]]] = set()

    @property
    def can_answer(self) -> bool:
        """Whether there is somebody who answers."""
        return self._on_elicit is not None

    async def wait(self, ends: set[asyncio.Future[Any]], seconds: float | None) -> None:
        """Wait until one of `ends` is there, or the time is up; questions stop the clock.

        Raises:
            Exception: What answering a question raised, as it is.
        """
        waited: set[asyncio.Future[Any]] = {*ends, self._failed}
        while True:
            done, _ = await asyncio.wait(
                waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if done or not self._answering:
                break
        if self._failed.done() and not any(end.done() for end in ends):
            raise self._failed.result()

    async def answer(self, params: types.ElicitRequestFormParams) -> types.ElicitResult:
        """The answer to one question. What answering it raises ends the call.

        Raises:
            Unanswered: The call has ended: the server waits for no answer.
        """
        question = Elicitation(
            server=self._server, message=params.message, schema=params.requestedSchema
        )
        task = asyncio.create_task(self._ask(question), context=self._context)
        self._answering.add(task)
        try:
            await asyncio.wait({task})
            return _result(task.result())
        except ValidationError:
            message = f"the answer to a question of server `{self._server}` is none that it takes"
            self._end_call(ToolError(message))
            raise Unanswered from None
        except Exception as error:
            self._end_call(error)  # it is raised again, by the call
            raise Unanswered from error
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise Unanswered from None
        finally:
            self._answering.discard(task)
            task.cancel()

    async def _ask(self, question: Elicitation) -> Mapping[str, Any]:
        assert self._on_elicit is not None  # noqa: S101  # `can_answer`
        return await self._on_elicit(question)

    def _end_call(self, error: Exception) -> None:
        """End the call with `error`; the session tells the server that it is cancelled."""
        if not self._failed.done():
            self._failed.set_result(error)

    def close(self) -> None:
        """The call is over: nobody needs an answer any more."""
        for task in self._answering:
            task.cancel()


def _result(answer: Mapping[str, Any]) -> types.ElicitResult:
    """The answer in MCP's form.

    Raises:
        ValidationError: It is none.
    """
    accepted = answer.get("action") == "accept"
    content = answer.get("content") if accepted else None
    return types.ElicitResult.model_validate({"action": answer.get("action"), "content": content})
