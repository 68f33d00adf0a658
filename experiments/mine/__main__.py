"""Mine hard negatives to a file: `python -m experiments.mine --data DIR --strategy dense --out negatives.parquet`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.data.whole_files import whole_file
from experiments import cli
from experiments.composing import CONFIGS, check_complete, compose

if TYPE_CHECKING:
    from contrastive.data import TextData
    from contrastive.negatives import ChosenNegatives, Pool
    from contrastive.negatives.summary import Summary
    from experiments.mine.quality import Judged

log = logging.getLogger("experiments.mine")

OF_TRAINING = ("in_batch", "queue", "refresh")
STRATEGIES = sorted(path.stem for path in (CONFIGS / "negatives").glob("*.yaml") if path.stem not in OF_TRAINING)
"""What can be mined without a model in training."""

USAGE = """\
examples:
  python -m experiments.mine --data pairs.csv
  python -m experiments.mine --data DIR --model outputs/2026-11-23/10-00-00-infonce --count 8 --out hard.parquet
  python -m experiments.mine --data jobs --strategy bm25 negatives.filters.relative_margin=null --judge-filters
  python -m experiments.mine --data DIR --strategy mixed negatives.mix.bm25=0.3
  python -m experiments.mine --data DIR --strategy cross_encoder negatives.source.scorer.name_or_path=FOLDER_OR_NAME
  python -m experiments.run data=files data.train=negatives.parquet data.dev=dev.csv data.test=test.csv

The file has a row for each training pair with lists of its negatives, hardest first: columns query_id, query,
positive_id, positive, positive_score, negative, negative_id, negative_score, negative_rank (0 is the top) and source.
Embeddings and what was mined are kept on disk; delete them whenever you like.
"""


def main(arguments: list[str] | None = None) -> None:
    """Mine, and write what was mined."""
    heard = ("experiments.mine", "contrastive.negatives", "contrastive.encoder.embedding_cache")
    cli.start(mine, parser().parse_intermixed_args(arguments), heard=heard)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    description = "Choose hard negatives for the training pairs of a data set and write them to a Parquet file."
    described = cli.parser("mine", description, USAGE, usage="%(prog)s [options] [name=value ...]")
    cli.add_data(described)
    cli.add_model(described)
    cli.add_device(described)
    add = described.add_argument
    add("overrides", nargs="*", metavar="name=value", help="values for negatives, the encoder and the data")
    add("--strategy", choices=STRATEGIES, default="dense", help="where negatives come from (%(default)s)")
    add("--count", type=int, default=4, help="negatives a pair (%(default)s)")
    add("--out", type=Path, default=Path("negatives.parquet"), metavar="FILE", help="what to write (%(default)s)")
    add(
        "--judge-filters",
        action="store_true",
        help="also mine as if only each pair's own positive were known, and judge that by the grades of the data",
    )
    return described


def mine(options: argparse.Namespace) -> None:
    """Compose, mine, write and report."""
    for override in options.overrides:
        if "=" not in override:
            raise ValueError(f"expected settings as name=value, got {override!r}")
    if options.out.suffix != ".parquet":
        raise ValueError(f"expected --out to end in .parquet, got {options.out}")
    chosen = [f"negatives={options.strategy}", f"negatives.count={options.count}"]
    config = compose(model=options.model, data=options.data, overrides=[*chosen, *options.overrides])
    check_complete(config, "negatives")

    from hydra.utils import instantiate
    from rich.console import Console

    from contrastive.encoder.embedding_cache import EmbeddingCache, default_folder
    from contrastive.negatives import Kept, Moment, Pool
    from contrastive.negatives.summary import summarise

    strategy = instantiate(config.negatives)
    data: TextData = instantiate(config.data)
    if not data.train:
        raise ValueError(f"expected data {data.name!r} to have training pairs, it has none")
    pool = Pool.of_records(data.train)
    sizes = f"{len(pool):,} pairs, {len(pool.documents):,} documents"
    log.info("mining %s for %s: %s", options.strategy, data.name, sizes)
    encoder = cli.on_device(instantiate(config.encoder), options.device)
    encoder.weigh_queries(pool.documents)  # where it is to, and was not by its training
    moment = Moment(encoder, cache=EmbeddingCache(default_folder()))
    negatives = Kept(strategy)(pool, moment)
    write(options.out, pool, negatives)
    console = Console()
    print_summary(summarise(negatives), console)
    if options.judge_filters:
        from experiments.mine.quality import judge_filters

        print_quality(judge_filters(data.train, strategy, moment), console)
    console.print(f"written: {options.out}", markup=False, highlight=False, soft_wrap=True)


def write(path: Path, pool: Pool, chosen: Sequence[ChosenNegatives]) -> None:
    """Write a row for each pair, to a file that is complete or absent."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    strings, floats = pyarrow.list_(pyarrow.string()), pyarrow.list_(pyarrow.float32())
    types = {"negative": strings, "negative_id": strings, "source": strings, "negative_score": floats}
    columns = {
        "query_id": [pair.query_id for pair in pool.pairs],
        "query": [pair.query for pair in pool.pairs],
        "positive_id": [pair.positive_id for pair in pool.pairs],
        "positive": [pool.documents[place] for place in pool.positive_of],
        "positive_score": [negatives.positive_score for negatives in chosen],
        "negative": [[pool.documents[pool.place[id_]] for id_ in negatives.ids] for negatives in chosen],
        "negative_id": [list(negatives.ids) for negatives in chosen],
        "negative_score": [list(negatives.scores) for negatives in chosen],
        "negative_rank": [list(negatives.ranks) for negatives in chosen],
        "source": [list(negatives.sources) for negatives in chosen],
    }
    types["negative_rank"] = pyarrow.list_(pyarrow.int32())
    table = pyarrow.table({name: pyarrow.array(values, types.get(name)) for name, values in columns.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        parquet.write_table(table, temporary)


def print_summary(summary: Summary, console: Any) -> None:
    """Print what was chosen and refused."""
    from rich.table import Table

    table = Table(title="Negatives")
    table.add_column("")
    table.add_column("count", justify="right")
    rows = {
        "pairs": summary.pairs,
        "negatives": summary.negatives,
        "pairs with fewer than others": summary.short,
        "pairs with none": summary.without,
        **{f"from {name}": count for name, count in summary.sources.items()},
        **{f"refused: {name}": count for name, count in summary.refused.items()},
    }
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    console.print(table)


def print_quality(judged: dict[str, Judged], console: Any) -> None:
    """Print which of those chosen and refused are relevant."""
    from rich.table import Table

    table = Table(title="As if only each pair's own positive were known; relevant by the grades of the data")
    for heading in ("", "candidates", "relevant", "share"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in judged.items():
        table.add_row(name, f"{row.count:,}", f"{row.relevant:,}", f"{row.share:.1%}")
    console.print(table)


if __name__ == "__main__":
    main()
