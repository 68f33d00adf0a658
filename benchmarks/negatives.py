"""Which negatives train the best model: a screen on generated postings, then real ones.

    python -m benchmarks.negatives screen                # data=jobs, one seed: 20 trainings, about an hour on two cores
    python -m benchmarks.negatives confirm --data DIR    # postings in the BEIR layout, three seeds: 60 trainings
    python -m benchmarks.negatives confirm --data DIR --with trainer=gpu launcher=joblib launcher.workers=8

Trainings are those of configs/sweep/negatives.yaml with one negative a pair, judged on the dev split. Each is a folder
below --runs; what is finished is not done again. `confirm` then takes the two strategies of the highest mean nDCG@10
over the seeds, and in-batch negatives under InfoNCE, which all are compared with, and judges these on the test split.
--read only reads what was trained, here or elsewhere. The result is kept in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from itertools import chain
from pathlib import Path
from statistics import fmean, median
from typing import Any

from contrastive.statistics import compare, hierarchical_bootstrap
from experiments.compare.systems import read_scores
from experiments.results.files import HEADLINE, write_json

SWEEP = ["+sweep=negatives", "negatives.count=choice(1)", "judge=dev", "before=false", "logger=csv"]
STUDIES = {
    "screen": ["seed=0", "trainer.precision=auto"],
    "confirm": ["data=beir", "optimizer.learning_rate=1e-4", "trainer.max_epochs=3", "trainer.limit_val_batches=0"],
}
BASELINE = "in_batch, infonce"
LABELS = {"negatives": "", "loss": "", "negatives.filters.relative_margin": "margin "}
"""What names a strategy, of the words of its command, and what is put before it."""

METRIC = "ndcg@10"


@dataclass
class Trained:
    """A finished training."""

    folder: Path
    report: dict[str, Any]

    @property
    def words(self) -> dict[str, str]:
        """The command, by what each word sets."""
        return dict(word.split("=", 1) for word in self.report["command"] if "=" in word)

    @property
    def strategy(self) -> str:
        """Negatives, loss and margin."""
        return ", ".join(before + self.words[name] for name, before in LABELS.items() if name in self.words)

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.words["seed"])


def main() -> None:
    """Train and judge what is missing; print and write all of it."""
    options = parse()
    runs = options.runs / options.study
    if not options.read:
        command = ["-m", "experiments.run", *SWEEP, *STUDIES[options.study], *options.more]
        data = [f"data.path='{options.data.resolve()}'"] if options.data else []
        subprocess.run([sys.executable, *command, *data, f"hydra.sweep.dir={runs / 'dev'}"], check=True)
    trained = read(runs / "dev")
    dev = {name: [scores(run.folder, "after") for run in seeds] for name, seeds in trained.items()}
    first = trained[BASELINE][0]
    content = {
        "date": date.today().isoformat(),
        "machine": first.report["machine"] | ({"gpu": options.gpu} if options.gpu else {}),
        "versions": first.report["versions"],
        "command": " ".join(word for word in first.report["command"] if not word.startswith("data.path=")),
        "data": first.report["data"],
        "seeds": {name: [run.seed for run in seeds] for name, seeds in trained.items()},
        "train_seconds": {
            name: median(run.report["seconds"]["train"] for run in seeds) for name, seeds in trained.items()
        },
        "negatives": {
            name: seeds[0].report["negatives"] for name, seeds in trained.items() if "negatives" in seeds[0].report
        },
        "dev": table(dev, {"BM25": scores(first.folder, "BM25")}),
    }
    if options.study == "confirm":
        content["test"] = test(runs, trained, dev, options)
    path = Path(__file__).parent / "results" / f"negatives-{first.report['data']['name']}.json"
    write_json(path, content)
    for split in ("dev", "test"):
        if split in content:
            show(split, content[split])
    print(f"written: {path}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--data", type=Path, help="folder of real postings in the BEIR layout")
    parser.add_argument("--with", dest="more", nargs="+", default=[], metavar="NAME=VALUE", help="for every training")
    parser.add_argument("--runs", type=Path, default=Path("outputs/negatives"), help="where runs are (%(default)s)")
    parser.add_argument("--read", action="store_true", help="train and judge nothing")
    parser.add_argument("--gpu", help="name of the GPU of runs that do not tell")
    options = parser.parse_args()
    if options.study == "confirm" and options.data is None and not options.read:
        parser.error("confirm needs --data")
    return options


def read(folder: Path) -> dict[str, list[Trained]]:
    """Return the finished trainings of each strategy, by seed."""
    found: dict[str, list[Trained]] = {}
    for path in folder.glob("*/metrics.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["status"] == "finished":
            run = Trained(path.parent, report)
            found.setdefault(run.strategy, []).append(run)
    if BASELINE not in found:
        sys.exit(f"expected a finished run of {BASELINE} in {folder}, got {', '.join(found) or 'none'}")
    return {name: sorted(seeds, key=lambda run: run.seed) for name, seeds in sorted(found.items())}


def test(
    runs: Path, trained: dict[str, list[Trained]], dev: dict[str, list[dict[str, list[float]]]], options: Any
) -> dict[str, Any]:
    """Judge the best two and the baseline on the test split, each once; return their table."""
    complete = [name for name, seeds in trained.items() if len(seeds) == len(trained[BASELINE]) and name != BASELINE]
    best = sorted(complete, key=lambda name: -fmean(chain.from_iterable(seed[METRIC] for seed in dev[name])))[:2]
    judged: dict[str, list[dict[str, list[float]]]] = {}
    for name in (BASELINE, *best):
        for run in trained[name]:
            output = runs / "test" / run.folder.name
            if not options.read and not (output / "metrics.json").exists():
                command = ["-m", "experiments.evaluate", "--model", str(run.folder), "--split", "test"]
                command += ["--data", str(options.data), "--output", str(output)]
                subprocess.run([sys.executable, *command], check=True)
            judged.setdefault(name, []).append(scores(output, "encoder"))
            lexical = scores(output, "BM25")
    return table(judged, {"BM25": lexical})


def scores(folder: Path, system: str) -> dict[str, list[float]]:
    """Read the headline metrics of every query."""
    return {metric: list(read_scores(folder, system, metric).values()) for metric in HEADLINE}


def table(
    systems: dict[str, list[dict[str, list[float]]]], baselines: dict[str, dict[str, list[float]]]
) -> dict[str, Any]:
    """Return mean, interval and difference from the baseline of each system and metric, over seeds and queries."""
    rows: dict[str, Any] = {
        name: {metric: {"mean": fmean(values)} for metric, values in row.items()} for name, row in baselines.items()
    }
    for name in systems:
        rows[name] = {}
        for metric in HEADLINE:
            own, base = ([seed[metric] for seed in systems[which]] for which in (name, BASELINE))
            interval = hierarchical_bootstrap(own)
            cell = {
                "seeds": [fmean(seed) for seed in own],
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
            }
            if name != BASELINE:
                found = compare(own, base)
                cell["difference"] = {
                    "mean": found.mean,
                    "low": found.low,
                    "high": found.high,
                    "p": found.randomisation_p,
                }
            rows[name][metric] = cell
    return dict(sorted(rows.items(), key=lambda row: -row[1][METRIC]["mean"]))


def show(split: str, rows: dict[str, Any]) -> None:
    """Print a table in Markdown."""
    print(f"\n| {split}, {METRIC} | seeds | mean | - {BASELINE} | p | recall@100 |\n|---|---|---|---|---|---|")
    for name, row in rows.items():
        cell = row[METRIC]
        difference = cell.get("difference", {})
        print(
            f"| {name} | {' / '.join(f'{seed:.3f}' for seed in cell.get('seeds', []))} | {cell['mean']:.3f} | "
            + ("{mean:+.3f} [{low:+.3f}, {high:+.3f}] | {p:.3f}".format(**difference) if difference else " | ")
            + f" | {row['recall@100']['mean']:.3f} |"
        )


if __name__ == "__main__":
    main()
