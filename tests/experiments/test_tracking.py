"""W&B is never asked, never waited for, and never ends a run; a run tells its story without it."""

import json
import logging
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import wandb
from omegaconf import OmegaConf
from wandb.util import get_core_path

from experiments.results.files import Outcome
from experiments.run import tracking, wandb_server
from experiments.run.history import History
from experiments.run.tracking import LenientWandbLogger
from experiments.run.wandb_server import has_wandb_key, is_reachable, server_answers
from experiments.sweeps import program

ROOT = Path(__file__).parents[2]
SETTINGS = {"project": "test", "name": None, "group": None, "tags": ()}


@pytest.fixture(autouse=True)
def without_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(wandb_server.ANSWERED, "")  # what is remembered is forgotten after each test
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a server that knows no page, as that of W&B knows none at its root."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as listening:
        Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.fixture
def swallowing() -> Iterator[str]:
    """Address of a socket that accepts connections and says nothing, as a network that swallows packets."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_key_is_found_in_environment_and_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not has_wandb_key()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert has_wandb_key()
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert has_wandb_key()
    (tmp_path / "netrc").write_text("machine elsewhere.example login user password secret\n")
    assert not has_wandb_key()


def test_a_server_that_answers_is_told_from_one_that_takes_connections_and_from_none(
    server: str, swallowing: str
) -> None:
    assert server_answers(server)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert not server_answers(f"http://127.0.0.1:{port}")
    began = time.monotonic()
    assert not server_answers(swallowing, timeout=0.3)
    assert time.monotonic() - began < 2


def test_the_look_up_of_a_name_has_an_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = Event()

    def stuck(*_: object, **__: object) -> None:
        given_up.wait(10)
        raise OSError("no name server")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    began = time.monotonic()
    assert not server_answers("https://wandb.invalid", timeout=0.2)
    assert time.monotonic() - began < 2
    given_up.set()


def test_the_answer_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str, swallowing: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(wandb_server, "server_answers", lambda url: asked.append(url) or url == server)
    assert [is_reachable(server) for _ in range(3)] == [True] * 3
    assert asked == [server]
    monkeypatch.setenv("WANDB_BASE_URL", swallowing)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    job = SimpleNamespace(config=OmegaConf.create({"logger": {"mode": "auto"}}))
    program._ask_wandb([job])  # before its jobs begin; a process that they run in has its environment
    assert asked == [server, swallowing]
    for name in ("first", "second"):
        loggers = tracking.wandb_logger(tmp_path / name, **SETTINGS)
        assert loggers[0].experiment.offline
        tracking.finish(loggers, failed=False)
    assert asked == [server, swallowing]
    job.config.logger.mode = "offline"
    program._ask_wandb([job])
    assert asked == [server, swallowing]


def read_back(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """History, and everything else, of the one W&B run in a folder, as `wandb leet inspect` reads its file."""
    (file,) = folder.glob("wandb/*run-*/*.wandb")
    core = [get_core_path(), "leet", "inspect", "--no-observability", "--json", f"--run-file={file}"]
    records, summary = (
        subprocess.run([*core, *option, str(file.parent)], capture_output=True, text=True, check=True).stdout
        for option in ([], ["--summary"])
    )
    lines = [json.loads(line) for line in records.splitlines()]
    return [line["history"]["item"] for line in lines if line["type"] == "history"], {
        **json.loads(summary),
        "group": next(line["run"].get("run_group") for line in lines if line["type"] == "run"),
        "metrics": [line["metric"] for line in lines if line["type"] == "metric"],
        "files": file.parent / "files",
    }


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    from matplotlib.figure import Figure

    Figure().savefig(tmp_path / "results.png")
    return Outcome(
        {"after/ndcg@10": 0.5},
        tables={"per_query": (["query", "after"], [["python", 0.25]])},
        figures={"results": tmp_path / "results.png"},
        histograms={"similarity/after/relevant": [0.1, 0.2, 0.9]},
    )


def test_without_key_the_run_is_offline_and_complete(
    tmp_path: Path, outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / "a run"
    loggers = tracking.wandb_logger(folder, **{**SETTINGS, "tags": ["mine"], "group": "together"})
    assert [type(logger) for logger in loggers] == [LenientWandbLogger, History]
    assert loggers[0].experiment.offline
    loggers[0].log_hyperparams({"loss": {"temperature": 0.05}})
    loggers[0].log_metrics({"train/loss": 1.5}, step=1)
    loggers[0].log_metrics({"dev/ndcg@10": 0.4}, step=2)
    tracking.log_results(loggers, outcome)
    tracking.finish(loggers, failed=False)

    history, run = read_back(folder)
    assert [(row["train/loss"], row["trainer/global_step"]) for row in history if "train/loss" in row] == [(1.5, 1)]
    assert [(row["dev/ndcg@10"], row["trainer/global_step"]) for row in history if "dev/ndcg@10" in row] == [(0.4, 2)]
    assert {metric["glob_name"]: metric["step_metric"] for metric in run["metrics"]} == {
        "train/*": "trainer/global_step",
        "dev/*": "trainer/global_step",
        "negatives/*": "trainer/global_step",
    }
    assert run["config"]["loss"]["temperature"] == 0.05
    assert (run["name"], run["group"], run["tags"], run["exit_code"]) == ("a run", "together", ["mine"], 0)
    summary = run["summary"]
    assert summary["after/ndcg@10"] == 0.5
    assert summary["similarity/after/relevant"]["_type"] == "histogram"
    assert sum(summary["similarity/after/relevant"]["values"]) == 3
    image = run["files"] / summary["figures/results"]["path"]
    assert image.read_bytes() == outcome.figures["results"].read_bytes()
    table = json.loads((run["files"] / summary["per_query"]["path"]).read_text())
    assert (table["columns"], table["data"]) == (["query", "after"], [["python", 0.25]])
    (said,) = (message for message in caplog.messages if "wandb sync" in message)
    path = Path(said.partition("wandb sync ")[2].strip("'"))
    assert list(path.glob("*.wandb")) == list(folder.glob("wandb/offline-run-*/*.wandb"))
    assert said.endswith("'")  # the path has a space


def test_the_path_to_sync_is_as_short_as_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    tracking.finish(tracking.wandb_logger(tmp_path / "run", **SETTINGS), failed=True)
    assert "wandb sync run/wandb/offline-run-" in caplog.text
    assert read_back(tmp_path / "run")[1]["exit_code"] == 1


def test_a_run_goes_on_under_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    config = OmegaConf.create({**SETTINGS, "id": None})
    for step in (1, 2):
        loggers = tracking.wandb_logger(tmp_path / "run", **config)
        loggers[0].log_metrics({"train/loss": 1.0}, step=step)
        known = tracking.ids(loggers)
        tracking.finish(loggers, failed=step == 1)
        time.sleep(1.1)  # W&B names folders by the second
        tracking.going_on(config, known)
    files = sorted(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))
    assert {file.stem for file in files} == {f"run-{config.id}"}
    assert len(files) == 2
    said = [message for message in caplog.messages if "wandb sync" in message][-1]
    assert said.partition("wandb sync ")[2].split() == [str(file.parent.relative_to(tmp_path)) for file in files]


def test_an_id_that_is_given_stays_and_a_logger_without_one_is_left_alone() -> None:
    config = OmegaConf.create({"id": "mine"})
    tracking.going_on(config, {"wandb": "other"})
    assert config.id == "mine"
    config = OmegaConf.create({"_target_": "csv_logger"})
    tracking.going_on(config, {"wandb": "other"})
    assert "id" not in config
    tracking.going_on(None, {})


def test_key_without_network_costs_no_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
    start = time.perf_counter()
    loggers = tracking.wandb_logger(tmp_path, **SETTINGS)
    assert time.perf_counter() - start < 10
    assert loggers[0].experiment.offline
    tracking.finish(loggers, failed=False)


def test_a_tracker_that_fails_leaves_the_csv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr("wandb.init", broken)
    loggers = tracking.wandb_logger(tmp_path, **SETTINGS)
    assert [type(logger) for logger in loggers] == [History]


def test_each_job_of_one_process_gets_its_own_run(tmp_path: Path) -> None:
    for name, loss in (("first", 1.0), ("second", 2.0)):
        loggers = tracking.wandb_logger(tmp_path / name, **{**SETTINGS, "group": "sweep"})
        assert wandb.run is not None
        loggers[0].log_metrics({"train/loss": loss}, step=1)
        tracking.finish(loggers, failed=False)
        assert wandb.run is None
    (first, first_run), (second, second_run) = (read_back(tmp_path / name) for name in ("first", "second"))
    assert [[row["train/loss"] for row in history] for history in (first, second)] == [[1.0], [2.0]]
    assert first_run["run_id"] != second_run["run_id"]
    assert (first_run["name"], first_run["group"], second_run["name"], second_run["group"]) == (
        ("first", "sweep", "second", "sweep")
    )


def test_a_run_that_somebody_left_open_is_not_continued(tmp_path: Path) -> None:
    left_open = tracking.wandb_logger(tmp_path / "first", **SETTINGS)
    loggers = tracking.wandb_logger(tmp_path / "second", **SETTINGS)
    assert loggers[0].experiment.id != left_open[0].experiment.id
    tracking.finish([*left_open, *loggers], failed=False)


@pytest.mark.parametrize(("name", "group", "expected"), [(None, None, ("0", None)), ("mine", "ours", ("mine", "ours"))])
def test_the_folder_names_the_run_unless_somebody_does(
    name: str | None, group: str | None, expected: tuple[str, str | None], tmp_path: Path
) -> None:
    folder = tmp_path / "0"
    tracking.finish(tracking.wandb_logger(folder, **{**SETTINGS, "name": name, "group": group}), failed=False)
    run = read_back(folder)[1]
    assert (run["name"], run["group"] or None) == expected


def test_a_name_that_is_too_long_is_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("wandb.init", lambda **arguments: asked.update(arguments) or SimpleNamespace())
    tracking.wandb_logger(tmp_path, **{**SETTINGS, "name": "x" * 200})
    assert asked["name"] == "x" * 128


@pytest.mark.parametrize(
    ("mode", "variable", "key", "expected"),
    [
        ("auto", None, True, "online"),
        ("auto", None, False, "offline"),
        ("auto", "offline", True, "offline"),
        ("offline", None, True, "offline"),
        ("offline", "online", True, "offline"),
        ("online", None, True, "online"),
        ("online", None, False, "offline"),  # W&B would ask for a key, or raise
        ("auto", "online", False, "offline"),
        ("auto", "disabled", True, None),
    ],
)
def test_which_mode_is_chosen(
    mode: str,
    variable: str | None,
    key: bool,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    server: str,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "wandb.init", lambda mode, **_: asked.append(mode) or SimpleNamespace(define_metric=lambda *_, **__: 0)
    )
    monkeypatch.setenv("WANDB_BASE_URL", server)
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    loggers = tracking.wandb_logger(tmp_path, **SETTINGS, mode=mode)
    assert asked == ([expected] if expected else [])
    assert isinstance(loggers[0], LenientWandbLogger if expected else History)


def test_a_server_that_refuses_leaves_the_run_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str, caplog: pytest.LogCaptureFixture
) -> None:
    init = wandb.init

    def refusing(mode: str, **arguments: Any) -> Any:
        if mode == "online":
            raise wandb.errors.CommError("go away")
        return init(mode=mode, **arguments)

    monkeypatch.setattr("wandb.init", refusing)
    monkeypatch.setenv("WANDB_BASE_URL", server)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    loggers = tracking.wandb_logger(tmp_path, **SETTINGS)
    assert loggers[0].experiment.offline
    assert "not reachable (go away); keeping the run offline" in caplog.text
    assert not is_reachable(server)  # another job need not find it out
    tracking.finish(loggers, failed=False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"mode": "of"}, "expected logger.mode to be one of auto, online, offline, got 'of'"),
        ({"log_model": "all"}, "expected logger.log_model to be auto, true or false, got 'all'"),
    ],
)
def test_a_misspelt_setting_is_refused(setting: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tracking.wandb_logger(tmp_path, **SETTINGS, **setting)


def test_only_the_first_process_opens_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tracking.rank_zero_only, "rank", 1)
    assert [type(logger) for logger in tracking.wandb_logger(tmp_path, **SETTINGS)] == [History]


def test_a_tracker_that_dies_on_the_way_ends_nothing(
    tmp_path: Path, outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    loggers = tracking.wandb_logger(tmp_path / "first", **SETTINGS)
    loggers[0].log_metrics({"train/loss": 1.0}, step=1)
    for process in psutil.Process().children(recursive=True):
        if process.name() == "wandb-core":
            process.kill()
            process.wait()
    for step in (2, 3):
        loggers[0].log_metrics({"train/loss": 1.0}, step=step)
    loggers[0].log_hyperparams({"seed": 0})
    tracking.log_results(loggers, outcome)
    tracking.log_model(loggers, tmp_path, {})
    tracking.finish(loggers, failed=False)
    assert caplog.text.count("Weights & Biases failed (Connection") == 1
    assert "its own files are complete" in caplog.text

    loggers = tracking.wandb_logger(tmp_path / "second", **SETTINGS)  # the next job of a sweep
    loggers[0].log_metrics({"train/loss": 2.0}, step=1)
    tracking.finish(loggers, failed=False)
    assert [row["train/loss"] for row in read_back(tmp_path / "second")[0]] == [2.0]


class OnlineRun(SimpleNamespace):
    """Stands in for a run with a server; notes the artifacts it is given."""

    def __init__(self) -> None:
        settings = SimpleNamespace(sync_dir="/runs/online-abc")
        super().__init__(id="abc", offline=False, url="https://wandb.example/abc", settings=settings)
        self.artifacts: list[wandb.Artifact] = []
        self.exit_codes: list[int] = []

    def log_artifact(self, artifact: wandb.Artifact) -> None:
        self.artifacts.append(artifact)

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name in ("model.safetensors", "1_Pooling/config.json"):
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("weights")
    return tmp_path / "model"


def test_an_online_run_gets_the_model(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = OnlineRun()
    loggers = [LenientWandbLogger(run, keeps_model=True)]
    tracking.log_model(loggers, model, {"after/ndcg@10": 0.5})
    tracking.finish(loggers, failed=False)
    (artifact,) = run.artifacts
    assert (artifact.type, artifact.name, artifact.metadata) == ("model", "model-abc", {"after/ndcg@10": 0.5})
    entries = artifact.manifest.entries
    assert set(entries) == {"model.safetensors", "1_Pooling/config.json"}
    assert Path(entries["model.safetensors"].local_path) == model / "model.safetensors"  # not copied first
    assert run.exit_codes == [0]
    assert "Weights & Biases: https://wandb.example/abc" in caplog.text


@pytest.mark.parametrize(
    ("error", "warned"), [(TimeoutError("Timed out finishing run."), False), (OSError("gone"), True)]
)
def test_what_could_not_be_uploaded_in_time_is_left_for_later(
    error: Exception, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def unfinished(**_: Any) -> None:
        raise error

    caplog.set_level(logging.INFO)
    run = OnlineRun()
    run.finish = unfinished
    tracking.finish([LenientWandbLogger(run, keeps_model=True)], failed=False)
    assert "got only a part of the run. To upload it: wandb sync /runs/online-abc" in caplog.text
    assert ("Weights & Biases failed" in caplog.text) == warned


def test_a_run_waits_a_minute_for_its_upload_and_says_so_if_that_was_too_short(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("wandb.init", lambda **arguments: asked.update(arguments) or SimpleNamespace())
    tracking.wandb_logger(tmp_path, **SETTINGS)
    settings = asked["settings"]
    assert (settings.finish_timeout, settings.finish_timeout_raises) == (60, True)


@pytest.mark.parametrize(
    ("offline", "keeps_model", "failed"), [(True, True, False), (False, False, False), (False, True, True)]
)
def test_a_model_that_is_not_uploaded(
    offline: bool, keeps_model: bool, failed: bool, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = OnlineRun()
    run.offline = offline
    logger = LenientWandbLogger(run, keeps_model=keeps_model)
    logger.failed = failed
    tracking.log_model([logger], model, {})
    assert run.artifacts == []
    assert (f"is offline, so the model is not copied into it: it is in {model}" in caplog.text) == offline


@pytest.mark.parametrize(("setting", "kept"), [("auto", True), (True, True), (False, False)])
def test_the_setting_says_whether_the_model_is_kept(
    setting: Any, kept: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("wandb.init", lambda **_: SimpleNamespace(define_metric=lambda *_, **__: 0))
    assert tracking.wandb_logger(tmp_path, **SETTINGS, log_model=setting)[0].keeps_model is kept


def test_loggers_without_wandb_take_results_silently(tmp_path: Path, outcome: Outcome) -> None:
    loggers: Sequence[Any] = [*tracking.csv_logger(tmp_path), *tracking.no_logger(tmp_path)]
    tracking.log_results(loggers, outcome)
    tracking.log_model(loggers, tmp_path, {})
    tracking.finish(loggers, failed=True)
    assert os.environ.get("WANDB_API_KEY") is None
