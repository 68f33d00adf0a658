"""Low-rank adapters (LoRA) through peft: adding them to a backbone, merging, writing and reading them.

Notable decisions:

- Saving merges a copy. Adding the adapters to the weights in place and taking them off again is not exact.
- A frozen layer gets no adapter: merged into the layer, it would change what was to stay as it is.
- An adapter that is read is merged into its base at once, so that it is the same model as the merged folder.
- peft is imported in the functions that need it: that takes seconds.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel

from contrastive.data.json_files import read_object
from contrastive.encoder.loading import read_tensors

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class LoRA:
    """Trains low-rank updates of linear layers, h = W x + alpha / rank B A x, in place of the weights W.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, https://arxiv.org/abs/2106.09685

    Attributes:
        rank: Rank of an update B A; 0 for none, which trains the weights themselves.
        alpha: Scale of the update before it is divided by the rank.
        dropout: Share of x that is dropped before A, at least 0 and below 1.
        target_modules: Ends of the names of the layers to adapt, or a regular expression for whole names. None takes
            peft's choice for the architecture, or all linear layers where it has none.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> LoRA(rank=8).alpha
        32.0
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    target_modules: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"expected a LoRA rank of at least 0, got {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"expected a LoRA alpha > 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected a LoRA dropout of at least 0 and below 1, got {self.dropout}")


def add_adapters(backbone: PreTrainedModel, lora: LoRA) -> PeftModel:
    """Put adapters into a backbone and freeze all else; a module that is frozen already gets none.

    Raises:
        ValueError: If no layer is left to adapt.
    """
    from peft import LoraConfig, get_peft_model
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    targets = lora.target_modules
    if targets is None:
        targets = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(backbone.config.model_type, "all-linear")
    config = LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides it by the rank, and takes any number
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        exclude_modules=_frozen_modules(backbone) or None,
    )
    try:
        with _quiet_peft():
            return get_peft_model(backbone, config)
    except ValueError as error:
        raise ValueError(f"no layer of {type(backbone).__name__} to adapt with {lora}: {error}") from error


def plain(backbone: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the backbone that adapters were put into, or itself if it has none."""
    return backbone if isinstance(backbone, PreTrainedModel) else backbone.get_base_model()  # type: ignore[return-value]


def merged(backbone: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return a plain backbone with the same embeddings: a copy with its adapters merged, or itself if it has none."""
    if isinstance(backbone, PreTrainedModel):
        return backbone
    return copy.deepcopy(backbone).merge_and_unload()  # type: ignore[no-any-return]


def write_adapter(backbone: PeftModel, folder: Path) -> None:
    """Write the adapters alone, in peft's format."""
    backbone.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink()  # a form to be filled in


def merge_adapter(backbone: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Read an adapter and merge it into its base; what was trainable is so again.

    Raises:
        FileNotFoundError: If there are no weights in safetensors.
        ValueError: If it is no LoRA adapter, or does not fit this base.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    if not (folder / _ADAPTER_WEIGHTS).is_file():
        raise FileNotFoundError(f"expected {_ADAPTER_WEIGHTS} in {folder}, found none; other formats are not read")
    described = read_object(folder / ADAPTER_CONFIG)
    if described.get("peft_type") != "LORA":
        raise ValueError(f"expected a LoRA adapter in {folder}, got peft_type {described.get('peft_type')!r:.80}")
    if described.get("megatron_config") is not None:
        raise ValueError(f"{folder / ADAPTER_CONFIG} names a module of Python to import, which is never done")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # values of the wrong type raise whatever they meet first
        said = " ".join(str(error).split())
        raise ValueError(f"expected {folder / ADAPTER_CONFIG} to describe a LoRA adapter: {said}") from error
    trainable = {name for name, weight in backbone.named_parameters() if weight.requires_grad}
    try:
        with _quiet_peft():
            adapted = get_peft_model(backbone, config)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"the adapter in {folder} does not fit {type(backbone).__name__}: {error}") from error
    weights = read_tensors(folder / _ADAPTER_WEIGHTS)
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    shapes, expected_shapes = ({name: tuple(t.shape) for name, t in state.items()} for state in (weights, expected))
    differing = sorted(set(shapes.items()) ^ set(expected_shapes.items()))
    if differing:
        name = differing[0][0]
        raise ValueError(
            f"the adapter in {folder} does not fit its base, {backbone.name_or_path}: expected {name} of shape "
            f"{expected_shapes.get(name)}, got {shapes.get(name)}"
        )
    set_peft_model_state_dict(adapted, weights)
    plain: PreTrainedModel = adapted.merge_and_unload()
    for name, weight in plain.named_parameters():
        weight.requires_grad_(name in trainable)
    return plain


def _frozen_modules(backbone: nn.Module) -> list[str]:
    """Name the modules inside a backbone that have weights of their own, all of them frozen."""
    weights_of = {name: list(module.parameters(recurse=False)) for name, module in backbone.named_modules() if name}
    return [name for name, weights in weights_of.items() if weights and not any(w.requires_grad for w in weights)]


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Silence what peft says when it is used as it must be used here."""
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.2x by a name that is deprecated there.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        # GPT-2's layers are transposed; peft sees to it and says so.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False but the target module is `Conv1D`")
        yield
