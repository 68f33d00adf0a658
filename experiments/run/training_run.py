"""One training job, from a composed configuration to a folder of results.

The order is chosen so that a mistake costs seconds: everything is built and checked first, the baselines are judged and
written next, and only then does training start. Whatever ends the run early finds what was finished on disk, and a run
that goes on reads it back.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning
from hydra.errors import CompactHydraException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf

from contrastive.data.whole_files import disk_is_full
from contrastive.evaluation import Hybrid
from contrastive.evaluation.hybrid_file import WORDS
from experiments.composing import check_complete, in_one_line, said
from experiments.evaluate.baselines import WORD_MATCHING
from experiments.evaluate.hybrids import judge_hybrid
from experiments.evaluate.judging import Judgement, gain, judge_bm25, judge_encoder
from experiments.results import files as results
from experiments.run.best_weights import train_and_keep_best
from experiments.run.callbacks import NotWorthFinishing
from experiments.run.checkpoints import newest
from experiments.run.dev_lines import dev_means, draw_lines
from experiments.run.earlier import read_judgement, taken_up, write_judgement
from experiments.run.hybrid import leave_hybrid
from experiments.run.parts import Parts, build
from experiments.run.ranks import is_first, take_part
from experiments.run.report import described, opening, present, timed
from experiments.run.run_folder import RunFolder, claimed, monitored, read_report
from experiments.run.tracking import finish, going_on

log = logging.getLogger(__name__)


def train_and_judge(
    config: DictConfig, *, command: Sequence[str] | None = None, callbacks: Sequence[Callback] = ()
) -> float:
    """Run the job; return the monitored metric, or the final nDCG@10 if nothing was monitored.

    Args:
        config: What to run; with `resume`, to go on with in its folder.
        command: The words of the command that runs it, for the record; None if there is none.
        callbacks: For the trainer, beside those of the configuration.

    Raises:
        CompactHydraException: If the parts cannot be built from the configuration; it says why.
    """
    first = is_first(config.trainer)
    _quiet(first)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    goes_on, config.resume = bool(config.resume), None
    report: dict[str, Any] = {"status": "running"}
    trackers: list[Any] = []
    with ExitStack() as held:
        folder = RunFolder(Path(config.folder), writes=False)  # until it is known that it may be had
        try:
            with in_one_line():
                folder = held.enter_context(claimed(folder.path, writes=first))
                check_complete(config)
                checkpoint = newest(folder.checkpoints) if goes_on else None
                parts = build(config, folder.path, callbacks, checkpoint)
                if goes_on:
                    going_on(config.logger, read_report(folder.path))
                trackers += instantiate(config.logger, folder=folder.path)  # last: nobody is to track a refused run
            parts.trainer.loggers = trackers
            if not first:
                take_part(parts)
                return 0.0
            report |= opening(config, parts, command)
            if goes_on:
                with in_one_line():
                    report |= taken_up(folder, parts, report, command)
            folder.start(OmegaConf.to_yaml(config, resolve=True), report, anew=not goes_on)
            return _run(config, folder, parts, report)
        except BaseException as error:
            if report["status"] != "finished":  # what fails after that is how it is shown
                report["status"] = _ending(error)
            if folder.started:
                log.warning("\nThe run was stopped (%s). What was finished is in %s", report["status"], folder.path)
            folder.write_ending(report)
            if disk_is_full(error):
                raise CompactHydraException(f"error: {said(error)}; the run is in {folder.path}") from error
            raise
        finally:
            finish(trackers, failed=not report["status"].startswith(("finished", "pruned")))


def _run(config: DictConfig, folder: RunFolder, parts: Parts, report: dict[str, Any]) -> float:
    """Judge the baselines, train, judge again, and show; return what the run is judged by."""
    judged: dict[str, Judgement] = {}
    hybrid: Hybrid | None = None

    def judge(name: str) -> None:
        if name in report["systems"]:
            judged[name] = read_judgement(folder, name)
            return
        log.info("Judging %s on %s", name, described(parts.task))
        with timed(report, f"judge {name}"):
            if name in WORD_MATCHING:
                kept = parts.cache.folder if parts.cache else None
                judged[name] = judge_bm25(parts.task, config.query, spelling=WORD_MATCHING[name], cache=kept)
            elif name == "hybrid" and hybrid is not None:
                judged[name] = judge_hybrid(hybrid, judged[WORDS], judged["after"], parts.task, config.query)
            else:
                encoder = parts.encoder.to(parts.trainer.strategy.root_device)  # Lightning puts it back on the CPU
                bm25 = judged["BM25"].rankings
                judged[name] = judge_encoder(encoder, parts.task, bm25, config.query, cache=parts.cache)
            results.write_system(folder.path, name, judged[name].rankings, judged[name].results)
        if name in (*WORD_MATCHING, "before"):
            write_judgement(folder, name, judged[name])
        report["systems"][name] = judged[name].summary()
        folder.write_report(report)

    results.write_queries(folder.path / "queries.csv", parts.task)
    for name in WORD_MATCHING:
        judge(name)
    if config.before:
        judge("before")
    if "dev" not in report:
        with timed(report, "validate before training"):
            report["dev"] = dev_means(parts, config.query, judged)
        folder.write_report(report)
    draw_lines(parts, report["dev"])
    train_and_keep_best(folder.path, parts, report)
    judge("after")
    if config.before:
        report["gain"] = gain(judged["before"], judged["after"])
    with timed(report, "fit hybrid"):
        hybrid = leave_hybrid(folder.path, parts, config.query, judged, report)
    if hybrid is not None:
        judge("hybrid")
    report["status"] = "finished"
    folder.write_report(report)
    folder.forget()
    present(config, folder.path, parts, judged, report)
    return monitored(report)[1]


def _ending(error: BaseException) -> str:
    """Return the status of a run that something ended."""
    if isinstance(error, NotWorthFinishing):
        return f"pruned: {error}"
    if isinstance(error, KeyboardInterrupt | SystemExit):  # Lightning turns Ctrl-C into SystemExit
        return "interrupted"
    if isinstance(error, CompactHydraException):
        return f"failed: {str(error).removeprefix('error: ')}"
    return f"failed: {type(error).__name__}: {error}"


def _quiet(first: bool) -> None:
    """Keep out of the terminal what nobody can act on: lines of Lightning's, and what the first process says anyway."""
    if not first:
        logging.disable(logging.WARNING)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # the momentum encoder
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
