"""Folders of late-interaction models: ours elsewhere, and those of two other libraries here, with the same scores."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import vocabulary
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertModel, BertTokenizer

from contrastive.encoder import Encoder
from contrastive.similarity import max_sim

QUERIES = ["python, developer", "the nurse of the hospital, 6 years, nights, and no kitchen", "chef"]
DOCUMENTS = ["data engineer. python!", "a nurse; years, and years, of the job in a hospital", "chef"]


def ours(encoder: Encoder) -> Tensor:
    queries, documents = encoder.encode(QUERIES), encoder.encode(DOCUMENTS, side="document")
    return max_sim(queries.padded(), documents.padded())  # type: ignore[attr-defined]


def theirs(folder: Path) -> Tensor:
    """The scores of sentence-transformers, which are sums over the tokens of a query, as means."""
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(str(folder), device="cpu", local_files_only=True)
    queries, documents = model.encode_query(QUERIES), model.encode_document(DOCUMENTS)
    sums = torch.as_tensor(model.similarity(queries, documents)).cpu()
    return sums / torch.tensor([[len(query)] for query in queries])


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain BERT whose vocabulary has markers, which a tokenizer that lower-cases never finds. Do not write to it."""
    folder = tmp_path_factory.mktemp("marked")
    words = [*vocabulary(), "[unused0]", "[unused1]", "[Q] ", "[D] "]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, initializer_range=0.2, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    BertTokenizer(vocab={word: id_ for id_, word in enumerate(words)}, model_max_length=64).save_pretrained(folder)
    return folder


def write(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def projection() -> Tensor:
    return torch.randn(8, 32, generator=torch.Generator().manual_seed(3))


def pylate(folder: Path, marked: Path, **said: Any) -> Path:
    """What PyLate 1 writes."""
    shutil.copytree(marked, folder)
    kinds = {"": "sentence_transformers.models.Transformer", "1_Dense": "pylate.models.Dense.Dense"}
    modules = [{"idx": n, "name": str(n), "path": path, "type": kinds[path]} for n, path in enumerate(kinds)]
    write(folder / "modules.json", modules)
    dense = {"in_features": 32, "out_features": 8, "bias": False}
    write(folder / "1_Dense/config.json", {**dense, "activation_function": "torch.nn.modules.linear.Identity"})
    save_file({"linear.weight": projection()}, folder / "1_Dense/model.safetensors")
    write(folder / "sentence_bert_config.json", {"max_seq_length": 50, "do_lower_case": False})
    about = {"model_type": "ColBERT", "prompts": {}, "query_prefix": "[Q] ", "document_prefix": "[D] "}
    write(folder / "config_sentence_transformers.json", {**about, **said})
    return folder


def stanford(folder: Path, marked: Path, **said: Any) -> Path:
    """What Stanford's ColBERT writes."""
    shutil.copytree(marked, folder)
    weights = {f"bert.{name}": weight for name, weight in load_file(marked / "model.safetensors").items()}
    save_file({**weights, "linear.weight": projection()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((marked / "config.json").read_text())
    write(folder / "config.json", {**config, "architectures": ["HF_ColBERT"]})
    write(folder / "artifact.metadata", {"query_maxlen": 12, "doc_maxlen": 14, "similarity": "cosine", **said})
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"dimension": 9, "punctuation": False, "query_length": 10, "max_length": 14},
        {"left_out": ["[CLS]", "[SEP]", "the"], "query_prompt": "[unused0] ", "document_prompt": "[unused1] job "},
        {"query_expansion": 12, "query_length": 12, "document_prompt": "data: "},
        {"query_expansion": 16, "attend_to_expansion": True, "query_length": 20},
    ],
)
def test_our_folders_have_the_same_scores_elsewhere_and_here(marked: Path, tmp_path: Path, options: Any) -> None:
    encoder = Encoder.from_pretrained(marked, representation="tokens", **options)
    encoder.save_pretrained(tmp_path)
    torch.testing.assert_close(theirs(tmp_path), ours(encoder), atol=1e-4, rtol=0)
    loaded = Encoder.from_pretrained(tmp_path)
    assert loaded.settings == encoder.settings
    torch.testing.assert_close(ours(loaded), ours(encoder))


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"query_length": 12, "document_length": 16, "attend_to_expansion_tokens": True, "skiplist_words": ["the", "."]},
        {"query_length": 12, "do_query_expansion": False, "skiplist_words": [], "prompts": {"query": "job "}},
    ],
)
def test_folders_of_pylate_load_here(marked: Path, tmp_path: Path, said: dict[str, Any]) -> None:
    folder = pylate(tmp_path / "pylate", marked, **said)
    torch.testing.assert_close(ours(Encoder.from_pretrained(folder)), theirs(folder), atol=1e-4, rtol=0)


@pytest.mark.parametrize("said", [{}, {"attend_to_mask_tokens": True, "mask_punctuation": False}])
def test_checkpoints_of_stanford_load_here(marked: Path, tmp_path: Path, said: dict[str, Any]) -> None:
    folder = stanford(tmp_path / "stanford", marked, **said)
    encoder = Encoder.from_pretrained(folder)
    assert (encoder.max_length, encoder.query_length, encoder.dimension) == (14, 12, 8)
    torch.testing.assert_close(ours(encoder), theirs(folder), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("1_Dense/config.json", {"bias": True}, "expected bias False in "),
        ("1_Dense/config.json", {"module_input_name": "sentence_embedding"}, "to read and write token_embeddings"),
        ("2_MultiVectorMask/config.json", {"skiplist_tasks": ["query"]}, "leaves tokens out of .'query'"),
        ("2_MultiVectorMask/config.json", {"keep_only_token_ids": [3]}, "keep_only_token_ids"),
        ("3_Normalize/config.json", {"module_input_name": "sentence_embedding"}, "read and write token_embeddings"),
        ("sentence_bert_config.json", {"query_expansion": {"length": 9, "token": "x"}}, "fills queries up with 'x'"),
    ],
)
def test_what_would_change_embeddings_is_refused(
    marked: Path, tmp_path: Path, name: str, values: dict[str, Any], message: str
) -> None:
    options: dict[str, Any] = {"dimension": 8, "punctuation": False}
    Encoder.from_pretrained(marked, representation="tokens", check=False, **options).save_pretrained(tmp_path)
    write(tmp_path / name, {**json.loads((tmp_path / name).read_text()), **values})
    with pytest.raises(ValueError, match=message):
        Encoder.from_pretrained(tmp_path)
