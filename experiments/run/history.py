"""The history of a run as a CSV file: a row for each time something was logged, which a continued run goes on with."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from contrastive.data.whole_files import whole_file

HISTORY = "history"
"""The folder of the file, in that of the run."""


class History(CSVLogger):
    """Lightning's logger into `history/metrics.csv`, of which a run that is continued keeps a part.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name=HISTORY, version="", flush_logs_every_n_steps=1)

    @property
    def experiment(self) -> Any:
        """What writes; made when it is first asked for."""
        if rank_zero_only.rank:
            return super().experiment
        if self._experiment is None:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _Rows(self.log_dir)
        return self._experiment

    @property
    def rows(self) -> int:
        """Rows that were written, and are on the disk by now."""
        return 0 if rank_zero_only.rank else self.experiment.synced()

    def keep(self, rows: int) -> None:
        """Go on after so many rows of a file that is there; without this, it is begun anew.

        Raises:
            ValueError: If it has fewer.
        """
        self.experiment.keep(rows)


class _Rows(ExperimentWriter):
    """Writes rows as Lightning does, except that what is there is never half deleted.

    Args:
        log_dir: The folder.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.path = Path(self.metrics_file_path)
        self._begun = False
        self._written = 0

    def keep(self, rows: int) -> None:
        """Keep the first rows of the file."""
        if rows:
            names, kept = self._read()
            if len(kept) < rows:
                raise ValueError(f"expected {rows} rows in {self.path}, got {len(kept)}")
            self.metrics_keys = names
            self._write(kept[:rows])
            self._begun, self._written = True, rows

    def save(self) -> None:
        """Write the rows that are new."""
        if self.metrics and not self._begun:
            self.path.unlink(missing_ok=True)
            self._begun = True
        self._written += len(self.metrics)
        super().save()

    def synced(self) -> int:
        """Wait until all rows are on the disk; return how many there are."""
        if self._written:
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        return self._written

    def _read(self) -> tuple[list[str], list[dict[str, Any]]]:
        if not self.path.exists():
            return [], []
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or ()), list(reader)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:  # noqa: ARG002  # Lightning's, `metrics_keys`
        self._write(self._read()[1])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with whole_file(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys, restval="")
            writer.writeheader()
            writer.writerows(rows)

    def _check_log_dir_exists(self) -> None:
        """Leave the rows that are there until it is known whether they go on."""
