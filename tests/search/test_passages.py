"""Passages: nothing lost, nothing too long, sentences and lines kept together."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrastive.search.passages import one_line, split_passages, title_and_body

SENTENCE = "We look for someone who likes children and long nights in a quiet ward of our hospital."  # 17 words


@given(st.text(), st.integers(1, 30))
def test_nothing_is_lost_and_nothing_is_too_long(text: str, size: int) -> None:
    passages = split_passages(text, size=size)
    assert "".join("".join(passages).split()) == "".join(text.split())
    assert all(0 < len(passage) <= size and passage == passage.strip() for passage in passages)


@given(st.text(), st.integers(1, 30))
def test_a_passage_ends_where_the_next_piece_would_not_fit(text: str, size: int) -> None:
    passages = split_passages(text, size=size)
    for left, right in itertools.pairwise(passages):
        assert len(left) + 1 + len(right) > size


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("One two. Three four! Five?", 20, ["One two. Three four!", "Five?"]),
        ("One two. Three four! Five?", 15, ["One two.", "Three four!", "Five?"]),
        ("- SQL\n- charts\n- R", 14, ["- SQL\n- charts", "- R"]),
        ("one\r\n\n\n  two\tthree\n", 80, ["one\ntwo three"]),
        ("no stops here at all", 10, ["no stops", "here at", "all"]),
        ("full-time night-shift", 10, ["full-time", "night-shif", "t"]),
        ("x" * 25 + " y", 10, ["x" * 10, "x" * 10, "xxxxx y"]),
        ("🙂🙂🙂🙂 🙂", 3, ["🙂🙂🙂", "🙂 🙂"]),
        ("version 2.5 of e.g.this", 80, ["version 2.5 of e.g.this"]),
        (" \n\t\r\n ", 10, []),
        ("", 10, []),
    ],
)
def test_sentences_lines_bullets_and_long_words(text: str, size: int, expected: list[str]) -> None:
    assert split_passages(text, size=size) == expected


def test_a_passage_has_about_forty_words() -> None:
    passages = split_passages(" ".join([SENTENCE] * 20))
    assert len({passage.count(SENTENCE) for passage in passages[:-1]}) == 1
    assert 30 <= len(passages[0].split()) <= 55


def test_a_passage_has_a_size() -> None:
    with pytest.raises(ValueError, match="at least 1 character, got size 0"):
        split_passages("a text", size=0)


@pytest.mark.parametrize(
    ("document", "title", "body"),
    [
        ("Nurse\nNights.\nWards.", "Nurse", "Nights.\nWards."),
        ("\n  Senior \t nurse\r\nNights.", "Senior nurse", "Nights."),
        ("Nurse", "Nurse", "Nurse"),
        ("Nurse\n \n", "Nurse", "Nurse"),
        (" ", "", ""),
        ("t" * 160 + "\nbody", "t" * 160, "body"),
    ],
)
def test_the_first_line_is_the_title_and_the_rest_the_body(document: str, title: str, body: str) -> None:
    assert title_and_body(document) == (title, body)


def test_a_long_first_line_is_cut_for_the_title_and_kept_in_the_body() -> None:
    document = "word " * 40 + "\nlast line"
    title, body = title_and_body(document)
    assert title == ("word " * 32)[:159].rstrip() + "…"
    assert body == document


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Skills\n- SQL\n• R\n\n* C ", "Skills · SQL · R · C"),
        ("a - b\n-5 degrees", "a - b · -5 degrees"),
        ("red\x1b[31m\x07alert\x9b", "redalert"),
        ("👩‍⚕️ nurse", "👩‍⚕️ nurse"),
    ],
)
def test_one_line_of_a_terminal(text: str, expected: str) -> None:
    assert one_line(text) == expected
