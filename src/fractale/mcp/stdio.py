"""A server that fractale starts: one JSON-RPC message per line on its input and output.

Unlike the library's own client, this one limits the length of a message. It notices at once that
the server ended, and reports the server's last output. It separates stray prints from broken
messages, and never lets the server write to the user's terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from mcp import types
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from fractale.confine.ways import confinement_of, find_way, hint_if_refused
from fractale.errors import DependencyMissing, SettingsError, ToolError, TransportError
from fractale.mcp.children import end_children, kill_children, new_mark
from fractale.mcp.transport import (
    MAX_ANSWER_BYTES,
    Answer,
    Streams,
    Timing,
    TransportHooks,
    too_long,
)
from fractale.settings import STARTED_BY, ServerSettings

CHUNK = 65_536
EDGE = 4_096
LAST_WORDS = 5
ID_AT_START = re.compile(rb'\s*\{\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*"?(\d+)"?\s*,')
ID_AT_END = re.compile(rb'"id"\s*:\s*"?(\d+)"?\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')


@dataclass(frozen=True, slots=True)
class LongLine:
    """A line over the limit: its first and last bytes, and how many there were."""

    start: bytes
    end: bytes
    size: int


class Lines:
    """Splits bytes into lines, keeping at most `limit` bytes of each line."""

    def __init__(self, limit: int = MAX_ANSWER_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._start = self._end = b""

    def feed(self, chunk: bytes) -> Iterator[bytes | LongLine]:
        """The lines that `chunk` completes, without their newlines."""
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            self._add(piece)
            yield self._line()
        self._add(rest)

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        self._parts.append(piece)
        if self._size > self._limit:
            held = b"".join(self._parts)
            self._start = self._start or held[:EDGE]
            self._end = (self._end + held)[-EDGE:]
            self._parts = []

    def _line(self) -> bytes | LongLine:
        if self._size > self._limit:
            line: bytes | LongLine = LongLine(self._start, self._end, self._size)
        else:
            line = b"".join(self._parts)
        self._parts, self._size, self._start, self._end = [], 0, b"", b""
        return line


@contextlib.asynccontextmanager
async def stdio_streams(settings: ServerSettings, hooks: TransportHooks) -> AsyncGenerator[Streams]:
    """Start the server and carry messages until the block ends; then end the server.

    Raises:
        TransportError: The command cannot be started, or cannot be confined.
    """
    with contextlib.ExitStack() as own:
        words = await _words(settings, own, hooks)
        async with _streams(settings, words, hooks) as streams:
            yield streams


@contextlib.asynccontextmanager
async def _streams(
    settings: ServerSettings, words: Sequence[str], hooks: TransportHooks
) -> AsyncGenerator[Streams]:
    mark = new_mark()
    process = await _start(settings, words, mark)
    incoming, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
    server = _Process(process, hooks, settings)
    try:
        async with (
            anyio.create_task_group() as group,
            incoming,
            read,
            write,
            outgoing,
        ):

            def answer(message: types.JSONRPCMessage) -> None:
                # It never waits for the session, which may itself be waiting for the caller.
                group.start_soon(_pass_on, incoming, message)

            group.start_soon(server.read_words)
            group.start_soon(server.read_messages, incoming)
            group.start_soon(server.write_messages, outgoing, answer)
            try:
                yield read, write
            finally:
                await _stop(process, mark, hooks.timing)
                group.cancel_scope.cancel()
    finally:
        # Reached at once if the task was cancelled while it waited for the server to end.
        _signal_group(process, signal.SIGKILL)
        kill_children(mark)


async def _words(
    settings: ServerSettings, own: contextlib.ExitStack, hooks: TransportHooks
) -> Sequence[str]:
    """The program and its arguments, with the confining program in front if it is confined.

    Raises:
        TransportError: It cannot be confined.
    """
    words = (settings.command or "", *settings.args)
    if not settings.confine:
        return words
    environment = _environment(settings)
    where = f"server `{settings.name}`"
    try:
        way = await asyncio.to_thread(find_way, environment)
        temporary = own.enter_context(
            tempfile.TemporaryDirectory(prefix="fractale-", ignore_cleanup_errors=True)
        )
        confinement = confinement_of(
            settings.project or Path.cwd(),
            Path(temporary),
            writable=settings.writable,
            network=settings.network,
            program=words[0],
            path=environment.get("PATH"),
            where=where,
        )
    except SettingsError as error:
        raise TransportError(error.message, hint=error.hint) from error
    except DependencyMissing as error:
        raise TransportError(f"{where} is not started: {error.message}", hint=error.hint) from error
    hooks.log("debug", f"confined: {way.name}")
    return way.words(confinement, words)


def _environment(settings: ServerSettings) -> dict[str, str]:
    # Only variables that MCP lists as safe to inherit: no secret gets there by accident.
    return {**get_default_environment(), **settings.env}


async def _start(
    settings: ServerSettings, words: Sequence[str], mark: str
) -> asyncio.subprocess.Process:
    try:
        if settings.confine:
            _find_program(settings)
        return await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**_environment(settings), STARTED_BY: mark},
            cwd=settings.cwd,
            # A separate process group: fractale handles Ctrl-C, and can end the server with its
            # children.
            start_new_session=True,
        )
    except OSError as error:
        raise TransportError(
            f"server `{settings.name}` cannot be started: {error}",
            hint=f"check its `command` in {settings.origin or 'the settings'}",
        ) from error


def _find_program(settings: ServerSettings) -> None:
    """Check that the program exists: the confining program would only report it in the log.

    Raises:
        FileNotFoundError: It does not exist.
    """
    command, path = settings.command or "", _environment(settings).get("PATH")
    inside = command if "/" not in command else str(Path(settings.cwd or ".") / command)
    if shutil.which(inside, path=path) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command)


async def _stop(process: asyncio.subprocess.Process, mark: str, timing: Timing) -> None:
    """Close the server's input, then terminate it, then kill it; then end its children."""
    try:
        if process.stdin is not None:
            process.stdin.close()
        if not await _exited(process, timing.close):
            _signal_group(process, signal.SIGTERM)
            await _exited(process, timing.terminate)
    finally:
        _signal_group(process, signal.SIGKILL)
    await _exited(process, timing.terminate)
    await end_children(mark, timing.terminate)


