"""What counts as a word, and how unknown ones are put right."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import OSA

from contrastive.data import RetrievalTask
from contrastive.evaluation import bm25_rankings
from contrastive.evaluation.bm25 import BM25Index
from contrastive.evaluation.spelling import Spelling, most_edits
from contrastive.evaluation.words import words

WORDS = st.text(alphabet="abcé1", min_size=1, max_size=10)
VOCABULARY = st.dictionaries(WORDS, st.integers(1, 5), max_size=12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("C++ or C#, F# and .NET; C", ["c++", "c#", "f#", ".net", "c"]),
        ("ASP.NET", ["asp", ".net"]),  # which a query for .NET is to find
        ("the internet, a .network", ["internet", "network"]),
        ("R, R&D", ["r", "r", "d"]),
        ("CI/CD Node.js e-mail", ["ci", "cd", "node", "js", "e", "mail"]),
        ("8+ years, 10 people, C++17 #1", ["years", "10", "people", "c++", "17"]),
        ("Žofie, naïve_Bayes", ["žofie", "naïve_bayes"]),
        ("", []),
        ("+ # . / _ 1", []),
    ],
)
def test_words_of_a_text(text: str, expected: list[str]) -> None:
    assert words([text]) == [expected]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(alphabet=string.ascii_letters + string.digits + "é +#./'-", max_size=30), max_size=3))
def test_words_do_not_depend_on_case_and_are_their_own_words(texts: list[str]) -> None:
    found = words(texts)
    assert found == words(text.upper() for text in texts)
    for word in (word for of_text in found for word in of_text):
        assert words([word]) == [[word]]


@settings(deadline=None, max_examples=60)
@given(WORDS, VOCABULARY)
def test_a_word_is_put_right_by_the_nearest_of_the_vocabulary(word: str, vocabulary: dict[str, int]) -> None:
    found = Spelling(vocabulary).put_right(word)
    assert found == Spelling(dict(reversed(vocabulary.items()))).put_right(word)
    near = [
        (OSA.distance(word, other), -count, other)
        for other, count in vocabulary.items()
        if other[0] == word[0] and other.isalpha() and OSA.distance(word, other) <= most_edits(word)
    ]
    if word in vocabulary or not word.isalpha() or not near:
        assert found == word
    else:
        assert found == min(near)[2]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("nrse", "nurse"),  # a letter less
        ("nurrse", "nurse"),  # one more
        ("nuree", "nurse"),  # another
        ("nusre", "nurse"),  # two swapped, which is one edit
        ("nur", "nur"),  # too short
        ("nusrte", "nusrte"),  # two edits need eight letters
        ("expierience", "experience"),
        ("exeriencx", "experience"),  # one missing and another
        ("purse", "purse"),  # begins with another
        ("nurse1", "nurse1"),
        ("c#", "c#"),
        ("walks", "walk"),  # in more documents than wales, which is as near
        ("datas", "datat"),  # by the alphabet, before datav
    ],
)
def test_edits(word: str, expected: str) -> None:
    vocabulary = {"nurse": 2, "experience": 9, "experiences": 1, "wales": 1, "walk": 2, "datav": 1, "datat": 1}
    assert Spelling(vocabulary).put_right(word) == expected


def test_a_text_is_put_right_word_by_word_and_its_stop_words_are_words() -> None:
    spelling = Spelling.of(["A wish for wells: nurse, C++, thus"])
    assert spelling.put_right_text("Nusre with C++ and this will!") == "nurse with C++ and this will!"
    assert spelling.put_right_text("") == ""


DOCUMENTS = st.lists(st.text(alphabet="abc. ", max_size=12), max_size=5)


@settings(deadline=None, max_examples=60)
@given(DOCUMENTS, st.text(alphabet="abc. ", max_size=12))
def test_a_query_of_known_words_scores_the_same(documents: list[str], query: str) -> None:
    plain, index = BM25Index(documents), BM25Index(documents, spelling=True)
    (asked,) = words([query])
    vocabulary = {word for text in words(documents) for word in text}
    put_right = index.put_right(asked)
    assert all(word in vocabulary or word == before for word, before in zip(put_right, asked, strict=True))
    assert plain.put_right(asked) == asked
    assert index.scores(asked).shape == (len(documents),)
    if vocabulary.issuperset(asked):
        assert put_right == asked
        assert index.scores(asked).equal(plain.scores(asked))


def test_unknown_words_of_a_query_find_what_is_meant() -> None:
    corpus = {"a": "a nurse", "b": "nursing", "c": "chef"}
    queries = {"q": "nusre", "r": "cheff, nursign", "s": "", "t": "pilot"}
    task = RetrievalTask("dev", queries, corpus, {})
    assert bm25_rankings(task).documents == {"q": [], "r": [], "s": [], "t": []}
    assert bm25_rankings(task, spelling=True).documents == {"q": ["a"], "r": ["b", "c"], "s": [], "t": []}


@pytest.mark.parametrize("documents", [[], ["", "the"]])
def test_a_corpus_without_words(documents: list[str]) -> None:
    index = BM25Index(documents, spelling=True)
    assert index.put_right(["nurse"]) == ["nurse"]
    assert index.scores(["nurse"]).tolist() == [0.0] * len(documents)
