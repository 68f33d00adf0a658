"""Fixtures for all tests: a tiny random BERT, made on the spot, so that no test needs the network.

The environment is set before anything imports torch, which reads it once.
"""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing by more, and tests run beside each other
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="contrastive-tests-")  # also for the programs that tests start

import shutil
import signal
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from contrastive.encoder import Encoder

WORDS = ("python", "developer", "nurse", "engineer", "chef", "data", "the", "job", "years", "hospital", "kitchen")


def pytest_sessionfinish() -> None:
    """Delete the cache folder of this session."""
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heard() -> Iterator[None]:
    """Tests send signals, which nohup and a shell's background leave ignored."""
    heard = {signal.SIGHUP: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    ignored = [number for number in heard if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, heard[number])
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def vocabulary() -> dict[str, int]:
    """Special tokens, eleven words, and every letter and digit, alone and inside a word."""
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *characters, *(f"##{c}" for c in characters)]
    return {piece: index for index, piece in enumerate(pieces)}


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain transformers folder: BERT with 2 layers of width 32, 64 positions, dropout 0.1. Do not write to it."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny"
    vocab = vocabulary()
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,  # with the usual 0.02 all texts have nearly the same embedding
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(config)
    model.save_pretrained(folder)
    BertTokenizer(vocab=vocab, model_max_length=64).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_encoder(tiny_model_folder: Path) -> Encoder:
    """A fresh encoder of the tiny model, in eval mode: mean pooling, length 1, 32 tokens a micro-batch."""
    return Encoder.from_pretrained(tiny_model_folder, normalize=True, tokens_per_batch=32)
