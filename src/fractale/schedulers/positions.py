"""Arrays with indices that a scheduler cannot express: positions in place of indices.

PBS has one range per array. LSF has no index 0 and no long lists. Such an array becomes ``1-N``,
and line N of the file `INDICES` in the job's directory is the index of the element at position N.
"""

from __future__ import annotations

from typing import Final

from fractale.schedulers.folder import JobFolder
from fractale.schedulers.request import Array

INDICES: Final = "indices"


def write_positions(folder: JobFolder, array: Array) -> int:
    """Write the index at each position to the job's directory.

    Returns:
        The number of positions.

    Raises:
        StoreError: The file cannot be written.
    """
    indices = array.indices
    folder.write(INDICES, "".join(f"{index}\n" for index in indices))
    return len(indices)


def index_word(variable: str) -> str:
    """Write the shell expansion for an element's index, given the variable of its position.

    The expansion also sets the variable to the index, for scripts that read it.
    """
    return f'"$(sed -n "${{{variable}}}p" {INDICES})"; {variable}=$FRACTALE_INDEX'


class Positions:
    """The scheduler's numbers for the elements of a job's array."""

    def __init__(self, folder: JobFolder) -> None:
        lines = folder.text(INDICES, 2**20).split()
        self._indices = [int(line) for line in lines]
        self._positions = {index: at for at, index in enumerate(self._indices, 1)}

    def index(self, position: int) -> int:
        """Find the index of the element at a position."""
        if not self._indices:
            return position
        return self._indices[position - 1] if 0 < position <= len(self._indices) else -1

    def position(self, index: int) -> int:
        """Find the position of an element by its index."""
        return self._positions.get(index, index)
