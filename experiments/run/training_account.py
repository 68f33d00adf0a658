"""What a run trains on, in a few lines before its first step and in `metrics.json`: rows, columns, lengths, batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import lightning
import numpy as np

from contrastive.contracts import Side
from contrastive.data import Record, RetrievalTask, TextData
from contrastive.data.records import Account
from contrastive.data.shown import counted, percent
from contrastive.encoder.backbone import positions_of
from contrastive.encoder.truncation import check_told_apart, tower_of, truncation
from contrastive.training import ContrastiveData
from contrastive.training.optimization import batches_of_epoch
from experiments.data.account import cautions, overview

log = logging.getLogger(__name__)

SAMPLE = 1000
"""Records, and documents, that are measured of more: the same ones in every run."""
_OF_THE_READER = tuple(field.name for field in fields(Account))
MUCH_CUT = 0.25
MUCH_LOST = 0.1


def trained_on(
    data: TextData,
    task: RetrievalTask,
    encoder: Any,
    datamodule: ContrastiveData,
    trainer: lightning.Trainer,
    total_steps: int,
) -> dict[str, Any]:
    """Account for what training will see, as plain values; None where nothing is known.

    Args:
        data: What was read, with the reader's own account if it gives one.
        task: What is judged on.
        encoder: Whose tokenizer and maximum length count.
        datamodule: Its records and batches.
        trainer: How many of the batches it takes.
        total_steps: Of the optimiser.

    Raises:
        ValueError: If all queries, or all documents, are one text after they are cut.
    """
    records = [datamodule.records[place] for place in _sample(len(datamodule.records))]
    queries = [record.query for record in records]
    documents = [text for record in records for text in (record.positive, *record.negatives)]
    check_told_apart(encoder, queries, "query")
    check_told_apart(encoder, documents, "document")
    judged = list(task.corpus)
    judged = [task.corpus[judged[place]] for place in _sample(len(judged))]
    lengths = {
        "queries": truncation(encoder, queries, "query"),
        "documents": truncation(encoder, documents, "document"),
        "judged_documents": truncation(encoder, judged, "document"),
    }
    return {
        **_rows(data.account),
        "pairs": len(datamodule.records),
        "batches": _batches(datamodule, trainer, total_steps),
        "without_negatives": _without_negatives(records),
        "sample": SAMPLE if max(len(datamodule.records), len(task.corpus)) > SAMPLE else None,
        "tokens": {name: None if found is None else asdict(found) for name, found in lengths.items()},
        "positions": {side: _positions(encoder, side) for side in ("query", "document")},
    }


def tell(account: Mapping[str, Any], name: str) -> None:
    """Log the account of a run as a paragraph, and as warnings what a person would want to change.

    Args:
        account: Of `trained_on`.
        name: Of the data.
    """
    for line in paragraph(account, name):
        log.info("%s", line)
    for line in warnings(account):
        log.warning("%s", line)


def paragraph(account: Mapping[str, Any], name: str) -> list[str]:
    """Return the account in plain words, a line for each kind of fact."""
    batches = account["batches"]
    lines = [
        f"Training on {name}: {counted(account['pairs'], 'pair')} in {counted(batches['an_epoch'], 'batch', 'es')} of "
        f"{batches['size']:,}, {counted(batches['steps'], 'step')}{_seen(account)}{_negatives(account)}."
    ]
    if account["rows_read"] is not None:
        read = Account(**{name: account[name] for name in _OF_THE_READER})
        lines += [f"  {sentence}" for sentence in (*overview(read), *cautions(read))]
    described = [_described(key.replace("_", " "), found) for key, found in account["tokens"].items() if found]
    if described:
        of = f" (of a fixed sample of {account['sample']:,})" if account["sample"] else ""
        lines.append(f"  Tokens{of}: {'; '.join(described)}.")
    return lines


def warnings(account: Mapping[str, Any]) -> list[str]:
    """Return what of the account is worth a warning, with what to change."""
    found = []
    for name, tokens in account["tokens"].items():
        if tokens is None:
            continue
        side, what = ("query", "queries") if name == "queries" else ("document", name.replace("_", " "))
        if tokens["lost"] >= MUCH_LOST or tokens["cut"] >= MUCH_CUT:
            most = account["positions"][side]
            hint = (
                "the model has positions for no more: shorter texts, such as passages, would be read whole"
                if most is not None and most <= tokens["max_length"]
                else f"encoder.max_length={most or 2 * tokens['max_length']} reads more, and takes longer"
            )
            if side == "document":
                hint += "; encoder.windows=true reads them whole"
            found.append(
                f"{percent(tokens['cut'])} of the {what} are longer than encoder.max_length={tokens['max_length']}, so "
                f"{percent(tokens['lost'])} of all their text is never read: {hint}"
            )
        if tokens["alike"] > tokens["texts"] / 20:
            found.append(
                f"{tokens['alike']:,} of {tokens['texts']:,} different {what} begin with the same "
                f"{tokens['max_length']} tokens as another, which is all that is read of them: see encoder.max_length"
            )
    if account["batches"]["last"] == 1 and account["batches"]["size"] > 1:
        found.append("The last batch of an epoch has one pair, which finds no negative in it: see batch_size")
    return found


def _rows(account: Account | None) -> dict[str, Any]:
    """Return the reader's account, or that it gave none."""
    if account is None:
        nothing: dict[str, Any] = {"rows_read": None, "rows_used": None, "left_out": {}}
        return {**nothing, "columns": {}, "unused_columns": [], "remarks": []}
    return {"rows_used": account.rows_used, **asdict(account)}


