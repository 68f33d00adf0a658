"""The sum of the largest products of tokens, by loops: of queries whose tokens weigh differently."""

from itertools import product

import pytest
import torch
from torch import Tensor

from contrastive import losses
from contrastive.similarity import TokenVectors, flipped, max_dot, max_sim, score_text_pairs, score_texts, unit


def texts(number: int, tokens: int, seed: int) -> Tensor:
    """Vectors of tokens, [number, tokens, 4] in float64, some of them absent."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(number, tokens, 4, generator=generator, dtype=torch.float64)
    return vectors * (torch.rand(number, tokens, 1, generator=generator) > 0.3)


def by_loops(queries: Tensor, keys: Tensor) -> Tensor:
    scores = []
    for query, key in product(queries, keys):
        asking, answering = ([token for token in text if token.any()] for text in (query, key))
        found = [torch.stack([one @ other for other in answering]).max() for one in asking if answering]
        scores.append(torch.stack(found).sum() if found else query.sum() * 0)
    return torch.stack(scores).view(len(queries), len(keys))


def test_value_and_gradient_are_those_of_loops() -> None:
    queries, keys = texts(4, 3, 0).requires_grad_(), texts(5, 6, 1).requires_grad_()
    for score, loops in ((max_dot, by_loops), (flipped(max_dot), lambda a, b: by_loops(b, a).T)):
        ours, expected = score(queries, keys), loops(queries, keys)
        torch.testing.assert_close(ours, expected)
        weights = torch.arange(20.0, dtype=torch.float64).view(4, 5).sin()
        for found, exact in zip(
            torch.autograd.grad((ours * weights).sum(), (queries, keys)),
            torch.autograd.grad((expected * weights).sum(), (queries, keys)),
            strict=True,
        ):
            torch.testing.assert_close(found, exact)


def test_gradcheck() -> None:
    sides = torch.randn(3, 3, 4, dtype=torch.float64), torch.randn(2, 4, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(max_dot, [side.requires_grad_() for side in sides])


def test_packed_texts_have_the_scores_of_padded_ones() -> None:
    queries, keys = texts(4, 3, 2).float(), texts(4, 6, 3).float()
    queries[0], keys[1] = 0, 0
    packed = TokenVectors.pack(queries), TokenVectors.pack(keys)
    torch.testing.assert_close(score_texts(max_dot, *packed), max_dot(queries, keys))
    pairs = score_text_pairs(max_dot, *packed, range(4), range(4))
    torch.testing.assert_close(pairs, max_dot(queries, keys).diagonal())
    torch.testing.assert_close(max_dot.of_pairs(queries, keys), pairs)


def test_of_equal_weights_it_is_max_sim_and_trains_alike() -> None:
    queries, keys = unit(texts(4, 3, 4)), unit(texts(6, 5, 5))
    weighed = queries / queries.any(-1).sum(1).clamp_min(1)[:, None, None]
    torch.testing.assert_close(max_dot(weighed, keys), max_sim(queries, keys))
    for options in ({"symmetric": True}, {"symmetric": True, "tiled": False}):
        ours = losses.info_nce(weighed, keys, similarity="max_dot", **options)
        torch.testing.assert_close(ours, losses.info_nce(queries, keys, similarity="max_sim", **options))


def test_losses_that_it_does_not_fit_say_so() -> None:
    queries, keys = texts(4, 3, 6), texts(4, 5, 7)
    for loss in (losses.debiased_contrastive, losses.hard_weighted):
        with pytest.raises(ValueError, match="expected lowest_score with similarity max_dot"):
            loss(queries, keys, similarity="max_dot")
        assert loss(queries, keys, similarity="max_dot", lowest_score=-1.0).isfinite()
    with pytest.raises(ValueError, match=r"expected distance to be one of .*, got 'max_dot'"):
        losses.TripletLoss("max_dot")  # type: ignore[arg-type]
    for loss in (losses.nt_xent, lambda *sides, **options: losses.info_nce(*sides, same_side=True, **options)):
        with pytest.raises(ValueError, match=r"with each other alone by max_dot.*got query_to_query.*query_weights"):
            loss(queries, keys, similarity="max_dot")
    guides = {"guide_queries": queries[:, 0], "guide_keys": keys[:, 0]}
    with pytest.raises(ValueError, match=r"got query_to_query and key_to_key.*contrast_positives=False"):
        losses.gist(queries, keys, similarity="max_dot", **guides)
