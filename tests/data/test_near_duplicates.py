import random
from itertools import combinations

import pytest

from contrastive.data.near_duplicates import near_duplicate_groups, near_duplicates


def grams(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def jaccard(left: str, right: str) -> float:
    return len(grams(left) & grams(right)) / len(grams(left) | grams(right))


def edited(words: list[str], edits: int, generator: random.Random) -> list[str]:
    copy = list(words)
    for place in generator.sample(range(len(copy)), edits):
        copy[place] = f"changed{place}"
    return copy


def test_agrees_with_the_definition_on_texts_edited_more_and_less() -> None:
    generator = random.Random(0)
    texts = []
    for family in range(10):
        words = [f"w{family}x{i}" for i in range(120)]
        texts += [" ".join(edited(words, edits, generator)) for edits in (0, 1, 2, 3, 6, 12)]
    found = near_duplicates(texts, threshold=0.8)
    pairs = {(a, b) for a, b in combinations(range(len(texts)), 2) if jaccard(texts[a], texts[b]) >= 0.8}
    assert {(a, b) for a, others in enumerate(found) for b in others if a < b} == pairs
    assert 20 < len(pairs) < 15 * 10


def test_case_spaces_and_unicode_forms_do_not_matter() -> None:
    assert near_duplicates(["Data  Scientist\nwanted", "data scientist wanted"]) == [{1}, {0}]


def test_short_texts_are_compared_whole() -> None:
    assert near_duplicates(["nurse", "nurse", "chef", ""]) == [{1}, {0}, set(), set()]


def test_threshold_is_obeyed() -> None:
    words = [f"w{i}" for i in range(40)]
    texts = [" ".join(words), " ".join([*words[:-1], "other"])]
    similarity = jaccard(*texts)
    assert near_duplicates(texts, threshold=similarity) == [{1}, {0}]
    assert near_duplicates(texts, threshold=similarity + 1e-6) == [set(), set()]


def test_nothing_in_nothing_out() -> None:
    assert near_duplicates([]) == []


@pytest.mark.parametrize("threshold", [0, -1, 1.1])
def test_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold above 0 and at most 1"):
        near_duplicates([], threshold)


@pytest.mark.parametrize("threshold", [0.8, 0.95])
def test_groups_are_what_the_pairs_tie_together(threshold: float) -> None:
    generator = random.Random(1)
    texts = []
    for family in range(12):
        words = [f"w{family}x{i}" for i in range(60)]
        for _ in range(6):  # a chain: each is edited from the last, the ends may share little
            words = edited(words, 1, generator)
            texts.append(" ".join(words))
    texts += ["nurse", "Nurse", "", "chef"]
    generator.shuffle(texts)
    pairs = near_duplicates(texts, threshold)
    expected = list(range(len(texts)))
    for _ in texts:
        expected = [min(expected[other] for other in {place, *pairs[place]}) for place in range(len(texts))]
    groups = near_duplicate_groups(texts, threshold)
    assert groups == expected
    assert threshold > 0.8 or any(
        groups[a] == groups[b] and b not in pairs[a] for a, b in combinations(range(len(texts)), 2)
    )
    assert len(set(groups)) >= 12 + 3


def test_groups_of_no_texts_and_of_many_copies() -> None:
    assert near_duplicate_groups([]) == []
    assert near_duplicate_groups(["we look for a nurse in Leeds"] * 3000) == [0] * 3000


def test_groups_need_a_threshold_that_can_be() -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1, got 2"):
        near_duplicate_groups([], 2)
