import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

from contrastive.data.queries.query_writers import write_queries
from contrastive.data.queries.text2text_writer import Text2TextWriter
from contrastive.encoder.loading import quiet

CONFIG = Path(__file__).parents[2] / "configs" / "writer" / "text2text.yaml"
WORDS = ("python", "developer", "nurse", "engineer", "chef", "data", "night", "leeds")


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 with one layer of width 16 that knows eight words and the letters. Do not write to it."""
    folder = tmp_path_factory.mktemp("models") / "t5"
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -5.0)]
    pieces = [
        *special,
        *((f"\u2581{word}", -1.0) for word in WORDS),
        *((c, -6.0) for c in "abcdefghijklmnopqrstuvwxyz,"),
    ]
    config = T5Config(
        vocab_size=len(pieces),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        initializer_factor=2.0,
    )
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(0)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)
    return folder


DOCUMENTS = ["python developer", "night nurse, leeds, night", "chef", "", "data engineer " * 6]


def test_samples_do_not_depend_on_the_batch(t5_folder: Path) -> None:
    state = torch.random.get_rng_state()
    queries = Text2TextWriter(t5_folder, query_tokens=6)(DOCUMENTS)
    assert [len(own) for own in queries] == [3] * 5
    assert len({tuple(own) for own in queries}) == 5
    alone = Text2TextWriter(t5_folder, query_tokens=6, batch_size=1)
    assert [alone([document])[0] for document in DOCUMENTS] == queries
    assert Text2TextWriter(t5_folder, query_tokens=6, batch_size=2)(DOCUMENTS[::-1]) == queries[::-1]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_another_seed_gives_other_samples(t5_folder: Path) -> None:
    first, second = (Text2TextWriter(t5_folder, query_tokens=6, seed=seed)(DOCUMENTS) for seed in (0, 1))
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_documents_that_look_the_same_to_the_model_get_their_own_samples(t5_folder: Path) -> None:
    writer = Text2TextWriter(
        t5_folder, input_tokens=2, query_tokens=8, queries_per_document=1, temperature=3.0, batch_size=500
    )
    assert len({tuple(queries) for queries in writer([f"nurse {i}" for i in range(500)])}) > 400


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24])
def test_the_extreme_random_numbers_pick_possible_tokens(
    t5_folder: Path, number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Text2TextWriter(t5_folder, top_k=1, query_tokens=6)(DOCUMENTS)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, number))
    assert Text2TextWriter(t5_folder, top_k=1, query_tokens=6)(DOCUMENTS) == expected


def test_the_longest_documents_are_written_for_first(t5_folder: Path) -> None:
    writer = Text2TextWriter(t5_folder, query_tokens=2, batch_size=2)
    assert [i for i, _ in writer.stream(DOCUMENTS)] == [4, 1, 0, 2, 3]
    assert writer([]) == []
    with pytest.raises(TypeError, match="expected a sequence of texts, got one text: 'nurse'"):
        writer("nurse")


def first_token_probabilities(folder: Path, word: str) -> torch.Tensor:
    with quiet():
        model = T5ForConditionalGeneration.from_pretrained(folder)
    tokens = torch.tensor([[4 + WORDS.index(word), 1]])
    with torch.inference_mode():
        return model(input_ids=tokens, decoder_input_ids=torch.tensor([[0]])).logits[0, 0].softmax(-1)


def likeliest(probabilities: torch.Tensor, together: float) -> torch.Tensor:
    kept, total = torch.zeros_like(probabilities), 0.0
    for token in probabilities.argsort(descending=True).tolist():
        if total < together:
            kept[token] = probabilities[token]
        total += float(probabilities[token])
    return kept


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"top_p": 1.0}, lambda p: p),
        ({"top_p": 1.0, "top_k": 5}, lambda p: p * (p >= p.topk(5).values[-1])),
        ({"top_p": 0.5}, lambda p: likeliest(p, 0.5)),
        ({"top_p": 1.0, "temperature": 0.3}, lambda p: p ** (1 / 0.3)),
    ],
)  # fmt: skip
def test_first_tokens_are_drawn_with_the_models_probabilities(
    t5_folder: Path, arguments: dict[str, Any], expected: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    # Cut to the same token, but different texts: the same probabilities, other numbers.
    documents = [f"nurse {i}" for i in range(3000)]
    writer = Text2TextWriter(
        t5_folder, input_tokens=2, query_tokens=1, queries_per_document=1, batch_size=500, **arguments
    )
    drawn = [query for queries in writer(documents) for query in queries]
    weights = expected(first_token_probabilities(t5_folder, "nurse"))
    probabilities = weights / weights.sum()
    for word, p in zip(WORDS, probabilities[4:12].tolist(), strict=True):
        spread = (p * (1 - p) / 3000) ** 0.5
        assert abs(drawn.count(word) / 3000 - p) <= 4 * spread + 1e-9


def test_the_prompt_goes_before_the_document_and_long_texts_lose_their_end(t5_folder: Path) -> None:
    def greedy(text: str, **arguments: Any) -> list[list[str]]:
        return Text2TextWriter(t5_folder, top_k=1, query_tokens=6, **arguments)([text])

    assert greedy("nurse", prompt="night {document}") == greedy("night nurse")
    assert greedy("night nurse leeds", input_tokens=3) == greedy("night nurse") != greedy("night nurse leeds")


def test_the_checkpoints_own_decoding_is_not_used(t5_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(t5_folder, tmp_path / "t5")
    own = json.loads((folder / "generation_config.json").read_text())
    own |= {
        "num_beams": 4,
        "early_stopping": True,
        "do_sample": True,
        "top_k": 1,
        "max_length": 3,
        "length_penalty": 2.0,
    }
    (folder / "generation_config.json").write_text(json.dumps(own))
    plain = Text2TextWriter(t5_folder, query_tokens=6)(DOCUMENTS)
    state = torch.random.get_rng_state()
    assert Text2TextWriter(folder, query_tokens=6)(DOCUMENTS) == plain
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_is_loaded_only_when_something_is_to_be_written(t5_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    written = write_queries(Text2TextWriter(t5_folder, query_tokens=2), DOCUMENTS, file)
    missing = Text2TextWriter(t5_folder, query_tokens=2)
    missing._loaded = None  # type: ignore[misc,assignment]  # it could not write
    assert write_queries(missing, DOCUMENTS, file) == written


def test_models_that_cannot_be_used_are_refused(t5_folder: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        Text2TextWriter(folder)(["x"])

    with pytest.raises(FileNotFoundError, match="no folder"):
        write(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"found no config\.json"):
        write(tmp_path)
    with pytest.raises(ValueError, match="is not an encoder-decoder model such as T5"):
        write(tiny_model_folder)
    folder = shutil.copytree(t5_folder, tmp_path / "t5")
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in sorted(weights) if name.startswith("encoder.block"))
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks 1 weights of T5ForConditionalGeneration, the first is {lost}"):
        write(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"expected model\.safetensors .* refs/pr/1"):
        write(folder)


def test_code_that_comes_with_a_model_is_not_run_and_nobody_is_asked(
    t5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(t5_folder, tmp_path / "own")
    own = {"auto_map": {"AutoConfig": "own.Config", "AutoModelForSeq2SeqLM": "own.Model"}}
    config = json.loads((folder / "config.json").read_text()) | own
    (folder / "own.py").write_text("raise SystemExit('this must not run')")
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    assert Text2TextWriter(folder, query_tokens=3)(["nurse"]) == Text2TextWriter(t5_folder, query_tokens=3)(["nurse"])
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "frob"}))
    with pytest.raises(ValueError, match=r"to describe an encoder-decoder model: .*code that comes with a model is ne"):
        Text2TextWriter(folder)(["nurse"])


def test_a_sentencepiece_file_alone_wants_the_package(
    t5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(t5_folder, tmp_path / "t5")
    (folder / "tokenizer.json").rename(folder / "spiece.model")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="pip install sentencepiece"):
        Text2TextWriter(folder)(["x"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({name: 0}, f"expected {name} of at least 1, got 0") for name in ("queries_per_document", "input_tokens")),
        *(({name: 0}, f"expected {name} of at least 1, got 0") for name in ("query_tokens", "top_k", "batch_size")),
        ({"temperature": 0}, r"expected temperature above 0 and top_p in \(0, 1\], got 0 and 0.95"),
        ({"top_p": 0}, "got 1.0 and 0"),
        ({"top_p": 1.1}, "got 1.0 and 1.1"),
        ({"prompt": "Write"}, r"expected a prompt with the placeholders \{document\}, got none"),
        ({"prompt": "{document} Query:"}, r"expected a prompt that ends in \{document\}"),
    ],
)
def test_text2text_arguments_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Text2TextWriter("model", **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"queries_per_document": 2},
        {"prompt": "Query: {document}"},
        {"input_tokens": 5},
        {"query_tokens": 5},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"top_k": 5},
        {"seed": 1},
    ],
)
def test_text2text_settings_hold_what_decides_the_queries(arguments: dict[str, Any]) -> None:
    assert Text2TextWriter("model", **arguments).settings != Text2TextWriter("model").settings
    assert Text2TextWriter(Path("other")).settings != Text2TextWriter("model").settings
    elsewhere = Text2TextWriter("model", batch_size=1, device="cuda:1")
    assert elsewhere.settings == Text2TextWriter("model").settings
    assert elsewhere.device == torch.device("cuda:1")


def test_the_configuration_has_the_defaults_of_the_class() -> None:
    config = OmegaConf.merge(OmegaConf.load(CONFIG), {"name_or_path": "model"})
    assert vars(instantiate(config)) == vars(Text2TextWriter("model"))
