"""An inspection of text data as tables, and what stands out in it as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from contrastive.data.shown import clean, percent
from experiments.data.account import cautions, overview
from experiments.data.inspection import SAMPLE, Inspection
from experiments.data.pair_statistics import Distribution

SMALL_SOURCE = 0.05
"""A data set of a mixture with less than this share of the pairs is pointed out."""
LEXICAL, NOT_LEXICAL = 0.8, 0.2
"""Word overlaps beyond these are pointed out."""

_DUPLICATES = {
    "queries": "equal queries under different ids",
    "documents": "equal documents under different ids",
    "pairs": "pairs that repeat another",
    "several_positives": "queries with several positives",
    "several_queries": "positives of several queries",
    "false_negatives": "hard negatives that are a positive of their query",
}


def findings(found: Inspection) -> list[str]:
    """Say what stands out, in plain words, the gravest first."""
    sentences = [*found.leaks, *(cautions(found.account) if found.account else ()), *_sizes(found)]
    for kind, lengths in found.lengths.items():
        if lengths.cut:
            share = percent(lengths.cut / lengths.measured)
            sentences.append(f"{share} of the {kind} are cut at {lengths.max_length} tokens")
        if not lengths.characters.minimum:
            sentences.append(f"some {kind} are empty")
    for name, what in _DUPLICATES.items():
        counts = {split: getattr(duplicates, name) for split, duplicates in found.duplicates.items()}
        if any(counts.values()):
            sentences.append(
                f"{what}: " + ", ".join(f"{count:,} in {split}" for split, count in counts.items() if count)
            )
    for split, share in found.word_overlap.items():
        if not NOT_LEXICAL < share < LEXICAL:
            hint = "word matching such as BM25 will be hard to beat" if share >= LEXICAL else "words alone find little"
            sentences.append(f"{percent(share)} of the words of a {split} query stand in its answer: {hint}")
    return [clean(sentence) for sentence in sentences]


def _sizes(found: Inspection) -> Iterator[str]:
    """Yield what is missing, and what is odd about the sizes."""
    if not found.train:
        yield "there are no training pairs: models can only be judged on this data"
    for split, use in (("dev", "nothing to tune on"), ("test", "nothing for a final score")):
        if split not in found.tasks:
            yield f"there is no {split} split: {use}"
    for split, task in found.tasks.items():
        if task.unanswered:
            yield f"{split} queries without a relevant document: {task.unanswered:,}"
    for source, counts in found.train.items():
        if source == "all" and 0 < counts.scored < counts.pairs:
            yield f"{counts.scored:,} of {counts.pairs:,} training pairs have a score: training wants all or none"
        share = counts.pairs / found.train["all"].pairs
        if share < SMALL_SOURCE:
            yield f"{percent(share)} of the training pairs are of {source}: raise batches.source_temperature?"


def print_inspection(found: Inspection, console: Console) -> None:
    """Print what was read, all tables, the examples, and at last the findings."""
    for sentence in overview(found.account) if found.account else ():
        _print(sentence, console)
    _print_sizes(found, console)
    lengths = found.lengths
    limits = " and ".join(map(str, sorted({kind.max_length for kind in lengths.values()})))
    tokens = {name: [*_quantiles(kind.tokens), percent(kind.cut / kind.measured)] for name, kind in lengths.items()}
    characters = {name: _quantiles(kind.characters) for name, kind in lengths.items()}
    quantiles = ["min", "median", "90 %", "99 %", "max"]
    _print_table(f"Length in tokens, and how many texts are cut at {limits}", [*quantiles, "cut"], tokens, console)
    _print_table("Length in characters", quantiles, characters, console)
    if any(kind.measured == SAMPLE for kind in lengths.values()):
        _print(f"Where there are more than {SAMPLE:,}, lengths and overlap of words are those of a sample", console)
    repeated = {
        what: [_count(getattr(duplicates, name)) for duplicates in found.duplicates.values()]
        for name, what in _DUPLICATES.items()
    }
    _print_table("Duplicates", list(found.duplicates), repeated, console)
    overlaps = ", ".join(f"{split} {percent(share)}" for split, share in found.word_overlap.items())
    _print(f"Words of a query that stand in its best answer: {overlaps}", console)
    for example in found.examples:
        lines = {"\n": example.query, "  positive  ": example.positive, "  negative  ": example.negative}
        for label, text in lines.items():
            if text is not None:
                console.print(label + text, markup=False, highlight=False, no_wrap=True, overflow="ellipsis")
    _print("\nWhat stands out", console)
    for sentence in findings(found) or ["nothing"]:
        _print(f"  - {sentence}", console)


def _print_sizes(found: Inspection, console: Console) -> None:
    train = {
        source: [
            *(f"{number:,}" for number in (counts.pairs, counts.queries, counts.documents)),
            _range(counts.pairs_a_query),
            _range(counts.negatives_a_pair),
            f"{counts.scored:,}",
        ]
        for source, counts in found.train.items()
    }
    columns = ["pairs", "queries", "documents", "pairs a query", "negatives", "scored"]
    _print_table(f"{found.name}: to train on", columns, train, console)
    tasks = {
        split: [
            *(f"{number:,}" for number in (task.queries, task.documents, task.judged)),
            _range(task.relevant_a_query),
            ", ".join(f"{grade}: {count:,}" for grade, count in task.grades.items()),
        ]
        for split, task in found.tasks.items()
    }
    columns = ["queries", "documents", "judged", "relevant", "how often each grade"]
    _print_table(f"{found.name}: to judge on", columns, tasks, console)


def _print_table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]], console: Console) -> None:
    if not rows:
        return
    table = Table(title=Text(clean(title)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column()
    for column in columns:
        table.add_column(column, justify="right")
    for name, cells in rows.items():
        table.add_row(Text(clean(name)), *cells)
    console.print(table)


def _print(sentence: str, console: Console) -> None:
    console.print(clean(sentence), markup=False, highlight=False, soft_wrap=True)


def _range(values: Distribution) -> str:
    """Write a distribution on little room: one number if all values are the same."""
    if values.minimum == values.maximum:
        return f"{values.minimum:,}"
    return f"{values.minimum:,}-{values.maximum:,}, mean {values.mean:,.1f}"


def _quantiles(values: Distribution) -> list[str]:
    return [f"{value:,}" for value in (values.minimum, values.median, values.p90, values.p99, values.maximum)]


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
