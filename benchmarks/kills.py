"""Kill tiny runs at random and continue them: `python -m benchmarks.kills --kills 50`.

Each trial begins a run in a process of its own, which is ended by SIGKILL, SIGTERM or Ctrl-C: after a random time, at a
batch (in the middle of accumulation too), in a validation, or half way through writing a checkpoint. It is continued in
another process, which may be ended once more, and what it leaves is compared with what a run leaves that nobody
stopped: weights, optimiser, schedule, queue, average, negatives, clusters, random numbers, history, batches in their
order, the saved model and the final numbers. All have to be the same bit for bit; only times may differ.

*Lost* is a run that cannot be continued or does not finish, *different* one with anything that is not the same. The
libraries are imported once, processes are forks, and no figures are drawn.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import string
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from experiments.cli import WAIT_POLICY, ended

os.environ.setdefault(*WAIT_POLICY)

import lightning
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback

from benchmarks.machine import machine
from experiments.composing import CONFIGS
from experiments.results.files import write_json
from experiments.run import checkpoints, training_run
from experiments.run.run_folder import read_report

RUNS = {
    "plain": ["trainer.max_epochs=3", "callbacks.early_stopping.patience=2", "optimizer.learning_rate=1e-2"],
    "queue": ["memory=queue", "memory.size=20", "memory.momentum=0.9", "trainer.accumulate_grad_batches=2"],
    "refresh": ["negatives=refresh", "negatives.every_n_epochs=null", "negatives.every_n_steps=3", "negatives.count=2"],
    "clusters": ["batches.clusters=3", "trainer.log_every_n_steps=3"],
    "average": ["callbacks=average"],
    "tokens": [
        "encoder=tokens",
        "encoder.max_length=64",
        "memory=queue",
        "memory.size=10",
        "trainer.accumulate_grad_batches=3",
    ],
}
"""What each run has beside dropout, four validations an epoch, early stopping and a hybrid."""

SMALL = ["data.train_pairs=30", "data.dev_queries=4", "data.test_queries=4", "batch_size=4", "trainer.max_epochs=2"]
SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
"""How a run may be ended, and the exit status that it is to have."""

NOT_COMPARED = ("seconds", "folder", "pytorch-lightning_version", "loops")
save = torch.save
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Kill:
    """When a run is ended, and how: at the n-th batch, validation or checkpoint, or after a time."""

    where: str
    at: float
    number: int

    @classmethod
    def drawn(cls, random_: random.Random, seconds: float) -> Kill:
        """Draw one for a run that takes so many seconds."""
        where = random_.choice(["time", "batch", "batch", "validation", "write"])
        at = (
            random_.uniform(0, seconds)
            if where == "time"
            else random_.randrange(1, {"batch": 14, "write": 7}.get(where, 6))
        )
        return cls(where, at, random_.choice(list(SIGNALS)))


class Killer(Callback):
    """Ends its process where it is told to."""

    def __init__(self, kill: Kill) -> None:
        self.kill = kill
        self.seen: Counter[str] = Counter()

    def passes(self, where: str) -> None:
        """End the process, if this is the place."""
        self.seen[where] += 1
        if where == self.kill.where and self.seen[where] == self.kill.at:
            os.kill(os.getpid(), self.kill.number)

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Be in the middle of a step."""
        self.passes("batch")

    def on_validation_batch_end(self, *_: Any) -> None:
        """Be in the middle of a validation."""
        self.passes("validation")


class Witness(Callback):
    """Writes down the texts of every batch, and all that a checkpoint holds at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: lightning.Trainer, _: Any, batch: Any, batch_idx: int) -> None:
        """Note a batch."""
        with (self.folder / "batches.jsonl").open("a") as file:
            texts = [batch.queries, batch.documents]
            file.write(json.dumps([f"{trainer.current_epoch} {batch_idx}", texts]) + "\n")

    def on_train_end(self, trainer: lightning.Trainer, _: Any) -> None:
        """Keep the end of the training."""
        save(trainer._checkpoint_connector.dump_checkpoint(), self.folder / "end.pt")


def run(folder: Path, overrides: Sequence[str], kill: Kill | None, log: Path) -> int:
    """Run, or go on with what is in the folder, in another process, and end it; return its exit status."""
    child = os.fork()
    if child == 0:
        with log.open("ab") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os._exit(_status(lambda: _train(folder, overrides, kill)))
    if kill is not None and kill.where == "time":
        time.sleep(kill.at)
        if os.waitpid(child, os.WNOHANG) == (0, 0):
            os.kill(child, kill.number)
        else:
            return 0
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _status(work: Callable[[], object]) -> int:
    import traceback

    try:
        with ended():
            work()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _train(folder: Path, overrides: Sequence[str], kill: Kill | None) -> None:
    goes_on = [f"resume={folder}"] if (folder / "config.yaml").exists() else []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", overrides=[f"folder={folder}", *SMALL, *overrides, *goes_on])
    folder.mkdir(exist_ok=True)
    training_run.present = lambda *_: None
    callbacks: list[Callback] = [Witness(folder)]
    if kill is not None:
        killer = Killer(kill)
        callbacks.append(killer)

        def half(checkpoint: Any, file: Any) -> None:
            file.write(b"half of it")
            killer.passes("write")
            file.seek(0)
            save(checkpoint, file)

        checkpoints.torch.save = half  # type: ignore[attr-defined]
    training_run.train_and_judge(config, callbacks=callbacks)


def left(folder: Path) -> dict[str, Any]:
    """Return all that a finished run left, but for times."""
    report = read_report(folder)
    lines = [json.loads(line) for line in (folder / "batches.jsonl").read_text().splitlines()]
    with (folder / "history" / "metrics.csv").open(newline="") as file:
        history = [{name: value for name, value in row.items() if "second" not in name} for row in csv.DictReader(file)]
    return {
        "end": torch.load(folder / "end.pt", weights_only=True),
        "batches": dict(lines),  # those that came again take the place of those that were lost
        "history": history,
        "model": {path.name: path.read_bytes() for path in (folder / "model").iterdir() if path.is_file()},
        "report": {name: report[name] for name in ("status", "systems", "dev", "monitored", "gain", "hybrid")},
        "files": sorted(path.name for path in (folder / "checkpoints").iterdir()),
    }


def difference(found: Any, expected: Any, name: str = "") -> str:
    """Return the name of the first thing that is not the same, empty if all is."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if found.keys() != expected.keys():
            return f"{name}: {sorted(map(str, found.keys() ^ expected.keys()))}"
        inner = (key for key in expected if key not in NOT_COMPARED)
        return next((told for key in inner if (told := difference(found[key], expected[key], f"{name}.{key}"))), "")
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        if len(found) != len(expected):
            return f"{name}: {len(found)} in place of {len(expected)}"
        pairs = enumerate(zip(found, expected, strict=True))
        return next((told for place, (a, b) in pairs if (told := difference(a, b, f"{name}.{place}"))), "")
    if isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        same = torch.equal(found, expected)
    else:
        same = found is expected or found == expected
    return "" if same else f"{name}: {str(found)[:80]} in place of {str(expected)[:80]}"


