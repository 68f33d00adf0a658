"""The programs, from configuration to the folder of results, on a tiny random encoder and a tiny generated data set."""

import csv
import errno
import itertools
import json
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from hydra import compose, initialize_config_dir
from hydra.errors import CompactHydraException, ConfigCompositionException, MissingConfigException
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from test_tracking import read_back

from contrastive.encoder import Encoder
from contrastive.encoder.finite import NotFiniteError
from contrastive.evaluation import Rankings, evaluate_rankings, fuse, rank, read_hybrid, write_hybrid
from contrastive.evaluation.spelling import Spelling
from contrastive.training import ContrastiveModule
from experiments.composing import check_known
from experiments.data import __main__ as data
from experiments.evaluate import __main__ as evaluate
from experiments.mine import __main__ as mine
from experiments.postings.generator import jobs
from experiments.results.files import write_json
from experiments.run import __main__ as run
from experiments.run.training_run import train_and_judge
from experiments.search import __main__ as search
from experiments.sweeps import program as sweeps
from experiments.tune import __main__ as tune

ROOT = Path(__file__).parents[2]
SMALL = ["data.train_pairs=8", "data.dev_queries=4", "data.test_queries=4", "batch_size=4"]
MARGIN_OFF = ["negatives.filters.relative_margin=null"]

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")

Configure = Callable[..., DictConfig]


def composed(folder: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        quiet = [f"folder={folder}/run", "logger=csv", "trainer.enable_progress_bar=false"]
        return compose("config", overrides=[*quiet, *SMALL, *overrides])


@pytest.fixture
def configure(tiny_model_folder: Path, tmp_path: Path) -> Configure:
    """Compose the configuration of a tiny run with further overrides."""
    return partial(composed, tmp_path, "encoder=pretrained", f"encoder.name_or_path={tiny_model_folder}")


@pytest.fixture
def drawn() -> None:
    """Figures are drawn, which takes half the time of a tiny run."""


@pytest.fixture(autouse=True)
def _figures_only_where_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("experiments.results.figures.draw", lambda *_: {})


@pytest.fixture(scope="module")
def finished(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    """The configuration of one finished run, for tests that only read its folder."""
    tiny = ["encoder=pretrained", f"+mine={tiny_model_folder}", "encoder.name_or_path=${mine}"]
    config = composed(tmp_path_factory.mktemp("finished"), *tiny, "optimizer.learning_rate=1e-3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.results.figures.draw", lambda *_: {})
        train_and_judge(config)
    return config


def report(config: DictConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(config.folder) / "metrics.json").read_text())
    return content


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("loss", ["infonce", "triplet"])
def test_a_run_leaves_everything_it_promises(
    loss: str, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(f"loss={loss}")
    monitored = train_and_judge(config)
    folder = Path(config.folder)

    content = report(config)
    assert content["status"] == "finished"
    assert content["monitored"]["metric"] == "dev/ndcg@10"
    assert content["monitored"]["value"] == monitored
    assert set(content["systems"]) == {"BM25", "BM25+spelling", "before", "after", "hybrid"}
    files = (
        "config.yaml",
        "history/metrics.csv",
        "checkpoints/best.ckpt",
        "similarities.csv",
        "queries.csv",
        "model/README.md",
        "model/hybrid.json",
    )
    for file in (*files, "training.png", "results.png", "similarities.png"):
        assert (folder / file).stat().st_size > 0
    printed = capsys.readouterr().out
    for word in ("BM25", "before", "after", "ndcg@10", "mrr@10", "recall@10", "recall@100", config.query, str(folder)):
        assert word in printed


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml")))
def test_every_recipe_runs(recipe: str, tiny_model_folder: Path, tmp_path: Path) -> None:
    smaller = [f"+tiny={tiny_model_folder}", "encoder.name_or_path=${tiny}", "encoder.max_length=32"]
    config = composed(tmp_path, f"experiment={recipe}", *smaller, "before=false")
    train_and_judge(config)
    assert report(config)["status"] == "finished"
    assert set(report(config)["systems"]) == {"BM25", "BM25+spelling", "after", "hybrid"}  # without the untuned encoder
    trained = Encoder.from_pretrained(Path(config.folder) / "model")
    assert trained.representation == {"best": "tokens", "quick": "tokens", "lexical": "lexical"}.get(recipe, "pooled")
    assert trained.head.windows == (recipe in ("best", "passages", "quick"))


def test_files_of_a_run_agree_with_each_other(finished: DictConfig, tiny_model_folder: Path) -> None:
    config = finished
    folder, task = Path(config.folder), jobs(train_pairs=8, dev_queries=4, test_queries=4).test
    card = ModelCard.load(folder / "model" / "README.md")
    for name, system in report(config)["systems"].items():
        cell = system["metrics"]["ndcg@10"]
        results = evaluate_rankings(Rankings.read_trec(folder / f"{name}.trec"), task)
        assert results.means["ndcg@10"] == pytest.approx(cell["mean"])
        with (folder / f"{name}.per_query.csv").open() as file:
            values = [float(row["ndcg@10"]) for row in csv.DictReader(file)]
        assert sum(values) / len(values) == pytest.approx(cell["mean"])
        assert f"| {name} | {cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}] |" in card.text
    assert report(config)["base_models"] == [{"name": tiny_model_folder.name, "hub": None, "licence": None}]
    assert "| optimizer.learning_rate | 0.001 |" in card.text
    assert card.data.language == "en"
    assert not any(str(path) in str(card) for path in (folder.parent, tiny_model_folder.parent))


def test_saved_model_is_the_one_that_was_judged(finished: DictConfig) -> None:
    config, folder = finished, Path(finished.folder)
    weights = Encoder.from_pretrained(folder / "model").state_dict()
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], best[f"encoder.{name}"]) for name in weights)
    untrained = Encoder.from_pretrained(config.encoder.name_or_path).state_dict()
    assert any(not torch.equal(weights[name], untrained[name]) for name in weights)


