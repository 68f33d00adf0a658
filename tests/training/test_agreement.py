"""A loss that trains another order of documents than its encoder ranks by is refused, by the library and by a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from torch import nn

from contrastive import losses
from contrastive.encoder import Encoder
from contrastive.training import ContrastiveModule
from contrastive.training.agreement import check_agreement, loss_settings
from contrastive.training.optimization import LinearDecayAdamW
from experiments.run.parts import build, build_loss

CONFIGS = Path(__file__).parents[2] / "configs"


def encoder(similarity: str, normalize: bool = False) -> Any:
    return SimpleNamespace(similarity=similarity, normalize=normalize)


def built(name: str, of: Any, *overrides: str, guide: Any = None) -> nn.Module:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", [f"loss={name}", *overrides])
    return build_loss(config.loss, of, guide)


NO_DISTANCE, NO_LEAST = "expected an encoder with a distance for", "expected lowest_score with similarity"
COSINE_ONLY = r"got cosine of \w+ \(it knows no other\)"
REFUSED = {
    ("dot", False): {
        **dict.fromkeys(["contrastive", "online_contrastive", "triplet"], NO_DISTANCE),
        **dict.fromkeys(["debiased", "hard_weighted"], NO_LEAST),
        "angle": COSINE_ONLY,
    },
    ("max_sim", True): {"angle": r"got cosine of AnglELoss \(it knows no other\).*which every loss of scores can"},
    ("max_dot", False): {
        **dict.fromkeys(["contrastive", "online_contrastive", "triplet"], NO_DISTANCE),
        **dict.fromkeys(["debiased", "hard_weighted"], NO_LEAST),
        "angle": COSINE_ONLY,
        **dict.fromkeys(["gist", "ntxent"], "with each other alone by max_dot"),
        "matryoshka": "lengths are weights that cutting would change",
    },
    ("euclidean", False): {
        **dict.fromkeys(["debiased", "hard_weighted"], NO_LEAST),
        "angle": COSINE_ONLY,
    },
    ("euclidean", True): {
        **dict.fromkeys(["debiased", "hard_weighted"], NO_LEAST),
        "matryoshka": "got euclidean of InfoNCELoss of embeddings that are cut",
    },
}
"""What cannot be had, by the similarity of an encoder and whether it normalizes; all else can."""


@pytest.mark.parametrize(
    ("similarity", "normalize"),
    [
        ("max_sim", True),
        ("max_dot", False),
        *((name, normalize) for name in ("cosine", "dot", "euclidean") for normalize in (False, True)),
    ],
)
def test_every_loss_takes_the_similarity_of_the_encoder_or_is_refused(similarity: str, normalize: bool) -> None:
    of, refused = encoder(similarity, normalize), REFUSED.get((similarity, normalize), {})
    infonce = OmegaConf.load(CONFIGS / "loss" / "infonce.yaml")
    for path in sorted((CONFIGS / "loss").glob("*.yaml")):
        config = OmegaConf.load(path)
        if path.stem == "matryoshka":
            config = OmegaConf.create({**config, "loss": infonce})
            del config["defaults"]
        if path.stem in refused:
            with pytest.raises((ValueError, InstantiationException), match=refused[path.stem]):
                check_agreement(build_loss(config, of), of)
            continue
        loss = build_loss(config, of)
        check_agreement(loss, of)
        # On vectors of length 1 a dot product is a cosine, and a distance ranks as one.
        cosine_too = ["cosine"] if normalize and similarity != "max_sim" else []
        ranks = {"cosine"} if normalize and similarity == "dot" else {similarity, *cosine_too}
        assert repr(loss.similarity) in ranks, path.stem


@pytest.mark.parametrize(
    ("loss", "of", "named"),
    [
        (losses.InfoNCELoss(), encoder("dot"), r"cosine of InfoNCELoss \(loss.similarity\) and dot of the encoder"),
        (losses.MarginMSELoss(), encoder("cosine"), r"dot of MarginMSELoss \(loss.similarity\) and cosine of the"),
        (
            losses.TripletLoss("euclidean", normalize=False),
            encoder("cosine"),
            r"euclidean of TripletLoss \(loss.distan",
        ),
        (losses.TripletLoss(), encoder("euclidean"), r"cosine of TripletLoss \(loss.distance\) and euclidean of the"),
        (losses.AnglELoss(), encoder("dot"), r"cosine of AnglELoss \(it knows no other\) and dot of the encoder"),
        (
            losses.InfoNCELoss(),
            encoder("max_sim", normalize=True),
            r"cosine of InfoNCELoss \(loss.similarity\) and max_sim of the.*token vectors are compared by max_sim",
        ),
        (losses.InfoNCELoss(similarity="max_sim"), encoder("cosine", normalize=True), "max_sim of InfoNCELoss"),
        (
            losses.MatryoshkaLoss(losses.InfoNCELoss(similarity="dot"), [4, 2]),
            encoder("dot", normalize=True),
            r"dot of InfoNCELoss of embeddings that are cut \(loss.similarity\) and dot of the encoder",
        ),
    ],
)
def test_a_loss_that_compares_otherwise_is_refused(loss: nn.Module, of: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        check_agreement(loss, of)


@pytest.mark.parametrize(
    ("loss", "of"),
    [
        (losses.InfoNCELoss(similarity="dot"), encoder("cosine", normalize=True)),
        (losses.InfoNCELoss(), encoder("dot", normalize=True)),
        (losses.TripletLoss("euclidean"), encoder("cosine")),
        (losses.MatryoshkaLoss(losses.InfoNCELoss(), [4, 2]), encoder("euclidean", normalize=True)),
        (losses.InfoNCELoss(similarity=lambda queries, keys: queries @ keys.T), encoder("cosine")),
        (nn.Identity(), encoder("dot")),
        (losses.InfoNCELoss(), object()),
    ],
)
def test_what_ranks_alike_or_does_not_say_is_let_pass(loss: nn.Module, of: Any) -> None:
    check_agreement(loss, of)


def test_orders_on_vectors_of_length_1_are_one() -> None:
    """Which is why any of the three may train an encoder that normalizes."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.nn.functional.normalize(torch.randn(9, 5, generator=generator), dim=1) for _ in range(2))
    orders = [
        losses.InfoNCELoss(similarity=name).similarity(queries, keys).argsort(1)  # type: ignore[arg-type]
        for name in ("cosine", "dot", "euclidean")
    ]
    assert orders[0].equal(orders[1])
    assert orders[0].equal(orders[2])


