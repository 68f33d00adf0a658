"""What a loss takes: whoever calls one asks its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from torch import Tensor


def parameters_of(loss: Callable[..., Tensor]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a loss function or of a module's `forward`, or those that `__signature__` says."""
    takes = loss if "__signature__" in vars(loss) else getattr(loss, "forward", loss)
    return inspect.signature(takes).parameters
