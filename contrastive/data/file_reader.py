"""The reader of a person's own files of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from contrastive.data.records import TextData
from contrastive.data.rows import ENDINGS, ending, rows
from contrastive.data.shown import listed
from contrastive.data.tables import Choices, text_data

_NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}


def files(
    path: str | Path | None = None,
    *,
    train: str | Path | None = None,
    dev: str | Path | None = None,
    test: str | Path | None = None,
    columns: Mapping[str, Any] | None = None,
    min_score: float | None = None,
    held_out: float = 0.1,
    max_queries: int = 1000,
    max_train_pairs: int | None = None,
    corpus_size: int = 10_000,
    seed: int = 0,
    overlap: Literal["error", "warn"] = "error",
    separator: str | None = None,
    encoding: str | None = None,
    strip_html: bool = False,
) -> TextData:
    r"""Read pairs of a query and a document that answers it, one a row, from files that `rows` can read.

    Columns are recognised by their usual names, such as query, positive and negative, or anchor, pos, neg_1 and neg_2,
    or question and answer, or sentence1, sentence2 and score; `columns` names others. A row may hold any number of
    negatives, in a column each or as a list, and several positives as a list; it then makes a record for each.

    Without files for dev and test their queries are held out of train: rows that share a query or a positive stay
    together, and a row's place depends on its text and the seed alone. With either file nothing is held out. The tasks
    ask for the positives of their queries among all documents of dev and test and some of train; a row's own negatives
    are not judged, so that they count like any other document. Texts are kept on disk (see `RowsOnDisk`) and read when
    they are asked for.

    Args:
        path: A file, all of it to train on but for what is held out; or a folder with a file named train, and maybe
            dev (or validation, valid, val) and test.
        train: File to train on, in place of `path`.
        dev: File to tune on.
        test: File to be scored once.
        columns: Names of columns for any of query, positive, negatives (a list), score, query_id and positive_id; null
            for the usual ones, false not to use any. Case, blanks, underscores and hyphens do not matter. Texts without
            ids get ids made from the text. Those among `lists` hold lists written as text, such as ['a', 'b'].
        min_score: Pairs scored at least this are relevant; those below are not trained on and are judged irrelevant.
            With null the training records keep scores, if there are any, and there are no tasks.
        held_out: Share of the queries for dev, and the same for test; 0 for neither.
        max_queries: At most so many queries in dev, and in test.
        max_train_pairs: Train on this many pairs, drawn by `seed`; null takes all.
        corpus_size: Documents of train join those of dev and test while there are fewer than this.
        seed: Seed of what is drawn.
        overlap: Whether splits that share a query or an answer are refused or only reported.
        separator: What stands between the columns of CSV or TSV files; see `rows`.
        encoding: Encoding of text files; see `rows`.
        strip_html: Whether to take HTML out of the texts; see `strip_markup`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a row is malformed, a column is missing or cannot be told, an id stands for two texts, nothing
            can be held out, or splits overlap; it names the line.

    Example:
        >>> file = getfixture("tmp_path") / "pairs.csv"
        >>> lines = [f"job {i},posting {i}" for i in range(20)]
        >>> _ = file.write_text("\n".join(["query,answer", *lines]))
        >>> data = files(file)
        >>> len(data.train), len(data.dev.queries), len(data.test.queries), len(data.test.corpus)
        (16, 2, 2, 20)
    """
    named = {"train": train, "dev": dev, "test": test}
    found = {split: Path(file).expanduser() for split, file in named.items() if file is not None}
    if (path is None) == (not found):
        raise ValueError(f"expected either path, or some of train, dev and test; got {'both' if found else 'neither'}")
    if path is not None:
        place = Path(path).expanduser()
        found = _in_folder(place) if place.is_dir() else {"train": place}
    else:
        place = next(iter(found.values()))
    choices = Choices(
        columns, min_score, held_out, max_queries, max_train_pairs, corpus_size, seed, overlap, strip_html
    )
    tables = {split: rows(file, separator=separator, encoding=encoding) for split, file in found.items()}
    remarks = _not_used(place, found.values()) if place.is_dir() else ()
    return text_data(place.resolve().name.removesuffix(ending(place)), tables, choices, remarks=remarks)


def _not_used(folder: Path, used: Iterable[Path]) -> Sequence[str]:
    """Say which other files of data a folder has."""
    there = sorted(file.name for file in folder.iterdir() if ending(file) in ENDINGS and file not in used)
    return (f"files that are not used: {listed(there)}",) if there else ()


def _in_folder(folder: Path) -> dict[str, Path]:
    """Find the file of each split by its name."""
    there = sorted(file for file in folder.iterdir() if file.is_file())
    found: dict[str, Path] = {}
    for split, names in _NAMES.items():
        wanted = {f"{name}{end}" for name in names for end in ENDINGS}
        fitting = [file for file in there if file.name in wanted]
        if len(fitting) > 1:
            raise ValueError(f"{folder}: expected one file for {split}, got {', '.join(file.name for file in fitting)}")
        if fitting:
            found[split] = fitting[0]
    if not found:
        raise FileNotFoundError(
            f"expected a file named train, dev or test and ending in {', '.join(ENDINGS)} in {folder}, found "
            f"{listed(file.name for file in there) or 'none'} (`beir` reads corpus.jsonl, queries.jsonl "
            "and qrels; `hub` reads a folder in the layout of the hub)"
        )
    return found