def tiny_model(folder: Path) -> Path:
    """Write a random BERT of width 32 with dropout, and return its folder."""
    from transformers import BertConfig, BertModel, BertTokenizer

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase, *string.digits]
    pieces += [f"##{piece}" for piece in (*string.ascii_lowercase, *string.digits)]
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab={piece: place for place, piece in enumerate(pieces)}, model_max_length=64).save_pretrained(
        folder
    )
    return folder


def trial(
    folder: Path, overrides: Sequence[str], expected: Any, seconds: float, random_: random.Random, log: Path
) -> dict[str, Any]:
    """Begin a run, end it once or twice, let it finish, and compare."""
    shutil.rmtree(folder, ignore_errors=True)
    interval = random_.choice([0.0, 0.0, 0.3])
    overrides = [*overrides, f"callbacks.continuation.seconds={interval}"]
    kills, statuses = [Kill.drawn(random_, seconds) for _ in range(random_.choice([1, 1, 2]))], []
    for kill in kills:
        if read_report(folder).get("status") != "finished":  # the place was not reached
            statuses.append(run(folder, overrides, kill, log))
    last = run(folder, overrides, None, log) if read_report(folder).get("status") != "finished" else 0
    told = {"kills": [asdict(kill) for kill in kills], "statuses": statuses, "interval": interval}
    wrong = [
        status
        for kill, status in zip(kills, statuses, strict=False)
        if status not in (0, SIGNALS[signal.Signals(kill.number)])
    ]
    if last or read_report(folder).get("status") != "finished":
        return {**told, "outcome": "lost", "why": f"exit status {last}"}
    why = difference(left(folder), expected) or (f"exit status {wrong[0]}" if wrong else "")
    return {**told, "outcome": "different" if why else "same", "why": why}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trials, print what came of each, and keep the counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="how many runs (%(default)s)")
    parser.add_argument("--runs", nargs="*", default=list(RUNS), choices=list(RUNS), help="which (all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=RESULTS / "kills.json", help="where the counts go (%(default)s)")
    options = parser.parse_args(arguments)
    random_, trials = random.Random(options.seed), []
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        common = ["logger=csv", f"cache={root / 'cache'}", "trainer.enable_progress_bar=false"]
        model, straight = tiny_model(root / "tiny"), {}
        for name in options.runs:
            own = [*RUNS[name], *common, f"encoder.name_or_path={model}"]
            own = own if "encoder=tokens" in own else ["encoder=pretrained", *own]
            began = time.monotonic()
            if status := run(root / "run", own, None, root / "log"):
                sys.exit(f"{name} ends with exit status {status}:\n{(root / 'log').read_text()[-2000:]}")
            straight[name] = own, left(root / "run"), time.monotonic() - began
            print(f"{name}: {straight[name][2]:.1f} s", flush=True)
            shutil.rmtree(root / "run")
        for place in range(options.kills):
            name = options.runs[place % len(options.runs)]
            own, expected, seconds = straight[name]
            trials.append({"run": name, **trial(root / "run", own, expected, seconds, random_, root / "log")})
            print(json.dumps(trials[-1]), flush=True)
            if trials[-1]["outcome"] == "lost":
                print((root / "log").read_text()[-2000:], flush=True)
    outcomes = Counter(each["outcome"] for each in trials)
    counts = {"runs": len(trials), "kills": sum(status != 0 for each in trials for status in each["statuses"])}
    counts |= {name: outcomes[name] for name in ("lost", "different", "same")}
    write_json(options.keep, {**machine(), "date": date.today().isoformat(), **counts, "trials": trials})
    print(counts)
    return 1 if outcomes["lost"] or outcomes["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
