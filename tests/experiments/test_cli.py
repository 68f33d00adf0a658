"""How a program starts and ends."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import cli

ROOT = Path(__file__).parents[2]
PROGRAMS = ("compare", "data", "evaluate", "mine", "model_card", "push", "run", "search", "tune")
LIGHT = """
import sys, importlib
for name in sys.argv[1:]:
    importlib.import_module(f"experiments.{name}.__main__")
import experiments.sweeps.program
print(*sorted(sys.modules))
"""


def test_help_answers_without_loading_torch() -> None:
    """All that `--help` needs of a program is its module, and of the sweeps theirs."""
    answer = subprocess.run([sys.executable, "-c", LIGHT, *PROGRAMS], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    modules = set(answer.stdout.split())
    assert "hydra" in modules
    heavy = {"torch", "numpy", "lightning", "transformers", "wandb", "optuna", "huggingface_hub", "matplotlib"}
    assert not modules & heavy


def test_help_of_a_run_shows_commands() -> None:
    command = [sys.executable, "-m", "experiments.run", "--help"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "python -m experiments.run loss=infonce" in answer.stdout


def started(error: BaseException) -> None:
    """Start a program that is ended by an error."""

    def work(_: argparse.Namespace) -> None:
        raise error

    cli.start(work, argparse.Namespace())


def test_a_program_returns_what_it_is_for() -> None:
    assert cli.start(lambda options: options.count + 1, argparse.Namespace(count=1)) == 2


def test_a_mistake_is_one_line_and_nothing_else_is_a_mistake() -> None:
    with pytest.raises(SystemExit, match=r"^error: expected more$"):
        started(ValueError("expected \x1b[31mmore"))
    with pytest.raises(ZeroDivisionError):
        started(ZeroDivisionError())
    with pytest.raises(SystemExit, match="its own words"):
        started(SystemExit("its own words"))


def test_what_interrupts_a_program_is_its_exit_status(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        started(KeyboardInterrupt())
    assert stopped.value.code == 130

    def work(_: argparse.Namespace) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    with pytest.raises(SystemExit) as stopped:
        cli.start(work, argparse.Namespace())
    assert stopped.value.code == 143
    assert caplog.messages == ["interrupted"] * 2


def test_torch_is_told_how_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    name, policy = cli.WAIT_POLICY
    monkeypatch.delenv(name)
    assert cli.start(lambda _: os.environ[name], argparse.Namespace()) == policy
    monkeypatch.setenv(name, "ACTIVE")
    assert cli.start(lambda _: os.environ[name], argparse.Namespace()) == "ACTIVE"


def test_a_device_that_is_not_there_is_refused() -> None:
    import torch

    with pytest.raises(ValueError, match="expected a device that torch has here, got 'abacus'"):
        cli.on_device(torch.nn.Linear(1, 1), "abacus")
