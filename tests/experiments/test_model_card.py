"""A model card says what the run's folder says, its examples work, and nothing of the machine gets into it."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished_run import CONFIG, finished_report, finished_run, system
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from transformers import T5Config, T5EncoderModel

from contrastive.encoder import Encoder
from contrastive.encoder.two_towers import TwoTowers
from contrastive.similarity import score_texts, similarity_of
from experiments.model_card import __main__ as program
from experiments.model_card import card as model_card
from experiments.results.provenance import base_models, generated, hub_data_sets, portable

PLACEHOLDER = "path/to/this/folder"
QUERY_AND_DOCUMENTS: Any = (["a query"], "query"), (["a document", "another"], "document")


def load(run: Path, **options: Any) -> ModelCard:
    return ModelCard.load(model_card.write_card(run, **options))


def examples(card: ModelCard) -> list[str]:
    """The Python blocks, in order: ours, sentence-transformers', transformers'."""
    return re.findall(r"```python\n(.*?)```", card.text, re.S)


def run_example(code: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    names: dict[str, Any] = {}
    # A long document, so that an example that cuts it elsewhere is found out.
    exec(code.replace(PLACEHOLDER, str(folder)).replace("another", "python nurse chef " * 40), names)
    return tuple(np.asarray(torch.as_tensor(names[side])) for side in ("queries", "documents"))  # type: ignore[return-value]


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "mean", "max_length": 14},
        {"pooling": "cls", "normalize": True, "query_prompt": "query: ", "document_prompt": 'a "doc"\'s \\text: '},
        {"pooling": "last", "normalize": True, "dimension": 8, "max_length": 12},
    ],
    ids=lambda settings: settings["pooling"],
)
def test_the_examples_give_the_embeddings_of_the_run(
    settings: dict[str, Any], tiny_model_folder: Path, tmp_path: Path
) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, **settings)
    run = finished_run(tmp_path / "run", encoder)
    ours, *others = (run_example(code, run / "model") for code in examples(load(run)))
    assert len(others) == 2
    np.testing.assert_allclose(ours[0], encoder.encode(["a query"]), atol=1e-6)
    for queries, documents in others:
        np.testing.assert_allclose(queries, ours[0], atol=1e-6)
        np.testing.assert_allclose(documents, ours[1], atol=1e-6)


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_the_examples_compare_as_the_encoder_does(
    similarity: str, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, similarity=similarity)  # type: ignore[arg-type]
    card = load(finished_run(tmp_path / "run", encoder))
    for code in examples(card):
        queries, documents = run_example(code, tmp_path / "run" / "model")
        expected = similarity_of(encoder)(torch.as_tensor(queries), torch.as_tensor(documents))
        printed = re.findall(r"-?\d+\.\d*", capsys.readouterr().out)
        np.testing.assert_allclose([float(number) for number in printed], expected[0], rtol=1e-3)
    assert "cosine" not in card.text
    assert f"| encoder.similarity | {similarity} |" in card.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"representation": "tokens", "punctuation": False, "dimension": 8, "query_length": 12, "max_length": 20},
            (
                "late interaction",
                "a vector of\n8 numbers",
                "Queries are cut after 12 tokens",
                "Documents are cut after 20",
            ),
        ),
        (
            {"representation": "tokens", "query_weights": "words", "windows": True, "max_length": 20},
            ("read whole, in windows of 20 tokens", "does not know the weights", "does not know windows"),
        ),
        (
            {"windows": True, "max_length": 20},
            ("each window of a document", "read whole, in windows of 20 tokens", "does not know windows"),
        ),
    ],
    ids=["tokens", "weighed", "windows"],
)
def test_the_card_says_what_a_text_becomes_and_what_loads_it(
    settings: dict[str, Any],
    said: tuple[str, ...],
    tiny_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoder = Encoder.from_pretrained(tiny_model_folder, **settings)
    run = finished_run(tmp_path / "run", encoder)
    card = load(run)
    for words in said:
        assert words in card.text
    of_tokens = "representation" in settings
    assert f"| encoder.representation | {'tokens' if of_tokens else 'pooled'} |" in card.text
    ours, theirs, *plain = examples(card)
    assert len(plain) == (0 if of_tokens else 1)
    printed = []
    for code in (ours, theirs):
        exec(code.replace(PLACEHOLDER, str(run / "model")), {})
        printed.append([float(number) for number in re.findall(r"-?\d+\.\d+", capsys.readouterr().out)])
    sides = (encoder.encode(texts, side=side) for texts, side in QUERY_AND_DOCUMENTS)
    np.testing.assert_allclose(printed[0], score_texts(similarity_of(encoder), *sides)[0], atol=1e-4)
    if "query_weights" not in settings:  # sums, of which ours are means; short documents, which are one window
        ratio = np.divide(printed[1], printed[0])
        np.testing.assert_allclose(ratio, len(encoder.tokenizer("a query")["input_ids"]) if of_tokens else 1, rtol=1e-3)


@pytest.mark.parametrize("padding", [{"padding_side": "left"}, {"pad_token": None, "eos_token": "[SEP]"}])
def test_the_example_for_transformers_pads_as_we_do(
    padding: dict[str, Any], tiny_model_folder: Path, tmp_path: Path
) -> None:
    run = finished_run(tmp_path / "run", Encoder.from_pretrained(tiny_model_folder, pooling="last"))
    tokenizer = run / "model" / "tokenizer_config.json"
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), **padding}))
    ours, _, plain = examples(load(run))
    np.testing.assert_allclose(run_example(plain, run / "model")[1], run_example(ours, run / "model")[1], atol=1e-6)


def test_the_card_of_two_towers_explains_its_folders(tiny_model_folder: Path, tmp_path: Path) -> None:
    query = Encoder.from_pretrained(tiny_model_folder, pooling="cls", query_prompt="query: ")
    document = Encoder.from_pretrained(tiny_model_folder, pooling="mean", max_length=9)
    towers = TwoTowers(query, document)
    run = finished_run(tmp_path / "run", towers)
    card = load(run)
    assert "two towers" in card.text
    assert "`query/`" in card.text
    assert card.data.library_name is None  # sentence-transformers cannot load both at once
    assert "| encoder.query.pooling | cls |" in card.text
    assert "| encoder.document.pooling | mean |" in card.text
    assert "Documents are cut after 9 tokens" in card.text
    setup, *codes = examples(card)
    for code in codes:
        queries, documents = run_example(setup + code, run / "model")
        np.testing.assert_allclose(queries, towers.encode(["a query"], side="query"), atol=1e-6)
        np.testing.assert_allclose(documents[:1], towers.encode(["a document"], side="document"), atol=1e-6)
    assert 'folder = snapshot_download("me/towers")' in load(run, repo_id="me/towers").text


def test_metadata_is_what_the_hub_shows(tiny_encoder: Encoder, tmp_path: Path) -> None:
    data = load(finished_run(tmp_path / "run", tiny_encoder)).data
    assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert {"sentence-transformers", "loss:InfoNCELoss", "dataset_size:1234"} <= set(data.tags)
    assert data.model_name == "tiny-help-pages"
    results = {result.metric_name: result for result in data.eval_results}
    assert set(results) == set(finished_report()["systems"]["after"]["metrics"])
    ndcg = results["ndcg@10"]
    assert (ndcg.metric_value, ndcg.dataset_name, ndcg.dataset_split) == (0.4, "help-pages-test", "test")
    for absent in (data.language, data.license, data.base_model, data.datasets):
        assert absent is None
    assert ndcg.dataset_type == "help-pages"


def test_metadata_names_a_data_set_of_the_hub(tiny_encoder: Encoder, tmp_path: Path) -> None:
    hub = {"data": {"_target_": "contrastive.data.hub", "name": "org/set"}}
    data = load(finished_run(tmp_path / "run", tiny_encoder, config=hub)).data
    assert data.datasets == ["org/set"]
    assert data.eval_results[0].dataset_type == "org/set"


def test_the_text_says_how_good_it_is_and_how_it_was_made(tiny_encoder: Encoder, tmp_path: Path) -> None:
    text = load(finished_run(tmp_path / "run", tiny_encoder)).text
    for line in (
        "| before | 0.300 [0.250, 0.350] | 0.300",
        "| after | 0.400 [0.350, 0.450] | 0.400",
        "| after - before | +0.100 [+0.050, +0.150] |",
        "| p | 0.0123 |",
        "56 queries, each ranking all 7,890 documents",
        "`help-pages-test` (test split)",
        "1,234 pairs",
        "one seed (7)",
        "cut after 64 tokens",
        "| base model | tiny |",
        "| encoder.pooling | mean |",
        "| loss | InfoNCELoss |",
        "| loss.temperature | 0.05 |",
        "| data.path | help-pages |",
        "| trainer.max_epochs | 3 |",
        "| trainer.precision | bf16-mixed |",
        "| batch_size | 4 |",
        "| weights kept | best dev/ndcg@10 (0.568), step 9 |",
        "Commit abc123, with uncommitted changes.",
        "python 3.11.7, torch 2.13.0.",
        "python -m experiments.run data=beir data.path=help-pages",
        "fill it in before you share",
    ):
        assert line in text
    for absent in ("someone", "secret-plan", "max_steps", "lora", "_convert_", "tokens_per_batch", "query_prompt"):
        assert absent not in text
    for absent in ("dev split", "by a program", "Word matching (BM25) does", "spelling", "hybrid"):
        assert absent not in text


@pytest.mark.parametrize(
    ("config", "report", "said"),
    [
        ({"judge": "dev"}, {}, "**Judged on the dev split**"),
        (
            {},
            {"hybrid": {"said": "0.40 BM25 + 0.60 encoder"}},
            '"hybrid" ranks by `hybrid.json`, fitted on the dev split: 0.40 BM25 + 0.60 encoder.',
        ),
        ({}, {"gain": None}, "untuned model was not judged"),
        ({}, {"systems": {"BM25": system(0.5), "after": system(0.4)}, "gain": None}, "Word matching (BM25) does as"),
        (
            {},
            {"systems": {"BM25": system(0.3), "BM25+spelling": system(0.4), "after": system(0.4)}, "gain": None},
            "Word matching (BM25) does as",
        ),
        (
            {},
            {"systems": {"BM25": system(0.3), "BM25+spelling": system(0.35), "after": system(0.4)}, "gain": None},
            'BM25 matches words alone, "BM25+spelling" after unknown words of a query are put right.',
        ),
        ({"data": {"_target_": "experiments.postings.generator.jobs"}}, {}, "were generated by a program, in English"),
        ({"data": {"_target_": "contrastive.data.corpus.corpus"}}, {}, "made from documents by a program"),
        (
            {
                "data": {
                    "_target_": "contrastive.data.corpus.corpus",
                    "writer": {"_target_": "contrastive.data.queries.endpoint_writer.EndpointWriter"},
                }
            },
            {},
            "made from documents by a language model;",
        ),
        (
            {},
            {"data": {**finished_report()["data"], "judged_on": "test-pseudo-queries"}},
            "The queries it was judged on were made from the documents by a program",
        ),
        ({"trainer": {"max_steps": 50}}, {}, "| trainer.max_steps | 50 |"),
        ({"encoder": {**CONFIG["encoder"], "lora": {"rank": 16}}}, {}, "| encoder.lora.rank | 16 |"),
        ({"loss": {"_target_": "a.B", "loss": {"_target_": "a.C", "note": "a|b"}}}, {}, "| loss.loss.note | a\\|b |"),
    ],
)
def test_what_a_reader_must_know_is_said(
    config: dict[str, Any], report: dict[str, Any], said: str, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    assert said in load(finished_run(tmp_path / "run", tiny_encoder, config=config, report=report)).text


def test_what_is_not_known_is_left_out(tiny_encoder: Encoder, tmp_path: Path) -> None:
    unknown = {"monitored": None, "command": None, "git": {"commit": None, "changed_files": None}}
    text = load(finished_run(tmp_path / "run", tiny_encoder, report=unknown)).text
    assert "Versions: python" in text
    for absent in ("```sh", "Commit", "weights kept", "None"):
        assert absent not in text


def test_generated_data_has_a_language(tiny_encoder: Encoder, tmp_path: Path) -> None:
    jobs = {"data": {"_target_": "experiments.postings.generator.jobs"}}
    assert load(finished_run(tmp_path / "run", tiny_encoder, config=jobs)).data.language == "en"


def test_the_name_on_the_hub_is_loaded_by_the_examples(tiny_encoder: Encoder, tmp_path: Path) -> None:
    card = load(finished_run(tmp_path / "run", tiny_encoder), repo_id="me/help")
    assert all('("me/help"' in code for code in examples(card))
    assert PLACEHOLDER not in card.text
    assert card.data.model_name == "help"


def test_a_licence_is_the_users_or_that_of_all_base_models(tiny_encoder: Encoder, tmp_path: Path) -> None:
    def of(licences: list[str | None], **options: Any) -> ModelCard:
        bases = [{"name": "base", "hub": "org/base", "licence": licence} for licence in licences]
        return load(finished_run(tmp_path / "run", tiny_encoder, report={"base_models": bases}), **options)

    assert of(["mit"]).data.license == "mit"
    assert "mit, that of the base model." in of(["mit"]).text
    assert of(["mit", "apache-2.0"]).data.license is None
    assert of(["mit", None]).data.license is None
    assert of(["mit"], licence="gpl-3.0").data.license == "gpl-3.0"
    assert "that of the base model" not in of(["mit"], licence="gpl-3.0").text
    assert of(["mit"]).data.base_model == ["org/base"]


def test_what_the_run_noted_of_its_base_model_counts(tiny_encoder: Encoder, tmp_path: Path) -> None:
    """The folder may be gone, or be another's, when the card is made again."""
    noted = {"base_models": [{"name": "original", "hub": None, "licence": None}]}
    assert "# original, fine-tuned" in load(finished_run(tmp_path / "run", tiny_encoder, report=noted)).text


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        (
            {"name_or_path": {"_target_": "contrastive.encoder.embedded_minilm"}},
            [("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "apache-2.0")],
        ),
        ({"name_or_path": "no-such/on-the-hub"}, [("on-the-hub", "no-such/on-the-hub", None)]),
        ({"name_or_path": "FOLDER/licensed"}, [("licensed", None, "mit")]),
        ({"name_or_path": "FOLDER/plain"}, [("plain", None, None)]),
        ({"name_or_path": "FOLDER/broken"}, [("broken", None, None)]),
        ({"name_or_path": "FOLDER/yesterday/model"}, [("yesterday", None, None)]),
        (
            {"query": {"name_or_path": "a/q"}, "document": {"name_or_path": "a/d"}},
            [("q", "a/q", None), ("d", "a/d", None)],
        ),
        ({"query": {"name_or_path": "a/q"}, "document": {"name_or_path": "a/q"}}, [("q", "a/q", None)]),
    ],
)
def test_base_models_are_found_in_the_configuration(
    encoder: dict[str, Any], expected: list[tuple[str, str | None, str | None]], tmp_path: Path
) -> None:
    cards = {"licensed": "---\nlicense: mit\n---\ntext", "plain": "", "broken": "---\n- a\n---\ntext"}
    for name, card in cards.items():
        (tmp_path / name).mkdir()
        if card:
            (tmp_path / name / "README.md").write_text(card)
    if "name_or_path" in encoder:
        path = encoder["name_or_path"]
        encoder = {"name_or_path": path.replace("FOLDER", str(tmp_path)) if isinstance(path, str) else path}
    assert [(base["name"], base["hub"], base["licence"]) for base in base_models(encoder)] == expected


