"""Negatives beyond the batch: a queue of the keys of earlier batches, and a slowly moving encoder to fill it.

Notable decisions:

- Reading and writing are two calls, `extend` and `push`, so that computing a loss changes nothing; the callback
  `FillMemory` pushes after the step.
- The latest keys stand at the end of a buffer of fixed size, and how many of them count is known to Python: the rows of
  a push are a shape. So an unfilled or too old slot is never handed out, nothing waits for the device, and the loss
  needs no mask.
- Keys of tokens have as many places as the longest so far, zeros for absent tokens: the buffer grows when a longer one
  comes, and no more.
- Given the gathered keys of all ranks, the queue is the same on every rank; nothing has to be sent.

Shape letters: K keys of the batch, S slots, D width, T tokens.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.encoder.encoder import Encoder
from contrastive.encoder.two_towers import TwoTowers
from contrastive.similarity import MaxSimilarity, concatenate, similarity_of


class CrossBatchQueue(nn.Module):
    """Keeps the keys of the latest batches as further negatives, shared by all queries.

    This is the cross-batch memory of Wang et al. 2020 (XBM, https://arxiv.org/abs/1912.06798, section 3.2) with keys as
    the encoder in training made them, or the queue of He et al. 2020 (MoCo, https://arxiv.org/abs/1911.05722, section
    3.1) with keys of a `MomentumEncoder`. Unlike XBM, queued keys are negatives only, never positives, and queries are
    not kept; unlike MoCo, the keys of the current batch still are the trained encoder's, with a gradient.

    A queued key may be a document that a query of this batch has as a positive: keep the ids that `extend` returns
    apart from the known positives (`masks.known_positive`). Keys become stale as the encoder moves; a small learning
    rate, `max_age` or a momentum encoder keep them close.

    Args:
        size: Slots, S; a key stays for about S / K steps.
        dimension: Width of an embedding.
        max_age: Pushes a key may stay for, its own included: 1 keeps the last batch only. None for no limit.
        of_tokens: Whether a key is a vector a token, [T, D], and not one vector; of any number of tokens.

    Attributes:
        keys: Queued embeddings, [S, D] or [S, T, D], float32, the latest last; only the last `len(queue)` count.
        key_ids: Their ids, [S], -1 where unknown.

    Raises:
        ValueError: If there are no slots, no width, or no age to reach.

    Example:
        >>> import torch
        >>> queue = CrossBatchQueue(size=4, dimension=2)
        >>> queue.push(torch.ones(3, 2), torch.tensor([7, 8, 9]))
        >>> keys, key_ids, owners = queue.extend(torch.eye(2), torch.tensor([1, 2]), torch.arange(2))
        >>> key_ids, owners
        (tensor([1, 2, 7, 8, 9]), tensor([ 0,  1, -1, -1, -1]))
    """

    keys: Tensor
    key_ids: Tensor

    def __init__(self, size: int, dimension: int, max_age: int | None = None, *, of_tokens: bool = False) -> None:
        super().__init__()
        if size < 1 or dimension < 1:
            raise ValueError(f"expected a queue of at least one slot and dimension, got {size} and {dimension}")
        if max_age is not None and max_age < 1:
            raise ValueError(f"expected max_age of at least 1, the latest batch, got {max_age}")
        self.size = size
        self.max_age = max_age
        self.register_buffer("keys", torch.zeros(size, *[0] * of_tokens, dimension))
        self.register_buffer("key_ids", torch.full((size,), -1))
        self._counts: deque[int] = deque()  # live keys of each push, the latest last

    def __len__(self) -> int:
        """Return how many keys it holds."""
        return sum(self._counts)

    def extend(self, keys: Tensor, key_ids: Tensor, owners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Append the queue, oldest first, to keys [K, D] or [K, T, D], key_ids [K] and owners [K]; its owner is -1.

        Queued keys have no gradient and are copies: a later push does not change them.

        Raises:
            ValueError: If the keys have another width than the queue.
        """
        self._check(keys, key_ids)
        held = slice(self.size - len(self), None)
        return (
            concatenate([keys, self.keys[held]]) if len(self) else keys,
            torch.cat([key_ids, self.key_ids[held]]),
            torch.cat([owners, owners.new_full((len(self),), -1)]),
        )

    @torch.no_grad()
    def push(self, keys: Tensor, key_ids: Tensor) -> None:
        """Put keys [K, D] or [K, T, D] with ids [K] in the queue in place of the oldest; of more than S, the last S.

        Raises:
            ValueError: If the keys have another width than the queue, or there is not one id a key.
        """
        self._check(keys, key_ids)
        latest = concatenate([self.keys, keys.to(self.keys)])[-self.size :]
        # In place, if it fits: others hold these buffers, such as DistributedDataParallel.
        if latest.shape == self.keys.shape:
            self.keys.copy_(latest)
        else:
            self.keys = latest.clone()
        self.key_ids.copy_(torch.cat([self.key_ids, key_ids.to(self.key_ids)])[-self.size :])
        self._counts.append(min(len(keys), self.size))
        while len(self) > self.size:
            self._counts[0] -= min(self._counts[0], len(self) - self.size)
            if not self._counts[0]:
                self._counts.popleft()
        while self.max_age is not None and len(self._counts) > self.max_age:
            self._counts.popleft()

    def get_extra_state(self) -> dict[str, Any]:
        """Return what Python knows of the buffers, for the checkpoint."""
        return {"counts": list(self._counts)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up what `get_extra_state` returned."""
        self._counts = deque(state["counts"])

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Make room for keys with as many tokens as those that are to be loaded."""
        saved = state_dict.get(f"{prefix}keys")
        if saved is not None and saved.ndim == self.keys.ndim == 3 and saved.shape[::2] == self.keys.shape[::2]:
            self.keys = self.keys.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Describe the settings."""
        of_tokens = ", of_tokens=True" if self.keys.ndim == 3 else ""
        return f"size={self.size}, dimension={self.keys.shape[-1]}, max_age={self.max_age}{of_tokens}"

    def _check(self, keys: Tensor, key_ids: Tensor) -> None:
        width = self.keys.shape[-1]
        if keys.ndim != self.keys.ndim or keys.shape[-1] != width or key_ids.shape != keys.shape[:1]:
            raise ValueError(
                f"expected keys [K, {'T, ' if self.keys.ndim == 3 else ''}{width}] and key_ids [K] for the queue, "
                f"got {list(keys.shape)} and {list(key_ids.shape)}"
            )


class MomentumEncoder(nn.Module):
    r"""A copy of an encoder that follows it slowly: an exponential moving average of its weights.

    .. math:: \theta_k \leftarrow m \theta_k + (1 - m) \theta_q

    He et al. 2020 (MoCo, https://arxiv.org/abs/1911.05722, eq. 2). Keys made by it at different steps are close to one
    another, as those of the encoder in training are not, so a queue can be long. It always runs in eval mode, without
    dropout, where the paper's key encoder runs in training mode, and never has gradients. Buffers, and weights that are
    not trained, are those of the encoder.

    Args:
        encoder: What is followed, see `update`. It is copied and not kept.
        momentum: Share of the average that stays at an update, m, from 0 to 1. The paper's 0.999 is for runs of many
            thousand steps: an average reaches back about 1 / (1 - m) of them.

    Raises:
        ValueError: If the momentum is not in [0, 1), or weights to be trained are of half precision, in which the small
            steps of an average round to nothing.

    Example:
        >>> encoder = nn.Linear(2, 2)
        >>> slow = MomentumEncoder(encoder, momentum=0.9)
        >>> _ = nn.init.constant_(encoder.weight, 1.0), nn.init.constant_(slow.encoder.weight, 0.0)
        >>> slow.update(encoder)
        >>> slow.encoder.weight[0]
        tensor([0.1000, 0.1000])
    """

    def __init__(self, encoder: nn.Module, momentum: float = 0.999) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"expected a momentum of at least 0 and below 1, got {momentum}")
        for name, parameter in encoder.named_parameters():
            if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
                raise ValueError(f"expected weights in float32 to average, got {parameter.dtype} of {name}")
        self.momentum = momentum
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> MomentumEncoder:  # noqa: ARG002
        """Stay in eval mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Embed as the encoder does, without gradients."""
        return self.encoder(*args, **kwargs)

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        """Move towards the encoder's weights; to be called after each optimiser step.

        Raises:
            ValueError: If the encoder has other parameters than the one that was copied.
        """
        followed = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
        own = dict(self.encoder.named_parameters())
        if not followed.keys() <= own.keys():
            unknown = min(followed.keys() - own.keys())
            raise ValueError(f"expected the encoder that was copied, got one with a further parameter {unknown}")
        for name, parameter in followed.items():
            own[name].lerp_(parameter, 1 - self.momentum)
        for average, buffer in zip(self.encoder.buffers(), encoder.buffers(), strict=True):
            average.copy_(buffer)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"momentum={self.momentum}"


def with_queue(
    encoder: Encoder | TwoTowers, *, size: int, max_age: int | None = None, momentum: float | None = None
) -> tuple[CrossBatchQueue, MomentumEncoder | None]:
    """Make a queue for the embeddings of an encoder, and the momentum encoder that fills it, if there is a momentum."""
    of_tokens = isinstance(similarity_of(encoder), MaxSimilarity)
    queue = CrossBatchQueue(size, encoder.dimension, max_age, of_tokens=of_tokens)
    return queue, None if momentum is None else MomentumEncoder(encoder, momentum)


def without_queue(encoder: Encoder | TwoTowers) -> tuple[None, None]:  # noqa: ARG001
    """Return no queue and no momentum encoder."""
    return None, None
