"""Look at data before training on it: `python -m experiments.data inspect --data DIR`."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from inspect import signature
from typing import TYPE_CHECKING

from omegaconf import DictConfig, open_dict

from experiments.composing import MISTAKES, compose, said

if TYPE_CHECKING:
    from contrastive.contracts import Side
    from contrastive.encoder import Encoder
    from contrastive.encoder.two_towers import TwoTowers
    from experiments.data.inspection import CountTokens

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by torch on import; work on shared cores gets much faster

USAGE = """\
examples:
  python -m experiments.data inspect
  python -m experiments.data inspect --data DIR_OR_FILE --model outputs/2026-11-23/10-00-00-infonce
  python -m experiments.data inspect --data DIR --json encoder.max_length=128 > data.json
  python -m experiments.data inspect --data pairs.csv data.separator=semicolon data.encoding=cp1252
  python -m experiments.data inspect --data corpus data.path=postings.csv
  python -m experiments.data inspect --data mixed +data@data.sources.jobs=jobs \\
      +data@data.sources.mine=beir data.sources.mine.path=DIR

Splits that share queries or answers are reported and not refused, as they would be by a training run.
"""


def main(arguments: list[str] | None = None) -> None:
    """Inspect data, and say what is wrong in one line."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # half an emoji, or a terminal that knows few characters
    try:
        inspect(options)
    except MISTAKES as error:
        sys.exit(f"error: {said(error)}")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    described = argparse.ArgumentParser(prog="python -m experiments.data", description="Look at data before training.")
    commands = described.add_subparsers(required=True, metavar="command")
    inspecting = commands.add_parser(
        "inspect",
        help="sizes, lengths in tokens, duplicates, leaks between splits, examples",
        description="Show sizes, lengths in tokens, duplicates, leaks between splits, word overlap and examples.",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspecting.add_argument(
        "--data",
        default="jobs",
        help="a file of pairs, a folder of them (train.*, ...) or in the BEIR layout, or a choice of configs/data",
    )
    inspecting.add_argument(
        "--model", default="minilm", help="whose tokens count: folder of a run or model, hub name, or minilm"
    )
    inspecting.add_argument("--examples", type=int, default=3, help="how many examples to show (%(default)s)")
    inspecting.add_argument("--json", action="store_true", help="print everything as one JSON object instead")
    inspecting.add_argument("overrides", nargs="*", metavar="name=value", help="values for the data and the encoder")
    return described


def inspect(options: argparse.Namespace) -> None:
    """Read the data, find out everything about it, and print it."""
    from hydra.utils import instantiate
    from rich.console import Console

    from experiments.data import inspection
    from experiments.data.inspection_report import findings, print_inspection

    if options.examples < 0:
        raise ValueError(f"expected --examples of at least 0, got {options.examples}")
    config = compose(model=options.model, data=options.data, overrides=options.overrides)
    let_leaks_through(config.data)
    count_tokens, max_lengths = token_counter(instantiate(config.encoder))
    found = inspection.inspect(
        instantiate(config.data),
        count_tokens,
        max_lengths,
        num_examples=options.examples,
        show_progress=sys.stderr.isatty(),
    )
    if options.json:
        print(json.dumps({**asdict(found), "findings": findings(found)}, indent=2))
    else:
        print_inspection(found, Console())


def let_leaks_through(config: DictConfig) -> None:
    """Tell every reader that refuses splits which share something to only report it, that of a mixture too."""
    from hydra.utils import get_object

    for name in config:
        if isinstance(config[name], DictConfig):
            let_leaks_through(config[name])
    if "_target_" in config and "overlap" in signature(get_object(config._target_)).parameters:
        with open_dict(config):
            config.overlap = "warn"


def token_counter(encoder: Encoder | TwoTowers) -> tuple[CountTokens, dict[Side, int]]:
    """Return what counts the tokens that an encoder would make of whole texts, and how many it takes of each side."""
    from contrastive.encoder.tokens import whole_token_counts
    from contrastive.encoder.two_towers import TwoTowers

    towers: dict[Side, Encoder]
    if isinstance(encoder, TwoTowers):
        towers = {"query": encoder.query, "document": encoder.document}
    else:
        towers = {"query": encoder, "document": encoder}
    prompts = {"query": towers["query"].query_prompt, "document": towers["document"].document_prompt}

    def count(texts: Sequence[str], side: Side) -> list[int]:
        prompted = [prompts[side] + text for text in texts]
        return whole_token_counts(towers[side].tokenizer, prompted)

    return count, {side: tower.max_length for side, tower in towers.items()}


if __name__ == "__main__":
    main()
