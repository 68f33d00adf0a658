"""Queries that a model writes for documents: the contract, the cache file, and the cleaning of what models answer.

A writer is a callable from documents to the queries written for each, with `settings` that decide what it writes.
`EndpointWriter` asks a language model behind an OpenAI-compatible address, `Text2TextWriter` runs a T5 on this machine.
`write_queries` calls any writer through a cache file, so that nothing is paid for or waited for twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Never, Protocol, runtime_checkable

from tqdm import tqdm

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
_LINE_START = '{"key": "'


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
    keys = [_key(document, settings) for document in documents]
    wanted = {key: document for key, document in zip(keys, documents, strict=True) if document.strip()}
    file = Path(path)
    written = _read(file)
    if wanted.keys() - written.keys():
        _write_missing(writer, wanted, written, file, batch_size, show_progress)
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


def _key(document: str, settings: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps([settings, document], sort_keys=True).encode()).hexdigest()


def _write_missing(
    writer: QueryWriter,
    wanted: Mapping[str, str],
    written: dict[str, list[str]],
    file: Path,
    batch_size: int,
    show_progress: bool,
) -> None:
    """Have queries written for the wanted documents that have none, and add them to `written` and to the file."""
    missing = [key for key in wanted if key not in written]
    finished = _finished(writer, [wanted[key] for key in missing], batch_size)
    bar: tqdm[Never] = tqdm(
        total=len(wanted),
        initial=len(wanted) - len(missing),
        desc="writing queries",
        unit=" documents",
        disable=not show_progress,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _open_to_append(file) as lines, closing(finished), bar:
            for index, queries in finished:
                _append(lines, missing[index], queries)
                written[missing[index]] = queries
                bar.update()
        if wanted.keys() - written.keys():
            raise ValueError(f"expected the writer to write for {len(missing)} documents, got fewer")
    except (ConnectionError, KeyboardInterrupt) as error:
        done = (
            f"{sum(key in written for key in wanted)} of {len(wanted)} documents have their queries, kept in {file}; "
            "the same command continues with the rest"
        )
        if isinstance(error, ConnectionError):
            raise ConnectionError(f"{error}\n{done}") from error
        _log.warning("stopped: %s", done)
        raise


def _finished(
    writer: QueryWriter, documents: Sequence[str], batch_size: int
) -> Generator[tuple[int, list[str]], None, None]:
    """Yield the index of each document and its queries as soon as the writer hands them over."""
    if isinstance(writer, StreamingWriter):
        yield from writer.stream(documents)
        return
    for start in range(0, len(documents), batch_size):
        batch = documents[start : start + batch_size]
        queries = writer(batch)
        if len(queries) != len(batch):
            raise ValueError(f"expected the writer to return {len(batch)} lists of queries, got {len(queries)}")
        yield from enumerate(queries, start)


def _read(file: Path) -> dict[str, list[str]]:
    """Read the queries of each key; later lines win. A line torn by a killed process is passed over."""
    if not file.exists():
        return {}
    written: dict[str, list[str]] = {}
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            match row:
                case {"key": str(key), "queries": list(queries)}:
                    written[key] = queries
                case None if line.startswith(_LINE_START) or _LINE_START.startswith(line.rstrip("\n")):
                    _log.warning("%s, line %d: torn, its document is asked for again", file, number)
                case _:
                    raise ValueError(f"{file}, line {number}: expected a key and its queries, got {line[:60]!r}")
    return written


def _open_to_append(file: Path) -> IO[bytes]:
    """Open a file of whole lines to append to; a torn last line is ended first, lest the next be glued to it."""
    lines = file.open("a+b")
    if lines.tell() > 0:
        lines.seek(-1, 2)
        if lines.read() != b"\n":
            lines.write(b"\n")
    return lines


def _append(lines: IO[bytes], key: str, queries: Sequence[str]) -> None:
    # ASCII keeps half an emoji, which UTF-8 cannot. One write of a whole line is safe beside another process.
    lines.write(json.dumps({"key": key, "queries": queries}).encode() + b"\n")
    lines.flush()
