"""Notifications of a run: commands and webhooks that the user's settings name.

A run never waits for one. Each entry of the settings has a thread of its own, which sends one
message after the other. What cannot be sent is a warning in the run's record. The process waits
for the last messages before it ends, for a bounded time: the command line by `finish`, every other
program when Python exits.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fractale.errors import FractaleError
from fractale.events import Event, EventLog
from fractale.masking import Masker
from fractale.plain import table, to_json
from fractale.plan.escape import escape
from fractale.questions import needs_no_answer, tool_of
from fractale.questions.kinds import expected
from fractale.record.verdict import verdict_head
from fractale.runs.result import INTERRUPTED, answer_commands, resume_command
from fractale.store.locks import RunLock
from fractale.text import count

if TYPE_CHECKING:
    from fractale.settings import Notify, Occasion
    from fractale.store.run_record import RunRecord

TRIES: Final = 3
PAUSES: Final = (1.0, 3.0)
MOST_SECONDS: Final = 45.0
"""How long the end of a process may wait for its notifications."""
GATHERING: Final = 0.3
"""Seconds in which questions that are asked together are gathered into one message."""
MOST_BYTES: Final = 64 * 1024
"""The most bytes of a message. A longer one is sent without outputs, reasons and arguments."""
MOST_ANSWERS: Final = 5
"""The most answers to a question that a message gives as commands."""
LONG_TEXT, MOST_ENTRIES = 500, 20
"""The most characters of a text in a message, and the most entries of a list or mapping."""
AGAIN: Final = (408, 425, 429)
"""Answers of a webhook, besides 5xx, after which the next attempt may succeed."""
MARKUP: Final = str.maketrans({"<": "‹", ">": "›", "@": "＠"})  # noqa: RUF001 - these look alike on purpose
"""Characters by which a chat makes links and calls people; tools and models may have said them."""

MOST_OUTPUT: Final = 64 * 1024
"""The most bytes of a command's output that are read for a warning."""

Message = dict[str, Any]
Mask: TypeAlias = Callable[[str], str]


class Notifications:
    """The notifications of all runs that have the same options. It may be used in any thread.

    Args:
        pauses: Seconds before the second and the third attempt.
    """

    def __init__(self, *, pauses: tuple[float, float] = PAUSES) -> None:
        self._pauses = pauses
        self._lock = threading.Lock()
        self._runs: list[RunNotifications] = []

    def of_run(
        self,
        wanted: Sequence[Notify],
        environment: Mapping[str, str],
        record: RunRecord | None,
        mask: Mask = str,
    ) -> RunNotifications:
        """The notifications of one run, which must be released when it is over.

        Args:
            wanted: The entries of the settings.
            environment: The environment of commands, without secrets.
            record: The run's record, which gets a warning if a notification cannot be sent.
            mask: Masks the run's secrets. Those of the entries are masked, too.
        """
        own = Masker(secret for each in wanted for secret in each.secrets)
        made = RunNotifications(
            wanted, environment, record, lambda text: own.text(mask(text)), self._pauses
        )
        with self._lock:
            self._runs = [*(each for each in self._runs if not each.is_done), made]
        return made

    def finish(self, seconds: float = MOST_SECONDS) -> list[str]:
        """Wait until all notifications are sent or have failed.

        Args:
            seconds: The longest wait.

        Returns:
            Reasons why some could not be sent, as far as no event of a run had them.
        """
        until = time.monotonic() + seconds
        runs = self._all()
        for run in runs:
            run.close()
        return [words for run in runs for words in run.finish(until)]

    def abandon(self) -> None:
        """Send nothing more, such as after Ctrl-C."""
        for run in self._all():
            run.abandon()

    def _all(self) -> list[RunNotifications]:
        with self._lock:
            return [*self._runs]


