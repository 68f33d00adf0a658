"""What a reader made of what it found, in sentences: for `experiments.data inspect` and for the beginning of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.data.shown import clean, counted, listed

if TYPE_CHECKING:
    from contrastive.data import Account


def overview(account: Account) -> list[str]:
    """Say how much was read and what from: one or two sentences."""
    used = "" if account.rows_used == account.rows_read else f", {account.rows_used:,} used"
    columns = [f"{role} from {column!r}" for role, column in account.columns.items()]
    sentences = [f"rows read: {account.rows_read:,}{used}", f"columns: {listed(columns, most=20)}"]
    return [clean(sentence) for sentence in sentences[: 2 if columns else 1]]


def cautions(account: Account) -> list[str]:
    """Say what was left out or not used, and what else a person should know; empty if there is nothing."""
    sentences = [*account.remarks]
    sentences += [
        f"{counted(count, 'row')} {'is' if count == 1 else 'are'} left out: {reason}"
        for reason, count in account.left_out.items()
        if count
    ]
    if account.unused_columns:
        sentences.append(f"columns that are not used: {listed(map(repr, account.unused_columns), most=20)}")
    return [clean(sentence) for sentence in sentences]
