"""Losses for several positives: SupCon, and NT-Xent over pairs, which differ in what a positive competes with.

Shape letters: Q queries, K >= Q keys, D width. For a batch of embeddings [B, D] with labels [B], each against all
others, queries and keys are both the embeddings, and masks say the rest:

    same, itself = same_label(labels, labels), diagonal()
    sup_con(embeddings, embeddings, positives=same & ~itself, exclude=itself)
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.nn.functional import softplus

from contrastive.losses.core.choice import Rows
from contrastive.losses.core.module import LossModule
from contrastive.losses.core.options import SoftmaxOptions
from contrastive.losses.core.ranking import cross_entropy, ranking_loss


def sup_con(queries: Tensor, keys: Tensor, **options: Unpack[SoftmaxOptions]) -> Tensor:
    r"""Compute the supervised contrastive loss: `info_nce` with several positives, at the paper's temperature of 0.1.

    .. math:: l_i = -\frac{1}{|P_i|} \sum_{j \in P_i} \log
        \frac{\exp(s_{ij} / t)}{\sum_{k \in P_i \cup N_i} \exp(s_{ik} / t)}

    This is L_out of Khosla et al. 2020 (https://arxiv.org/abs/2004.11362, eq. 2), over the queries that have a
    positive; without the factor t / base temperature of the authors' code, which hides a learning rate. `positives`
    says which pairs are positive; or `merge_excluded` takes the known positives of `exclude` for positives beside key i
    of query i, which is what training on texts with several known answers wants.

    Args:
        queries: Embeddings [Q, D].
        keys: Embeddings [K, D].
        options: See `SoftmaxOptions`.

    Returns:
        The loss in nats, a scalar or [Q].

    Raises:
        ValueError: As `info_nce`.

    Example:
        >>> import torch
        >>> from contrastive.masks import diagonal, same_label
        >>> embeddings, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
        >>> positives = same_label(labels, labels) & ~diagonal()
        >>> sup_con(embeddings, embeddings, positives=positives, exclude=diagonal())
        tensor(1.0986)
    """
    return ranking_loss(cross_entropy, queries, keys, {"temperature": 0.1, **options}, by_log_sums=True)


def nt_xent(queries: Tensor, keys: Tensor, **options: Unpack[SoftmaxOptions]) -> Tensor:
    r"""Compute NT-Xent: every positive pair on its own against the negatives, other positives left out.

    .. math:: l_{ij} = -\log \frac{\exp(s_{ij} / t)}{\exp(s_{ij} / t) + \sum_{k \in N_i} \exp(s_{ik} / t)},
        \quad j \in P_i

    This is Chen et al. 2020 (SimCLR, https://arxiv.org/abs/2002.05709, eq. 1) at their temperature of 0.5. By default
    queries and positives are the two views of an item, and each is held against both views of all others (`symmetric`
    and `same_side`). With several positives, as by labels, the mean is over pairs, and a pair does not compete with the
    others as it would in `sup_con`.

    Args:
        queries: Embeddings [Q, D], the first views.
        keys: Embeddings [K, D], the second views, and any further negatives.
        options: See `SoftmaxOptions`; with `positives`, `symmetric` and `same_side` are off by default.

    Returns:
        The loss in nats: the mean over positive pairs, or [Q], each query's mean.

    Raises:
        ValueError: As `info_nce`.

    Example:
        >>> import torch
        >>> nt_xent(torch.eye(2), torch.eye(2))
        tensor(0.2395)
    """
    views = options.get("positives") is None
    defaults: SoftmaxOptions = {"temperature": 0.5, "symmetric": views, "same_side": views}
    one_each = views and not options.get("merge_excluded")
    formula = cross_entropy if one_each else _pairwise
    return ranking_loss(formula, queries, keys, {**defaults, **options}, by_log_sums=one_each)


class SupConLoss(LossModule, function=sup_con, temperature=0.1, merge_excluded=True):
    """`sup_con` as a module, whose excluded pairs, the known positives of a batch, are positives by default.

    Raises:
        TypeError: If there is no such option.
        ValueError: As `sup_con`.

    Example:
        >>> SupConLoss(merge_excluded=False)
        SupConLoss(temperature=0.1, merge_excluded=False)
    """


class NTXentLoss(LossModule, function=nt_xent, temperature=0.5):
    """`nt_xent` as a module.

    Raises:
        TypeError: If there is no such option.
        ValueError: As `nt_xent`.

    Example:
        >>> NTXentLoss(temperature=0.1)
        NTXentLoss(temperature=0.1)
    """


def _pairwise(rows: Rows) -> Tensor | tuple[Tensor, Tensor]:
    """Return the sum over each row's positive pairs, and how many they are."""
    if rows.positive.dtype != torch.bool:
        return softplus(rows.sums.negatives)
    log_negatives = rows.sums.negatives + rows.sums.target
    losses = torch.where(rows.positive, softplus(log_negatives[:, None] - rows.logits), 0)
    return losses.sum(1), torch.where(rows.sums.answered, rows.positive.sum(1), 0)