def test_data_sets_of_the_hub_and_generated_ones_are_told_apart() -> None:
    hub = {"_target_": "contrastive.data.hub", "name": "org/set", "revision": "feature/x", "columns": {"query": "q"}}
    jobs = {"_target_": "experiments.postings.generator.jobs"}
    assert hub_data_sets({"_target_": "contrastive.data.mixed", "sources": {"a": hub, "b": jobs}}) == ["org/set"]
    assert hub_data_sets({"_target_": "contrastive.data.beir", "name": "org/set"}) == []
    assert generated({"_target_": "contrastive.data.mixed", "sources": {"a": hub, "b": jobs}})
    assert not generated(hub)


def test_a_folder_here_is_not_taken_for_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert base_models({"name_or_path": "org/name"}) == [{"name": "name", "hub": None, "licence": None}]
    assert hub_data_sets({"_target_": "contrastive.data.hub", "name": "org/name"}) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/me/data", "data"),
        ("~/my data/mine", "mine"),
        ("data.path='/home/me/my data'", "data.path=my data"),
        ("+a@b.c=[/x/y,/x/z]", "+a@b.c=[y,z]"),
        ({"a": ["/x/y"], "b": 1, "c": None}, {"a": ["y"], "b": 1, "c": None}),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("dev/ndcg@10", "dev/ndcg@10"),
        ("query=C/C++, 1/2 years", "query=C/C++, 1/2 years"),
    ],
)
def test_paths_become_names(value: Any, expected: Any) -> None:
    assert portable(value) == expected


