"""Arrays whose indices a scheduler cannot write: it counts positions, and a file has the indices.

PBS has one range per array, LSF no index 0 and no long lists. Their array is then ``1-N``, and line
N of the file `INDICES` in the job's folder is the index of the element at position N.
"""

from __future__ import annotations

from typing import Final

from fractale.schedulers.folder import JobFolder
from fractale.schedulers.request import Array

INDICES: Final = "indices"


def write_positions(folder: JobFolder, array: Array) -> int:
    """Write which index is at which position.

    Returns:
        How many positions there are.

    Raises:
        StoreError: The file cannot be written.
    """
    indices = array.indices
    folder.write(INDICES, "".join(f"{index}\n" for index in indices))
    return len(indices)


def index_word(variable: str) -> str:
    """What the shell puts for the index of an element, given the variable of its position.

    It sets the variable to the index, too, so that a script that reads it gets what it asked for.
    """
    return f'"$(sed -n "${{{variable}}}p" {INDICES})"; {variable}=$FRACTALE_INDEX'


class Positions:
    """What a scheduler calls the elements of a job's array."""

    def __init__(self, folder: JobFolder) -> None:
        lines = folder.text(INDICES, 2**20).split()
        self._indices = [int(line) for line in lines]
        self._positions = {index: at for at, index in enumerate(self._indices, 1)}

    def index(self, position: int) -> int:
        """The index of the element that the scheduler calls so."""
        if not self._indices:
            return position
        return self._indices[position - 1] if 0 < position <= len(self._indices) else -1

    def position(self, index: int) -> int:
        """What the scheduler calls the element of that index."""
        return self._positions.get(index, index)
