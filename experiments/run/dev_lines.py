"""What the dev metric of a training is to be held against: BM25 and the untuned encoder, before the first step.

The untuned encoder is the first point of the curve. It is no candidate for the weights that are kept, and early
stopping does not count it: what a run leaves is what its training made. Where that is worse than before, the run says
so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from contrastive.data import RetrievalTask
from contrastive.evaluation import embed, evaluate_rankings, rank_embedded
from experiments.evaluate.judging import Judgement, judge_bm25
from experiments.run.parts import Parts

log = logging.getLogger(__name__)

METRIC = "ndcg@10"
LINES = {"BM25": f"dev/bm25_{METRIC}", "untuned": f"dev/untuned_{METRIC}"}
"""The horizontal lines beside the curve of `dev/ndcg@10`, by what they are of."""


class DrawLines(Callback):
    """Logs constants with every validation, so that trackers draw them as lines.

    Args:
        values: By name.
    """

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values = dict(values)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log them."""
        if not trainer.sanity_checking:
            pl_module.log_dict(self.values, batch_size=1, rank_zero_only=True)


def dev_means(parts: Parts, user_query: str, judged: Mapping[str, Judgement]) -> dict[str, dict[str, float]]:
    """Return the metrics of BM25 and the untuned encoder on dev; empty if there is nothing to validate on.

    Of several processes the first alone does it and has it.

    Args:
        parts: Of the run, not trained yet.
        user_query: As BM25's kept rankings are asked for it too.
        judged: What has been judged; where that was on dev, it is not done again.
    """
    task = parts.data.dev
    if task is None or not parts.trainer.limit_val_batches or not parts.trainer.is_global_zero:
        return {}
    known = judged if parts.task is task else {}
    folder = parts.cache.folder if parts.cache else None
    bm25 = known["BM25"] if "BM25" in known else judge_bm25(task, user_query, cache=folder)
    untuned = known["before"].results.means if "before" in known else _untuned(parts, task)
    return {"BM25": dict(bm25.results.means), "untuned": dict(untuned)}


def draw_lines(parts: Parts, means: Mapping[str, Mapping[str, float]]) -> None:
    """Put the untuned encoder at the start of the history, and both as lines into it."""
    lines = {LINES[name]: of[METRIC] for name, of in means.items()}
    for logger in parts.trainer.loggers if means and parts.checkpoint is None else ():  # it has begun where it goes on
        logger.log_metrics({**{f"dev/{name}": value for name, value in means["untuned"].items()}, **lines}, step=0)
    if lines:
        log.info("On dev, %s: %s", METRIC, ", ".join(f"{name} {means[name][METRIC]:.3f}" for name in means))
        parts.trainer.callbacks.insert(0, DrawLines(lines))  # type: ignore[attr-defined]


def say_if_worse(monitored: dict[str, Any] | None, means: Mapping[str, Mapping[str, float]], *, lower: bool) -> None:
    """Note what the untuned encoder had of the monitored metric, and warn if training never reached that.

    Args:
        monitored: What chose the weights; gets an entry `untuned`.
        means: Of `dev_means`.
        lower: Whether the metric is better when it is lower.
    """
    name = str(monitored["metric"]).removeprefix("dev/") if monitored else ""
    if monitored is None or name not in means.get("untuned", {}):
        return
    before = monitored["untuned"] = means["untuned"][name]
    if (monitored["value"] > before) if lower else (monitored["value"] < before):
        log.warning(
            "Training made it worse on dev: %s was %.3f before the first step and at best %.3f after one. The model is "
            "the best of the training; the untuned encoder is better",
            *(name, before, monitored["value"]),
        )


def _untuned(parts: Parts, task: RetrievalTask) -> Mapping[str, float]:
    encoder = parts.encoder.to(parts.trainer.strategy.root_device)
    log.info("Validating the untuned encoder on %s", task.name)
    embeddings = embed(encoder, task, show_progress=parts.trainer.progress_bar_callback is not None, cache=parts.cache)
    return evaluate_rankings(rank_embedded(embeddings, task), task).means
