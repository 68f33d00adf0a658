import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from contrastive.encoder.heads import PooledHead
from contrastive.encoder.heads.pooling import Pooling
from contrastive.encoder.sentence_transformers_format import FolderSettings, read_settings, write_settings

OLD = "sentence_transformers.models"
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def make_folder(
    folder: Path,
    types: list[str],
    *,
    pooling: dict[str, Any] | None = None,
    transformer: dict[str, Any] | None = None,
    about: dict[str, Any] | None = None,
) -> Path:
    modules = [{"idx": i, "name": str(i), "path": f"{i}_m" if i else "", "type": t} for i, t in enumerate(types)]
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_m" / "config.json", pooling or {"pooling_mode": "mean"})
    write_json(folder / "sentence_bert_config.json", transformer or {})
    write_json(folder / "config_sentence_transformers.json", about or {})
    return folder


def old_types(*kinds: str) -> list[str]:
    return [f"{OLD}.{kind}" for kind in kinds]


def said(
    backbone: str,
    pooling: str,
    normalize: bool,
    query_prompt: str | None,
    document_prompt: str | None,
    max_length: int | None,
    lowercase: bool,
    dimension: int | None = None,
    similarity: str | None = None,
) -> FolderSettings:
    """What a folder with one vector a text says."""
    head = {"pooling": pooling, "normalize": normalize, "dimension": dimension, "similarity": similarity}
    return FolderSettings(backbone, "pooled", head, query_prompt, document_prompt, max_length, lowercase)


BOTH = old_types("Transformer", "Pooling")


def test_a_plain_folder_says_nothing(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == FolderSettings()


def test_reads_the_old_names(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path,
        old_types("Transformer", "Pooling", "Normalize"),
        pooling={"word_embedding_dimension": 8, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        transformer={"max_seq_length": 77, "do_lower_case": True},
        about={"prompts": {"query": "q: ", "passage": "p: "}},
    )
    assert read_settings(folder) == said("", "cls", True, "q: ", "p: ", 77, True)


def test_reads_the_new_names(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path,
        [NEW["Transformer"], NEW["Pooling"], NEW["Normalize"]],
        pooling={"embedding_dimension": 8, "pooling_mode": "lasttoken", "include_prompt": True},
        transformer={
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        },
        about={"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": None},
    )
    assert read_settings(folder) == said("", "last", True, "q: ", "", None, False)


def test_reads_what_sentence_transformers_writes(tmp_path: Path, tiny_model_folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    transformer = modules.Transformer(str(tiny_model_folder), max_seq_length=40)
    chain = [transformer, modules.Pooling(32, pooling_mode="cls"), modules.Normalize()]
    SentenceTransformer(modules=chain, prompts={"query": "q: "}, device="cpu").save_pretrained(str(tmp_path))
    # 6.x writes the maximum length into the tokenizer only.
    settings = said("", "cls", True, "q: ", "", None, False, similarity="cosine")
    assert read_settings(tmp_path) == settings


def test_the_transformer_may_live_in_a_sub_folder(tmp_path: Path) -> None:
    write_json(
        tmp_path / "modules.json",
        [{"path": "0_BERT", "type": f"{OLD}.Transformer"}, {"path": "1_Pooling", "type": f"{OLD}.Pooling"}],
    )
    write_json(tmp_path / "0_BERT/sentence_roberta_config.json", {"max_seq_length": 99})
    write_json(tmp_path / "1_Pooling/config.json", {})
    assert read_settings(tmp_path) == said("0_BERT", "mean", False, None, None, 99, False)


def test_the_default_prompt_serves_a_side_without_its_own(tmp_path: Path) -> None:
    about = {"prompts": {"query": "q: ", "any": "a: "}, "default_prompt_name": "any"}
    settings = read_settings(make_folder(tmp_path, BOTH, about=about))
    assert (settings.query_prompt, settings.document_prompt) == ("q: ", "a: ")


@pytest.mark.parametrize(
    "unknown",
    [
        f"{OLD}.CLIPModel",
        f"{OLD}.WeightedLayerPooling",
        "sentence_transformers.base.modules.router.Router",
        "custom_code.Dense",
        "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling",
    ],
)
def test_an_unknown_module_is_refused_by_name(tmp_path: Path, unknown: str) -> None:
    with pytest.raises(ValueError, match=f"module {unknown}, which is not supported; supported are Transformer, Pool"):
        read_settings(make_folder(tmp_path, [*BOTH, unknown]))


@pytest.mark.parametrize(
    "kinds",
    [
        ("Transformer",),
        ("Transformer", "Normalize", "Pooling"),
        ("Transformer", "Pooling", "Pooling"),
        ("Transformer", "Pooling", "Normalize", "Dense"),
        ("Transformer", "Pooling", "Dense", "Dense"),
    ],
    ids="-".join,
)
def test_an_unusual_chain_is_refused(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"chains the modules {', '.join(kinds)}; expected"):
        read_settings(make_folder(tmp_path, old_types(*kinds)))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode": ["mean", "cls"]}, "mean and cls"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls and mean"),
    ],
)
def test_an_unknown_pooling_is_refused_by_name(tmp_path: Path, config: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"pools by {named}, which is not supported"):
        read_settings(make_folder(tmp_path, BOTH, pooling=config))


