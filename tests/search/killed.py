"""Builds and changes indices in processes that are killed, each at another moment: run by `test_kills`.

The libraries are imported once; processes are forks.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from contrastive.data import whole_files
from contrastive.encoder import Encoder
from contrastive.search import Posting, build_index, open_index, update_index
from contrastive.search.disk import building
from contrastive.search.disk.manifest import Manifest
from contrastive.search.engines.lance import LanceEngine

BEFORE = [Posting(f"d{n}", f"nurse {n}\nhospital {'years ' * n}", {"place": ("Bonn", "Ulm")[n % 2]}) for n in range(6)]
AFTER = [*BEFORE[:3], Posting("d3", "chef\nkitchen"), *(Posting(f"e{n}", f"data job {n}\npython") for n in range(4))]
ADDED = AFTER[3:]


def change(what: str, folder: Path, encoder: Encoder) -> None:
    """Make of an index of `BEFORE` one of `AFTER`."""
    if what == "build":
        build_index(folder, encoder, AFTER)
    else:
        there = {posting.id for posting in BEFORE} & set(open_index(folder, encoder).postings.ids)
        update_index(folder, encoder, add=ADDED, remove=there - {posting.id for posting in AFTER})


MOMENTS = (
    "before _sync 2",
    "after write_segment 2",
    "after remove 1",
    "after add 1",
    "before write 1",
    "before _sync of index.json 1",
    "after write 1",
    "after rmtree 1",
)
"""Before or after which call of a function a process is killed."""


def moments_of(engine: str, what: str) -> list[str]:
    """Return those of a build or an update: only LanceDB is added to and removed from; else it is as with `exact`."""
    never = [
        *(("add", "remove") if engine == "exact" else ("_sync", "rmtree")),
        *(("remove",) if what == "build" else ()),
    ]
    return [moment for moment in MOMENTS if moment.split()[1] not in never]


def kill_at(moment: str) -> None:
    """Let this process be killed at a moment."""
    passed: Counter[str] = Counter()

    def passes(where: str) -> None:
        passed[where] += 1
        if f"{where} {passed[where]}" == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            of = " of index.json" if name == "_sync" and given[0].name.startswith("index.") else ""
            passes(f"before {name}{of}")
            value = function(*given, **named)
            passes(f"after {name}{of}")
            return value

        return called

    writing = [(whole_files, "_sync"), (building, "write_segment"), (Manifest, "write"), (shutil, "rmtree")]
    for owner, name in [*writing, *((LanceEngine, name) for name in ("add", "remove", "tidy"))]:
        setattr(owner, name, around(name, getattr(owner, name)))


def main(model: str, folder: Path, engines: list[str]) -> None:
    """Kill processes at each moment of a build and of a change, an index of its own for each."""
    building.SIZE = 2
    if "lance" in engines:
        import lancedb  # noqa: F401  # begins anew after a fork, while it is unused
    encoder = Encoder.from_pretrained(model, normalize=True, tokens_per_batch=32)  # as `tiny_encoder`
    for engine, what in product(engines, ("build", "update")):
        base = folder / engine / "base"
        for moment in moments_of(engine, what):
            here = folder / engine / what / moment
            child = os.fork()
            if not child:
                if not base.exists():
                    build_index(base, encoder, BEFORE, engine=engine)  # type: ignore[arg-type]
                shutil.copytree(base, here)
                kill_at(moment)
                change(what, here, encoder)
                os._exit(1)
            status = os.waitpid(child, 0)[1]
            if not os.WIFSIGNALED(status):
                raise RuntimeError(f"expected {what} with {engine} to be killed {moment}, was not")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
