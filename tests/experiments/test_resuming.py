"""Which run `resume` means, and that it goes on with its own configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from experiments.composing import CONFIGS
from experiments.results.files import write_json
from experiments.run.resuming import continued, is_same_run, located
from experiments.run.run_folder import LOCK


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def stopped(folder: Path, *overrides: str, status: str = "interrupted") -> Path:
    """Write what a run leaves that was stopped."""
    folder.mkdir(parents=True)
    config = composed(f"folder={folder.resolve()}", *overrides)
    config.trainer.precision = "32-true" if config.trainer.precision == "auto" else config.trainer.precision
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    write_json(folder / "metrics.json", {"status": status})
    return folder


def test_a_folder_becomes_the_folder_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stopped(tmp_path / "a b")
    named = [f"{name}='{tmp_path / 'a b'}'" for name in ("resume", "hydra.run.dir")]
    assert located(["seed=1", "resume='a b'"]) == ["seed=1", *named]
    assert located(["hydra.run.dir=x", "resume='a b'", "--config-dir=x"]) == ["--config-dir=x", *named]
    for nothing in (["seed=1"], ["seed=1", "resume=null"]):
        assert located(nothing) == ["seed=1"]
    with pytest.raises(FileNotFoundError, match=r"to be auto or the folder of a run, found no config.yaml in nowhere"):
        located(["resume=nowhere"])


def test_auto_is_the_latest_of_this_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    typed = ["loss=triplet", "trainer.precision=auto", "resume=auto"]
    assert located(typed) == typed[:2]
    day = tmp_path / "outputs" / "day"
    stopped(day / "9", "loss=triplet")
    found = stopped(day / "5", "loss=triplet", "logger=csv", "callbacks.continuation.seconds=5", status="running")
    stopped(day / "6", "loss=triplet", status="finished")
    stopped(day / "7", "loss=triplet", status="pruned: at stage 1")
    stopped(day / "8", "loss=triplet", "seed=1")
    taken = stopped(day / "4", "loss=triplet")
    (day / "3").mkdir()
    (day / "3" / "config.yaml").write_text("[")
    with FileLock(taken / LOCK):
        assert located(typed) == [*typed[:2], f"resume='{found}'", f"hydra.run.dir='{found}'"]
    with pytest.raises(ValueError, match="expected name=value beside resume=auto, got --config-dir=x"):
        located([*typed, "--config-dir=x"])


def test_auto_goes_on_in_a_given_folder_or_begins_there(tmp_path: Path) -> None:
    typed = ["seed=1", f"hydra.run.dir={tmp_path}/run", "resume=auto"]
    assert located(typed) == typed[:2]
    stopped(tmp_path / "run", "seed=1")
    assert located(typed) == ["seed=1", f"resume='{tmp_path}/run'", f"hydra.run.dir='{tmp_path}/run'"]


def go_on(folder: Path, *overrides: str) -> DictConfig:
    typed: Sequence[str] = [*overrides, f"resume={folder}"]
    return continued(composed(*typed), typed)


def test_a_run_goes_on_with_its_own_configuration(tmp_path: Path) -> None:
    folder = stopped(tmp_path / "run", "loss=triplet", "seed=3", "logger=csv", "trainer.max_epochs=5")
    expected = {**OmegaConf.load(folder / "config.yaml"), "resume": str(folder)}
    assert go_on(folder) == go_on(folder, "seed=3", "trainer.max_epochs=5", "loss=triplet") == expected
    other = go_on(folder, "logger=none", "cache=null", "callbacks.continuation.seconds=7", "hydra.run.dir=x")
    assert (other.seed, other.cache, other.callbacks.continuation.seconds) == (3, None, 7)
    assert other.logger._target_.endswith("no_logger")
    assert other.callbacks.checkpoint.dirpath == f"{folder}/checkpoints"


def test_a_folder_that_was_moved_is_where_it_is_now(tmp_path: Path) -> None:
    folder = stopped(tmp_path / "run").rename(tmp_path / "moved")
    config = go_on(folder)
    assert config.folder == str(folder)
    assert config.callbacks.checkpoint.dirpath == f"{folder}/checkpoints"
    assert is_same_run(folder, composed())
    assert not is_same_run(folder, composed("seed=1"))
    assert not is_same_run(tmp_path / "nowhere", composed())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.temperature=0.1", r"loss.temperature=0.05, got 0.1: what changes the training is a run of its own"),
        ("seed=1", "seed=0, got 1"),
        ("loss=triplet", "got another loss"),
        ("experiment=quick", "got another experiment"),
        ("~callbacks.early_stopping", "got another callbacks.early_stopping"),
        ("+trainer.overfit_batches=2", "trainer.overfit_batches=None, got 2"),
    ],
)
def test_what_changes_the_training_is_refused(override: str, message: str, tmp_path: Path) -> None:
    folder = stopped(tmp_path / "run")
    with pytest.raises(ValueError, match=f"expected the configuration of the run to continue in {folder}, {message}"):
        go_on(folder, override)
