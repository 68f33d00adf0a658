"""Search documents with an encoder, or its hybrid: `python -m experiments.search "data scientis 6 years, LLMs"`."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException

from experiments import cli
from experiments.composing import compose, said
from experiments.results.received import build_data, read_config

if TYPE_CHECKING:
    from contrastive.search import Hit, SearchIndex

log = logging.getLogger("experiments.search")

USAGE = """\
examples:
  python -m experiments.search "data scientis 6 years expierience, LLMs"
  python -m experiments.search --model outputs/2026-11-23/10-00-00-infonce -k 3
  python -m experiments.search "nurse, nights" --data DIR_OR_FILE --no-passages
  python -m experiments.search "nurse, nights" --data DIR_OR_FILE --bm25
  python -m experiments.search --queries queries.txt --json > hits.jsonl
  python -m experiments.search "nurse" --data jobs data.seed=1 encoder.max_length=128

A model folder with a hybrid.json, as a run leaves it, is searched by that mixture of BM25 and the encoder.
Without a query there is a prompt, or standard input is read, a query a line. The embeddings of documents are kept on
disk, those of an interrupted call too; delete them whenever you like.
"""

_OVERRIDE = re.compile(r"\+{0,2}([a-z_]+(\.\w+)+|encoder|data)=")
_CORPUS, _DOCUMENTS = "contrastive.data.corpus.corpus", "contrastive.data.documents.documents"
_BATCH = 8  # queries of a file, so that results appear as they are found


def main(arguments: list[str] | None = None) -> None:
    """Search, and print what is found."""
    heard = (
        "experiments.search",
        "experiments.results.received",
        "contrastive.search",
        "contrastive.encoder.embedding_cache",
    )
    cli.start(search, parser().parse_intermixed_args(arguments), heard=heard)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    description = "Search documents with an encoder, exactly, and show the closest passage of each."
    described = cli.parser("search", description, USAGE, usage="%(prog)s [query] [options] [name=value ...]")
    cli.add_model(described)
    cli.add_device(described)
    add = described.add_argument
    add("words", nargs="*", metavar="query, name=value", help="what to search for; values for the encoder and the data")
    add(
        "--data",
        help="a file of documents or of pairs (jsonl, csv, parquet, ...), a folder with corpus.jsonl, or a choice of "
        "configs/data (what the run of --model was trained with, else jobs)",
    )
    add("--split", choices=["dev", "test"], help="split whose corpus to search, where they differ (test, else dev)")
    add("-k", type=int, default=5, help="documents to show for each query (%(default)s)")
    add("--queries", metavar="FILE", help="read queries from a file, one a line; - is standard input")
    add("--json", action="store_true", help="print one JSON object a line for each query")
    add("--no-passages", action="store_true", help="leave out the closest passage, which takes the time of a search")
    order = described.add_mutually_exclusive_group()
    order.add_argument("--no-hybrid", action="store_true", help="rank by the encoder alone, without its hybrid.json")
    order.add_argument("--bm25", action="store_true", help="rank by BM25 alone, with misspelt words put right")
    add("--dimension", type=int, metavar="N", help="search with the first N dimensions, for models trained for it")
    cli.add_cache(described)
    return described


def search(options: argparse.Namespace) -> None:
    """Read queries and documents, embed, search and print."""
    overrides = [word for word in options.words if _OVERRIDE.match(word)]
    words = [word for word in options.words if word not in overrides]
    if options.k < 1:
        raise ValueError(f"expected -k of at least 1, got {options.k}")
    queries = read_queries(" ".join(words) if words else None, options.queries)
    for_data = [override for override in overrides if re.match(r"\+*data\b", override)]
    for_encoder = [override for override in overrides if override not in for_data]
    if options.dimension is not None:
        for_encoder.append(f"encoder.dimension={options.dimension}")
    name, documents = read_corpus(options, for_data)
    log.info("searching %s with %s: %s documents", name, options.model, f"{len(documents):,}")
    index = build_index(options, for_encoder, documents)

    several = queries is not None and len(queries) > 1
    batches = ask() if queries is None else [queries[i : i + _BATCH] for i in range(0, len(queries), _BATCH)]
    for batch in batches:
        try:
            found = index.search(batch, options.k, passages=not options.no_passages)
        except KeyboardInterrupt:
            if queries is not None:
                raise
            log.warning("interrupted")
            continue
        for query, hits in zip(batch, found, strict=True):
            if options.json:
                print_json(query, hits)
            else:
                print_hits(hits, heading=query if several else None)
        sys.stdout.flush()


def read_queries(query: str | None, file: str | None) -> list[str] | None:
    """Return the query of the command line, or those of a file or of standard input; None to ask for them."""
    if query is not None and file is not None:
        raise ValueError(f"expected a query or --queries, got {query!r} and {file}")
    if query is not None:
        file, lines = "the command line", [query]
    elif file is None and sys.stdin.isatty():
        return None
    elif file is None or file == "-":
        file = "standard input"
        log.info("reading queries from %s", file)
        lines = sys.stdin.read().splitlines()
    else:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    queries = [line.strip() for line in lines if line.strip()]
    if not queries:
        raise ValueError(f"expected a query with text in {file}, found none")
    return queries


def read_corpus(options: argparse.Namespace, overrides: Sequence[str]) -> tuple[str, Mapping[str, str]]:
    """Return what is searched, in words, and the text of each document by id.

    A folder with a corpus needs neither queries nor judgements. A file holds documents if it does not hold pairs.
    Overrides speak to the reader of a data set, so with them nothing else is tried.
    """
    from hydra.utils import instantiate

    from contrastive.data.documents import documents

    chosen = options.data is not None or any(override.startswith("data=") for override in overrides)
    if not chosen and (config := run_config(options.model)) is not None:
        if overrides:
            raise ValueError(f"expected --data with {overrides[0]}: the data of a run are searched as they were")
        return corpus_of(read_config(config).get("data"), options.split, build_data)
    path = Path(options.data) if options.data is not None and not overrides else None
    if path is not None and (path / "corpus.jsonl").is_file():
        return path.name, documents(path)
    try:
        return corpus_of(compose(data=options.data, overrides=overrides).data, options.split, instantiate)
    except (HydraException, ValueError) as error:
        if path is None or not path.is_file():
            raise
        no_pairs = said(error)
    try:
        return path.name, documents(path)
    except ValueError as error:
        raise ValueError(f"expected {path} to hold documents ({error}) or pairs ({no_pairs})") from error


def corpus_of(described: Any, split: str | None, build: Callable[[Any], Any]) -> tuple[str, Mapping[str, str]]:
    """Return name and corpus of a data set that a configuration describes; see `of_split`.

    Of `data=corpus` the documents alone are read: its queries are not needed, and take long.
    """
    if isinstance(described, Mapping) and described.get("_target_") == _CORPUS:
        of_the_documents = ("path", "columns", "separator", "encoding", "strip_html")
        settings = {name: described[name] for name in of_the_documents if name in described}
        return Path(str(settings.get("path"))).stem, build({"_target_": _DOCUMENTS, **settings})
    return of_split(build(described), split)


def of_split(data: Any, split: str | None) -> tuple[str, Mapping[str, str]]:
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
    return f"{data.name} ({name})", task.corpus


def run_config(model: str) -> Path | None:
    """Return the configuration of the run that `model` is the folder of, or the model of; None if there is no run."""
    folder = Path(model).parent if Path(model).name == "model" else Path(model)
    config = folder / "config.yaml"
    return config if (folder / "model").is_dir() and config.is_file() else None


def build_index(options: argparse.Namespace, overrides: Sequence[str], documents: Mapping[str, str]) -> SearchIndex:
    """Load the encoder and embed the documents, or find their embeddings in the cache."""
    from hydra.utils import instantiate

    from contrastive.search import SearchIndex

    encoder = cli.on_device(instantiate(compose(model=options.model, overrides=overrides).encoder), options.device)
    cache, weights = cli.embedding_cache(options), weights_of(options)
    return SearchIndex(encoder, documents, cache=cache, show_progress=sys.stderr.isatty(), weights=weights)


def weights_of(options: argparse.Namespace) -> Mapping[str, float] | None:
    """Return the weights of BM25 and the encoder that the command line or the model's hybrid asks for."""
    from contrastive.evaluation.fusion import mixture
    from contrastive.evaluation.hybrid_file import WORDS
    from experiments.evaluate.hybrids import hybrid_of

    if options.bm25:
        return {WORDS: 1.0}
    hybrid = None if options.no_hybrid else hybrid_of(options.model)
    if hybrid is None:
        return None
    log.info(
        "ranking by the model's hybrid.json: %s, unknown words put right; --no-hybrid: the encoder, words as they are",
        mixture(hybrid.weights),
    )
    return hybrid.weights


