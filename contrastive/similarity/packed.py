"""Comparing many texts at once, whatever an embedding is: one vector, or vectors of tokens or windows.

Whoever ranks, mines or searches calls these, and knows nothing of the representation.

Notable decisions:

- Vectors of tokens are compared document by document, without padding, and those of short ones of the same length
  together: the products and little else. Of the documents one block at a time is in float32 and where the queries
  are, so that a corpus may be in half precision or a few bits, on a disk, or larger than the memory of a device.
- For a single query on a CPU, to copy documents and to write them in float32 takes more than the products: they are
  read as they stand, as many at a time as stay close to the processor.
- Scores of token vectors are float32: the products are all of the time, and in float64 take twice as much.

Shape letters: Q queries, K documents, B texts or pairs, D width, N and n vectors of many texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from contrastive.contracts import Similarity
from contrastive.similarity.max_sim import MaxSimilarity
from contrastive.similarity.products import ProductSimilarity, dot, unit
from contrastive.similarity.term_weights import TermWeights
from contrastive.token_vectors import TokenVectors

Embeddings = Tensor | TokenVectors | TermWeights
"""Of a list of texts: [B, D], those of their tokens or windows, or, of documents, the terms that weigh something."""

_VECTORS = 2**14
"""Vectors of documents that are in float32 at a time; a text with more goes alone."""

_PRODUCTS = 2**22
"""Products of vectors that stand in memory at a time, 16 MiB in float32."""

_TOKENS = 1024
"""Vectors of queries in a product: enough for its speed, and the products of a text stay close to the processor."""


_FEW_TOKENS, _VECTORS_OF_FEW = 64, 2**11
"""Vectors of queries that are few, and vectors of documents that these meet at a time."""


@torch.no_grad()
def score_texts(similarity: Similarity, queries: Embeddings, documents: Embeddings) -> Tensor:
    """Score all queries against all documents, [Q, K], without a gradient: float64 of one vector a text, else float32.

    A text without vectors has the score 0 with any other. A similarity that is neither a product nor `max_sim` is
    given token vectors padded, [B, T, D], all at once.

    Raises:
        ValueError: If the similarity does not compare embeddings of this kind.
    """
    queries = _without_terms(queries)
    if isinstance(queries, Tensor) and isinstance(documents, TermWeights):
        return _scores_of_terms(similarity, queries.double(), documents)
    documents = _without_terms(documents)
    if isinstance(queries, Tensor) and isinstance(documents, Tensor):
        return similarity(queries.double(), documents.double())
    if not isinstance(similarity, MaxSimilarity):
        return similarity(*(side.padded() if isinstance(side, TokenVectors) else side for side in (queries, documents)))
    with torch.autocast(queries.device.type, enabled=False):  # as in a validation within a training of mixed precision
        return _scores_of_tokens(similarity, _packed(queries), _packed(documents))


def _scores_of_terms(similarity: Similarity, queries: Tensor, documents: TermWeights) -> Tensor:
    """Score weights of terms, [Q, K]: by their products, or a matrix at a time where the similarity is another."""
    documents = documents.to(queries.device)
    if similarity is dot:
        return documents.products(queries)
    scores = [queries.new_zeros(len(queries), 0)]
    scores += [similarity(queries, part.double()) for _, part in documents.parts()]
    return torch.cat(scores, dim=1)


def _scores_of_tokens(similarity: MaxSimilarity, asking: TokenVectors, answering: TokenVectors) -> Tensor:
    """Score vectors of tokens, [Q, K], in float32."""
    tokens = similarity.prepare(asking.vectors)
    lengths = asking.lengths.to(tokens.device)
    owners = torch.arange(len(asking), device=tokens.device).repeat_interleave(lengths)
    shares = 1 / _counted(similarity, lengths).to(tokens.dtype)
    scores = tokens.new_zeros(len(answering), len(asking))
    tokens, read = _met(similarity, tokens, answering)
    if len(tokens) <= _FEW_TOKENS and tokens.device.type == "cpu":
        return _scores_of_few(tokens, owners, answering, read, scores.T) * shares[:, None]
    for places, length, vectors in _documents(answering, max(1, min(len(tokens), _TOKENS))):
        vectors = read(vectors)
        largest = tokens.new_empty(len(places), len(tokens))
        for start in range(0, len(tokens), _TOKENS):
            columns = slice(start, start + _TOKENS)
            products = vectors @ tokens[columns].T
            torch.amax(products.view(len(places), length, -1), 1, out=largest[:, columns])
        of_queries = tokens.new_zeros(len(asking), len(places)).index_add_(0, owners, largest.T)
        scores[places.to(tokens.device)] = of_queries.T * shares
    return scores.T


def _scores_of_few(
    tokens: Tensor, owners: Tensor, answering: TokenVectors, read: Callable[[Tensor], Tensor], scores: Tensor
) -> Tensor:
    """Add up in scores [Q, K] what few prepared vectors of queries, [t, D], find in documents as they stand."""
    lengths, offsets = answering.lengths, answering.offsets
    first = 0
    while first < len(answering):
        last = int(torch.searchsorted(offsets, offsets[first] + _VECTORS_OF_FEW, right=True)) - 1
        here = slice(first, max(last, first + 1))
        first = here.stop
        places = here.start + lengths[here].nonzero()[:, 0]  # a document without vectors has no largest product
        if len(places):
            products = tokens @ read(answering.vectors[offsets[here.start] : offsets[here.stop]]).T
            starts = offsets[places] - offsets[here.start]
            largest = torch.from_numpy(np.maximum.reduceat(products.numpy(), starts.numpy(), axis=1))
            scores[:, places] = largest.new_zeros(len(scores), len(places)).index_add_(0, owners, largest)
    return scores


@torch.no_grad()
def score_text_pairs(
    similarity: ProductSimilarity,
    queries: Embeddings,
    documents: Embeddings,
    asked: Sequence[int] | Tensor,
    answered: Sequence[int] | Tensor,
) -> Tensor:
    """Score pairs of a query's and a document's row, [B] each: [B], without a gradient, in float32 or better."""
    asked, answered = (torch.as_tensor(rows, dtype=torch.long) for rows in (asked, answered))
    queries = _without_terms(queries)
    if isinstance(queries, Tensor) and isinstance(documents, Tensor):
        return similarity.of_pairs(queries[asked], documents[answered])
    if isinstance(queries, Tensor) and isinstance(documents, TermWeights):
        found = documents[answered].to(queries.device)
        pairs = [similarity.of_pairs(queries[asked[rows]], part) for rows, part in found.parts()]
        return torch.cat([queries.new_zeros(0), *pairs])
    asking, answering = _packed(queries), _packed(documents)
    asked_vectors, read = _met(similarity, similarity.prepare(asking.vectors), answering)
    asking = TokenVectors(asked_vectors, asking.offsets)
    scores = asking.vectors.new_zeros(len(asked))
    by_document = answered.argsort(stable=True)
    _, counts = torch.unique_consecutive(answered[by_document], return_counts=True)
    for of_document in torch.split(by_document, counts.tolist()):
        place = int(answered[of_document[0]])
        document = answering[place : place + 1].vectors
        if not len(document):
            continue
        document = read(document)
        for rows in torch.split(of_document, max(1, _TOKENS // 16)):
            tokens = asking[asked[rows]]
            lengths = tokens.lengths.to(scores.device)
            owners = torch.arange(len(rows), device=scores.device).repeat_interleave(lengths)
            largest = (document @ tokens.vectors.T).amax(0)
            sums = largest.new_zeros(len(rows)).index_add_(0, owners, largest)
            scores[rows.to(scores.device)] = sums / _counted(similarity, lengths)
    return scores


def size_of(similarity: Similarity, queries: Embeddings, documents: Embeddings) -> float:
    """Return the power of two nearest to the largest score there can be, see `ProductSimilarity.size`; 1 of tokens."""
    if isinstance(documents, TermWeights):
        documents = (documents.longest() if similarity is dot else documents).dense()
    if isinstance(similarity, ProductSimilarity) and isinstance(queries, Tensor) and isinstance(documents, Tensor):
        return similarity.size(queries, documents)
    return 1.0


@torch.no_grad()
def mean_vectors(embeddings: Embeddings) -> Tensor:
    """Return one vector a text, [B, D], for what is about directions: the mean of its directions, zeros without any.

    Example:
        >>> mean_vectors(TokenVectors.pack(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])))
        tensor([[0.5000, 0.5000],
                [0.0000, 0.0000]])
    """
    embeddings = _without_terms(embeddings)
    if isinstance(embeddings, Tensor):
        return embeddings
    means = [embeddings[:0].restored().vectors.float()]
    for part in _parts(embeddings):
        vectors = unit(part.restored().vectors)
        owners = torch.arange(len(part)).repeat_interleave(part.lengths).to(vectors.device)
        sums = vectors.new_zeros(len(part), vectors.shape[1]).index_add_(0, owners, vectors)
        means.append(sums / part.lengths.clamp_min(1).to(vectors.device)[:, None])
    return torch.cat(means)


@torch.no_grad()
def finite_texts(embeddings: Embeddings) -> Tensor:
    """Tell of each text whether its embedding is finite, [B]."""
    if isinstance(embeddings, Tensor):
        return embeddings.isfinite().all(dim=1)
    if isinstance(embeddings, TermWeights):
        counts = embeddings.offsets.diff().to(embeddings.device)
        owners = torch.arange(len(embeddings), device=embeddings.device).repeat_interleave(counts)
        finite = torch.ones(len(embeddings), dtype=torch.bool, device=embeddings.device)
        finite[owners[~embeddings.weights.isfinite()]] = False
        return finite
    finite = torch.ones(len(embeddings), dtype=torch.bool, device=embeddings.device)
    for start, part in zip(_starts(embeddings), _parts(embeddings), strict=True):
        bad = (~part.vectors.isfinite().all(dim=1)).nonzero()[:, 0]
        if len(bad):
            finite[start + torch.searchsorted(part.offsets.to(bad.device), bad, right=True) - 1] = False
    return finite


def _met(
    similarity: ProductSimilarity, tokens: Tensor, answering: TokenVectors
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return prepared vectors of queries as they meet those of documents, and what reads a block of the latter."""
    if answering.codec is None:
        return tokens, lambda vectors: similarity.prepare(vectors.to(tokens.device))
    codec = answering.codec.to(tokens.device)  # which was given prepared vectors
    return codec.asking(tokens), lambda codes: codec.decode(codes.to(tokens.device))


