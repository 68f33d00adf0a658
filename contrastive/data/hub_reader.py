"""The reader of data sets of pairs on the Hugging Face hub, or in a folder laid out like one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from contrastive.data.records import TextData
from contrastive.data.shown import listed
from contrastive.data.tables import Choices, text_data

_USUAL = {"train": ("train",), "dev": ("validation", "dev", "valid", "val"), "test": ("test",)}
_ROWS_AT_ONCE = 1000


def hub(
    name: str | Path,
    *,
    config: str | None = None,
    revision: str | None = None,
    splits: Mapping[str, str | Literal[False] | None] | None = None,
    columns: Mapping[str, Any] | None = None,
    min_score: float | None = None,
    held_out: float = 0.1,
    max_queries: int = 1000,
    max_train_pairs: int | None = None,
    corpus_size: int = 10_000,
    seed: int = 0,
    overlap: Literal["error", "warn"] = "error",
    strip_html: bool = False,
) -> TextData:
    """Read pairs of a query and a document that answers it from a data set on the Hugging Face hub.

    It is downloaded once, to the cache of `datasets`; no code that comes with it is run. What rows may look like, and
    what is made of them, is as in `files`: a data set with train alone is split.

    Args:
        name: Name on the hub, such as org/name, or a folder laid out like a data set there: with files such as
            train.csv or data/train-00000-of-00001.parquet, and maybe a README.md that says more.
        config: Which configuration of the data set, if it has several.
        revision: Branch, tag or commit on the hub.
        splits: Names of the splits to use as train, dev and test; null for the usual ones (train, validation, test),
            false for none.
        columns: See `files`, as all that follow.
        min_score: Pairs scored at least this are relevant.
        held_out: Share of the queries for dev, and the same for test, if the data set has neither.
        max_queries: At most so many queries in dev, and in test.
        max_train_pairs: Train on this many pairs; null takes all.
        corpus_size: Documents of train join those of dev and test while there are fewer than this.
        seed: Seed of what is drawn.
        overlap: Whether splits that share a query or an answer are refused or only reported.
        strip_html: Whether to take HTML out of the texts.

    Raises:
        FileNotFoundError: If there is no such folder, and the hub does not have it or cannot be reached.
        ValueError: If the data set or a row of it is malformed, or a split, a configuration or a column is missing.
    """
    choices = Choices(
        columns, min_score, held_out, max_queries, max_train_pairs, corpus_size, seed, overlap, strip_html
    )
    loaded = _load(name, config, revision)
    chosen = _choose(str(name), list(loaded), splits or {})
    tables = {split: _rows(f"{name}, split {theirs}", loaded[theirs]) for split, theirs in chosen.items()}
    others = [split for split in loaded if split not in chosen.values()]
    remarks = (f"splits that are not used: {listed(others)}",) if others else ()
    called = Path(name).resolve().name if Path(name).is_dir() else str(name)
    return text_data(called, tables, choices, remarks=remarks)


def _load(name: str | Path, config: str | None, revision: str | None) -> Any:
    """Load all splits with `datasets`; its Arrow files are mapped into memory, not read."""
    import datasets  # type: ignore[import-untyped]

    folder = Path(name).expanduser()
    if folder.is_file():
        raise ValueError(f"expected a folder or a name on the hub, got the file {folder}; `files` reads files")
    if not folder.is_dir() and (folder.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1):
        raise FileNotFoundError(f"expected a folder or a name on the hub such as org/name, found no folder {folder}")
    try:
        with _quiet(datasets):
            return datasets.load_dataset(str(folder) if folder.is_dir() else str(name), config, revision=revision)
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(f"{name}: not a readable data set: {_reason(error.__cause__ or error)}") from error
    except Exception as error:  # the hub's client raises its own, httpx's and the operating system's errors
        if folder.is_dir():
            raise FileNotFoundError(
                f"expected files such as train.csv or data/train-00000-of-00001.parquet in {folder}, found none that "
                f"`datasets` reads ({_reason(error)})"
            ) from error
        raise FileNotFoundError(
            f"no local folder {str(name)!r}, and the data set of that name could not be fetched from the hub "
            f"({_reason(error)}). Check the name and the network, unset HF_HUB_OFFLINE if it is set, log in for a "
            "gated data set (`hf auth login`), or download it and give the path of the folder"
        ) from error


def _reason(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said if len(said) <= 300 else said[:299] + '…'}"


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Silence the progress bars of `datasets`, noise where nothing is fetched; downloads have bars of their own."""
    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()


def _choose(name: str, there: Sequence[str], wanted: Mapping[str, str | Literal[False] | None]) -> dict[str, str]:
    """Return what the data set calls each of our splits that it has and that is wanted."""
    unknown = sorted(set(wanted) - set(_USUAL))
    if unknown:
        raise ValueError(f"expected splits among {', '.join(_USUAL)}, got {', '.join(map(repr, unknown))}")
    chosen: dict[str, str] = {}
    for split, usual in _USUAL.items():
        asked = wanted.get(split)
        if asked is False:
            continue
        found = next((theirs for theirs in ((asked,) if asked else usual) if theirs in there), None)
        if found is not None:
            chosen[split] = found
        elif asked or split == "train":
            raise ValueError(
                f"{name}: expected a split {asked or 'train'!r} to use as {split}, got {', '.join(there)} "
                f"(splits.{split} names the one to use, false uses none)"
            )
    return chosen


def _rows(where: str, split: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for table in split.with_format("arrow").iter(_ROWS_AT_ONCE):  # as Python objects images would be decoded
        for row in table.to_pylist():
            number += 1
            yield f"{where}, row {number}", row
