"""Candidates of an index on disk: the means of its token vectors, a file for each segment, as changeless as that."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contrastive.data.whole_files import whole_file
from contrastive.encoder.embedding_files import read_embeddings, write_embeddings
from contrastive.search.disk.manifest import Manifest
from contrastive.search.disk.segments import Segment
from contrastive.search.engines.candidates import FROM, NUMBER, Candidates
from contrastive.search.engines.exact import ExactEngine, Part
from contrastive.search.postings import Postings
from contrastive.similarity import Embeddings, cosine, mean_vectors

FOLDER = "means"
"""Where they are, in the folder of the index."""

_log = logging.getLogger(__name__)


def candidates_of(
    folder: Path, manifest: Manifest, segments: Sequence[Segment], postings: Postings, number: int | None
) -> Candidates | None:
    """Return what finds candidates among the postings of an index, whose means are made where they are missing.

    Args:
        folder: That of the index.
        manifest: What it consists of.
        segments: Those that it names.
        postings: The postings in them.
        number: How many candidates of a query; 0 for none, None for as it was built.

    Raises:
        ValueError: If the index has no token vectors, or does not keep them itself.
    """
    if number is None:
        number = int((manifest.candidates or {}).get("number", 0))
    if not number:
        return None
    engine = postings.engine
    if not can_have_candidates(manifest) or not isinstance(engine, ExactEngine):
        name, kind = manifest.engine["name"], manifest.encoder["representation"]
        raise ValueError(f"expected an index of tokens with the engine exact for candidates, got {kind} with {name}")
    parts = [
        Part(each.ids, stored_means(folder, name, each.embeddings), each.columns)
        for name, each in zip(manifest.segments, segments, strict=True)
        if each.embeddings is not None
    ]
    removed = [np.array(rows, np.int64) for rows in manifest.segments.values()]
    return Candidates(engine, postings.words, ExactEngine(cosine, parts, removed), number)


def can_have_candidates(manifest: Manifest) -> bool:
    """Whether an index has token vectors that it keeps itself: a table of LanceDB has links in their place."""
    return manifest.encoder["representation"] == "tokens" and manifest.engine["name"] == "exact"


def usual_candidates(manifest: Manifest) -> int:
    """Return how many candidates a new index has unless somebody says otherwise; 0 for none."""
    return NUMBER if manifest.count >= FROM and can_have_candidates(manifest) else 0


def stored_means(folder: Path, segment: str, embeddings: Embeddings) -> Tensor:
    """Return the means [n, D] of the embeddings of a segment, memory-mapped, or made and kept.

    Args:
        folder: That of the index.
        segment: Name of the segment.
        embeddings: What it has.
    """
    path = folder / FOLDER / f"{segment}.npy"
    try:
        found = read_embeddings(path)
        if isinstance(found, np.ndarray):
            return torch.from_numpy(found)
    except FileNotFoundError:
        pass
    except (ValueError, OSError) as error:
        _log.warning("%s is damaged and is made anew (%s: %s)", path, type(error).__name__, error)
    means = mean_vectors(embeddings).float()
    try:
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as temporary:
            write_embeddings(temporary, means.numpy())
    except OSError as error:
        _log.warning("the means of the index are not kept, and made by each program: %s", error)
    return means


def delete_means(folder: Path, segments: Collection[str]) -> None:
    """Delete those of segments that are not there any more."""
    for left in (folder / FOLDER).glob("*"):
        if left.stem not in segments:
            left.unlink(missing_ok=True)