@pytest.mark.parametrize(
    ("status", "missing", "error", "message"),
    [
        ("failed: OSError: full", "", ValueError, "expected a finished run, .* 'failed: OSError: full'"),
        ("finished", "config.yaml", FileNotFoundError, "found no config.yaml in"),
        ("finished", "metrics.json", FileNotFoundError, "found no metrics.json in"),
    ],
)
def test_only_finished_runs_get_a_card(
    status: str, missing: str, error: type[Exception], message: str, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    run = finished_run(tmp_path / "run", tiny_encoder, report={"status": status})
    if missing:
        (run / missing).unlink()
    with pytest.raises(error, match=message):
        model_card.write_card(run)


def test_the_command_line(tiny_encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(tmp_path / "run", tiny_encoder)
    program.main([str(run), "--repo-id", "me/help", "--licence", "mit"])
    path = Path(capsys.readouterr().out.strip())
    assert path == run / "model" / "README.md"
    assert ModelCard.load(path).data.license == "mit"
    with pytest.raises(SystemExit, match="error: expected the folder of a run"):
        program.main([str(tmp_path)])


HOSTILE = (
    "x\n---\n# Verified\n\n```\nlicense: mit\n```\n<img src=//e.org/p><script>f()</script> | y |\n"
    "![p](//e.org/q) [free](http://e.org) <http://e.org> `code` **bold** _it_ &copy; \x1b[31m\u202eend\\"
)


def tokens(text: str) -> list[Any]:
    blocks = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [token for block in blocks for token in (block, *(block.children or ()))]


def structure(text: str) -> list[str]:
    return [token.type for token in tokens(text) if token.type not in {"text", "text_special", "softbreak"}]


def hostile_run(folder: Path, encoder: Encoder, text: str = HOSTILE) -> Path:
    """A run that has a text wherever what others name reaches the card."""
    report = finished_report()
    report["data"] |= {"name": text, "judged_on": text}
    report["monitored"]["metric"] = text
    report["systems"] = {text: system(0.2), "after": system(0.4)}
    report["git"]["commit"] = text
    report["versions"] = {text: text}
    report["command"] = ["python", text]
    report["base_models"] = [{"name": text, "hub": text, "licence": text}]
    config = {
        "data": {"_target_": "contrastive.data.beir", "columns": {text: text}},
        "loss": {"_target_": f"losses.{text.replace('.', '')}", "note": text},
        "judge": text,
    }
    return finished_run(folder, encoder, config=config, report=report)


def test_what_others_name_is_text_in_the_card(tiny_model_folder: Path, tmp_path: Path) -> None:
    def written(name: str, text: str) -> str:
        encoder = Encoder.from_pretrained(tiny_model_folder, query_prompt=text, document_prompt=text)
        return load(hostile_run(tmp_path / name, encoder, text)).text

    card = written("hostile", HOSTILE)
    assert structure(card) == structure(written("plain", "plain"))
    assert "\x1b" not in card
    assert "\u202e" not in card
    seen = " ".join(HOSTILE.replace("\x1b[31m\u202e", "").split())
    lines = ["".join(part.content for part in token.children or ()) for token in tokens(card) if token.type == "inline"]
    command = shlex.join(["python", HOSTILE.replace("\x1b[31m\u202e", "")]) + "\n"
    assert [token.content for token in tokens(card) if token.info == "sh"] == [command]
    assert lines[0] == f"{seen}, fine-tuned for search on {seen}"


def test_what_others_name_adds_no_metadata(tiny_encoder: Encoder, tmp_path: Path) -> None:
    plain = load(
        finished_run(
            tmp_path / "plain", tiny_encoder, report={"base_models": [{"name": "a", "hub": "a/b", "licence": "mit"}]}
        )
    )
    data = load(hostile_run(tmp_path / "run", tiny_encoder)).data
    assert set(data.to_dict()) == set(plain.data.to_dict())
    assert (data.license, data.base_model) == (HOSTILE, [HOSTILE])
    assert len(data.tags) == len(plain.data.tags)
    assert data.eval_results[0].dataset_name == HOSTILE


@pytest.mark.parametrize(
    ("file", "place", "value", "said"),
    [
        ("metrics.json", "data.name", ..., "expected the field data.name in FILE, found none"),
        ("metrics.json", "data.documents", "9", "expected data.documents in FILE to be a whole number, got '9'"),
        ("metrics.json", "versions", ..., "expected the field versions in FILE, found none"),
        ("metrics.json", "git", ..., "expected the field git.commit in FILE, found none"),
        ("metrics.json", "systems.after", ..., "expected the field systems.after.metrics in FILE, found none"),
        (
            "metrics.json",
            "systems.BM25",
            [],
            "expected the field systems.BM25.metrics.ndcg@10.mean in FILE, found none",
        ),
        ("metrics.json", "gain.mrr@10", {}, "expected the field gain.mrr@10.mean in FILE, found none"),
        ("metrics.json", "monitored.value", None, "expected monitored.value in FILE to be a number, got None"),
        ("metrics.json", "command", ["a", 3], "expected command.1 in FILE to be a text, got 3"),
        ("metrics.json", "base_models", [{"name": "a"}], "expected the field base_models.0.hub in FILE, found none"),
        ("config.yaml", "loss._target_", ..., "expected the field loss._target_ in FILE, found none"),
        ("config.yaml", "trainer", [1], "expected trainer in FILE to be a mapping, got [1]"),
    ],
)
def test_a_field_that_a_run_of_others_lacks_is_named(
    file: str, place: str, value: Any, said: str, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    contents = {"config.yaml": CONFIG, "metrics.json": finished_report()}
    changed = json.loads(json.dumps(contents[file]))
    *outer, last = place.split(".")
    inner = changed
    for key in outer:
        inner = inner[key]
    inner.pop(last) if value is ... else inner.update({last: value})
    run = finished_run(tmp_path / "run", tiny_encoder)
    (run / file).write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=f"^{re.escape(said.replace('FILE', str(run / file)))}$"):
        model_card.write_card(run)


def test_the_encoder_of_an_encoder_decoder_is_loaded_by_the_examples(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "model.safetensors").unlink()
    sizes = {"d_model": 24, "d_kv": 6, "d_ff": 30, "num_layers": 1, "num_heads": 4}
    T5EncoderModel(T5Config(vocab_size=200, **sizes)).save_pretrained(folder)
    run = finished_run(tmp_path / "run", Encoder.from_pretrained(folder))
    card = load(run)
    assert "vectors of 24 numbers" in card.text
    ours, *others = (run_example(code, run / "model") for code in examples(card))
    for embeddings in others:
        np.testing.assert_allclose(embeddings[1], ours[1], atol=1e-6)
