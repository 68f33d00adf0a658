"""Publish a trained model on the Hugging Face hub: `python -m experiments.push outputs/... --repo-id org/name`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.data.shown import clean
from experiments import cli

if TYPE_CHECKING:  # --help answers without the client
    from huggingface_hub import CommitOperationAdd

USAGE = """\
examples:
  python -m experiments.push outputs/2026-11-23/10-00-00-infonce --repo-id me/job-search --dry-run
  python -m experiments.push outputs/2026-11-23/10-00-00-infonce --repo-id me/job-search --private
  python -m experiments.push outputs/2026-11-23/10-00-00-infonce --repo-id me/job-search --licence apache-2.0

The model, a card made for this repository, and the run's metrics and configuration (in training/, without paths of this
machine) are uploaded in one commit; checkpoints, rankings, logs and files that are no part of a model are not. Log in
first: hf auth login, or HF_TOKEN.
"""
FOLDERS = ("query", "document", "adapter", "[0-9]*_*")
"""Folders of a model, one inside another: towers, adapters, modules of sentence-transformers."""

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "adapter_model.safetensors", "model.safetensors.index.json")
SETTINGS = (
    *("config.json", "generation_config.json", "adapter_config.json", "two_towers.json", "hybrid.json"),
    *("modules.json", "config_sentence_transformers.json", "sentence_*config.json"),
)
TOKENIZER = (
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab*.json", "vocab*.txt", "merges.txt"),
    *("*.model", "*.tiktoken", "bpe.codes", "dict.txt", "entity_vocab.json", "word_shape.json"),
    *("word_pronunciation.json", "chat_template.jinja"),
)
TEXTS = ("README.md", "LICENSE", "LICENSE.*", "LICENCE", "LICENCE.*", "NOTICE")
FILES = (*WEIGHTS, *SETTINGS, *TOKENIZER, *TEXTS)
"""Names of the files of a model; nothing else is uploaded."""


def main(arguments: list[str] | None = None) -> None:
    """Publish one model, or show what would be."""
    cli.start(publish, parser().parse_args(arguments))


def publish(options: argparse.Namespace) -> None:
    """Publish, and say what the hub refuses."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    lost = f"Nothing is lost: the model is in {options.run}; the same command tries again"
    try:
        push(options)
    except HfHubHTTPError as error:
        sys.exit(f"error: {refusal(error, options.repo_id)}. {lost}")
    except OfflineModeIsEnabled:
        sys.exit(f"error: HF_HUB_OFFLINE is set, so the hub was not asked; unset it to publish. {lost}")
    except HTTPError as error:
        sys.exit(f"error: the hub cannot be reached ({type(error).__name__}: {error}). {lost}")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    description = "Publish the model of a finished run, with its card, on the Hugging Face hub."
    described = cli.parser("push", description, USAGE)
    described.add_argument("run", type=Path, help="folder of a finished run, or of a model")
    described.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="the repository, made if it is new")
    described.add_argument("--private", action="store_true", help="make a new repository private")
    described.add_argument("--branch", default=None, help="branch to commit to, made if it is new (main)")
    described.add_argument("--message", default="Upload the model", help="commit message (%(default)s)")
    described.add_argument("--licence", default=None, metavar="ID", help="as the hub names it (the base model's)")
    described.add_argument("--dry-run", action="store_true", help="show files and card, send nothing")
    return described


