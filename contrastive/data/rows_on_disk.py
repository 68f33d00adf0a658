"""Rows and training records that stay on disk, so that a file may be larger than memory."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from contrastive.data.columns import Row
from contrastive.data.identities import Numbers
from contrastive.data.records import Record


class RowsOnDisk:
    """Rows in a temporary file that is deleted with this object, at the latest at the end of the process.

    The file is about as large as what it was made from. It is in the folder for temporary files, which the environment
    variable TMPDIR moves. A copy of this object in another process reads the same file and does not delete it.

    Args:
        rows: The rows, which are taken one at a time.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        folder = Path(tempfile.mkdtemp(prefix="contrastive-"))
        weakref.finalize(self, _remove, folder, os.getpid())
        self._file = folder / "rows.pickle"
        ends = array("q", [0])
        with self._file.open("wb") as file:
            for row in rows:
                ends.append(ends[-1] + file.write(pickle.dumps(tuple(row))))
        self._ends: Numbers = np.array(ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def read(self, numbers: Iterable[int]) -> Iterator[Row]:
        """Read rows by number, in the order of the numbers."""
        # The file is opened anew each time, since worker processes must not share a place in it.
        with self._file.open("rb") as file:
            for number in numbers:
                start, end = self._ends[number : number + 2].tolist()
                file.seek(start)
                yield Row(*pickle.loads(file.read(end - start)))


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker inherits the object
        shutil.rmtree(folder, ignore_errors=True)


class RecordsOnDisk(Sequence[Record]):
    """Records made of stored rows when they are asked for, one for each positive of a row.

    Args:
        rows: The rows.
        numbers: Number of the row of each record, [N].
        places: Which of the row's positives each record has, [N].
        further: Ids of positives of a query, by row number, beyond those that the records show.
        scored: Whether the records keep the scores of the rows, instead of grades.
    """

    def __init__(
        self,
        rows: RowsOnDisk,
        numbers: Numbers,
        places: NDArray[np.int32],
        *,
        further: Mapping[int, Sequence[str]] | None = None,
        scored: bool = False,
    ) -> None:
        self._rows = rows
        self._numbers = numbers
        self._places = places
        self._further = further or {}
        self._scored = scored

    @property
    def row_numbers(self) -> Numbers:
        """Number of the row of each record, [N]."""
        return self._numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return list(self._read(range(*index.indices(len(self)))))
        return next(self._read([range(len(self))[index]]))

    def __iter__(self) -> Iterator[Record]:
        return self._read(range(len(self)))

    def _read(self, indices: Sequence[int]) -> Iterator[Record]:
        numbers = (int(self._numbers[index]) for index in indices)
        for index, row in zip(indices, self._rows.read(numbers), strict=True):
            place = self._places[index]
            known = (*row.positive_ids, *self._further.get(int(self._numbers[index]), ()))
            yield Record(
                query=row.query,
                positive=row.positives[place],
                negatives=tuple(row.negatives),
                query_id=row.query_id,
                positive_id=row.positive_ids[place],
                negative_ids=tuple(row.negative_ids),
                grades={} if self._scored else dict.fromkeys(known, 1),
                score=row.score if self._scored else None,
            )
