"""A strategy of one source: rank, filter, choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from tqdm import tqdm

from contrastive.negatives.contracts import CandidateSource, ChosenNegatives, Moment
from contrastive.negatives.filters import Filters
from contrastive.negatives.pool import Pool
from contrastive.negatives.selection import Duplicates, Sampling, Selection


class Mined:
    """Chooses negatives among the candidates of a source.

    Args:
        source: Ranks the documents: `Random`, `BM25`, `Dense` or `CrossEncoder`.
        count: Negatives a pair, fewer where fewer remain.
        filters: What is asked of them.
        sampling: `top`, `uniform` or `softmax`, see `Selection`.
        temperature: Of `softmax`, in the units of the source's scores.
        seed: Of what is drawn by chance.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> from contrastive.negatives import BM25, Pair, Pool
        >>> documents = {"a": "nurse at night", "b": "head nurse", "c": "chef"}
        >>> pool = Pool(documents, [Pair("q", "nurse", "a")])
        >>> Mined(BM25())(pool)[0].ids
        ('b',)
    """

    def __init__(
        self,
        source: CandidateSource,
        *,
        count: int = 4,
        filters: Filters | None = None,
        sampling: Sampling = "top",
        temperature: float = 0.05,
        seed: int = 0,
    ) -> None:
        self.source = source
        self.selection = Selection(count, filters or Filters(), sampling, temperature, seed)

    def __call__(self, pool: Pool, moment: Moment = Moment()) -> list[ChosenNegatives]:  # noqa: B008
        """Return the negatives of each pair; see `contracts.NegativeStrategy`."""
        return mine(pool, self.source, self.selection, moment)

    def describe(self, moment: Moment) -> Mapping[str, object]:
        """Return, as plain values, all that decides which negatives of given texts are chosen."""
        return {"source": self.source.describe(moment), "selection": asdict(self.selection), "refresh": moment.refresh}


def mine(pool: Pool, source: CandidateSource, selection: Selection, moment: Moment) -> list[ChosenNegatives]:
    """Return the negatives of each pair of a pool that a selection leaves of a source's candidates."""
    duplicates = Duplicates(pool, selection.filters.near_duplicate)
    found: dict[int, ChosenNegatives] = {}
    depth = selection.filters.depth(pool, selection.count)
    bar = tqdm(
        total=len(pool.query_texts), desc=f"Mining {source.name}", unit=" queries", delay=2, leave=False, disable=None
    )
    with bar:
        for block in source(pool, depth, moment):
            found.update(selection(pool, block, source=source.name, refresh=moment.refresh, duplicates=duplicates))
            bar.update(block.rows.stop - block.rows.start)
    return [found[pair] for pair in range(len(pool))]
