"""Whether a loss compares embeddings as their encoder does, so that what is trained is what ranks.

What matters is the order in which documents come. On embeddings of length 1 cosine, dot product and Euclidean distance
put them in the same one, so there any of the three trains any. Vectors of tokens are compared by max_sim alone.
Matryoshka's short embeddings are cut from the whole ones and are not of length 1: only cosine treats them as an encoder
of fewer dimensions does, which normalizes again, as max_sim does.
"""

from __future__ import annotations

from torch import nn

from contrastive.losses import MatryoshkaLoss
from contrastive.similarity import MaxSimilarity, ProductSimilarity, cosine, max_dot, similarity_of


def loss_settings(encoder: object) -> dict[str, object]:
    """Return how a loss is to compare the embeddings of an encoder, by the names that losses have for it.

    Returns:
        `similarity`, for losses of scores; `distance` and `normalize`, for losses of distances, `distance` None where
        there is none. Dot products of length 1 are called cosine.

    Example:
        >>> loss_settings(object())
        {'similarity': 'cosine', 'distance': 'cosine', 'normalize': True}
    """
    name, of_length_1 = similarity_of(encoder).name, _of_length_1(encoder)
    if name == "dot" and of_length_1:
        name = "cosine"
    normalize = name != "euclidean" or of_length_1
    return {"similarity": name, "distance": None if name in ("dot", "max_dot") else name, "normalize": normalize}


def check_agreement(loss: nn.Module, encoder: object) -> None:
    """Refuse a loss that trains another order of documents than the one its encoder is to rank them in.

    A loss that does not say how it compares, by its `similarity`, or compares by a callable of the user's, is let pass.

    Raises:
        ValueError: If the two disagree; it names both settings. Or if what is no vector of
            leading dimensions is to be cut: weights of terms, or token vectors whose lengths are weights.
    """
    if isinstance(loss, MatryoshkaLoss) and getattr(encoder, "lexical", False):
        raise ValueError(
            "expected embeddings whose leading dimensions can stand alone for MatryoshkaLoss, got weights of terms "
            "(encoder.representation=lexical): choose another loss"
        )
    compares, own = getattr(loss, "similarity", None), similarity_of(encoder)
    if isinstance(loss, MatryoshkaLoss) and own is max_dot:
        raise ValueError(
            "expected token vectors of one length each for MatryoshkaLoss, got those of encoder.query_weights, whose "
            "lengths are weights that cutting would change: choose another loss, or leave query_weights null"
        )
    if not isinstance(compares, ProductSimilarity):
        return
    of_tokens = isinstance(own, MaxSimilarity)
    of_length_1 = not of_tokens and _of_length_1(encoder)
    cuts = of_length_1 and isinstance(loss, MatryoshkaLoss)
    if isinstance(compares, MaxSimilarity) != of_tokens or not (
        compares is cosine if cuts else of_length_1 or compares is own
    ):
        inner = loss.loss if isinstance(loss, MatryoshkaLoss) else loss
        setting = "distance" if hasattr(inner, "distance") else "similarity"
        settable = not isinstance(vars(type(inner)).get("similarity"), ProductSimilarity)
        of_cut = " of embeddings that are cut" if cuts else ""
        advice = "choose another encoder.similarity or another loss"
        if of_tokens:
            advice = f"token vectors are compared by {own}, which every loss of scores can: choose another loss"
        raise ValueError(
            f"expected a loss that compares embeddings as the encoder does, got {compares} of {type(inner).__name__}"
            f"{of_cut} ({f'loss.{setting}' if settable else 'it knows no other'}) and {own} of the encoder "
            f"(encoder.similarity, or what its folder says): {f'leave loss.{setting} null, ' if settable else ''}"
            f"{advice}"
        )


def _of_length_1(encoder: object) -> bool:
    return bool(getattr(encoder, "normalize", False))
