"""Whether a loss is its formula, in value and gradient.

Shape letters: Q queries, K keys, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError, gradcheck

Loss = Callable[..., Tensor]
Shapes = Sequence[tuple[int, int, int]]


def assert_matches_oracle(
    loss: Loss,
    oracle: Loss,
    *,
    shapes: Shapes = ((4, 4, 6), (3, 9, 5)),
    seeds: Sequence[int] = (0, 1),
    tolerance: float = 1e-8,
    **arguments: Any,
) -> None:
    """Assert that a loss has the value and the gradients of a plain function, such as its paper written as loops.

    Args:
        loss: Function or module, called with queries [Q, D], keys [K, D] and the arguments.
        oracle: Called with the same.
        shapes: Sizes Q, K, D to try.
        seeds: Seeds of the random embeddings to try.
        tolerance: Largest relative difference, of the value and of the gradients of queries and of keys.
        arguments: Further arguments of both.

    Raises:
        AssertionError: If they differ, or the oracle's gradient is zero everywhere, which shows nothing.

    Example:
        >>> from contrastive.losses import multiple_negatives_ranking
        >>> def by_hand(queries, keys):
        ...     scores = nn.functional.cosine_similarity(queries[:, None], keys[None], dim=-1)
        ...     return nn.functional.cross_entropy(20 * scores, torch.arange(len(queries)))
        >>> assert_matches_oracle(multiple_negatives_ranking, by_hand)
    """
    loss, moved = _in_float64(loss), False
    for queries, keys, where in _embeddings(shapes, seeds):
        results = []
        for function in (loss, oracle):
            value = function(queries, keys, **arguments)
            gradients = torch.autograd.grad(value.sum(), (queries, keys), allow_unused=True, materialize_grads=True)
            results.append(
                {"value": value, "gradient of the queries": gradients[0], "gradient of the keys": gradients[1]}
            )
        for name, expected in results[1].items():
            _compare(f"{name} for {where}", results[0][name], expected, tolerance)
            moved |= name != "value" and bool(expected.any())
    if not moved:
        raise AssertionError(
            "the oracle's gradient is zero for every input that was tried: the comparison shows nothing"
        )


def assert_gradients(
    loss: Loss, *, shapes: Shapes = ((3, 3, 4), (3, 6, 4)), seeds: Sequence[int] = (0,), **arguments: Any
) -> None:
    """Assert that gradients of queries, keys and the loss's own parameters are those of finite differences.

    A loss with kinks (hinges, the hardest of several) has no derivative there; should random inputs come within 1e-6 of
    one, try another seed.

    Args:
        loss: Function or module, called with queries [Q, D], keys [K, D] and the arguments.
        shapes: Sizes Q, K, D to try.
        seeds: Seeds of the random embeddings to try.
        arguments: Further arguments of the loss.

    Raises:
        AssertionError: If a gradient is wrong.

    Example:
        >>> from contrastive.losses import InfoNCELoss
        >>> assert_gradients(InfoNCELoss(temperature=0.5, learnable_temperature=True))
    """
    loss = _in_float64(loss)
    own = dict(loss.named_parameters()) if isinstance(loss, nn.Module) else {}
    learnt = [name for name, parameter in own.items() if parameter.requires_grad]

    def call(queries: Tensor, keys: Tensor, *parameters: Tensor) -> Tensor:
        if not isinstance(loss, nn.Module):
            return loss(queries, keys, **arguments)
        replaced = dict(zip(learnt, parameters, strict=True))
        value: Tensor = torch.func.functional_call(loss, replaced, (queries, keys), arguments)
        return value

    for queries, keys, where in _embeddings(shapes, seeds):
        try:
            gradcheck(call, (queries, keys, *(own[name] for name in learnt)))
        except GradcheckError as error:
            inputs = ", ".join(f"{place} {name}" for place, name in enumerate(["queries", "keys", *learnt]))
            raise AssertionError(f"wrong gradient for {where} (inputs: {inputs}): {error}") from error


def _embeddings(shapes: Shapes, seeds: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, str]]:
    """Return random queries and keys of every shape and seed, and words for which they are."""
    for num_queries, num_keys, dimension in shapes:
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            queries, keys = (
                torch.randn(count, dimension, generator=generator, dtype=torch.float64, requires_grad=True)
                for count in (num_queries, num_keys)
            )
            yield queries, keys, f"queries [{num_queries}, {dimension}], keys [{num_keys}, {dimension}], seed {seed}"


def _in_float64(loss: Loss) -> Loss:
    return copy.deepcopy(loss).double() if isinstance(loss, nn.Module) else loss


def _compare(what: str, got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Assert that two tensors are equal relative to the size of the expected one, and point the same way."""
    told = difference(what, got, expected, tolerance)
    if told:
        raise AssertionError(told)


def difference(what: str, got: Tensor, expected: Tensor, tolerance: float) -> str | None:
    """Return what differs between two tensors, if anything does."""
    if got.shape != expected.shape:
        return f"{what}: expected shape {list(expected.shape)}, got {list(got.shape)}"
    got, expected = got.detach().double().flatten(), expected.detach().double().flatten()
    length = expected.norm()
    error = (got - expected).norm() / torch.where(length > 0, length, 1)
    cosine = torch.dot(got, expected) / (got.norm() * length) if length > 0 and got.any() else error.new_ones(())
    if error <= tolerance and cosine >= 1 - tolerance:  # NaN is neither
        return None
    sizes = f"{got.norm().item():.6g} instead of {length.item():.6g}"
    return (
        f"{what}: relative error {error.item():.2g}, expected at most {tolerance:g}; "
        f"cosine {cosine.item():.6f}; size {sizes}"
    )
