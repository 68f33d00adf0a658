"""The model card of a finished run: `python -m experiments.model_card outputs/...`."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments import cli


def main(arguments: list[str] | None = None) -> None:
    """Write the card of one run again."""
    described = cli.parser("model_card", "Write a run's model card.")
    described.add_argument("run", type=Path, help="folder of a finished run")
    described.add_argument("--repo-id", default=None, help="name on the hub, for the examples in the card")
    described.add_argument("--licence", default=None, help="licence on the hub, such as apache-2.0 (the base model's)")
    cli.start(write, described.parse_args(arguments))


def write(options: argparse.Namespace) -> None:
    """Write the card, and print where it is."""
    from experiments.model_card.card import write_card

    print(write_card(options.run, repo_id=options.repo_id, licence=options.licence))


if __name__ == "__main__":
    main()
