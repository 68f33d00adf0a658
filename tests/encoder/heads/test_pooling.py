import pytest
import torch

from contrastive.encoder.heads.pooling import POOLINGS, Pooling, check_pooling

LEFT = [[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]
RIGHT = [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


def pool_by_loops(name: Pooling, hidden: torch.Tensor, mask: list[list[int]]) -> torch.Tensor:
    rows = []
    for vectors, flags in zip(hidden, mask, strict=True):
        real = [vector for vector, flag in zip(vectors, flags, strict=True) if flag]
        rows.append({"mean": sum(real) / len(real), "cls": real[0], "last": real[-1]}[name])
    return torch.stack(rows)


@pytest.mark.parametrize("mask", [LEFT, RIGHT], ids=["left padding", "right padding"])
@pytest.mark.parametrize("name", ["mean", "cls", "last"])
def test_equals_a_loop_over_real_tokens(name: Pooling, mask: list[list[int]]) -> None:
    hidden = torch.randn(4, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(POOLINGS[name](hidden, torch.tensor(mask)), pool_by_loops(name, hidden, mask))


@pytest.mark.parametrize("mask_dtype", [torch.long, torch.bool, torch.float32])
@pytest.mark.parametrize("name", ["mean", "cls", "last"])
def test_takes_any_mask_dtype(name: Pooling, mask_dtype: torch.dtype) -> None:
    hidden = torch.randn(4, 4, 3)
    expected = pool_by_loops(name, hidden, RIGHT)
    torch.testing.assert_close(POOLINGS[name](hidden, torch.tensor(RIGHT, dtype=mask_dtype)), expected)


@pytest.mark.parametrize("name", ["mean", "cls", "last"])
def test_padding_content_does_not_matter(name: Pooling) -> None:
    hidden = torch.randn(4, 4, 3)
    mask = torch.tensor(RIGHT)
    spoilt = hidden.masked_fill(mask.unsqueeze(-1) == 0, float("nan"))
    torch.testing.assert_close(POOLINGS[name](spoilt, mask), POOLINGS[name](hidden, mask))


@pytest.mark.parametrize("name", ["mean", "cls", "last"])
def test_a_row_without_tokens_gives_zeros(name: Pooling) -> None:
    assert POOLINGS[name](torch.randn(1, 3, 2), torch.zeros(1, 3, dtype=torch.long)).tolist() == [[0.0, 0.0]]


def test_bfloat16_is_averaged_in_float32() -> None:
    # Summed in bfloat16, which has 8 bits, 1 + 1 + ... stops at 256.
    hidden = torch.ones(1, 1000, 1, dtype=torch.bfloat16)
    hidden[0, 0] = 1.0078125
    pooled = POOLINGS["mean"](hidden, torch.ones(1, 1000))
    assert pooled.dtype == torch.float32
    assert pooled.item() == pytest.approx(1.0000078125, abs=1e-7)


@pytest.mark.parametrize("name", ["cls", "last"])
def test_bfloat16_comes_out_as_float32(name: Pooling) -> None:
    assert POOLINGS[name](torch.ones(1, 2, 1, dtype=torch.bfloat16), torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize("name", ["mean", "cls", "last"])
def test_gradients(name: Pooling) -> None:
    hidden = torch.randn(4, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: POOLINGS[name](h, torch.tensor(LEFT)), hidden)


def test_unknown_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="one of mean, cls, last, got 'max'"):
        check_pooling("max")
