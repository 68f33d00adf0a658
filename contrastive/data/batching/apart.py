"""Batches in which no two rows have anything in common that they should not.

A shuffled order is cut into batches from the front; a row that may not join the first batch with room joins the next.
What is left at the end, a few rows that met their like in the last batches, changes places with rows of others, so that
there are no more batches than there have to be.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence

_Own = Callable[[int], set[object]]
_Batch = tuple[list[int], set[object]]


def apart(
    order: Sequence[int], batch_size: int, identities: Sequence[Collection[object]] | None = None
) -> list[list[int]]:
    """Cut rows into batches none of which holds a row, or an identity, twice.

    Without conflicts these are the runs of `batch_size` rows of the order. An identity that more rows have than there
    would be batches makes further, short ones; shorter batches come last.

    Args:
        order: Row numbers; a number may come several times.
        batch_size: Rows in a batch.
        identities: By row number, what no other row of its batch may have; None for nothing but the row itself.

    Example:
        >>> apart([0, 1, 2, 3, 4, 5], 2, identities=["a", "b", "c", "c", "d", "e"])
        [[0, 1], [2, 4], [3, 5]]
        >>> apart([0, 1, 2, 3], 2, identities=["a", "a", "a", "b"])
        [[0, 3], [2], [1]]
    """

    def own(row: int) -> set[object]:
        return {("row", row), *(identities[row] if identities is not None else ())}

    cut = _cut(order, batch_size, own)
    fewest = -(-len(order) // batch_size)
    if len(cut) == fewest:
        return sorted(cut, key=len, reverse=True)
    batches = [(rows, {identity for row in rows for identity in own(row)}) for rows in cut]
    while len(batches) > fewest:
        rows, taken = batches.pop(min(range(len(batches)), key=lambda place: len(batches[place][0])))
        while rows and _placed(rows[-1], batches, batch_size, own):
            taken -= own(rows.pop())
        if rows:  # this one cannot be spared
            batches.append((rows, taken))
            break
    return sorted((rows for rows, _ in batches), key=len, reverse=True)


def _cut(order: Sequence[int], batch_size: int, own: _Own) -> list[list[int]]:
    """Put each row into the first batch with room that is behind all those with something of its own."""
    batches: list[list[int]] = []
    with_room: list[int] = []  # their places, ascending
    behind: dict[object, int] = {}
    for row in order:
        mine = own(row)
        place = bisect_left(with_room, max(behind.get(identity, 0) for identity in mine))
        if place == len(with_room):
            with_room.append(len(batches))
            batches.append([])
        batch = with_room[place]
        batches[batch].append(row)
        behind.update(dict.fromkeys(mine, batch + 1))
        if len(batches[batch]) == batch_size:
            del with_room[place]
    return batches


def _placed(row: int, batches: Sequence[_Batch], batch_size: int, own: _Own) -> bool:
    """Put a row into a batch with room, or in place of another row that can go into one; say whether that was done."""
    mine = own(row)
    fitting = [batch for batch in batches if batch[1].isdisjoint(mine)]
    for rows, taken in fitting:
        if len(rows) < batch_size:
            rows.append(row)
            taken |= mine
            return True
    for room, taken_there in (batch for batch in batches if len(batch[0]) < batch_size):
        for rows, taken in fitting:
            for place, other in enumerate(rows):
                others = own(other)
                if taken_there.isdisjoint(others):
                    room.append(other)
                    taken_there |= others
                    rows[place] = row
                    taken -= others
                    taken |= mine
                    return True
    return False
