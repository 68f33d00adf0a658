"""What the modules of the softmax family share: a temperature, fixed or learnt, and the options of their function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.contracts import Health, MaskLike, Similarity
from contrastive.losses.core.options import Direction, LossOptions
from contrastive.losses.core.temperature import LearntTemperature, check_temperature
from contrastive.similarity import ProductSimilarity, named


@cache
def _settings(kind: type) -> frozenset[str]:
    """Return the names of all that a loss can be told when it is made."""
    return frozenset({*inspect.signature(kind).parameters, *LossOptions.__annotations__, "scale"} - {"options"})


class SoftmaxModule(nn.Module):
    """Calls a softmax loss with options that are kept, and a temperature that is fixed or learnt within bounds.

    Args:
        function: The loss.
        temperature: What scores are divided by, above 0; where it starts if it is learnt.
        learnable_temperature: Whether it is a parameter.
        temperature_bounds: Where it stays if it is.
        rehearsal: What the function cannot do without, beside embeddings, to be tried on two pairs.
        options: As in the function.

    Raises:
        TypeError: If there is no such option.
        ValueError: If the function refuses a value; at once, not at the first batch.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        temperature: float,
        learnable_temperature: bool,
        temperature_bounds: tuple[float, float],
        options: dict[str, Any],
        rehearsal: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        known = (*(function.__kwdefaults__ or {}), *LossOptions.__annotations__)
        for name in options:
            if name not in known:
                raise TypeError(f"expected options of {type(self).__name__} among {', '.join(known)}, got {name!r}")
        self._function = function
        self.options = options
        self.fixed_temperature = temperature
        self.learnt_temperature = LearntTemperature(temperature, temperature_bounds) if learnable_temperature else None
        tried = {**options, "temperature": temperature}
        if not isinstance(options.get("similarity", "cosine"), str | ProductSimilarity):
            tried["similarity"] = "cosine"  # a callable may be for embeddings of another width
        with torch.no_grad():
            function(torch.eye(2), torch.eye(2), **tried, **(rehearsal or {}))

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute that somebody reads.

        Raises:
            AttributeError: If it is the name of a setting that is kept elsewhere, where nothing would follow from it.
        """
        settings = _settings(type(self))  # type: ignore[arg-type]  # a class is hashable, whatever mypy makes of it
        if name in settings and name not in vars(type(self)).get("__annotations__", {}):
            raise AttributeError(
                f"expected {name} to be given when a {type(self).__name__} is made, got {name} = {value!r} afterwards, "
                "which would change nothing"
            )
        super().__setattr__(name, value)

    @property
    def temperature(self) -> float | Tensor:
        """The temperature in use: a number, or a 0-dim tensor with a graph if it is learnt."""
        return self.fixed_temperature if self.learnt_temperature is None else self.learnt_temperature()

    @property
    def similarity(self) -> Similarity:
        """How it compares embeddings."""
        return named(self.options.get("similarity", "cosine"))

    def arguments(self) -> dict[str, Any]:
        """The options, as they are now."""
        return self.options

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        *,
        positives: MaskLike | None = None,
        exclude: MaskLike | None = None,
        same_texts: Mapping[Direction, MaskLike] | None = None,
        owners: Tensor | None = None,
        weights: Tensor | None = None,
        key_weights: Tensor | None = None,
        health: Health | None = None,
        **of_loss: Tensor,
    ) -> Tensor:
        """Compute the loss of queries [Q, D] and keys [K, D]; see `SoftmaxOptions` for the rest."""
        return self._function(
            queries,
            keys,
            temperature=self.temperature,
            positives=positives,
            exclude=exclude,
            same_texts=same_texts,
            owners=owners,
            weights=weights,
            key_weights=key_weights,
            health=health,
            **self.arguments(),
            **of_loss,
        )

    def extra_repr(self) -> str:
        """Describe the settings."""
        temperature = f"{torch.as_tensor(self.temperature).item():.4g}"
        if self.learnt_temperature is not None:
            temperature += " (learnt)"
        return ", ".join([f"temperature={temperature}", *(f"{name}={value}" for name, value in self.options.items())])