def push(options: argparse.Namespace) -> None:
    """Collect what is to be uploaded, then upload it or show it.

    Raises:
        ValueError: If the name is no repository's, the run is not finished, or there is no token.
        FileNotFoundError: If the folder is neither a run's nor a model's.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.utils import validate_repo_id

    if options.repo_id.count("/") != 1:
        raise ValueError(f"expected --repo-id as org/name, got {options.repo_id!r}")
    validate_repo_id(options.repo_id)
    files = collect(options.run, options.repo_id, options.licence)
    additions = [CommitOperationAdd(path, content) for path, content in files.items()]
    total = sum(addition.upload_info.size for addition in additions) / 1e6
    if options.dry_run:
        show(additions)
        print(f"{total:.1f} MB for {options.repo_id}; nothing was sent")
        return
    if get_token() is None:
        raise ValueError("expected a token of the hub: log in with `hf auth login`, or set HF_TOKEN. Nothing was sent")
    api = HfApi()
    url = api.create_repo(options.repo_id, private=options.private or None, exist_ok=True)
    if options.branch is not None:
        api.create_branch(options.repo_id, branch=options.branch, exist_ok=True)
    api.create_commit(options.repo_id, additions, commit_message=options.message, revision=options.branch)
    print(f"{total:.1f} MB uploaded to {url}")


def show(additions: Sequence[CommitOperationAdd]) -> None:
    """Print the card, if there is one, and every file with its size."""
    for addition in additions:
        if addition.path_in_repo == "README.md":
            with addition.as_file() as card:
                print(clean(card.read().decode()))
    for addition in additions:
        print(f"{addition.upload_info.size / 1e6:10.3f} MB  {clean(addition.path_in_repo)}")


def collect(folder: Path, repo_id: str, licence: str | None) -> dict[str, Path | bytes]:
    """Return what is to be uploaded by its path in the repository: files of the model, and texts made for it.

    A model that no run belongs to is taken as it is, with the card it has.

    Raises:
        ValueError: If the run is not finished, a licence is given for a model that no run belongs to, or a link leads
            out of the folder.
        FileNotFoundError: If the folder is neither a run's nor a model's.
    """
    folder = folder.resolve()
    run = folder.parent if folder.name == "model" else folder
    if (run / "metrics.json").is_file():
        for path in (run / "metrics.json", run / "config.yaml", run / "model"):
            check_inside(path, run)
        model = model_files(run / "model")
        return {**model, **made_files(run, model, repo_id, licence)}
    if not any((folder / name).is_file() for name in ("config.json", "modules.json", "two_towers.json")):
        raise FileNotFoundError(f"expected the folder of a finished run or of a model, found neither in {folder}")
    if licence is not None:
        raise ValueError(f"expected --licence with a run; state that of a model without one in {folder / 'README.md'}")
    return dict(model_files(folder))


def model_files(model: Path) -> dict[str, Path]:
    """Return the files of a model by their paths in the repository, and say which files of the folder are none.

    Raises:
        ValueError: If a link leads out of the folder.
    """
    files: dict[str, Path] = {}
    others: list[str] = []

    def take(folder: Path, above: Sequence[Path]) -> None:
        for path in sorted(folder.iterdir()):
            if _is_like(path, FILES) and path.is_file():
                check_inside(path, model)
                files[path.relative_to(model).as_posix()] = path
            elif _is_like(path, FOLDERS) and path.is_dir() and path.resolve() not in above:
                check_inside(path, model)
                take(path, [*above, path.resolve()])
            else:
                others.append(path.relative_to(model).as_posix())

    take(model, [model.resolve()])
    if others:
        print(f"left out, no part of a model: {clean(', '.join(others))}", file=sys.stderr)
    return files


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a link that leads out of a folder: what it leads to is not what is to be published.

    Raises:
        ValueError: If it does.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"expected {path} to be inside {folder}, it is a link to {path.resolve()}. Nothing was sent")


def _is_like(path: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path.name, pattern) for pattern in patterns)


def made_files(run: Path, model: Mapping[str, Path], repo_id: str, licence: str | None) -> dict[str, bytes]:
    """Return the card of a run for its repository, and what would name paths of this machine without them."""
    import yaml

    from contrastive.data.json_files import read_object
    from experiments.model_card.card import model_card
    from experiments.results.files import read_run
    from experiments.results.provenance import portable

    config, report = read_run(run)
    card = str(model_card(run, repo_id=repo_id, licence=licence))  # which refuses a run that lacks a field
    report["git"]["changed_files"] = bool(report["git"]["changed_files"])
    texts = {
        "README.md": card,
        "training/config.yaml": yaml.safe_dump(portable(config), sort_keys=False, allow_unicode=True),
        "training/metrics.json": json.dumps(portable(report), indent=2) + "\n",
    }
    hubs = [base["hub"] for base in report.get("base_models") or [] if base["hub"]]
    for place, path in model.items():
        if path.name == "adapter_config.json":
            adapter = read_object(path)
            adapter["base_model_name_or_path"] = hubs[0] if hubs else portable(adapter.get("base_model_name_or_path"))
            texts[place] = json.dumps(adapter, indent=2) + "\n"
    return {path: text.encode() for path, text in texts.items()}


def refusal(error: Any, repo_id: str) -> str:
    """Say what the hub's answer means and what to do about it."""
    status = error.response.status_code
    meaning = {
        401: "it does not know the token: log in again with `hf auth login`, or set HF_TOKEN",
        403: f"the token may not write to {repo_id}: it needs the permission to write there",
    }
    return f"the hub refused ({status}): {meaning.get(status) or error.server_message or error}"


if __name__ == "__main__":
    main()
