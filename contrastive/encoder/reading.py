"""From texts to batches of token ids: which windows of a text are read, and which others they meet.

A window is a text, cut; or what of a long document the model can read at once. A document that is read whole has as
many as it needs, each with special tokens of its own, so that nothing of it is lost; its prompt is in the first. A step
of training may do with fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from contrastive.encoder.in_order import Window
from contrastive.encoder.micro_batches import micro_batches, token_counts
from contrastive.encoder.tokens import Row, cached_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TrainingWindows = Literal["first", "random", "all"]

_TEXTS_PER_TOKENIZATION = 4096
"""Texts whose token ids are held at a time: a few MB, and enough for even micro-batches."""


class Text(NamedTuple):
    """A text with its prompt; `is_query` only where the sides are embedded differently.

    `parts` are what is embedded beside it, each as a window of its own: those of a query, with their prompts.
    """

    words: str
    is_query: bool
    parts: tuple[str, ...] = ()


class MicroBatch(NamedTuple):
    """What goes through the model at once.

    Attributes:
        windows: Which windows are in it.
        rows: Their token ids.
        is_query: Which of them are of queries.
        is_last: Whether it is the last of its texts.
    """

    windows: list[Window]
    rows: list[Row]
    is_query: list[bool]
    is_last: bool


class Reading(NamedTuple):
    """How texts become token ids.

    Attributes:
        tokenizer: What makes them.
        further: Inputs of the model besides the ids.
        query_length: Tokens that a query is cut to.
        document_length: Tokens of a window of a document.
        windows: Which windows of a document are read: the "first", a "random" one, or "all".
        of_a_pass: What a pass through the model costs, in tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    further: Sequence[str]
    query_length: int
    document_length: int
    windows: TrainingWindows
    of_a_pass: int

    def rows(self, texts: Sequence[Text]) -> list[list[Row]]:
        """Return the token ids of each text, one row or, of a long document that is read whole, several."""
        found: dict[int, list[Row]] = {number: [] for number in range(len(texts))}
        for is_query in {text.is_query for text in texts}:
            of_side = [number for number, text in enumerate(texts) if text.is_query == is_query]
            pieces = [(number, words) for number in of_side for words in (texts[number].words, *texts[number].parts)]
            windows = cached_windows(
                self.tokenizer,
                [words for _, words in pieces],
                max_length=self.query_length if is_query else self.document_length,
                further=self.further,
                whole=self.windows != "first" and not is_query,
            )
            if self.windows == "random":
                windows = [[rows[int(torch.randint(len(rows), ()))]] for rows in windows]
            for (number, _), rows in zip(pieces, windows, strict=True):
                found[number] += rows
        return [*found.values()]

    def batches(self, texts: Sequence[Text], budget: int | None, *, padding: bool) -> Iterator[MicroBatch]:
        """Yield micro-batches, see `micro_batches`.

        Longest first: running out of memory shows at once. Characters are a good guess at tokens, so that texts which
        are tokenised together are of similar length; among them the order is by tokens.
        """
        order = list(range(len(texts)))
        if len(texts) > _TEXTS_PER_TOKENIZATION:
            order.sort(key=lambda number: len(texts[number].words), reverse=True)
        for start in range(0, len(order), _TEXTS_PER_TOKENIZATION):
            chunk = order[start : start + _TEXTS_PER_TOKENIZATION]
            windows = self.rows([texts[number] for number in chunk])
            places = [(chunk[place], number) for place, rows in enumerate(windows) for number in range(len(rows))]
            rows = [row for of_text in windows for row in of_text]
            batches = micro_batches(token_counts(rows), budget, padding=padding, of_a_pass=self.of_a_pass)
            for number, batch in enumerate(batches, start=1):
                here = [places[place] for place in batch]
                is_query = [texts[text].is_query for text, _ in here]
                is_last = number == len(batches) and chunk[-1] == order[-1]
                yield MicroBatch(here, [rows[place] for place in batch], is_query, is_last)