def test_pooling_without_the_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="include_prompt: false"):
        read_settings(make_folder(tmp_path, BOTH, pooling={"pooling_mode": "mean", "include_prompt": False}))


def test_missing_pooling_settings_are_an_error(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, BOTH)
    (folder / "1_m/config.json").unlink()
    with pytest.raises(ValueError, match="which is missing"):
        read_settings(folder)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"query_length": 0}, "expected query_length of .* number of tokens, got 0"),
        ({"query_expansion": {"length": 32}}, "query_expansion, which is not supported of one vector a text"),
        ({"processing_kwargs": {"text": {"max_length": 8}}}, "processing_kwargs"),
        ({"transformer_task": "fill-mask"}, "transformer_task to 'fill-mask'"),
        ({"modality_config": {"text": {"method_output_name": "pooler_output"}}}, "'pooler_output'"),
    ],
)
def test_options_that_change_the_embeddings_are_refused(tmp_path: Path, config: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        read_settings(make_folder(tmp_path, BOTH, transformer=config))


@pytest.mark.parametrize(
    ("config", "query", "document"),
    [
        ({"max_seq_length": 9}, None, 9),
        ({"max_seq_length": 9, "query_length": 5}, 5, 9),
        ({"max_seq_length": 9, "document_length": 7}, 9, 7),
        ({"query_length": 5, "document_length": 7}, 5, 7),
    ],
)
def test_lengths_of_both_sides_are_read(
    tmp_path: Path, config: dict[str, int], query: int | None, document: int
) -> None:
    settings = read_settings(make_folder(tmp_path, BOTH, transformer=config))
    assert (settings.query_length, settings.max_length) == (query, document)


def test_normalizing_token_vectors_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, old_types("Transformer", "Pooling", "Normalize"))
    write_json(folder / "2_m/config.json", {"module_input_name": "token_embeddings"})
    with pytest.raises(ValueError, match="normalizes 'token_embeddings'"):
        read_settings(folder)


def test_what_is_not_used_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    about = {"prompts": {"query": "q: ", "sts": "s: ", "none": ""}, "truncate_dim": 8, "empty": None, "__version__": {}}
    transformer = {"max_seq_length": 9, "tokenizer_args": {"padding_side": "left"}, "model_args": {}}
    folder = make_folder(
        tmp_path,
        old_types("Transformer", "Pooling", "Normalize"),
        about=about,
        transformer=transformer,
        pooling={"pooling_mode": "mean", "temperature": 2},
    )
    write_json(folder / "2_m/config.json", {"p": 1})
    read_settings(folder)
    assert sorted(message.removeprefix(f"{folder}/") for message in caplog.messages) == [
        "1_m/config.json sets temperature, which is not used",
        "2_m/config.json sets p, which is not used",
        "config_sentence_transformers.json has prompts that are not used: sts; query_prompt and document_prompt take "
        "others",
        "config_sentence_transformers.json sets truncate_dim, which is not used",
        "sentence_bert_config.json sets tokenizer_args, which is not used",
    ]


