"""The hybrid of a run: BM25 and the trained encoder, mixed by weights that are fitted on dev."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contrastive.data import RetrievalTask
from contrastive.evaluation import Hybrid, Rankings, embed, fit_hybrid, rank_embedded, write_hybrid
from contrastive.evaluation.hybrid_file import ENCODER, WORDS
from experiments.evaluate.baselines import WORD_MATCHING, bm25_once
from experiments.evaluate.judging import put_right
from experiments.results.judgement import Judgement
from experiments.run.parts import Parts

log = logging.getLogger(__name__)


def leave_hybrid(
    folder: Path, parts: Parts, user_query: str, judged: Mapping[str, Judgement], report: dict[str, Any]
) -> Hybrid | None:
    """Fit the hybrid on dev, and leave it in the folder of the model and in the report; None if there is no dev.

    Args:
        folder: Of the run, which has its model.
        parts: Of the run, with the weights that it keeps.
        user_query: As BM25's kept rankings are asked for it too.
        judged: What has been judged; where that was on dev, it is not ranked again.
        report: Of the run.
    """
    dev = parts.data.dev
    if dev is None:
        log.info("There is no dev split to fit a hybrid on.")
        return None
    if parts.task is dev:
        asked = judged["after"].put_right
        systems = {WORDS: judged[WORDS].rankings, ENCODER: judged["after"].rankings if asked is None else asked[0]}
    else:
        systems = {WORDS: _words(parts, dev, user_query), ENCODER: _encoder(parts, dev)}
    hybrid = fit_hybrid(systems, dev)
    write_hybrid(folder / "model", hybrid)
    report["hybrid"] = {**asdict(hybrid), "said": str(hybrid)}
    return hybrid


def _words(parts: Parts, task: RetrievalTask, user_query: str) -> Rankings:
    kept = parts.cache.folder if parts.cache else None
    return bm25_once(task, user_query, kept, spelling=WORD_MATCHING[WORDS])


def _encoder(parts: Parts, task: RetrievalTask) -> Rankings:
    encoder = parts.encoder.to(parts.trainer.strategy.root_device)
    embeddings = embed(encoder, task, cache=parts.cache)
    return put_right(encoder, embeddings, task, rank_embedded(embeddings, task))
