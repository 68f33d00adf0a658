"""Mined negatives on disk: mined once, never out of date."""

import gzip
import threading
import time
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

    def __init__(self, seconds: float = 0.0) -> None:
        self.strategy, self.calls, self.seconds = Mined(BM25()), 0, seconds

    def __call__(self, pool: Pool, moment: Moment = Moment()) -> list[ChosenNegatives]:  # noqa: B008
        self.calls += 1
        time.sleep(self.seconds)
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
    assert "damaged and is made again" in caplog.text


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    strategy = Counting()
    for _ in range(2):
        assert Kept(strategy, tmp_path / "file")(POOL) == Counting()(POOL)
    assert caplog.text.count("which cannot be written") == 1


def test_those_that_want_the_same_wait_for_the_first(tmp_path: Path) -> None:
    strategy = Counting(seconds=0.3)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(Kept(strategy, tmp_path)(POOL))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert strategy.calls == 1
    assert found[0] == found[1] == found[2]


def test_a_failure_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contrastive.negatives.cache.asdict", None)
    with pytest.raises(TypeError):
        Kept(Counting(), tmp_path)(POOL)
    assert not list(tmp_path.glob("*.gz")) + list(tmp_path.glob("*.tmp"))


def test_the_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Kept(Counting()).folder == tmp_path / "contrastive" / "negatives"
