"""What a run says of what it trains on, in words and in plain values."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from small_training import dev_task, records, with_negatives

from contrastive.data import Record, RetrievalTask, TextData
from contrastive.data.records import Account
from contrastive.encoder import Encoder
from contrastive.training import ContrastiveData
from experiments.run import training_account as accounts

GIVEN = Account(
    rows_read=12,
    left_out={"an empty answer": 3, "a repetition": 1, "nothing": 0},
    columns={"query": "Frage", "positive": "Antwort"},
    unused_columns=("rating", "url"),
    remarks=("Column 'rating' looks like labels.",),
)


def account(
    encoder: Encoder,
    items: list[Record],
    *,
    given: Account | None = None,
    task: RetrievalTask | None = None,
    batch_size: int = 4,
    steps: int = 2,
    limit: int | float = 1.0,
    accumulate: int = 1,
) -> dict[str, Any]:
    data = TextData("mine", items, account=given)
    served = ContrastiveData(items, None, batch_size=batch_size)
    trainer: Any = SimpleNamespace(limit_train_batches=limit, accumulate_grad_batches=accumulate)
    return accounts.trained_on(data, task or dev_task(), encoder, served, trainer, steps)


def test_everything_a_reader_says_is_told_in_a_short_paragraph(tiny_encoder: Encoder) -> None:
    found = account(tiny_encoder, records(), given=GIVEN)
    lines = accounts.paragraph(found, "mine")
    assert lines == [
        "Training on mine: 8 pairs in 2 batches of 4, 2 steps.",
        "  rows read: 12, 8 used",
        "  columns: query from 'Frage', positive from 'Antwort'",
        "  Column 'rating' looks like labels.",
        "  3 rows are left out: an empty answer",
        "  1 row is left out: a repetition",
        "  columns that are not used: 'rating', 'url'",
        "  Tokens: queries 4 (median) to 4 (longest); documents 7 (median) to 7 (longest); "
        "judged documents 7 (median) to 7 (longest).",
    ]
    assert accounts.warnings(found) == []
    assert (found["rows_read"], found["rows_used"], found["unused_columns"]) == (12, 8, ("rating", "url"))


def test_data_without_an_account_is_told_by_its_batches_and_lengths(tiny_encoder: Encoder) -> None:
    found = account(tiny_encoder, records())
    assert [line.split()[0] for line in accounts.paragraph(found, "mine")] == ["Training", "Tokens:"]
    assert found["rows_read"] is None


def test_what_is_cut_is_told_with_the_length_that_would_read_it(tiny_encoder: Encoder) -> None:
    tiny_encoder.max_length = 6
    long = [Record(record.query, record.positive + " nurse" * 5 * (i % 2)) for i, record in enumerate(records())]
    found = account(tiny_encoder, long)
    tokens = found["tokens"]["documents"]
    assert (tokens["longest"], tokens["cut"]) == (12, 1)
    assert tokens["lost"] == pytest.approx((4 * 1 + 4 * 6) / (4 * 7 + 4 * 12))
    assert "100 % of them cut to 6, which loses 37 % of the text" in accounts.paragraph(found, "mine")[-1]
    hint = "encoder.max_length=6, so 37 % of all their text is never read: encoder.max_length=64 reads more, and takes"
    assert any(line.startswith(f"100 % of the documents are longer than {hint}") for line in accounts.warnings(found))
    assert any(line.endswith("; encoder.windows=true reads them whole") for line in accounts.warnings(found))
    tiny_encoder.max_length, most = 64, records()
    full = account(tiny_encoder, [Record(record.query, record.positive + " nurse" * 99) for record in most])
    assert any("positions for no more: shorter texts" in line for line in accounts.warnings(full))


def test_texts_that_are_the_same_once_they_are_cut_are_told(tiny_encoder: Encoder) -> None:
    tiny_encoder.max_length, tiny_encoder.query_prompt = 6, "the data job "
    items = [Record(f"nurse {i % 7}", f"kitchen {i}") for i in range(7)] + [Record("chef", "hospital")]
    found = account(tiny_encoder, items)
    assert any(
        "6 of 8 different queries begin with the same 6 tokens as another" in w for w in accounts.warnings(found)
    )


def test_a_prompt_that_fills_the_length_is_refused_for_all_the_data(tiny_encoder: Encoder) -> None:
    tiny_encoder.max_length, tiny_encoder.query_prompt = 5, "the data job of "
    with pytest.raises(
        ValueError, match="queries that differ in their first 5 tokens, got 8 that do not; query_prompt"
    ):
        account(tiny_encoder, records(), batch_size=1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": 4}, "8 pairs in 2 batches of 4, 4 steps."),
        ({"batch_size": 2, "steps": 3}, "4 batches of 2, 3 steps of 3 batches in all: about 2 pairs never seen."),
        ({"batch_size": 2, "steps": 1, "accumulate": 3}, "1 step of 3 batches in all: about 2 pairs never seen."),
        ({"batch_size": 2, "steps": 4, "accumulate": 3}, "4 batches of 2, 4 steps."),
        ({"batch_size": 2, "steps": 4, "limit": 2}, "4 steps of 2 batches an epoch (trainer.limit_train_batches)."),
        ({"batch_size": 2, "steps": 2, "limit": 0.5}, "2 steps of 2 batches in all: about 4 pairs never seen."),
        ({"batch_size": 64, "steps": 1}, "8 pairs in 1 batch of 8, 1 step."),
    ],
)
def test_what_the_trainer_leaves_out_is_told(options: dict[str, Any], told: str, tiny_encoder: Encoder) -> None:
    assert accounts.paragraph(account(tiny_encoder, records(), **options), "mine")[0].endswith(told)


def test_negatives_and_a_batch_of_one_are_told(tiny_encoder: Encoder) -> None:
    found = account(tiny_encoder, with_negatives(9))
    assert "; 33 % of the pairs have no negatives of their own." in accounts.paragraph(found, "mine")[0]
    assert accounts.warnings(found) == [
        "The last batch of an epoch has one pair, which finds no negative in it: see batch_size"
    ]


def test_many_texts_are_measured_by_a_sample_that_stays_the_same(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "SAMPLE", 5)
    items = [replace(record, positive="nurse " * (place + 1)) for place, record in enumerate(records(40))]
    first, again = (account(tiny_encoder, items) for _ in range(2))
    assert first == again
    assert first["tokens"]["queries"]["texts"] == first["tokens"]["judged_documents"]["texts"] == 5
    assert "  Tokens (of a fixed sample of 5): queries" in accounts.paragraph(first, "mine")[-1]


def test_an_encoder_without_a_tokenizer_is_no_obstacle() -> None:
    found = account(SimpleNamespace(), records())  # type: ignore[arg-type]
    assert accounts.paragraph(found, "mine") == ["Training on mine: 8 pairs in 2 batches of 4, 2 steps."]
