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

OnQuestion = Callable[
    [types.ElicitRequestFormParams], Awaitable[types.ElicitResult | types.ErrorData]
]

GIVE_UP_SECONDS = 2.0


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

    async def answer(
        self, params: types.ElicitRequestFormParams
    ) -> types.ElicitResult | types.ErrorData:
        """The answer to one question. What answering it raises ends the call."""
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
            return await self._give_up(ToolError(message))
        except Exception as error:  # noqa: BLE001  # it is raised again, by the call
            return await self._give_up(error)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            return _OVER
        finally:
            self._answering.discard(task)
            task.cancel()

    async def _ask(self, question: Elicitation) -> Mapping[str, Any]:
        assert self._on_elicit is not None  # noqa: S101  # `can_answer`
        return await self._on_elicit(question)

    async def _give_up(self, error: Exception) -> types.ErrorData:
        """End the call; the server hears of that first, lest the tool go on without an answer."""
        if not self._failed.done():
            self._failed.set_result(error)
        await asyncio.wait({self._call}, timeout=GIVE_UP_SECONDS)
        return _OVER

    def close(self) -> None:
        """The call is over: nobody needs an answer any more."""
        for task in self._answering:
            task.cancel()


_OVER = types.ErrorData(code=types.INVALID_REQUEST, message="the call was given up")


def _result(answer: Mapping[str, Any]) -> types.ElicitResult:
    """The answer in MCP's form.

    Raises:
        ValidationError: It is none.
    """
    accepted = answer.get("action") == "accept"
    content = answer.get("content") if accepted else None
    return types.ElicitResult.model_validate({"action": answer.get("action"), "content": content})
