"""W&B is never asked, never waited for; a run tells its story without it."""

import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from experiments import tracking

SETTINGS = {"project": "test", "name": None, "group": None, "tags": ()}


@pytest.fixture(autouse=True)
def without_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def server() -> str:
    """Address of a socket that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_key_is_found_in_environment_and_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not tracking.has_wandb_key()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert tracking.has_wandb_key()
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert tracking.has_wandb_key()
    (tmp_path / "netrc").write_text("machine elsewhere.example login user password secret\n")
    assert not tracking.has_wandb_key()


def test_server_that_listens_answers_and_another_does_not(server: str) -> None:
    assert tracking.server_answers(server)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert not tracking.server_answers(f"http://127.0.0.1:{port}")


def test_without_key_the_run_is_offline_and_complete(tmp_path: Path) -> None:
    loggers = tracking.wandb_logger(tmp_path, **SETTINGS)
    assert [type(logger) for logger in loggers] == [WandbLogger, CSVLogger]
    run = loggers[0].experiment
    assert run.offline
    loggers[0].log_metrics({"train/loss": 1.0}, step=1)
    tracking.log_results(loggers, {"after/ndcg@10": 0.5}, ["query", "after"], [["python", "developer"]])
    assert run.summary["after/ndcg@10"] == 0.5
    tracking.finish(loggers, failed=False)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert file.stat().st_size > 0


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
    assert [type(logger) for logger in loggers] == [CSVLogger]


def test_each_job_of_one_process_gets_its_own_run(tmp_path: Path) -> None:
    ids = []
    for name in ("first", "second"):
        loggers = tracking.wandb_logger(tmp_path / name, **SETTINGS)
        ids.append(loggers[0].experiment.id)
        assert wandb.run is not None
        tracking.finish(loggers, failed=False)
        assert wandb.run is None
    assert len(set(ids)) == 2


def test_loggers_without_wandb_take_results_silently() -> None:
    tracking.log_results([SimpleNamespace()], {}, [], [])
    tracking.finish([], failed=True)
    assert os.environ.get("WANDB_API_KEY") is None