class RunNotifications:
    """Sends the notifications of one run, whose events it hears.

    `Notifications.of_run` makes it.
    """

    def __init__(
        self,
        wanted: Sequence[Notify],
        environment: Mapping[str, str],
        record: RunRecord | None,
        mask: Mask,
        pauses: tuple[float, float],
    ) -> None:
        self._faults = _Faults(mask)
        self._senders = [_Sender(each, environment, self._faults, pauses) for each in wanted]
        self._record = record
        self._started: Event | None = None
        self._asked = set[str]()
        self._is_released = False

    def remember(self, question: Mapping[str, Any]) -> None:
        """Take a question that an earlier process of the run has asked: it is not sent again."""
        self._asked.add(_key(question))

    def hear(self, event: Event) -> None:
        """Take an event of the run, in which secrets are masked."""
        if not self._senders:
            return
        try:
            if event.kind == "run_started":
                self._started = event
            elif event.kind == "waiting":
                self._question(event)
            elif event.kind == "run_finished" and self._started:
                self._end(event)
        except Exception as error:  # noqa: BLE001 - no notification may end a run
            self._faults.add(f"a notification was not sent: {type(error).__name__}: {error}")

    def _question(self, event: Event) -> None:
        question = table(event.data, "question")
        key = _key(question)
        if not needs_no_answer(question) and key not in self._asked:
            self._asked.add(key)
            self.send(("question",), _asked(self._about(event), question))

    def _end(self, event: Event) -> None:
        status, error = str(event.data.get("status")), str(event.data.get("error"))
        if status == "waiting" or (status == "stopped" and error.startswith(INTERRUPTED)):
            return
        occasions: tuple[Occasion, ...] = (
            ("failure", "end") if status in ("failed", "limit") else ("end",)
        )
        self.send(occasions, _ended(self._about(event), event.data))

    def _about(self, event: Event) -> Message:
        """The fields that all messages have."""
        started = self._started.data if self._started else {}
        return {
            "version": 1,
            "run": event.run,
            "plan": _short(started.get("plan")),
            "title": _short(started.get("title")),
            "time": round(event.time, 3),
            "host": socket.gethostname(),
            "record": str(self._record.path.absolute()) if self._record else None,
        }

    def send(self, occasions: Sequence[Occasion], message: Message) -> None:
        """Send a message to each entry of the settings that wants one of the occasions."""
        for sender in self._senders:
            wanted = [each for each in occasions if each in sender.wanted.on]
            if wanted:
                sender.put({"event": wanted[0], **message})

    def faults(self) -> list[str]:
        """New reasons why a notification could not be sent, for warnings of the run."""
        return self._faults.take()

    def release(self) -> None:
        """The run is over, and no longer locked: reasons now go into its record directly."""
        self.close()
        if self._record and self._started:
            self._faults.keep_in(self._record, self._started.run)
        self._is_released = True

    @property
    def is_done(self) -> bool:
        """Whether the run is over, all is sent, and `finish` would have nothing to say."""
        idle = not any(sender.is_active for sender in self._senders)
        return self._is_released and idle and not self._faults.has_unsaid

    def close(self) -> None:
        """Let the threads end after the messages that they have."""
        for sender in self._senders:
            sender.close()

    def finish(self, until: float) -> list[str]:
        """As `Notifications.finish`, until a time of the monotonic clock."""
        for sender in self._senders:
            sender.join(until - time.monotonic())
        return self._faults.unsaid()

    def abandon(self) -> None:
        """Send nothing more, such as after Ctrl-C."""
        for sender in self._senders:
            sender.abandon()


def _key(question: Mapping[str, Any]) -> str:
    return str(question.get("id") or to_json(question, default=str))


