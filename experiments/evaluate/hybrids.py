"""The hybrid of BM25 and an encoder: fitted on one task, judged on another, kept with the model."""

from __future__ import annotations

from pathlib import Path

from contrastive.data import RetrievalTask
from contrastive.encoder.locating import local_folder
from contrastive.evaluation import Hybrid, evaluate_rankings, fuse, read_hybrid
from contrastive.evaluation.hybrid_file import ENCODER, WORDS
from experiments.composing import model_folder
from experiments.evaluate.judging import grades_of_top, texts_of_top
from experiments.results.judgement import Judgement


def judge_hybrid(
    hybrid: Hybrid, words: Judgement, encoder: Judgement, task: RetrievalTask, user_query: str, num_top: int = 3
) -> Judgement:
    """Judge a hybrid on a task by the rankings of its parts, of BM25 with words put right and of the encoder.

    Args:
        hybrid: As fitted, on another task.
        words: Of `WORDS` on the task.
        encoder: Of the encoder on the task, which has it asked with words put right too.
        task: Says what is relevant.
        user_query: A further query, which both parts were asked.
        num_top: Documents to keep for it.

    Raises:
        ValueError: If a part was not asked the user's query.
    """
    if words.asked is None or encoder.put_right is None:
        raise ValueError("expected judgements of parts that rank the user's query, got one without")
    rankings = fuse({WORDS: words.rankings, ENCODER: encoder.put_right[0]}, hybrid.weights)
    asked = fuse({WORDS: words.asked, ENCODER: encoder.put_right[1]}, hybrid.weights)
    return Judgement(
        rankings,
        evaluate_rankings(rankings, task),
        texts_of_top(asked, task, num_top),
        grades_of_top(asked, task, user_query, num_top),
        asked=asked,
    )


def hybrid_of(model: str) -> Hybrid | None:
    """Return the hybrid of a model, by folder of a run, folder of a model, or hub name; None if it has none.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If the file is not as a run writes it.
    """
    return None if model == "minilm" else read_hybrid(Path(local_folder(model_folder(model))))
