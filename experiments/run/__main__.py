"""Train an encoder with a contrastive loss and judge it before and after: `python -m experiments.run loss=infonce`.

Many runs, `-m loss=infonce,triplet seed=0,1,2` or `+sweep=losses`, go to `experiments.sweeps.program`, because Hydra's
own sweeps refuse a value that one choice lacks, stop at the first mistake and start from the beginning each time.

Only Hydra is imported at the top, so that `--help` and a misspelt key answer in a second.
"""

import logging
import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from experiments.composing import check_known, said
from experiments.interruptions import exit_status, interruptible, interruption
from experiments.run.run_folder import new_folder

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by torch on import; steps on shared cores get much faster


@hydra.main(version_base="1.3", config_path="../../configs", config_name="config")
def main(config: DictConfig) -> float:
    """Run one training job; return the monitored metric."""
    logging.raiseExceptions = False  # else a full disk is a traceback for every line of the log
    command = ["python", "-m", "experiments.run", *HydraConfig.get().overrides.task]
    with interruptible():
        try:
            _check(config)
            from experiments.run.training_run import train_and_judge

            return train_and_judge(config, command=command)
        except (KeyboardInterrupt, SystemExit) as error:  # what is kept has been said where it is kept
            interrupted = interruption(error)
            if interrupted is None:
                raise
            logging.getLogger(__name__).warning("interrupted")
            sys.exit(exit_status(interrupted))


def _check(config: DictConfig) -> None:
    try:
        check_known(config)
    except ValueError as error:  # Hydra shows this one without a traceback
        raise CompactHydraException(f"error: {said(error)}") from error


def is_sweep(arguments: list[str]) -> bool:
    """Whether a command line asks for many runs."""
    return any(text in ("-m", "--multirun") or text.lstrip("+").startswith("sweep=") for text in arguments)


if __name__ == "__main__":
    if is_sweep(sys.argv[1:]):
        from experiments.sweeps import program

        sys.exit(program.main(sys.argv[1:]))
    from experiments.composing import MISTAKES, check_overrides

    try:
        check_overrides(sys.argv[1:])
    except MISTAKES as error:
        sys.exit(f"error: {said(error)}")
    OmegaConf.register_new_resolver("new_folder", new_folder, use_cache=True)
    main()