class _Faults:
    """The reasons why notifications could not be sent, from several threads.

    Args:
        mask: Masks the secrets in a text.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self._lock = threading.Lock()
        self._new: list[str] = []
        self._unsaid: list[str] = []
        self._place: tuple[RunRecord, str] | None = None

    def add(self, words: str) -> None:
        words = self.mask(words)
        with self._lock:
            self._new.append(words)
            self._unsaid.append(words)
            self._write_down()

    def take(self) -> list[str]:
        """Reasons that the caller records."""
        with self._lock:
            found, self._new, self._unsaid = self._new, [], []
        return found

    @property
    def has_unsaid(self) -> bool:
        return bool(self._unsaid)

    def unsaid(self) -> list[str]:
        with self._lock:
            found, self._unsaid = self._unsaid, []
        return found

    def keep_in(self, record: RunRecord, run: str) -> None:
        """Append reasons to the record of a run that is over from now on."""
        with self._lock:
            self._place = record, run
            self._write_down()

    def _write_down(self) -> None:
        if self._place is None or not self._new:
            return
        record, run = self._place
        # If another process has the run by now, the record is that process's.
        with contextlib.suppress(FractaleError, OSError), RunLock(record):
            log = EventLog(record.events)
            try:
                for words in self._new:
                    log(Event("warning", run, {"step": "", "code": "notify", "message": words}))
            finally:
                log.close()
        self._new = []


# -- messages -------------------------------------------------------------------------------------


def _ended(about: Message, data: Mapping[str, Any]) -> Message:
    head = verdict_head(data).text
    next_ = [escape(str(each), 2000) for each in data.get("next") or ()]
    text = f"{about['plan']} (run {about['run']}): {head}"
    return {
        **about,
        "text": chat_text(text, next_, f"fractale show {about['run']}"),
        "status": data.get("status"),
        "verdict": head,
        "next": next_,
        "error": _short(data.get("error")),
        "decided": _short(data.get("decided")),
        "outputs": _short(data.get("outputs")),
        "usage": data.get("usage"),
    }


def _asked(about: Message, question: Mapping[str, Any]) -> Message:
    """The message of a question that waits for an answer."""
    step = escape(str(question.get("step") or "?"), 200)
    run = about["run"]
    commands = answer_commands(run, question) or [resume_command(run)]
    any_answer = f"fractale answer {run} {shlex.quote(f'{step}=ANSWER')}"
    shown = {
        "id": question.get("id"),
        "step": step,
        "kind": question.get("kind"),
        "text": _asks(question),
        "arguments": _short(question.get("arguments")),
        "answer_with": _short(expected(question)),
        "command": escape(commands[0] if len(commands) == 1 else any_answer, 2000),
        "answer": [escape(each, 2000) for each in commands[:MOST_ANSWERS]],
    }
    return {**_questions(about, [shown], 1), **about}


def _questions(about: Message, shown: list[Message], total: int) -> Message:
    """The fields of a message about questions.

    Args:
        shown: Those that the message has.
        total: How many there are.
    """
    first = shown[0]
    more = f", and {count(total - 1, 'more question')}" if total > 1 else ""
    text = f"{about['plan']} (run {about['run']}): `{first['step']}` {first['text']}{more}"
    answers: list[str] = first["answer"] if total == 1 else []
    return {
        "text": chat_text(text, answers, f"fractale show {about['run']}"),
        "status": "waiting",
        "questions": shown,
        "count": total,
        "next": first["answer"] if total == 1 else [each["command"] for each in shown],
    }


def _merged(message: Message, more: Message) -> Message:
    """Two messages of questions as one."""
    shown = [*message["questions"], *more["questions"]][:MOST_ENTRIES]
    return {**message, **_questions(message, shown, message["count"] + more["count"])}


def _asks(question: Mapping[str, Any]) -> str:
    """A question in one line, after the name of its step."""
    kind = str(question.get("kind") or "")
    if kind == "approval":
        return f"asks to call {escape(str(tool_of(question)), 100)}"
    if kind == "review":
        return f"has drafted a plan (draft {question.get('round')})"
    if kind == "failure":
        return f"failed: {escape(str(question.get('error') or ''), 300)}"
    text = question.get("text") or question.get("message") or question.get("reason") or kind
    return f"asks: {escape(str(text), 300)}"


def chat_text(text: str, commands: Sequence[str], otherwise: str) -> str:
    """A text for people, in which nothing that a tool or model said is markup of a chat.

    Args:
        otherwise: The command that is shown if none of `commands` can be.
    """
    shown = [each for each in commands[:2] if not (set(each) & set("<>@") or "](" in each)]
    lines = [escape(text, 1000).translate(MARKUP).replace("](", "] (")]
    lines += [f"next: {escape(each, 400)}" for each in shown or [otherwise]]
    return "\n".join(lines)


def _short(value: Any, depth: int = 4) -> Any:
    """A value whose texts, lists and mappings are bounded."""
    if isinstance(value, str):
        return escape(value, LONG_TEXT, lines=True)
    if isinstance(value, Mapping):
        pairs = list(value.items())[:MOST_ENTRIES] if depth else []  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - JSON
        return {escape(str(k), 100): _short(each, depth - 1) for k, each in pairs}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - JSON
    if isinstance(value, list):
        items = value[:MOST_ENTRIES] if depth else []  # pyright: ignore[reportUnknownVariableType] - JSON
        return [_short(each, depth - 1) for each in items]  # pyright: ignore[reportUnknownVariableType] - JSON
    return value


def encoded(message: Message) -> bytes:
    """A message as JSON of at most `MOST_BYTES`."""
    data = to_json(message, default=str).encode()
    if len(data) <= MOST_BYTES:
        return data
    long = ("outputs", "decided", "questions")
    small = {name: value for name, value in message.items() if name not in long}
    return to_json({**small, "next": message["next"][:1], "shortened": True}).encode()


# -- sending --------------------------------------------------------------------------------------


class _NotSent(Exception):
    """An attempt failed.

    Args:
        again: Whether the next attempt may succeed.
    """

    def __init__(self, words: str, *, again: bool = True) -> None:
        super().__init__(words)
        self.again = again


class _Sender:
    """Sends the messages of one entry of the settings, one after the other."""

    def __init__(
        self,
        wanted: Notify,
        environment: Mapping[str, str],
        faults: _Faults,
        pauses: tuple[float, float],
    ) -> None:
        self.wanted = wanted
        self._pauses = pauses
        self._environment = environment
        self._faults = faults
        self._queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def put(self, message: Message) -> None:
        """Send a message; returns at once."""
        self._queue.put(message)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="notify", daemon=True)
            _ACTIVE.add(self)
            self._thread.start()

    @property
    def is_active(self) -> bool:
        """Whether the thread still sends, or may do so."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Let the thread end after the messages that it has."""
        self._queue.put(None)

    def abandon(self) -> None:
        """Let the thread end without sending more."""
        _ACTIVE.discard(self)
        self._over.set()
        self.close()

    def join(self, seconds: float) -> None:
        """Wait for the thread's end. After this time it must not send anything more."""
        if self._thread is None:
            return
        try:
            self._thread.join(max(seconds, 0.0))
        finally:
            if self._thread.is_alive():
                self.abandon()
                self._faults.add(f"{self._named} was not sent: it took too long")

    @property
    def _named(self) -> str:
        return f"notification by {self.wanted.address}"

    def _work(self) -> None:
        try:
            self._send_all()
        finally:
            _ACTIVE.discard(self)

    def _send_all(self) -> None:
        last: Message | None = None
        while (message := last or self._queue.get()) is not None:
            last = None
            if "questions" in message:
                message, last, closed = self._gathered(message)
                if closed:
                    self._queue.put(None)
            if self._over.is_set():
                return
            try:
                self._deliver(message)
            except _NotSent as error:
                if not self._over.is_set():
                    self._faults.add(f"{self._named} was not sent: {error}")
            except Exception as error:  # noqa: BLE001 - no notification may end a run
                self._faults.add(f"{self._named} was not sent: {type(error).__name__}: {error}")

    def _gathered(self, message: Message) -> tuple[Message, Message | None, bool]:
        """Questions that are asked together as one message, and the next other message."""
        until = time.monotonic() + GATHERING
        while True:
            try:
                more = self._queue.get(timeout=max(until - time.monotonic(), 0.0))
            except queue.Empty:
                return message, None, False
            if more is None:
                return message, None, True
            if "questions" not in more:
                return message, more, False
            message = _merged(message, more)

    def _deliver(self, message: Message) -> None:
        if self.wanted.unset:
            names = ", ".join(f"`{name}`" for name in self.wanted.unset)
            raise _NotSent(f"the environment variable {names} is not set", again=False)
        send = self._post if self.wanted.webhook else self._start
        for number in range(1, TRIES + 1):
            try:
                return send(message)
            except _NotSent as error:
                if not error.again:
                    raise
                if number == TRIES:
                    raise _NotSent(f"{error}; failed {TRIES} of {TRIES} attempts") from error
            if self._over.wait(self._pauses[number - 1]):
                raise _NotSent("the process ends")
        return None

    def _start(self, message: Message) -> None:
        """Run the command, with the message on stdin."""
        seconds = self.wanted.timeout
        environment = {**self._environment, **self.wanted.env, **_variables(message)}
        # Files, not pipes: a program that reads nothing, or leaves a child, blocks no thread.
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            given.write(encoded(message))
            given.seek(0)
            try:
                process = subprocess.Popen(  # noqa: S603 - the user's settings name it
                    self.wanted.command,
                    stdin=given,
                    stdout=said,
                    stderr=said,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise _NotSent(f"it cannot be started: {error.strerror}", again=False) from error
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired as error:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise _NotSent(f"it did not end within {seconds:g} s") from error
            if code:
                said.seek(0)
                words = self._words(said.read(MOST_OUTPUT).decode(errors="replace"))
                raise _NotSent(f"exit code {code}{f': {words}' if words else ''}")

    def _post(self, message: Message) -> None:
        """Post the message, in a thread: a server that answers slowly cannot be interrupted."""
        ended = threading.Event()
        found: list[Exception | int] = []

        def post() -> None:
            try:
                found.append(self._status(encoded(message)))
            except Exception as error:  # noqa: BLE001 - raised below
                found.append(error)
            ended.set()

        threading.Thread(target=post, name="notify", daemon=True).start()
        if not ended.wait(self.wanted.timeout):
            raise _NotSent(f"no answer within {self.wanted.timeout:g} s")
        (answer,) = found
        if isinstance(answer, Exception):
            raise _NotSent(self._words(str(answer)) or type(answer).__name__) from answer
        if 300 <= answer < 400:
            words = f"HTTP {answer}: redirects are not followed; name the new address"
            raise _NotSent(words, again=False)
        if answer >= 400:
            raise _NotSent(f"HTTP {answer}", again=answer >= 500 or answer in AGAIN)

    def _words(self, text: str) -> str:
        """The beginning of an error. Its secrets are masked before it is cut within one."""
        return escape(self._faults.mask(text), 200)

    def _status(self, data: bytes) -> int:
        """Post data; returns the code of the answer, whose body is not read."""
        import ssl

        import httpx

        wanted = self.wanted
        url = httpx.URL(wanted.webhook or "")
        verify: Any = ssl.create_default_context(cafile=wanted.ca_file) if wanted.ca_file else True
        headers = {"content-type": "application/json", "user-agent": "fractale", **wanted.headers}
        with (
            httpx.Client(
                timeout=wanted.timeout,
                verify=verify,
                follow_redirects=False,
                trust_env=url.host not in ("localhost", "127.0.0.1", "::1"),
            ) as client,
            client.stream("POST", url, content=data, headers=headers) as answer,
        ):
            return answer.status_code


_ACTIVE: set[_Sender] = set()
"""Those whose thread still has messages, or may get some."""


@atexit.register
def _finish_all() -> None:
    """Wait, when Python exits, for messages that no caller waited for."""
    until = time.monotonic() + MOST_SECONDS
    for sender in list(_ACTIVE):
        sender.close()
    for sender in list(_ACTIVE):
        sender.join(until - time.monotonic())


def _variables(message: Message) -> dict[str, str]:
    """The variables that a command gets, for commands that do not read JSON."""
    found = {
        "FRACTALE_RUN": message["run"],
        "FRACTALE_RUN_EVENT": message["event"],
        "FRACTALE_RUN_PLAN": message["plan"],
        "FRACTALE_RUN_STATUS": message["status"],
        "FRACTALE_RUN_TEXT": message["text"],
        "FRACTALE_RUN_RECORD": message["record"],
    }
    return {name: str(value).replace("\0", "") for name, value in found.items() if value}
