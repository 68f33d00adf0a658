"""The parts of a training job, from its configuration: cheap ones first, all checked before anything long starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.plugins.io import CheckpointIO
from omegaconf import DictConfig, OmegaConf
from torch import nn

from contrastive.data import RetrievalTask, TextData
from contrastive.embedded_batch import parameters_of
from contrastive.embedding_cache import EmbeddingCache, default_folder
from contrastive.encoder import Encoder
from contrastive.negatives import Kept
from contrastive.optimization import planned_steps
from contrastive.training import ContrastiveModule
from contrastive.training_data import ContrastiveData
from experiments.callbacks import WholeCheckpoints

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a run is made of, built and checked."""

    data: TextData
    task: RetrievalTask
    encoder: Encoder
    module: ContrastiveModule
    datamodule: ContrastiveData
    trainer: lightning.Trainer
    loggers: list[Any]
    cache: EmbeddingCache | None


def build(config: DictConfig, folder: Path, further: Sequence[Callback] = (), opened: list[Any] | None = None) -> Parts:
    """Build every part, cheap ones first, and refuse what cannot work before anything long starts.

    Args:
        config: What to build.
        folder: Of the run.
        further: Callbacks beside those of the configuration.
        opened: Takes the trackers once they are open, for the caller to close them if something else is refused.
    """
    loss: nn.Module = instantiate(config.loss)
    optimizer = instantiate(config.optimizer)
    strategy = instantiate(config.negatives)
    if config.judge not in ("dev", "test"):
        raise ValueError(f"expected judge to be dev or test, got {config.judge!r}")
    data: TextData = instantiate(config.data)
    task = data.dev if config.judge == "dev" else data.test
    if task is None:
        raise ValueError(
            f"expected data {data.name!r} to have a {config.judge} split to judge on, it has none; "
            "data=mixed judges on another source than it trains on"
        )
    if not data.train:
        raise ValueError(f"expected data {data.name!r} to have training records, it has none; see experiments.evaluate")
    cache = embedding_cache(config.cache)
    encoder: Encoder = instantiate(config.encoder)
    validates = data.dev is not None and config.trainer.limit_val_batches != 0
    callbacks = [*build_callbacks(config, validates=validates), *further]
    loggers = instantiate(config.logger, folder=folder)
    if opened is not None:
        opened += loggers
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))
    plugins = list(instantiate(config.trainer.get("plugins") or []))
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(WholeCheckpoints())
    trainer = instantiate(
        config.trainer, callbacks=callbacks, logger=loggers, plugins=plugins, default_root_dir=str(folder)
    )
    encoder.to(trainer.strategy.root_device)  # to mine negatives there; Lightning moves it for itself
    datamodule = ContrastiveData(
        data.train,
        data.dev,
        batch_size=config.batch_size,
        seed=config.seed,
        num_negatives=config.num_negatives,
        negatives=_kept(strategy, config.cache),
        encoder=encoder,
        guide=instantiate(config.guide) if "guide_queries" in parameters_of(loss) else None,
        cache=cache,
        **config.batches,
    )
    encoder.cpu()
    total_steps = planned_steps(len(datamodule.batches), trainer)
    memory, momentum_encoder = instantiate(config.memory, encoder=encoder)
    module = ContrastiveModule(
        encoder, loss, optimizer, total_steps=total_steps, cache=cache, memory=memory, momentum_encoder=momentum_encoder
    )
    module.rehearse(datamodule.rehearsal())
    return Parts(data, task, encoder, module, datamodule, trainer, loggers, cache)


def embedding_cache(folder: str | None) -> EmbeddingCache | None:
    """Return the cache in a folder, in the user's cache folder for `default`, or none for None."""
    if folder is None:
        return None
    return EmbeddingCache(default_folder() if folder == "default" else Path(folder).expanduser())


def _kept(strategy: Any, folder: str | None) -> Any:
    """Return a strategy whose choices are kept where the embeddings are, or as it is if nothing is to be kept."""
    if strategy is None or folder is None:
        return strategy
    return Kept(strategy) if folder == "default" else Kept(strategy, Path(folder).expanduser() / "negatives")


def build_callbacks(config: DictConfig, *, validates: bool) -> list[Callback]:
    """Build the callbacks, without those that the trainer's own switches turn off or that have nothing to watch."""
    unwanted: tuple[type[Callback], ...] = ()
    if not validates:
        log.info("There is nothing to validate on: the last weights are kept.")
        unwanted += (EarlyStopping, ModelCheckpoint)
    if not config.trainer.enable_progress_bar:
        unwanted += (ProgressBar,)
    if not config.trainer.get("enable_checkpointing", True):
        unwanted += (ModelCheckpoint,)
    for name, callback in config.callbacks.items():
        if callback is not None and not (isinstance(callback, DictConfig) and "_target_" in callback):
            raise ValueError(f"expected callbacks.{name}._target_ to say what it is, got {callback}")
    built = (instantiate(callback) for callback in config.callbacks.values() if callback is not None)
    return [callback for callback in built if not isinstance(callback, unwanted)]
