"""The mailbox of a run: answers that another process gives to its open questions.

It is the directory ``answers`` of the run's record. The process that asks publishes its open
questions in ``asking.json``. The process that answers makes the file ``KEY.json``, which can be
made only once: so the first answer counts, and the others see whose it was. The process that asks
takes the answer, and makes that file itself for an answer that comes another way.

A key names one question, asked once: a step that asks the same again has another key. So an answer
that comes too late is never used for a later question.

Only the user can write there. A file that is a link, or of another owner, is not read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import socket
import stat
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

from fractale.errors import CHECK_SPACE, StoreError
from fractale.plain import to_json
from fractale.private import FILE_MODE, make_folder, user_name, write_private
from fractale.questions import identity
from fractale.store.locks import Holder
from fractale.store.run_record import RunRecord

ANSWERED_ELSEWHERE: Final = "answered in another process"
"""The message of the CancelledError in `Person.answer` if another process answered the question."""

VERSION: Final = 1
OWN: Final = "the run's own process"
"""The `via` of an answer that the process of the run got from its user."""
ASKING: Final = "asking.json"
LONGEST: Final = 16 * 2**20
"""The most bytes of a file in the mailbox: an answer can be a whole plan."""
MOST_ASKED: Final = 100
NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Error numbers of a file system without hard links."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that the process of a run asks.

    Args:
        question: Its fields, with secrets masked.
        at: Since when it is open, in Unix time.
    """

    question: dict[str, Any]
    at: float = field(default_factory=time.time)


