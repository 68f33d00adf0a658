"""`python -m experiments.tune`, on a tiny random encoder where it has to train, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.sweeps.composer import Composer
from experiments.sweeps.jobs import state
from experiments.tune.__main__ import main
from experiments.tune.objective import TrainAndJudge
from experiments.tune.plan import make_plan
from experiments.tune.space import read_space

ROOT = Path(__file__).parents[2]
SPACE = """
loss: choice(infonce,triplet)
loss.temperature: tag(log,interval(0.01,0.2))
batch_size: 4,0
"""

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a space."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(SPACE)
    return tmp_path


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with Composer() as composer:
        yield composer


def read_study(folder: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'multirun' / 'tune' / name / 'study.db'}")


class PrunesTheThird(optuna.pruners.BasePruner):
    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:  # noqa: ARG002
        return trial.number == 2


def test_a_search_trains_prunes_fails_and_reads_what_is_there(
    here: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here / "multirun" / "tune" / "mine"
    folder.mkdir(parents=True)
    study = optuna.create_study(storage=f"sqlite:///{folder / 'study.db'}", study_name="mine", direction="maximize")
    for chosen in (
        {"loss": "infonce", "loss.temperature": 0.05, "batch_size": "4"},
        {"loss": "triplet", "batch_size": "0"},
        {"loss": "triplet", "batch_size": "4"},
        {"loss": "infonce", "loss.temperature": 0.05, "batch_size": "4"},
    ):
        study.enqueue_trial(chosen)
    monkeypatch.setattr("experiments.tune.searching.make_pruner", lambda *_: PrunesTheThird())
    small = ["data.train_pairs=16", "data.dev_queries=4", "data.test_queries=4"]
    tiny = ["encoder=pretrained", f"encoder.name_or_path={tiny_model_folder}", "logger=csv", *small]
    main(["--space", "mine.yaml", "--trials", "4", *tiny])

    finished, failed, pruned, read = read_study(here, "mine").trials
    assert [trial.state for trial in (finished, failed, pruned, read)] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.PRUNED,
        TrialState.COMPLETE,
    ]
    report = json.loads((Path(finished.user_attrs["folder"]) / "metrics.json").read_text())
    assert finished.value == report["monitored"]["value"]
    assert report["data"]["judged_on"] == "jobs-dev"
    assert set(report["systems"]) == {"BM25", "BM25+spelling", "after", "hybrid"}
    assert list(finished.intermediate_values) == [1, 2, 3, 4]
    assert "batch_size" in failed.user_attrs["reason"]
    assert list(pruned.intermediate_values) == [1]
    report = json.loads((Path(pruned.user_attrs["folder"]) / "metrics.json").read_text())
    assert report["status"].startswith("pruned: at stage 1 of 4, dev/ndcg@10")
    assert state(Path(pruned.user_attrs["folder"])) != "failed"
    assert read.value == finished.value
    assert read.user_attrs["folder"] == finished.user_attrs["folder"]
    assert not read.intermediate_values  # it did not train

    said, logged = capsys.readouterr()
    assert "2 finished, 1 pruned, 1 failed" in said
    assert "Best postings" not in said  # what a run prints
    assert "Judging" not in logged
    run = next(line.strip() for line in said.splitlines() if line.startswith("  python -m experiments.run"))
    assert run.startswith("python -m experiments.run trainer.val_check_interval=0.25 encoder=pretrained ")
    assert run.endswith(" loss=infonce loss.temperature=0.05 batch_size=4 judge=test")
    assert "before=" not in run
    for file in ("tune.csv", "history.png", "experiment/tuned.yaml"):
        assert (folder / file).stat().st_size > 0


def made_up(self: TrainAndJudge, trial: Trial) -> float:  # noqa: ARG001
    return 1.0 / (1 + trial.number)


def test_the_same_command_goes_on_to_a_higher_target(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TrainAndJudge, "__call__", made_up)
    for trials in (2, 2, 3):
        main(["--space", "mine.yaml", "--name", "search", "--trials", str(trials)])
    assert len(read_study(here, "search").trials) == 3
    assert capsys.readouterr().out.count("It goes on after 2 finished.") == 2
    with pytest.raises(SystemExit, match=r"expected fixed values of search 'search' to stay .*another --name"):
        main(["--space", "mine.yaml", "--name", "search", "seed=1"])


def test_an_interruption_keeps_the_trial_and_says_how_to_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainAndJudge, "__call__", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["--space", "mine.yaml"])
    assert stopped.value.code == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err
    assert [trial.state for trial in read_study(here, "mine").trials] == [TrialState.FAIL, TrialState.WAITING]


@pytest.mark.usefixtures("here")
def test_the_exit_status_tells_that_all_trials_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: Any) -> float:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(TrainAndJudge, "__call__", failing)
    with pytest.raises(SystemExit) as stopped:
        main(["--space", "mine.yaml", "--trials", "2"])
    assert stopped.value.code == 1
    assert "failed 2 x: RuntimeError: out of memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["judge=test"], "expected judge=dev, got judge=test"),
        (["loss=infonce,dlc"], "expected loss to be one of .*, got dlc"),
        (["seed=1,2"], "got seed: the best seed is luck"),
        (["loss.temprature=1"], "there is no loss.temprature"),
        (["loss=triplets"], "did you mean triplet"),
        (["loss.symmetric=false"], "there is no loss.symmetric to set with loss=mnrl$"),
        (["callbacks.checkpoint=null"], "expected callbacks.checkpoint, .* got none"),
        (["trainer.limit_val_batches=0"], "expected trials to validate"),
        (["trainer.devices=2"], "expected trainer.devices=1, got 2"),
        (["--trials", "0"], "expected --trials of at least 1, got 0"),
        (["--timeout", "0"], "expected --timeout above 0, got 0"),
        (["--name", "a/b"], "expected --name to be the name of a folder, got 'a/b'"),
        (["--space", "none"], "expected --space to be a YAML file or one of default"),
        (["--storage", "mine.yaml"], "expected --storage to be a database, got mine.yaml: .*file is not a database"),
        (["--space", "mine.yaml", "loss=triplet", "batch_size=4"], "expected settings to vary"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_cannot_work_is_refused_at_once(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        main(arguments)


@pytest.mark.parametrize(
    ("words", "interval"),
    [
        ([], ["trainer.val_check_interval=0.25"]),
        (["trainer.max_epochs=2"], ["trainer.val_check_interval=0.5"]),
        (["trainer.max_epochs=3"], ["trainer.val_check_interval=0.5"]),
        (["trainer.max_epochs=4"], []),
        (["trainer.val_check_interval=0.1"], []),
        (["trainer.max_steps=10"], []),
    ],
)
def test_a_training_validates_often_enough_to_be_pruned(
    words: list[str], interval: list[str], composer: Composer
) -> None:
    plan = make_plan(read_space("default"), words, 4, composer)
    assert list(plan.kept) == [*interval, *words]
    assert set(plan.kept) <= set(plan.fixed)


def test_a_value_on_the_command_line_narrows_the_space(composer: Composer) -> None:
    words = ["loss=infonce", "loss.symmetric=false", "before=true"]
    plan = make_plan(read_space("default"), words, 4, composer)
    assert plan.left_out == ("loss.margin",)
    assert plan.space[0].choices == ("infonce",)
    assert "before=true" in plan.fixed
    assert "before=false" not in plan.fixed
    assert plan.kept == ("trainer.val_check_interval=0.25", "loss.symmetric=false")
    assert (plan.monitor, plan.mode) == ("dev/ndcg@10", "max")


def test_choices_and_ranges_on_the_command_line_replace_those_of_the_space_and_add_to_them(composer: Composer) -> None:
    words = ["loss=dcl,infonce", "loss.temperature=interval(0.1,0.2)", "+loss.hardness=range(3)"]
    plan = make_plan(read_space("default"), words, 4, composer)
    written = {setting.key: setting.text for setting in plan.space}
    assert written["loss"] == "dcl,infonce"
    assert written["loss.temperature"] == "interval(0.1,0.2)"
    assert written["batch_size"] == "choice(16,32,64)"
    assert written["+loss.hardness"] == "range(3)"
    assert plan.left_out == ("loss.margin",)
    assert plan.kept == ("trainer.val_check_interval=0.25",)
    assert plan.settings["space of loss"] == "dcl,infonce"


def test_a_setting_without_a_place_is_refused(composer: Composer) -> None:
    written = {"loss": "infonce,dcl", "loss.margin": "interval(0.1,0.2)"}
    with pytest.raises(ValueError, match=r"expected settings that the configuration has .*, got loss\.margin"):
        make_plan(written, [], 4, composer)