def ask() -> Iterator[list[str]]:
    """Ask for queries until an empty line, Ctrl-D or Ctrl-C."""
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401  # gives input() editing and history
    log.info("type a query; an empty line or Ctrl-D ends")
    prompt = "query> "
    while True:
        if not sys.stdout.isatty():  # keep what is written to a file free of it
            print(prompt, end="", file=sys.stderr, flush=True)
        try:
            query = input(prompt if sys.stdout.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return
        if not query:
            return
        yield [query]


def print_json(query: str, hits: Sequence[Hit]) -> None:
    """Print one line with all there is but the whole texts."""
    fields = ("rank", "id", "score", "title", "passage", "passage_score")
    print(json.dumps({"query": query, "hits": [{name: getattr(hit, name) for name in fields} for hit in hits]}))


def print_hits(hits: Sequence[Hit], *, heading: str | None) -> None:
    """Print rank, score, title and id of each hit, and its passage below."""
    from rich.console import Console
    from rich.text import Text

    from contrastive.search.passages import one_line

    console = Console()
    if heading is not None:
        console.print(Text(one_line(heading), "underline"), soft_wrap=True)
    if not hits:  # of BM25 alone: an encoder finds something near everything
        log.warning("no document has a word of the query")
    for hit in hits:
        place = f"{hit.rank:2}. {hit.score:.3f}  "
        title, id_ = one_line(hit.title), one_line(hit.id)
        console.print(Text.assemble(place, (title, "bold"), "  ", (id_, "dim")), soft_wrap=True)
        if hit.passage and hit.passage != hit.title:
            width = max(20, console.width - len(place))
            for line in Text(one_line(hit.passage)).wrap(console, width):
                console.print(Text(" " * len(place) + line.plain.rstrip()), soft_wrap=True)
    console.print()


if __name__ == "__main__":
    main()
