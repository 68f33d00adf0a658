"""Mined negatives on disk: mined once, never out of date."""

import gzip
from collections.abc import Mapping
from pathlib import Path

import pytest

from contrastive.data import Record
from contrastive.encoder import Encoder
from contrastive.negatives import BM25, ChosenNegatives, Dense, Kept, Mined, Moment, Pool


def pool_of(*texts: str) -> Pool:
    return Pool.of_records(Record(f"python {text}", text, (), f"q{i}", f"d{i}") for i, text in enumerate(texts))


POOL = pool_of("python developer", "python nurse", "a chef", "python data")


class Counting:
    """BM25 that counts how often it is asked."""

    def __init__(self) -> None:
        self.strategy, self.calls = Mined(BM25()), 0

    def __call__(self, pool: Pool, moment: Moment = Moment()) -> list[ChosenNegatives]:  # noqa: B008
        self.calls += 1
        return self.strategy(pool, moment)

    def describe(self, moment: Moment) -> Mapping[str, object]:
        return self.strategy.describe(moment)


def test_the_second_time_negatives_are_read(tmp_path: Path) -> None:
    strategy = Counting()
    first, second = Kept(strategy, tmp_path)(POOL), Kept(strategy, tmp_path)(POOL)
    assert strategy.calls == 1
    assert first == second
    assert first[0].ids
    Kept(strategy, tmp_path)(pool_of("python developer", "python nurse", "a cook", "python data"))
    assert strategy.calls == 2


def test_other_weights_are_mined_again(tmp_path: Path, tiny_encoder: Encoder) -> None:
    kept = Kept(Mined(Dense()), tmp_path)
    first = kept(POOL, Moment(tiny_encoder))
    assert len(list(tmp_path.glob("*.gz"))) == 1
    for parameter in tiny_encoder.parameters():
        parameter.data.mul_(-0.5)
    assert kept(POOL, Moment(tiny_encoder)) != first
    assert len(list(tmp_path.glob("*.gz"))) == 2


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", None, gzip.compress(b"0\n")[:10] + bytes(60), gzip.compress(b"[]\n" * 4)]
)
def test_a_damaged_file_is_made_again(content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    strategy = Counting()
    first = Kept(strategy, tmp_path)(POOL)
    (file,) = tmp_path.glob("*.gz")
    file.write_bytes(file.read_bytes()[:-20] if content is None else content)
    assert Kept(strategy, tmp_path)(POOL) == first
    assert strategy.calls == 2
    assert "damaged and is computed again" in caplog.text


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    strategy = Counting()
    kept = Kept(strategy, tmp_path / "file")
    for _ in range(2):
        assert kept(POOL) == Counting()(POOL)
    assert caplog.text.count("which cannot be written") == 1


def test_mined_negatives_have_a_limit(tmp_path: Path) -> None:
    for text in ("a chef", "a cook"):
        Kept(Counting(), tmp_path, max_bytes=10)(pool_of(text))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failure_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contrastive.negatives.cache.asdict", None)
    with pytest.raises(TypeError):
        Kept(Counting(), tmp_path)(POOL)
    assert not list(tmp_path.glob("*.gz")) + list(tmp_path.glob("*.tmp"))


def test_the_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Kept(Counting()).folder == tmp_path / "contrastive" / "negatives"
