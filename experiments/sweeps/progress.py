"""How a sweep is getting on: a live table on a terminal, a line whenever a job ends elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments.sweeps.jobs import Job, monitored, read_report

POLL_SECONDS = 2.0


class Progress:
    """Shows and counts the jobs of a sweep while they run, in a `with` block.

    Args:
        jobs: All jobs that are to be run.
        finished: Jobs that were finished before.
        console: Where to show it.
    """

    def __init__(self, jobs: Sequence[Job], finished: Sequence[Job], console: Console) -> None:
        self.left = {job.id: job for job in jobs}
        self.failures: dict[str, str] = {}
        self._total = len(jobs)
        self._console = console
        self._best: tuple[float, str] | None = None
        self._started = time.time()
        self._running: list[str] = []
        self._looked = 0.0
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=1, redirect_stderr=False)
        for job in finished:
            self._compare(job)

    def __enter__(self) -> Self:
        """Start to show it."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        if self._console.is_terminal:
            self._live.stop()

    def ended(self, job: Job, error: str | None) -> None:
        """Count a job that finished, or was ended by an error."""
        del self.left[job.id]
        if error is None:
            self._compare(job)
        else:
            self.failures[job.id] = error
        if not self._console.is_terminal:
            how = "done" if error is None else "failed"
            line = f"{self._done()}/{self._total} {how}: {job.label}{self._value(job)}{self._rest()}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _done(self) -> int:
        return self._total - len(self.left)

    def _compare(self, job: Job) -> None:
        name, value = monitored(read_report(job.folder))
        if self._best is None or value > self._best[0]:
            self._best = value, f"{name} {value:.4f} {job.label}"

    def _value(self, job: Job) -> str:
        if job.id in self.failures:
            return ""
        name, value = monitored(read_report(job.folder))
        return f" {name} {value:.4f}"

    def _rest(self) -> str:
        best = f"; best {self._best[1]}" if self._best else ""
        return f"; failed {len(self.failures)}{best}{self._time_left()}"

    def _time_left(self) -> str:
        """Return an estimate from the time that the jobs took so far, with as many at once as there were."""
        if not self._done() or not self.left:
            return ""
        seconds = (time.time() - self._started) / self._done() * len(self.left)
        return f"; about {_duration(seconds)} left"

    def _look(self) -> None:
        """See which jobs are running, by what they have written since the sweep began."""
        if time.time() - self._looked < POLL_SECONDS:
            return
        self._looked = time.time()
        self._running = [job.label for job in list(self.left.values()) if self._is_running(job)]

    def _is_running(self, job: Job) -> bool:
        try:
            written = (job.folder / "metrics.json").stat().st_mtime
        except OSError:
            return False
        return written >= self._started - 1 and read_report(job.folder).get("status") == "running"

    def _table(self) -> Table:
        self._look()
        table = Table.grid(padding=(0, 2))
        waiting = len(self.left) - len(self._running)
        counts = f"{self._done() - len(self.failures)} done, {len(self.failures)} failed, {len(self._running)} running"
        table.add_row("jobs", f"{counts}, {waiting} waiting{self._time_left()}")
        for label in self._running[:8]:
            table.add_row("running", Text(label))  # brackets in a value are no markup
        table.add_row("best", Text(self._best[1] if self._best else "none yet"))
        return table


def _duration(seconds: float) -> str:
    """Return a duration to two digits or so.

    >>> _duration(42), _duration(600), _duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