def test_a_plain_folder_does_not_use_what_is_said_of_modules(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(tmp_path / "config_sentence_transformers.json", {"prompts": {"query": "q: "}})
    assert read_settings(tmp_path) == FolderSettings()
    assert "config_sentence_transformers.json sets prompts, which is not used" in caplog.text


def test_nothing_is_said_of_what_we_and_others_write(
    tmp_path: Path, tiny_model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    chain = [modules.Transformer(str(tiny_model_folder)), modules.Pooling(32), modules.Normalize()]
    SentenceTransformer(modules=chain, prompts={"query": "q: "}, device="cpu").save_pretrained(str(tmp_path))
    caplog.clear()
    read_settings(tmp_path)
    prompts = {"query_prompt": "q", "document_prompt": "d"}
    head = PooledHead(8, pooling="cls", normalize=True, similarity="dot")
    write_settings(tmp_path, head, max_length=9, **prompts)
    read_settings(tmp_path)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"model_type": "CrossEncoder"}, r"is a CrossEncoder; supported is a .* or a SentenceTransformer"),
        ({"model_type": "SparseEncoder", "max_active_dims": 9}, "keeps 9 terms of a text, which is not supported"),
        (
            {"default_prompt_name": "a", "prompts": {"b": ""}},
            r"default_prompt_name in .* to be one of \['b'\], got 'a'",
        ),
        ({"default_prompt_name": ["b"], "prompts": {"b": ""}}, r"default_prompt_name in .*, got \['b'\]"),
        ({"prompts": ["q: "]}, r"expected the prompts in .* to be texts by name, got \['q: '\]"),
        ({"prompts": {"query": 1}}, r"expected the prompts in .* to be texts by name, got \{'query': 1\}"),
    ],
)
def test_what_is_said_of_a_model_has_its_types(tmp_path: Path, about: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(make_folder(tmp_path, BOTH, about=about))


@pytest.mark.parametrize("length", ["many", 0, True, 3.5])
def test_a_maximum_length_is_a_number_of_tokens(tmp_path: Path, length: Any) -> None:
    with pytest.raises(ValueError, match=f"max_seq_length of .* to be a number of tokens, got {length!r}"):
        read_settings(make_folder(tmp_path, BOTH, transformer={"max_seq_length": length}))


@pytest.mark.parametrize("path", ["../1_Pooling", "/1_Pooling"])
def test_a_module_outside_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    folder = make_folder(tmp_path, BOTH)
    write_json(folder / "modules.json", [{"path": "", "type": BOTH[0]}, {"path": path, "type": BOTH[1]}])
    with pytest.raises(ValueError, match=f"modules in .* to be inside the folder, got '{path}'"):
        read_settings(folder)


FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "1_m/config.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", ["null", "7", '"x"', "[null]", '{"a": ', "[" * 100_000, "\xff"])
def test_a_file_of_another_shape_is_one_line_that_names_it(tmp_path: Path, name: str, content: str) -> None:
    folder = make_folder(tmp_path, BOTH)
    (folder / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=f"^expected {folder / name} to (hold|be JSON)") as refused:
        read_settings(folder)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("transformer", "message"),
    [
        ({"modality_config": [1]}, "expected modality_config of the Transformer in"),
        ({"modality_config": {"text": 3}}, "expected text of the Transformer in"),
    ],
)
def test_inner_settings_have_their_types(tmp_path: Path, transformer: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(make_folder(tmp_path, BOTH, transformer=transformer))


IDENTITY = "torch.nn.modules.linear.Identity"
CUT = {"in_features": 8, "out_features": 3, "bias": False, "activation_function": IDENTITY}


@pytest.fixture
def dense_folder(tmp_path: Path) -> Path:
    """A folder with a Dense module that keeps 3 of 8 dimensions."""
    folder = make_folder(tmp_path, old_types("Transformer", "Pooling", "Dense", "Normalize"))
    write_json(folder / "2_m/config.json", CUT)
    save_file({"linear.weight": torch.eye(3, 8)}, folder / "2_m/model.safetensors")
    return folder


@pytest.mark.parametrize("more", [{}, {"module_input_name": "sentence_embedding", "use_residual": False}])
def test_a_dense_module_that_only_cuts_is_read(dense_folder: Path, more: dict[str, Any]) -> None:
    write_json(dense_folder / "2_m/config.json", {**CUT, **more})
    settings = read_settings(dense_folder)
    assert (settings.head["dimension"], settings.head["normalize"]) == (3, True)


def test_a_dense_module_in_half_precision_is_read(dense_folder: Path) -> None:
    save_file({"linear.weight": torch.eye(3, 8, dtype=torch.bfloat16)}, dense_folder / "2_m/model.safetensors")
    assert read_settings(dense_folder).head["dimension"] == 3


@pytest.mark.parametrize(
    "config",
    [
        {**CUT, "activation_function": "torch.nn.modules.activation.Tanh"},
        {key: value for key, value in CUT.items() if key != "activation_function"},  # the default is tanh
        {**CUT, "bias": True},
        {**CUT, "use_residual": True},
        {**CUT, "module_input_name": "token_embeddings"},
        {**CUT, "new_option": 1},
        {},
    ],
)
def test_a_dense_module_with_other_options_is_refused(dense_folder: Path, config: dict[str, Any]) -> None:
    write_json(dense_folder / "2_m/config.json", config)
    with pytest.raises(ValueError, match=f"{dense_folder}/2_m is a Dense layer; supported is only one that does no mo"):
        read_settings(dense_folder)


@pytest.mark.parametrize(
    "weights",
    [
        {"linear.weight": torch.eye(3, 8).roll(1, dims=1)},
        {"linear.weight": torch.eye(3, 8), "linear.bias": torch.zeros(3)},
        {"linear.weight": torch.eye(4, 8)},
        {"linear.weight": torch.ones(3, 8)},
        {},
        None,
    ],
)
def test_a_dense_module_with_other_weights_is_refused(dense_folder: Path, weights: dict[str, Tensor] | None) -> None:
    path = dense_folder / "2_m/model.safetensors"
    path.unlink()
    if weights is not None:
        save_file(weights, path)
    with pytest.raises(ValueError, match="is a Dense layer"):
        read_settings(dense_folder)


def test_a_dense_module_that_is_not_there_is_refused(dense_folder: Path) -> None:
    for path in (dense_folder / "2_m").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="is a Dense layer"):
        read_settings(dense_folder)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_reads_back_what_it_writes(tmp_path: Path, pooling: Pooling, normalize: bool) -> None:
    write_settings(
        tmp_path,
        PooledHead(8, pooling=pooling, normalize=normalize, similarity="dot"),
        query_prompt="Suche: ",
        document_prompt="für: ",
        max_length=99,
    )
    settings = said("", pooling, normalize, "Suche: ", "für: ", 99, False, similarity="dot")
    assert read_settings(tmp_path) == settings


