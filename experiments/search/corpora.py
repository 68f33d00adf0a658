"""What is searched: the documents of a folder, of a file, of a data set, or of the data that a run was trained with."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException

from experiments.composing import compose, said
from experiments.results.received import build_data, read_config

if TYPE_CHECKING:
    from contrastive.search import Posting

log = logging.getLogger(__name__)

_CORPUS, _DOCUMENTS = "contrastive.data.corpus.corpus", "contrastive.data.documents.documents"


def read_corpus(options: argparse.Namespace, overrides: Sequence[str]) -> tuple[str, list[Posting]]:
    """Return what is searched, in words, and its documents; those of a file or a folder with their further columns.

    A folder with a corpus needs neither queries nor judgements. A file holds documents if it does not hold pairs.
    Overrides speak to the reader of a data set, so with them nothing else is tried.
    """
    from hydra.utils import instantiate

    chosen = options.data is not None or any(override.startswith("data=") for override in overrides)
    if not chosen and (config := run_config(options.model)) is not None:
        if overrides:
            raise ValueError(f"expected --data with {overrides[0]}: the data of a run are searched as they were")
        return corpus_of(read_config(config).get("data"), options.split, build_data)
    path = Path(options.data) if options.data is not None and not overrides else None
    if path is not None and (path / "corpus.jsonl").is_file():
        return path.name, read_postings(path)
    try:
        return corpus_of(compose(data=options.data, overrides=overrides).data, options.split, instantiate)
    except (HydraException, ValueError) as error:
        if path is None or not path.is_file():
            raise
        no_pairs = said(error)
    try:
        return path.name, read_postings(path)
    except ValueError as error:
        raise ValueError(f"expected {path} to hold documents ({error}) or pairs ({no_pairs})") from error


def rebuild_words(options: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """Return what of a command line decides an index, beside its folder and the model."""
    named = ("data", "split", "device", "candidates")
    given = {name: getattr(options, name, None) for name in named}
    words = [(f"--{name}", str(value)) for name, value in given.items() if value is not None]
    return [*(word for pair in words for word in pair), *overrides]


def source_of(options: argparse.Namespace) -> Path | None:
    """Return the file that a command line names as data; None if it names something else."""
    if options.data is None:
        return None
    return next((file for file in (Path(options.data), Path(options.data, "corpus.jsonl")) if file.is_file()), None)


def corpus_of(described: Any, split: str | None, build: Callable[[Any], Any]) -> tuple[str, list[Posting]]:
    """Return name and corpus of a data set that a configuration describes; see `of_split`.

    Of `data=corpus` the documents alone are read: its queries are not needed, and take long.
    """
    if isinstance(described, Mapping) and described.get("_target_") == _CORPUS:
        of_the_documents = ("path", "columns", "separator", "encoding", "strip_html")
        settings = {name: described[name] for name in of_the_documents if name in described}
        return Path(str(settings.get("path"))).stem, of_texts(build({"_target_": _DOCUMENTS, **settings}))
    return of_split(build(described), split)


def of_split(data: Any, split: str | None) -> tuple[str, list[Posting]]:
    """Return name and corpus of a data set: of its test split, or else of dev, unless a split is given."""
    from contrastive.data import TextData

    if not isinstance(data, TextData):
        raise ValueError(f"expected a data set to search, got {type(data).__name__}")
    tasks = {"test": data.test, "dev": data.dev}
    wanted = [split] if split else list(tasks)
    task = next((tasks[name] for name in wanted if tasks[name] is not None), None)
    if task is None:
        raise ValueError(f"expected data {data.name!r} to have a {' or '.join(wanted)} split, it has none")
    name = next(name for name in wanted if tasks[name] is task)
    return f"{data.name} ({name})", of_texts(task.corpus)


def run_config(model: str) -> Path | None:
    """Return the configuration of the run that `model` is the folder of, or the model of; None if there is no run."""
    folder = Path(model).parent if Path(model).name == "model" else Path(model)
    config = folder / "config.yaml"
    return config if (folder / "model").is_dir() and config.is_file() else None


def read_postings(path: Path) -> list[Posting]:
    """Read the documents of a file, or of a folder with a corpus, with their further columns."""
    from contrastive.data.documents import read_documents
    from contrastive.search import Posting

    read = read_documents(path, metadata=True)
    if blank := sum(read.account.left_out.values()):
        log.warning("%s: left out %d documents without text", path, blank)
    return [Posting(id_, text, read.metadata[id_]) for id_, text in read.texts.items()]


def of_texts(texts: Mapping[str, str]) -> list[Posting]:
    """Return documents that say nothing beside their text."""
    from contrastive.search import Posting

    return [Posting(id_, text) for id_, text in texts.items()]
