import copy
import json
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from contrastive.encoder import Encoder
from contrastive.encoder.adapters import LoRA
from contrastive.encoder.two_towers import TwoTowers, load_encoder
from contrastive.losses import InfoNCELoss

TEXTS = ["python developer", "the nurse of the hospital, 6 years", "", "chef", "chef"]


@pytest.fixture
def towers(tiny_model_folder: Path) -> TwoTowers:
    """Two towers with different weights, prompts and pooling."""
    towers = TwoTowers(
        Encoder.from_pretrained(tiny_model_folder, normalize=True, query_prompt="job: ", document_prompt="not used"),
        Encoder.from_pretrained(tiny_model_folder, normalize=True, pooling="cls", document_prompt="data "),
    )
    with torch.no_grad():
        for weight in towers.document.parameters():
            weight.mul_(1.1)
    return towers


def test_each_side_has_its_own_tower(towers: TwoTowers) -> None:
    for side, tower in (("query", towers.query), ("document", towers.document)):
        assert np.array_equal(towers.encode(TEXTS, side=side), tower.encode(TEXTS, side=side))
        assert torch.equal(towers(TEXTS, side=side), tower(TEXTS, side=side))
    assert np.array_equal(towers.encode(TEXTS), towers.query.encode(TEXTS, side="query"))
    assert torch.equal(towers(TEXTS), towers.query(TEXTS, side="query"))
    assert np.abs(towers.encode(TEXTS) - towers.encode(TEXTS, side="document")).max() > 0.1


def test_gradients_stay_in_their_tower(towers: TwoTowers) -> None:
    towers(TEXTS, side="document").sum().backward()
    assert all(weight.grad is None for weight in towers.query.parameters())
    assert any(weight.grad is not None for weight in towers.document.parameters())


def test_options_reach_the_tower(towers: TwoTowers) -> None:
    towers.train()
    embeddings = towers(TEXTS, side="document", deduplicate=False)
    assert not torch.allclose(embeddings[3], embeddings[4])
    towers.eval()
    tensor = towers.encode(TEXTS, side="document", as_numpy=False, tokens_per_batch=8, autocast=torch.bfloat16)
    assert isinstance(tensor, torch.Tensor)
    assert 1e-5 < np.abs(tensor.numpy() - towers.encode(TEXTS, side="document")).max() < 0.1


def test_an_unknown_side_is_refused(towers: TwoTowers) -> None:
    with pytest.raises(ValueError, match='expected side "query" or "document", got \'passage\''):
        towers(TEXTS, side="passage")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='expected side "query" or "document", got \'passage\''):
        towers.encode(TEXTS, side="passage")  # type: ignore[arg-type]


def test_tokens_of_both_towers_are_counted(towers: TwoTowers) -> None:
    towers(["chef", "the chef"], side="query")
    towers(["chef"], side="document")
    query, document = towers.query.tokens_seen, towers.document.tokens_seen
    assert towers.tokens_seen.real == query.real + document.real > document.real > 0
    assert towers.tokens_seen.padded == query.padded + document.padded > towers.tokens_seen.real


def test_says_what_an_encoder_says(towers: TwoTowers) -> None:
    assert towers.dimension == 32
    assert towers.device == torch.device("cpu")
    assert towers.settings == {
        **{f"query.{name}": value for name, value in towers.query.settings.items()},
        **{f"document.{name}": value for name, value in towers.document.settings.items()},
    }
    assert (towers.settings["query.pooling"], towers.settings["document.pooling"]) == ("mean", "cls")


def test_towers_of_different_width_are_refused(tiny_model_folder: Path) -> None:
    with pytest.raises(ValueError, match="of one width, got 32 for queries and 16 for documents"):
        TwoTowers(Encoder.from_pretrained(tiny_model_folder), Encoder.from_pretrained(tiny_model_folder, dimension=16))


def test_a_deep_copy_is_independent(towers: TwoTowers) -> None:
    expected = towers.encode(TEXTS)
    copied = copy.deepcopy(towers)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.mul_(1.5)
    assert np.array_equal(towers.encode(TEXTS), expected)


# Saving and loading


