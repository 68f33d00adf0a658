"""The cross-batch queue and the momentum encoder."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from contrastive.data.batch import EmbeddedBatch, recall
from contrastive.losses import GISTLoss, InfoNCELoss, info_nce
from contrastive.masks import known_positive
from contrastive.similarity import TokenVectors
from contrastive.training.memory import CrossBatchQueue, MomentumEncoder, with_queue

NOTHING = torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)


def numbered(*ids: int) -> tuple[Tensor, Tensor]:
    """Keys that can be told by their ids."""
    key_ids = torch.tensor(ids, dtype=torch.long)
    return torch.stack([key_ids.float(), -key_ids.float()], 1), key_ids


def held(queue: CrossBatchQueue) -> list[int]:
    """The ids in the queue, oldest first, once keys, ids, owners and the buffers have been seen to agree."""
    keys, key_ids, owners = queue.extend(*NOTHING)
    assert torch.equal(keys, numbered(*key_ids.tolist())[0])
    assert (owners == -1).all()
    assert len(queue) == len(key_ids)
    return key_ids.tolist()


def test_an_unfilled_queue_adds_only_what_it_holds() -> None:
    queue = CrossBatchQueue(size=4, dimension=2)
    assert held(queue) == []
    queue.push(*numbered(1, 2, 3))
    assert held(queue) == [1, 2, 3]


def test_the_oldest_make_room() -> None:
    queue, expected = CrossBatchQueue(size=5, dimension=2), []
    start = 0
    for count in (2, 2, 0, 2, 5, 1, 7, 3, 3):
        ids = list(range(start, start + count))
        queue.push(*numbered(*ids))
        expected = (expected + ids)[-5:]
        assert held(queue) == expected
        start += count


def test_what_is_too_old_is_not_handed_out() -> None:
    queue = CrossBatchQueue(size=9, dimension=2, max_age=2)
    held_after = []
    for ids in ([1, 2], [3, 4], [5], [], []):
        queue.push(*numbered(*ids))
        held_after.append(held(queue))
    assert held_after == [[1, 2], [1, 2, 3, 4], [3, 4, 5], [5], []]


def test_the_batch_comes_first_with_its_gradient_and_the_queue_without() -> None:
    queue = CrossBatchQueue(size=4, dimension=2)
    pushed = numbered(7, 8)[0].requires_grad_()
    queue.push(pushed, torch.tensor([7, 8]))
    keys = torch.randn(2, 2, requires_grad=True)
    extended, key_ids, owners = queue.extend(keys, torch.tensor([1, 2]), torch.tensor([0, 1]))
    assert key_ids.tolist() == [1, 2, 7, 8]
    assert owners.tolist() == [0, 1, -1, -1]
    extended.sum().backward()
    assert torch.equal(keys.grad, torch.ones(2, 2))
    assert pushed.grad is None
    assert not queue.keys.requires_grad


def test_a_push_does_not_change_what_was_handed_out() -> None:
    queue = CrossBatchQueue(size=2, dimension=2)
    queue.push(*numbered(1, 2))
    weights = torch.ones(1, requires_grad=True)
    keys, _, _ = queue.extend(*NOTHING)
    value = (keys * weights).sum()
    queue.push(*numbered(3, 4))
    value.backward()  # would object to a tensor modified in place
    assert torch.equal(keys, numbered(1, 2)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_keeps_float32_whatever_it_is_given(dtype: torch.dtype) -> None:
    queue = CrossBatchQueue(size=2, dimension=2)
    queue.push(torch.ones(1, 2, dtype=dtype), torch.tensor([1]))
    assert queue.keys.dtype == torch.float32
    extended, *_ = queue.extend(torch.ones(1, 2, dtype=dtype), torch.tensor([2]), torch.tensor([0]))
    assert extended.dtype == torch.promote_types(dtype, torch.float32)


def test_computing_a_loss_changes_nothing() -> None:
    queue = CrossBatchQueue(size=4, dimension=2)
    queue.push(*numbered(1, 2, 3))
    before = {name: value.clone() for name, value in queue.named_buffers()}
    held(queue)
    assert all(torch.equal(before[name], value) for name, value in queue.named_buffers())


def test_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path: pytest.TempPathFactory) -> None:
    queue, again = CrossBatchQueue(5, 2, max_age=3), CrossBatchQueue(5, 2, max_age=3)
    for ids in ([1, 2], [3, 4], [5, 6]):
        queue.push(*numbered(*ids))
    torch.save(queue.state_dict(), tmp_path / "queue.pt")
    again.load_state_dict(torch.load(tmp_path / "queue.pt", weights_only=True))
    for ids in ([], [7], [8, 9, 10], [11, 12]):
        assert held(again) == held(queue)
        for one in (queue, again):
            one.push(*numbered(*ids))


def test_queued_keys_are_negatives_of_all_but_whose_positive_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys, queued = (torch.randn(count, 5, generator=generator) for count in (3, 4, 2))
    queue = CrossBatchQueue(size=8, dimension=5)
    queue.push(queued, torch.tensor([1, 9]))  # 1 is the positive of query 1
    batch = EmbeddedBatch(
        queries,
        keys,
        owners=torch.tensor([0, 1, 2, 0]),
        key_ids=torch.tensor([0, 1, 2, 5]),
        positive_ids=torch.arange(3)[:, None],
    )
    whole = recall(batch, queue)
    excluded = known_positive(whole.positive_ids, whole.key_ids)
    by_hand = torch.zeros(3, 6, dtype=torch.bool)
    by_hand[1, 4] = True
    torch.testing.assert_close(
        info_nce(queries, whole.keys, owners=whole.owners, exclude=excluded, others_negatives=False),
        info_nce(
            queries,
            torch.cat([keys, queued]),
            owners=torch.tensor([0, 1, 2, 0, -1, -1]),
            exclude=by_hand,
            others_negatives=False,
        ),
    )
    assert recall(batch, None) is batch


def test_a_queued_key_has_the_guide_embedding_of_its_id() -> None:
    table = torch.arange(12.0).view(4, 3)
    queue = CrossBatchQueue(size=3, dimension=2)
    queue.push(torch.ones(3, 2), torch.tensor([3, -1, 1]))
    batch = EmbeddedBatch(
        torch.eye(2),
        torch.eye(2),
        owners=torch.arange(2),
        key_ids=torch.tensor([0, 2]),
        guide_queries=torch.ones(2, 3),
        guide_keys=table[[0, 2]],
    )
    found = recall(batch, queue, table).guide_keys
    assert torch.equal(found[[0, 1, 2, 4]], table[[0, 2, 3, 1]])
    assert found[3].isnan().all()  # its id is unknown
    assert recall(replace(batch, guide_queries=None, guide_keys=None), queue, table).guide_keys is None


def test_what_has_one_row_a_key_has_one_a_queued_key_too() -> None:
    """A queued key has no guide embedding, and the guide leaves none out."""
    generator = torch.Generator().manual_seed(0)
    queries, keys, queued, guides = (torch.randn(count, 5, generator=generator) for count in (3, 4, 2, 4))
    queue = CrossBatchQueue(size=8, dimension=5)
    queue.push(queued, torch.tensor([1, 9]))
    guides = guides.double()
    given = {"guide_queries": guides[:3], "guide_keys": guides}
    whole = recall(EmbeddedBatch(queries, keys, owners=torch.arange(4), key_ids=torch.arange(4), **given), queue)
    for each in fields(whole):
        value = getattr(whole, each.name)
        if value is not None and each.metadata["rows"] == "keys":
            assert len(value) == 6, each.name
    assert whole.guide_keys.dtype == torch.float64
    assert torch.equal(whole.guide_keys[:4], given["guide_keys"])
    assert whole.guide_keys[4:].isnan().all()
    loss = GISTLoss(contrast_queries=False, contrast_positives=False, margin=-2.0)  # the guide leaves nothing out
    by_guide = loss(queries, whole.keys, owners=whole.owners, guide_queries=guides[:3], guide_keys=whole.guide_keys)
    torch.testing.assert_close(by_guide, info_nce(queries, whole.keys, owners=whole.owners))
    loss = GISTLoss(contrast_queries=False, contrast_positives=False, margin=2.1)  # all but the queued ones
    by_guide = loss(queries, whole.keys, owners=whole.owners, guide_queries=guides[:3], guide_keys=whole.guide_keys)
    torch.testing.assert_close(
        by_guide,
        info_nce(
            queries, torch.cat([keys[:3], queued]), owners=torch.tensor([0, 1, 2, -1, -1]), exclude=~_queued_or_own()
        ),
    )


def _queued_or_own() -> Tensor:
    return torch.cat([torch.eye(3, dtype=torch.bool), torch.ones(3, 2, dtype=torch.bool)], 1)


def test_slots_that_are_not_filled_are_nobodys_negatives() -> None:
    queries, keys = torch.eye(3)[:2], torch.eye(3)[:2]
    batch = EmbeddedBatch(queries, keys, owners=torch.arange(2), key_ids=torch.arange(2))
    whole = recall(batch, CrossBatchQueue(size=8, dimension=3))
    loss, owners = InfoNCELoss(), torch.arange(2)
    assert loss(whole.queries, whole.keys, owners=whole.owners) == loss(queries, keys, owners=owners)


def test_a_queue_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match="at least one slot and dimension, got 0 and 4"):
        CrossBatchQueue(size=0, dimension=4)
    with pytest.raises(ValueError, match="max_age of at least 1, the latest batch, got 0"):
        CrossBatchQueue(size=1, dimension=4, max_age=0)
    queue = CrossBatchQueue(size=1, dimension=4)
    with pytest.raises(
        ValueError, match=r"expected keys \[K, 4\] and key_ids \[K\] for the queue, got \[2, 3\] and \[2\]"
    ):
        queue.push(torch.ones(2, 3), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"got \[2, 4\] and \[1\]"):
        queue.extend(torch.ones(2, 4), torch.tensor([1]), torch.tensor([0]))
    with pytest.raises(ValueError, match="expected key_ids and owners"):
        recall(EmbeddedBatch(torch.ones(1, 4), torch.ones(1, 4)), queue)


def test_momentum_encoder_is_the_average_of_the_weights() -> None:
    encoder = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    slow = MomentumEncoder(encoder, momentum=0.75)
    expected = encoder[0].weight.detach().clone()
    for _ in range(3):
        with torch.no_grad():
            encoder[0].weight += torch.randn(2, 3)
        encoder[1].running_mean += 1
        slow.update(encoder)
        expected = 0.75 * expected + 0.25 * encoder[0].weight.detach()
        torch.testing.assert_close(slow.encoder[0].weight, expected, check_stride=False)
        assert torch.equal(slow.encoder[1].running_mean, encoder[1].running_mean)


def test_momentum_encoder_has_no_dropout_and_no_gradient() -> None:
    encoder = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    slow = nn.ModuleList([MomentumEncoder(encoder)]).train()[0]
    assert not any(module.training for module in slow.modules())
    assert encoder.training
    inputs = torch.randn(4, 3, requires_grad=True)
    assert torch.equal(slow(inputs), slow(inputs))
    assert not slow(inputs).requires_grad
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(parameter.requires_grad for parameter in slow.parameters())


def test_weights_that_are_not_trained_are_left_alone() -> None:
    encoder = nn.Linear(3, 2)
    encoder.bias.requires_grad_(False)
    slow = MomentumEncoder(encoder, momentum=0.0)
    before = slow.encoder.bias.clone()
    with torch.no_grad():
        encoder.weight += 1
        encoder.bias += 1
    slow.update(encoder)
    assert torch.equal(slow.encoder.weight, encoder.weight)
    assert torch.equal(slow.encoder.bias, before)


def test_momentum_encoder_refuses_what_it_cannot_follow() -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1, got 1"):
        MomentumEncoder(nn.Linear(1, 1), momentum=1)
    with pytest.raises(ValueError, match=r"weights in float32 to average, got torch.bfloat16 of weight"):
        MomentumEncoder(nn.Linear(1, 1).bfloat16())
    with pytest.raises(ValueError, match="a further parameter bias"):
        MomentumEncoder(nn.Linear(1, 1, bias=False)).update(nn.Linear(1, 1))


def test_settings_make_a_queue_of_the_encoders_width_and_what_fills_it() -> None:
    encoder = nn.Linear(1, 1)
    encoder.dimension = 7
    queue, momentum_encoder = with_queue(encoder, size=3, max_age=2)
    assert str(queue) == "CrossBatchQueue(size=3, dimension=7, max_age=2)"
    assert momentum_encoder is None
    _, momentum_encoder = with_queue(encoder, size=3, momentum=0.9)
    assert momentum_encoder.momentum == 0.9


def test_keys_of_tokens_are_as_long_as_the_longest() -> None:
    queue = CrossBatchQueue(size=3, dimension=2, of_tokens=True)
    assert str(queue) == "CrossBatchQueue(size=3, dimension=2, max_age=None, of_tokens=True)"
    short, long = torch.ones(2, 1, 2), torch.full((1, 4, 2), 2.0)
    batch, ids, owners = torch.full((2, 3, 2), 3.0), torch.tensor([8, 9]), torch.arange(2)
    assert queue.extend(batch, ids, owners)[0].equal(batch)
    queue.push(short, torch.tensor([1, 2]))
    queue.push(long, torch.tensor([3]))
    keys, key_ids, _ = queue.extend(batch, ids, owners)
    assert key_ids.tolist() == [8, 9, 1, 2, 3]
    assert keys.any(-1).sum(1).tolist() == [3, 3, 1, 1, 4]
    assert keys[4].equal(long[0])
    again = CrossBatchQueue(size=3, dimension=2, of_tokens=True)
    again.load_state_dict(queue.state_dict())
    assert again.extend(batch, ids, owners)[0].equal(keys)
    with pytest.raises(ValueError, match=r"expected keys \[K, T, 2\] and key_ids \[K\] for the queue, got \[2, 2\]"):
        queue.push(torch.ones(2, 2), ids)
    with pytest.raises(RuntimeError, match="size mismatch for keys"):
        CrossBatchQueue(size=4, dimension=2, of_tokens=True).load_state_dict(queue.state_dict())


def test_queued_keys_of_tokens_have_their_guide_by_tokens() -> None:
    documents = TokenVectors.pack(torch.tensor([[[1.0], [2.0]], [[3.0], [0.0]]]))
    batch = EmbeddedBatch(
        torch.ones(1, 1, 2),
        torch.ones(1, 1, 2),
        key_ids=torch.tensor([7]),
        owners=torch.tensor([0]),
        guide_queries=torch.ones(1, 1, 1),
        guide_keys=torch.ones(1, 1, 1),
    )
    queue = CrossBatchQueue(size=3, dimension=2, of_tokens=True)
    queue.push(torch.ones(3, 2, 2), torch.tensor([1, -1, 0]))
    guides = recall(batch, queue, documents).guide_keys
    assert guides is not None
    torch.testing.assert_close(
        guides[:, :, 0], torch.tensor([[1.0, 0], [3, 0], [torch.nan] * 2, [1, 2]]), equal_nan=True
    )
