"""Listening: on a port of this machine's loopback, or on a Unix socket of a private directory."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import uvicorn
from starlette.types import ASGIApp

from fractale.errors import UsageError
from fractale.private import make_folder, write_private
from fractale.server.bounds import ACCEPTED_AT_ONCE, QUEUE, Connections, protocol_of, quiet_log
from fractale.studio.gate import can_tell_users
from fractale.web.access import TOKEN, Access, user_of

HOST: Final = "127.0.0.1"
GRACE: Final = 1
"""Seconds that answers in progress may take after the signal to stop."""
MODE: Final = 0o600


def listen(port: int) -> socket.socket:
    """A socket that listens on the loopback.

    Args:
        port: 0 for a free one.

    Raises:
        UsageError: The port is in use.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(QUEUE)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            hint = "leave out `--port` for a free one, or listen on a Unix socket: `--socket PATH`"
            raise UsageError(f"port {port} is in use", hint=hint) from error
        raise UsageError(
            f"cannot listen on {HOST}, port {port}: {error.strerror or error}",
            hint="`fractale top` and `fractale report` need no port",
        ) from error
    return listener


def listen_at(path: Path) -> socket.socket:
    """A Unix socket (mode 0600) that listens; one that a killed server left is replaced.

    A missing directory is made, for this user alone.

    Raises:
        UsageError: Another server listens there, something else has the name, other users may
            write to the directory, or the path is too long.
    """
    folder = path.absolute().parent
    try:
        make_folder(folder)
        found = folder.stat()
    except OSError as error:
        raise UsageError(f"cannot listen on {path}: {error.strerror or error}") from error
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise UsageError(
            f"other users may write to {folder}, where the socket would be",
            hint="name a path in a directory of your own, such as ~/.fractale/web.sock",
        )
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~MODE)
    try:
        listener.bind(str(path))
        listener.listen(QUEUE)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        hint = "a path of a socket has at most about 100 characters" if not error.errno else None
        raise UsageError(f"cannot listen on {path}: {reason}", hint=hint) from error
    finally:
        os.umask(before)
    return listener


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} exists and is not a socket", hint="choose another path")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass
    raise UsageError(f"another server listens on {path}", hint="end it, or choose another path")


def shows_user(listener: socket.socket) -> bool:
    """Whether this machine shows the user at the other end of a connection, by trying it."""
    if listener.family == socket.AF_UNIX:
        return True
    if not can_tell_users():
        return False
    with contextlib.ExitStack() as opened:
        client = opened.enter_context(socket.create_connection(listener.getsockname(), 5.0))
        accepted = opened.enter_context(listener.accept()[0])
        del client
        return user_of(accepted) == os.geteuid()


def unknown_user(listener: socket.socket, platform: str = sys.platform) -> str:
    """The warning for a machine that does not show the user of a connection.

    Raises:
        UsageError: The machine may have other users: it runs Linux.
    """
    if platform.startswith("linux"):
        listener.close()
        raise UsageError(
            "this machine does not show which user connects to a port",
            hint="listen on a Unix socket of your own: `--socket ~/.fractale/web.sock`, which "
            "no other user can open",
        )
    return (
        "warning: this machine does not show which user connects: other users of it are kept out "
        "by the token alone; with `--socket PATH` only you can connect"
    )


def address_of(listener: socket.socket, access: Access) -> str:
    """The address to open, with the token; of a Unix socket, that of a port forwarded to it."""
    port = 8000 if listener.family == socket.AF_UNIX else listener.getsockname()[1]
    name = "localhost" if listener.family == socket.AF_UNIX else HOST
    return f"http://{name}:{port}/?{urlencode({TOKEN: access.token})}"


def run(
    app: ASGIApp, listener: socket.socket, on_ready: Callable[[], None], stop: Callable[[], None]
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        on_ready: Called once connections are accepted.
        stop: Ends the streams; called at the signal.
    """
    quiet_log()
    config = uvicorn.Config(
        app,
        http=protocol_of(Connections()),
        backlog=ACCEPTED_AT_ONCE,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    _Server(config, on_ready, stop).run([listener])


class _Server(uvicorn.Server):
    """Reports when it accepts connections, ends open streams at a signal, and returns."""

    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None], stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        # Faults are reported by the application; a stream that is cut is none.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._on_ready, self._stop = on_ready, stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(QUEUE)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: the streams end, answers in progress get a moment, then connections are closed."""
        self._stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Stop on SIGINT and SIGTERM. Uvicorn's own would raise them again, and die of it."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


# -- the browser -----------------------------------------------------------------------------------


def open_browser(address: str, page: Path, environment: Mapping[str, str]) -> bool:
    """Open the address in a browser; returns whether there is one.

    The command line of a program is visible to all users of the machine, so the browser is given
    a private file that leads to the address.

    Args:
        page: The file to write.
    """
    has_screen = any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform.startswith("linux") and not has_screen:
        return False
    try:
        browser = webbrowser.get()
        make_folder(page.parent)
        write_private(page, _LEADING.format(address=address), sync="none")
        return browser.open(page.absolute().as_uri())
    except (webbrowser.Error, OSError):
        return False


_LEADING: Final = """\
<!doctype html><meta charset="utf-8"><title>fractale</title>
<meta http-equiv="refresh" content="0; url={address}">
<p><a href="{address}">open fractale</a></p>
"""


def forwarding(path: Path) -> str:
    """The command that forwards a port of the user's own machine to a Unix socket of this one."""
    host: Any = socket.gethostname()
    return f"ssh -N -L 8000:{path.absolute()} {host}"
