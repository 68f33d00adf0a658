"""How many chosen negatives are false, and what each filter is right about, on data=jobs, whose grades are complete.

    python -m benchmarks.mining_quality

Each strategy is shown the own positive of each pair alone (see `experiments.mine.quality`). The dense one uses the
untuned all-MiniLM-L6-v2. The result is kept in benchmarks/results/.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from contrastive.encoder import Encoder, embedded_minilm
from contrastive.encoder.embedding_cache import EmbeddingCache, default_folder
from contrastive.negatives import BM25, CandidateSource, Dense, Filters, Mined, Moment, Random
from experiments.mine.quality import CHOSEN, judge_filters
from experiments.postings.generator import jobs
from experiments.results.files import write_json

FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "relative margin 0.05": {"relative_margin": 0.05},
    "relative margin 0.2": {"relative_margin": 0.2},
    "absolute margin 0.1": {"absolute_margin": 0.1},
    "ranks from 10": {"min_rank": 10},
    "ranks 3 to 4 %": {"min_percent": 3, "max_percent": 4},
}
RESULT = Path(__file__).parent / "results" / "mining_quality-jobs.json"


def main() -> None:
    """Judge, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-pairs", type=int, default=960, help="pairs to mine for (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT, help="the result (%(default)s)")
    options = parser.parse_args()
    records = jobs(train_pairs=options.train_pairs).train
    encoder = Encoder.from_pretrained(embedded_minilm(), max_length=256)
    moment = Moment(encoder, cache=EmbeddingCache(default_folder()))
    sources: list[CandidateSource] = [Random(), BM25(), Dense()]
    rows = []
    for source in sources:
        for name, settings in FILTERS.items():
            judged = judge_filters(records, Mined(source, filters=Filters(**settings)), moment)
            refused = {key: {"count": j.count, "relevant": j.relevant} for key, j in judged.items() if key != CHOSEN}
            chosen = judged[CHOSEN]
            rows.append(
                {"strategy": source.name, "filters": name, "chosen": chosen.count, "false": chosen.relevant}
                | {"false_share": chosen.share, "refused": refused}
            )
            told = "; ".join(
                f"{key} {j['count']:,}, right {j['relevant'] / j['count']:.1%}" for key, j in refused.items()
            )
            print(f"{source.name:8}{name:22}{chosen.count:6,} chosen, {chosen.share:6.1%} false; {told}", flush=True)
    head = {"date": date.today().isoformat(), **machine(), "train_pairs": len(records), "count": 4}
    write_json(options.output, {**head, "rows": rows})


if __name__ == "__main__":
    main()
