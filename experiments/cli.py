"""How a program starts and ends: environment, log, common arguments, mistakes in one line, signals, exit status.

Nothing heavy is imported here, so that `--help` and a mistake answer in a second: programs import what they need in
their functions.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.composing import MISTAKES, said
from experiments.interruptions import exit_status, interruptible, interruption

if TYPE_CHECKING:
    from contrastive.encoder import EmbeddingCache

WAIT_POLICY = ("OMP_WAIT_POLICY", "PASSIVE")
"""What torch reads on import: threads that wait give their core away, which makes steps on shared cores much faster."""

OVERRIDES = "values for the data and the encoder"

log = logging.getLogger(__name__)
T = TypeVar("T")


def start(
    work: Callable[[argparse.Namespace], T], options: argparse.Namespace, *, heard: Sequence[str] = ()
) -> T | None:
    """Do what the command line asks for, and end as a shell expects; what is wrong is said in one line.

    Args:
        work: Does it.
        options: Of the command line.
        heard: Names of the loggers whose notes are shown beside all warnings.

    Returns:
        What `work` returns; None if nobody reads on.
    """
    os.environ.setdefault(*WAIT_POLICY)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in heard:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("bm25s").disabled = True  # it sets its own level on import
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # half an emoji, or a terminal that knows few characters
    try:
        with ended():
            return work(options)
    except BrokenPipeError:  # such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None
    except MISTAKES as error:
        sys.exit(f"error: {said(error)}")


@contextmanager
def ended() -> Iterator[None]:
    """End the process as a shell expects where Ctrl-C or a signal ends what is inside the block."""
    try:
        with interruptible():
            yield
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns one into the other
        interrupted = interruption(error)
        if interrupted is None:
            raise
        log.warning("interrupted")
        sys.exit(exit_status(interrupted))


def parser(program: str, description: str, examples: str | None = None, **settings: Any) -> argparse.ArgumentParser:
    """Return what describes and reads the command line of `python -m experiments.PROGRAM`."""
    return argparse.ArgumentParser(
        prog=f"python -m experiments.{program}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **settings,
    )


def add_model(described: argparse.ArgumentParser, what: str = "", **settings: Any) -> None:
    """Let the command line say which encoder is meant."""
    settings = settings or {"default": "minilm"}
    described.add_argument("--model", help=f"{what}folder of a run, folder of a model, hub name, or minilm", **settings)


def add_data(described: argparse.ArgumentParser) -> None:
    """Let the command line say which data are meant."""
    described.add_argument(
        "--data",
        default="jobs",
        help="a file of pairs, a folder of them (train.*, ...) or in the BEIR layout, or a choice of configs/data "
        "(%(default)s)",
    )


def add_device(described: argparse.ArgumentParser) -> None:
    """Let the command line say where the encoder runs; see `on_device`."""
    described.add_argument("--device", help="cpu, cuda, cuda:1, ... (cuda if there is one, else cpu)")


def add_cache(described: argparse.ArgumentParser) -> None:
    """Let the command line say where embeddings are kept; see `embedding_cache`."""
    folder = "where embeddings of documents are kept (~/.cache/contrastive/...)"
    described.add_argument("--cache", type=Path, metavar="DIR", help=folder)
    described.add_argument("--no-cache", action="store_true", help="neither read nor keep embeddings")


def embedding_cache(options: argparse.Namespace) -> EmbeddingCache | None:
    """Return where the command line says that embeddings are kept; None for nowhere."""
    from contrastive.encoder.embedding_cache import EmbeddingCache, default_folder

    return None if options.no_cache else EmbeddingCache(options.cache or default_folder())


def on_device(encoder: Any, device: str | None) -> Any:
    """Move an encoder to the device of the command line.

    Raises:
        ValueError: If there is none of this name.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return encoder.to(device)
    except (RuntimeError, AssertionError) as error:  # an unknown word, no such GPU, a torch without CUDA
        raise ValueError(f"expected a device that torch has here, got {device!r} ({error})") from error
