"""Negatives of records: put after their own, chosen again when they are due, the same after a resume."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from small_training import quiet_trainer, records

from contrastive.data import Batch, Record
from contrastive.encoder import Encoder
from contrastive.losses import InfoNCELoss
from contrastive.negatives import ChosenNegatives, Kept, Mined, Mixed, Moment, Pool, Random
from contrastive.training import ContrastiveData, ContrastiveModule
from contrastive.training.callbacks import MineNegatives
from contrastive.training.optimization import LinearDecayAdamW

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")


class Following:
    """Chooses for each pair the document that follows after 1, 2, ... places: further with each choice."""

    def __init__(self, every: int = 0) -> None:
        self.every = every
        self.moments: list[Moment] = []

    def __call__(self, pool: Pool, moment: Moment = Moment()) -> Sequence[ChosenNegatives]:  # noqa: B008
        self.moments.append(moment)
        places = [(place + 1 + moment.refresh) % len(pool) for place in range(len(pool))]
        others = [pool.pairs[place].positive_id for place in places]
        return [ChosenNegatives((other,), (0.5,), (3,), {"rank": 1}, ("next",), 0.75) for other in others]

    def is_due(self, *, step: int, steps_an_epoch: int) -> bool:  # noqa: ARG002
        return self.every > 0 and step % self.every == 0


def chosen(strategy: Any, given: Sequence[Record]) -> MineNegatives:
    negatives = MineNegatives(ContrastiveData(given, None, batch_size=4), strategy)
    negatives.choose(None)
    return negatives


def test_negatives_come_after_the_records_own_and_reach_the_batch() -> None:
    own = [replace(record, negatives=("the chef",), negative_ids=("n",)) for record in records(4)]
    negatives = chosen(Following(), own)
    assert [record.negative_ids for record in negatives.data.records] == [("n", f"d{i}") for i in (1, 2, 3, 0)]
    assert negatives.data.records[0].negatives == ("the chef", own[1].positive)
    data = chosen(Following(), records(4)).data
    batch = data.batch(next(iter(data.train_dataloader())))
    assert len(batch.documents) == 8
    assert batch.owners.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_what_came_of_a_choice_is_counted() -> None:
    summary = chosen(Following(), records(4)).summary
    assert (summary.pairs, summary.negatives, summary.refused, summary.sources) == (4, 4, {"rank": 4}, {"next": 4})
    assert summary.numbers() == {
        "negatives/count": 4,
        "negatives/score": 0.5,
        "negatives/positive_score": 0.75,
        "negatives/rank": 3,
    }


def test_records_without_ids_are_given_negatives() -> None:
    nameless = [replace(record, query_id="", positive_id="", grades={}, negatives=("a",)) for record in records(4)]
    negatives = chosen(Following(), nameless)
    assert [record.negatives for record in negatives.data.records] == [
        ("a", nameless[(place + 1) % 4].positive) for place in range(4)
    ]
    assert negatives.data.batch([0, 1]).documents[2:] == [
        text for column in (0, 1) for text in (negatives.data.records[row].negatives[column] for row in (0, 1))
    ]


@pytest.mark.parametrize("changes", [{"score": 0.5}, {"teacher_scores": (1.0,)}])
def test_scored_records_are_not_given_negatives(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="without score and teacher_scores"):
        chosen(Following(), [replace(record, **changes) for record in records(2)])


def test_a_second_choice_replaces_the_first_and_starts_from_what_was_given() -> None:
    strategy = Following(every=2)
    negatives = chosen(strategy, records(4))
    assert [negatives.is_due(step=step, steps_an_epoch=9) for step in (0, 1, 2)] == [False, False, True]
    negatives.choose("the model", step=2, progress=0.5)
    assert [record.negative_ids for record in negatives.data.records] == [(f"d{i}",) for i in (2, 3, 0, 1)]
    assert not negatives.is_due(step=2, steps_an_epoch=9)
    assert strategy.moments[1] == Moment("the model", refresh=1, progress=0.5)  # type: ignore[arg-type]


def test_processes_take_what_the_first_chose() -> None:
    negatives = chosen(Following(), records(3))
    negatives.choose(None, step=1, agreed=lambda _: [("d1",), ("d1",), ("d0",)])
    assert [record.negative_ids for record in negatives.data.records] == [("d1",), ("d1",), ("d0",)]


def test_a_strategy_without_an_interval_is_asked_once() -> None:
    for strategy in (Mined(Random()), Kept(Mined(Random())), Mixed({"random": Random()}, mix={"random": 1})):
        negatives = chosen(strategy, records(8))
        assert not any(negatives.is_due(step=step, steps_an_epoch=1) for step in range(20))


def test_a_mixture_on_its_way_is_asked_every_epoch() -> None:
    moving = Mixed({"random": Random()}, mix={"random": 1}, final_mix={"random": 1})
    assert [step for step in range(9) if moving.is_due(step=step, steps_an_epoch=4)] == [4, 8]
    assert Kept(moving).is_due(step=4, steps_an_epoch=4)
    faster = Mixed({"random": Random()}, mix={"random": 1}, every_n_steps=3)
    assert [step for step in range(9) if faster.is_due(step=step, steps_an_epoch=4)] == [3, 6]


def test_what_a_model_in_training_chose_is_not_kept_on_disk(tmp_path: Path) -> None:
    kept = Kept(Mined(Random()), tmp_path)
    pool = Pool.of_records(records(8))
    first = kept(pool)
    assert len(list(tmp_path.glob("*.gz"))) == 1
    assert [each.ids for each in kept(pool, Moment(refresh=1))] != [each.ids for each in first]
    assert len(list(tmp_path.glob("*.gz"))) == 1


def test_a_checkpoint_brings_back_what_was_chosen() -> None:
    first, second = chosen(Following(every=2), records(4)), chosen(Following(every=2), records(4))
    first.choose(None, step=2, progress=0.5)
    second.load_state_dict(first.state_dict())
    assert second.data.records == first.data.records
    assert second.history == first.history
    assert [choice.step for choice in second.history] == [0, 2]
    assert not second.is_due(step=2, steps_an_epoch=9)
    second.choose(None, step=4, progress=1.0)
    assert second.strategy.moments[-1].refresh == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("others", [records(3), [replace(r, positive_id=f"x{r.positive_id}") for r in records(4)]])
def test_a_checkpoint_of_other_records_is_refused(others: list[Record]) -> None:
    state = chosen(Following(), records(4)).state_dict()
    with pytest.raises(ValueError, match="expected a checkpoint with negatives of these"):
        chosen(Following(), others).load_state_dict(state)


class Watching(ContrastiveModule):
    """Notes how far the negatives of each step are from their positives."""

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        number = {record.positive: place for place, record in enumerate(records(8))}
        positives, negatives = ([number[text] for text in part] for part in (batch.documents[:4], batch.documents[4:]))
        self.steps.append({(n - p) % 8 for n, p in zip(negatives, positives, strict=True)})
        return super().training_step(batch, batch_idx)


def train(
    encoder: Encoder, folder: Path, *, epochs: int, every: int = 3, resume: Path | None = None
) -> tuple[list[set[int]], Any]:
    """Train on 8 records in batches of 4, with negatives chosen again every few steps."""
    strategy = Following(every=every)
    data = ContrastiveData(records(8), None, batch_size=4)
    module = Watching(encoder, InfoNCELoss(), LinearDecayAdamW(), total_steps=8)
    module.steps = []
    trainer = quiet_trainer(
        folder,
        max_epochs=epochs,
        logger=CSVLogger(folder, name="", version="resumed" if resume else "first"),
        log_every_n_steps=1,
        callbacks=[MineNegatives(data, strategy)],
    )
    trainer.fit(module, data, ckpt_path=resume)
    trainer.save_checkpoint(folder / "end.ckpt")
    return module.steps, strategy


def logged_steps(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["negatives/rank"]]


def test_a_step_has_the_latest_negatives(tiny_encoder: Encoder, tmp_path: Path) -> None:
    steps, strategy = train(tiny_encoder, tmp_path, epochs=4)
    assert steps == [{1}, {1}, {1}, {2}, {2}, {2}, {3}, {3}]
    assert [moment.progress for moment in strategy.moments] == [0, 3 / 8, 6 / 8]
    assert strategy.moments[1].encoder is tiny_encoder


def test_negatives_are_not_chosen_again_after_the_last_step(tiny_encoder: Encoder, tmp_path: Path) -> None:
    _, strategy = train(tiny_encoder, tmp_path, epochs=4, every=4)
    assert [moment.progress for moment in strategy.moments] == [0, 4 / 8]


def test_a_run_resumed_where_a_choice_was_due_begins_with_it(tiny_encoder: Encoder, tmp_path: Path) -> None:
    train(tiny_encoder, tmp_path, epochs=2, every=9)
    steps, strategy = train(tiny_encoder, tmp_path, epochs=4, every=4, resume=tmp_path / "end.ckpt")
    assert steps == [{2}] * 4
    assert [moment.progress for moment in strategy.moments] == [4 / 8]


def test_a_resumed_run_goes_on_with_the_negatives_it_had(tiny_encoder: Encoder, tmp_path: Path) -> None:
    train(tiny_encoder, tmp_path, epochs=2)
    steps, strategy = train(tiny_encoder, tmp_path, epochs=4, resume=tmp_path / "end.ckpt")
    assert steps == [{2}, {2}, {3}, {3}]
    assert [logged_steps(tmp_path / run) for run in ("first", "resumed")] == [[0, 3], [6]]  # each choice once
    assert [moment.refresh for moment in strategy.moments] == [2]  # and not the first choice again
