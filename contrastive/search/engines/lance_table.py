"""Tables of LanceDB wherever a URL says: connected to, opened and made."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl


def connected(url: str) -> Any:
    """Return a connection to a database.

    Raises:
        ModuleNotFoundError: If LanceDB is not installed.
    """
    try:
        import lancedb
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "expected LanceDB for this engine, which is not installed: pip install 'contrastive-losses[engine]'"
        ) from error
    os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")  # or it warns of statistics that nobody asks for
    address, _, options = url.partition("?") if url.startswith("db://") else (url, "", "")
    given: dict[str, Any] = dict(parse_qsl(options))
    return lancedb.connect(address, read_consistency_interval=timedelta(seconds=0), **given)


def opened(database: Any, url: str, name: str, version: int | None) -> Any:
    """Return a table, at a version of it or its last; None if no version is asked for and there is no table.

    Raises:
        ValueError: If it cannot be read, or has no such version.
    """
    if version is None and name not in database.list_tables().tables:
        return None
    try:
        table = database.open_table(name)
        if version is not None:
            table.checkout(version)
        table.schema.names  # noqa: B018  # read now
    except Exception as error:  # a damaged file may be anything to the library
        raise ValueError(f"expected a table of LanceDB at {url}, got one that cannot be read: {error}") from error
    return table


def created(database: Any, url: str, name: str, rows: Any) -> Any:
    """Return a new table of rows, in the place of one that is there: as its next version, unless it is damaged."""
    there = name in database.list_tables().tables
    if there and "://" not in url:
        try:
            database.open_table(name)
        except Exception:  # as above; elsewhere it may be the network, and is left for a person to look at
            database.drop_table(name)
            there = False
    return database.create_table(name, rows, mode="overwrite" if there else "create")
