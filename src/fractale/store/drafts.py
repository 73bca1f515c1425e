"""The plans that the manager drafted in a run, as files for people and for ``freeze``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fractale.errors import StoreError
from fractale.private import make_folder, write_private
from fractale.store.lines import ROOM


class Drafts:
    """The accepted drafts of a run, one YAML file a planned step: ``drafts/outer/inner.yaml``.

    Args:
        folder: Made at the first draft.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, path: str, text: str) -> None:
        """Keep the draft of a step, replacing an earlier one.

        Args:
            path: The step's path in the run.
            text: The draft, YAML.

        Raises:
            StoreError: It cannot be written.
        """
        file = self._file(path)
        try:
            make_folder(file.parent)
            write_private(file, text, sync="none")
        except OSError as error:
            raise StoreError(f"the draft of `{path}` cannot be kept: {error}", hint=ROOM) from error

    def items(self) -> Iterator[tuple[str, str]]:
        """Every accepted draft: the path of its step, and the text."""
        for file in sorted(self._folder.rglob("*.yaml")):
            path = file.relative_to(self._folder).with_suffix("")
            yield path.as_posix(), file.read_text(encoding="utf-8")

    def _file(self, path: str) -> Path:
        return self._folder / f"{path}.yaml"
