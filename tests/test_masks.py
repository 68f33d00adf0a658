from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contrastive.masks import (
    Mask,
    as_mask,
    columns,
    dense,
    diagonal,
    everything,
    from_pairs,
    from_tensor,
    known_positive,
    owned,
    same_id,
)

CPU = torch.device("cpu")


def random_mask(num_rows: int, num_cols: int, seed: int) -> Tensor:
    return torch.rand(num_rows, num_cols, generator=torch.Generator().manual_seed(seed)) < 0.5


@settings(deadline=None, max_examples=40)
@given(
    num_rows=st.integers(1, 6),
    num_cols=st.integers(1, 6),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_algebra_equals_that_of_bool_matrices_on_any_block(
    num_rows: int, num_cols: int, seed: int, data: st.DataObject
) -> None:
    left, right, turned = (
        random_mask(num_rows, num_cols, seed),
        random_mask(num_rows, num_cols, seed + 100),
        random_mask(num_cols, num_rows, seed + 200),
    )
    rows = torch.tensor(data.draw(st.lists(st.integers(0, num_rows - 1), max_size=5)), dtype=torch.long)
    cols = torch.tensor(data.draw(st.lists(st.integers(0, num_cols - 1), max_size=5)), dtype=torch.long)
    a, b, c = from_tensor(left), from_tensor(right), from_tensor(turned)
    for mask, matrix in [
        (a, left),
        (a | b, left | right),
        (a & b, left & right),
        (~a, ~left),
        (c.T, turned.T),
        (a & ~c.T | b, left & ~turned.T | right),
        ((a & ~b).T.T, left & ~right),
    ]:
        block = mask(rows, cols)
        assert block.shape == (len(rows), len(cols))
        assert block.equal(matrix[rows][:, cols])


OWNERS = torch.tensor([0, 1, 2, 1, -1])
ROW_IDS, COL_IDS = torch.tensor([7, 8, 7]), torch.tensor([7, 9, 8, 7, 0])
BUILT = {
    "diagonal": (diagonal(), lambda i, j: i == j),
    "everything": (everything(), lambda i, j: i + j >= 0),
    "same_id": (same_id(ROW_IDS, COL_IDS), lambda i, j: ROW_IDS[i] == COL_IDS[j]),
    "owned": (owned(OWNERS), lambda i, j: OWNERS[j] == i),
    "columns": (columns(OWNERS < 0), lambda i, j: i >= 0 and OWNERS[j] == -1),
    "from_pairs": (from_pairs(torch.tensor([[0, 4], [2, 1], [0, 4]]), 3, 5), lambda i, j: (i, j) in {(0, 4), (2, 1)}),
    "owned or shared": (owned(OWNERS) | columns(OWNERS < 0), lambda i, j: OWNERS[j] in (i, -1)),
    "same_id but not self": (same_id(ROW_IDS, COL_IDS) & ~diagonal(), lambda i, j: i != j and ROW_IDS[i] == COL_IDS[j]),
}


@pytest.mark.parametrize(("mask", "selects"), BUILT.values(), ids=BUILT.keys())
def test_masks_select_what_they_say(mask: Mask, selects) -> None:
    expected = torch.tensor([[bool(selects(i, j)) for j in range(5)] for i in range(3)])
    assert dense(mask, 3, 5, CPU).equal(expected)
    assert dense(mask.T, 5, 3, CPU).equal(expected.T)
    assert dense(~mask.T, 5, 3, CPU).equal(~expected.T)
    assert mask(torch.tensor([2, 0]), torch.tensor([4])).equal(expected[[2, 0]][:, [4]])


def test_known_positives_are_found_among_padding() -> None:
    mask = known_positive(torch.tensor([[5, 6, -1], [7, -1, -1], [-1, -1, -1]]), torch.tensor([6, 7, 5, 8, -1]))
    expected = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    assert dense(mask, 3, 5, CPU).equal(expected)
    assert dense(mask.T, 5, 3, CPU).equal(expected.T)
    assert mask(torch.tensor([1]), torch.tensor([1, 0])).equal(torch.tensor([[True, False]]))


def test_a_bool_tensor_passes_for_a_mask() -> None:
    selected = random_mask(3, 4, 0)
    assert dense(selected, 3, 4, CPU).equal(selected)
    assert dense(as_mask(selected, 3, 4, CPU), 3, 4, CPU).equal(selected)
    mask = diagonal()
    assert as_mask(mask, 3, 4, CPU) is mask


def test_tensors_of_another_kind_are_refused() -> None:
    for take in (dense, as_mask):
        with pytest.raises(ValueError, match=r"shape \[3, 4\], got torch.bool \[4, 3\]"):
            take(random_mask(4, 3, 0), 3, 4, CPU)
        with pytest.raises(ValueError, match=r"shape \[3, 4\], got torch.int64 \[3, 4\]"):
            take(torch.ones(3, 4, dtype=torch.long), 3, 4, CPU)
    for pairs in (torch.ones(3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long), torch.ones(3, 2)):
        with pytest.raises(ValueError, match=r"expected integer index pairs of shape \[P, 2\], got torch"):
            from_pairs(pairs, 3, 4)
