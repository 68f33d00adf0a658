"""What an index on disk consists of, `index.json`: replaced as a whole, so that who reads sees all of one state."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from contrastive.data.json_files import read_object
from contrastive.data.store import key_of
from contrastive.data.whole_files import whole_file
from contrastive.encoder.embedding_cache import KeyedEncoder, embedding_key
from contrastive.search.contracts import Posting
from contrastive.similarity import similarity_of

FORMAT = 1
_FILE = "index.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index holds, and what it was made of.

    Attributes:
        model: Digest of the model's weights and settings.
        encoder: Its representation, dimension and similarity.
        corpus: Digest of the postings that it was built from.
        command: What builds it, as a person types it; without the folder and the model.
        segments: Names of the segments and which rows of each are removed.
        count: How many postings there are.
        generation: How many states there have been.
        engine: What keeps the embeddings: its name; of LanceDB also the URL, None for a folder in that of the index,
            the table, the version of it that counts, and whether it is to be linked.
        source: The file that the postings were read from, see `fingerprint`.
        candidates: How many postings are compared with a query, and what they had of the ten closest when it was built
            (`recall@10`, by `titles` of postings); None where all are compared.
    """

    model: str
    encoder: Mapping[str, object]
    corpus: str
    command: Sequence[str]
    segments: Mapping[str, Sequence[int]] = field(default_factory=dict)
    count: int = 0
    generation: int = 0
    format: int = FORMAT
    engine: Mapping[str, Any] = field(default_factory=lambda: {"name": "exact"})
    source: Mapping[str, Any] | None = None
    candidates: Mapping[str, float] | None = None

    def write(self, folder: Path) -> None:
        """Put it into the place of the one in a folder."""
        content: dict[str, Any] = asdict(self)
        content["check"] = key_of(content)
        with whole_file(folder / _FILE) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read that of a folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not as it was written.
    """
    path = folder / _FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"expected an index in {folder}, found none; python -m experiments.index --out {folder} --model MODEL "
            "--data DIR_OR_FILE builds one"
        )
    content = read_object(path)
    check = content.pop("check", None)
    if content.get("format") != FORMAT:
        raise ValueError(f"expected {path} of format {FORMAT}, got {content.get('format')!r:.40}; build the index anew")
    if check != key_of(content):
        raise ValueError(f"{path} is not what was written; build the index anew")
    return Manifest(**content)


def described(encoder: KeyedEncoder) -> dict[str, object]:
    """Return what an index says of the encoder it was built with."""
    return {
        "representation": str(encoder.settings.get("representation", "pooled")),
        "dimension": encoder.dimension,
        "similarity": similarity_of(encoder).name,
    }


def model_digest(encoder: KeyedEncoder) -> str:
    """Return a digest of what decides the embeddings of an encoder."""
    return embedding_key(encoder, (), side="document")


def corpus_digest(postings: Sequence[Posting]) -> str:
    """Return a digest of postings, in any order."""
    of_each = (key_of([posting.id, posting.text, dict(posting.metadata)]) for posting in postings)
    return key_of("corpus", sorted(of_each))


def check_encoder(manifest: Manifest, encoder: KeyedEncoder, folder: Path, model: str) -> None:
    """Refuse an encoder that is not the one an index was built with.

    Raises:
        ValueError: Saying what differs, and what builds the index anew.
    """
    wanted, got = dict(manifest.encoder), described(encoder)
    command = rebuild_command(manifest, folder, model)
    if wanted != got:
        named = [", ".join(f"{name} {value}" for name, value in each.items()) for each in (wanted, got)]
        raise ValueError(f"expected the model of the index {folder}, {named[0]}, got {named[1]}; {command}")
    if manifest.model != model_digest(encoder):
        raise ValueError(f"expected the model that the index {folder} was built with, got another one; {command}")


def check_corpus(manifest: Manifest, postings: Sequence[Posting], folder: Path, model: str) -> None:
    """Refuse postings that are not those an index was built from.

    Raises:
        ValueError: Saying what builds the index anew.
    """
    if manifest.corpus != corpus_digest(postings):
        command = rebuild_command(manifest, folder, model)
        raise ValueError(f"expected the postings that the index {folder} was built from, they have changed; {command}")


def fingerprint(file: Path) -> dict[str, Any]:
    """Return what tells cheaply whether a file has changed: where it is, its size, time and digest."""
    stat = file.stat()
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"path": str(file.resolve()), "size": stat.st_size, "time": stat.st_mtime_ns, "digest": digest}


def has_changed(source: Mapping[str, Any]) -> bool:
    """Whether a file is another than at its `fingerprint`; False if it is not there. It is read if its time is."""
    file = Path(source["path"])
    try:
        stat = file.stat()
        if (stat.st_size, stat.st_mtime_ns) == (source["size"], source["time"]):
            return False
        return bool(stat.st_size != source["size"] or fingerprint(file)["digest"] != source["digest"])
    except OSError:
        return False


def rebuild_command(manifest: Manifest, folder: Path, model: str) -> str:
    """Say what builds an index anew."""
    words = ["python", "-m", "experiments.index", "--out", str(folder), "--model", model, *manifest.command]
    if manifest.engine["name"] != "exact":
        words += ["--engine", manifest.engine["name"]]
    if manifest.engine.get("url"):
        words += ["--url", manifest.engine["url"]]
    if manifest.engine.get("link") is not None:
        words.append("--link" if manifest.engine["link"] else "--no-link")
    return f"{shlex.join(words)} builds it anew"


@contextmanager
def whole(manifest: Manifest, folder: Path, model: str) -> Iterator[None]:
    """Say what builds an index anew where something of it that is read in the block is missing or damaged.

    Raises:
        ValueError: If it is.
    """
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        command = rebuild_command(manifest, folder, model)
        raise ValueError(f"the index {folder} is damaged: {error}; {command}") from error