def test_best_weights_are_kept_and_not_the_last(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.5, 0.4, 0.3])
    falling = lambda *_, **__: SimpleNamespace(means={"ndcg@10": next(values)})  # noqa: E731
    monkeypatch.setattr("contrastive.training.module.evaluate_rankings", falling)
    config = configure("optimizer.learning_rate=1e-3", "trainer.max_epochs=3", "trainer.val_check_interval=1.0")
    assert train_and_judge(config) == pytest.approx(0.5)
    assert report(config)["monitored"]["epoch"] == 0
    weights = Encoder.from_pretrained(Path(config.folder) / "model").state_dict()
    best = torch.load(Path(config.folder) / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], best[f"encoder.{name}"]) for name in weights)


def test_the_dev_curve_begins_with_the_untuned_encoder(configure: Configure) -> None:
    config = configure("trainer.max_epochs=2", "judge=dev")
    train_and_judge(config)
    with (Path(config.folder) / "history" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["dev/ndcg@10"]]
    content = report(config)
    assert [row["step"] for row in rows] == ["0", "1", "2", "3", "4"]  # steps that were made
    means = {name: content["systems"][name]["metrics"]["ndcg@10"]["mean"] for name in ("BM25", "before")}
    assert float(rows[0]["dev/ndcg@10"]) == pytest.approx(means["before"])
    for row in rows:
        assert float(row["dev/untuned_ndcg@10"]) == pytest.approx(means["before"])
        assert float(row["dev/bm25_ndcg@10"]) == pytest.approx(means["BM25"])
    assert content["dev"]["BM25"]["ndcg@10"] == means["BM25"]
    assert content["monitored"]["untuned"] == means["before"]
    assert max(float(row["dev/ndcg@10"]) for row in rows[1:]) == pytest.approx(content["monitored"]["value"])
    assert content["trained_on"]["pairs"] == 8


def test_validations_change_nothing_in_the_training(configure: Configure, tmp_path: Path) -> None:
    losses = []
    for folder, interval in (("often", 1), ("once", 5)):  # five are more than an epoch has: one at its end
        config = configure("before=false", f"folder={tmp_path}/{folder}", f"trainer.val_check_interval={interval}")
        train_and_judge(config)
        with (Path(config.folder) / "history" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        losses.append([row["train/loss"] for row in rows if row["train/loss"]])
        assert len([row for row in rows if row["dev/ndcg@10"]]) == 1 + (2 if interval == 1 else 1)
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]