def test_a_distance_is_of_raw_vectors_where_the_encoder_gives_raw_ones() -> None:
    assert loss_settings(encoder("euclidean")) == {
        "similarity": "euclidean",
        "distance": "euclidean",
        "normalize": False,
    }
    raw, unit = built("triplet", encoder("euclidean")), built("triplet", encoder("cosine"), "loss.distance=euclidean")
    assert (raw.distance, raw.normalize) == ("euclidean", False)
    assert (unit.distance, unit.normalize) == ("euclidean", True)


def test_the_guide_is_compared_by_its_own_similarity() -> None:
    loss = built("gist", encoder("cosine"), guide=encoder("dot"))
    assert loss.options["guide_similarity"] == "dot"
    assert repr(loss.similarity) == "cosine"


def test_training_refuses_a_loss_that_compares_otherwise(tiny_model_folder: Path) -> None:
    raw = Encoder.from_pretrained(tiny_model_folder, similarity="dot")
    with pytest.raises(ValueError, match="got cosine of InfoNCELoss"):
        ContrastiveModule(raw, losses.InfoNCELoss(), LinearDecayAdamW(), total_steps=1)
    ContrastiveModule(raw, losses.InfoNCELoss(similarity="dot"), LinearDecayAdamW(), total_steps=1)


def test_a_run_says_so_before_it_reads_any_data(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = ["encoder=pretrained", f"encoder.name_or_path={tiny_model_folder}", "logger=none"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", [*model, "loss.similarity=dot", "data=files", "data.path=nowhere", "folder=x"])
    with pytest.raises(ValueError, match=r"dot of InfoNCELoss \(loss.similarity\) and cosine of the encoder"):
        build(config, tmp_path)
