"""Queries that a model writes for documents: the contract, the cache file, and the cleaning of what models answer.

A writer is a callable from documents to the queries written for each, with `settings` that decide what it writes.
`EndpointWriter` asks a language model behind an OpenAI-compatible address, `Text2TextWriter` runs a T5 on this machine.
`write_queries` calls any writer through a cache file, so that nothing is paid for or waited for twice.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Never, Protocol, runtime_checkable

from tqdm import tqdm

from contrastive.data.keyed_lines import KeyedLines
from contrastive.data.store import key_of
from contrastive.data.texts import check_texts
from contrastive.masks import normalise_text

MOST_WORDS = 30
"""A longer line is a remark or a summary, not a query."""

_log = logging.getLogger(__name__)
_BULLET = r"[-+*\u2022\u00b7\u2013\u2014]\s+"
_NUMBER = r"(?:(?:search )?query\s*)?\(?\d{1,2}[.):]\s+"
_LABELS = re.compile(rf"^(?:{_BULLET}|{_NUMBER}|(?:search )?query:\s*)+", re.IGNORECASE)
_QUOTES = r"[\"'`\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb]+"
_QUOTED = re.compile(rf"{_QUOTES}\s*([^\"\u201c\u201d]*?)\s*{_QUOTES}")


class QueryWriter(Protocol):
    """Writes queries for documents; the result has a list for each document, in order, and a list may be empty."""

    @property
    def settings(self) -> Mapping[str, object]:
        """What decides the output (model, prompt, decoding, ...), as values that JSON knows."""
        ...

    def __call__(self, documents: Sequence[str]) -> list[list[str]]:
        """Write the queries of each document."""
        ...


@runtime_checkable
class StreamingWriter(QueryWriter, Protocol):
    """A writer that can also hand over the queries of each document as soon as they are there."""

    def stream(self, documents: Sequence[str]) -> Generator[tuple[int, list[str]], None, None]:
        """Yield the index of each document and its queries, in any order."""
        ...


def write_queries(
    writer: QueryWriter,
    documents: Sequence[str],
    path: str | Path,
    *,
    batch_size: int = 16,
    show_progress: bool = False,
) -> list[list[str]]:
    """Write queries for documents, or find them in a cache file.

    The file has a line of JSON for each document: a key made of its text and the writer's settings, and its queries.
    Lines are appended as queries arrive, so that a run that was stopped continues where it was, and runs with other
    settings or documents can share a file. A document for which nothing was written is remembered too: delete its line
    to ask again. Equal documents are asked for once, blank ones never.

    Args:
        writer: Writes what the file does not have; a `StreamingWriter` is saved document by document.
        documents: Texts.
        path: The file; it is made if missing, with its folder.
        batch_size: Documents in a call of a writer that cannot stream.
        show_progress: Show a progress bar that counts distinct documents.

    Returns:
        The queries of each document, in order.

    Raises:
        ConnectionError: If the model's server fails for good; the message says how many documents are done.
        ValueError: If the file is something else, or the writer does not return a list for each document.

    Example:
        >>> class FirstWords:
        ...     settings = {"words": 2}
        ...     def __call__(self, documents):
        ...         return [[" ".join(document.split()[:2])] for document in documents]
        >>> folder = getfixture("tmp_path")
        >>> write_queries(FirstWords(), ["night nurse in Leeds", "pastry chef, hotel"], folder / "queries.jsonl")
        [['night nurse'], ['pastry chef,']]
    """
    check_texts(documents)
    check_at_least_one(batch_size=batch_size)
    # Half an emoji, out of a text that was cut, is refused by tokenizers and by some servers; it becomes "?".
    documents = [document.encode("utf-8", "replace").decode("utf-8") for document in documents]
    settings = dict(writer.settings)
    keys = [key_of([settings, document]) for document in documents]
    wanted = {key: document for key, document in zip(keys, documents, strict=True) if document.strip()}
    lines = KeyedLines(path, "queries")
    written = lines.read(say_torn=False)
    if wanted.keys() - written.keys():
        written = _write_missing(writer, wanted, lines, batch_size, show_progress)
    nothing = sum(not written[key] for key in wanted)
    if nothing:
        _log.warning("%d of %d documents got no query", nothing, len(wanted))
    return [list(written[key]) if key in wanted else [] for key in keys]


def clean_queries(lines: Iterable[str], most: int) -> list[str]:
    """Return the queries among the lines of a model's answer, at most `most`.

    Numbers, bullets and quotes around a line are taken off. Empty lines, fences, lines that introduce others (they end
    with a colon), lines of more than 30 words and duplicates are dropped.

    Example:
        >>> clean_queries(["Here are two queries:", "1. night nurse leeds", '2) "Night nurse Leeds"', "- icu, 12h"], 3)
        ['night nurse leeds', 'icu, 12h']
    """
    queries: dict[str, str] = {}
    for line in lines:
        query = _LABELS.sub("", " ".join(line.replace("**", "").split()).rstrip(",;"))
        quoted = _QUOTED.fullmatch(query)
        query = quoted[1] if quoted else query
        remark = query.endswith(":") or query.startswith("```") or len(query.split()) > MOST_WORDS
        if any(map(str.isalnum, query)) and not remark:
            queries.setdefault(normalise_text(query), query)
    return list(queries.values())[:most]


def check_prompt(prompt: str, placeholders: set[str]) -> None:
    """Refuse a prompt that lacks a placeholder such as `{document}`, or has one that nothing fills.

    Raises:
        ValueError: If it does.
    """
    found = set(re.findall(r"\{(\w*)\}", prompt))
    if found != placeholders:
        expected, got = (", ".join(f"{{{name}}}" for name in sorted(names)) for names in (placeholders, found))
        raise ValueError(f"expected a prompt with the placeholders {expected}, got {got or 'none'}: {prompt[:80]!r}")


def check_at_least_one(**numbers: int | None) -> None:
    """Refuse named numbers below 1; `None` stands for no number.

    Raises:
        ValueError: If there is one.
    """
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"expected {name} of at least 1, got {number}")


def _write_missing(
    writer: QueryWriter,
    wanted: Mapping[str, str],
    lines: KeyedLines,
    batch_size: int,
    show_progress: bool,
) -> dict[str, list[str]]:
    """Have queries written for the wanted documents that have none, add them to the file, and return what is there."""
    with lines.appending() as append:
        written = lines.read()  # what another process wrote while this one waited included
        missing = [key for key in wanted if key not in written]
        finished = _finished(writer, [wanted[key] for key in missing], batch_size)
        bar: tqdm[Never] = tqdm(
            total=len(wanted),
            initial=len(wanted) - len(missing),
            desc="writing queries",
            unit=" documents",
            disable=not show_progress,
        )
        try:
            with closing(finished), bar:
                for index, queries in finished:
                    append(missing[index], queries)
                    written[missing[index]] = queries
                    bar.update()
            if wanted.keys() - written.keys():
                raise ValueError(f"expected the writer to write for {len(missing)} documents, got fewer")
        except (ConnectionError, KeyboardInterrupt) as error:
            done = (
                f"{sum(key in written for key in wanted)} of {len(wanted)} documents have their queries, kept in "
                f"{lines.path}; the same command continues with the rest"
            )
            if isinstance(error, ConnectionError):
                raise ConnectionError(f"{error}\n{done}") from error
            _log.warning("stopped: %s", done)
            raise
    return written


def _finished(
    writer: QueryWriter, documents: Sequence[str], batch_size: int
) -> Generator[tuple[int, list[str]], None, None]:
    """Yield the index of each document and its queries as soon as the writer hands them over."""
    if documents and isinstance(writer, StreamingWriter):
        yield from writer.stream(documents)
        return
    for start in range(0, len(documents), batch_size):
        batch = documents[start : start + batch_size]
        queries = writer(batch)
        if len(queries) != len(batch):
            raise ValueError(f"expected the writer to return {len(batch)} lists of queries, got {len(queries)}")
        yield from enumerate(queries, start)