def test_the_same_seed_gives_the_same_model(configure: Configure, tmp_path: Path) -> None:
    models = []
    for folder, seed in (("first", 3), ("second", 3), ("third", 4)):
        config = configure(f"seed={seed}", f"folder={tmp_path}/{folder}", "before=false")
        train_and_judge(config)
        models.append((tmp_path / folder / "model" / "model.safetensors").read_bytes())
    assert models[0] == models[1]
    assert models[0] != models[2]


def test_judging_on_dev_leaves_test_alone_and_a_run_without_a_logger_has_no_history(configure: Configure) -> None:
    config = configure("judge=dev", "logger=none")
    train_and_judge(config)
    assert report(config)["data"]["judged_on"] == "jobs-dev"
    rankings = [path.read_text() for path in Path(config.folder).glob("*.trec")]
    assert len(rankings) == 5
    assert all("dev-q" in ranking and "test-q" not in ranking for ranking in rankings)
    assert not (Path(config.folder) / "history").exists()
    assert report(config)["status"] == "finished"


@pytest.fixture
def without_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")


@pytest.mark.usefixtures("without_key", "drawn")
def test_wandb_is_told_everything(configure: Configure, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = configure("logger=wandb", "trainer.max_epochs=2")
    train_and_judge(config)
    assert "so the model is not copied into it" in caplog.text
    history, run = read_back(Path(config.folder))
    content = report(config)
    with (Path(config.folder) / "history" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("train/loss", "train/learning_rate", "train/gradient_norm", "dev/ndcg@10"):
        kept = [float(row[name]) for row in rows if row.get(name)]
        assert [row[name] for row in history if name in row] == pytest.approx(kept)
    assert run["config"]["optimizer"]["learning_rate"] == 1e-4
    assert run["config"]["versions"] == content["versions"]
    summary = run["summary"]
    for system in ("BM25", "BM25+spelling", "before", "after", "hybrid"):
        assert summary[f"{system}/ndcg@10"] == content["systems"][system]["metrics"]["ndcg@10"]["mean"]
    assert summary["gain/ndcg@10_low"] == content["gain"]["ndcg@10"]["low"]
    assert summary["seconds/train"] == content["seconds"]["train"]
    for system in ("before", "after"):
        for kind in ("relevant", "random", "bm25_hard"):
            assert sum(summary[f"similarity/{system}/{kind}"]["values"]) > 0
    for name in ("results", "training", "similarities"):
        image = run["files"] / summary[f"figures/{name}"]["path"]
        assert image.read_bytes() == (Path(config.folder) / f"{name}.png").read_bytes()
    table = json.loads((run["files"] / summary["per_query"]["path"]).read_text())
    assert table["columns"] == ["query_id", "query", "BM25", "BM25+spelling", "before", "after", "hybrid"]
    assert len(table["data"]) == content["data"]["queries"]
    assert summary["examples"]["nrows"] == content["data"]["queries"]


@pytest.mark.usefixtures("without_key")
def test_a_tracker_that_dies_and_a_card_that_cannot_be_made_cost_nothing(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr("wandb.sdk.wandb_run.Run.log", broken)
    monkeypatch.setattr("experiments.run.report.write_card", broken)
    config = configure("logger=wandb")
    train_and_judge(config)
    assert report(config)["status"] == "finished"
    assert caplog.text.count("Weights & Biases failed (ConnectionResetError: Connection lost)") == 1
    assert caplog.text.count("The model card could not be written (ConnectionResetError: Connection lost)") == 1
    assert "train/loss" in (Path(config.folder) / "history" / "metrics.csv").read_text()


def test_a_finished_run_stays_finished_whatever_showing_it_does(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr("experiments.run.report.illustrate", broken)
    config = configure("before=false")
    with pytest.raises(RuntimeError, match="no fonts"):
        train_and_judge(config)
    assert report(config)["status"] == "finished"


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss=gist", "memory=queue", "num_negatives=1", "data.negatives=1"],
        ["loss=gist", "guide=pretrained", "guide.pooling=cls"],
        ["loss=matryoshka", "loss@loss.loss=gist", "loss.dimensions=[32,16]"],
        ["batches.clusters=2", "batches.no_duplicates=near"],
        ["batches.rows_per_document=2", "loss=triplet"],
    ],
    ids=["untuned guide", "another guide", "inner loss", "clusters", "classes"],
)
def test_batches_and_guides_from_the_command_line(
    overrides: list[str], configure: Configure, tiny_model_folder: Path, tmp_path: Path
) -> None:
    if "guide=pretrained" in overrides:
        overrides = [*overrides, f"guide.name_or_path={tiny_model_folder}"]
    config = configure(*overrides, "before=false", "trainer.limit_val_batches=0", f"cache={tmp_path}/cache")
    train_and_judge(config)
    assert report(config)["status"] == "finished"
    kept = list((tmp_path / "cache").glob("*.npy"))
    assert len(kept) == (6 if "gist" in str(overrides) else 4)  # of test, of dev for the hybrid, and of the guide


@pytest.mark.parametrize(
    ("overrides", "sources"),
    [
        (["negatives=random", "negatives.count=2"], {"random": 16}),
        (["negatives=bm25", "negatives.filters.relative_margin=null"], None),
        (["negatives=dense", "negatives.filters.relative_margin=null", "negatives.count=3"], {"dense": 24}),
        (["negatives=refresh", "negatives.filters.relative_margin=null"], {"dense": 32}),
        (["negatives=mixed", "negatives.mix={random: 1, bm25: 0, dense: 1}", *MARGIN_OFF], {"dense": 16, "random": 16}),
        (["negatives=queue", "memory.size=8"], "none"),
    ],
)
def test_negatives_are_mined_before_training(
    overrides: list[str], sources: object, configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = configure("before=false", "loss=triplet" if sources is None else "loss=infonce", *overrides)
    train_and_judge(config)
    mined = report(config).get("negatives")
    if sources == "none":
        assert mined is None
        assert config.memory.size == 8
        return
    choice = mined[0]
    assert len(mined) == (2 if "negatives=refresh" in overrides else 1)  # half an epoch is one step
    assert choice["pairs"] == 8
    assert choice["refused"]["known_positive"] > 0
    assert sources is None or choice["sources"] == sources
    assert len(list((tmp_path / "cache" / "contrastive" / "negatives").glob("*.json.gz"))) == 1


@pytest.mark.parametrize(
    "setting",
    [
        "trainer.limit_val_batches=0",
        "trainer.fast_dev_run=true",
        "trainer.max_steps=1",
        "+trainer.enable_checkpointing=false",
        "+trainer.overfit_batches=1",
    ],
)
def test_lightnings_own_trainer_names_work(setting: str, configure: Configure) -> None:
    config = configure(setting, "before=false")
    train_and_judge(config)
    assert report(config)["status"] == "finished"


def test_ctrl_c_leaves_what_was_finished(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    step = ContrastiveModule.training_step

    def interrupted(self: ContrastiveModule, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ContrastiveModule, "training_step", interrupted)
    config = configure()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train_and_judge(config)
    content = report(config)
    assert content["status"] == "interrupted"
    assert set(content["systems"]) == {"BM25", "BM25+spelling", "before"}


def test_a_run_that_diverges_stops_and_leaves_its_best_weights(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = ContrastiveModule.judge

    def diverging(self: ContrastiveModule, batch: Any) -> Any:
        trains = self._trainer is not None and self.trainer.training and self.trainer.global_step == 3
        return judge(self, batch) * (float("nan") if trains else 1)

    monkeypatch.setattr(ContrastiveModule, "judge", diverging)
    config = configure("before=false", "trainer.max_epochs=4", "trainer.val_check_interval=1.0")
    with pytest.raises(NotFiniteError, match="expected a finite loss, got nan at step 3 of epoch 1 from 4 pairs"):
        train_and_judge(config)
    folder, content = Path(config.folder), report(config)
    assert content["status"].startswith("failed: NotFiniteError: expected a finite loss, got nan at step 3")
    assert content["monitored"]["step"] == 2
    weights = Encoder.from_pretrained(folder / "model").state_dict()
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], best[f"encoder.{name}"]) for name in weights)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (4, "expected a finite loss, got nan at step 1 "),
        (1, "expected a (model in .*|checkpoint) with finite weights, got NaN"),
    ],
)
def test_a_run_that_diverges_at_once_leaves_no_model(
    steps: int, message: str, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = ["trainer.limit_val_batches=0", "optimizer.learning_rate=1e38", "optimizer.warmup_ratio=0"]
    config = configure("before=false", *overrides, f"trainer.max_steps={steps}")
    with pytest.raises(NotFiniteError, match=message):
        train_and_judge(config)
    assert "so there is no model" in caplog.text
    assert report(config)["status"].startswith("failed: NotFiniteError")
    assert not (Path(config.folder) / "model").exists()
    assert not list((Path(config.folder) / "checkpoints").glob("*.ckpt"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_as_ctrl_c_does_with_its_own_status(
    number: int, status: int, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ContrastiveModule.training_step

    def interrupted(self: ContrastiveModule, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 0:
            os.kill(os.getpid(), number)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ContrastiveModule, "training_step", interrupted)
    typed = SimpleNamespace(overrides=SimpleNamespace(task=["before=false"]))
    monkeypatch.setattr("experiments.run.__main__.HydraConfig.get", lambda: typed)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    config = configure("before=false")
    try:
        with pytest.raises(SystemExit) as stopped:
            run.main.__wrapped__(config)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.code == status
    content = report(config)
    assert (content["status"], set(content["systems"])) == ("interrupted", {"BM25", "BM25+spelling"})
    (checkpoint,) = (Path(config.folder) / "checkpoints").glob("step-*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 1  # after the step that was under way


def test_an_interruption_while_parts_are_built_is_written(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.run.training_run.build", interrupted)
    config = configure()
    with pytest.raises(KeyboardInterrupt):
        train_and_judge(config)
    assert report(config) == {"status": "interrupted"}
    assert [path.name for path in Path(config.folder).iterdir()] == ["metrics.json"]


def test_a_finished_run_is_not_written_over(configure: Configure) -> None:
    config = configure("before=false")
    train_and_judge(config)
    files = {path: path.read_bytes() for path in Path(config.folder).rglob("*") if path.is_file()}
    with pytest.raises(
        CompactHydraException, match=r"^error: expected a folder without a finished run, there is one in"
    ):
        train_and_judge(configure("loss=triplet", "seed=5"))
    assert {path: path.read_bytes() for path in Path(config.folder).rglob("*") if path.is_file()} == files


def test_a_start_that_is_refused_leaves_the_configuration_of_what_was_there(configure: Configure) -> None:
    folder = Path(configure().folder)
    folder.mkdir()
    write_json(folder / "metrics.json", {"status": "interrupted"})
    (folder / "config.yaml").write_text("seed: 7\n")
    with pytest.raises(CompactHydraException, match="temperature"):
        train_and_judge(configure("loss.temperature=-1"))
    assert (folder / "config.yaml").read_text() == "seed: 7\n"
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "metrics.json"]
    train_and_judge(configure("before=false", "seed=3"))
    assert OmegaConf.load(folder / "config.yaml").seed == 3


def test_another_process_of_a_run_trains_and_leaves_nothing(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []
    monkeypatch.setattr("experiments.run.training_run.is_first", lambda _: False)
    monkeypatch.setattr("experiments.run.ranks.end_with_parent", lambda *_: None)
    monkeypatch.setattr("lightning.Trainer.fit", lambda *_, **__: trained.append("fit"))
    config = configure("logger=wandb")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    try:
        train_and_judge(config)
    finally:
        logging.disable(logging.NOTSET)
    assert trained == ["fit"]
    assert not Path(config.folder).exists()
    assert not list(Path(config.folder).parent.glob("**/*.tmp"))
    assert "ndcg@10" not in "".join(capfd.readouterr())


def test_a_full_disk_is_one_line_and_the_best_checkpoint_stays(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, checkpoints = torch.save, []

    def filling(content: Any, file: Any) -> None:
        if checkpoints:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        checkpoints.append(content)
        save(content, file)

    monkeypatch.setattr("experiments.run.checkpoints.torch.save", filling)
    monkeypatch.setattr("contrastive.training.module.evaluate_rankings", better_each_time())
    config = configure("before=false", "trainer.max_epochs=3")
    best = Path(config.folder) / "checkpoints" / "best.ckpt"
    named = f"^error: .*No space left on device: '{best}'; the run is in {config.folder}$"
    with pytest.raises(CompactHydraException, match=named):
        train_and_judge(config)
    assert report(config)["status"] == f"failed: OSError: [Errno 28] No space left on device: '{best}'"
    assert torch.load(best, weights_only=True)["global_step"] == checkpoints[0]["global_step"]
    assert {path.name for path in best.parent.iterdir() if path.suffix != ".json"} == {"best.ckpt"}


def better_each_time() -> Callable[..., SimpleNamespace]:
    values = itertools.count(1)
    return lambda *_, **__: SimpleNamespace(means={"ndcg@10": next(values) / 10})


@pytest.mark.usefixtures("without_key")
@pytest.mark.parametrize("refused", ["trainer.max_epochs=-1", "loss.mining=explicit"])  # by the trainer, by a batch
def test_a_job_that_is_refused_while_it_is_built_is_tracked_nowhere(refused: str, configure: Configure) -> None:
    config = configure("logger=wandb", "loss=triplet", refused)
    with pytest.raises(CompactHydraException, match=r"to bound the run|negatives"):
        train_and_judge(config)
    assert [path.name for path in Path(config.folder).iterdir()] == ["metrics.json"]
    assert report(config)["status"].startswith("failed: ")


@pytest.mark.usefixtures("without_key")
def test_a_job_that_fails_has_failed_for_the_tracker(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ArithmeticError

    monkeypatch.setattr("experiments.run.training_run.judge_bm25", broken)
    config = configure("logger=wandb")
    with pytest.raises(ArithmeticError):
        train_and_judge(config)
    _, tracked = read_back(Path(config.folder))
    assert tracked["exit_code"] == 1
    assert tracked["config"]["loss"]["temperature"] == 0.05
    assert "versions" in tracked["config"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+ckpt_path=last.ckpt", "expected no ckpt_path: resume=FOLDER continues a run, resume=auto the latest"),
        ("+batchsize=8", "there is no batchsize to set, nothing reads it; did you mean batch_size?"),
        ("+batches.cluster=8", "there is no batches.cluster to set, nothing reads it; did you mean batches.clusters?"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_by_every_program(
    override: str,
    message: str,
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed = SimpleNamespace(overrides=SimpleNamespace(task=[override]))
    monkeypatch.setattr("experiments.run.__main__.HydraConfig.get", lambda: typed)
    monkeypatch.setattr("experiments.run.training_run.train_and_judge", pytest.fail)
    with pytest.raises(CompactHydraException) as refused:
        run.main.__wrapped__(configure(override))
    assert str(refused.value) == f"error: {message}"
    for program, arguments in ((evaluate, ["--model", "minilm"]), (mine, []), (data, ["inspect"]), (tune, [])):
        with pytest.raises(SystemExit) as ended:
            program.main([*arguments, override])
        assert str(ended.value.code or capsys.readouterr().err).strip() == f"error: {message}"
    assert sweeps.main(["seed=0,1", override]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_key_that_other_values_refer_to_is_read(configure: Configure, tmp_path: Path) -> None:
    check_known(configure(f"+mine={tmp_path}", "encoder.name_or_path=${mine}/model"))
    with pytest.raises(ValueError, match="there is no mine to set"):
        check_known(configure(f"+mine={tmp_path}", "encoder.name_or_path=${folder}/mine"))


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("loss.temprature=0.1", ConfigCompositionException, "temprature"),
        ("loss=unknown", MissingConfigException, "unknown"),
        ("trainer.max_epoch=2", ConfigCompositionException, "max_epoch"),
    ],
)
def test_what_cannot_be_composed_fails_at_once(
    override: str, error: type[Exception], message: str, configure: Configure
) -> None:
    with pytest.raises(error, match=message):
        configure(override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+loss.temprature=0.1"], "temprature"),
        (["loss.temperature=0"], "temperature"),
        (["encoder.name_or_path=/no/such/folder"], "/no/such/folder"),
        (["+callbacks.mine.x=1"], r"expected callbacks\.mine\._target_ to say what it is, got {'x': 1}"),
        (["judge=train"], "expected judge to be dev or test, got 'train'"),
        (["trainer.max_epochs=-1"], "to bound the run"),
        (["batch_size=0"], "batch_size"),
        (["batch_size=1"], "expected batches from which InfoNCELoss can learn, got none: .*, of 1 pair each"),
        (
            ["encoder.max_length=8", "encoder.query_prompt='a search for a job: '"],
            "queries that differ in their first 8",
        ),
        (["trainer.precision=bf16-true"], r"expected trainer\.precision to be .* or auto, got bf16-true"),
        (["loss=triplet", "loss.mining=explicit"], "negatives"),
        (["encoder.name_or_path=???"], r"expected a value for encoder\.name_or_path, which has no default: add"),
    ],
)
def test_what_cannot_work_fails_before_anything_is_judged(
    overrides: list[str], message: str, configure: Configure
) -> None:
    config = configure(*overrides)
    with pytest.raises(CompactHydraException, match=f"^error: .*{message}"):  # which Hydra shows without a traceback
        train_and_judge(config)
    assert not list(Path(config.folder).glob("*.trec"))


def test_an_interruption_is_said_without_a_traceback(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(_: DictConfig, *, command: list[str]) -> float:
        assert command == ["python", "-m", "experiments.run", "loss=infonce"]
        raise KeyboardInterrupt

    typed = SimpleNamespace(overrides=SimpleNamespace(task=["loss=infonce"]))
    monkeypatch.setattr("experiments.run.__main__.HydraConfig.get", lambda: typed)
    monkeypatch.setattr("experiments.run.training_run.train_and_judge", interrupted)
    with pytest.raises(SystemExit) as stopped:
        run.main.__wrapped__(configure())
    assert stopped.value.code == 130
    assert "interrupted" in caplog.messages


def test_evaluate_repeats_the_numbers_of_the_run(finished: DictConfig, tmp_path: Path) -> None:
    config = finished
    common = ["--data", "jobs", "--output", str(tmp_path / "evaluation"), *SMALL[:3]]
    ndcg = evaluate.main(["--model", str(config.folder), *common])
    assert ndcg == pytest.approx(report(config)["systems"]["after"]["metrics"]["ndcg@10"]["mean"], abs=1e-6)
    assert (tmp_path / "evaluation" / "encoder.trec").exists()
    kept = tmp_path / "kept"
    evaluate.main(["--model", str(config.folder), *common, "--cache", str(kept), "--no-cache"])
    assert not kept.exists()
    assert evaluate.main(["--model", str(config.folder), *common, "--cache", str(kept)]) == ndcg
    assert len(list(kept.glob("*.npy"))) == 2  # of documents and of queries


def test_the_hybrid_of_a_run_is_fitted_on_dev_and_evaluated_and_searched_again(
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = configure("before=false")
    train_and_judge(config)
    folder, fitted, systems = Path(config.folder), report(config)["hybrid"], report(config)["systems"]
    hybrid = read_hybrid(folder / "model")
    assert hybrid is not None
    assert fitted == json.loads(json.dumps({**asdict(hybrid), "said": str(hybrid)}))
    assert (hybrid.task, hybrid.queries) == ("jobs-dev", 4)
    assert f"hybrid: {hybrid}" in capsys.readouterr().out
    alone = {name: float(name == hybrid.best_part) for name in hybrid.weights}
    assert hybrid.weights == (hybrid.tried if hybrid.gain.mean > 0 else alone)
    task = jobs(train_pairs=8, dev_queries=4, test_queries=4).test
    spelling = Spelling.of(task.corpus.values())
    right = replace(task, queries={id_: spelling.put_right_text(text) for id_, text in task.queries.items()})
    assert right.queries != task.queries
    asked_right = rank(Encoder.from_pretrained(folder / "model"), right)
    of_run = {"BM25+spelling": Rankings.read_trec(folder / "BM25+spelling.trec"), "encoder": asked_right}
    judged = evaluate_rankings(fuse(of_run, hybrid.weights), task)
    assert Rankings.read_trec(folder / "hybrid.trec").documents.keys() == task.queries.keys()
    assert systems["hybrid"]["metrics"]["ndcg@10"]["mean"] == pytest.approx(judged.means["ndcg@10"])

    half = replace(hybrid, weights={"BM25+spelling": 0.5, "encoder": 0.5})
    write_hybrid(folder / "model", half)
    output = tmp_path / "evaluation"
    evaluate.main(["--model", str(folder), "--data", "jobs", "--output", str(output), "--query", "nurse", *SMALL[:3]])
    parts = {"BM25+spelling": Rankings.read_trec(output / "BM25+spelling.trec"), "encoder": asked_right}
    mixed = Rankings.read_trec(output / "hybrid.trec")
    assert mixed.documents == fuse(parts, half.weights).documents
    assert mixed.documents not in [ranked.documents for ranked in parts.values()]

    monkeypatch.setattr("contrastive.data.store.user_folder", lambda _: tmp_path / "kept")
    query_id, query = next(iter(task.queries.items()))
    capsys.readouterr()
    search.main([query, "--model", str(folder), "--json", "-k", "10", "--no-cache", "--no-passages"])
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert [(hit["id"], hit["score"]) for hit in hits] == [
        (id_, pytest.approx(score, abs=2e-6)) for id_, score in mixed.top(query_id, 10)
    ]
    assert "ranking by the model's hybrid.json: 0.50 BM25+spelling + 0.50 encoder" in caplog.text


def test_a_hybrid_on_the_judged_split_ranks_nothing_again(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.run.hybrid.embed", None)
    monkeypatch.setattr("experiments.run.hybrid.bm25_once", None)
    config = configure("before=false", "judge=dev")
    train_and_judge(config)
    assert report(config)["hybrid"]["task"] == "jobs-dev"


def test_evaluate_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no-such-model"):
        evaluate.main(["--model", str(tmp_path / "no-such-model"), *SMALL[:3]])
    with pytest.raises(SystemExit, match=r"expected a value for data\.path, which has no default: add data\.path="):
        evaluate.main(["--model", "minilm", "--data", "beir"])


@pytest.mark.parametrize("negatives", ["random", "dense"])
@pytest.mark.parametrize(("cache", "files"), [("{}/mine", 1), ("null", 0)])
def test_mined_negatives_are_kept_where_embeddings_are(
    negatives: str, cache: str, files: int, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    train_and_judge(configure("before=false", f"negatives={negatives}", f"cache={cache.format(tmp_path)}"))
    assert len(list((tmp_path / "mine" / "negatives").glob("*"))) == files
    assert not (tmp_path / "users").exists()


def test_negatives_are_chosen_again_with_the_model_in_training(configure: Configure) -> None:
    refresh = ["negatives=refresh", "negatives.every_n_epochs=null", "negatives.every_n_steps=1", *MARGIN_OFF]
    config = configure("before=false", "trainer.max_epochs=2", *refresh)
    train_and_judge(config)
    choices = report(config)["negatives"]
    assert [choice["step"] for choice in choices] == [0, 1, 2, 3]
    scores = [choice["score"] for choice in choices]
    assert len(set(scores)) == 4  # another model each time
    with (Path(config.folder) / "history" / "metrics.csv").open() as file:
        logged = {row["step"]: row["negatives/score"] for row in csv.DictReader(file) if row["negatives/score"]}
    assert [float(logged[str(step)]) for step in range(4)] == pytest.approx(scores)


def test_precision_is_measured_and_written_down_and_large_batches_need_no_memory(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.run.precision.measured_precision", lambda *sizes: ("bf16-mixed", f"{sizes}"))
    made: list[bool] = []
    monkeypatch.setattr(
        "contrastive.training.module.ContrastiveModule.on_train_start",
        lambda module: made.append((module.cached, module.trainer.precision, module.skipping is not None)),
        raising=False,
    )
    overrides = ["trainer.precision=auto", "trainer.cached=true", "on_nonfinite=skip", "callbacks=average"]
    config = configure(*overrides, "before=false")
    train_and_judge(config)
    assert made == [(True, "bf16-mixed", True)]
    written = OmegaConf.load(Path(config.folder) / "config.yaml")
    assert written.trainer.precision == "bf16-mixed"
    assert written.trainer.cached


def test_nothing_is_embedded_twice(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = Encoder.encode

    def noting(self: Encoder, texts: list[str], **how: object) -> object:
        encoded.append(len(texts))
        return encode(self, texts, **how)  # type: ignore[call-overload]

    monkeypatch.setattr(Encoder, "encode", noting)
    once = ("judge=dev", f"cache={tmp_path}/cache", "trainer.val_check_interval=1.0")
    train_and_judge(configure(*once))
    queries, corpus, asked, right = 4, 10, 1, 1  # of all queries the user's alone has words to put right
    # Before; the validation, whose weights are those judged after; and the user's query, under both.
    assert encoded == [queries, corpus, asked, right, queries, corpus, asked, right]
    encoded.clear()
    train_and_judge(configure(*once, "seed=1", f"folder={tmp_path}/second"))
    assert encoded == [asked, right, queries, corpus, asked, right]  # the untuned encoder is that of the run before
    encoded.clear()
    train_and_judge(configure("judge=dev", "cache=null", once[2], f"folder={tmp_path}/third"))
    assert encoded == [queries, corpus, asked, right, queries, corpus, queries, corpus, asked, right]
