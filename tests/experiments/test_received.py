"""What programs take from the files of a run that somebody else may have made."""

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from contrastive.data import TextData
from experiments.composing import CONFIGS
from experiments.results.received import READERS, build_data, read_config
from experiments.search.__main__ import main as search

JOBS = {"_target_": "experiments.postings.generator.jobs", "train_pairs": 8, "dev_queries": 4, "test_queries": 4}
FILES = {"_target_": "contrastive.data.files", "_convert_": "all"}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text("query,positive\n" + "".join(f"who is {i},answer {i}\n" for i in range(20)))
    return path


def test_readers_are_built_as_hydra_would_build_them(pairs: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "experiments.results.received")
    mine = {**FILES, "path": str(pairs), "columns": {"query": "query"}, "max_queries": 3}
    data = build_data({"_target_": "contrastive.data.mixed", "sources": {"jobs": JOBS, "mine": mine}, "judged": "mine"})
    assert isinstance(data, TextData)
    assert (data.name, len(data.test.queries)) == ("jobs+mine", 2)
    assert f"reading with contrastive.data.files, as the run did: path={str(pairs)!r}, max_queries=3" in caplog.messages


def test_every_reader_of_the_configurations_is_known() -> None:
    configs = [yaml.safe_load(path.read_text()) for path in (CONFIGS / "data").glob("*.yaml")]
    assert {config["_target_"] for config in configs if "_target_" in config} <= {*READERS}


EARLIER = (
    "contrastive.adapters.LoRA",
    "contrastive.memory.with_queue",
    "contrastive.memory.without_queue",
    "contrastive.optimization.LinearDecayAdamW",
    "contrastive.query_generation.pseudo_queries.PseudoQueries",
    "contrastive.query_generation.text2text_writer.Text2TextWriter",
    "contrastive.two_towers.load_encoder",
    "experiments.callbacks.SpreadValidations",
    "experiments.jobs.generator.jobs",
    "experiments.tracking.csv_logger",
)


def test_what_an_earlier_run_names_has_the_name_of_today(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"data": {**JOBS, "_target_": "experiments.jobs.generator.jobs"}, "seed": 1}))
    assert read_config(path) == {"data": JOBS, "seed": 1}
    path.write_text(yaml.safe_dump({"all": [{"inner": {"_target_": target}} for target in EARLIER]}))
    found = {each["inner"]["_target_"] for each in read_config(path)["all"]}
    text = "".join(path.read_text() for path in CONFIGS.rglob("*.yaml"))
    assert found == {target for target in found if f"_target_: {target}\n" in text}
    assert len(found) == len(EARLIER)


def never_called() -> None:
    """Stand in for what does harm."""
    raise AssertionError


EVIL = {"_target_": f"{__name__}.never_called"}


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (EVIL, r"expected data of the run's configuration to be read by one of .*, got '.*\.never_called'"),
        ({**JOBS, "seed": EVIL}, "expected data.seed of the run's configuration to be read by one of"),
        ({**FILES, "columns": {"query": EVIL}}, "expected data.columns.query of the run's configuration"),
        ({**FILES, "columns": {"negatives": [0, EVIL]}}, "expected data.columns.negatives.1 of the run's conf"),
        ({"_target_": "contrastive.data.mixed", "sources": {"a": EVIL}}, "expected data.sources.a of the run's"),
        ({"_target_": [JOBS["_target_"]]}, r"to be read by one of .*, got \['experiments"),
        ({**JOBS, "_args_": [1]}, "expected settings by name in data of the run's configuration, got '_args_'"),
        ({**JOBS, "_partial_": True}, "in data of the run's configuration, got '_partial_'"),
        ({**JOBS, "_recursive_": False, "negatives": EVIL}, "in data of the run's configuration, got '_recursive_'"),
        ({**JOBS, 3: 4}, "in data of the run's configuration, got 3"),
        ({**JOBS, "sed": 1}, "expected data of the run's configuration to fit experiments.*'sed'"),
        ({**FILES, "path": "/tmp/${oc.env:HOME}.csv"}, r"expected data\.path of the run's configuration to be a plain"),
        ({**FILES, "columns": {"query": "${x}"}}, r"expected data\.columns\.query .* to be a plain value, got '\$\{x"),
        ("jobs", "expected the data of a run by the name of their reader, got 'jobs'"),
        (None, "expected the data of a run by the name of their reader, got None"),
    ],
)
def test_nothing_else_is_built(described: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_data(described)


@pytest.mark.parametrize("writer", ["endpoint_writer.EndpointWriter", "text2text_writer.Text2TextWriter"])
def test_a_run_does_not_make_queries_be_written_again(writer: str, pairs: Path) -> None:
    written = {"_target_": f"contrastive.data.queries.{writer}", "base_url": "http://example.org/v1"}
    corpus = {"_target_": "contrastive.data.corpus.corpus", "path": str(pairs), "writer": written}
    with pytest.raises(ValueError, match=r"expected data\.sources\.a\.writer of the run's configuration to be read by"):
        build_data({"_target_": "contrastive.data.mixed", "sources": {"a": corpus}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.getcwd []", "to be YAML as a run writes it, got ConstructorError: could not"),
        ("a: &a [1, 1]\nb: [*a, *a]", "to be YAML as a run writes it, got YAMLError: found an alias"),
        ("a: " + "[" * 1500, "to be YAML as a run writes it, got RecursionError"),
        ("[1]", r"to hold settings by name, got \[1\]"),
        ("", "to hold settings by name, got None"),
    ],
)
def test_what_is_no_configuration_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        read_config(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_the_environment_is_not_asked(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("data: {name: '${oc.env:HOME}'}\n")
    assert read_config(path) == {"data": {"name": "${oc.env:HOME}"}}


def test_search_refuses_the_configuration_of_a_run_that_names_code(tiny_model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(tiny_model_folder)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": EVIL}))
    with pytest.raises(SystemExit, match="error: expected data of the run's configuration to be read by one of"):
        search(["nurse", "--model", str(tmp_path)])
