"""Train an encoder with a contrastive loss and judge it before and after: `python -m experiments.run loss=infonce`.

Many runs, `-m loss=infonce,triplet seed=0,1,2` or `+sweep=losses`, go to `experiments.sweeps.program`, because Hydra's
own sweeps refuse a value that one choice lacks, stop at the first mistake and start from the beginning each time.

One that was stopped goes on: `resume=auto`, see `experiments.run.resuming`.

Only Hydra is imported at the top, so that `--help` and a misspelt key answer in a second.
"""

import logging
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.cli import WAIT_POLICY, ended
from experiments.composing import MISTAKES, check_known, check_overrides, in_one_line, said
from experiments.run.resuming import continued, located
from experiments.run.run_folder import forget_refused, new_folder


@hydra.main(version_base="1.3", config_path="../../configs", config_name="config")
def main(config: DictConfig) -> float:
    """Run one training job; return the monitored metric."""
    logging.raiseExceptions = False  # else a full disk is a traceback for every line of the log
    command = ["python", "-m", "experiments.run", *HydraConfig.get().overrides.task]
    with ended():
        try:
            with in_one_line():
                check_known(config)
                if config.resume is not None:
                    config = continued(config, HydraConfig.get().overrides.task)
            from experiments.run.training_run import train_and_judge

            return train_and_judge(config, command=command)
        except BaseException:
            forget_refused(Path(config.folder))
            raise


def is_sweep(arguments: list[str]) -> bool:
    """Whether a command line asks for many runs."""
    return any(text in ("-m", "--multirun") or text.lstrip("+").startswith("sweep=") for text in arguments)


if __name__ == "__main__":
    os.environ.setdefault(*WAIT_POLICY)
    if is_sweep(sys.argv[1:]):
        from experiments.sweeps import program

        sys.exit(program.main(sys.argv[1:]))
    try:
        check_overrides(sys.argv[1:])
        sys.argv[1:] = located(sys.argv[1:])  # the processes that Lightning starts get these words too
    except MISTAKES as error:
        sys.exit(f"error: {said(error)}")
    OmegaConf.register_new_resolver("new_folder", new_folder, use_cache=True)
    main()
