"""How close two embeddings are, every query against every key, higher is closer.

A text is one vector, compared by `cosine`, `dot` or `euclidean` (`products`), or vectors of its tokens
(`token_vectors`), compared by `max_sim`, or the terms of a vocabulary with their weights (`term_weights`). Only these
know which; whoever compares texts takes them all (`packed`).
"""

from contrastive.codec import Codec
from contrastive.similarity.max_sim import MaxSimilarity, max_dot, max_sim
from contrastive.similarity.naming import (
    check_similarity_name,
    flipped,
    named,
    of_tokens,
    product_similarity,
    score_pairs,
    similarity_of,
)
from contrastive.similarity.packed import Embeddings, finite_texts, mean_vectors, score_text_pairs, score_texts, size_of
from contrastive.similarity.products import (
    AddGradients,
    ProductSimilarity,
    SimilarityName,
    check_shapes,
    cosine,
    dot,
    euclidean,
    full_precision,
    unit,
)
from contrastive.similarity.term_weights import TermWeights
from contrastive.token_vectors import TokenVectors, concatenate

__all__ = [
    "AddGradients",
    "Codec",
    "Embeddings",
    "MaxSimilarity",
    "ProductSimilarity",
    "SimilarityName",
    "TermWeights",
    "TokenVectors",
    "check_shapes",
    "check_similarity_name",
    "concatenate",
    "cosine",
    "dot",
    "euclidean",
    "finite_texts",
    "flipped",
    "full_precision",
    "max_dot",
    "max_sim",
    "mean_vectors",
    "named",
    "of_tokens",
    "product_similarity",
    "score_pairs",
    "score_text_pairs",
    "score_texts",
    "similarity_of",
    "size_of",
    "unit",
]
