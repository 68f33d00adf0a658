"""Folders of late-interaction models from before sentence-transformers had a kind for them.

- PyLate 1 writes a sentence-transformers folder of the kind "ColBERT", with its options beside the prompts.
- Stanford's ColBERT writes a BERT that has the projection, `linear.weight`, among its weights, and `artifact.metadata`.

Both fill queries up with [MASK] unless they say otherwise, and leave the punctuation of documents out. Their markers of
queries and documents are prompts here: one token each, see `backbone.keep_markers_whole`.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive.encoder.module_files import read_if_there

KIND = "ColBERT"
OF_PYLATE = {
    "query_prefix",
    "document_prefix",
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "skiplist_words",
}
_QUERY_LENGTH = 32  # of both, where a folder says nothing


@dataclass(frozen=True, slots=True)
class Late:
    """What the options of a late-interaction model come to.

    Attributes:
        head: Options of the head.
        query_length: Tokens a query is cut to, None where that is the maximum length.
        document_length: Tokens a document is cut to, None where that is the maximum length.
        query_marker: Text before the prompt of queries.
        document_marker: Text before the prompt of documents.
    """

    head: Mapping[str, Any]
    query_length: int | None
    document_length: int | None
    query_marker: str = ""
    document_marker: str = ""


def of_pylate(about: Mapping[str, Any]) -> Late:
    """Read the options of PyLate from config_sentence_transformers.json."""
    expanded = about.get("do_query_expansion") is not False
    length = about.get("query_length") or (_QUERY_LENGTH if expanded else None)
    skipped = about.get("skiplist_words")
    return Late(
        head={
            **left_out_options([*string.punctuation] if skipped is None else skipped),
            "query_expansion": length if expanded else None,
            "attend_to_expansion": bool(about.get("attend_to_expansion_tokens")),
        },
        query_length=length,
        document_length=about.get("document_length"),
        query_marker=about.get("query_prefix") or "",
        document_marker=about.get("document_prefix") or "",
    )


def of_stanford(folder: Path) -> Late | None:
    """Read the options of a checkpoint of Stanford's ColBERT; None if the folder is none.

    Raises:
        ValueError: If it compares tokens otherwise than by their cosine.
    """
    if "HF_ColBERT" not in (read_if_there(folder / "config.json").get("architectures") or ()):
        return None
    path = folder / "artifact.metadata"
    said = read_if_there(path)
    if said.get("similarity") not in (None, "cosine"):
        raise ValueError(f"expected similarity cosine in {path}, got {said['similarity']!r}")
    length = said.get("query_maxlen") or _QUERY_LENGTH
    return Late(
        head={
            **left_out_options([*string.punctuation] if said.get("mask_punctuation", True) else []),
            "query_expansion": length,
            "attend_to_expansion": bool(said.get("attend_to_mask_tokens")),
        },
        query_length=length,
        document_length=said.get("doc_maxlen"),
        query_marker=(said.get("query_token_id") or "[unused0]") + " ",
        document_marker=(said.get("doc_token_id") or "[unused1]") + " ",
    )


def left_out_options(words: list[str]) -> dict[str, Any]:
    """Say of the tokens that documents are left without whether punctuation is among them, and which others."""
    punctuation = set(string.punctuation) <= set(words)
    others = [word for word in words if not punctuation or word not in string.punctuation]
    return {"punctuation": not punctuation, "left_out": others}
