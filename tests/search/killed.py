"""Builds and changes indices in processes that are killed, each at another moment: run by `test_kills`.

The libraries are imported once; processes are forks. A moment is a call of one of a few functions that write, before
and after it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contrastive.data import whole_files
from contrastive.encoder import Encoder
from contrastive.search import Posting, build_index, building, open_index, segments, update_index
from contrastive.search.lance import LanceEngine
from contrastive.search.manifest import Manifest

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


def kill_at(moment: int) -> Callable[[], int]:
    """Let this process be killed at the moment of this number; return what says how many have passed."""
    passed = 0

    def passes() -> None:
        nonlocal passed
        passed += 1
        if passed == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            passes()
            value = function(*given, **named)
            passes()
            return value

        return called

    writing = [(segments, "write_embeddings"), (whole_files, "_sync"), (building, "write_segment"), (shutil, "rmtree")]
    for owner, name in [*writing, (Manifest, "write"), *((LanceEngine, name) for name in ("add", "remove", "tidy"))]:
        setattr(owner, name, around(getattr(owner, name)))
    return lambda: passed


def killed_at(moment: int, what: str, base: Path, folder: Path, encoder: Encoder) -> int:
    """Change a copy of an index in a process that is killed; return how many moments there were, 0 if it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        shutil.copytree(base, folder)
        passed = kill_at(moment)
        change(what, folder, encoder)
        os.write(writing, str(passed()).encode())
        os._exit(0)
    os.close(writing)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return 0
    return int(os.read(reading, 9))


def main(model: str, folder: Path, moments: int, engines: list[str]) -> None:
    """Kill processes at moments that are spread over a build and over a change, an index of its own for each."""
    building.SIZE = 2
    if "lance" in engines:
        import lancedb  # noqa: F401  # begins anew after a fork, while it is unused
    encoder = Encoder.from_pretrained(model, normalize=True, tokens_per_batch=32)  # as `tiny_encoder`
    for engine in engines:
        base = folder / engine / "base"
        if not os.fork():
            build_index(base, encoder, BEFORE, engine=engine)  # type: ignore[arg-type]
            os._exit(0)
        os.wait()
        for what in ("build", "update"):
            here = folder / engine / what
            there = killed_at(0, what, base, here / "whole", encoder)
            for number in range(moments):
                moment = 1 + number * (there - 1) // (moments - 1)
                if killed_at(moment, what, base, here / f"{moment:03}", encoder):
                    raise RuntimeError(f"expected to be killed at moment {moment} of {there}, was not")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
