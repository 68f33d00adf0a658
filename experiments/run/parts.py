"""The parts of a training job, from its configuration: cheap ones first, all checked before anything long starts."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.plugins.io import CheckpointIO
from omegaconf import DictConfig
from torch import nn

from contrastive.data import RetrievalTask, TextData
from contrastive.encoder import Encoder, TwoTowers
from contrastive.encoder.embedding_cache import EmbeddingCache, default_folder
from contrastive.losses.core.signature import parameters_of
from contrastive.negatives import Kept
from contrastive.similarity import MaxSimilarity, max_dot, similarity_of
from contrastive.training import ContrastiveData, ContrastiveModule
from contrastive.training.agreement import check_agreement, loss_settings
from contrastive.training.callbacks import ClusterQueries, EmbedByGuide, FillMemory, LogTraining, MineNegatives
from contrastive.training.optimization import batches_of_epoch, planned_steps
from contrastive.training.precision import check_precision
from contrastive.training.rehearsal import rehearse
from experiments.run.checkpoints import WholeCheckpoints
from experiments.run.training_account import trained_on

log = logging.getLogger(__name__)

_LEAST_TEMPERATURE = 0.2


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a run is made of, built and checked."""

    data: TextData
    task: RetrievalTask
    encoder: Encoder
    module: ContrastiveModule
    datamodule: ContrastiveData
    negatives: MineNegatives | None
    trainer: lightning.Trainer
    cache: EmbeddingCache | None
    trained_on: dict[str, Any]
    checkpoint: Path | None
    """Where training goes on; None if it begins."""


def build(config: DictConfig, folder: Path, further: Sequence[Callback] = (), checkpoint: Path | None = None) -> Parts:
    """Build every part but the trackers, cheap ones first; refuse what cannot work before anything long starts.

    Args:
        config: What to build.
        folder: Of the run.
        further: Callbacks beside those of the configuration.
        checkpoint: Where training goes on, if it does.
    """
    check_precision(config.trainer.precision)
    optimizer, strategy = instantiate(config.optimizer), instantiate(config.negatives)
    if config.judge not in ("dev", "test"):
        raise ValueError(f"expected judge to be dev or test, got {config.judge!r}")
    encoder: Encoder = instantiate(config.encoder)  # what it and the loss refuse is known before the data are read
    loss, guide = _loss_and_guide(config, encoder)
    check_agreement(loss, encoder)
    _warn_of_temperature(loss, encoder)
    memory, momentum_encoder = instantiate(config.memory, encoder=encoder)
    data, task = _data_and_task(config)
    for each in (encoder, guide):
        if isinstance(each, Encoder | TwoTowers):
            each.weigh_queries(list(task.corpus.values()))
    datamodule = _datamodule(config, data)
    cache = embedding_cache(config.cache)
    guided = None if guide is None else EmbedByGuide(datamodule, guide, cache)
    negatives = None if strategy is None else MineNegatives(datamodule, _kept(strategy, config.cache), cache)
    validates = data.dev is not None and config.trainer.limit_val_batches != 0
    callbacks: list[Callback | None] = [
        FillMemory(),
        LogTraining(),
        *build_callbacks(config, validates=validates),
        _clusters(config, datamodule),
        guided,
        negatives,  # last: what it takes is not the time of a step
        *further,
    ]
    trainer = _trainer(config, folder, [callback for callback in callbacks if callback is not None])
    total_steps = planned_steps(len(datamodule.batches), trainer)
    _fit_validations(trainer, len(datamodule.batches))
    module = ContrastiveModule(
        encoder,
        loss,
        optimizer,
        total_steps=total_steps,
        cache=cache,
        memory=memory,
        momentum_encoder=momentum_encoder,
        sparsity=instantiate(config.sparsity) if encoder.lexical else None,
    )
    if negatives is not None and checkpoint is not None:
        kept = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["callbacks"]
        negatives.load_state_dict(kept[negatives.state_key])
    elif negatives is not None:
        negatives.choose(encoder.to(trainer.strategy.root_device))  # where it will train
        encoder.cpu()  # Lightning moves it for itself
    tried = datamodule.rehearsals() if guided is None else guided.rehearsed(datamodule.rehearsals())
    width = (2, encoder.dimension) if isinstance(similarity_of(encoder), MaxSimilarity) else encoder.dimension
    rehearse(loss, tried, width, remembers=memory is not None)
    account = trained_on(data, task, encoder, datamodule, trainer, total_steps)
    return Parts(data, task, encoder, module, datamodule, negatives, trainer, cache, account, checkpoint)


