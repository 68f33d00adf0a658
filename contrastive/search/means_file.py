"""The means of the token vectors of an index, a file for each segment: as changeless as that, read and not made again."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contrastive.data.whole_files import whole_file
from contrastive.encoder.embedding_files import read_embeddings, write_embeddings
from contrastive.similarity import Embeddings, mean_vectors

FOLDER = "means"
"""Where they are, in the folder of the index."""

_log = logging.getLogger(__name__)


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
        if isinstance(found, np.ndarray) and len(found) == len(embeddings):
            return torch.from_numpy(found)
        _log.warning("%s is of other postings and is made anew", path)
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