async def _exited(process: asyncio.subprocess.Process, seconds: float) -> bool:
    # Not `process.wait()`: it also waits for other processes that hold the pipes.
    with anyio.move_on_after(seconds):
        while process.returncode is None:  # noqa: ASYNC110  # there is no event for this alone
            await asyncio.sleep(0.01)
    return process.returncode is not None


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Signal the server and its children, unless the server has already ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


async def _pass_on(
    incoming: ObjectSendStream[SessionMessage | Exception], message: types.JSONRPCMessage
) -> None:
    """Pass a message to the session; if the session is closed, drop the message.

    The pipe must be drained in any case, or the server could not end.
    """
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await incoming.send(SessionMessage(message))


class _Process:
    """The three pipes of a started server."""

    def __init__(
        self, process: asyncio.subprocess.Process, hooks: TransportHooks, settings: ServerSettings
    ) -> None:
        self._process = process
        self._settings = settings
        self._hooks = hooks
        self._words: deque[str] = deque(maxlen=LAST_WORDS)
        self._all_said = asyncio.Event()

    async def read_words(self) -> None:
        lines = Lines(CHUNK)
        stderr = self._process.stderr
        while stderr is not None and (chunk := await stderr.read(CHUNK)):
            for line in lines.feed(chunk):
                text = (line.start if isinstance(line, LongLine) else line).decode(errors="replace")
                self._words.append(text.rstrip())
                self._hooks.log("debug", text.rstrip())
        self._all_said.set()

    async def write_messages(
        self, outgoing: ObjectReceiveStream[SessionMessage], answer: Answer
    ) -> None:
        """Write each message as a line; answer one that cannot be written."""
        stdin = self._process.stdin
        async for item in outgoing:
            message = item.message
            line = message.model_dump_json(by_alias=True, exclude_none=True)
            try:
                if stdin is not None:
                    stdin.write(line.encode() + b"\n")
                    await stdin.drain()
            except OSError:
                self._hooks.retire()  # calls that were written before may still be answered
                if isinstance(message.root, types.JSONRPCRequest):
                    # The server did not get the whole line, so it cannot have done anything.
                    error = TransportError(f"server `{self._hooks.server}` takes no more calls")
                    fault = self._hooks.faults.answer(message.root.id, error)
                    answer(types.JSONRPCMessage(fault))

    async def read_messages(self, incoming: ObjectSendStream[SessionMessage | Exception]) -> None:
        """Pass each line on as a message until the server closes its output."""
        lines = Lines()
        stdout = self._process.stdout
        while stdout is not None and (chunk := await stdout.read(CHUNK)):
            for line in lines.feed(chunk):
                if (message := self._message(line)) is not None:
                    await _pass_on(incoming, message)
        self._hooks.retire()  # at once, so that no new call is lost
        self._hooks.lose(await self._ended())

    def _message(self, line: bytes | LongLine) -> types.JSONRPCMessage | None:
        if isinstance(line, LongLine):
            return self._fail(line.start, line.end, too_long(self._hooks.server, line.size))
        if not line.strip():
            return None
        try:
            return types.JSONRPCMessage.model_validate_json(line)
        except ValidationError:
            if b'"jsonrpc"' not in line and not line.lstrip().startswith(b'{"'):
                text = line[:EDGE].decode(errors="replace")
                self._hooks.log("warning", f"printed something that is not a message: {text}")
                return None
        error = TransportError(
            f"server `{self._hooks.server}` sent a message that is broken", sent=True
        )
        return self._fail(line[:EDGE], line[-EDGE:], error)

    def _fail(self, start: bytes, end: bytes, error: ToolError) -> types.JSONRPCMessage | None:
        """Fail the call that a message answers; all calls if it does not show which."""
        if found := ID_AT_START.match(start) or ID_AT_END.search(end):
            return types.JSONRPCMessage(self._hooks.faults.answer(int(found[1]), error))
        self._hooks.lose(error)
        return None

    async def _ended(self) -> TransportError:
        """The error with the server's exit code and its last output."""
        await _exited(self._process, 0.5)
        await asyncio.sleep(0.02)  # calls that could not be written fail first: none was sent
        # A program that the server started may hold its standard error open.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await self._all_said.wait()
        code = self._process.returncode
        how = "closed its output" if code is None else _how_it_ended(code)
        # The last line first: in a traceback it is the cause, and the rest may be cut.
        words = " | ".join(word for word in reversed(self._words) if word)
        withheld = self._settings.withheld
        missed = [name for name in withheld if re.search(rf"\b{re.escape(name)}\b", words)]
        hints = [
            f"{', '.join(missed)}: set here and not given to the server; "
            "name what it needs under its `env_from`"
        ][: len(missed)]
        if self._settings.confine and (refused := hint_if_refused(self._settings.name, words)):
            hints.append(refused)
        return TransportError(
            f"server `{self._hooks.server}` {how}"
            + (f"; its last words: {words}" if words else ""),
            sent=True,
            hint="; ".join(hints) or None,
        )


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
