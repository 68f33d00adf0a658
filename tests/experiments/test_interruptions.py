"""Signals that end a program are raised where Ctrl-C would be, and processes end with the one that started them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import cast

import pytest

from experiments import interruptions
from experiments.interruptions import Interrupted, Postponed, end_with_parent, exit_status, interruptible, interruption
from experiments.sweeps import worker
from experiments.sweeps.jobs import Job

ROOT = Path(__file__).parents[2]
SIGNALS = [(signal.SIGTERM, 143), (signal.SIGHUP, 129)]


def receive(number: int) -> None:
    """Be sent a signal."""
    os.kill(os.getpid(), number)
    time.sleep(5)


ORPHAN = """
import os, sys, time
from experiments.interruptions import end_with_parent
if os.fork():
    time.sleep(0.3)
    os._exit(0)
parent = os.getppid()
end_with_parent(parent)
os.write(1, f"{os.getpid()}\\n".encode())
time.sleep(30)
"""


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_is_raised_where_the_program_is(number: int, status: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as raised, interruptible():
        receive(number)
    assert exit_status(raised.value) == status
    assert signal.getsignal(number) == before


def test_only_the_first_is_heard() -> None:
    written = []

    def work() -> None:
        try:
            receive(signal.SIGHUP)
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), number)
            written.append("where it is")

    with pytest.raises(Interrupted, match="SIGHUP"), interruptible():
        work()
    assert written


def test_what_ignores_a_signal_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    except KeyboardInterrupt:
        pytest.fail("it was heard")
    else:
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_is_left_alone() -> None:
    entered = []

    def enter() -> None:
        with interruptible():
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGTERM)]


def test_what_takes_too_long_to_end_is_ended() -> None:
    rung: list[int] = []

    def work() -> None:
        try:
            receive(signal.SIGTERM)
        finally:
            time.sleep(0.2)

    before = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    try:
        with pytest.raises(Interrupted), interruptible(grace=0.05):
            work()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung == [signal.SIGALRM]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_interruption_is_found_behind_what_it_was_turned_into() -> None:
    try:
        try:
            raise Interrupted(signal.SIGTERM)
        except KeyboardInterrupt:
            sys.exit(1)  # as Lightning does
    except SystemExit as error:
        found = interruption(error)
    assert isinstance(found, Interrupted)
    assert exit_status(found) == 143
    assert interruption(SystemExit(1)) is None
    assert interruption(None) is None


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_what_a_job_was_ended_by_is_what_its_sweep_ends_by(
    number: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "run_job", lambda *_, **__: receive(number))
    with pytest.raises(KeyboardInterrupt) as ended:
        worker.attempt(cast(Job, None), directory=tmp_path)
    assert exit_status(ended.value) == status
    assert exit_status(pickle.loads(pickle.dumps(ended.value))) == status  # as it comes back from a worker


@pytest.mark.skipif("not sys.platform.startswith('linux')")
def test_a_process_is_told_when_its_parent_is_gone() -> None:
    """The interpreter forks: the child asks to end with its parent, which then ends without a word."""
    began = time.monotonic()
    answer = subprocess.run([sys.executable, "-c", ORPHAN], cwd=ROOT, capture_output=True, text=True)
    assert int(answer.stdout) > 0
    assert time.monotonic() - began < 15  # the child has closed its end of the pipe


def test_where_no_kernel_tells_a_thread_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(interruptions._watch, "__defaults__", (0.05,))
    parents = iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents, 1))

    def work() -> None:
        end_with_parent(7)
        time.sleep(5)

    with pytest.raises(Interrupted, match="SIGTERM"), interruptible():
        work()


@pytest.fixture
def postponed() -> Iterator[Postponed]:
    """What holds signals back from a listener that notes them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with interruptible():
        held = Postponed(60)
        held.begin()
        yield held
        held.end()
    for number, listener in before.items():
        signal.signal(number, listener)


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_waits_until_it_is_heeded(postponed: Postponed, number: int, status: int) -> None:
    postponed.heed()
    os.kill(os.getpid(), number)
    assert postponed.asked == number
    with pytest.raises(KeyboardInterrupt) as raised:
        postponed.heed()
    assert exit_status(raised.value) == status
    with pytest.raises(KeyboardInterrupt):
        receive(signal.SIGINT)  # nothing is held back now


def test_the_second_signal_does_not_wait(postponed: Postponed) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as raised:
        receive(signal.SIGINT)
    assert exit_status(raised.value) == 130
    assert postponed.asked is None


def test_no_signal_waits_for_ever(postponed: Postponed) -> None:
    postponed.seconds = 0.05
    with pytest.raises(KeyboardInterrupt) as raised:
        receive(signal.SIGTERM)
    assert exit_status(raised.value) == 143


def test_a_process_ends_with_another_that_was_asked(postponed: Postponed) -> None:
    with pytest.raises(KeyboardInterrupt) as raised:
        postponed.heed(signal.SIGTERM)
    assert exit_status(raised.value) == 143


def test_what_is_ignored_stays_ignored_and_what_ends_hears_no_more() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    held = Postponed(60)
    held.begin()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) == held._hear
    held.end()
    assert signal.getsignal(signal.SIGTERM) != held._hear
    signal.signal(signal.SIGHUP, before)
