"""From a command line to the configuration that a training run composes, and what is wrong with it in plain words."""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, HydraException, InstantiationException, OverrideParseException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from contrastive.data.shown import clean

CONFIGS = Path(__file__).parents[1].resolve() / "configs"

_CONTINUES = re.compile(r"(resume|ckpt|checkpoint)(_|$)|(_|^)(resume|ckpt)")
"""Keys that people expect to continue a training, beside `resume`."""


def compose(*, model: str | None = None, data: str | None = None, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose the configuration of an encoder and a data set.

    Args:
        model: Folder of a run, folder of a model, hub name, or `minilm`; None leaves the default encoder.
        data: A choice of `configs/data`, a folder (in the BEIR layout, or of files of pairs) or a file of pairs; None
            leaves the default.
        overrides: Further values as `name=value`, applied last.

    Raises:
        ValueError: If `data` is none of these, a setting that has no default is not given, or a key is unknown.
        HydraException: If an override is unknown or malformed.
    """
    from hydra import compose as compose_config
    from hydra import initialize_config_dir

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose_config("config", overrides=[*_encoder(model), *_data(data), *overrides])
    check_known(config)
    check_complete(config, "encoder", "data")  # the rest has interpolations that only a run resolves
    return config


def check_complete(config: DictConfig, *parts: str) -> None:
    """Refuse parts of a configuration, or all of it, in which a setting that has no default is not given.

    Raises:
        ValueError: If there is one; it names the first.
    """
    for part in parts or config:
        missing = OmegaConf.missing_keys(config[part]) if isinstance(config[part], DictConfig) else ()
        for name in sorted(missing):
            raise ValueError(f"expected a value for {name}, which has no default: add {name}=...")


def check_known(config: DictConfig) -> None:
    """Refuse what a plus, or a file of one's own, adds to a configuration where nothing reads it.

    A key at the top that other values refer to, as in `+mine=FOLDER encoder.name_or_path=${mine}`, is read by them. The
    keys of what is built from a group are checked by what is built.

    Args:
        config: As composed, with its interpolations.

    Raises:
        ValueError: If there is one; it names the nearest that is known.
    """
    known = _own_keys()
    for name in config:
        if name not in known and not re.search(rf"\$\{{[^}}]*\b{re.escape(str(name))}\b", OmegaConf.to_yaml(config)):
            if _CONTINUES.search(str(name)):
                raise ValueError(f"expected no {name}: resume=FOLDER continues a run, resume=auto the latest")
            raise ValueError(f"there is no {name} to set, nothing reads it{nearest(str(name), known)}")
    for name, inner in known.items():
        for key in config.get(name) or () if inner else ():
            if key not in inner:
                meant = nearest(f"{name}.{key}", [f"{name}.{each}" for each in inner])
                raise ValueError(f"there is no {name}.{key} to set, nothing reads it{meant}")


def takes(node: Any, name: str) -> bool:
    """Whether what is built from a part of a configuration takes an argument of this name."""
    if not isinstance(node, DictConfig):
        return False
    if "_target_" not in node or name in node:
        return True
    parameters = inspect.signature(get_object(node["_target_"]), eval_str=True).parameters.values()
    return any(parameter.name == name or _may_hold(parameter, name) for parameter in parameters)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names what was probably meant, empty if nothing is near."""
    close = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def _may_hold(parameter: inspect.Parameter, name: str) -> bool:
    """Whether a parameter is `**options` and may hold an option of this name: one of its `TypedDict`, if it has one."""
    if parameter.kind is not parameter.VAR_KEYWORD:
        return False
    if typing.get_origin(parameter.annotation) is not typing.Unpack:
        return True
    return name in typing.get_type_hints(typing.get_args(parameter.annotation)[0])


@cache
def _own_keys() -> dict[str, tuple[str, ...]]:
    """Return the keys at the top of a configuration, with those of what `config.yaml` itself holds below them."""
    own: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(CONFIGS / "config.yaml"))  # type: ignore[assignment]
    groups = [group for choice in own.pop("defaults") if isinstance(choice, dict) for group in choice]
    known: dict[str, tuple[str, ...]] = {group: () for group in groups if not group.startswith("override ")}
    return known | {key: tuple(value) if isinstance(value, dict) else () for key, value in own.items()}


MISTAKES = (HydraException, OmegaConfBaseException, ValueError, OSError, ImportError)
"""What is raised while parts are built from what a person typed."""


def said(error: Exception) -> str:
    """Say what is wrong without what Hydra and OmegaConf put around it, or data in it that would control a terminal."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return clean(str(error.__cause__))
    if isinstance(error, OverrideParseException):
        return clean(_malformed(error.override))
    if isinstance(error, OmegaConfBaseException):  # the setting and its type follow on lines of their own
        return clean(str(error)).splitlines()[0]
    return clean(str(error))


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn a mistake inside the block into what Hydra shows in one line, without a traceback."""
    try:
        yield
    except MISTAKES as error:
        raise CompactHydraException(f"error: {said(error)}") from error


def check_overrides(arguments: Iterable[str]) -> None:
    """Refuse words of a command line that are meant as name=value and that Hydra cannot read.

    Raises:
        OverrideParseException: If there is one.
    """
    parser = OverridesParser.create()
    for argument in arguments:
        if "=" in argument and not argument.startswith("-"):
            parser.parse_overrides([argument])


def quoted(value: str) -> str:
    r"""Write a text as Hydra reads it literally, whatever is in it.

    Raises:
        ValueError: If it has a reference to a setting or the environment, which would be looked up time and again.

    Example:
        >>> print(quoted("O'Brien"), quoted("a b"))
        'O\'Brien' 'a b'
    """
    if "${" in value:
        raise ValueError(f"expected no ${{ in a path or a name, since settings take it for a reference, got {value}")
    # Backslashes count only before a quote, and the last one is ours.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def _malformed(override: str) -> str:
    """Say of name=value which Hydra cannot read how it could."""
    name, _, value = override.partition("=")
    value = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    if not re.fullmatch(r"[+~]*[\w./@:]+", name) or "${" in value:
        return f"expected name=value as Hydra reads it, got {override}"
    return (
        f"Hydra cannot read {override}: a value with blanks, brackets, quotes, = or letters other than a to z wants "
        f'quotes of its own, "{name}={quoted(value)}" as you would type it'
    )


def model_folder(model: str) -> str:
    """Return the folder of the model if `model` is that of a run, else `model` as it is."""
    inner = Path(model) / "model"
    return str(inner) if inner.is_dir() else model


def _encoder(model: str | None) -> list[str]:
    if model is None or model == "minilm":
        return []
    return ["encoder=pretrained", f"encoder.name_or_path={quoted(model_folder(model))}"]


def _data(data: str | None) -> list[str]:
    if data is None:
        return []
    path = Path(data)
    if path.is_dir():
        in_beir_layout = (path / "qrels").is_dir() or (path / "corpus.jsonl").is_file()
        return [f"data={'beir' if in_beir_layout else 'files'}", f"data.path={quoted(str(path.resolve()))}"]
    if path.is_file():
        return ["data=files", f"data.path={quoted(str(path.resolve()))}"]
    choices = sorted(config.stem for config in (CONFIGS / "data").glob("*.yaml"))
    if data not in choices:
        raise ValueError(f"expected data to be a file, a folder, or one of {', '.join(choices)}, got {data}")
    return [f"data={data}"]
