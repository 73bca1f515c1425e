"""Calling local functions for a server: off the event loop, and never ending the server."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any


def guarded(
    function: Callable[..., Any],
    failure: Callable[[str], Exception],
    finish: Callable[[Any], Any] | None = None,
) -> Callable[..., Awaitable[Any]]:
    """An async function of the same signature that can't block or end the server.

    Args:
        function: Sync or async. A sync one runs in a thread of its own.
        failure: Makes what is raised in place of whatever the function raises, of its message.
        finish: Turns the function's result into what is returned.
    """

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = await invoke(function, *args, **kwargs)
            return finish(result) if finish else result
        except (Exception, SystemExit) as error:
            raise failure(error_text(error)) from error

    return call


async def invoke(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function: on the loop if it is async, else in a thread."""
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
    """Run a blocking call in a thread of its own.

    A pool would let 40 slow tools hold up the next one. When the caller is cancelled (a step's
    time-out), it goes on at once and the thread is left behind; it doesn't keep the process.

    Raises:
        BaseException: Whatever the call raised.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def settle(outcome: tuple[Any, BaseException | None]) -> None:
        if not done.done():
            done.set_result(outcome)

    def work() -> None:
        try:
            outcome = context.run(call), None
        except KeyboardInterrupt:  # the function's own: Ctrl-C reaches the main thread only
            outcome = None, RuntimeError("the function raised KeyboardInterrupt")
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller
            outcome = None, error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=work, name="fractale-tool", daemon=True).start()
    result, error = await done
    if error is not None:
        raise error
    return result


def error_text(error: BaseException) -> str:
    """What a tool's exception says, in words for a person or a model: no traceback."""
    if isinstance(error, SystemExit):
        return f"the function ended itself with exit code {error.code}"
    if _is_message(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _is_message(error: BaseException) -> bool:
    """Whether an exception is one of FastMCP's, whose text is for the caller as it is."""
    names = (f"{each.__module__}.{each.__name__}" for each in type(error).__mro__)
    return "fastmcp.exceptions.FastMCPError" in names
