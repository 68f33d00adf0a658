"""Training: the module and the data module under Lightning, and what they are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contrastive.training.data_module import ContrastiveData
    from contrastive.training.module import ContrastiveModule

__all__ = ["ContrastiveData", "ContrastiveModule"]


def __getattr__(name: str) -> Any:
    """Import what needs Lightning when it is asked for: `contrastive.testing`, which gathers, needs torch alone."""
    if name == "ContrastiveData":
        from contrastive.training.data_module import ContrastiveData

        return ContrastiveData
    if name == "ContrastiveModule":
        from contrastive.training.module import ContrastiveModule

        return ContrastiveModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
