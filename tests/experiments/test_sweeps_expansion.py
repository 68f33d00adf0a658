"""Which runs a command line asks for, what is left out of them, and what is refused at once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from loss_configs import KEYS, NAMES, QUERIES, configured

from contrastive.data.batch import EmbeddedBatch, loss_arguments
from experiments.composing import CONFIGS
from experiments.sweeps.composer import Composer, compose_applicable
from experiments.sweeps.expansion import Expansion, expand

ROOT = Path(__file__).parents[2]


@cache
def study(name: str) -> Expansion:
    return expand([f"+sweep={name}"])


def labels(*arguments: str) -> list[str]:
    return [job.label for job in expand(arguments).jobs]


def test_pairs_that_do_not_apply_become_one_job_and_are_listed() -> None:
    found = expand(["loss=infonce,triplet,mnrl", "loss.temperature=0.02,0.05,0.1", "seed=0,1,2", "batch_size=8"])
    assert found.collapsed == ("loss.temperature does not apply to loss=triplet: 9 combinations became 3",)
    assert len(found.jobs) == len({job.id for job in found.jobs}) == len({job.folder for job in found.jobs}) == 21
    triplets = [job for job in found.jobs if "loss=triplet" in job.overrides]
    assert [job.label for job in triplets] == [f"loss=triplet,seed={seed}" for seed in (0, 1, 2)]
    assert "temperature" not in triplets[0].config.loss
    assert triplets[2].overrides == ("batch_size=8", "loss=triplet", "seed=2")
    cold = next(job for job in found.jobs if job.label == "loss=mnrl,loss.temperature=0.02,seed=1")
    assert (cold.config.loss.temperature, cold.config.seed, cold.config.batch_size) == (0.02, 1, 8)
    assert cold.config.folder == str(cold.folder)


def test_what_is_composed_is_what_hydra_composes() -> None:
    varied = [
        "loss=mnrl",
        "loss.temperature=0.02",
        "+loss.hardness=5",
        "query='a, b'",
        "data={seed: 3, dev_queries: 5}",
    ]
    with Composer() as composer:
        config, left_out = compose_applicable(composer, ["batch_size=8"], varied)
        assert config == composer.compose(["batch_size=8", *varied])
        assert (config.query, config.data.seed, left_out) == ("a, b", 3, ())
        assert compose_applicable(composer, ["batch_size=8"], varied[:2]).config.loss.temperature == 0.02
        assert compose_applicable(composer, [], ["loss.sigma=1"]).left_out == ("loss.sigma=1",)
        assert composer.base(["batch_size=8", "loss=mnrl"]).loss.temperature == 0.05  # what is kept stays as it was


@pytest.mark.parametrize(
    ("arguments", "collapsed", "expected"),
    [
        (
            ["loss=infonce,triplet", "+loss.hardness=1,5"],
            "loss.hardness does not apply to loss=triplet: 2 combinations became 1",
            ["loss=infonce,+loss.hardness=1", "loss=infonce,+loss.hardness=5", "loss=triplet"],
        ),
        (
            ["loss=dcl,matryoshka", "loss@loss.loss=mnrl,supcon"],
            "loss@loss.loss does not apply to loss=dcl: 2 combinations became 1",
            ["loss=dcl", "loss=matryoshka,loss@loss.loss=mnrl", "loss=matryoshka,loss@loss.loss=supcon"],
        ),
        (
            ["loss=dcl,triplet", "loss.temperature=choice(0.1)"],
            "loss.temperature does not apply to loss=triplet: left out there",
            ["loss=dcl,loss.temperature=0.1", "loss=triplet"],
        ),
        (
            ["loss=dcl,triplet", "loss.temperature=0.1,0.2", "loss.sigma=0.5,1"],
            "loss.temperature and loss.sigma do not apply to loss=triplet: 4 combinations became 1",
            [*(f"loss=dcl,loss.temperature={t},loss.sigma={s}" for t in (0.1, 0.2) for s in (0.5, 1)), "loss=triplet"],
        ),
        (
            ["negatives=random,bm25", "negatives.filters.relative_margin=0.05,null"],  # what is random has no scores
            "negatives.filters.relative_margin does not apply to negatives=random: 2 combinations became 1",
            ["negatives=random", *(f"negatives=bm25,negatives.filters.relative_margin={m}" for m in ("0.05", "null"))],
        ),
        (["seed=0,1,0"], "combinations that compose the same run as another: 1", ["seed=0", "seed=1"]),
    ],
)
def test_what_is_left_out_is_said(arguments: Sequence[str], collapsed: str, expected: Sequence[str]) -> None:
    found = expand(arguments)
    assert found.collapsed == (collapsed,)
    assert [job.label for job in found.jobs] == expected


def test_every_sweep_that_hydra_knows_expands() -> None:
    assert labels("loss=glob(m*,exclude=[*mse])", "seed=range(0,2)") == [
        f"loss={loss},seed={seed}" for loss in ("matryoshka", "mnrl") for seed in (0, 1)
    ]
    assert labels("seed=sort(3,1,2,reverse=true)") == ["seed=3", "seed=2", "seed=1"]
    assert sorted(labels("seed=shuffle(range(0,4))")) == [f"seed={seed}" for seed in range(4)]
    assert labels("batch_size=8", "seed=1") == ["batch_size=8,seed=1"]


def test_the_command_line_has_the_last_word_over_a_study() -> None:
    whole = study("temperature")
    assert (whole.name, len(whole.jobs), whole.collapsed) == ("temperature", 45, ())
    changed = expand(["+sweep=temperature", "seed=0", "loss=mnrl,triplet"])
    assert len(changed.jobs) == 6
    assert {job.config.seed for job in changed.jobs} == {0}
    assert changed.name.startswith("temperature-")
    assert {job.id for job in changed.jobs} & {job.id for job in whole.jobs}
    assert not any("sweep" in override for job in changed.jobs for override in job.overrides)


def test_studies_hold_what_they_say() -> None:
    sizes = {name: len(study(name).jobs) for name in ("losses", "temperature", "batch_size", "negatives")}
    assert sizes == {path.stem: sizes[path.stem] for path in (CONFIGS / "sweep").glob("*.yaml")}
    assert sizes == {"losses": 30, "temperature": 45, "batch_size": 48, "negatives": 60}


def test_the_study_of_losses_has_all_that_pairs_alone_can_train() -> None:
    possible = set()
    for name in NAMES:
        loss = configured(name)
        try:
            loss_arguments(loss, EmbeddedBatch(QUERIES, KEYS, owners=torch.arange(4)))
        except ValueError:
            continue
        possible.add(name)
    possible.add("gist")  # the untuned encoder is its guide
    chosen = {job.config.loss._target_ for job in study("losses").jobs}
    assert chosen == {f"contrastive.losses.{type(configured(name)).__name__}" for name in possible - {"matryoshka"}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sede=1,2"], "there is no sede to set in any combination; did you mean seed?"),
        (["loss=infonce,mnrl", "loss.temprature=1,2"], "no loss.temprature .* did you mean loss.temperature?"),
        (["+loss.hardnes=1,5"], "there is no loss.hardnes to set in any combination"),
        (["loss=infonce,tripplet"], "expected loss to be one of angle, .*, got tripplet; did you mean triplet?"),
        (["lss=infonce,mnrl"], "there is no lss to set .*; did you mean loss?"),
        (["seed=1,2", "batchsize=8"], "there is no batchsize to set; did you mean batch_size?"),
        (
            ["loss=infonce,triplet", "loss.temperature=0.1"],
            "there is no loss.temperature to set with loss=triplet; loss.temperature=choice(VALUE) would set it where",
        ),
        (["+loss.symmetric=true,false"], "loss.symmetric is there already: write ++loss.symmetric=..."),
        (["data=jobs,beir"], "expected a value for data.path, which has no default: add data.path=..."),
        (["seed=1,,2"], "Hydra cannot read seed=1,,2: a value with blanks"),
        (["loss.temperature=interval(0.1,1)"], "expected values to choose from, .*; experiments.tune searches ranges"),
        (["+sweep=lossess"], "sweep to be one of batch_size, losses, negatives, temperature, got lossess; did you"),
        (["sweep=losses"], "expected one study, as +sweep=NAME, got sweep=losses"),
        (["seed=1,2", "launcher=jobib"], "expected launcher to be one of .*, got jobib; did you mean joblib?"),
        (["seed=1,2", "launcher=joblib", "launcher.wrkers=2"], "no launcher.wrkers .* did you mean launcher.workers?"),
        (["seed=1,2", "trainer.strategy=ddp"], "expected runs of one process in a sweep, got trainer.strategy=ddp"),
        (["seed=1,2", "folder=/tmp"], "expected no folder in a sweep: hydra.sweep.dir=DIR says where"),
        (["seed=1,2", "hydra/launcher=joblib"], "expected no hydra/launcher in a sweep"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(arguments: Sequence[str], message: str) -> None:
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(ValueError, match=pattern):
        expand(arguments)


def test_a_study_that_sets_more_than_parameters_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(
        "# @package _global_\nseed: 3\nhydra: {sweeper: {params: {loss: 'dcl,mnrl'}}}\n"
    )
    for path in CONFIGS.iterdir():
        if path.name != "sweep":
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.setattr("experiments.sweeps.composer.CONFIGS", tmp_path)
    with pytest.raises(ValueError, match=re.escape("sweep/mine.yaml to set hydra.sweeper.params alone")):
        expand(["+sweep=mine"])


def test_who_runs_it_and_where_is_no_part_of_a_run(tmp_path: Path) -> None:
    plain = expand(["seed=0,1"])
    other = expand(["seed=0,1", "launcher=joblib", "launcher.workers=3", f"hydra.sweep.dir={tmp_path}"])
    assert [job.id for job in plain.jobs] == [job.id for job in other.jobs]
    assert (plain.name, other.launcher.workers) == (other.name, 3)
    assert {job.folder.parent for job in other.jobs} == {tmp_path}
    assert "launcher" not in other.jobs[0].config
    assert other.jobs[0].overrides == ("seed=0",)


def test_a_tracker_is_told_what_varies_and_of_which_sweep() -> None:
    job = study("losses").jobs[0]
    assert (job.config.logger.name, job.config.logger.group) == ("loss=infonce,seed=0", "losses")
    job = expand(["seed=0,1", "logger.name=mine"]).jobs[0]
    assert job.config.logger.name == "mine"
    assert job.command == ["python", "-m", "experiments.run", "logger.name=mine", "seed=0"]
    assert "name" not in expand(["seed=0,1", "logger=csv"]).jobs[0].config.logger


def test_listing_a_sweep_loads_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "experiments.run", "+sweep=losses", "--dry-run"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "missing     loss=triplet,seed=2" in answer.stdout
    modules = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "hydra" in modules
    assert not modules & {"torch", "lightning", "transformers", "wandb"}
