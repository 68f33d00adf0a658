"""The one rule that breaks ties in a ranking, whoever ranks.

Scores are rounded to 1e-6, of unbounded ones as a share (see `retrieve`), and equal ones ordered by document id,
ascending. Otherwise the last bits of a sum, hence the batch size and the order of the corpus, would decide which
document stands first and with it the metric.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_STEPS = 1_000_000  # scores that differ by less than about 1 / _STEPS are ties
_NOTHING = torch.iinfo(torch.int64).min


def in_steps(scores: Tensor) -> Tensor:
    """Return scores in whole steps of 1e-6, float64: those that are equal are ties."""
    return (scores.double() * _STEPS).round()


def best_first(scores: Tensor, places: Tensor) -> Tensor:
    """Return the order [R, n] of each row of scores [R, n], the best first and ties by their places [R, n]; NaN last.

    Example:
        >>> best_first(torch.tensor([[0.2, 0.3, 0.3000001]]), torch.tensor([[8, 5, 7]]))
        tensor([[1, 2, 0]])
    """
    by_place = places.argsort(dim=1)
    steps = in_steps(scores.gather(1, by_place))
    return by_place.gather(1, (-steps).argsort(dim=1, stable=True))


class TieBreaker:
    """Packs score and document into one integer, higher is better, whose order is that of the ranking.

    The integers of a query are all different, so the best of them are the same however they are found: in blocks, in
    any order of the documents, on any device.

    Args:
        document_ids: The ids of the N documents, which give each its place in their ascending order.

    Raises:
        ValueError: If an id occurs twice.
    """

    nothing = _NOTHING
    """The integer of a document that is not to be ranked."""

    def __init__(self, document_ids: Sequence[str]) -> None:
        self._ordered = sorted(document_ids)
        if len(set(document_ids)) != len(document_ids):
            twice = next(a for a, b in zip(self._ordered, self._ordered[1:], strict=False) if a == b)
            raise ValueError(f"expected document ids that differ, got {twice!r} twice")
        place = {document_id: index for index, document_id in enumerate(self._ordered)}
        self._bonus = torch.tensor([len(place) - 1 - place[document_id] for document_id in document_ids])

    def pack(self, scores: Tensor, columns: slice | Tensor = slice(None)) -> Tensor:
        """Map scores [..., n] of the documents in `columns`, places in a row or some of them, to integers [..., n].

        Raises:
            ValueError: If a score is not finite, or too large to be held to six decimals.
        """
        steps = in_steps(scores)
        # A comparison with NaN is false, so this refuses NaN too.
        if not bool((steps.abs() < 2**62 / max(1, len(self._ordered))).all()):
            raise ValueError("expected finite scores of moderate size, got NaN, infinity or a very large one")
        return steps.long() * len(self._ordered) + self._bonus[columns].to(scores.device)

    def unpack(self, packed: Tensor) -> tuple[list[str], list[float]]:
        """Return documents and scores of integers [n], best first as they are, without those of `nothing`."""
        kept = packed.cpu().numpy()  # a few numbers, for which numpy takes a quarter of the time
        steps, bonus = divmod(kept[kept != _NOTHING], len(self._ordered))
        places = len(self._ordered) - 1 - bonus
        return [self._ordered[place] for place in places.tolist()], (steps / _STEPS).tolist()
