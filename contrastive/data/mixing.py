"""Several data sets as one to train on.

Notable decisions:

- Nothing is copied: the training records are read from their sources, and named after them, when they are asked for.
- Ids of training records get the name of their source in front, since two sources may use one id for different things.
  The same text in two sources is still known as one: identity goes by text too (see `Identities`).
- The tasks keep their ids, so that results compare, query by query, with those of a run on the judged source alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Literal, overload

from contrastive.data.readers import check_disjoint
from contrastive.data.records import Account, Record, TextData


def mixed(
    sources: Mapping[str, TextData], *, judged: str | None = None, overlap: Literal["error", "warn"] = "error"
) -> TextData:
    """Train on several data sets and judge on one of them.

    How often each source is drawn, and whether a batch may hold several, is up to `EpochBatches`.

    Args:
        sources: The data sets by name; the name becomes `Record.source`.
        judged: Name of the source whose dev and test tasks are used, which may be one without training records; `None`
            for the first that has any task.
        overlap: Whether it is refused or only reported that a source trains on a query or a best answer of these tasks.

    Raises:
        ValueError: If there are no sources, a name is empty or has a slash, `judged` is unknown or has no task, another
            source has no training records, or a split answers another.

    Example:
        >>> jobs = TextData("jobs", (Record("python", "developer", query_id="q1", positive_id="d1"),))
        >>> help_pages = TextData("help", (Record("lost card", "call us", query_id="q1", positive_id="d1"),))
        >>> data = mixed({"jobs": jobs, "help": help_pages})
        >>> [(record.source, record.query_id) for record in data.train]
        [('jobs', 'jobs/q1'), ('help', 'help/q1')]
    """
    names = ", ".join(map(repr, sources))
    if not sources:
        raise ValueError("expected at least one source to mix, got none")
    if not all(name and "/" not in name for name in sources):
        raise ValueError(f"expected names of sources that are not empty and have no slash, got {names}")
    if judged is not None and judged not in sources:
        raise ValueError(f"expected judged to be one of the sources {names}, got {judged!r}")
    training = {name: data.train for name, data in sources.items() if data.train}
    for name in sources:
        if name not in training and (name != judged or not training):
            raise ValueError(f"expected training records in source {name!r}, it has none")
    chosen = judged or next((name for name, data in sources.items() if data.dev or data.test), None)
    tasks = TextData("") if chosen is None else sources[chosen]
    if judged is not None and not (tasks.dev or tasks.test):
        raise ValueError(f"expected the judged source {judged!r} to have a dev or test task, it has none")
    account = _account(sources, chosen)
    data = TextData("+".join(sources), _Concatenation(training), tasks.dev, tasks.test, account)
    check_disjoint(data, overlap=overlap)
    return data


def _account(sources: Mapping[str, TextData], judged: str | None) -> Account | None:
    """Add up the accounts of the sources that have one, each in its name."""
    read = {name: data.account for name, data in sources.items() if data.account is not None}
    remarks = [f"{name}: {remark}" for name, account in read.items() for remark in account.remarks]
    for name, data in sources.items():
        unused = [f"{len(task.queries):,} of {task.name}" for task in (data.dev, data.test) if task is not None]
        if unused and name != judged:
            remarks.append(f"{name}: queries that are not used, since another source is judged: {' and '.join(unused)}")
    if not read and not remarks:
        return None
    return Account(
        rows_read=sum(account.rows_read for account in read.values()),
        left_out={f"{name}: {why}": count for name, account in read.items() for why, count in account.left_out.items()},
        columns={
            f"{name}: {role}": column for name, account in read.items() for role, column in account.columns.items()
        },
        unused_columns=tuple(
            f"{name}: {column}" for name, account in read.items() for column in account.unused_columns
        ),
        remarks=tuple(remarks),
    )


class _Concatenation(Sequence[Record]):
    """The records of several sources, one source after another, each record made when it is asked for."""

    def __init__(self, sources: Mapping[str, Sequence[Record]]) -> None:
        self._names = tuple(sources)
        self._parts = tuple(sources.values())
        self._ends = tuple(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        part = bisect_right(self._ends, row)
        start = self._ends[part - 1] if part else 0
        return _of_source(self._names[part], self._parts[part][row - start])

    def __iter__(self) -> Iterator[Record]:
        for name, part in zip(self._names, self._parts, strict=True):
            for record in part:
                yield _of_source(name, record)


def _of_source(name: str, record: Record) -> Record:
    """Return the record with its source, and its ids named after that."""

    def unique(id_: str) -> str:
        return f"{name}/{id_}" if id_ else ""

    return replace(
        record,
        query_id=unique(record.query_id),
        positive_id=unique(record.positive_id),
        negative_ids=tuple(map(unique, record.negative_ids)),
        grades={unique(id_): grade for id_, grade in record.grades.items()},
        source=name,
    )