def _loss_and_guide(config: DictConfig, encoder: Encoder) -> tuple[nn.Module, Any]:
    """Build the loss, and the guide model if the loss takes its embeddings or compares as it does."""
    guide = instantiate(config.guide) if any("guide_similarity" in node for node in _losses(config.loss)) else None
    loss = build_loss(config.loss, encoder, guide)
    if guide is None and "guide_queries" in parameters_of(loss):
        guide = instantiate(config.guide)
    return loss, guide


def _warn_of_temperature(loss: nn.Module, encoder: Encoder) -> None:
    """Say so if a temperature is meant for cosines, and scores are products of weights of terms."""
    temperature = getattr(loss, "temperature", None)
    is_low = isinstance(temperature, float) and temperature < _LEAST_TEMPERATURE
    if is_low and encoder.lexical:
        log.warning(
            "A temperature of %.3g is meant for cosines; scores of encoder.representation=lexical are 10 to 30: "
            "loss.temperature=1, or experiment=lexical",
            temperature,
        )


def _data_and_task(config: DictConfig) -> tuple[TextData, RetrievalTask]:
    """Read the data, and find in them what to judge on.

    Raises:
        ValueError: If there is nothing to judge on, or nothing to train on.
    """
    data: TextData = instantiate(config.data)
    task = data.dev if config.judge == "dev" else data.test
    if task is None:
        raise ValueError(
            f"expected data {data.name!r} to have a {config.judge} split to judge on, it has none; "
            "data=mixed judges on another source than it trains on"
        )
    if not data.train:
        raise ValueError(f"expected data {data.name!r} to have training records, it has none; see experiments.evaluate")
    return data, task


def _trainer(config: DictConfig, folder: Path, callbacks: Sequence[Callback]) -> lightning.Trainer:
    """Build the trainer, which writes whole checkpoints unless its configuration has a plugin that writes others."""
    plugins = list(instantiate(config.trainer.get("plugins") or []))
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(WholeCheckpoints())
    trainer: lightning.Trainer = instantiate(
        config.trainer, callbacks=callbacks, logger=False, plugins=plugins, default_root_dir=str(folder)
    )
    return trainer


def _datamodule(config: DictConfig, data: TextData) -> ContrastiveData:
    """Build the batches."""
    how = {name: value for name, value in config.batches.items() if name not in ("clusters", "refresh_clusters")}
    options = {"batch_size": config.batch_size, "seed": config.seed, "num_negatives": config.num_negatives, **how}
    return ContrastiveData(data.train, data.dev, **options)


def _clusters(config: DictConfig, datamodule: ContrastiveData) -> ClusterQueries | None:
    """Build what clusters the queries, if there are to be clusters."""
    clusters, refresh = config.batches.clusters, config.batches.refresh_clusters
    return ClusterQueries(datamodule, clusters, refresh) if clusters else None


def _fit_validations(trainer: lightning.Trainer, num_batches: int) -> None:
    """Validate at the end of an epoch that has fewer batches than there are to be between validations.

    Lightning refuses that once the epoch is under way.
    """
    if isinstance(trainer.val_check_interval, int) and trainer.check_val_every_n_epoch is not None:
        trainer.val_check_interval = min(trainer.val_check_interval, batches_of_epoch(num_batches, trainer))


def build_loss(config: DictConfig, encoder: object, guide: object = None) -> nn.Module:
    """Build a loss that compares embeddings as their encoder does, unless its configuration says otherwise.

    Its `similarity`, or `distance` and `normalize`, are the encoder's where they are null, those of a loss inside it
    too; `guide_similarity` is the guide's.

    Raises:
        ValueError: If a loss of distances is to compare by dot product.
    """
    config = copy.deepcopy(config)
    settings = {**loss_settings(encoder), "guide_similarity": similarity_of(guide).name}
    for node in _losses(config):
        for name in settings.keys() & node.keys():
            if node[name] is None and settings[name] is None:
                of_weights = similarity_of(encoder) is max_dot
                how = "encoder.query_weights null" if of_weights else "encoder.similarity=cosine or euclidean"
                raise ValueError(
                    f"expected an encoder with a distance for {node._target_.rpartition('.')[2]}, got "
                    f"{similarity_of(encoder)} (encoder.similarity), which is none: choose a loss of scores, such as "
                    f"loss=infonce, or {how}"
                )
            if node[name] is None:
                node[name] = settings[name]
    loss: nn.Module = instantiate(config)
    return loss


def _losses(config: DictConfig) -> list[DictConfig]:
    """Return the configuration of a loss and, one after the other, of the losses inside it."""
    inner = config.get("loss")
    return [config, *(_losses(inner) if isinstance(inner, DictConfig) else [])]


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
