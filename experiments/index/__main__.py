"""Build an index of postings, or change it: `python -m experiments.index --model MODEL --data CORPUS --out FOLDER`."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from pathlib import Path

from experiments import cli
from experiments.search.__main__ import load_encoder
from experiments.search.corpora import read_corpus, read_postings, rebuild_words, source_of

log = logging.getLogger("experiments.index")

USAGE = """\
examples:
  python -m experiments.index --model outputs/.../... --data postings.csv --out FOLDER
  python -m experiments.index --model outputs/.../... --out FOLDER --add new.jsonl
  python -m experiments.index --model outputs/.../... --out FOLDER --remove 17 18
  python -m experiments.index --model outputs/.../... --data postings.csv --out FOLDER --engine lance --url s3://bucket
  python -m experiments.search "nurse, nights" --model outputs/.../... --index FOLDER

Who searches in FOLDER meanwhile sees what was there before. A build that was interrupted goes on when it is called
again, and leaves what was there as it is.
"""


def main(arguments: list[str] | None = None) -> None:
    """Build or change an index."""
    options = parser().parse_args(arguments)
    heard = ["experiments.index", "experiments.results.received", "contrastive.search"]
    if options.cache is not None:
        heard.append("contrastive.encoder.embedding_cache")
    cli.start(index, options, heard=heard)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    described = cli.parser("index", "Build an index of postings on disk, or change it.", USAGE)
    cli.add_model(described)
    cli.add_device(described)
    add = described.add_argument
    add("overrides", nargs="*", metavar="name=value", help=cli.OVERRIDES)
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the index stands")
    add("--data", help="what experiments.search takes (what the run of --model was trained with, else jobs)")
    add("--split", choices=["dev", "test"], help="split whose corpus it is, where they differ (test, else dev)")
    add("--add", metavar="FILE", type=Path, help="add the documents of a file, which replace those of the same id")
    add("--remove", nargs="+", default=[], metavar="ID", help="remove documents")
    add(
        "--engine",
        choices=["exact", "lance"],
        help="what keeps the embeddings: the folder, whose search compares all (exact), or LanceDB (that of the index "
        "that is there, else exact)",
    )
    add("--url", help="where LanceDB keeps them: a folder, s3://..., db://..., see docs/engines.md (in FOLDER)")
    add(
        "--link",
        action=argparse.BooleanOptionalAction,
        help="let LanceDB answer fast and approximately, and say what it finds of the ten best (from 100,000 on)",
    )
    add(
        "--candidates",
        type=int,
        metavar="N",
        help="postings that a query is compared with token by token, found by words and by the means of tokens; 0 for "
        "all. What they have of the ten best is said (1000 from 100,000 on, of token vectors in the engine exact)",
    )
    add("--cache", type=Path, metavar="DIR", help="where embeddings of the same documents may be already")
    return described


def index(options: argparse.Namespace) -> None:
    """Build the index, or add and remove."""
    from contrastive.encoder.embedding_cache import EmbeddingCache
    from contrastive.search import build_index, update_index

    started = time.perf_counter()
    changes = options.add is not None or bool(options.remove)
    if changes and options.data is not None:
        raise ValueError("expected --data, or --add and --remove, got both")
    for_data = [override for override in options.overrides if re.match(r"\+*data\b", override)]
    for_encoder = [override for override in options.overrides if override not in for_data]
    shown = sys.stderr.isatty()
    if changes:
        added = read_postings(options.add) if options.add is not None else []
        encoder = load_encoder(options, for_encoder)
        try:
            made = update_index(
                options.out, encoder, add=added, remove=options.remove, model=options.model, show_progress=shown
            )
        except KeyError as error:
            raise ValueError(error.args[0]) from error
    else:
        name, postings = read_corpus(options, for_data)
        log.info("building an index of %s with %s: %s documents", name, options.model, f"{len(postings):,}")
        encoder = load_encoder(options, for_encoder)
        made = build_index(
            options.out,
            encoder,
            postings,
            engine=options.engine,
            url=options.url,
            link=options.link,
            candidates=options.candidates,
            command=rebuild_words(options, options.overrides),
            source=source_of(options),
            cache=EmbeddingCache(options.cache) if options.cache else None,
            show_progress=shown,
        )
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    what = f"{made.count:,} documents, {size / 1e6:,.1f} MB, {size / made.count:,.0f} bytes each"
    elsewhere = f", embeddings at {made.engine['url']}" if made.engine.get("url") else ""
    log.info("%s: %s, in %.0f s%s", options.out, what, time.perf_counter() - started, elsewhere)


if __name__ == "__main__":
    main()