def test_a_saved_folder_holds_two_encoders(towers: TwoTowers, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    towers.save_pretrained(tmp_path / "new" / "model")
    folder = tmp_path / "new" / "model"
    assert json.loads((folder / "two_towers.json").read_text()) == {"query": "query", "document": "document"}
    loaded = load_encoder(folder)
    assert isinstance(loaded, TwoTowers)
    assert loaded.settings == towers.settings
    for side, prompted in (("query", "encode_query"), ("document", "encode_document")):
        expected = towers.encode(TEXTS, side=side)
        assert np.array_equal(loaded.encode(TEXTS, side=side), expected)
        assert np.array_equal(Encoder.from_pretrained(folder / side).encode(TEXTS, side=side), expected)
        theirs = SentenceTransformer(str(folder / side), device="cpu")
        assert_allclose(getattr(theirs, prompted)(TEXTS), expected, atol=1e-6)
    assert not any(module.training for module in loaded.modules())


def test_settings_reach_both_towers(towers: TwoTowers, tmp_path: Path) -> None:
    towers.save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path, dimension=16, query_prompt="x: ")
    assert (loaded.dimension, loaded.document.dimension) == (16, 16)
    assert loaded.query.query_prompt == loaded.document.query_prompt == "x: "
    assert loaded.document.document_prompt == "data "


def test_one_checkpoint_makes_two_independent_towers(tiny_model_folder: Path) -> None:
    towers = load_encoder(tiny_model_folder, two_towers=True, pooling="cls")
    assert isinstance(towers, TwoTowers)
    assert towers.query.head.pooling == towers.document.head.pooling == "cls"
    assert np.array_equal(towers.encode(TEXTS), towers.encode(TEXTS, side="document"))
    before = towers.encode(TEXTS, side="document")
    with torch.no_grad():
        for weight in towers.query.parameters():
            weight.mul_(1.5)
    assert np.array_equal(towers.encode(TEXTS, side="document"), before)
    assert not any(module.training for module in towers.modules())


def test_without_the_switch_there_is_one_encoder(tiny_model_folder: Path, tiny_encoder: Encoder) -> None:
    encoder = load_encoder(tiny_model_folder, normalize=True, tokens_per_batch=32)
    assert isinstance(encoder, Encoder)
    assert np.array_equal(encoder.encode(TEXTS), tiny_encoder.encode(TEXTS))


def test_the_switch_keeps_a_folder_of_two_towers(towers: TwoTowers, tmp_path: Path) -> None:
    towers.save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path, two_towers=True)
    assert np.array_equal(loaded.encode(TEXTS, side="document"), towers.encode(TEXTS, side="document"))


def test_a_folder_of_two_says_what_to_use(towers: TwoTowers, tmp_path: Path) -> None:
    towers.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"{tmp_path} holds two encoders; load both with .*load_encoder, or one of"):
        Encoder.from_pretrained(tmp_path)


# Training


class Module(lightning.LightningModule):
    """The least that trains an encoder."""

    def __init__(self, encoder: Encoder | TwoTowers) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss = InfoNCELoss()

    def training_step(self, texts: list[str]) -> torch.Tensor:
        loss: torch.Tensor = self.loss(self.encoder(texts), self.encoder(texts[::-1], side="document"))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([weight for weight in self.parameters() if weight.requires_grad], lr=0.5)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
@pytest.mark.parametrize("two_towers", [False, True])
@pytest.mark.parametrize("rank", [0, 4])
def test_a_lightning_checkpoint_restores_what_was_trained(
    tiny_model_folder: Path, tmp_path: Path, rank: int, two_towers: bool
) -> None:
    def fresh() -> Module:
        return Module(load_encoder(tiny_model_folder, two_towers=two_towers, lora=LoRA(rank=rank)))

    module = fresh()
    before = module.encoder.encode(TEXTS)
    trainer = lightning.Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    batches = torch.utils.data.DataLoader([["chef", "nurse"]] * 3, batch_size=None)
    trainer.fit(module.train(), batches)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trained = module.encoder.encode(TEXTS)
    assert np.abs(trained - before).max() > 1e-3
    restored = fresh()
    restored.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    assert np.array_equal(restored.encoder.encode(TEXTS), trained)
    restored.encoder.save_pretrained(tmp_path / "model")
    assert_allclose(load_encoder(tmp_path / "model").encode(TEXTS), trained, atol=1e-5)  # adapters are merged


def test_towers_that_compare_otherwise_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    dot, cosine = (Encoder.from_pretrained(tiny_model_folder, similarity=name) for name in ("dot", "cosine"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got dot of the query tower and cosine of the document tower"):
        TwoTowers(dot, cosine)
    towers = TwoTowers(dot, dot)
    assert (towers.similarity, towers.normalize) == ("dot", False)
    towers.save_pretrained(tmp_path)
    assert load_encoder(tmp_path).similarity == "dot"
