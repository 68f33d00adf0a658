"""Search spaces: what a file or a command line may say, and what is said of one that is not as expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from experiments.sweeps.composer import Composer
from experiments.tune.space import SPACES, Setting, check_conditions, parse_space, read_space


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with Composer() as composer:
        yield composer


def one(text: str, composer: Composer) -> Setting:
    (setting,) = parse_space({"x": text}, composer)
    return setting


def test_groups_come_first(composer: Composer) -> None:
    written = {"batch_size": "8,16", "loss": "choice(infonce,triplet)", "loss.margin": "tag(loss:triplet,choice(1))"}
    space = parse_space(written, composer)
    assert [setting.key for setting in space] == ["loss", "batch_size", "loss.margin"]
    assert space[0].choices == ("infonce", "triplet")
    assert space[-1].when == {"loss": ("triplet",)}
    (every,) = parse_space({"loss": "glob([in*,dc*])"}, composer)
    assert every.choices == ("dcl", "infonce")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("16,32,16", CategoricalDistribution(["16", "32"])),
        ("null,true,[1,2],'a b: '", CategoricalDistribution(["null", "true", "[1,2]", "'a b: '"])),
        ("32", CategoricalDistribution(["32"])),
        ("interval(1,4)", FloatDistribution(1.0, 4.0)),
        ("int(interval(1,4))", IntDistribution(1, 4)),
        ("tag(log,int(interval(1,4)))", IntDistribution(1, 4, log=True)),
        ("tag(log,interval(1e-5,1e-3))", FloatDistribution(1e-5, 1e-3, log=True)),
        ("range(8,65,8)", IntDistribution(8, 64, step=8)),
        ("range(3,0,-1)", IntDistribution(1, 3, step=1)),
        ("range(0,0.35,0.05)", FloatDistribution(0.0, 0.3, step=0.05)),
    ],
)
def test_what_hydra_sweeps_optuna_draws(text: str, values: object, composer: Composer) -> None:
    assert one(text, composer).values == values


def test_conditions_look_at_what_is_chosen(composer: Composer) -> None:
    written = {"loss": "infonce,triplet,dcl", "seeds": "tag(loss:triplet,loss:dcl,int(interval(1,2)))"}
    space = parse_space(written, composer)
    check_conditions(space)
    assert space[1].wanted({"loss": "dcl"})
    assert not space[1].wanted({"loss": "infonce"})
    assert not space[1].wanted({})


def test_values_are_drawn_in_their_range_and_are_short(composer: Composer) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = parse_space({"rate": "tag(log,interval(1e-5,3e-4))", "ratio": "range(0,0.35,0.05)"}, composer)
    for _ in range(20):
        trial = study.ask()
        rate, ratio = (setting.suggest(trial) for setting in space)
        assert isinstance(rate, float)
        assert 0.999e-5 <= rate <= 3.001e-4
        assert float(f"{rate:.4g}") == rate
        assert ratio in (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    assert isinstance(one("range(8,65,8)", composer).suggest(FixedTrial({"x": 16})), int)


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_space_of_the_project_is_read(path: Path, composer: Composer) -> None:
    written = read_space(path.stem)
    assert set(written) == set(yaml.safe_load(path.read_text()))
    check_conditions(parse_space(written, composer))


def test_a_file_of_ones_own_may_fix_values(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("batch_size: 16\nloss.x: null\nloss: a,b\n")
    assert read_space(str(path)) == {"batch_size": "16", "loss.x": "null", "loss": "a,b"}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"x": "choice("}, r"Hydra cannot read x=choice\("),
        ({"x": "interval(3,2)"}, r"x=interval\(3,2\): .*low=3.0, high=2.0"),
        ({"x": "range(3,3)"}, r"x=range\(3,3\): .*low=0, high=-1"),
        ({"x": "tag(log,interval(0,2))"}, r"x=tag\(log,interval\(0,2\)\): .*low=0.0"),
        ({"x": "tag(log,choice(1,2))"}, r"x=tag\(log,choice\(1,2\)\): expected the tag log on an interval"),
        ({"x": "tag(lgo,interval(1,2))"}, "expected the tags of x to be log or NAME:CHOICE, got lgo"),
        ({"loss": "interval(1,2)"}, r"expected choices for the group loss, got interval\(1,2\)"),
        ({"x": "tag(y:1,choice(1,2))"}, "expected the tags of x to name choices above it .*, got y"),
        (
            {"loss": "mnrl,gist", "x": "tag(loss:dcl,choice(1,2))"},
            "tags of x to be among the loss .*, got dcl",
        ),
        ({"judge": "dev,test"}, "got judge: trials are judged on dev"),
        ({"seed": "int(interval(0,9))"}, "got seed: the best seed is luck"),
        ({"data": "jobs,files"}, "got data: values on different data cannot be compared"),
    ],
)
def test_what_is_not_as_expected_is_said(written: Mapping[str, str], message: str, composer: Composer) -> None:
    with pytest.raises(ValueError, match=message):
        check_conditions(parse_space(written, composer))


def test_a_file_that_is_not_there_or_not_as_expected_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected --space to be a YAML file or one of .*default.*, got none-such"):
        read_space("none-such")
    broken = tmp_path / "broken.yaml"
    broken.write_text("loss: {choices: [")
    with pytest.raises(ValueError, match=r"expected broken\.yaml to be YAML"):
        read_space(str(broken))
    for text in ("[1]", "x: [1, 2]", "x: {low: 1, high: 2}"):
        broken.write_text(text)
        with pytest.raises(ValueError, match=r"expected broken\.yaml to hold lines as `batch_size: choice\("):
            read_space(str(broken))
