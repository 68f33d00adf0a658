"""Search in the browser: `python -m experiments.serve --model RUN --data CORPUS`, then open the address it prints."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import cli
from experiments.composing import compose
from experiments.search.__main__ import build_index, load_encoder, open_index
from experiments.search.corpora import run_config

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from contrastive.search import SearchIndex
    from experiments.serve.results import Searched

log = logging.getLogger("experiments.serve")

USAGE = """\
examples:
  python -m experiments.serve
  python -m experiments.serve --model outputs/2026-11-23/10-00-00-infonce
  python -m experiments.serve --model outputs/2026-11-23/10-00-00-infonce --untuned
  python -m experiments.serve --data postings.jsonl --port 9000
  python -m experiments.serve --model outputs/2026-11-23/10-00-00-infonce --index FOLDER

Side by side are BM25, the encoder of --model, their hybrid if the model's folder has a hybrid.json, and with --untuned
an encoder that was not trained. Columns of the data such as company, place or remote are shown, and can be chosen from.

The page is for this machine alone, at http://127.0.0.1:8000; the same as JSON is /api/search?q=..., described in
/openapi.json. With --host 0.0.0.0 everybody in your network can read the postings: there is no password.
"""


def main(arguments: list[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    heard = ("experiments.serve", "experiments.search", "experiments.results.received", "contrastive.search")
    heard = (*heard, "contrastive.encoder.embedding_cache")
    cli.start(serve, parser().parse_args(arguments), heard=heard)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    description = "Search in the browser, by several systems side by side, and see why each posting matched."
    described = cli.parser("serve", description, USAGE)
    cli.add_model(described)
    cli.add_device(described)
    add = described.add_argument
    add(
        "--data",
        help="a file of documents or of pairs, a folder with corpus.jsonl, or a choice of configs/data (what the run "
        "of --model was trained with, else jobs)",
    )
    add(
        "--index",
        type=Path,
        metavar="FOLDER",
        help="an index on disk, see experiments.index; built now if there is none",
    )
    add("--split", choices=["dev", "test"], help="split whose corpus to search, where they differ (test, else dev)")
    add(
        "--untuned",
        nargs="?",
        const="minilm",
        metavar="MODEL",
        help="also search with an encoder that was not trained (%(const)s), which embeds the postings as well",
    )
    add("-k", type=int, default=5, help="postings to show for each system (%(default)s)")
    add("--example", metavar="QUERY", help="query to offer as an example (that of configs/config.yaml)")
    cli.add_cache(described)
    described.set_defaults(bm25=False, no_hybrid=False)
    add("--host", default="127.0.0.1", help="address to listen at (%(default)s: this machine alone)")
    add("--port", type=int, default=8000, help="port to listen at; 0 takes a free one (%(default)s)")
    add("overrides", nargs="*", metavar="name=value", help=cli.OVERRIDES)
    return described


def serve(options: argparse.Namespace) -> None:
    """Read the postings, embed what is not embedded, and answer the browser."""
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ModuleNotFoundError as error:
        raise ValueError(f'expected {error.name} for the page: python -m pip install -e ".[demo]"') from error
    from experiments.serve.page import make_app
    from experiments.serve.results import Searching

    if not 1 <= options.k <= 50:
        raise ValueError(f"expected -k from 1 to 50, got {options.k}")
    if not 0 <= options.port <= 65_535:
        raise ValueError(f"expected --port from 0 to 65535, got {options.port}")
    for_data = [override for override in options.overrides if override.lstrip("+").startswith("data")]
    for_encoder = [override for override in options.overrides if override not in for_data]
    index = open_index(options, for_data, for_encoder)
    systems = systems_of(index, is_run=run_config(options.model) is not None)
    if options.untuned is not None:
        encoder = load_encoder(argparse.Namespace(**{**vars(options), "model": options.untuned}), [])
        postings = [index.postings[id_] for id_ in index.postings.ids]
        systems.insert(1, untuned_system(build_index(encoder, postings, cli.embedding_cache(options), None)))
    log.info("reading postings to see what is chance")
    for system in systems:
        system.explainer.explain("job", [], system=system.system)
    example = str(compose().query) if options.example is None else options.example
    shown = f"{options.model} · {len(index.postings.ids):,} postings"
    app = make_app(Searching(systems), name=shown, example=example, hits=options.k)
    if options.host not in ("127.0.0.1", "localhost", "::1"):
        log.warning("listening at %s: whoever reaches this machine can read the postings", options.host)
    config = configured(app, host=options.host, port=options.port)
    listener = config.bind_socket()  # which says what is wrong with a port, and ends the process
    host, port = listener.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def configured(app: FastAPI, **where: Any) -> uvicorn.Config:
    """Return how an application is served: to requests as long as the longest query, whose letters may be nine each."""
    import uvicorn

    return uvicorn.Config(app, log_level="warning", http="h11", h11_max_incomplete_event_size=1 << 20, **where)


def systems_of(index: SearchIndex, *, is_run: bool) -> list[Searched]:
    """Return the systems that an index has: BM25, its encoder, and their hybrid if it has one."""
    from contrastive.evaluation.fusion import mixture
    from contrastive.search.explaining.explanation import Explainer
    from experiments.serve.results import Searched

    explainer = Explainer(index)
    label, about = ("Trained", "the run's encoder alone") if is_run else ("Encoder", "the encoder alone")
    systems = [
        Searched("bm25", "BM25", "matching of words, typing errors put right", index, explainer, "bm25"),
        Searched("encoder", label, about, index, explainer, "encoder"),
    ]
    if index.weights is not None:
        systems.append(Searched("hybrid", "Hybrid", mixture(index.weights), index, explainer, "hybrid"))
    return systems


def untuned_system(index: SearchIndex) -> Searched:
    """Return the system of an encoder that was not trained."""
    from contrastive.search.explaining.explanation import Explainer
    from experiments.serve.results import Searched

    return Searched("untuned", "Untuned", "an encoder before training", index, Explainer(index), "encoder")


if __name__ == "__main__":
    main()
