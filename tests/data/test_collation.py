"""A text is never its own negative, and neither is what is known to answer it, from whichever side it is looked at."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contrastive.data import Batch, Collator, Record
from contrastive.data.batch import EmbeddedBatch, loss_arguments, recall
from contrastive.losses import NTXentLoss, SupConLoss, TripletLoss
from contrastive.masks import dense
from contrastive.training.memory import CrossBatchQueue

CPU = torch.device("cpu")
MENDED = (Record("the kettle leaks", "water drips from my kettle"), Record("Water drips from my  kettle", "a seal"))
OTHER = Record("lost my keys", "call a locksmith", ("the kettle leaks",))


def arguments(batch: Batch, loss: torch.nn.Module, width: int = 4) -> tuple[EmbeddedBatch, dict[str, object]]:
    """Made-up embeddings of a batch, and what the loss is told of them."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(count, width, generator=generator) for count in (len(batch), len(batch.documents)))
    whole = batch.embedded(queries, keys)
    return whole, loss_arguments(loss, whole)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("bcdefgh"), st.booleans()), min_size=1, max_size=8),
    st.integers(1, 8),
)
def test_masks_of_all_directions_are_those_of_sets_of_texts(drawn: list[tuple[str, str, bool]], size: int) -> None:
    records = [Record(f"text {query}", f"Text {key}", ("text x",) * hard) for query, key, hard in drawn]
    never: dict[str, set[str]] = {}
    for query, key, _ in drawn:
        never.setdefault(query, {query}).add(key)
    batch = Collator(records)(records[:size])
    asked, shown = ([text[-1] for text in texts] for texts in (batch.queries, batch.documents))
    _, given_ = arguments(batch, NTXentLoss())
    count, found = len(asked), {}
    for way, width in (("query_to_key", len(shown)), ("query_to_query", count), ("key_to_query", count)):
        found[way] = masked(given_, way, count, width)
    found["key_to_key"] = masked(given_, "key_to_key", count, len(shown))
    heads = shown[:count]
    for i, query in enumerate(asked):
        for j, key in enumerate(shown):
            assert found["query_to_key"][i, j] == (key in never[query])
            assert found["key_to_key"][i, j] == (key in never[query] | never.get(heads[i], set()))
        for j, other in enumerate(asked):
            alike = other in never[query] or query in never[other]
            known = heads[j] in never[query] or heads[i] in never[other]
            assert found["query_to_query"][i, j] == (alike or known)
            met = heads[i] in never[other] or other in never[query] | never.get(heads[i], set())
            assert found["key_to_query"][i, j] == met


def masked(arguments: dict[str, object], way: str, num_rows: int, num_cols: int) -> Tensor:
    """Everything that is left out in a direction, as the losses put it together."""
    exclude, same_texts = arguments["exclude"], arguments.get("same_texts", {})
    mask = {"key_to_query": exclude.T, "query_to_query": exclude | exclude.T}.get(way, exclude)
    return dense(mask | same_texts[way] if way in same_texts else mask, num_rows, num_cols, CPU)


def test_data_whose_queries_are_no_documents_has_no_masks_more() -> None:
    records = [Record("a", "x"), Record("b", "y")]
    batch = Collator(records)(records)
    assert batch.own_ids is None
    assert batch.onward_ids is None
    assert arguments(batch, NTXentLoss())[1].keys() == {"owners", "exclude"}


def test_a_batch_without_such_a_query_says_so_in_tensors_that_can_be_gathered() -> None:
    batch = Collator([*MENDED, OTHER])([OTHER])
    assert batch.own_ids.tolist() == [-1]
    assert batch.onward_ids.tolist() == [[-1]]


def test_a_query_s_own_text_is_left_out_and_never_merged() -> None:
    batch = Collator([*MENDED, OTHER])([*MENDED, OTHER])
    whole, given_ = arguments(batch, SupConLoss())
    own = torch.tensor([[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert dense(given_["exclude"], 3, 4, CPU).equal(own | torch.eye(3, 4, dtype=torch.bool))
    left_out = SupConLoss(merge_excluded=False)(whole.queries, whole.keys, exclude=own)
    assert SupConLoss()(whole.queries, whole.keys, **given_) == left_out
    assert SupConLoss()(whole.queries, whole.keys, exclude=given_["exclude"]) != left_out


def test_a_queued_key_with_the_query_s_text_is_no_negative() -> None:
    batch = Collator([*MENDED, OTHER])(MENDED)
    queue = CrossBatchQueue(size=4, dimension=4)
    own = batch.own_ids[1]
    queue.push(torch.ones(2, 4), torch.tensor([int(own), -1]))
    whole, _ = arguments(batch, TripletLoss())
    whole = recall(whole, queue)
    exclude = dense(loss_arguments(TripletLoss(), whole)["exclude"], 2, 4, CPU)
    assert exclude[:, 2:].tolist() == [[True, False], [True, False]]  # to the first it is the positive


def test_a_given_negative_that_is_the_query_is_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    asked = Record("LOST my keys", "a spare key", ("lost my keys", "a cat", "call a locksmith"))
    view = Record("echo", "Echo", ("ECHO",))  # counted once, though it is a known answer as well
    with caplog.at_level(logging.WARNING):
        collate = Collator([asked, OTHER, view])
    assert collate([asked]).documents == ["a spare key", "a cat"]
    assert collate.left_out == {"its query's own text": 2, "a known answer to its query": 1}
    told = "Of 5 negatives in the data, left out: 2 that are its query's own text, 1 that are a known answer"
    assert told in caplog.text


def test_rows_of_which_one_asks_what_the_other_answers_are_kept_apart() -> None:
    shared = Collator([*MENDED, OTHER]).identities([*MENDED, OTHER])
    assert set(shared[0]) & set(shared[1])
    assert not (set(shared[0]) | set(shared[1])) & set(shared[2])
    long = "please tell me how I can stop the water that drips from my kettle since this morning"
    near = [Record(long, "a seal"), Record("leaks", long + " again"), Record(long + " again now", "a pipe")]
    assert not set.intersection(*map(set, Collator(near).identities(near)[:2]))
    found = [set(own) for own in Collator(near).identities(near, near=True)]
    assert found[0] & found[1]
    assert found[1] & found[2]
    alone = [near[0], near[2]]  # like one another as queries, of which no document is like either
    assert not set.intersection(*map(set, Collator(alone).identities(alone, near=True)))
