"""The list of modules in a folder of sentence-transformers, which may send queries another way than documents.

Of such a `Router` one kind is known here: documents go through a transformer and what follows it, queries the same way
or through one module that needs no transformer. It is read and written as a chain of the first, the other at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from contrastive.data.json_files import read_object
from contrastive.encoder.module_files import write_json

_ROUTER = "sentence_transformers.models.Router"
_OF_QUERIES = "SparseStaticEmbedding"


def unrouted(folder: Path, modules: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the modules of a folder as one chain; what does not begin with a router is one already.

    Raises:
        ValueError: If queries go a way that is not known here.
    """
    if not modules or not str(modules[0].get("type")).endswith(".Router"):
        return list(modules)
    start = PurePosixPath(str(modules[0].get("path")))
    path = folder / start / "router_config.json"
    config = read_object(path)
    types, routes = config.get("types"), config.get("structure")
    if not isinstance(types, dict) or not isinstance(routes, dict) or routes.keys() != {"query", "document"}:
        raise ValueError(f"expected {path} to route queries and documents, got {routes!r:.200}")
    queries, documents = routes["query"], routes["document"]
    is_apart = len(queries) == 1 and str(types.get(queries[0])).endswith(f".{_OF_QUERIES}")
    if len(modules) > 1 or not (is_apart or queries == documents):
        raise ValueError(f"{path} routes queries through {queries}, which is not supported; supported is {_OF_QUERIES}")
    chain = [*documents, *queries] if is_apart else documents
    return [{"path": (start / name).as_posix().removeprefix("."), "type": types.get(name)} for name in chain]


def write_modules(folder: Path, types: Sequence[str]) -> None:
    """Write which modules a folder has, by their dotted types: the transformer in the folder itself, then `i_Name`.

    A last one that embeds queries without a transformer is put beside the chain, behind a router.
    """
    paths = [f"{index}_{name.rpartition('.')[2]}" if index else "" for index, name in enumerate(types)]
    if types[-1].endswith(f".{_OF_QUERIES}"):
        names = [path or "." for path in paths]
        router = {
            "types": dict(zip(names, types, strict=True)),
            "structure": {"query": names[-1:], "document": names[:-1]},
            "parameters": {"default_route": "document", "allow_empty_key": True},
        }
        write_json(folder / "router_config.json", router)
        types, paths = [_ROUTER], [""]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": name}
        for index, (path, name) in enumerate(zip(paths, types, strict=True))
    ]
    write_json(folder / "modules.json", modules)