def _batches(datamodule: ContrastiveData, trainer: lightning.Trainer, total_steps: int) -> dict[str, int]:
    """Return how many batches there are, how large they are, and how many the trainer takes."""
    size, there = datamodule.batches.batch_size, len(datamodule.batches)
    taken = batches_of_epoch(there, trainer)
    epochs, steps_of_last = divmod(total_steps, -(-taken // trainer.accumulate_grad_batches))
    return {
        "size": min(size, len(datamodule.records)),
        "an_epoch": there,
        "taken_an_epoch": taken,
        "steps": total_steps,
        "taken": taken * epochs + min(taken, steps_of_last * trainer.accumulate_grad_batches),
        "last": len(datamodule.records) % size or min(size, len(datamodule.records)),
    }


def _seen(account: Mapping[str, Any]) -> str:
    """Say what of an epoch the trainer leaves out."""
    batches = account["batches"]
    if batches["taken"] < batches["an_epoch"]:
        unseen = account["pairs"] * (batches["an_epoch"] - batches["taken"]) // batches["an_epoch"]
        return f" of {counted(batches['taken'], 'batch', 'es')} in all: about {counted(unseen, 'pair')} never seen"
    if batches["taken_an_epoch"] < batches["an_epoch"]:
        return f" of {counted(batches['taken_an_epoch'], 'batch', 'es')} an epoch (trainer.limit_train_batches)"
    return ""


def _negatives(account: Mapping[str, Any]) -> str:
    share = account["without_negatives"]
    return f"; {percent(share)} of the pairs have no negatives of their own" if 0 < share < 1 else ""


def _without_negatives(records: Sequence[Record]) -> float:
    return sum(not record.negatives for record in records) / len(records)


def _described(name: str, tokens: Mapping[str, Any]) -> str:
    length = f"{name} {tokens['median']:,} (median) to {tokens['longest']:,} (longest)"
    if not tokens["cut"]:
        return length
    return (
        f"{length}, {percent(tokens['cut'])} of them cut to {tokens['max_length']:,}, "
        f"which loses {percent(tokens['lost'])} of the text"
    )


def _positions(encoder: Any, side: Side) -> int | None:
    tower = tower_of(encoder, side)
    return None if tower is None else positions_of(tower.backbone)


def _sample(count: int) -> Sequence[int]:
    """Return which of so many are measured: all, or a sample that is the same each time."""
    if count <= SAMPLE:
        return range(count)
    chosen: list[int] = sorted(np.random.default_rng(0).choice(count, SAMPLE, replace=False).tolist())
    return chosen
