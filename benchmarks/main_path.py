"""Run the recipes of the main path and put their results side by side.

    python -m benchmarks.main_path default               # data=jobs, 3 seeds and two other losses; test split
    python -m benchmarks.main_path weighted              # the same, queries weighed by idf, one seed; test split
    python -m benchmarks.main_path one_vector            # the same, one vector a text, 3 seeds; test split
    python -m benchmarks.main_path real --data DIR       # 500 pairs of real postings: 3 seeds, the usual recipe; test
    python -m benchmarks.main_path transfer --data DIR   # models of one vector on postings they never saw; dev split
    python -m benchmarks.main_path corpus --data DIR     # the postings alone against their given queries; test split

Every run is a folder under --runs; one that is finished is not run again. Differences are paired over the queries, with
the untuned encoder and against each other; several seeds of a recipe are averaged a query first. The result is kept in
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from contrastive.statistics import bootstrap_interval, paired_difference
from experiments.evaluate.baselines import WORD_MATCHING
from experiments.results.files import HEADLINE, write_json

OURS = ["loss=infonce", "encoder=minilm", "optimizer.learning_rate=1e-4", "trainer.max_epochs=3"]
SOURCE = ["data=beir", "data.max_train_pairs=500", "trainer.limit_val_batches=0", "judge=test", "logger=csv"]
SEEDS = {f"infonce, seed {seed}": ["loss=infonce", "logger=csv", f"seed={seed}"] for seed in (0, 1, 2)}
ONE_VECTOR = {name: [*recipe, "encoder=minilm"] for name, recipe in SEEDS.items()}
PLAIN = ["loss=infonce", "trainer.limit_val_batches=0", "judge=test", "logger=csv"]
RECIPES: dict[str, dict[str, list[str]]] = {
    "default": SEEDS | {loss: [f"loss={loss}", "logger=csv"] for loss in ("mnrl", "triplet")},
    "weighted": {"tokens, seed 0": [*PLAIN, "encoder=tokens", "encoder.query_weights=idf", "seed=0"]},
    "one_vector": ONE_VECTOR,
    "real": {
        "infonce, seed 0": [*SOURCE, *OURS, "seed=0"],
        "infonce, seed 1": [*SOURCE, *OURS, "seed=1", "before=false"],
        "infonce, seed 2": [*SOURCE, *OURS, "seed=2", "before=false"],
        "tutorial": [*SOURCE, "experiment=tutorial", "before=false"],
    },
    "transfer": ONE_VECTOR,
    "corpus": {
        "given queries": [*PLAIN, "encoder=minilm", "data=beir", "trainer.max_epochs=3"],
        "pseudo-queries, seed 0": [*PLAIN, "encoder=minilm", "data=corpus", "before=false", "seed=0"],
        "pseudo-queries, seed 1": [
            *PLAIN,
            "encoder=minilm",
            "data=corpus",
            "before=false",
            "seed=1",
            "data.queries.seed=1",
        ],
    },
}
PerQuery = dict[str, dict[str, float]]


def main() -> None:
    """Run what is missing, summarise, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(RECIPES))
    parser.add_argument("--data", type=Path, help="folder of real postings in the BEIR layout")
    parser.add_argument(
        "--runs", type=Path, default=Path("outputs/main_path"), help="where runs are kept (%(default)s)"
    )
    parser.add_argument("--only", nargs="+", metavar="RECIPE", help='some of the recipes, such as "infonce, seed 0"')
    options = parser.parse_args()
    recipes = {name: recipe for name, recipe in RECIPES[options.what].items() if name in (options.only or [name])}
    if options.what in ("real", "transfer", "corpus") and options.data is None:
        parser.error(f"{options.what} needs --data")
    source = [f"data.path='{options.data.resolve()}'"] if options.what in ("real", "corpus") else []
    folders = {}
    for name, recipe in recipes.items():
        folders[name] = options.runs / ("one_vector" if options.what == "transfer" else options.what) / slug(name)
        run(folders[name], [*recipe, *source])
    systems = transferred(options, folders) if options.what == "transfer" else judged(folders)
    content = {
        "date": date.today().isoformat(),
        **machine(),
        "commands": {name: " ".join(recipe) for name, recipe in recipes.items()},
        "seconds": {
            name: json.loads((folder / "metrics.json").read_text())["seconds"] for name, folder in folders.items()
        },
        "grades of the best three for the example query": {
            name: json.loads((folder / "metrics.json").read_text())["systems"]["after"].get("top_grades")
            for name, folder in folders.items()
        },
        "systems": {name: intervals(rows) for name, rows in systems.items()},
        "differences": differences(systems),
    }
    write_json(Path(__file__).parent / "results" / f"main_path-{options.what}.json", content)
    show(content)