def key_of(question: Mapping[str, Any], answered: int) -> str:
    """The key of a question.

    Args:
        question: With secrets masked, as events have it.
        answered: How many answers the run has had to the same question (`identity`).
    """
    text = f"{question.get('id') or ''}\n{identity(question)}\n{answered}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """An answer in the mailbox, or the note that a question was answered another way.

    Args:
        answer: Raw: as it was typed, or data. Of a note, None.
        has_answer: False for a note.
        via: Where it was given, such as ``fractale web``.
        user: The owner of the file.
        time: Unix time in seconds.
    """

    step: str
    via: str
    time: float
    answer: Any = None
    has_answer: bool = True
    user: str = ""
    version: int = VERSION

    @property
    def who(self) -> str:
        """Who answered where, and when: ``by anna in fractale web at 12:03:04``."""
        form = "%H:%M:%S" if time.time() - self.time < 12 * 3600 else "%Y-%m-%d %H:%M:%S"
        at = time.strftime(form, time.localtime(self.time))
        return f"by {self.user or 'the user'} in {self.via} at {at}"


class Mailbox:
    """The mailbox of one run."""

    def __init__(self, record: RunRecord) -> None:
        self._folder = record.answers
        self._published = False

    # -- the process that asks --------------------------------------------------------------------

    def clear(self) -> None:
        """Remove what a killed process left, except answers. Only the holder of the run may."""
        for name in self._names():
            mail = None if name == ASKING else self.read(name.removesuffix(".json"))
            if mail is None or not mail.has_answer:
                with contextlib.suppress(OSError):
                    (self._folder / name).unlink()

    def publish(self, questions: Mapping[str, Asked]) -> None:
        """Say which questions are asked now.

        Args:
            questions: By their keys, in the order in which they are asked; the first `MOST_ASKED`
                of them are published. Empty: none.
        """
        path = self._folder / ASKING
        # A file system without space must not end the run: the user at the terminal still answers.
        with contextlib.suppress(OSError):
            if questions:
                first = islice(questions.items(), MOST_ASKED)
                asked = [{"key": k, "question": one.question, "at": one.at} for k, one in first]
                me = {"pid": os.getpid(), "host": socket.gethostname()}
                make_folder(self._folder)
                self._published = True
                write_private(path, to_json({**me, "questions": asked}), sync="none")
            elif self._published:
                path.unlink(missing_ok=True)
                self._published = False

    def arrived(self) -> set[str]:
        """The keys of the questions that have a file."""
        return {name.removesuffix(".json") for name in self._names() if name != ASKING}

    def read(self, key: str) -> Mail | None:
        """The answer to a question; None if there is none, or the file is not the user's own."""
        found = self._read(f"{key}.json")
        if found is None:
            return None
        data, owner = found
        try:
            return Mail(
                step=str(data["step"]),
                via=str(data["via"]),
                time=float(data["time"]),
                answer=data.get("answer"),
                has_answer=bool(data["has_answer"]),
                user=user_name(owner),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def remove(self, key: str) -> None:
        """Remove the answer to a question, after it was taken or refused."""
        with contextlib.suppress(OSError):
            (self._folder / f"{key}.json").unlink(missing_ok=True)

    def drop_all(self, but: Collection[str]) -> list[Mail]:
        """Remove every answer; returns those that were the user's own.

        Args:
            but: Keys of answered questions. Another process is taking back a later answer to one.
        """
        dropped: list[Mail] = []
        for key in sorted(self.arrived() - {*but}):
            mail = self.read(key)
            self.remove(key)
            if mail and mail.has_answer:
                dropped.append(mail)
        return dropped

    # -- the process that answers -----------------------------------------------------------------

    def asking(self, holder: Holder) -> dict[str, Asked]:
        """The questions that the process of the run asks now."""
        data = self._asking()
        if (data.get("pid"), data.get("host")) != (holder.pid, holder.host):
            return {}
        return _questions_in(data)

    def asked_last(self) -> dict[str, Asked]:
        """The questions that a process asked when it was killed."""
        return _questions_in(self._asking())

    def put(self, key: str, mail: Mail) -> Mail | None:
        """Answer a question, once.

        Returns:
            The earlier answer; None if this one is the first.

        Raises:
            StoreError: The file cannot be made.
        """
        path = self._folder / f"{key}.json"
        data = to_json({**asdict(mail), "user": None}).encode()
        part = self._folder / f".{key}.{os.getpid()}.{secrets.token_hex(4)}.part"
        try:
            make_folder(self._folder)
            if fault := self._fault():
                raise StoreError(f"{self._folder} cannot be used: {fault}")
            self._make(part, data, sync=mail.has_answer)
            try:
                _link(part, path)  # complete, and never replacing an existing one
            finally:
                part.unlink(missing_ok=True)
        except FileExistsError:
            return self.read(key) or Mail(step=mail.step, via="another process", time=time.time())
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error}", hint=CHECK_SPACE) from error
        return None

    @staticmethod
    def _make(path: Path, data: bytes, *, sync: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, FILE_MODE), "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())

    # -- files -------------------------------------------------------------------------------------

    def _asking(self) -> dict[str, Any]:
        found = self._read(ASKING)
        return found[0] if found else {}

    def _names(self) -> set[str]:
        try:
            found = os.listdir(self._folder)  # noqa: PTH208 - four times a second
            return {name for name in found if name.endswith(".json")}
        except OSError:
            return set()

    def _fault(self) -> str:
        """Why the directory is not the user's own; empty if it is."""
        status = self._folder.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return "it is not a directory"
        if status.st_uid != os.geteuid():
            return f"it belongs to {user_name(status.st_uid)}"
        if status.st_mode & 0o022:
            return "other users may write to it"
        return ""

    def _read(self, name: str) -> tuple[dict[str, Any], int] | None:
        """The JSON object of a file, and its owner; None if it is missing or not the user's own."""
        try:
            if self._fault():
                return None
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with os.fdopen(os.open(self._folder / name, flags), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                    return None
                text = file.read(LONGEST + 1)
            data = json.loads(text) if len(text) <= LONGEST else None
        except (OSError, ValueError):
            return None
        return (cast("dict[str, Any]", data), status.st_uid) if isinstance(data, dict) else None


def _link(part: Path, path: Path) -> None:
    """Give a file a name that no other file has.

    Raises:
        FileExistsError: Another file has it.
        OSError: It cannot be done.
    """
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # Without hard links: the name first, then the content. A reader waits for the content.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
        part.replace(path)


def _questions_in(data: Mapping[str, Any]) -> dict[str, Asked]:
    found: dict[str, Asked] = {}
    for each in cast("list[dict[str, Any]]", data.get("questions") or []):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            question = dict(each["question"])
            found[str(each["key"])] = Asked(question, float(each["at"]))
    return found
