"""Calls of local functions that neither block nor end the server, and report their progress."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from fractale.toolbox import LOCAL_CALL


class Progress:
    """Reports the progress of a call to the MCP client that made the call.

    A function with a parameter annotated `Progress` receives one. The parameter isn't part of the
    tool: no client sees or sets it.
    """

    async def report_progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Report progress; does nothing unless the client asked for progress.

        Args:
            progress: Must grow from report to report.
            total: The value of `progress` at the end; None if unknown.
        """
        from mcp.server.lowlevel.server import request_ctx

        context = request_ctx.get(None)
        token = context.meta.progressToken if context and context.meta else None
        if context is not None and token is not None:
            await context.session.send_progress_notification(
                token, progress, total, message, related_request_id=str(context.request_id)
            )


def guarded(
    function: Callable[..., Any],
    failure: Callable[[str], Exception],
    finish: Callable[[Any], Any] | None = None,
) -> Callable[..., Awaitable[Any]]:
    """Wrap a function into an async one of the same signature that can't block or end the server.

    Args:
        function: Sync or async. A sync function runs in its own thread.
        failure: Makes the error to raise from the message of what the function raised.
        finish: Converts the function's result.
    """

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = await invoke(function, *args, **kwargs)
            return finish(result) if finish else result
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            raise failure("something that the function waited for was cancelled") from error
        except (Exception, SystemExit) as error:
            pass_on(error)
            raise failure(error_text(error)) from error

    return call


def is_cancelled() -> bool:
    """Whether the running task was asked to end: its `CancelledError` then has that cause."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def invoke(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function: on the event loop if it is async, else in a thread."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        result = function(*args, **kwargs)
    else:
        result = await in_thread(functools.partial(_call_and_exhaust, function, args, kwargs))
    if inspect.isawaitable(result):
        return await result
    return [item async for item in result] if inspect.isasyncgen(result) else result


def _call_and_exhaust(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    result = function(*args, **kwargs)
    return list(result) if inspect.isgenerator(result) else result  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - a stranger's function


async def in_thread(call: Callable[[], Any]) -> Any:
    """Run a blocking call in its own thread: in a pool, 40 slow tools would delay the next one.

    If the caller is cancelled, as by a step's timeout, it continues at once. The thread runs on,
    and does not keep the process alive.

    Raises:
        BaseException: What the call raised.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def resolve(outcome: tuple[Any, BaseException | None]) -> None:
        if not done.done():
            done.set_result(outcome)

    def work() -> None:
        try:
            outcome = context.run(call), None
        except KeyboardInterrupt:  # the function's own: Ctrl-C reaches the main thread only
            outcome = None, RuntimeError("the function raised KeyboardInterrupt")
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller
            outcome = None, error
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(resolve, outcome)

    threading.Thread(target=work, name="fractale-tool", daemon=True).start()
    result, error = await done
    if error is not None:
        raise error
    return result


def pass_on(error: BaseException | None) -> None:
    """Keep an exception that must reach a caller in this process, which raises it again.

    It is LangGraph's: an interrupt, as the tool or a graph inside it asks a question; a graph that
    was stopped at a step; or an answer that does not fit the `response_schema` of an interrupt.
    """
    call = LOCAL_CALL.get()
    while call is not None and error is not None:
        if isinstance(error, Exception) and _is_for_caller(error):
            call.passed_on = error
            return
        error = error.__cause__


def _is_for_caller(error: Exception) -> bool:
    errors = sys.modules.get("langgraph.errors")
    if errors is None:
        return False
    if isinstance(error, errors.GraphInterrupt):
        return not is_raised_by_hand(error)
    if isinstance(error, errors.GraphDrained):
        return True
    return bool(errors.is_invalid_resume(error))


def is_raised_by_hand(error: BaseException) -> bool:
    """Whether a `GraphInterrupt` of LangGraph has other values than LangGraph's own interrupts."""
    from langgraph.types import Interrupt

    found: Any = error.args[0] if error.args else ()
    return not isinstance(found, (tuple, list)) or not all(
        isinstance(each, Interrupt) for each in cast("tuple[Any, ...]", found)
    )


BY_HAND: Final = "raised `GraphInterrupt` itself: to ask, call LangGraph's `interrupt(…)`"


def error_text(error: BaseException) -> str:
    """The message of a tool's exception for a user or a model, without a traceback."""
    errors = sys.modules.get("langgraph.errors")
    if errors is not None and isinstance(error, errors.GraphInterrupt) and is_raised_by_hand(error):
        return f"the tool {BY_HAND}"
    if errors is not None and isinstance(error, errors.GraphInterrupt):
        return "the tool asked a question with LangGraph's `interrupt`: only a run can answer it"
    if errors is not None and isinstance(error, errors.ParentCommand):
        return "the tool sent a `Command` to the graph around it: a plan's transitions decide that"
    if isinstance(error, SystemExit):
        return f"the function ended itself with exit code {error.code}"
    if _is_message(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _is_message(error: BaseException) -> bool:
    """Whether an exception is one of FastMCP's, whose text is written for the caller."""
    names = (f"{each.__module__}.{each.__name__}" for each in type(error).__mro__)
    return "fastmcp.exceptions.FastMCPError" in names
