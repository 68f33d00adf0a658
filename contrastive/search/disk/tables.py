"""The table of LanceDB that keeps the embeddings of an index on disk, where its segments do not.

Notable decisions:

- A version of a table never changes, and the manifest names the one that counts. So nobody sees what a writer left that
  was killed before it wrote the manifest, and the next writer goes on from that version; who reads meanwhile sees what
  was there. Versions that are older than a week are deleted when the index is changed.
- Without a URL the table is in the folder of the index and moves with it. Elsewhere it has a name of its own, so that
  several indices may stand at one URL.
- From `LINKED_FROM` postings on the table is linked: a search is then approximate, and what it finds of the ten best
  is said.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from contrastive.data.store import key_of
from contrastive.encoder.embedding_cache import KeyedEncoder
from contrastive.search.contracts import Posting
from contrastive.search.disk.manifest import Manifest
from contrastive.search.engines.lance import LanceEngine
from contrastive.search.passages import title_and_body
from contrastive.similarity import product_similarity, similarity_of

LINKED_FROM = 100_000
"""Postings from which on a table is linked unless somebody says otherwise: a search of all takes 0.1 s and more."""

FOLDER = "vectors"
"""Where a table is without a URL, in the folder of the index."""

_SAMPLE = 50
"""Titles of postings that are searched for, to see what the links find."""

_log = logging.getLogger(__name__)


def place(
    folder: Path, engine: str | None, url: str | None, link: bool | None, before: Manifest | None
) -> Mapping[str, Any]:
    """Return what a manifest says of a new engine: its name; of a table where it is, its name there, its links.

    Raises:
        ValueError: If a URL or links are wanted of the engine `exact`.
    """
    there: Mapping[str, Any] = {} if before is None else before.engine
    if engine is None and url is None and link is None:
        engine, url, link = there.get("name"), there.get("url"), there.get("link")
    if engine != "lance":
        if url is not None or link:
            raise ValueError(f"expected the engine lance for a URL or links, got {engine or 'none'}")
        return {"name": "exact"}
    if url is None:
        return {"name": "lance", "url": None, "table": "postings", "link": link}
    if "://" not in url:
        url = str(Path(url).resolve())
    table = f"postings-{key_of([platform.node(), str(folder.resolve())])[:12]}"
    if there.get("url") == url:
        table = there["table"]  # the folder of the index may have moved
    return {"name": "lance", "url": url, "table": table, "link": link}


def is_inside(described: Mapping[str, Any]) -> bool:
    """Whether what a manifest says of its engine is a table in the folder of the index."""
    return described["name"] == "lance" and described["url"] is None


def new_table(described: Mapping[str, Any], folder: Path, encoder: KeyedEncoder) -> LanceEngine:
    """Return a table without documents, in the place of one that may be there."""
    return LanceEngine(_where(described, folder), similarity_of(encoder), table=described["table"], anew=True)


def table_of(manifest: Manifest, folder: Path) -> LanceEngine:
    """Return the table of an index, as the manifest has it.

    Raises:
        ValueError: If it is not there, or is not what it was.
    """
    similarity = product_similarity(str(manifest.encoder["similarity"]))
    url, table = _where(manifest.engine, folder), manifest.engine["table"]
    engine = LanceEngine(url, similarity, table=table, version=manifest.engine["version"])
    if engine.count() != manifest.count:
        raise ValueError(f"expected {manifest.count} documents in the table {table} at {url}, got {engine.count()}")
    return engine


def settled(
    table: LanceEngine, described: Mapping[str, Any], encoder: KeyedEncoder, added: Sequence[Posting], *, is_new: bool
) -> Mapping[str, Any]:
    """Link a table that was changed, if it is to be, and return what the manifest says of it, with its version."""
    table.tidy(alone=is_new)
    wanted = table.count() >= LINKED_FROM if described["link"] is None else described["link"]
    if wanted and not table.linked:
        table.link()
        drawn = Random(0).sample(added, min(_SAMPLE, len(added)))
        titles = [title_and_body(posting.text)[0] or posting.text for posting in drawn]
        recall = table.recall(encoder.encode(titles, side="query", show_progress=False, as_numpy=False))
        _log.info("linked: a search finds %.3f of the ten closest, by %d titles of postings", recall, len(titles))
    return {**described, "version": table.version}


def _where(described: Mapping[str, Any], folder: Path) -> str:
    return str(folder.resolve() / FOLDER) if is_inside(described) else str(described["url"])
