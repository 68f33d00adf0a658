"""The data set `jobs`: training pairs, a dev task and a test task, deterministic in the seed.

    >>> data = jobs(train_pairs=8, dev_queries=4, test_queries=4)
    >>> len(data.train), len(data.test.corpus)
    (8, 9)

Notable decisions:

- Every item has a random generator of its own, seeded by a string with seed, split and number: asking for more training
  pairs or more negatives changes nothing about the items that were there before.
- The test and dev tasks do not depend on the training size; training queries that repeat one of theirs are redrawn.
- The first query of the test is the example of the project (words/example.yaml), which asks for skills of several
  roles; its answers, and postings that answer one part of it, are among those that the first queries are after. They
  are written and graded as all others.
- Grades are complete: those of every pair of query and posting in a split, by the rule in `labels`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from contrastive.data import Record, RetrievalTask, TextData
from experiments.postings.example import example_search, planted
from experiments.postings.labels import Posting, Search, relevant
from experiments.postings.negatives import KINDS, draw_negative
from experiments.postings.postings import draw_plan, draw_role, require, write
from experiments.postings.queries import draw_search
from experiments.postings.vocabulary import Split, palette

HARD_PER_QUERY = {"dev": 1.5, "test": 1.25}
MOST_NEGATIVES = 4


@dataclass(frozen=True, slots=True)
class World:
    """One split with its latent structure.

    Attributes:
        searches: The queries.
        postings: First the posting each query is after, in the order of the queries; then the hard negatives.
        negatives: For each query, the places of its hard negatives in `postings`.
        kinds: For each hard negative, in the order of `postings`, how it was built.
    """

    searches: tuple[Search, ...]
    postings: tuple[Posting, ...]
    negatives: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]


def bag(text: str) -> frozenset[str]:
    """The words of a query whatever their order, case and separators: equal bags are near-identical queries."""
    return frozenset("".join(letter if letter.isalnum() or letter in "+#." else " " for letter in text.lower()).split())


def _pair(split: Split, number: int, seed: int, taken: Collection[frozenset[str]]) -> tuple[Search, Posting]:
    """Draws a posting and a query it answers; again if the query is taken or the posting is not what was planted."""
    words = palette(split)
    own = planted()[number] if split == "test" and number < len(planted()) else None
    for attempt in range(100):
        random = Random(f"jobs/{seed}/{split}/{number}/{attempt}")
        plan = draw_plan(own.role if own else draw_role(words, random), words, random)
        plan = require(plan, own.skills, example_search(), random) if own else plan
        posting = write(f"{split}-d{number:04d}", plan, words, random)
        if own and not own.is_as_meant(posting, plan.level):
            continue
        search = draw_search(f"{split}-q{number:04d}", posting, words, random)
        search = example_search() if own and number == 0 else search
        if bag(search.clean) not in taken and bag(search.text) not in taken:
            return search, posting
    raise RuntimeError(f"expected a new query within 100 attempts for {split} {number}, got only repeated ones")


def world(split: Split, queries: int, *, seed: int, hard: int = 0, taken: Collection[frozenset[str]] = ()) -> World:
    """Draws one split.

    Args:
        split: Its name; decides which words it may use.
        queries: How many queries.
        seed: Seed of the data set.
        hard: How many hard negatives in all, dealt to the queries in turn.
        taken: Bags of words of the queries that must not be repeated.
    """
    pairs = [_pair(split, number, seed, taken) for number in range(queries)]
    postings = [posting for _, posting in pairs]
    negatives: list[list[int]] = [[] for _ in pairs]
    kinds: list[str] = []
    for number in range(hard):
        turn, owner = divmod(number, queries)
        search, positive = pairs[owner]
        random = Random(f"jobs/{seed}/{split}/{owner}/hard/{turn}")
        name = f"{split}-d{len(postings):04d}"
        kind, posting = draw_negative(name, owner + turn, search, positive.role, palette(split), random)
        negatives[owner].append(len(postings))
        postings.append(posting)
        kinds.append(kind)
    return World(tuple(search for search, _ in pairs), tuple(postings), tuple(map(tuple, negatives)), tuple(kinds))


def _task(split: Split, drawn: World) -> RetrievalTask:
    return RetrievalTask(
        name=f"jobs-{split}",
        queries={search.query_id: search.text for search in drawn.searches},
        corpus={posting.document_id: posting.text for posting in drawn.postings},
        qrels=relevant(drawn.searches, drawn.postings),
    )


def _records(drawn: World) -> tuple[Record, ...]:
    grades = relevant(drawn.searches, drawn.postings)
    records: list[Record] = []
    for number, search in enumerate(drawn.searches):
        positive = drawn.postings[number]
        own = sorted(
            (KINDS.index(drawn.kinds[place - len(drawn.searches)]), place) for place in drawn.negatives[number]
        )
        hard = [drawn.postings[place] for _, place in own]
        records.append(
            Record(
                query=search.text,
                positive=positive.text,
                negatives=tuple(posting.text for posting in hard),
                query_id=search.query_id,
                positive_id=positive.document_id,
                negative_ids=tuple(posting.document_id for posting in hard),
                grades=grades[search.query_id],
            )
        )
    return tuple(records)


def worlds(
    *, seed: int = 0, train_pairs: int = 960, dev_queries: int = 80, test_queries: int = 200, negatives: int = 0
) -> dict[Split, World]:
    """The three splits with their latent structure; the arguments are those of `jobs`."""
    test = world("test", test_queries, seed=seed, hard=round(test_queries * HARD_PER_QUERY["test"]))
    taken = {bag(text) for search in test.searches for text in (search.clean, search.text)}
    dev = world("dev", dev_queries, seed=seed, hard=round(dev_queries * HARD_PER_QUERY["dev"]), taken=taken)
    taken |= {bag(text) for search in dev.searches for text in (search.clean, search.text)}
    train = world("train", train_pairs, seed=seed, hard=train_pairs * negatives, taken=taken)
    return {"train": train, "dev": dev, "test": test}


def jobs(
    *, seed: int = 0, train_pairs: int = 960, dev_queries: int = 80, test_queries: int = 200, negatives: int = 0
) -> TextData:
    """Generates the data set.

    Args:
        seed: Another seed gives other queries and postings from the same words.
        train_pairs: Training records.
        dev_queries: Queries of the dev task; its corpus holds 2.5 postings for each.
        test_queries: Queries of the test task; its corpus holds 2.25 postings for each.
        negatives: Hard negatives by construction in each training record, 0 to 4.

    Raises:
        ValueError: If a number is outside its range.
    """
    sizes = {"train_pairs": train_pairs, "dev_queries": dev_queries, "test_queries": test_queries}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"expected {name} of at least 1, got {size}")
    if not 0 <= negatives <= MOST_NEGATIVES:
        raise ValueError(f"expected negatives between 0 and {MOST_NEGATIVES}, got {negatives}")
    drawn = worlds(seed=seed, negatives=negatives, **sizes)
    return TextData(
        name="jobs", train=_records(drawn["train"]), dev=_task("dev", drawn["dev"]), test=_task("test", drawn["test"])
    )