@pytest.mark.parametrize("normalize", [True, False])
def test_reads_back_the_dimensions_it_keeps(tmp_path: Path, normalize: bool) -> None:
    write_settings(
        tmp_path,
        PooledHead(8, pooling="mean", normalize=normalize, dimension=3, similarity="euclidean"),
        query_prompt="",
        document_prompt="",
        max_length=99,
    )
    assert read_settings(tmp_path) == said("", "mean", normalize, "", "", 99, False, 3, "euclidean")
    assert json.loads((tmp_path / "1_Pooling/config.json").read_text())["word_embedding_dimension"] == 8


def test_writes_the_names_that_every_version_reads(tmp_path: Path) -> None:
    write_settings(
        tmp_path,
        PooledHead(8, pooling="mean", normalize=True, similarity="cosine"),
        query_prompt="",
        document_prompt="",
        max_length=99,
    )
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [module["type"] for module in modules] == old_types("Transformer", "Pooling", "Normalize")
    assert not list(tmp_path.glob("*Dense*"))
    pooling = json.loads((tmp_path / "1_Pooling/config.json").read_text())
    assert pooling["word_embedding_dimension"] == 8
    assert [key for key, value in pooling.items() if value is True] == ["pooling_mode_mean_tokens"]
    about = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert about["similarity_fn_name"] == "cosine"
