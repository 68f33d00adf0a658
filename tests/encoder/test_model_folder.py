"""Each wrong folder gets one error that names it, what was expected and what came."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartModel,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2Model,
    MT5Config,
    MT5EncoderModel,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
    ViTConfig,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from contrastive.encoder import Encoder

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture
def own_folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def bart() -> PreTrainedModel:
    sizes = {
        f"{part}_{size}": 2 for part in ("encoder", "decoder") for size in ("layers", "attention_heads", "ffn_dim")
    }
    return BartModel(BartConfig(vocab_size=99, d_model=32, max_position_embeddings=40, **sizes))


def clip() -> PreTrainedModel:
    text = {**SIZES, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
    return CLIPModel(CLIPConfig(text_config=text, vision_config={**SIZES, "image_size": 32, "patch_size": 16}))


def wav2vec() -> PreTrainedModel:
    convolution = {"conv_dim": (32,), "conv_kernel": (3,), "conv_stride": (2,)}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    return Wav2Vec2Model(Wav2Vec2Config(**SIZES, **convolution, **positions))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ViTModel(ViTConfig(image_size=32, patch_size=16, **SIZES)), "ViTModel, which takes pixel_values"),
        (wav2vec, "Wav2Vec2Model, which takes input_values"),
        (clip, "clip model of several parts; expected one text encoder"),
        (bart, "encoder-decoder model; expected an encoder or a decoder"),
    ],
    ids=["vision", "speech", "several", "encoder-decoder"],
)
def test_another_kind_of_model(own_folder: Path, make: Callable[[], PreTrainedModel], message: str) -> None:
    make().save_pretrained(own_folder)
    with pytest.raises(ValueError, match=f"{own_folder} is an? {message}"):
        Encoder.from_pretrained(own_folder)


@pytest.mark.parametrize("says_encoder_decoder", [False, True])
@pytest.mark.parametrize(
    ("config", "encoder"), [(T5Config, T5EncoderModel), (MT5Config, MT5EncoderModel), (UMT5Config, UMT5EncoderModel)]
)
def test_the_encoder_of_an_encoder_decoder_alone(
    own_folder: Path, config: Callable[..., Any], encoder: Callable[..., Any], says_encoder_decoder: bool
) -> None:
    model = encoder(config(vocab_size=200, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=2)).eval()
    (own_folder / "model.safetensors").unlink()
    model.save_pretrained(own_folder)
    edit_config(own_folder, is_encoder_decoder=says_encoder_decoder)
    loaded = Encoder.from_pretrained(own_folder, pooling="cls")
    inputs = loaded.tokenizer(["the chef"], return_tensors="pt")
    expected = model(inputs["input_ids"]).last_hidden_state[:, 0].detach()
    torch.testing.assert_close(loaded(["the chef"]), expected)
    loaded.save_pretrained(own_folder / "again")
    torch.testing.assert_close(Encoder.from_pretrained(own_folder / "again")(["the chef"]), expected)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model_type": "frob"}, "model_type 'frob' is none that the installed transformers knows$"),
        ({"model_type": None}, "model_type None is none that the installed transformers knows$"),
        (
            {"model_type": "frob", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}},
            "model_type 'frob' is none .*, and code that comes with a model is never run",
        ),
    ],
)
def test_an_unknown_architecture(
    own_folder: Path, values: dict[str, Any], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_config(own_folder, **values)
    with pytest.raises(ValueError, match=rf"expected {own_folder}/config.json to describe a text encoder: {reason}"):
        Encoder.from_pretrained(own_folder)
    assert capsys.readouterr().out == ""  # no question whether to run that code


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": "wide"}, r"config.json to describe a text encoder: .*'hidden_size' expected int"),
        (
            {"num_attention_heads": 5},
            r"could not load the weights in .*not a multiple of the number of att",
        ),
        ({"hidden_act": "nope"}, r"could not load the weights in .*KeyError: 'nope'"),
    ],
)
def test_impossible_values_in_the_config(own_folder: Path, values: dict[str, Any], message: str) -> None:
    edit_config(own_folder, **values)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        Encoder.from_pretrained(own_folder)


def test_a_known_architecture_that_may_bring_code_runs_none(own_folder: Path, tiny_encoder: Encoder) -> None:
    edit_config(own_folder, auto_map={"AutoModel": "own.Model"})
    (own_folder / "own.py").write_text("raise SystemExit('this must not run')")
    assert type(Encoder.from_pretrained(own_folder).backbone) is type(tiny_encoder.backbone)


def test_a_damaged_config(own_folder: Path) -> None:
    (own_folder / "config.json").write_text('{"model')
    with pytest.raises(ValueError, match=rf"expected {own_folder}/config.json to be JSON: Unterminated string"):
        Encoder.from_pretrained(own_folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"intermediate_size": 48}, r"expected encoder.layer.0.intermediate.dense.bias of shape \(48,\), got \(64,\)"),
        ({"num_hidden_layers": 1}, "expected the weights of 1 blocks, got 2"),
    ],
)
def test_weights_that_do_not_fit_the_config(own_folder: Path, values: dict[str, Any], message: str) -> None:
    edit_config(own_folder, **values)
    with pytest.raises(ValueError, match=f"{own_folder} does not fit its config.json: {message}"):
        Encoder.from_pretrained(own_folder)


def test_weights_of_more_layers_than_there_are(own_folder: Path) -> None:
    edit_config(own_folder, num_hidden_layers=3)
    with pytest.raises(ValueError, match=f"{own_folder} lacks 16 weights of BertModel, the first is encoder.layer.2"):
        Encoder.from_pretrained(own_folder)


def test_weights_of_another_architecture(own_folder: Path) -> None:
    edit_config(own_folder, model_type="distilbert")
    with pytest.raises(ValueError, match=f"{own_folder} lacks .* weights of DistilBertModel, the first is transformer"):
        Encoder.from_pretrained(own_folder)


def test_left_over_weights_are_no_error(own_folder: Path, tiny_model_folder: Path) -> None:
    weights = load_file(own_folder / "model.safetensors")
    heads = ("cls.predictions.bias", "classifier.7.weight", "subencoder.layer.7.weight", "encoder.layer.1.old.weight")
    weights |= {name: torch.zeros(9) for name in heads}
    save_file(weights, own_folder / "model.safetensors", metadata={"format": "pt"})
    expected = Encoder.from_pretrained(tiny_model_folder).encode(["chef"])
    assert (Encoder.from_pretrained(own_folder).encode(["chef"]) == expected).all()


def test_blocks_are_counted_where_the_list_is_at_the_top(own_folder: Path) -> None:
    sizes = {"vocab_size": 200, "n_embd": 32, "n_head": 2, "bos_token_id": 1, "eos_token_id": 1}
    GPT2Model(GPT2Config(n_layer=2, **sizes)).save_pretrained(own_folder)
    edit_config(own_folder, n_layer=1)
    with pytest.raises(ValueError, match="expected the weights of 1 blocks, got 2"):
        Encoder.from_pretrained(own_folder)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1", None], ids=["lfs", "cut"])
def test_damaged_weights(own_folder: Path, content: bytes | None) -> None:
    path = own_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:9000] if content is None else content)
    with pytest.raises(ValueError, match=f"could not load the weights in {own_folder}: "):
        Encoder.from_pretrained(own_folder)


def test_a_missing_shard(own_folder: Path) -> None:
    (own_folder / "model.safetensors").rename(own_folder / "model-00001-of-00002.safetensors")
    names = load_file(own_folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00002-of-00002.safetensors")}
    (own_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"could not load the weights in {own_folder}: .*model-00002-of-00002"):
        Encoder.from_pretrained(own_folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../other/model.safetensors", 7])
def test_an_index_that_names_something_else(own_folder: Path, name: Any) -> None:
    (own_folder / "model.safetensors").rename(own_folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"embeddings.LayerNorm.bias": name}}
    (own_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"index.json to name .safetensors files beside it, got {name!r}"):
        Encoder.from_pretrained(own_folder)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("content", ["null", "3", '["a"]', "[" * 100_000, '{"a": ' * 100_000], ids=range(5))
def test_json_of_another_shape_is_one_line_that_names_the_folder(own_folder: Path, name: str, content: str) -> None:
    if "index" in name:
        (own_folder / "model.safetensors").rename(own_folder / "model-00001-of-00001.safetensors")
    (own_folder / name).write_text(content)
    with pytest.raises(ValueError, match=str(own_folder)) as refused:
        Encoder.from_pretrained(own_folder)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_a_model_without_a_tokenizer(own_folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (own_folder / name).unlink()
    # transformers makes up a tokenizer of five special tokens here, to which all texts are alike.
    assert len(AutoTokenizer.from_pretrained(own_folder)) == 5
    with pytest.raises(
        FileNotFoundError, match=f"tokenizer of the model in {own_folder}, found none of tokenizer.json"
    ):
        Encoder.from_pretrained(own_folder)


@pytest.mark.parametrize("content", ['{"version"', "{}", '{"added_tokens": [], "model": {"type": "Nope"}}'])
def test_a_damaged_tokenizer(own_folder: Path, content: str) -> None:
    (own_folder / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=f"could not load a tokenizer from {own_folder}: "):
        Encoder.from_pretrained(own_folder)


def test_a_tokenizer_without_a_model(own_folder: Path) -> None:
    (own_folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=f"model in {own_folder}, found no config.json; it holds only a token"):
        Encoder.from_pretrained(own_folder)


@pytest.mark.parametrize("name", ["config.json", "two_towers.json"])
def test_the_folder_of_a_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_text("{}")
    with pytest.raises(
        FileNotFoundError,
        match=f"model in {tmp_path}, found no config.json; it looks .* whose model is {tmp_path}/model",
    ):
        Encoder.from_pretrained(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"expected a model in {tmp_path}, found no config.json$"):
        Encoder.from_pretrained(tmp_path)
