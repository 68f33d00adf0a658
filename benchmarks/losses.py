"""Time and memory of our softmax losses beside plain autograd, other libraries and three matrix products.

    python -m benchmarks.losses                          # the CPU, at most 40 minutes; goes on where it was stopped
    python -m benchmarks.losses --quick                  # the two smallest sizes, as a smoke test; keeps nothing
    python -m benchmarks.losses --sizes 4096 --again     # measure some cases again
    python -m benchmarks.losses --device cuda            # a GPU: float32 and bfloat16, up to 262,144 pairs

A case is Q unit queries against K = Q (1 + negatives) unit keys of width D, at temperature 0.05, in float32 on a CPU.
Each contestant first runs once in a process of its own for its memory (`benchmarks.loss_probe`); then its gradient is
compared with that of plain autograd, which is also the warm-up; then all are timed in turn, round after round, so that
a noisy machine disturbs all alike. Time is that of forward and backward. One that needs over 8 GiB, or more than 20
times as long as plain autograd, is left out at larger sizes. 65,536 x 65,536 runs once. A case is written to the
result as soon as it is finished.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments.cli import WAIT_POLICY

os.environ.setdefault(*WAIT_POLICY)

import torch
from tqdm import tqdm

from benchmarks.loss_cases import Case, Inputs
from benchmarks.loss_peers import CONTESTANTS, FLOORS, OURS, PLAIN
from benchmarks.loss_plot import draw
from benchmarks.loss_probe import probe, seconds_of
from benchmarks.loss_tables import bars, markdown
from benchmarks.machine import machine
from experiments.results.files import write_json

MAX_ROUNDS = 100
SLOW_ROUNDS = 3
TOO_SLOW = 20.0
"""Times as long as plain autograd: a contestant has few rounds and is left out at larger sizes."""

ONCE = 2**31
"""Cases with more scores run once, in the process that measures memory."""


def main() -> None:
    """Measure the cases that are missing; write, print and plot all of them."""
    options = parse()
    torch.set_num_threads(options.threads)
    folder = Path(tempfile.mkdtemp(prefix="losses-quick-")) if options.quick else options.output
    path = folder / f"losses-{options.device}.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    cases: dict[str, Any] = content.get("cases", {})
    depends_on = {field: head(options)[field] for field in ("device", "machine", "versions")}
    if content and any(content[field] != value for field, value in depends_on.items()):
        if not options.again:
            sys.exit(f"{path} was measured on another device or with other versions: --again starts anew, or --output")
        cases = {}
    todo = [case for case in selected(options) if options.again or case.name not in cases]
    deadline = time.monotonic() + 60 * options.minutes
    skipped = []
    with tqdm(todo, unit="case") as progress:
        for case in progress:
            if time.monotonic() + estimate(case, cases) > deadline:
                skipped.append(case.name)
                continue
            cases[case.name] = {
                "date": date.today().isoformat(),
                **{field: getattr(case, field) for field in ("queries", "keys", "width", "negatives", "precision")},
                "contestants": measure(case, cases, options, progress),
            }
            write_json(path, {**head(options), "cases": cases})
    if not cases:
        sys.exit("nothing was measured")
    table = markdown({**head(options), "cases": cases})
    path.with_suffix(".md").write_text(table, encoding="utf-8")
    draw(cases, path.with_suffix(".png"))
    if options.device == "cuda":
        draw(cases, path.with_name(f"{path.stem}-bfloat16.png"), precision="bfloat16")
    print("\n".join(bars(cases)))
    if skipped:
        print(f"not measured for want of time, run again to go on: {'; '.join(skipped)}")
    print(f"written: {path.with_suffix('')}.json, .md, .png")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU (%(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="Q", help="numbers of queries (all)")
    parser.add_argument("--widths", type=int, nargs="+", metavar="D", help="widths of the embeddings (all)")
    parser.add_argument("--negatives", type=int, nargs="+", metavar="N", help="hard negatives a query (all)")
    parser.add_argument("--minutes", type=float, default=40, help="start no case that would end later (%(default)s)")
    parser.add_argument(
        "--case-seconds",
        type=float,
        default=20,
        help="of the rounds of a case, of which it has a few anyway (%(default)s)",
    )
    parser.add_argument("--again", action="store_true", help="measure cases anew that are in the result already")
    parser.add_argument("--quick", action="store_true", help="Q = 256 and 1024, few rounds, into a temporary folder")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the result")
    return parser.parse_args()


def selected(options: argparse.Namespace) -> list[Case]:
    """Return the cases that were asked for, those that say most first."""
    grid = [(width, negatives) for negatives in (0, 1, 4) for width in (384, 768)]
    sizes = [256, 1024] if options.quick else [256, 1024, 4096]
    cases = [Case(queries, width, negatives) for width, negatives in grid for queries in sizes]
    if not options.quick:
        large = [Case(16384, width, negatives) for width, negatives in sorted(grid)]
        cases += [large[0], Case(65536, 384), Case(16384, 768), *(case for case in large[1:] if case.negatives)]
    if options.device == "cuda":
        more = [] if options.quick else [Case(65536, 768), Case(262144, 384), Case(262144, 768)]
        cases = [
            Case(case.queries, case.width, case.negatives, precision)
            for case in [*cases, *more]
            for precision in ("float32", "bfloat16")
        ]
    wanted = {"queries": options.sizes, "width": options.widths, "negatives": options.negatives}
    return [case for case in cases if all(not some or getattr(case, field) in some for field, some in wanted.items())]


def measure(case: Case, cases: dict[str, Any], options: argparse.Namespace, progress: Any) -> dict[str, Any]:
    """Return what every contestant that takes part in a case needs."""
    once = options.device == "cpu" and case.scores > ONCE
    entries: dict[str, Any] = {}
    for name in (name for name, contestant in CONTESTANTS.items() if contestant.fits(case)):
        progress.set_postfix_str(f"{case.name}: memory, {name}")
        reason = reason_to_stop(name, case, cases)
        timeout = 1200 if once else 300
        entries[name] = (
            {"stopped": reason}
            if reason
            else probe(case, name, device=options.device, threads=options.threads, timeout=timeout)
        )
    if once:
        times = {name: [entry["seconds"]] for name, entry in entries.items() if "seconds" in entry}
    else:
        inputs = Inputs(case, options.device)
        runs = {name: CONTESTANTS[name].make(inputs) for name, entry in entries.items() if "stopped" not in entry}
        warm = compare(case, inputs, runs, entries, options, progress)
        runs = {name: run for name, run in runs.items() if "stopped" not in entries[name]}
        times = rounds(case, inputs, runs, warm, options, progress)
    for name, seconds in times.items():
        entries[name]["seconds"] = summary(seconds)
    return entries


def compare(
    case: Case,
    inputs: Inputs,
    runs: dict[str, Any],
    entries: dict[str, Any],
    options: argparse.Namespace,
    progress: Any,
) -> dict[str, float]:
    """Run all once, compare the gradients of each function into the entries, and return the seconds."""
    seconds = {}
    references: dict[str, tuple[str, torch.Tensor]] = {}
    # A peer is the reference, where there is one that is exact.
    for name in sorted(runs, key=lambda name: (CONTESTANTS[name].tolerance, name.startswith("ours"))):
        progress.set_postfix_str(f"{case.name}: gradient, {name}")
        inputs.clear()
        seconds[name] = seconds_of(runs[name], options.device)
        contestant = CONTESTANTS[name]
        if contestant.function == "products":
            continue
        gradient = inputs.gradient()
        reference = references.setdefault(contestant.function, (name, gradient))
        difference = float((gradient - reference[1]).float().norm() / reference[1].float().norm())
        entries[name] |= {"gradient_difference": difference, "gradient_of": reference[0]}
        if case.precision == "float32" and not difference <= contestant.tolerance:
            entries[name] = {"stopped": f"another gradient, by {difference:.1e}"}
            del seconds[name]
    return seconds


def rounds(
    case: Case, inputs: Inputs, runs: dict[str, Any], warm: dict[str, float], options: argparse.Namespace, progress: Any
) -> dict[str, list[float]]:
    """Time the runs in turn, round after round; those far slower than plain autograd for a few rounds."""
    least = 3 if case.queries >= 16384 or options.quick else 5
    slow = {name for name, seconds in warm.items() if seconds > TOO_SLOW * warm.get(PLAIN, math.inf)}
    one_round = sum(seconds for name, seconds in warm.items() if name not in slow)
    number = min(max(int(options.case_seconds / one_round), least), 10 if options.quick else MAX_ROUNDS)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(number):
        progress.set_postfix_str(f"{case.name}: round {turn + 1} of {number}")
        for name, run in runs.items():
            if turn < SLOW_ROUNDS or name not in slow:
                inputs.clear()
                times[name].append(seconds_of(run, options.device))
    return times


def reason_to_stop(name: str, case: Case, cases: dict[str, Any]) -> str | None:
    """Return why a contestant need not be tried: it failed, or was far too slow, at a smaller size."""
    for other in sorted(cases.values(), key=lambda other: other["queries"]):
        alike = all(other[field] == getattr(case, field) for field in ("width", "negatives", "precision"))
        if not alike or other["queries"] >= case.queries or name not in other["contestants"]:
            continue
        entry, plain = other["contestants"][name], other["contestants"][PLAIN]
        if "stopped" in entry:
            return str(
                entry["stopped"] if " at Q = " in entry["stopped"] else f"{entry['stopped']} at Q = {other['queries']}"
            )
        if "stopped" not in plain and entry["seconds"]["median"] > TOO_SLOW * plain["seconds"]["median"]:
            ratio = entry["seconds"]["median"] / plain["seconds"]["median"]
            return f"{ratio:.0f} times as slow as plain at Q = {other['queries']}"
    return None


def estimate(case: Case, cases: dict[str, Any]) -> float:
    """Return about how many seconds a large case takes, from a quarter of its size; 0 if that was not measured."""
    quarter = cases.get(Case(case.queries // 4, case.width, case.negatives, case.precision).name)
    if quarter is None or case.queries < 16384:
        return 0.0
    once = case.scores > ONCE
    names = [
        name
        for name, entry in quarter["contestants"].items()
        if "stopped" not in entry and CONTESTANTS[name].fits(case) and (not once or name in (*FLOORS, OURS))
    ]
    runs = 1 if once else 5
    return runs * 16 * sum(float(quarter["contestants"][name]["seconds"]["median"]) for name in names)


def summary(seconds: list[float]) -> dict[str, float]:
    """Return median, quartiles, extremes and number."""
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else 3 * seconds
    return {
        "median": statistics.median(seconds),
        "quartile_1": low,
        "quartile_3": high,
        "min": min(seconds),
        "max": max(seconds),
        "rounds": len(seconds),
    }


def head(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the numbers depend on."""
    about = machine()
    for package in ("sentence-transformers", "pytorch-metric-learning", "open_clip_torch", "inf-cl"):
        try:
            about["versions"][package] = version(package)
        except PackageNotFoundError:
            about["versions"][package] = None
    device = torch.cuda.get_device_name() if options.device == "cuda" else about["machine"]["processor"]
    command = " ".join(["python -m benchmarks.losses", *sys.argv[1:]])
    return {"date": date.today().isoformat(), "command": command, "device": device, **about}


if __name__ == "__main__":
    main()
