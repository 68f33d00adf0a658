import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from contrastive.encoder import Encoder
from contrastive.encoder.adapters import LoRA
from contrastive.encoder.model_folder import open_pretrained


def test_a_hub_name_stays_the_name_of_the_model(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--org--name"
    shutil.copytree(tiny_model_folder, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert open_pretrained("org/name").backbone.name_or_path == "org/name"


def test_a_folder_is_found_again_from_anywhere(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_model_folder.parent)
    assert open_pretrained(tiny_model_folder.name).backbone.name_or_path == str(tiny_model_folder.resolve())


@pytest.mark.parametrize("rank", [0, 4])
def test_opening_and_writing_are_silent(
    tiny_model_folder: Path, tmp_path: Path, rank: int, capfd: pytest.CaptureFixture[str]
) -> None:
    Encoder.from_pretrained(tiny_model_folder, lora=LoRA(rank=rank)).save_pretrained(tmp_path)
    Encoder.from_pretrained(tmp_path / "adapter" if rank else tmp_path)
    assert capfd.readouterr() == ("", "")
