"""Time of our softmax losses beside that of another version of the package, on the cases of `benchmarks.losses`.

    python -m benchmarks.loss_versions fa3a428                 # this checkout and that revision
    python -m benchmarks.loss_versions ../other --sizes 256    # and another checkout
    python -m benchmarks.loss_versions ../other --threads 1 --cpu-time --precisions float32 bfloat16

Each version has a process of its own, with its own `contrastive` and the contestants and inputs of this checkout. They
run in turn, one at a time, and change places every round, so that a machine that others use disturbs both alike; the
ratio is the median of the rounds' own. Time is also given by that of three bare matrix products of the same precision,
of which the faster of two ways counts. On a busy machine the time of the processor says more than that of the clock.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.loss_cases import Case, Inputs

FLOORS = ("three products", "three products, blocks")
NAMES = (*FLOORS, "plain autograd", "ours", "ours, symmetric", "ours, masked", "ours, as in training")
"""The contestants; those that are not ours are the same in both versions: their ratio says how even the machine was."""

WARM = 3
"""Rounds that are not counted, fewer for large cases."""


def main() -> None:
    """Measure all cases, print the ratios, and write them."""
    # Not above: each process is to import one version of the package.
    from benchmarks.machine import machine
    from experiments.cli import WAIT_POLICY
    from experiments.results.files import write_json

    options = parse()
    os.environ.setdefault(*WAIT_POLICY)
    torch.set_num_threads(options.threads)
    here = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory(prefix="loss-versions-") as folder:
        other = checkout(options.other, Path(folder))
        versions = [Version(root, options.threads, options.cpu_time) for root in (other, here)]
        cases = {case.name: compare(case, versions, options) for case in selected(options)}
        for version in versions:
            version.connection.send(None)
    for name, entry in cases.items():
        lines = (
            f"{key}: {value['ratio']['median']:.3f} of the other, "
            f"{value['other_by_products']:.2f} -> {value['by_products']:.2f} of three products"
            for key, value in entry.items()
        )
        print(name, *lines, sep="\n    ")
    result = {
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks.loss_versions", *sys.argv[1:]]),
        "note": options.note,
        **machine(),
        "cases": cases,
    }
    if options.output:
        write_json(options.output, result)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", help="a git revision, or the folder of another checkout")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="Q", help="numbers of queries (all up to 16,384)")
    parser.add_argument("--widths", type=int, nargs="+", metavar="D", default=[384, 768], help="(%(default)s)")
    parser.add_argument("--negatives", type=int, nargs="+", metavar="N", default=[0, 1], help="(%(default)s)")
    parser.add_argument("--precisions", nargs="+", metavar="DTYPE", default=["float32"], help="(%(default)s)")
    parser.add_argument("--cpu-time", action="store_true", help="time of the processor in place of the clock's")
    parser.add_argument("--contestants", nargs="+", metavar="NAME", default=NAMES, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="of a case, which has 3 rounds anyway")
    parser.add_argument("--threads", type=int, default=2, help="threads of each version (%(default)s)")
    parser.add_argument("--note", default="", help="what to keep with the result, such as who else used the machine")
    parser.add_argument("--output", type=Path, help="where to keep the result, JSON")
    return parser.parse_args()


def selected(options: argparse.Namespace) -> list[Case]:
    """Return the cases that were asked for."""
    sizes = options.sizes or [256, 1024, 4096, 16384]
    return [
        Case(size, width, negatives, precision)
        for precision in options.precisions
        for negatives in options.negatives
        for width in options.widths
        for size in sizes
    ]


def checkout(other: str, folder: Path) -> Path:
    """Return the folder of another version; a revision's package is unpacked into a folder."""
    if (Path(other) / "contrastive").is_dir():
        return Path(other).resolve()
    packed = subprocess.run(["git", "archive", other, "contrastive"], check=True, capture_output=True)
    subprocess.run(["tar", "x", "-C", str(folder)], check=True, input=packed.stdout)
    return folder


class Version:
    """A process that imports one version of the package."""

    def __init__(self, root: Path, threads: int, cpu_time: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, str(root), threads, cpu_time), daemon=True).start()

    def ask(self, question: Any) -> Any:
        """Return the answer of the process."""
        self.connection.send(question)
        answer = self.connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def serve(connection: Connection, root: str, threads: int, cpu_time: bool) -> None:
    """Make the inputs of each case that is sent, and time a contestant for each name."""
    sys.path.insert(0, root)
    import contrastive
    from benchmarks.loss_peers import CONTESTANTS
    from benchmarks.loss_probe import seconds_of

    torch.set_num_threads(threads)
    if Path(contrastive.__file__).parents[1] != Path(root):
        connection.send(ImportError(f"expected contrastive of {root}, got {contrastive.__file__}"))
    while (question := connection.recv()) is not None:
        if isinstance(question, Case):
            inputs = Inputs(question, "cpu")
            connection.send([name for name, contestant in CONTESTANTS.items() if contestant.fits(question)])
        else:
            inputs.clear()
            run = CONTESTANTS[question].make(inputs)
            start = time.process_time()
            seconds = seconds_of(run, "cpu")
            connection.send(time.process_time() - start if cpu_time else seconds)


def compare(case: Case, versions: list[Version], options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each contestant in both versions, and the ratio of this to the other."""
    fitting, _ = (version.ask(case) for version in versions)
    names = [name for name in options.contestants if name in fitting]
    warm = sum(version.ask(name) for version in versions for name in names)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    rounds = max(3, min(200, int(options.seconds / warm)))
    for turn in tqdm(range(rounds), desc=case.name):
        for name in names:
            first = turn % 2
            times = {each: versions[each].ask(name) for each in (first, 1 - first)}
            seconds[name].append((times[0], times[1]))
    entries = {name: summary(times) for name, times in seconds.items()}
    for field in ("seconds", "other_seconds"):
        products = min((entries[name][field] for name in FLOORS if name in entries), default=math.nan)
        for entry in entries.values():
            entry[f"{field.removesuffix('seconds')}by_products"] = entry[field] / products
    return entries


def summary(times: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the median of each version's seconds, and median and quartiles of the ratio."""
    low, middle, high = statistics.quantiles([ours / theirs for theirs, ours in times], n=4, method="inclusive")
    return {
        "other_seconds": statistics.median(theirs for theirs, _ in times),
        "seconds": statistics.median(ours for _, ours in times),
        "ratio": {"median": middle, "quartile_1": low, "quartile_3": high, "rounds": len(times)},
    }


if __name__ == "__main__":
    main()
