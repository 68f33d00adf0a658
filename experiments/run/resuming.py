"""Which run `resume=...` means, and with which configuration it goes on: its own.

`resume=FOLDER` is the run in that folder. `resume=auto` is the latest under `outputs` that is not finished and has the
configuration of the command line, or the one in the folder that `hydra.run.dir` names; without one, a run begins anew.

Nothing heavy is imported here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from experiments.composing import CONFIGS, check_known, quoted
from experiments.results.received import read_config
from experiments.run.identity import identity, moved, resolved
from experiments.run.run_folder import is_running, read_report

log = logging.getLogger(__name__)

OUTPUTS = Path("outputs")
"""Where runs are that are given no folder, see `hydra.run.dir` of `configs/config.yaml`."""

FREE = (
    *("logger", "cache", "trainer.enable_progress_bar", "callbacks.progress", "callbacks.continuation"),
    *("trainer.cached", "encoder.tokens_per_batch", "on_nonfinite"),
)
"""Settings that may be others where a run goes on: who watches, where things are kept, how much memory it takes, and
what becomes of a step that cannot be."""


def located(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which `resume` and `hydra.run.dir` are the folder of the run that is to be continued.

    Without such a run, it is one that begins a run.

    Raises:
        ValueError: If words are not as they should be.
        OSError: If there is no run in the folder.
    """
    wanted = [text for text in arguments if text.startswith("resume=")]
    rest = [text for text in arguments if text not in wanted]
    value = OverridesParser.create().parse_overrides(wanted)[-1].value() if wanted else None
    if value is None:
        return rest
    folder = _latest(rest) if value == "auto" else Path(str(value)).expanduser()
    if folder is None:
        return rest
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"expected resume to be auto or the folder of a run, found no config.yaml in {folder}")
    named = quoted(str(folder.resolve()))
    return [
        *(text for text in rest if not text.startswith("hydra.run.dir=")),
        f"resume={named}",
        f"hydra.run.dir={named}",
    ]


def continued(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of the run in the folder `config.resume`, with what may be set anew.

    Args:
        config: As composed from the command line.
        overrides: Of the command line.

    Raises:
        ValueError: If something else is set that the run does not have; it names it.
    """
    folder = Path(config.resume)
    own, typed = kept_config(folder, str(folder.resolve())), resolved(config, str(folder.resolve()))
    same = identity(_alike(typed, own)) == identity(OmegaConf.create(own))
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        name = str(override.key_or_group)
        before, now = _select(own, name), _select(typed, name)
        if any(name == free or name.startswith(f"{free}.") for free in FREE):
            own = _with(own, name, now)
        elif not (same or name == "resume" or name.startswith("hydra.") or (before == now and before is not None)):
            is_value = not isinstance(before, dict) and not isinstance(now, dict) and before != now
            was = f"{name}={before}, got {now}" if is_value else f"got another {name}"
            raise ValueError(
                f"expected the configuration of the run to continue in {folder}, {was}: what changes the training is a "
                "run of its own"
            )
    return OmegaConf.create({**own, "resume": str(folder.resolve())})


def kept_config(folder: Path, now: str) -> dict[str, Any]:
    """Return the configuration of the run in a folder, with all paths in it as if that were another folder."""
    kept = read_config(folder / "config.yaml")
    moved_config: dict[str, Any] = moved(kept, str(kept.get("folder")), now)
    return moved_config


def is_same_run(folder: Path, config: DictConfig) -> bool:
    """Whether the run in a folder has this configuration, as far as that decides its result."""
    try:
        own = kept_config(folder, "FOLDER")
        return identity(OmegaConf.create(own)) == identity(_alike(resolved(config, "FOLDER"), own))
    except (OSError, ValueError):
        return False


def _latest(arguments: Sequence[str]) -> Path | None:
    """Return the folder of the run that `auto` means, None if there is none."""
    from hydra import compose, initialize_config_dir

    options = [text for text in arguments if text.startswith("-")]
    if options:
        raise ValueError(f"expected name=value beside resume=auto, got {options[0]}; resume=FOLDER takes options")
    given = [text for text in arguments if text.startswith("hydra.run.dir=")]
    if given:
        folder = Path(str(OverridesParser.create().parse_overrides(given)[-1].value()))
        return folder if (folder / "config.yaml").is_file() else None
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", overrides=[text for text in arguments if not text.startswith("hydra.")])
    check_known(config)
    return next((folder for folder in _stopped(OUTPUTS) if is_same_run(folder, config)), None)


def _stopped(outputs: Path) -> Iterator[Path]:
    """Yield the folders of runs that can go on, the latest first."""
    for path in sorted(outputs.glob("*/*/config.yaml"), key=lambda path: path.stat().st_mtime, reverse=True):
        status = str(read_report(path.parent).get("status", ""))
        if not status.startswith(("finished", "pruned")) and not is_running(path.parent):
            yield path.parent


def _alike(typed: dict[str, Any], own: dict[str, Any]) -> DictConfig:
    """Return a configuration in which what was chosen by the device is what a run found."""
    trainer = dict(typed["trainer"])
    if trainer.get("precision") == "auto":
        trainer["precision"] = own["trainer"]["precision"]
    return OmegaConf.create({**typed, "trainer": trainer})


def _select(config: dict[str, Any], name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _with(config: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    first, _, rest = name.partition(".")
    inner = _with(config.get(first) or {}, rest, value) if rest else value
    return {**config, first: inner}