def _counted(similarity: Similarity, lengths: Tensor) -> Tensor:
    """Return by what the sum over the vectors of each query is divided: how many they are, or 1."""
    is_mean = isinstance(similarity, MaxSimilarity) and similarity.mean
    return lengths.clamp_min(1) if is_mean else torch.ones_like(lengths)


def _without_terms(embeddings: Embeddings) -> Tensor | TokenVectors:
    """Return weights of terms with their zeros, and others as they are."""
    return embeddings.dense() if isinstance(embeddings, TermWeights) else embeddings


def _packed(embeddings: Embeddings) -> TokenVectors:
    """Return embeddings as token vectors: a vector is a text of one."""
    embeddings = _without_terms(embeddings)
    if isinstance(embeddings, TokenVectors):
        return embeddings
    return TokenVectors(embeddings, torch.arange(len(embeddings) + 1))


def _documents(texts: TokenVectors, tokens: int) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Yield places of documents of equal length, [c], that length, and their vectors [c * length, D] as they are kept.

    Documents without vectors are left out. A single one is not copied.
    """
    lengths, order = texts.lengths.sort(stable=True)
    found, counts = torch.unique_consecutive(lengths, return_counts=True)
    starts = texts.offsets[:-1]
    for length, of_length in zip(found.tolist(), torch.split(order, counts.tolist()), strict=True):
        if not length:
            continue
        for places in torch.split(of_length, max(1, min(_VECTORS, _PRODUCTS // tokens) // length)):
            if len(places) == 1:
                start = int(starts[places])
                vectors = texts.vectors[start : start + length]
            else:
                rows = (starts[places, None] + torch.arange(length)).flatten()
                vectors = texts.vectors[rows.to(texts.device)]
            yield places, length, vectors


def _starts(texts: TokenVectors) -> list[int]:
    """Return where blocks of texts begin that have about so many vectors as are looked at at a time."""
    blocks = texts.offsets[:-1] // (4 * _VECTORS)
    return [0, *(1 + (blocks.diff() > 0).nonzero()[:, 0]).tolist()] if len(texts) else []


def _parts(texts: TokenVectors) -> Iterator[TokenVectors]:
    starts = _starts(texts)
    for start, stop in zip(starts, [*starts[1:], len(texts)], strict=True):
        yield texts[start:stop]
