"""Search documents with an encoder, or its hybrid: `python -m experiments.search "data scientis 6 years, LLMs"`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import cli
from experiments.composing import compose
from experiments.search.corpora import read_corpus, rebuild_words, source_of
from experiments.search.printing import print_hits, print_json

if TYPE_CHECKING:
    from contrastive.encoder.embedding_cache import EmbeddingCache, KeyedEncoder
    from contrastive.search import Posting, SearchIndex

log = logging.getLogger("experiments.search")

USAGE = """\
examples:
  python -m experiments.search "data scientis 6 years expierience, LLMs"
  python -m experiments.search --model outputs/2026-11-23/10-00-00-infonce -k 3
  python -m experiments.search "nurse, nights" --data DIR_OR_FILE --no-passages
  python -m experiments.search "nurse, nights" --data DIR_OR_FILE --bm25
  python -m experiments.search "nurse, nights" --explain
  python -m experiments.search --queries queries.txt --json > hits.jsonl
  python -m experiments.search "nurse" --data jobs data.seed=1 encoder.max_length=128
  python -m experiments.search "nurse" --data postings.csv --filter remote=true --filter "salary>=50000"
  python -m experiments.search "nurse" --model outputs/.../... --index FOLDER

A model folder with a hybrid.json, as a run leaves it, is searched by that mixture of BM25 and the encoder.
Without a query there is a prompt, or standard input is read, a query a line. The embeddings of documents are kept on
disk, those of an interrupted call too; delete them whenever you like.
"""

_OVERRIDE = re.compile(r"\+{0,2}([a-z_]+(\.\w+)+|encoder|data)=")
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
    add(
        "--index",
        type=Path,
        metavar="FOLDER",
        help="an index on disk, see experiments.index; built now if there is none. With --data it is refused if these "
        "have changed since",
    )
    add(
        "--filter",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="what documents must be: place=Berlin, remote=true, salary>=50000, company~acme (contains); may be given "
        "several times, and all must hold",
    )
    add("-k", type=int, default=5, help="documents to show for each query (%(default)s)")
    add("--queries", metavar="FILE", help="read queries from a file, one a line; - is standard input")
    add("--json", action="store_true", help="print one JSON object a line for each query")
    add(
        "--explain", action="store_true", help="show the words that answer each skill of the query, and what is missing"
    )
    add("--no-passages", action="store_true", help="leave out the closest passage, which takes the time of a search")
    order = described.add_mutually_exclusive_group()
    order.add_argument("--no-hybrid", action="store_true", help="rank by the encoder alone, without its hybrid.json")
    order.add_argument("--bm25", action="store_true", help="rank by BM25 alone, with misspelt words put right")
    add("--dimension", type=int, metavar="N", help="search with the first N dimensions, for models trained for it")
    cli.add_cache(described)
    return described


def search(options: argparse.Namespace) -> None:
    """Read queries and documents, embed, search and print."""
    from contrastive.search import parse_filter

    overrides = [word for word in options.words if _OVERRIDE.match(word)]
    words = [word for word in options.words if word not in overrides]
    if options.k < 1:
        raise ValueError(f"expected -k of at least 1, got {options.k}")
    queries = read_queries(" ".join(words) if words else None, options.queries)
    for_data = [override for override in overrides if re.match(r"\+*data\b", override)]
    for_encoder = [override for override in overrides if override not in for_data]
    if options.dimension is not None:
        for_encoder.append(f"encoder.dimension={options.dimension}")
    filters = [parse_filter(given) for given in options.filter]
    index = open_index(options, for_data, for_encoder)

    explainer = None
    if options.explain:
        from contrastive.search.explaining.explanation import Explainer

        explainer = Explainer(index)
    several = queries is not None and len(queries) > 1
    batches = ask() if queries is None else [queries[i : i + _BATCH] for i in range(0, len(queries), _BATCH)]
    for batch in batches:
        try:
            passages = not (options.no_passages or options.explain)
            found = index.search(batch, options.k, passages=passages, filters=filters)
            explained = [
                None if explainer is None else explainer.explain(query, hits)
                for query, hits in zip(batch, found, strict=True)
            ]
        except KeyboardInterrupt:
            if queries is not None:
                raise
            log.warning("interrupted")
            continue
        for query, hits, why in zip(batch, found, explained, strict=True):
            if options.json:
                print_json(query, hits, why)
            else:
                print_hits(hits, heading=query if several else None, why=why)
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


def open_index(options: argparse.Namespace, for_data: Sequence[str], for_encoder: Sequence[str]) -> SearchIndex:
    """Open the index of the command line, built now if there is none, or make one in memory of the documents."""
    from contrastive import search as library
    from contrastive.search.disk.manifest import check_corpus, read_manifest

    folder = options.index
    there = folder is not None and (folder / "index.json").exists()
    given = options.data is not None or bool(for_data)
    postings: Sequence[Posting] = []
    if given or not there:
        name, postings = read_corpus(options, for_data)
        log.info("searching %s with %s: %s documents", name, options.model, f"{len(postings):,}")
    encoder = load_encoder(options, for_encoder)
    cache, weights = cli.embedding_cache(options), weights_of(options)
    if folder is None:
        return build_index(encoder, postings, cache, weights)
    if not there:
        library.build_index(
            folder,
            encoder,
            postings,
            command=rebuild_words(options, [*for_data, *for_encoder]),
            source=source_of(options),
            cache=options.cache and cache,
            show_progress=sys.stderr.isatty(),
        )
    elif given:
        check_corpus(read_manifest(folder), postings, folder, options.model)
    return library.open_index(folder, encoder, weights=weights, model=options.model)


def load_encoder(options: argparse.Namespace, overrides: Sequence[str]) -> Any:
    """Load the encoder of the command line."""
    from hydra.utils import instantiate

    return cli.on_device(instantiate(compose(model=options.model, overrides=overrides).encoder), options.device)


def build_index(
    encoder: KeyedEncoder,
    postings: Sequence[Posting],
    cache: EmbeddingCache | None,
    weights: Mapping[str, float] | None,
) -> SearchIndex:
    """Embed the documents, or find their embeddings in the cache."""
    from contrastive.search import SearchIndex

    documents = {posting.id: posting.text for posting in postings}
    metadata = {posting.id: posting.metadata for posting in postings}
    shown = sys.stderr.isatty()
    return SearchIndex(encoder, documents, metadata=metadata, cache=cache, show_progress=shown, weights=weights)


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


if __name__ == "__main__":
    main()
