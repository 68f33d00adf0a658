"""The module of every loss, built from the signature of its function: settings are kept, a batch is passed on.

    class InfoNCELoss(LossModule, function=info_nce): ...

takes all that `info_nce` does but what comes with a batch, with the function's own defaults, and is called with the
rest. A function with the shared options (`SoftmaxOptions`) also has a temperature that may be learnt.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from types import MethodType
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from contrastive.contracts import Similarity
from contrastive.losses.core.distance import similarity_of_distance
from contrastive.losses.core.options import LossOptions, SoftmaxOptions
from contrastive.losses.core.temperature import LearntTemperature, check_temperature
from contrastive.similarity import ProductSimilarity, named, of_tokens

_TWO = [[1.0, 0.0], [0.0, 1.0]]
REHEARSAL = {
    "queries": _TWO,
    "keys": 2 * _TWO,
    "left": _TWO,
    "right": _TWO,
    "targets": [1.0, 0.0],
    "teacher_scores": _TWO,
    "guide_queries": _TWO,
    "guide_keys": 2 * _TWO,
}
"""What a loss cannot do without, of two pairs, each with a hard negative."""

OF_BATCH = {*REHEARSAL, *SoftmaxOptions.__annotations__} - {*LossOptions.__annotations__, "temperature"}
"""What comes with a batch, and not with the loss."""


class LossModule(nn.Module):
    """A loss function whose settings are kept.

    A subclass names its `function`, what of a batch it does not take (`without`), and settings whose defaults are not
    those of the function. Settings are read as attributes, and given once, when the loss is made.

    Raises:
        TypeError: If there is no such setting.
        ValueError: If the function refuses a value; at once, not at the first batch.
    """

    function: Callable[..., Tensor]
    settings: inspect.Signature
    shared: bool  # whether it has the options that the softmax losses share
    shared_defaults: Mapping[str, Any]
    __signature__: inspect.Signature

    def __init_subclass__(
        cls, function: Callable[..., Tensor] | None = None, without: Sequence[str] = (), **defaults: Any
    ) -> None:
        super().__init_subclass__()
        if function is None:  # somebody's subclass of a loss
            if "__init__" in vars(cls):
                cls.__signature__ = inspect.signature(MethodType(cls.__init__, cls))
            return
        taken = dict(inspect.signature(function, eval_str=True).parameters)
        cls.function, cls.shared = staticmethod(function), taken.pop("options", None) is not None
        call = [parameter for name, parameter in taken.items() if name in OF_BATCH and name not in without]
        own = {name: parameter for name, parameter in taken.items() if name not in OF_BATCH}
        if cls.shared:
            told = [name for name in SoftmaxOptions.__annotations__ if name in OF_BATCH and name not in without]
            call += [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in told]
            own = _OF_SOFTMAX | own | {"options": _OPTIONS}
        else:
            own = {name: parameter.replace(kind=Parameter.POSITIONAL_OR_KEYWORD) for name, parameter in own.items()}
        own |= {name: own[name].replace(default=value) for name, value in defaults.items() if name in own}
        cls.shared_defaults = {name: value for name, value in defaults.items() if name not in own}
        cls.settings = inspect.Signature(list(own.values()))
        further = inspect.signature(vars(cls).get("__init__", function)).parameters.values()
        more = [each for each in further if each.name.startswith("learnable_") and each.name not in own]
        cls.__signature__ = inspect.Signature(sorted([*own.values(), *more], key=lambda each: each.kind))

        def forward(self: LossModule, *embeddings: Tensor, **batch: Any) -> Tensor:
            return self.function(*embeddings, **self.arguments(), **batch)

        takes = inspect.Signature([Parameter("self", Parameter.POSITIONAL_OR_KEYWORD), *call])
        vars(forward).update(__signature__=takes)
        forward.__doc__ = f"Compute `{function.__name__}` of a batch."
        cls.forward = forward

    def __init__(self, *settings: Any, **named_settings: Any) -> None:
        super().__init__()
        bound = self.settings.bind(*settings, **named_settings)
        bound.apply_defaults()
        options = {**self.shared_defaults, **bound.arguments.pop("options", {})}
        for name in options:
            if name not in LossOptions.__annotations__:
                known = ", ".join([*bound.arguments, *LossOptions.__annotations__])
                raise TypeError(f"expected options of {type(self).__name__} among {known}, got {name!r}")
        learnable, bounds = (bound.arguments.pop(name, None) for name in [*_OF_SOFTMAX][1:])
        self.options = {**options, **bound.arguments}
        if "temperature" in self.options:
            check_temperature(self.options["temperature"])
        if learnable:
            self.learnt_temperature = LearntTemperature(self.options["temperature"], bounds)
        tried = dict(self.options)
        if not isinstance(tried.get("similarity", "cosine"), str | ProductSimilarity):
            tried["similarity"] = "cosine"  # a callable may be for embeddings of another width
        needed = inspect.signature(self.forward).parameters.keys() & REHEARSAL.keys()
        with torch.no_grad():
            self.function(**{name: _rehearsed(name, tried) for name in needed}, **tried)

    def __getattr__(self, name: str) -> Any:
        """Return a setting."""
        options = vars(self).get("options", {})
        if name == "temperature" and "learnt_temperature" in self._modules:
            return self.learnt_temperature()
        return options[name] if name in options else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute that somebody reads.

        Raises:
            AttributeError: If it is the name of a setting, which is kept elsewhere: nothing would follow from it.
        """
        settings = {*inspect.signature(type(self)).parameters, *(LossOptions.__annotations__ if self.shared else ())}
        if name in settings - {"options"} and name not in vars(type(self)).get("__annotations__", {}):
            raise AttributeError(
                f"expected {name} to be given when a {type(self).__name__} is made, got {name} = {value!r} afterwards, "
                "which would change nothing"
            )
        super().__setattr__(name, value)

    @property
    def similarity(self) -> Similarity:
        """How it compares embeddings; for a distance, what ranks as it does."""
        if "distance" in self.options:
            return similarity_of_distance(self.options["distance"], self.options["normalize"])
        return named(self.options.get("similarity", "cosine"))

    def arguments(self) -> dict[str, Any]:
        """The settings, as they are now."""
        return {**self.options, "temperature": self.temperature} if "temperature" in self.options else self.options

    def extra_repr(self) -> str:
        """Describe the settings that have a value."""
        shown = {name: value for name, value in self.options.items() if value is not None}
        if "temperature" in shown:
            temperature = f"{torch.as_tensor(self.temperature).item():.4g}"
            learnt = " (learnt)" if "learnt_temperature" in self._modules else ""
            shown = {"temperature": None} | shown | {"temperature": temperature + learnt}
        return ", ".join(f"{name}={value}" for name, value in shown.items())


def _rehearsed(name: str, options: Mapping[str, Any]) -> Tensor:
    """Return what a loss is tried out on: embeddings of one token each, if tokens are what it compares."""
    given = torch.tensor(REHEARSAL[name])
    own = options.get("similarity", options.get("distance", "cosine"))
    compared = options.get("guide_similarity", "cosine") if name.startswith("guide") else own
    return given[:, None] if of_tokens(compared) and name not in ("targets", "teacher_scores") else given


_OF_SOFTMAX = {
    "temperature": Parameter("temperature", Parameter.POSITIONAL_OR_KEYWORD, default=0.05, annotation=float),
    "learnable_temperature": Parameter("learnable_temperature", Parameter.KEYWORD_ONLY, default=False, annotation=bool),
    "temperature_bounds": Parameter(
        "temperature_bounds", Parameter.KEYWORD_ONLY, default=(0.01, 1.0), annotation=tuple[float, float]
    ),
}
_OPTIONS = Parameter("options", Parameter.VAR_KEYWORD, annotation=Unpack[LossOptions])
"""What the constructor of a loss with the shared options takes beside its own."""
