"""The model card of a finished run, made from its folder: `python -m experiments.model_card outputs/...`.

A run writes its card itself; this makes it again, for instance after the template was changed. It needs no network, and
no path of the machine that trained gets into it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from contrastive.data.corpus import PSEUDO_QUERIES
from contrastive.data.json_files import read_object
from experiments.model_card.markdown import Markdown, block, code, shown, string
from experiments.model_card.run_fields import check_fields
from experiments.results.files import read_run
from experiments.results.provenance import base_models, generated, hub_data_sets, leaves, portable, query_author

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
METRICS = ("ndcg@10", "mrr@10", "recall@10", "recall@100")
TOWERS = ("query", "document")
# What is no setting of the training, or is told elsewhere in the card.
NOT_THE_RECIPE = {"folder", "logger", "callbacks", "judge", "before", "query", "trainer", "encoder"}
OF_THE_TRAINER = ("max_epochs", "max_steps", "max_time", "precision", "accumulate_grad_batches", "gradient_clip_val")
OF_THE_FOLDER = ("query_prompt", "document_prompt", "max_length", "query_length")
NOT_OF_THE_ENCODER = {"name_or_path", "tokens_per_batch", "bucketed", "check", "_target_"}


def write_card(run: Path, *, repo_id: str | None = None, licence: str | None = None) -> Path:
    """Write `model/README.md` of a run and return its path; see `model_card`."""
    path = run / "model" / "README.md"
    model_card(run, repo_id=repo_id, licence=licence).save(path)
    return path


def model_card(run: Path, *, repo_id: str | None = None, licence: str | None = None) -> ModelCard:
    """Make the card of a finished run from its configuration, its metrics and its model.

    Args:
        run: Folder of the run.
        repo_id: Name on the hub that the examples load; a placeholder if None.
        licence: Licence as the hub names it; that of the base model if None, and no licence if that is not known.

    Raises:
        FileNotFoundError: If the folder is not that of a run.
        ValueError: If the run is not finished, or its files lack what the card says.
    """
    config, report = read_run(run)
    check_fields(config, report, run, METRICS)
    bases = report.get("base_models") or base_models(config["encoder"])
    data_sets = hub_data_sets(config["data"])
    config, report = portable(config), portable(report)
    licences = {base["licence"] for base in bases}
    inherited = licences.pop() if len(licences) == 1 else None
    facts = {
        "base": " and ".join(base["name"] for base in bases) or "an unnamed encoder",
        "loss": _short(config["loss"]["_target_"]),
        "encoders": describe_encoders(run / "model", repo_id),
        "similarity": describe_encoders(run / "model")[0]["similarity"],
        "generated": generated(config["data"]),
        "query_author": query_author(config["data"]),
        "judged_on_pseudo_queries": report["data"]["judged_on"].endswith(PSEUDO_QUERIES),
        "licence": licence or inherited,
        "inherited": licence is None,
        "repo_id": repo_id,
    }
    data = metadata(config, report, facts, hubs=[base["hub"] for base in bases if base["hub"]], data_sets=data_sets)
    means = {name: system["metrics"]["ndcg@10"]["mean"] for name, system in report["systems"].items()}
    lexical = max((mean for name, mean in means.items() if name.startswith("BM25")), default=0.0)
    # Names, queries and settings are other people's: what the template puts in is text unless it is Markdown.
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, finalize=shown)
    environment.filters |= {"python": lambda text: Markdown(repr(text)), "code": code, "block": block, "string": string}
    content = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **facts,
        metadata=Markdown(data.to_yaml()),
        config=config,
        report=report,
        results={"header": METRICS, "rows": results_rows(report)},
        word_matching_wins=lexical >= means["after"],
        recipe=recipe(config, report, run / "model"),
        command=shlex.join(report.get("command") or []),
    )
    return ModelCard(content)


def metadata(
    config: Mapping[str, Any],
    report: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    hubs: Sequence[str],
    data_sets: Sequence[str],
) -> ModelCardData:
    """Return what the hub reads: names there of base models and data sets, licence, tags, and the means."""
    towers = len(facts["encoders"]) > 1
    of_the_library = [] if towers else ["sentence-transformers"]  # which cannot load two at once
    data = report["data"]
    return ModelCardData(
        base_model=list(hubs) or None,
        datasets=list(data_sets) or None,
        eval_results=[
            EvalResult(
                task_type="information-retrieval",
                task_name="Information Retrieval",
                dataset_type=data_sets[0] if data_sets else data["name"],
                dataset_name=data["judged_on"],
                dataset_split=config["judge"],
                metric_type=metric.replace("@", "_at_"),
                metric_name=metric,
                metric_value=round(cell["mean"], 4),
            )
            for metric, cell in report["systems"]["after"]["metrics"].items()
        ],
        language="en" if facts["generated"] else None,
        library_name=next(iter(of_the_library), None),
        license=facts["licence"],
        model_name=(facts["repo_id"] or f"{facts['base']}-{data['name']}").rpartition("/")[2],
        pipeline_tag="sentence-similarity",
        tags=[
            *of_the_library,
            "sentence-similarity",
            "feature-extraction",
            "contrastive",
            f"loss:{facts['loss']}",
            f"dataset_size:{data['train_pairs']}",
        ],
    )


def recipe(config: Mapping[str, Any], report: Mapping[str, Any], model: Path) -> dict[str, str]:
    """Return the settings that the numbers depend on, by the names they have on the command line."""
    settings: dict[str, Any] = {}
    told = set(NOT_OF_THE_ENCODER)
    for folder in _encoder_folders(model):
        prefix = "encoder" if folder == model else f"encoder.{folder.name}"
        of_the_folder = _settings(folder)
        told |= of_the_folder.keys()
        settings |= {f"{prefix}.{name}": value for name, value in of_the_folder.items() if value not in ("", [])}
    of_the_encoder = dict(leaves(config["encoder"], "encoder."))
    settings |= {key: value for key, value in of_the_encoder.items() if not {*key.split(".")} & told}
    if settings.get("encoder.lora.rank") == 0:
        settings = {key: value for key, value in settings.items() if not key.startswith("encoder.lora.")}
    settings |= dict(leaves({key: value for key, value in config.items() if key not in NOT_THE_RECIPE}))
    settings |= {f"trainer.{name}": config["trainer"].get(name) for name in OF_THE_TRAINER}
    settings = {
        key.removesuffix("._target_"): _short(value) if key.endswith("._target_") else value
        for key, value in settings.items()
        if value is not None and not key.endswith("._convert_") and (key, value) != ("trainer.max_steps", -1)
    }
    if report.get("monitored"):
        best = report["monitored"]
        settings["weights kept"] = f"best {best['metric']} ({best['value']:.3f}), step {best['step']}"
    return {key: str(value) for key, value in settings.items()}


def results_rows(report: Mapping[str, Any]) -> dict[str, list[Markdown]]:
    """Return the cells of each system, and of the paired difference if there is one, for the headline metrics."""
    rows = {}
    for name, system in report["systems"].items():
        cells = (system["metrics"][metric] for metric in METRICS)
        rows[name] = [_interval(cell, ".3f") for cell in cells]
    if "gain" in report:
        changes = [report["gain"][metric] for metric in METRICS]
        rows["after - before"] = [_interval(change, "+.3f") for change in changes]
        rows["p"] = [Markdown(f"{change['p_value']:.4f}") for change in changes]
    return rows


def _interval(cell: Mapping[str, Any], form: str) -> Markdown:
    return Markdown(f"{cell['mean']:{form}} [{cell['low']:{form}}, {cell['high']:{form}}]")


def describe_encoders(model: Path, repo_id: str | None = None) -> list[dict[str, Any]]:
    """Return, for the one encoder of a folder or its two towers, what the text and the examples of the card need."""
    from contrastive.encoder.heads import HEADS
    from contrastive.encoder.loading import read_config
    from contrastive.encoder.model_folder import is_lone_encoder

    described = []
    for folder in _encoder_folders(model):
        tokenizer = read_object(folder / "tokenizer_config.json")
        config = read_config(folder)
        tower = "" if folder == model else folder.name
        settings = _settings(folder)
        described.append(
            {
                "prefix": Markdown(f"{tower}_" if tower else ""),
                "source": Markdown(f'f"{{folder}}/{tower}"') if tower else string(repo_id or "path/to/this/folder"),
                "auto_class": "AutoModelForTextEncoding" if is_lone_encoder(config) else "AutoModel",
                "texts": {"": "texts", "query": "queries", "document": "documents"}[tower],
                "pads": tokenizer.get("pad_token") is not None,
                "model_type": HEADS[settings["representation"]].model_type,
                "cut": settings.get("dimension") is not None,
                "query_weights": None,
                **settings,
                "terms": config.vocab_size,
                "dimension": settings.get("dimension") or config.hidden_size,
            }
        )
    return described


def _encoder_folders(model: Path) -> list[Path]:
    towers = [model / side for side in TOWERS]
    return towers if all(tower.is_dir() for tower in towers) else [model]


def _settings(folder: Path) -> dict[str, Any]:
    """Return what decides the embeddings of an encoder beside its weights, as its folder says it."""
    from contrastive.encoder.heads import make_head
    from contrastive.encoder.loading import read_config
    from contrastive.encoder.sentence_transformers_format import read_settings

    said = read_settings(folder)
    representation = said.representation or "pooled"
    head = make_head(int(read_config(folder).hidden_size), representation, said.head)
    of_head = {**said.head, "similarity": head.similarity, "windows": head.windows}
    return {"representation": representation, **of_head, **{name: getattr(said, name) for name in OF_THE_FOLDER}}


def _short(target: str) -> str:
    return target.rpartition(".")[2]
