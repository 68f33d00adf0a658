from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_training import alone, dev_task, fit, records
from torch import Tensor

from contrastive.encoder import Encoder
from contrastive.losses import InfoNCELoss, MatryoshkaLoss
from contrastive.training.sparsity import Sparsity, active_terms, flops


def by_loops(embeddings: Tensor) -> Tensor:
    total = torch.zeros((), dtype=embeddings.dtype)
    for term in embeddings.T:
        total = total + (sum(term) / len(term)) ** 2
    return total


def test_flops_equals_a_loop_over_terms_with_its_gradient() -> None:
    embeddings = torch.rand(5, 7, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(flops(embeddings), by_loops(embeddings))
    gradients = (torch.autograd.grad(value(embeddings), embeddings)[0] for value in (flops, by_loops))
    torch.testing.assert_close(*gradients)


def test_a_term_that_all_texts_have_costs_more_than_terms_of_one_text_each() -> None:
    assert flops(torch.tensor([[1.0, 0.0], [1.0, 0.0]])) == 2 * flops(torch.eye(2))


def test_of_no_rows_both_are_0() -> None:
    assert flops(torch.zeros(0, 3)) == active_terms(torch.zeros(0, 3)) == 0


def test_active_terms_are_counted() -> None:
    assert active_terms(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.5]])) == 1.5


def test_the_share_rises_with_the_square_of_the_step_and_stays() -> None:
    sparsity = Sparsity(warmup_ratio=0.5)
    assert [sparsity.share(step, 8) for step in (0, 1, 2, 4, 8)] == [0, 1 / 16, 1 / 4, 1, 1]
    assert Sparsity(warmup_ratio=0).share(0, 8) == 1


def test_both_sides_have_a_weight_of_their_own() -> None:
    queries, documents = torch.rand(3, 4), torch.rand(5, 4)
    penalty = Sparsity(queries=0.3, documents=0.02)(queries, documents, 0.5)
    torch.testing.assert_close(penalty, 0.15 * by_loops(queries) + 0.01 * by_loops(documents))


@pytest.mark.parametrize("options", [{"queries": -0.1}, {"documents": -0.1}, {"warmup_ratio": 1.5}])
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected .*sparsity, got .*(-0\.1|1\.5)"):
        Sparsity(**options)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*in eval mode")
@pytest.mark.parametrize("query_weights", ["encoder", "learnt"])
def test_training_a_lexical_encoder_keeps_it_as_sparse_as_is_asked(
    tiny_model_folder: Path, tmp_path: Path, query_weights: str
) -> None:
    def terms(weight: float) -> float:
        encoder = Encoder.from_pretrained(tiny_model_folder, representation="lexical", query_weights=query_weights)
        encoder.head.decoder.bias.data += 2  # more terms than a hundredth of 150
        loss = InfoNCELoss(temperature=1.0, similarity="dot")
        sparsity = Sparsity(0, weight, warmup_ratio=0.5) if weight else None
        trainer = fit(encoder, loss, tmp_path, epochs=4, dev=dev_task(), sparsity=sparsity)
        logged = {name for name in trainer.callback_metrics if "flops" in name or "terms" in name}
        assert logged == (
            {"train/flops", *map("train/active_terms_{}".format, ("query", "document"))} if weight else set()
        )
        documents = encoder.encode([record.positive for record in records()], side="document", as_numpy=False)
        return float(active_terms(documents))

    assert terms(10.0) < 0.7 * terms(0)


def test_weights_of_terms_are_not_cut(tiny_model_folder: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, representation="lexical")
    loss = MatryoshkaLoss(InfoNCELoss(similarity="dot"), dimensions=[8, 32])
    with pytest.raises(ValueError, match=r"can stand alone for MatryoshkaLoss, got weights of terms"):
        alone(encoder, loss)