def run(folder: Path, recipe: list[str]) -> None:
    """Run a recipe unless its folder holds a finished run."""
    metrics = folder / "metrics.json"
    if not metrics.exists() or json.loads(metrics.read_text())["status"] != "finished":
        subprocess.run([sys.executable, "-m", "experiments.run", *recipe, f"hydra.run.dir={folder}"], check=True)


def judged(folders: dict[str, Path]) -> dict[str, PerQuery]:
    """Read the systems of some runs: BM25 and the untuned encoder once, what was trained by the name of its recipe."""
    first = next(iter(folders.values()))
    systems = {name: read(first / f"{name}.per_query.csv") for name in WORD_MATCHING}
    systems["untuned"] = read(first / "before.per_query.csv")
    systems |= {name: read(folder / "after.per_query.csv") for name, folder in folders.items()}
    if len(folders) == 1 and (first / "hybrid.per_query.csv").exists():
        systems["hybrid"] = read(first / "hybrid.per_query.csv")
    return with_mean(systems)


def with_mean(systems: dict[str, PerQuery]) -> dict[str, PerQuery]:
    """Add the mean of the seeds of a recipe, if there are several."""
    seeds = {name: rows for name, rows in systems.items() if ", seed" in name}
    if len(seeds) > 1:
        systems[f"{recipe_of(next(iter(seeds)))}, mean of {len(seeds)} seeds"] = mean_of(list(seeds.values()))
    return systems


def transferred(options: argparse.Namespace, folders: dict[str, Path]) -> dict[str, PerQuery]:
    """Judge the untuned encoder and the trained ones on the dev split of other data."""
    systems = {}
    for name, model in {"untuned": "minilm", **{name: str(folder) for name, folder in folders.items()}}.items():
        output = options.runs / "transfer" / slug(name)
        if not (output / "metrics.json").exists():
            command = [sys.executable, "-m", "experiments.evaluate", "--model", model, "--data", str(options.data)]
            subprocess.run([*command, "--split", "dev", "--output", str(output)], check=True)
        systems |= {baseline: read(output / f"{baseline}.per_query.csv") for baseline in WORD_MATCHING}
        systems[name] = read(output / "encoder.per_query.csv")
    return with_mean(systems)


def recipe_of(name: str) -> str:
    """Return the name of a system without its seeds."""
    return name.partition(",")[0]


def read(path: Path) -> PerQuery:
    """Read the headline metrics of every query."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["query_id"]: {metric: float(row[metric]) for metric in HEADLINE} for row in csv.DictReader(file)}


def mean_of(runs: list[PerQuery]) -> PerQuery:
    """Average several runs query by query."""
    return {
        query: {metric: statistics.mean(rows[query][metric] for rows in runs) for metric in HEADLINE}
        for query in runs[0]
    }


def intervals(rows: PerQuery) -> dict[str, Any]:
    """Return mean and 95 % interval of each headline metric."""
    return {metric: cell(bootstrap_interval([row[metric] for row in rows.values()])) for metric in HEADLINE}


def differences(systems: dict[str, PerQuery]) -> dict[str, Any]:
    """Return the paired differences of every trained system from the untuned encoder and from the other recipes."""
    trained = [name for name in systems if name not in (*WORD_MATCHING, "untuned")]
    pairs = [(name, baseline) for name in trained for baseline in ("untuned", *WORD_MATCHING) if baseline in systems]
    first = trained[0]
    pairs += [(name, first) for name in trained[1:] if ", seed" not in name and recipe_of(name) != recipe_of(first)]
    if "tutorial" in trained and len(trained) > 2:
        pairs.append((trained[-1], "tutorial"))
    return {
        f"{name} - {baseline}": {
            metric: cell(
                paired_difference(*([systems[s][q][metric] for q in systems[baseline]] for s in (name, baseline)))
            )
            for metric in HEADLINE
        }
        for name, baseline in pairs
    }


def cell(interval: Any) -> dict[str, float]:
    """Return the fields of an interval or a difference."""
    return {name: getattr(interval, name) for name in ("mean", "low", "high", "p_value") if hasattr(interval, name)}


def show(content: dict[str, Any]) -> None:
    """Print the tables in Markdown."""
    print("| | " + " | ".join(HEADLINE) + " |\n|---|" + "---|" * len(HEADLINE))
    for name, row in content["systems"].items():
        print(
            f"| {name} | " + " | ".join("{mean:.3f} [{low:.3f}, {high:.3f}]".format(**row[m]) for m in HEADLINE) + " |"
        )
    print("\n| difference | " + " | ".join(HEADLINE) + " |\n|---|" + "---|" * len(HEADLINE))
    for name, row in content["differences"].items():
        print(
            f"| {name} | "
            + " | ".join("{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row[m]) for m in HEADLINE)
            + " |"
        )


def slug(name: str) -> str:
    """Return a name fit for a folder."""
    return name.replace(", ", "-").replace(" ", "")


if __name__ == "__main__":
    main()
